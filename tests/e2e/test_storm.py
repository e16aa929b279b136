"""A small storm of cancelled streams and of clients that die; storm.py is the large one."""

from storm import storm


def test_cancelled_and_killed_clients_leave_nothing_behind(client, server):
    figures = storm(server, cancelled=60, disconnected=40)
    assert (figures["blocks_in_use"], figures["open_requests"]) == (0, 0)

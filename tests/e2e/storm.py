#!/usr/bin/env python3
"""Streams that end badly, at scale: some cancelled at random, others cut off with their process (kill -9).

  storm.py [--cancelled 500] [--disconnected 200]

Starts NIBBLE_BIN with NIBBLE_MODEL, does both, then waits until the server says that nothing is left: no block in use,
no open request, as many requests finished as started. Exit 0 only then. `storm.py --victim HOST:PORT N` is the client
process that is killed: N streams, "ready" once every one of them runs or waits, and then it reads until it dies.
"""

import argparse
import concurrent.futures
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

import conftest  # generates the stubs
import grpc
from client import Client
from nibble_process import NibbleServer, wait_until

ENDLESS = {"max_tokens": 400, "ignore_eos": True}
VICTIM_STREAMS = 20


def cancel_at_random(client, count, seed):
    rng = random.Random(seed)

    def one(number, events):
        call = client.open_stream([504, 282, 260 + number], stopping=ENDLESS)
        try:
            for _ in range(events):
                next(call)
        except (StopIteration, grpc.RpcError):
            pass
        call.cancel()

    plans = [(i, rng.choice([0, 0, 1, 2, 4, 8])) for i in range(count)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda plan: one(*plan), plans))


def victim(target, count):
    client = Client(target)
    calls = [client.open_stream([504, 282, 1000 + i], stopping=ENDLESS) for i in range(count)]
    readers = [
        threading.Thread(target=lambda c=call: [None for _ in c], daemon=True) for call in calls
    ]
    for reader in readers:
        reader.start()
    wait_until(lambda: client.load().running > 0, "a stream to run")
    print("ready", flush=True)
    threading.Event().wait()


def disconnect(target, count):
    """Kills whole client processes in the middle of their streams."""
    for start in range(0, count, VICTIM_STREAMS):
        number = min(VICTIM_STREAMS, count - start)
        child = subprocess.Popen(
            [sys.executable, __file__, "--victim", target, str(number)], stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"ready\n"
        child.kill()
        child.wait()


def storm(server, cancelled, disconnected, seed=20261123):
    """Figures of a server that survived; AssertionError when something is left over."""
    with Client(server.target) as client:
        cancel_at_random(client, cancelled, seed)
        disconnect(server.target, disconnected)
        load = client.wait_idle()

        def settled():
            return server.metric("nibble_requests_started_total") == server.metric(
                "nibble_requests_finished_total"
            )

        wait_until(settled, "started to be the sum of finished")
        assert (
            client.generate(
                [504, 282], stopping={"max_tokens": 2, "ignore_eos": True}
            ).usage.completion_tokens
            == 2
        )
        return {
            "cancelled": cancelled,
            "disconnected": disconnected,
            "blocks_in_use": load.blocks_in_use,
            "open_requests": load.open_requests,
            "started": server.metric("nibble_requests_started_total"),
            "finished": server.metric("nibble_requests_finished_total"),
            "seed": seed,
        }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cancelled", type=int, default=500)
    parser.add_argument("--disconnected", type=int, default=200)
    parser.add_argument("--victim", nargs=2, metavar=("TARGET", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.victim:
        victim(args.victim[0], int(args.victim[1]))
    binary, model = conftest.binary_path(), conftest.model_path()
    if not binary.exists() or not model.exists():
        parser.error(f"needs {binary} and {model}: set NIBBLE_BIN and NIBBLE_MODEL")
    server = NibbleServer(binary, model, pathlib.Path(tempfile.mkdtemp(prefix="nibble-storm-")))
    try:
        figures = storm(server, args.cancelled, args.disconnected)
        server.terminate()
        print(json.dumps({**figures, "exit_code": server.wait()}))
    finally:
        server.stop()


if __name__ == "__main__":
    main()

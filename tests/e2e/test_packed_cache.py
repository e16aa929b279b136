"""--packed-cache: the second start maps what the first packed, says so, and answers the same."""

import json

from nibble_process import NibbleServer, run

ASK = ["--chat", "Name a colour.", "--max-tokens", "16", "--temperature", "0", "--output", "json"]


def weights_line(server):
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "weights"]
    return line, lines


def answer(binary, target):
    done = run(binary, "generate", "--server", target, *ASK)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)["token_ids"]


def test_second_start_maps_the_cache_and_a_damaged_one_is_replaced(binary, model, tmp_path):
    cache = tmp_path / "weights.packed"
    answers, origins = [], []
    for start in range(4):
        if start == 2:  # damage of the disk, in the middle of a weight
            with open(cache, "r+b") as file:
                file.seek(cache.stat().st_size // 2)
                file.write(bytes(range(64)))
        folder = tmp_path / str(start)
        folder.mkdir()
        server = NibbleServer(binary, model, folder, packed_cache=cache)
        try:
            line, lines = weights_line(server)
            assert line["packed_cache"] == str(cache) and line["threads"] == 2 and line["ms"] > 0
            origins.append(line["from"])
            notes = [each["message"] for each in lines if each["event"] == "note"]
            assert any("is damaged" in note for note in notes) == (start == 2), notes
            answers.append(answer(binary, server.target))
        finally:
            server.stop()
    assert origins == ["model file", "packed cache", "model file", "packed cache"]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert not (tmp_path / "weights.packed.partial").exists()


def test_generate_takes_it_from_the_environment(binary, model, tmp_path):
    env = {"NIBBLE_PACKED_CACHE": str(tmp_path)}
    answers = []
    for _ in range(2):
        done = run(binary, "generate", "--model", model, *ASK, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        answers.append(json.loads(done.stdout)["token_ids"])
    assert answers[0] == answers[1]
    assert [path.name for path in tmp_path.iterdir()] == [f"{model.name}.nibble-cpu.packed"]

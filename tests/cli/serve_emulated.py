#!/usr/bin/env python3
"""Serves the small trained model over gRPC from the emulated CUDA device, and compares what it writes with the CPU's.

serve_emulated.py NIBBLE MODEL: NIBBLE is the program linked with the emulator in place of CUDA. Prompts are sent at
once, so that steps have prompt and decode rows of several sequences; each text must be the one of f32 activations on
the CPU.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

PROMPTS = ["In the beginning", "HACKER, n. A person who enjoys", "And it came to pass"]
GREEDY = ["--temperature", "0", "--max-tokens", "12", "--ignore-eos"]
BOUND_S = 240  # for a machine that is busy; what passes takes a fraction


def serving_port(server, port_file):
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end and server.poll() is None:
        if port_file.exists() and (text := port_file.read_text()):
            return json.loads(text)["grpc"]
        time.sleep(0.05)
    sys.exit(f"the server did not come up: {server.poll()}")


def main(nibble, model):
    on_cpu = ["--model", model, "--device", "cpu", "--cpu-activations", "f32", "--max-context", "128"]
    expected = [subprocess.run([nibble, "generate", *on_cpu, *GREEDY, "--prompt", prompt], check=True,
                               capture_output=True, text=True, timeout=BOUND_S).stdout for prompt in PROMPTS]
    with tempfile.TemporaryDirectory() as folder:
        port_file = pathlib.Path(folder) / "port"
        server = subprocess.Popen([nibble, "serve", "--model", model, "--device", "cuda:0", "--listen", "127.0.0.1:0",
                                   "--metrics-listen", "off", "--port-file", str(port_file), "--kv-cache-mib", "4",
                                   "--max-context", "128", "--max-batch-tokens", "32", "--max-running", "8"])
        try:
            target = f"127.0.0.1:{serving_port(server, port_file)}"
            calls = [subprocess.Popen([nibble, "generate", "--server", target, *GREEDY, "--prompt", prompt],
                                      stdout=subprocess.PIPE, text=True) for prompt in PROMPTS]
            got = [call.communicate(timeout=BOUND_S)[0] for call in calls]
        finally:
            server.terminate()
            code = server.wait(timeout=BOUND_S)
    for prompt, cpu, cuda in zip(PROMPTS, expected, got):
        print(f"{prompt!r} -> {cuda!r}" + ("" if cpu == cuda else f", the CPU: {cpu!r}"))
    sys.exit(0 if got == expected and all(got) and code == 0 else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])

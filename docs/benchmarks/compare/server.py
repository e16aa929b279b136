"""One process of `nibble serve` under ghz: prints {"tokens_per_second":.., "whole_run":..} of GenerateStream.

  python -m compare.server --nibble build/nibble --ghz .tools/bin/ghz --model M.gguf --threads 2 --concurrency 32
                           --context 16 --generate 256 --waves 1

A wave is one call a worker, all begun at once. "whole_run" is all tokens through ghz's whole run, from the first call's
start to the last one's end. "tokens_per_second" is of decoding alone, the span of `nibble bench`: the same calls are run
just before with FEW_TOKENS each, and both runs' tokens and times are subtracted, so that connecting and prefill cancel.
Sampling, detokenizing, gRPC and the client's own share of the cores are in both. Prompts are random token ids, each
call's its own, and shorter than one block of the cache, so that no prefix is found there; delta_interval_tokens is 1,
its default: a message a token.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

START_SECONDS = 300  # a bound on hanging, not a measurement
VOCABULARY = 40000  # ids drawn below this exist in both models
FEW_TOKENS = 8  # of the warm-up too: pages are touched, every code path has run


def serve(args, folder):
    """(process, address), once it serves."""
    ports = folder / "ports.json"
    command = [args.nibble, "serve", "--model", args.model, "--threads", str(args.threads), "--listen", "127.0.0.1:0",
               "--metrics-listen", "off", "--port-file", str(ports), "--max-running", str(max(64, args.concurrency)),
               "--log-level", "warning"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(folder / "log", "wb"))
    end = time.monotonic() + START_SECONDS
    while not (ports.exists() and ports.stat().st_size > 0):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise SystemExit(f"nibble serve: did not start\n{(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.05)
    return process, f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"


def requests(calls, context, generate):
    """ghz takes one entry of the list a call, in turn."""
    draw = random.Random(20260101)
    return [
        {
            "token_ids": {"ids": [draw.randrange(100, VOCABULARY) for _ in range(context)]},
            "sampling": {"temperature": 0},
            "stopping": {"max_tokens": generate, "ignore_eos": True},
        }
        for _ in range(calls)
    ]


def load(args, address, folder, calls, generate):
    """ghz's report. It exits 0 when every call failed: the codes are looked at."""
    data, report = folder / "data.json", folder / "report.json"
    data.write_text(json.dumps(requests(calls, args.context, generate)))
    command = [args.ghz, "--insecure", "--call", "nibble.v1.GenerationService/GenerateStream", "-D", str(data),
               "-n", str(calls), "-c", str(args.concurrency), "--connections", str(min(4, args.concurrency)),
               "-t", "600s", "-O", "json", "-o", str(report), address]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(report.read_text())
    if found["statusCodeDistribution"] != {"OK": calls}:
        raise SystemExit(f"ghz: found {found['statusCodeDistribution']}, needed {calls} calls with OK")
    return found


def rates(calls, generate, seconds, few_seconds):
    """What is printed; `few_seconds` is the run of FEW_TOKENS a call. ValueError where no span is left."""
    if generate <= FEW_TOKENS or seconds <= few_seconds:
        raise ValueError(f"{generate} tokens in {seconds:.3f} s, {FEW_TOKENS} in {few_seconds:.3f} s: no decode span")
    return {"tokens_per_second": calls * (generate - FEW_TOKENS) / (seconds - few_seconds),
            "whole_run": calls * generate / seconds}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--nibble", "--ghz", "--model"):
        parser.add_argument(name, required=True)
    for name, default in (("--threads", 2), ("--concurrency", 32), ("--context", 16), ("--generate", 256),
                          ("--waves", 1)):  # fmt: skip
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    calls = args.concurrency * args.waves
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        process, address = serve(args, folder)
        try:
            load(args, address, folder, args.concurrency, FEW_TOKENS)
            spans = [load(args, address, folder, calls, tokens)["total"] / 1e9 for tokens in (FEW_TOKENS, args.generate)]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    print(json.dumps(rates(calls, args.generate, seconds=spans[1], few_seconds=spans[0])))


if __name__ == "__main__":
    os.environ = {k: v for k, v in os.environ.items() if not k.startswith("NIBBLE_")}
    main()

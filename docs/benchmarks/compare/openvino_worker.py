"""One process of OpenVINO GenAI: loads a GGUF, runs passes of prefill and decode, prints the seconds of every step.

  python -m compare.openvino_worker '{"model":..,"threads":2,"properties":{},"batch":1,"context":128,"generate":64,
                                      "passes":3}'

ContinuousBatchingPipeline.step() is one step of the scheduler: the prompts fit one step's token budget, so the first
step (or the first few) is the prefill and each later one decodes a token for every sequence. Stepping by hand is what
separates the two spans; generate() would not. Token ids go in and come out: nothing is detokenized. No prefix cache.
"""

import json
import sys
import time

import numpy as np
import openvino
import openvino_genai

WARM_UP = {"batch": 1, "context": 32, "generate": 4}
KV_GIB = 2  # as OpenVINO keeps 135M's cache, 32 sequences of 8k; far above any row's need


def pipeline(ask):
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = KV_GIB
    scheduler.max_num_batched_tokens = max(256, ask["batch"] * ask["context"])
    scheduler.max_num_seqs = max(64, ask["batch"])
    scheduler.dynamic_split_fuse = False
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": ask["threads"], **ask["properties"]}
    return openvino_genai.ContinuousBatchingPipeline(ask["model"], scheduler, "CPU", properties)


def greedy(tokens):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.do_sample = False
    config.ignore_eos = True
    return config


def run(pipe, random, batch, context, generate):
    """[[seconds, tokens drawn so far], ...], a pair a step. The first token belongs to the prefill: generate + 1 are
    asked for."""
    config = greedy(generate + 1)
    prompts = random.integers(100, 40000, (batch, 1, context), dtype=np.int64)
    handles = [pipe.add_request(i, openvino.Tensor(p), config) for i, p in enumerate(prompts)]
    seconds = []
    before = time.perf_counter()
    while pipe.has_non_finished_requests():
        pipe.step()
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    drawn = [len(handle.read_all()[0].generated_ids) for handle in handles]
    if set(drawn) != {generate + 1}:
        raise SystemExit(f"openvino: sequences ended with {sorted(set(drawn))} tokens, needed {generate + 1}")
    prefill_steps = len(seconds) - generate
    if prefill_steps != 1:
        raise SystemExit(f"openvino: {len(seconds)} steps for {generate} tokens: a step mixed prompts and tokens")
    return [[s, batch * (i + 1)] for i, s in enumerate(seconds)]


def main():
    ask = json.loads(sys.argv[1])
    pipe, random = pipeline(ask), np.random.default_rng(20260101)
    run(pipe, random, **WARM_UP)
    shape = {key: ask[key] for key in ("batch", "context", "generate")}
    print(json.dumps({"passes": [run(pipe, random, **shape) for _ in range(ask["passes"])]}))


if __name__ == "__main__":
    main()

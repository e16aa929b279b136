"""How each engine is asked for one figure: a command to run, and its output read.

All three time the same spans: prefill from the first token in to the logits of the last token out; decode from the
first step after it, the whole step (what is sampled included where the engine samples). Loading, packing, tokenizing
and warming up are outside both. Random tokens; greedy where there is a choice; the end of text is ignored.
"""

import json
import statistics
import sys
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Setting:
    """One way to run an engine. `file` is a key of the model's files ("Q4_1", "Q4_0")."""

    name: str
    file: str
    options: dict = field(default_factory=dict)


class Nibble:
    """`nibble bench`. Serves the file as it is, with its own cache type and with the 8 bits that OpenVINO defaults to."""

    name = "nibble"
    # Those of the first file that the model has: the 1B shape is made as Q4_0 only.
    settings = [
        Setting(name, file, options)
        for file in ("Q4_1", "Q4_0")
        for name, options in (("as it is", {}), ("as it is, 8-bit cache", {"--kv-cache-type": "int8"}))
    ]

    def __init__(self, binary, threads, has_context_flag):
        self._binary, self._threads, self._has_context = binary, threads, has_context_flag

    def command(self, row, setting, file):
        prompt = ["--prompt-tokens", row.context]
        if self._has_context:  # the other span is then not run at all
            prompt = (
                ["--prompt-tokens", row.context, "--no-roofline"]
                if row.test == "prefill"
                else ["--prompt-tokens", 0, "--context", row.context, "--no-roofline"]
            )
        generate = 0 if row.test == "prefill" else row.generate
        options = [text for pair in setting.options.items() for text in pair]
        return [self._binary, "bench", "--model", file, *options, *prompt, "--generate-tokens", generate, "--batch", row.batch,
                "--threads", self._threads, "--repeat", row.passes, "--output", "json"]  # fmt: skip

    def parse(self, out, row):
        """The median of the passes, which `nibble bench` takes itself."""
        for result in json.loads(out)["results"]:
            if result["test"] == row.test and result["batch"] == row.batch:
                return result["tokens_per_second"]["median"]
        raise ValueError(f"nibble bench: no {row.test} of batch {row.batch} in its output")


class LlamaCpp:
    """llama-batched-bench: decodes random tokens and does not sample."""

    name = "llama.cpp"
    settings = [
        Setting("Q4_0 requantized, flash attention", "Q4_0", {"-fa": "on"}),
        Setting("Q4_0 requantized, flash attention, 8-bit cache", "Q4_0", {"-fa": "on", "-ctk": "q8_0", "-ctv": "q8_0"}),
        Setting("Q4_0 requantized, no flash attention", "Q4_0", {"-fa": "off"}),
        Setting("Q4_1 as it is, flash attention", "Q4_1", {"-fa": "on"}),
    ]

    def __init__(self, folder, threads):
        self._binary, self._threads = folder / "llama-batched-bench", threads

    def command(self, row, setting, file):
        options = [text for pair in setting.options.items() for text in pair]
        prompts = ",".join([str(row.context)] * row.passes)  # a length named again is run again
        return [self._binary, "-m", file, "-t", self._threads, "-tb", self._threads, *options,
                "-c", row.batch * (row.context + row.generate), "-b", 2048, "-ub", 512, "-npp", prompts,
                "-ntg", row.generate, "-npl", row.batch, "--output-format", "jsonl"]  # fmt: skip

    def parse(self, out, row):
        passes = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        if len(passes) != row.passes:
            raise ValueError(f"llama-batched-bench: {len(passes)} passes in its output, needed {row.passes}")
        return statistics.median(p["speed_pp" if row.test == "prefill" else "speed_tg"] for p in passes)


class OpenVino:
    """ContinuousBatchingPipeline on the GGUF itself, step by step (openvino_worker.py)."""

    name = "openvino"
    settings = [
        Setting("from Q4_1, its defaults", "Q4_1"),
        Setting("from Q4_1, f32, f16 cache", "Q4_1", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"}),
        Setting("from Q4_0, its defaults", "Q4_0"),
        Setting("from Q4_1, throughput hint, 1 stream", "Q4_1", {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 1}),
    ]

    def __init__(self, threads):
        self._threads = threads

    def command(self, row, setting, file):
        ask = {"model": str(file), "threads": self._threads, "properties": setting.options, "batch": row.batch,
               "context": row.context, "generate": row.generate, "passes": row.passes}  # fmt: skip
        return [sys.executable, "-m", "compare.openvino_worker", json.dumps(ask)]

    def parse(self, out, row):
        """Seconds of every step of every pass; a step that began with no sequence past its prompt is prefill."""
        passes = json.loads(out.splitlines()[-1])["passes"]
        return statistics.median(openvino_rate(p, row) for p in passes)


def openvino_rate(steps, row):
    """Tokens a second of one pass. steps: [[seconds, tokens drawn by all sequences after the step], ...]"""
    first = next(i for i, (_, drawn) in enumerate(steps) if drawn >= row.batch)
    if row.test == "prefill":
        return row.batch * row.context / sum(seconds for seconds, _ in steps[: first + 1])
    drawn = steps[-1][1] - steps[first][1]
    return drawn / sum(seconds for seconds, _ in steps[first + 1 :])

#!/usr/bin/env python3
"""How often nibble's most likely token is float32's: teacher-forced over recorded greedy continuations.

  exactness.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf [--nibble build/nibble] [--llama-lib DIR]
               [--activations int8,f32] [--json FILE]

Protocol: each of the 30 sequences of recorded/ (a prompt and the 64 tokens the float32 reference continues it with,
greedily) is scored in one go, 1,920 positions in all. At each, the engine's most likely token is compared with the
reference's, which is computed again here by reference_model.py. `margin` is how much the reference prefers its own
token to the engine's, in nats: a disagreement at a margin near zero is a coin that fell the other way. llama.cpp (with
--llama-lib) is asked the same. Prints a Markdown table; --json writes the figures.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess

import numpy as np

from reference_model import ReferenceModel, log_softmax

HERE = pathlib.Path(__file__).parent


def nibble_scores(binary, model, ids, activations, extra):
    """[(top-1 id, logprob of the given token)] for every position but the first."""
    command = [
        binary,
        "generate",
        "--model",
        model,
        "--token-ids",
        ",".join(map(str, ids)),
        "--max-tokens",
        "0",
        "--prompt-logprobs",
        "1",
        "--output",
        "json",
        "--cpu-activations",
        activations,
        *extra,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command[:6])[:200]}...: exit {done.returncode}\n{done.stderr[-2000:]}"
        )
    rows = json.loads(done.stdout)["prompt_logprobs"]
    if (
        len(rows) != len(ids)
        or rows[0] is not None
        or [r["token_id"] for r in rows[1:]] != list(ids[1:])
    ):
        raise RuntimeError(
            f"prompt_logprobs has {len(rows)} entries that are not the {len(ids)} given tokens"
        )
    return [(r["top"][0]["token_id"], r["logprob"]) for r in rows[1:]]


def peer_scores(peer, ids):
    rows = log_softmax(peer.logits(ids))
    return [(int(rows[i].argmax()), float(rows[i, ids[i + 1]])) for i in range(len(ids) - 1)]


class Tally:
    """Adds up one engine's differences from the reference."""

    def __init__(self, name):
        self.name, self.positions, self.same, self.differences, self.deltas = name, 0, 0, [], []

    def add(self, reference, targets, scores):
        """reference [n, vocab] log-probabilities; targets [n]; scores [n] (top-1, logprob of the target)."""
        for row, target, (top, logprob) in zip(reference, targets, scores):
            self.positions += 1
            self.deltas.append(abs(logprob - float(row[target])))
            best = int(row.argmax())
            if top == best:
                self.same += 1
            else:
                self.differences.append(float(row[best] - row[top]))

    def figures(self):
        d = sorted(self.differences)
        return {
            "engine": self.name,
            "positions": self.positions,
            "same": self.same,
            "agreement": self.same / self.positions,
            "max_logprob_difference": max(self.deltas),
            "mean_logprob_difference": float(np.mean(self.deltas)),
            "margins_at_differences": [round(x, 4) for x in d],
        }


def markdown(rows):
    lines = [
        "| engine | positions | same top-1 | agreement | mean / max difference of the token's logprob | "
        "reference's margin where they differ (median / max) |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        margins = r["margins_at_differences"] or [0.0]
        lines.append(
            f"| {r['engine']} | {r['positions']} | {r['same']} | {100 * r['agreement']:.2f} % | "
            f"{r['mean_logprob_difference']:.5f} / {r['max_logprob_difference']:.5f} | "
            f"{np.median(margins):.3f} / {margins[-1]:.3f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--activations", default="int8,f32", help="paths to score; empty: none")
    parser.add_argument(
        "--nibble-args", default="", help="more flags for nibble generate, such as --cpu-isa=avx2"
    )
    parser.add_argument("--llama-lib", help="folder of libllama.so: scores llama.cpp too")
    parser.add_argument("--sequences", type=int, default=30, help="fewer for a quick look")
    parser.add_argument("--minimum", default="", help="int8=0.985,f32=0.999: exit 1 below")
    parser.add_argument("--json")
    args = parser.parse_args()
    recorded = json.loads((HERE / "recorded" / "smollm2_135m_q4_1.json").read_text())
    if (
        hashlib.sha256(pathlib.Path(args.model).read_bytes()).hexdigest()
        != recorded["model_sha256"]
    ):
        parser.error(f"{args.model} is not the file the continuations were recorded with")
    reference = ReferenceModel(args.model)
    paths = [a for a in args.activations.split(",") if a]
    tallies = {a: Tally(f"nibble, {a} activations") for a in paths}
    peer = None
    if args.llama_lib:
        from llama_peer import LlamaPeer

        peer, tallies["llama.cpp"] = LlamaPeer(args.llama_lib, args.model), Tally("llama.cpp")
    for sequence in recorded["sequences"][: args.sequences]:
        ids, start = sequence["prompt"] + sequence["greedy"], len(sequence["prompt"]) - 1
        truth = log_softmax(reference.logits(ids, first=start)[:-1])
        for path in paths:
            scores = nibble_scores(args.nibble, args.model, ids, path, args.nibble_args.split())
            tallies[path].add(truth, sequence["greedy"], scores[start:])
        if peer:
            tallies["llama.cpp"].add(truth, sequence["greedy"], peer_scores(peer, ids)[start:])
    rows = [t.figures() for t in tallies.values()]
    print(markdown(rows))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    for limit in filter(None, args.minimum.split(",")):
        path, least = limit.split("=")
        if tallies[path].same < float(least) * tallies[path].positions:
            raise SystemExit(
                f"{path}: {tallies[path].same} of {tallies[path].positions}, at least {least} is needed"
            )


if __name__ == "__main__":
    main()

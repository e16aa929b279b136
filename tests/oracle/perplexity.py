#!/usr/bin/env python3
"""Perplexity of one file on one text by nibble, by llama.cpp and by the float32 reference, under one protocol.

  perplexity.py --model M --text F [--nibble build/nibble] [--llama-bin DIR] [--reference] [--json FILE]

Protocol (llama-perplexity's own): the whole text is tokenized without parsing special tokens and cut into windows of
512 ids, the tail dropped. Each window starts from an empty cache. Targets at positions 257 to 511 of a window count
(255 of them), so that every one has at least 257 tokens before it. BOS replaces the first id of a window where the
file says add_bos, and nowhere else: SmolLM2's says no. Perplexity is exp of the mean negative natural logarithm.
`nibble eval perplexity --window 512 --skip half` is the same protocol; --skip N asks for targets N to 511.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess


def nibble_perplexity(binary, model, text, window, skip, activations, extra):
    command = [
        binary,
        "eval",
        "perplexity",
        "--model",
        model,
        "--text",
        text,
        "--window",
        str(window),
        "--skip",
        skip,
        "--cpu-activations",
        activations,
        "--output",
        "json",
        *extra,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def llama_perplexity(folder, model, text, window, threads):
    command = [
        f"{folder}/llama-perplexity",
        "-m",
        model,
        "-f",
        text,
        "-c",
        str(window),
        "-b",
        str(window),
        "-t",
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    found = re.search(r"Final estimate: PPL = ([0-9.]+) \+/- ([0-9.]+)", output)
    if not found:
        raise RuntimeError(f"{' '.join(command)}: no estimate in its output\n{output[-2000:]}")
    return {"perplexity": float(found[1]), "standard_error": float(found[2])}


def reference_perplexity(binary, model, text, window, first):
    """Float32 over the dequantized weights. The ids are nibble's: what is compared is arithmetic, not tokenizing."""
    from reference_model import ReferenceModel, log_softmax

    with open(text, encoding="utf-8") as f:
        done = subprocess.run(
            [binary, "tokenize", "--model", model], stdin=f, stdout=subprocess.PIPE, check=True
        )
    ids, reference = json.loads(done.stdout), ReferenceModel(model)
    bos = (
        reference.meta["tokenizer.ggml.bos_token_id"]
        if reference.meta.get("tokenizer.ggml.add_bos_token")
        else None
    )
    total = count = 0
    for start in range(0, len(ids) - window + 1, window):
        chunk = ids[start : start + window]
        if bos is not None:
            chunk = [bos] + chunk[1:]
        rows = log_softmax(reference.logits(chunk, first=first - 1)[:-1])
        total -= sum(float(row[token]) for row, token in zip(rows, chunk[first:]))
        count += window - first
    return {
        "perplexity": math.exp(total / count),
        "nll": total / count,
        "tokens": count,
        "windows": len(ids) // window,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--activations", default="int8,f32")
    parser.add_argument("--nibble-args", default="", help="more flags for nibble eval")
    parser.add_argument("--skip", default="half", help="as nibble takes it; others have only half")
    parser.add_argument("--llama-bin", help="folder of llama-perplexity")
    parser.add_argument("--reference", action="store_true", help="compute in numpy too: minutes")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = {}
    for path in filter(None, args.activations.split(",")):
        rows[f"nibble, {path} activations"] = nibble_perplexity(
            args.nibble,
            args.model,
            args.text,
            args.window,
            args.skip,
            path,
            args.nibble_args.split(),
        )
    if args.llama_bin:
        rows["llama.cpp"] = llama_perplexity(
            args.llama_bin, args.model, args.text, args.window, args.threads
        )
    if args.reference:
        first = args.window // 2 + 1 if args.skip == "half" else int(args.skip)
        rows["float32 reference"] = reference_perplexity(
            args.nibble, args.model, args.text, args.window, first
        )
    against = next(name for name in ("llama.cpp", "float32 reference", *rows) if name in rows)
    print(f"| engine | perplexity | against {against} | scored tokens |\n|---|---|---|---|")
    for name, row in rows.items():
        change = 100 * (row["perplexity"] / rows[against]["perplexity"] - 1)
        print(f"| {name} | {row['perplexity']:.4f} | {change:+.3f} % | {row.get('tokens', '')} |")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

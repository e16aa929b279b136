#!/usr/bin/env python3
"""What each type costs on a model: quantizes it to every type and compares the distributions with the source's.

  quantization.py --model tiny-f16.gguf --text eval.txt [--calibration calib.txt] [--nibble build/nibble]
                  [--types q4_0,q4_k_m] [--bars bars.json] [--json FILE]

Protocol: `nibble eval divergence`, windows of 512 that begin with BOS, targets at positions 1 to 511, float32
activations on both sides. Types are written with --pure (every matrix of that type, embedding and output too) but for
the mixes (q3_k_m ...). With --calibration each type is written a second time, weighted by importance. `bars.json` maps a
type to a mean KL to compare with. Prints a Markdown table.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

TYPES = "q8_0,q6_k,q5_k,q5_1,q5_0,q4_k,q4_1,q4_0,iq4_nl,iq4_xs,mxfp4,q3_k,q2_k,q5_k_m,q4_k_m,q4_k_s,q3_k_m,q2_k_mix"
# A k-quant alone has no name of its own: pure, every mix of it is the same file.
PURE = {"q5_k": "q5_k_s", "q4_k": "q4_k_s", "q3_k": "q3_k_s", "q2_k": "q2_k"}
MIXES = {"q5_k_m", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k_mix"}


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def measure(args, name, imatrix, folder):
    output = str(folder / f"{name}{'-im' if imatrix else ''}.gguf")
    command = [args.nibble, "quantize", "--model", args.model, "--output", output, "--output-format", "json"]
    command += ["--type", name.removesuffix("_mix")] if name in MIXES else ["--type", PURE.get(name, name), "--pure"]
    command += ["--imatrix", imatrix] if imatrix else []
    written = run(command)
    eval_command = [args.nibble, "eval", "divergence", "--base-model", args.model, "--model", output]
    eval_command += ["--text", args.text, "--window", "512", "--skip", "1", "--bos", "always"]
    eval_command += ["--cpu-activations", "f32", "--output", "json"]
    found = run(eval_command)
    return {
        "type": name,
        "imatrix": bool(imatrix),
        "bits_per_weight": written["bits_per_weight"],
        "bytes": written["output_bytes"],
        "perplexity": found["perplexity"]["candidate"],
        "base_perplexity": found["perplexity"]["base"],
        "kl": found["kl"]["mean"],
        "kl_error": found["kl"]["standard_error"],
        "top1": found["top1_agreement"]["percent"],
    }


def line(row, bars):
    bar = bars.get(row["type"])
    against = f"{bar:.5f} | {row['kl'] / bar:.3f}" if bar else "- | -"
    name = row["type"] + (" + importance" if row["imatrix"] else "")
    change = 100 * (row["perplexity"] / row["base_perplexity"] - 1)
    return (
        f"| {name} | {row['bits_per_weight']:.3f} | {row['bytes']:,} | {row['perplexity']:.4f} | {change:+.2f} | "
        f"{row['kl']:.5f} ± {row['kl_error']:.5f} | {against} | {row['top1']:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibration")
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--bars")
    parser.add_argument("--json")
    args = parser.parse_args()
    bars = json.loads(pathlib.Path(args.bars).read_text()) if args.bars else {}
    print("| type | bits a weight | bytes | perplexity | change, % | KL mean, nats | bar | KL / bar | same top-1, % |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        imatrix = None
        if args.calibration:
            imatrix = str(folder / "imatrix.gguf")
            command = [args.nibble, "quantize", "--model", args.model, "--type", "q8_0", "--dry-run"]
            run(command + ["--calibration", args.calibration, "--imatrix-output", imatrix, "--output-format", "json"])
        for kind in args.types.split(","):
            for importance in [None, imatrix] if imatrix else [None]:
                rows.append(measure(args, kind, importance, folder))
                print(line(rows[-1], bars), flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Has `transformers` load whole folders that nibble wrote, on the CPU, and compares what the models say with nibble.

    pip install -r requirements-compare.txt    # as compare_written.py says
    python load_written.py --nibble build/nibble --model tests/data/tiny/tiny-f16.gguf --calibration tests/data/tiny/calib.txt
        --text tests/data/eval.txt [--only gptq,nf4] [--json FILE]

Each folder is written by `nibble quantize`, opened by AutoModelForCausalLM and AutoTokenizer in a process of its own, and
scored on windows of 128 ids that begin with BOS, targets at positions 1 to 127: the protocol of `nibble eval perplexity
--window 128 --bos always --skip 1`, which reads the same folder with f32 activations. A folder whose loader refuses it
without a GPU is reported with the loader's own words.
"""
import argparse
import importlib.metadata
import json
import math
import pathlib
import subprocess
import sys
import tempfile

WINDOW = 128
CALIBRATED = ["--calibration-windows", "24"]
# name, --layout, --method, --scheme; whether it needs --calibration
FOLDERS = [
    ("plain", "plain", None, None, False),
    ("gptq", "gptq", "gptq", "int4-full-g64", True),
    ("gptq-v2", "gptq-v2", "gptq", "int4-asym-g128", True),
    ("awq", "awq", "awq", "int4-asym-g64", True),
    ("compressed-tensors int4", "compressed-tensors", "rtn", "int4-sym-g128", False),
    ("compressed-tensors int4, zero points", "compressed-tensors", "rtn", "int4-asym-g64", False),
    ("compressed-tensors e4m3", "compressed-tensors", "rtn-e4m3-channel", None, False),
    ("compressed-tensors w8a8", "compressed-tensors", "smoothquant", None, True),
    ("bitsandbytes nf4, double", "bitsandbytes", "rtn-nf4-b64-dq", None, False),
    ("bitsandbytes int8", "bitsandbytes", "llm-int8", None, False),
    ("fp8 by tensor", "fp8", "rtn-e4m3-tensor", None, False),
    ("fp8 by block", "fp8", "rtn-e4m3-block", None, False),
]
PACKAGES = ("transformers", "torch", "compressed-tensors", "bitsandbytes", "gptqmodel")


def score(folder, text):
    """In a process of its own: loads the folder, prints {"ids", "perplexity"}."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    for module in model.modules():  # of the loaders some leave these in f16, whatever they are asked for
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)) and getattr(module, "weight", None) is not None and module.weight.dtype == torch.float16:
            module.weight.data = module.weight.data.float()
        if getattr(module, "compute_dtype", None) == torch.float16:
            module.compute_dtype = torch.float32
    for id, token in tokenizer.added_tokens_decoder.items():  # those of the model, not numbered anew
        assert tokenizer.convert_tokens_to_ids(token.content) == id
    assert tokenizer.bos_token_id == model.config.bos_token_id, (tokenizer.bos_token_id, model.config.bos_token_id)
    ids = [tokenizer.bos_token_id, *tokenizer(pathlib.Path(text).read_text(), add_special_tokens=False)["input_ids"]]
    total, scored = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            window = torch.tensor([[tokenizer.bos_token_id, *ids[start + 1:start + WINDOW]]])
            logits = torch.log_softmax(model(window).logits[0].double(), -1)
            total -= logits[:-1].gather(1, window[0, 1:, None]).sum().item()
            scored += WINDOW - 1
    linear = type(model.model.layers[0].mlp.up_proj).__name__
    print(json.dumps({"tokens": scored, "perplexity": math.exp(total / scored), "linear": linear}))


def write(args, row, folder):
    name, layout, method, scheme, calibrated = row
    command = [args.nibble, "quantize", "--model", args.model, "--output", folder, "--layout", layout]
    command += ["--method", method] if method else []
    command += ["--scheme", scheme] if scheme else []
    command += ["--calibration", args.calibration, *CALIBRATED] if calibrated else []
    subprocess.run(command, check=True, capture_output=True)


def ours(args, folder, text):
    command = [args.nibble, "eval", "perplexity", "--model", folder, "--text", text, "--window", str(WINDOW), "--skip", "1"]
    command += ["--bos", "always", "--cpu-activations", "f32", "--output", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def reason(stderr):
    """The last line that an exception wrote."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "ended without a word"


def compare(args, row, scratch):
    folder, text = pathlib.Path(scratch, row[0].replace(" ", "_").replace(",", "")), pathlib.Path(scratch, "text.txt")
    write(args, row, folder)
    mine = ours(args, folder, text)
    done = subprocess.run([sys.executable, __file__, "--score", folder, text], capture_output=True, text=True)
    out = {"folder": row[0], "nibble": mine["perplexity"]}
    if done.returncode != 0:
        return out | {"refused": reason(done.stderr)}
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["tokens"] == mine["tokens"], (theirs, mine)
    off = 100 * (mine["perplexity"] / theirs["perplexity"] - 1)
    return out | {"transformers": theirs["perplexity"], "off_percent": off, "linear": theirs["linear"], "tokens": mine["tokens"]}


def show(row):
    if "refused" in row:
        return f"| {row['folder']} | {row['nibble']:.4f} | - | - | {row['refused']} |"
    return f"| {row['folder']} | {row['nibble']:.4f} | {row['transformers']:.4f} | {row['off_percent']:+.4f} | {row['linear']} |"


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--nibble", "--model", "--calibration", "--text"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--bytes", type=int, default=6000, help="of the text")
    parser.add_argument("--only", help="names, separated by commas; others are left out")
    parser.add_argument("--json")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else None
    rows = []
    print("| folder | nibble | transformers | nibble / transformers, % | its linear, or why not |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        pathlib.Path(scratch, "text.txt").write_bytes(pathlib.Path(args.text).read_bytes()[:args.bytes])
        for row in FOLDERS:
            if wanted and row[0] not in wanted:
                continue
            rows.append(compare(args, row, scratch))
            print(show(rows[-1]), flush=True)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    print(versions)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--score"]:
        score(*sys.argv[2:4])
    else:
        main()

#!/usr/bin/env python3
"""KL and perplexity against bits a weight, of every method that `nibble eval table` compared.

  nibble eval table --model f16.gguf --text eval.txt --calibration calib.txt --output json > table.json
  python docs/benchmarks/plot_table.py table.json table.png

The KL's axis is logarithmic, with one standard error; methods without a KL (the model as it is) are left out of it.
The families are told apart by their names' first word.
"""

import argparse
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

MARKS = "os^Dv*XP"


def families(rows):
    """{"gptq": [row, ..]}, in the order they first appear."""
    found = {}
    for row in rows:
        found.setdefault(row["method"].split("-")[0], []).append(row)
    return found


def plot(report, path):
    compared = [row for row in report["rows"] if row["kl"]["mean"] > 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), dpi=120)
    for i, (family, rows) in enumerate(families(compared).items()):
        bits = [row["bits_per_weight"] for row in rows]
        style = {"fmt": MARKS[i % len(MARKS)], "color": f"C{i % 10}", "label": family}
        errors = [row["kl"]["standard_error"] for row in rows]
        left.errorbar(bits, [row["kl"]["mean"] for row in rows], yerr=errors, **style)
        right.errorbar(bits, [row["perplexity"] for row in rows], **style)
    left.set(xlabel="bits a weight", ylabel="KL from the model, nats a token", yscale="log")
    right.axhline(report["rows"][0]["perplexity"], color="grey", linewidth=1)
    right.set(xlabel="bits a weight", ylabel="perplexity (line: the model's)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="what `nibble eval table --output json` printed")
    parser.add_argument("picture", help="a file to write: .png, .svg, .pdf")
    arguments = parser.parse_args()
    with open(arguments.table, encoding="utf-8") as file:
        plot(json.load(file), arguments.picture)


if __name__ == "__main__":
    main()

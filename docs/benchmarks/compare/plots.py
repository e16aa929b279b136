"""Throughput against batch and against context, and a roofline, as PNG."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from compare.rows import RATE, SMOLLM  # noqa: E402
from compare.series import limits_of, points_of, series  # noqa: E402

STYLE = {"nibble": ("o-", "C0"), "llama.cpp": ("s--", "C1"), "openvino": ("^:", "C2")}


def lines(path, data, x_label, title):
    figure, axes = plt.subplots(figsize=(6.4, 4), dpi=120)
    for engine, points in data.items():
        x, median, low, high = zip(*points)
        marks, colour = STYLE.get(engine, ("x-", "C3"))
        axes.plot(x, median, marks, color=colour, label=engine)
        axes.fill_between(x, low, high, color=colour, alpha=0.15)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({p[0] for points in data.values() for p in points}))
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.set(xlabel=x_label, ylabel="tokens/s, all sequences", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def roofline(path, bench):
    """False when the JSON has nothing to draw."""
    points, limits = points_of(bench), limits_of(bench)
    if not points or limits is None:
        return False
    bandwidth, peak = limits
    figure, axes = plt.subplots(figsize=(6.4, 4), dpi=120)
    x = sorted([*(2.0**e for e in range(-1, 12)), peak / bandwidth])
    axes.plot(x, [min(peak, bandwidth * v) for v in x], "k-", label=f"{bandwidth:.0f} GB/s, {peak:,.0f} GMAC/s")
    for label, intensity, rate in points:
        axes.plot([intensity], [rate], "o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="MACs a byte", ylabel="GMAC/s", title="nibble on the roofline this machine was measured to have")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return True


def draw(folder, rows, summaries, bench):
    """The names of what was drawn."""
    drawn = []
    plain = [r for r in rows if r.model == SMOLLM and r.kind == RATE and r.test == "decode"]
    for name, across, keep, label in (
        ("batch", "batch", lambda r: r.context == 128, "sequences together, context 128"),
        ("context", "context", lambda r: r.batch == 1, "context, 1 sequence"),
    ):
        data = series(plain, summaries, across, keep)
        if max((len(points) for points in data.values()), default=0) > 1:
            lines(folder / f"{name}.png", data, label, f"decode, throughput against {name}")
            drawn.append(f"{name}.png")
    if bench and roofline(folder / "roofline.png", bench):
        drawn.append("roofline.png")
    return drawn

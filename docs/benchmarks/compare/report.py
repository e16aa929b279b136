"""The Markdown of a run."""

from compare.rows import SHARE

VERDICTS = {"aim": "aim", "floor": "floor", "below": "**below**", None: ""}


def figure(value, kind):
    if kind == SHARE:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def cell(found, kind):
    """median (min-max), or a dash."""
    if found is None:
        return "-"
    return f"{figure(found['median'], kind)} ({figure(found['min'], kind)}-{figure(found['max'], kind)})"


def line(cells):
    return "| " + " | ".join(cells) + " |"


def table(summaries, engines):
    head = ["row", *engines, "nibble / best peer", "floor", "aim", "reached"]
    lines = [line(head), "|" + "---|" * len(head)]
    for s in summaries:
        ratio = s["ratio"]
        told = f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}), {s['peer']}" if ratio else "-"
        lines.append(line([s["title"], *(cell(s["engines"].get(e), s["kind"]) for e in engines), told,
                           *("" if s[k] is None else f"{s[k]:g}" for k in ("floor", "aim")),
                           VERDICTS[s["verdict"]]]))  # fmt: skip
    return "\n".join(lines)


def settings_table(trials, chosen):
    """trials: {row: {engine: {setting: [figure]}}}; chosen: {row: {engine: setting}}."""
    lines = [line(["row", "engine", "setting", "tried, tokens/s", "used"]), "|---|---|---|---|---|"]
    for row, engines in trials.items():
        for engine, tried in engines.items():
            for name, values in tried.items():
                used = "yes" if chosen[row][engine] == name else ""
                lines.append(line([row, engine, name, ", ".join(f"{v:,.1f}" for v in values), used]))
    return "\n".join(lines)


def document(run):
    """run: what __main__ writes as JSON."""
    machine, noise = run["machine"], run["noise"]
    quiet = "quiet" if noise["quiet"] else "NOT QUIET: do not publish these ratios"
    parts = [
        "# nibble beside its CPU peers",
        f"`{run['command']}`, {run['date']}, {run['minutes']:.0f} minutes.",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {' '.join(machine['isa'])}, Linux "
        f"{machine['kernel']}; {run['threads']} threads; {run['rounds']} interleaved rounds, the order rotated. Load "
        f"before: {machine['load_before']}, stolen time: {noise['steal']:.1%}: {quiet}.",
        "\n".join(f"- {engine}: {version}" for engine, version in run["versions"].items()),
    ]
    parts += [f"Missing: {engine}: {why}" for engine, why in run["missing"].items()]
    parts += [
        "Tokens a second, all sequences together: median (smallest-largest) of the rounds. Ratio: the median of the "
        "in-round ratios to each peer, the smaller of them.",
        table(run["summaries"], run["engines"]),
    ]
    if run["failures"]:
        parts.append("Failed:\n" + "\n".join(f"- {f}" for f in run["failures"]))
    if run["trials"]:
        parts += ["## Settings tried", "Before the rounds; the fastest by its best trial is used.",
                  settings_table(run["trials"], run["chosen"])]  # fmt: skip
    if run["commands"]:
        parts += ["## Commands", "```sh\n" + "\n".join(run["commands"]) + "\n```"]
    return "\n\n".join(parts) + "\n"

"""What the plots draw, out of summaries and of `nibble bench`'s JSON. Pure functions, without matplotlib."""


def series(rows, summaries, across, keep):
    """{engine: [(x, median, min, max), ...]} of decode rates, x ascending."""
    lines = {}
    by_name = {s["row"]: s for s in summaries}
    for row in rows:
        if row.name not in by_name or not keep(row):
            continue
        for engine, found in by_name[row.name]["engines"].items():
            lines.setdefault(engine, []).append((getattr(row, across), found["median"], found["min"], found["max"]))
    return {engine: sorted(points) for engine, points in lines.items()}


def points_of(bench):
    """[(label, MACs a byte, GMAC/s)] of `nibble bench --output json`; empty where it has no roofline column."""
    found = []
    for r in bench["results"]:
        roofline = r.get("roofline")
        if roofline and roofline["bytes"] > 0:
            label = f"{r['test']}, batch {r['batch']}, context {r['context'] or r['prompt_tokens']}"
            found.append((label, roofline["macs"] / roofline["bytes"], roofline["gmac_per_s"]))
    return found


def limits_of(bench):
    """(GB/s, GMAC/s) this machine was measured to reach, or None."""
    machine = bench["machine"]
    if machine.get("bandwidth_gb_per_s") and machine.get("peak_gmac_per_s"):
        return machine["bandwidth_gb_per_s"], machine["peak_gmac_per_s"]
    return None

"""From the rounds to the table's figures. Pure functions."""

import statistics

from compare.rows import RATE


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours, theirs):
    """In-round ratios. REQUIRES: the lists have the same rounds."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def summarize(row, rounds):
    """rounds: [{engine: figure}, ...], every engine in every round.

    "ratio" is to the best peer: for each peer the median of the in-round ratios, of these the smallest. A row of shares
    has no ratio: what counts there is nibble's own share. "verdict": None where there is no floor or no nibble.
    """
    engines = list(rounds[0]) if rounds else []
    figures = {engine: [r[engine] for r in rounds] for engine in engines}
    result = {"row": row.name, "title": row.title, "kind": row.kind, "floor": row.floor, "aim": row.aim,
              "engines": {e: spread(v) for e, v in figures.items()}, "ratio": None, "peer": None}  # fmt: skip
    counts = None
    if "nibble" in figures and row.kind == RATE:
        against = {e: spread(ratios(figures["nibble"], v)) for e, v in figures.items() if e != "nibble"}
        result["against"] = against
        if against:
            result["peer"] = min(against, key=lambda e: against[e]["median"])
            result["ratio"] = against[result["peer"]]
            counts = result["ratio"]["median"]
    elif "nibble" in figures:
        counts = result["engines"]["nibble"]["median"]
    result["verdict"] = verdict(counts, row.floor, row.aim)
    return result


def verdict(value, floor, aim):
    if value is None or floor is None:
        return None
    if aim is not None and value >= aim:
        return "aim"
    return "floor" if value >= floor else "below"


def best_setting(trials):
    """trials: {setting name: [figure, ...]}; the name whose best figure is highest, the first of equals."""
    return max(trials, key=lambda name: max(trials[name]))

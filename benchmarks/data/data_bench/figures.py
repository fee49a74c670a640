"""The figures of a campaign, and its line of JSON."""

from statistics import median
from typing import Any

CALM = 10.0
"""Percent of the CPU that other programs may take."""


def result_line(document: dict[str, Any]) -> dict[str, Any]:
    """Return what a campaign found."""
    whole, turns, megabytes = document["all"], document["turns"], document["megabytes"]
    ratios = [turn["peer"]["wall_s"] / turn["ours"]["wall_s"] for turn in turns]
    cpu_ratios = [turn["peer"]["cpu_s"] / turn["ours"]["cpu_s"] for turn in turns]
    readings = [whole, *(turn[role] for turn in turns for role in ("ours", "peer"))]
    return {
        "mb_per_s": round(megabytes["all"] / whole["wall_s"], 2),
        "tokens_per_s": round(whole["tokens"] / whole["wall_s"]),
        "peak_memory_mb": round(whole["peak_mb"]),
        "ratio_to_datasets_map": round(median(ratios), 2),
        "ratio_to_datasets_map_cpu": round(median(cpu_ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "megabytes": {name: round(size) for name, size in megabytes.items()},
        "rows": whole["read"],
        "tokens": whole["tokens"],
        "duplicates": whole["duplicates"],
        "equal_rows": document["equal_rows"],
        "contenders": {role: _contender(turns, role, megabytes["sample"]) for role in ("ours", "peer")},
        "calm": all(reading["others_cpu_percent"] <= CALM for reading in readings),
        "settings": document["settings"],
        "commit": document["commit"],
        "machine": document["machine"],
    }


def _contender(turns: list[dict[str, Any]], role: str, megabytes: float) -> dict[str, Any]:
    found = [turn[role] for turn in turns]
    wall = median(one["wall_s"] for one in found)
    return {
        "mb_per_s": round(megabytes / wall, 2),
        "tokens_per_s": round(median(one["tokens"] for one in found) / wall),
        "wall_s": round(wall, 1),
        "cpu_s": round(median(one["cpu_s"] for one in found), 1),
        "peak_memory_mb": round(max(one["peak_mb"] for one in found)),
    }

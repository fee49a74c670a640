"""The figures of a campaign: ratios of speed and memory, what the loop costs, and how far the losses are apart.

Every pass of every contender trains the same rows, so a ratio of throughputs is the inverse ratio of times. It is
taken pass by pass, between neighbours in time, and the median counts; `spread` holds the least and the greatest. The
first pass warms up, where there are more: in it a process takes its memory from the system.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Document = dict[str, Any]
PEERS = {"lora": ("trl_packed", "trl_default"), "full": ("trl_packed",), "qlora": ("trl_packed",)}
CALM = 10.0
"""Percent of the CPU time that other programs may take in a turn: above it, the machine was busy."""


def result_line(document: Document) -> Document:
    """Return the one line that a campaign ends in; what was not measured is null."""
    methods = document["methods"]
    return {
        **_ratios(methods),
        "peak_memory_ratio": memory_ratio(methods),
        "loop_overhead_pct": overhead(document.get("overhead")),
        "loop_overhead_pct_cpu": overhead(document.get("overhead"), "cpu_pairs"),
        "loss_gap": loss_gap(methods),
        "contenders": {method: _contenders(methods[method], document["rows"]) for method in methods},
        "spread": _spreads(methods) | {"loop_overhead_pct": overhead_spread(document.get("overhead"))},
        "calm": is_calm(methods),
        "rows": document["rows"],
        "settings": document["settings"],
        "commit": document["commit"],
        "machine": document["machine"],
    }


def ratios(ours: Document, peer: Document, clock: str) -> list[float]:
    """Return how many times faster ours is than a peer, pass by pass, by `wall_s` or `cpu_s`."""
    pairs = zip(measured(ours), measured(peer), strict=True)
    return [theirs[clock] / mine[clock] for mine, theirs in pairs]


def measured(told: Document) -> list[Document]:
    """Return the passes of a contender that count."""
    turns: list[Document] = told["turns"]
    return turns[1:] or turns


def _ratios(methods: Document) -> Document:
    found: Document = {}
    for method, peers in PEERS.items():
        for peer in peers:
            for clock, ending in (("wall_s", ""), ("cpu_s", "_cpu")):
                values = _pairs(methods, method, peer, clock)
                found[f"{method}_ratio_vs_{peer}{ending}"] = round(median(values), 3) if values else None
    return found


def _spreads(methods: Document) -> Document:
    names = {f"{method}_ratio_vs_{peer}": (method, peer) for method, peers in PEERS.items() for peer in peers}
    values = {name: _pairs(methods, *who, "wall_s") for name, who in names.items()}
    return {name: ends(found) for name, found in values.items() if found}


def _pairs(methods: Document, method: str, peer: str, clock: str) -> list[float]:
    found = methods.get(method, {})
    return ratios(found["ours"], found[peer], clock) if peer in found else []


def memory_ratio(methods: Document) -> float | None:
    """Return the greatest ratio over the methods of our peak memory to that of packed TRL, which too recomputes
    nothing."""
    both = [found for found in methods.values() if "trl_packed" in found]
    return round(max(peak(found["ours"]) / peak(found["trl_packed"]) for found in both), 3) if both else None


def peak(contender: Document) -> float:
    """Return the greatest resident memory up to the end of the last pass, MB."""
    return float(max(turn["peak_mb"] for turn in contender["turns"]))


def overhead(told: Document | None, clock: str = "pairs") -> float | None:
    """Return by how many percent a step of the loop takes longer than a bare one, by the clock of some pairs.

    The first pair warms up.
    """
    return round(median(_percents(told, clock)), 2) if told else None


def overhead_spread(told: Document | None) -> list[float] | None:
    """Return the least and the greatest of it."""
    return ends(_percents(told, "pairs")) if told else None


def _percents(told: Document, clock: str) -> list[float]:
    pairs: Sequence[tuple[float, float]] = told[clock]
    return [100 * (looped / bare - 1) for looped, bare in (pairs[1:] or pairs)]


def loss_gap(methods: Document) -> float | None:
    """Return the greatest difference of our loss and plain PyTorch's in fp32 after the same steps.

    The loss of a step is that of the weights before it, so the last one of the first pass is compared.
    """
    gaps = []
    for found in methods.values():
        if "reference" in found:
            theirs = found["reference"]["end"]["losses"]
            mine = found.get("ours_fp32", found["ours"])["end"]["losses"]
            gaps.append(abs(mine[len(theirs) - 1] - theirs[-1]))
    return max(gaps) if gaps else None


def is_calm(methods: Document) -> bool:
    """Whether other programs left the machine alone in every turn of contenders that are compared."""
    turns = [turn for found in methods.values() for told in found.values() for turn in measured(told)]
    return all(turn["others_cpu_percent"] <= CALM for turn in turns)


def _contenders(found: Document, rows: Document) -> Document:
    return {who: contender_figures(told, rows) for who, told in found.items()}


def contender_figures(told: Document, rows: Document) -> Document:
    """Return medians over the passes of one contender."""
    turns = measured(told)
    wall = median(turn["wall_s"] for turn in turns)
    return {
        "supervised_tokens_per_s": round(rows["supervised_tokens"] / wall, 1),
        "tokens_per_s": round(rows["tokens"] / wall, 1),
        "wall_s": round(wall, 2),
        "cpu_s": round(median(turn["cpu_s"] for turn in turns), 2),
        "peak_mb": round(peak(told)),
        "held_out_loss": round(told["end"]["held_out_loss"], 4),
        "wall_spread_s": ends([turn["wall_s"] for turn in turns]),
    }


def ends(values: Iterable[float]) -> list[float]:
    """Return the least and the greatest."""
    ordered = sorted(values)
    return [round(ordered[0], 3), round(ordered[-1], 3)]

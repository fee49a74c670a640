"""The plot of the README: each figure over the number of jobs, drawn as SVG from the files of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from operator_bench.figures import Figures

COLOURS = {
    "ours": "#d62728",
    "peer_tuned": "#1f77b4",
    "peer_default": "#9ecae1",
    "floor3": "#636363",
    "floor": "#bdbdbd",
}
PANELS = {
    "p50_first_pod_s": "create to first pod, median (s)",
    "p99_first_pod_s": "create to first pod, 99 % (s)",
    "all_done_s": "until all jobs have ended (s)",
    "cpu_s": "CPU of the operator (s)",
    "rss_mb": "peak memory of the operator (MB)",
    "restart_first_pod_s": "restart to a new job's first pod (s)",
}
WIDTH, HEIGHT, COLUMNS = 300, 220, 3
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 28
HEADER = 34

Lines = Mapping[str, Mapping[int, Figures]]
"""By contender and number of jobs: medians, and least and greatest as `spread`."""


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from values to pixels."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        span = math.log10(self.high / self.low) or 1.0
        return self.begin + (self.end - self.begin) * math.log10(max(value, self.low) / self.low) / span


def draw(title: str, lines: Lines) -> str:
    """Return the SVG of one set of limits."""
    rows = math.ceil(len(PANELS) / COLUMNS)
    size = (WIDTH * COLUMNS, HEIGHT * rows + HEADER)
    panels = [
        _panel(name, text, lines, x=WIDTH * (index % COLUMNS), y=HEADER + HEIGHT * (index // COLUMNS))
        for index, (name, text) in enumerate(PANELS.items())
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif">',
        f'<rect width="{size[0]}" height="{size[1]}" fill="white"/>',
        _text(12, 20, title, size=13, weight="bold"),
        *_legend(lines, right=size[0]),
        *panels,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(name: str, text: str, lines: Lines, *, x: int, y: int) -> str:
    points = {who: dict(sorted(line.items())) for who, line in lines.items()}
    values = [value for line in points.values() for one in line.values() for value in one["spread"][name]]
    counts = sorted({jobs for line in points.values() for jobs in line})
    across = Scale(counts[0], counts[-1] if len(counts) > 1 else counts[0] * 10, LEFT, WIDTH - RIGHT)
    low, high = _decades(values)
    up = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [f'<g transform="translate({x} {y})">', _text(LEFT, TOP - 10, text, size=11)]
    parts += [_grid_line(value, up) for value in _ticks(low, high)]
    parts += [_text(across(jobs), HEIGHT - BOTTOM + 14, f"{jobs:,}", anchor="middle") for jobs in counts]
    for who, colour in COLOURS.items():
        parts += _line(points.get(who, {}), name, colour, across, up)
    return "\n".join([*parts, "</g>"])


def _line(line: Mapping[int, Figures], name: str, colour: str, across: Scale, up: Scale) -> list[str]:
    """Return a contender's line: medians as dots, least to greatest as a bar through each."""
    dots = [(across(jobs), up(one[name])) for jobs, one in line.items()]
    strokes = [(a[0], a[1], b[0], b[1]) for a, b in pairwise(dots)]
    for jobs, one in line.items():
        least, greatest = one["spread"][name]
        strokes.append((across(jobs), up(least), across(jobs), up(greatest)))
    drawn = [_stroke(stroke, colour, width=1.6) for stroke in strokes]
    return drawn + [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in dots]


def _grid_line(value: float, up: Scale) -> str:
    label = _text(LEFT - 5, up(value) + 3, f"{value:g}", anchor="end")
    return _stroke((LEFT, up(value), WIDTH - RIGHT, up(value)), "#e6e6e6", width=1) + label


def _legend(lines: Lines, *, right: int) -> list[str]:
    names = [who for who in COLOURS if who in lines]
    parts = []
    for index, who in enumerate(names):
        x = right - 100 * (len(names) - index)
        parts.append(f'<circle cx="{x}" cy="16" r="4" fill="{COLOURS[who]}"/>')
        parts.append(_text(x + 9, 20, who, size=11))
    return parts


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten around these values; what is below a hundredth is drawn there."""
    least, greatest = max(min(values), 0.01), max(*values, 0.02)
    low = 10.0 ** math.floor(math.log10(least))
    return low, max(10.0 ** math.ceil(math.log10(greatest)), low * 10)


def _ticks(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _stroke(ends: tuple[float, float, float, float], colour: str, *, width: float) -> str:
    x1, y1, x2, y2 = (f"{end:.1f}" for end in ends)
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, size: int = 10, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="#333">{escape(text)}</text>'
    )

"""Panels of a dashboard as one SVG picture: lines over time, and single numbers.  Pure."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

COLUMN, ROW = 48, 22  # pixels of a cell in Grafana's grid, which has 24 columns
_COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#56d9d9")
_STYLE = (
    "text{font:11px sans-serif;fill:#ccccdc}.t{font-weight:600;font-size:12px}"
    ".b{font-size:24px;font-weight:600;text-anchor:middle}.a{fill:#8e8e9b;font-size:10px}"
)
_LEGENDS = 3  # lines with a name below; more are counted
_TOP, _LEFT, _BOTTOM = 30, 44, 40


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its name and its points (seconds, value)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel at its place in the grid (x, y, width, height), of one of Grafana's kinds.

    A stat shows the last value alone, a table that of each line.
    """

    title: str
    place: tuple[int, int, int, int]
    unit: str
    lines: Sequence[Line]
    kind: Literal["stat", "table", "timeseries"]


def picture(panels: Sequence[Panel], begin: float, end: float) -> str:
    """Return the picture of panels over a time."""
    bottom = max(y + h for _, y, _, h in (panel.place for panel in panels))
    size = f"{24 * COLUMN} {bottom * ROW}"
    drawn = "".join(part for panel in panels for part in _panel(panel, begin, end))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#111217"/>{drawn}</svg>\n'
    )


def _panel(panel: Panel, begin: float, end: float) -> Iterator[str]:
    x, y, width, height = panel.place
    width, height = width * COLUMN - 6, height * ROW - 6
    yield f'<g transform="translate({x * COLUMN + 3},{y * ROW + 3})">'
    yield f'<rect width="{width}" height="{height}" rx="3" fill="#181b1f" stroke="#2c3235"/>'
    yield f'<text class="t" x="8" y="17">{html.escape(panel.title)}</text>'
    if panel.kind == "stat":
        last = panel.lines[0].points[-1][1] if panel.lines else 0.0
        colour = _COLOURS[0] if "not" not in panel.title and last else "#ccccdc"
        shown = number(last, panel.unit)
        place = f'x="{width / 2}" y="{height / 2 + 18}"'
        yield f'<text class="b" {place} fill="{colour}">{shown}</text>'
    elif panel.kind == "table":
        for index, line in enumerate(panel.lines):
            text = f"{number(line.points[-1][1], panel.unit):>10}  {line.name}"
            yield f'<text x="8" y="{40 + 16 * index}">{html.escape(text)}</text>'
    elif not panel.lines:
        yield f'<text class="a" x="{width / 2 - 20}" y="{height / 2}">no data</text>'
    else:
        yield from _plot(panel, width, height, (begin, end))
    yield "</g>"


def _plot(panel: Panel, width: int, height: int, when: tuple[float, float]) -> Iterator[str]:
    values = [v for line in panel.lines for _, v in line.points if math.isfinite(v)]
    top = max(values, default=0.0) * 1.1 or 1.0
    plot_width, plot_height = width - _LEFT - 10, height - _TOP - _BOTTOM
    for share in (0.0, 0.5, 1.0):
        at = _TOP + plot_height * (1 - share)
        yield f'<path d="M{_LEFT} {at:.1f}h{plot_width}" stroke="#2c3235"/>'
        shown = number(top * share, panel.unit)
        yield f'<text class="a" x="6" y="{at + 3:.1f}">{shown}</text>'
    for index, line in enumerate(panel.lines):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(_path(line, when, top, (plot_width, plot_height)))
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    yield from _legend(panel.lines, height)


def _path(
    line: Line, when: tuple[float, float], top: float, size: tuple[int, int]
) -> Iterator[str]:
    """Yield the strokes of a line; where points are missing it is broken off."""
    begin, end = when
    step = min((b[0] - a[0] for a, b in zip(line.points, line.points[1:], strict=False)), default=1)
    before = -math.inf
    for at, value in line.points:
        if math.isfinite(value):
            x = _LEFT + size[0] * (at - begin) / (end - begin)
            y = _TOP + size[1] * (1 - value / top)
            yield f"{'L' if at - before <= 1.5 * step else 'M'}{x:.1f} {y:.1f}"
            before = at


def _legend(lines: Sequence[Line], height: int) -> Iterator[str]:
    for index, line in enumerate(lines[:_LEGENDS]):
        y = height - _BOTTOM + 14 + 12 * index
        name = line.name if index < _LEGENDS - 1 or len(lines) == _LEGENDS else "..."
        yield f'<path d="M8 {y - 4}h12" stroke="{_COLOURS[index]}" stroke-width="3"/>'
        yield f'<text class="a" x="24" y="{y}">{html.escape(name)}</text>'


def number(value: float, unit: str) -> str:
    """Return a value with its unit, as Grafana shows it."""
    if unit == "s":
        for above, by, name in (
            (86400, 86400, "d"),
            (3600, 3600, "h"),
            (60, 60, "min"),
            (1, 1, "s"),
        ):
            if value >= above:
                return f"{value / by:.3g} {name}"
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g}" + (" /s" if unit == "cps" else "")

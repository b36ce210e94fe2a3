"""The cost of a file over the number of files, as an SVG: read as well in the dark."""

from __future__ import annotations

import math
from typing import NamedTuple

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 48
_STYLE = """\
text { font: 12px sans-serif; fill: #57606a }
.grid { stroke: #57606a; stroke-opacity: .25 }
.time { stroke: #1f77b4; fill: #1f77b4 }
.processor { stroke: #d9730d; fill: #d9730d }
polyline { fill: none !important; stroke-width: 2 }
"""


class Point(NamedTuple):
    """What a file costs where there are so many, in microseconds."""

    files: int
    processor: float
    time: float


def cost_plot(points: list[Point]) -> str:
    """The number of files on a logarithmic axis, microseconds a file from zero on."""
    top = _round_up(max(max(point.processor, point.time) for point in points))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        "<title>Cost per file over the number of files</title>",
        f"<style>\n{_STYLE}</style>",
    ]
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for point in points:
        x = _x(point.files, points)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 26}" text-anchor="middle">{point.files:,}</text>'
        )
    parts += _series("processor", "processor time, all processes", 0, points, top)
    parts += _series("time", "time by the clock", 1, points, top)
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">texts of 1 KB, moved in at once</text>')
    parts.append('<text x="8" y="18">µs a file</text>')
    return "\n".join([*parts, "</svg>", ""])


def _series(kind: str, label: str, place: int, points: list[Point], top: float) -> list[str]:
    values = [point.time if kind == "time" else point.processor for point in points]
    at = [
        (_x(point.files, points), _y(value, top))
        for point, value in zip(points, values, strict=True)
    ]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    legend = 140 + 240 * place
    return [
        f'<polyline class="{kind}" points="{corners}"/>',
        *(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in at),
        f'<circle class="{kind}" cx="{legend}" cy="14" r="4"/>',
        f'<text x="{legend + 10}" y="18">{label}</text>',
    ]


def _x(files: int, points: list[Point]) -> float:
    low, high = math.log10(points[0].files), math.log10(points[-1].files)
    share = (math.log10(files) - low) / (high - low) if high > low else 0.5
    return LEFT + 24 + share * (WIDTH - LEFT - RIGHT - 48)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 times a power of ten: quarters of it are easy to read."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)

"""What every row of the bench is made of: turns, figures with their targets, and the table.

A row measures ours and a peer in one run, by turns, and gives a line for each figure:

    run(bench: Bench) -> Iterator[Line]
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .bench import Bench

_WIDTHS = (45, 15, 32, 9, 24, 7)  # of the table's columns
_HEADINGS = ("work", "ours", "peer or limit", "ratio", "target", "reached")


class Row(NamedTuple):
    """One piece of work that is measured."""

    name: str
    what: str
    run: Callable[[Bench], Iterator[Line]]


class Goal(NamedTuple):
    """What a line's ratio, or our own figure, is to reach."""

    of: str  # "ratio" or "ours"
    bound: float
    at_most: bool = False

    def is_reached(self, line: Line) -> bool:
        value = line.ratio if self.of == "ratio" else line.ours
        if value is None:
            return False
        return value <= self.bound if self.at_most else value >= self.bound

    def text(self, unit: str) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {number(self.bound)} {'×' if self.of == 'ratio' else unit}"


class Line(NamedTuple):
    """A line of the table. Without `ours` it says, in `note`, why there is no figure."""

    work: str
    ours: float | None = None
    unit: str = ""
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None  # how often ours is better, or what the goal says
    goals: tuple[Goal, ...] = ()
    note: str = ""
    turns: Mapping[str, list[float]] = {}  # side → what each turn gave
    processor: Mapping[str, list[float]] = {}  # side → processor time of each turn, in seconds

    @property
    def reached(self) -> bool | None:
        """None: there is no target, or no figure."""
        if self.ours is None or not self.goals:
            return None
        return all(goal.is_reached(self) for goal in self.goals)

    @property
    def target(self) -> str:
        return ", ".join(goal.text(self.unit) for goal in self.goals)

    def as_json(self, row: str) -> dict[str, Any]:
        found: dict[str, Any] = {"row": row, **self._asdict()}
        found |= {"turns": dict(self.turns), "processor": dict(self.processor)}
        found |= {"target": self.target, "reached": self.reached}
        del found["goals"]
        return found


# ---- measuring -----------------------------------------------------------------------------------


class Turns(NamedTuple):
    """What each side's turns gave."""

    figures: dict[str, list[float]]
    processor: dict[str, list[float]]  # seconds of processor time that each took

    def medians(self) -> dict[str, float]:
        return medians(self.figures)


def take_turns(
    sides: Mapping[str, Callable[[], float]],
    turns: int,
    prepare: Callable[[], object],
    processor_clock: Callable[[], float],
) -> Turns:
    """Each side's figures: a, b, a, b, ...; before each measurement `prepare` is called."""
    found = Turns({name: [] for name in sides}, {name: [] for name in sides})
    for _ in range(turns):
        for name, measure in sides.items():
            prepare()
            before = processor_clock()
            found.figures[name].append(measure())
            found.processor[name].append(processor_clock() - before)
    return found


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in figures.items()}


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that so many percent of them do not exceed."""
    ordered = sorted(values)
    position = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(position)]


def at_least(bound: float, of: str = "ratio") -> Goal:
    return Goal(of, bound)


def at_most(bound: float, of: str = "ours") -> Goal:
    return Goal(of, bound, at_most=True)


# ---- the table -----------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits that count: 0.123, 1.23, 12.3, 123, 1,235."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def heading() -> str:
    return "\n".join((_columns(_HEADINGS), _columns(tuple("-" * width for width in _WIDTHS))))


def shown(line: Line) -> str:
    """A line of the table, its note below it."""
    reached = {None: "", True: "yes", False: "no"}[line.reached]
    peer = "" if line.peer is None else f"{number(line.peer)} {line.unit} "
    cells = (
        line.work,
        "–" if line.ours is None else f"{number(line.ours)} {line.unit}",
        f"{peer}{line.peer_name}",
        "" if line.ratio is None else f"{number(line.ratio)} ×",
        line.target,
        reached,
    )
    used = (f"{side} {number(value)} s" for side, value in medians(line.processor).items())
    processor = "processor time: " + ", ".join(used) if line.processor else ""
    said = "; ".join(filter(None, (line.note, processor)))
    note = textwrap.wrap(said, sum(_WIDTHS), initial_indent="  ", subsequent_indent="  ")
    return "\n".join([_columns(cells), *note])


def _columns(cells: tuple[str, ...]) -> str:
    """Cells side by side; what is too wide for its column goes on below."""
    wrapped = [
        textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, _WIDTHS, strict=True)
    ]
    height = max(map(len, wrapped))
    rows = zip(*(lines + [""] * (height - len(lines)) for lines in wrapped), strict=True)
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, _WIDTHS, strict=True)).rstrip()
        for row in rows
    )

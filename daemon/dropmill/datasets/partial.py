"""Partial results: what one piece of a table comes to by one rule, and how pieces add up.

Everything adds up in any order and any cut: whole numbers exactly, without bound; others to the
last bit or two, as `math.fsum` does. Kept as JSON, which Python writes and reads without loss.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

MOST_GROUPS = 100_000  # of a file or of an answer: all of them are in memory
_AT_A_TIME = 4

Number = int | float
Key = tuple[str | None, ...]  # the cells of `group_by`, as they stand in the file; None: empty
# Of sum, count, min and max: the value (None: of nothing); of mean: the sum and the count.
Value = Number | None | tuple[Number, int]


class TooManyGroups(Exception):  # noqa: N818 - a verdict on a rule
    """More groups than are kept."""

    def __init__(self) -> None:
        super().__init__(
            f"more than {MOST_GROUPS:,} groups: group by fewer columns, or by coarser ones"
        )


class BeyondFloat(Exception):  # noqa: N818 - a verdict on a table
    """A sum is larger than any floating-point number."""

    def __init__(self) -> None:
        super().__init__("a sum is beyond what a floating-point number can hold (1.8e308)")


class Shape(NamedTuple):
    """What a rule's results look like."""

    group_by: tuple[str, ...]
    names: tuple[str, ...]  # of the aggregates
    functions: tuple[str, ...]  # sum, count, mean, min or max


class Partial(NamedTuple):
    """What some rows of a table come to."""

    shape: Shape
    rows: int  # read
    kept: int  # of them, those that `where` let through
    bad: int  # cells that were no numbers, and skipped
    is_float: tuple[bool, ...]  # which aggregates are no whole numbers
    groups: dict[Key, tuple[Value, ...]]

    def as_data(self) -> list[Any]:
        """As JSON takes it."""
        groups = [[list(key), list(values)] for key, values in self.groups.items()]
        return [list(self.shape), self.rows, self.kept, self.bad, list(self.is_float), groups]

    @staticmethod
    def of_data(data: Any) -> Partial:
        shape, rows, kept, bad, is_float, groups = data
        return Partial(
            Shape(*map(tuple, shape)),
            rows,
            kept,
            bad,
            tuple(is_float),
            {tuple(key): tuple(_value(each) for each in values) for key, values in groups},
        )


def packed(partials: dict[str, Partial]) -> str:
    """The partial results of some rules, by the rules' names, as JSON."""
    found = {name: partial.as_data() for name, partial in partials.items()}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def unpacked(text: str) -> dict[str, Partial]:
    return {name: Partial.of_data(data) for name, data in json.loads(text).items()}


def _value(found: Any) -> Value:
    return (found[0], found[1]) if isinstance(found, list) else found


def nothing(shape: Shape) -> Partial:
    """What no rows at all come to."""
    groups: dict[Key, tuple[Value, ...]] = {}
    if not shape.group_by:
        groups[()] = tuple(_NOTHING[function] for function in shape.functions)
    return Partial(shape, 0, 0, 0, (False,) * len(shape.names), groups)


_NOTHING: dict[str, Value] = {"sum": 0, "count": 0, "mean": (0, 0), "min": None, "max": None}


def combine(shape: Shape, partials: Iterable[Partial]) -> Partial:
    """What partial results come to together. Raises TooManyGroups, BeyondFloat.

    A few at a time are in memory, of as many as there may be.
    """
    rest = iter(partials)
    total = nothing(shape)
    while some := list(itertools.islice(rest, _AT_A_TIME)):
        total = _combined(shape, [total, *some])
    return total


def _combined(shape: Shape, partials: Sequence[Partial]) -> Partial:
    rows, kept, bad = (sum(each) for each in zip(*(one[1:4] for one in partials), strict=True))
    is_float = tuple(map(any, zip(*(one.is_float for one in partials), strict=True)))
    gathered: dict[Key, list[tuple[Value, ...]]] = {}
    for partial in partials:
        for key, values in partial.groups.items():
            there = gathered.get(key)
            if there is not None:
                there.append(values)
                continue
            if len(gathered) >= MOST_GROUPS:
                raise TooManyGroups
            gathered[key] = [values]
    groups = {
        key: tuple(map(_joined, shape.functions, zip(*lists, strict=True), is_float))
        for key, lists in gathered.items()
    }
    return Partial(shape, rows, kept, bad, is_float, groups)


def _joined(function: str, values: tuple[Value, ...], is_float: bool) -> Value:
    there: list[Any] = [value for value in values if value is not None]
    match function:
        case "count":
            return int(sum(there))
        case "sum":
            return _sum(there, is_float)
        case "mean":
            return _sum([total for total, _ in there], is_float), sum(count for _, count in there)
    if not there:
        return None
    found: Number = min(there) if function == "min" else max(there)
    return _float(found) if is_float else found


def _sum(values: Sequence[Number], is_float: bool) -> Number:
    if not is_float:
        return sum(values)
    try:
        found = math.fsum(values)
    except (OverflowError, ValueError):  # ValueError: infinities of both signs
        raise BeyondFloat from None
    if not math.isfinite(found):
        raise BeyondFloat
    return found


def _float(value: Number) -> float:
    try:
        return float(value)
    except OverflowError:
        raise BeyondFloat from None


class Group(NamedTuple):
    """One line of an answer."""

    key: Key
    values: tuple[Number | None, ...]  # in the order of the shape's names


def answer(partial: Partial) -> Iterator[Group]:
    """The groups in the order of their keys, with what was asked for. Raises BeyondFloat."""
    for key in sorted(partial.groups, key=lambda key: [(cell is not None, cell) for cell in key]):
        yield Group(key, tuple(map(_final, partial.groups[key])))


def _final(value: Value) -> Number | None:
    if not isinstance(value, tuple):
        return value
    total, count = value
    try:
        return total / count if count else None
    except OverflowError:
        raise BeyondFloat from None

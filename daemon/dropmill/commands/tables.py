"""The results of data sets, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..datasets.partial import Number, Partial, answer
from .printing import amount, printable

_EMPTY = "(empty)"
_MOST_SHOWN = 1_000  # groups on a terminal


def as_object(partial: Partial) -> dict[str, Any]:
    """What a rule's results are in JSON."""
    shape = partial.shape
    groups = [
        dict(zip((*shape.group_by, *shape.names), (*group.key, *group.values), strict=True))
        for group in answer(partial)
    ]
    return {
        "records": partial.rows,
        "matched": partial.kept,
        "bad_cells": partial.bad,
        "groups": groups,
    }


def lines(partial: Partial, *, indent: str = "") -> Iterator[str]:
    """A table with a line a group, numbers to the right."""
    shape = partial.shape
    rows: list[tuple[str, ...]] = [(*shape.group_by, *shape.names)]
    surplus = 0
    for number, group in enumerate(answer(partial)):
        if number >= _MOST_SHOWN:
            surplus += 1
            continue
        keys = (_EMPTY if cell is None else printable(cell) for cell in group.key)
        rows.append((*keys, *(shown_number(value) for value in group.values)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = len(shape.group_by)
    for row in rows:
        cells = (
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield indent + "  ".join(cells).rstrip()
    if len(rows) == 1:
        yield f"{indent}(no record matched)"
    if surplus:
        yield f"{indent}... and {amount(surplus, 'group')} more (all of them: --json)"


def shown_number(value: Number | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.15g}"


def summary(partial: Partial) -> str:
    """`1,000 records, 500 of them matched, 3 bad cells skipped`."""
    found = amount(partial.rows, "record")
    if partial.kept != partial.rows:
        found += f", {partial.kept:,} of them matched"
    if partial.bad:
        found += f", {amount(partial.bad, 'bad cell')} skipped"
    return found

"""`dropmill results`: outcomes, newest last."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from ..datasets.partial import Partial
from ..job import Kind, State
from ..store.reading import OUTCOMES, Follower, Reader, Result, Which
from . import tables
from .printing import (
    amount,
    has_colour,
    json_path,
    local_time,
    printable,
    rfc3339,
    shown,
    size,
    write_json,
)

_POLL_SECONDS = 0.25
_FIRST = 10
_SHOWN_LINES = 10
_KINDS = {Kind.DATASET: "data set"}
_COLOURS = {
    State.DONE: "green",
    State.RETRY: "yellow",
    State.QUARANTINED: "red",
    State.SKIPPED: "bright_black",
    State.GONE: "bright_black",
}


def results(
    state_folder: bytes,
    *,
    state: State | None,
    under: bytes | None,
    kind: Kind | None,
    as_json: bool,
    follow: bool,
) -> int:
    """Prints them; gives the exit code: 1 when there are none."""
    which = Which((state,) if state else OUTCOMES, under, kind)
    with Reader(state_folder) as reader:
        has_tables = kind is Kind.DATASET
        write = _json_writer(reader) if as_json else _line_writer(reader, has_tables=has_tables)
        if follow:
            _follow(Follower(reader, which), write)
        found = False
        for result in reader.results(which):
            write(result)
            found = True
    sys.stdout.flush()
    return 0 if found else 1


def _follow(follower: Follower, write: Callable[[Result], None]) -> NoReturn:
    """Until Ctrl-C, or until nobody reads any more."""
    batch: Iterator[Result] = iter(follower.first(_FIRST))
    while True:
        for result in batch:
            write(result)
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)
        batch = follower.new()


# ---- JSON ----------------------------------------------------------------------------------------


def as_object(
    result: Result,
    keywords: dict[str, list[int]],
    datasets: dict[str, Partial] | None = None,
) -> dict[str, Any]:
    """A result with the names that are promised; what does not apply is absent."""
    found: dict[str, Any] = {
        "path": json_path(result.path),
        "kind": result.kind.label,
        "state": result.state.label,
        "version": result.version,
        "size": result.size,
        "queued_at": _when(result.queued_ns),
        "started_at": _when(result.started_ns),
        "finished_at": _when(result.finished_ns),
        "attempts": result.attempts,
        "reason": result.reason,
        "lines": result.lines,
        "encoding": result.encoding,
        "keywords": keywords or None,
        "output": None if result.output is None else json_path(result.output),
        "width": result.width,
        "height": result.height,
        "datasets": {name: tables.as_object(each) for name, each in (datasets or {}).items()}
        or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _when(time_ns: int | None) -> str | None:
    return None if time_ns is None else rfc3339(time_ns)


def _keywords(reader: Reader, result: Result) -> dict[str, list[int]]:
    return reader.keywords(result.id) if result.keyworded else {}


def _json_writer(reader: Reader) -> Callable[[Result], None]:
    return lambda result: write_json(
        as_object(result, _keywords(reader, result), _datasets(reader, result))
    )


def _datasets(reader: Reader, result: Result) -> dict[str, Partial]:
    return reader.datasets(result.id) if result.kind is Kind.DATASET else {}


# ---- for people ----------------------------------------------------------------------------------


def _line_writer(reader: Reader, *, has_tables: bool) -> Callable[[Result], None]:
    is_coloured = has_colour(sys.stdout)

    def write(result: Result) -> None:
        when = local_time(result.finished_ns or result.queued_ns or 0)
        state = f"{result.state.label:<11}"
        if is_coloured:
            state = click.style(state, fg=_COLOURS.get(result.state))
        details = "; ".join(_details(reader, result))
        sys.stdout.write(f"{when} {state} {shown(result.path)}: {details}\n")
        if has_tables:
            _write_tables(_datasets(reader, result))

    return write


def _write_tables(datasets: dict[str, Partial]) -> None:
    for name, partial in datasets.items():
        sys.stdout.write(f"  {printable(name)}: {tables.summary(partial)}\n")
        for line in tables.lines(partial, indent="    "):
            sys.stdout.write(f"{line}\n")


def _details(reader: Reader, result: Result) -> list[str]:
    if result.reason:
        return [printable(result.reason)]
    details = [f"{_KINDS.get(result.kind, result.kind.label)}, {size(result.size)}"]
    if result.lines is not None:
        details[0] += f", {amount(result.lines, 'line')}"
    if result.width and result.height:
        details[0] += f", {result.width} x {result.height}"
    for name, partial in _datasets(reader, result).items():
        details.append(f"{printable(name)}: {tables.summary(partial)}")
    if result.output is not None:
        details.append(f"copy: {shown(result.output)}")
    for term, lines in _keywords(reader, result).items():
        details.append(f"{term}: {line_numbers(lines)}")
    return details


def line_numbers(lines: list[int]) -> str:
    """`line 3`, `lines 3, 17`, `lines 3, 17, ... (1,234 in all)`."""
    if len(lines) == 1:
        return f"line {lines[0]}"
    first = ", ".join(map(str, lines[:_SHOWN_LINES]))
    return f"lines {first}" + (
        f", ... ({len(lines):,} in all)" if len(lines) > _SHOWN_LINES else ""
    )

"""What `dropmill bench` found out, for people and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..bench import Difference, Lap, lap_name
from ..bench.sample import total
from ..job import Kind, State
from ..store.ledger import Admission
from .printing import amount, duration, has_colour, json_path, printable, shown, size
from .results import line_numbers

_NAMED = 5
_BAR = 24
_ENOUGH = 1.05  # times the best time: as good as the best
_HEADS = ("", "time", "files/s", "MB/s", "speed-up", "efficiency")


class Asked(NamedTuple):
    """The keyword, asked of the index."""

    seconds: float
    given: int  # files, with their lines
    files: int | None  # in all, as far as they were counted


class Report(NamedTuple):
    """Everything there is to say."""

    folder: bytes
    found: list[Admission]
    taken: list[Admission]
    unreadable: list[tuple[bytes, str]]
    laps: list[Lap]  # the first: one after another
    differences: list[Difference]
    processors: int
    keyword: str | None
    asked: Asked | None
    doubts: list[str]  # why the figures may be far off
    notes: list[str]

    @property
    def identical(self) -> bool:
        """Whether no two runs made something else of a file that stood still."""
        return all(difference.changed for difference in self.differences)

    def speed_up(self, lap: Lap) -> float:
        return self.laps[0].seconds / lap.seconds

    def files_a_second(self, lap: Lap) -> float:
        return lap.outcomes.states[State.DONE] / lap.seconds

    def bytes_a_second(self, lap: Lap) -> float:
        return lap.outcomes.done_bytes / lap.seconds

    def hits(self) -> dict[bytes, list[int]]:
        """The keyword's line numbers by path."""
        by_file = self.laps[0].outcomes.keywords.items()
        return {path: found[self.keyword] for path, found in sorted(by_file)
                if self.keyword is not None and self.keyword in found}  # fmt: skip

    # ---- as JSON -----------------------------------------------------------------------------

    def as_object(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "folder": json_path(self.folder),
            "processors": self.processors,
            "files": len(self.taken),
            "bytes": total(self.taken),
            "found": {"files": len(self.found), "bytes": total(self.found)},
            "unreadable": [{"path": json_path(path), "reason": reason}
                           for path, reason in self.unreadable],
            "runs": [self._run(lap) for lap in self.laps],
            "identical": self.identical,
            "differing": [json_path(each.path) for each in self.differences if not each.changed],
            "changed": [json_path(each.path) for each in self.differences if each.changed],
            "notes": [*self.doubts, *self.notes],
        }  # fmt: skip
        if self.keyword is not None:
            found["keyword"] = self._keyword(self.keyword)
        return found

    def _run(self, lap: Lap) -> dict[str, Any]:
        speed_up = self.speed_up(lap)
        states = {state.label: count for state, count in sorted(lap.outcomes.states.items())}
        return {
            "way": "one after another" if lap.workers is None else "pool",
            "workers": lap.workers,
            "seconds": round(lap.seconds, 4),
            "files_per_second": round(self.files_a_second(lap), 2),
            "bytes_per_second": round(self.bytes_a_second(lap)),
            "speed_up": round(speed_up, 3),
            "efficiency": None if lap.workers is None else round(speed_up / lap.workers, 3),
            "states": states,
        }

    def _keyword(self, keyword: str) -> dict[str, Any]:
        hits = [{"path": json_path(path), "lines": lines} for path, lines in self.hits().items()]
        index = self.asked and {"seconds": round(self.asked.seconds, 4), "files": self.asked.files}
        return {"term": keyword, "hits": hits, "index": index}


# ---- for people ----------------------------------------------------------------------------------


def print_report(report: Report) -> None:
    """A table on stdout with a bar for each run's time, and what it comes to."""
    print("\n".join(_heading(report)), end="\n\n")
    rows = [_row(report, lap) for lap in report.laps]
    if has_colour(sys.stdout):
        _print_rich(report, rows)
    else:
        _print_plain(report, rows)
    print()
    print("\n".join([*_comparison(report), *_keyword(report), *_advice(report)]))
    for note in _notes(report):
        print(f"note: {note}")
    sys.stdout.flush()


def _heading(report: Report) -> Iterator[str]:
    yield f"{shown(report.folder)}: {_kinds(report.taken)}, {size(total(report.taken))}"
    if len(report.taken) + len(report.unreadable) < len(report.found):
        of = f"{amount(len(report.found), 'file')}, {size(total(report.found))}"
        yield f"chosen at random of {of}: --seconds 0 takes all"


def _kinds(files: list[Admission]) -> str:
    names = {Kind.TEXT: "text", Kind.IMAGE: "image", Kind.DATASET: "data set"}
    counts = {name: sum(file.kind is kind for file in files) for kind, name in names.items()}
    return " and ".join(amount(count, kind) for kind, count in counts.items() if count)


def _row(report: Report, lap: Lap) -> tuple[str, ...]:
    speed_up = report.speed_up(lap)
    efficiency = "" if lap.workers is None else f"{100 * speed_up / lap.workers:.0f} %"
    return (
        lap_name(lap.workers),
        f"{lap.seconds:.2f} s" if lap.seconds < 100 else duration(lap.seconds),
        _figure(report.files_a_second(lap)),
        _figure(report.bytes_a_second(lap) / 1e6),
        f"{speed_up:.2f}",
        efficiency,
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _length(report: Report, lap: Lap) -> int:
    longest = max(each.seconds for each in report.laps)
    return max(1, round(_BAR * lap.seconds / longest))


def _print_plain(report: Report, rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    bars = ["", *("#" * _length(report, lap) for lap in report.laps)]
    for cells, bar in zip([_HEADS, *rows], bars, strict=True):
        first, *figures = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print("  ".join([f"{first.strip():<{widths[0]}}", *figures, bar]).rstrip())


def _print_rich(report: Report, rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in _HEADS:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    table.add_column("", no_wrap=True)
    fastest = min(report.laps, key=lambda lap: lap.seconds)
    for lap, cells in zip(report.laps, rows, strict=True):
        colour = "green" if lap is fastest else "cyan" if lap.workers else "bright_black"
        table.add_row(*cells, f"[{colour}]{'━' * _length(report, lap)}[/]")
    Console(highlight=False).print(table)


def _comparison(report: Report) -> Iterator[str]:
    states = report.laps[0].outcomes.states
    counts = ", ".join(f"{count:,} {state.label}" for state, count in sorted(states.items()))
    differing = [each for each in report.differences if not each.changed]
    if not differing:
        yield f"identical: all {len(report.laps)} runs gave the same results ({counts})"
        return
    yield f"NOT identical: the runs made something else of {amount(len(differing), 'file')}:"
    yield from _some([shown(each.path) for each in differing])


def _some(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_NAMED])
    if len(lines) > _NAMED:
        yield f"  and {len(lines) - _NAMED:,} more"


def _keyword(report: Report) -> Iterator[str]:
    """What was looked for while the files were taken in, and what the index says of it."""
    if report.keyword is None:
        return
    hits = report.hits()
    lines, word = sum(map(len, hits.values())), printable(report.keyword)
    yield f'"{word}": in {amount(lines, "line")} of {amount(len(hits), "file")}, found in every run'
    relative = len(report.folder) + 1
    yield from _some([f"{shown(path[relative:])}: {line_numbers(at)}" for path, at in hits.items()])
    if report.asked is not None:
        given = amount(report.asked.given, "file")
        yield f"  asked for it, the index gave {given} with their lines in {_short(report.asked)}"


def _short(asked: Asked) -> str:
    return f"{1000 * asked.seconds:.0f} ms" if asked.seconds < 1 else duration(asked.seconds)


def _advice(report: Report) -> Iterator[str]:
    """What `workers:` is worth; nothing is said on the strength of doubtful figures."""
    if report.doubts or not report.identical:
        return
    pool = report.laps[1:]
    best = min(lap.seconds for lap in pool)
    enough = next(lap for lap in pool if lap.seconds <= _ENOUGH * best)
    times = f"{report.speed_up(enough):.2f} times as fast as one after another"
    auto = f"`workers: auto` is {report.processors} here"
    if enough.workers == 1 and len(pool) > 1:
        yield f"`workers: 1`: more are worth nothing for these files ({auto})"
    else:
        yield f"`workers: {enough.workers}`: {times} ({auto})"


def _notes(report: Report) -> Iterator[str]:
    yield from (*report.doubts, *report.notes)
    changed = [shown(each.path) for each in report.differences if each.changed]
    if changed:
        yield _listed(f"{amount(len(changed), 'file')} changed meanwhile, not compared", changed)
    reasons = [f"{shown(path)} ({reason})" for path, reason in report.unreadable]
    if reasons:
        yield _listed(f"{len(reasons):,} could not be read, left out", reasons)


def _listed(what: str, names: list[str]) -> str:
    more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{what}: {', '.join(names[:_NAMED])}{more}"

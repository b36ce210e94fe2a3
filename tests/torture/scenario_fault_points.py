"""A worker killed at each step from claim to complete: all done once, the right copies, no rest.

First one message is worked on with every step written down. Then the same kinds of files come again
and again, each time with an order to die before or after another of those steps.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..polling import eventually
from . import saboteur
from .audit import EVERY
from .bench import Bench, Findings, version_word
from .inside import Inside, Row

IMAGES = 3  # with the renamed one's copy enough for one sync of all
LONG = 120.0  # seconds from which on every occurrence of a step gets its kill
PLACES = 3  # at once: a round is mostly waiting


class Batch(NamedTuple):
    """Files that travel in one message, of every kind of work."""

    bench: Bench
    inbox: Path
    number: int

    def path(self, name: str) -> Path:
        return self.inbox / f"b{self.number}" / f"{self.number}_{name}"

    def prepare(self) -> None:
        """What is rewritten, grown, renamed or touched in the round itself."""
        self.path("").parent.mkdir()
        self.bench.text(self.path("again.txt"), version=1)
        self.bench.text(self.path("grown.txt"), version=1, lines=9_000)
        self.bench.text(self.path("old name.txt"))
        self.bench.image(self.path("old name.jpg"))

    def drop(self) -> None:
        self.bench.text(self.path("again.txt"), version=2)
        grow(self.path("grown.txt"))
        self.path("old name.txt").rename(self.path("name.txt"))
        self.path("old name.jpg").rename(self.path("name.jpg"))
        self.bench.text(self.path("new.txt"))
        for number in range(IMAGES):
            self.bench.image(self.path(f"{number}.{'png' if number % 2 else 'jpg'}"))

    def is_done(self, inside: Inside) -> bool:
        """Whether the round is over; the audit finds out whether it went well."""
        rows = {path: row for path, row in inside.rows().items() if path.startswith(self.folder)}
        wanted = 5 + IMAGES
        return len(rows) == wanted and all(row == Row(2, 0, None) for row in rows.values())

    def is_prepared(self, inside: Inside) -> bool:
        rows = [row for path, row in inside.rows().items() if path.startswith(self.folder)]
        return len(rows) == 4 and all(row.state == 2 for row in rows)

    @property
    def folder(self) -> str:
        return f"b{self.number}/"

    @property
    def stale(self) -> str:
        return version_word(self.path("again.txt"), 1)


def grow(path: Path) -> None:
    with path.open("a") as file:
        file.writelines(f"{EVERY} {number} grown\n" for number in range(100))


def run(bench: Bench) -> Findings:
    everything = [Rounds(bench, f"place{number}") for number in range(PLACES)]
    points = everything[0].record()
    steps = len(points)
    if bench.seconds < LONG:
        points = one_of_each(bench, points)
    orders, chosen = iter(points), len(points)
    with ThreadPoolExecutor(PLACES) as threads:
        kills = sum(threads.map(lambda rounds: rounds.kill_at_all(orders), everything))
        problems = [line for found in threads.map(Rounds.audit, everything) for line in found]
    note = f"{chosen} of {steps} points chosen"
    return Findings({"kills": kills}, problems, note)


def one_of_each(bench: Bench, points: list[str]) -> list[str]:
    """One occurrence of each step, in an order of chance."""
    by_step: dict[str, list[str]] = {}
    for point in points:
        by_step.setdefault(point.partition(" #")[0], []).append(point)
    chosen = [bench.chance.choice(places) for places in by_step.values()]
    bench.chance.shuffle(chosen)
    return chosen


class Rounds:
    """One batch after the other, each with an order to the worker."""

    def __init__(self, bench: Bench, name: str) -> None:
        self._bench = bench
        self._place = bench.place(workers=1, name=name)
        folder = self._place.folder / "torture"
        self._place.start(saboteur.MODULE, **saboteur.variables(folder, "steps"))
        self._inside = Inside(self._place)
        self._order = folder / "order"
        self._journal = folder / "journal"
        self._numbers = itertools.count()
        self._stale: list[str] = []
        self._unreached: list[str] = []

    def record(self) -> list[str]:
        """Every step of a message, in order: `before os.rename #2`."""
        self._round("record")
        found = [line.partition(" ")[2] for line in self._journal.read_text().splitlines()]
        starts = [number for number, step in enumerate(found) if step == "after Queue.get #1"]
        messages = map(slice, starts, [*starts[1:], None])
        longest: list[str] = max((found[each] for each in messages), key=len)
        return list(dict.fromkeys(longest))

    def kill_at_all(self, points: Iterator[str]) -> int:
        """As many of the points as there is time for; gives how many kills were made."""
        kills = 0
        while self._bench.time_is_left():
            point = next(points, None)
            if point is None:
                break
            self._round(point)
            if self._is_obeyed():
                kills += 1
            else:
                self._unreached.append(f"never came to {point!r}")
        return kills

    def _is_obeyed(self) -> bool:
        """A message's last steps come after its files are done."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: not self._order.exists(), seconds=20, what="the order is obeyed")
        return not self._order.exists()

    def audit(self) -> list[str]:
        self._inside.close()
        return self._unreached + self._bench.audit(self._place, stale_words=self._stale)

    def _round(self, order: str) -> None:
        batch = Batch(self._bench, self._place.inbox, next(self._numbers))
        batch.prepare()
        eventually(lambda: batch.is_prepared(self._inside), seconds=60, what="prepared")

        def drop() -> None:
            batch.drop()
            part = self._order.with_suffix(".part")
            part.write_text(order)
            os.rename(part, self._order)

        self._inside.while_paused(drop, lambda: self._inside.queued() == 5 + IMAGES)
        eventually(lambda: batch.is_done(self._inside), seconds=60, what=f"round {order!r}")
        self._stale.append(batch.stale)
        if order == "record":
            self._order.unlink()

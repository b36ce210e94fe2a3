"""A log that is never closed, 50 lines a second: each found in time, once; then an edit is seen.

The short form edits the log while it is small, and a large one that does not grow; the long form
lets a large one grow as well, whose edit is seen when it has been quiet for a while.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from ..dropmill_process import Place
from ..polling import eventually
from .audit import EVERY
from .bench import Bench, Findings

A_SECOND = 50
SETTLE_MAX = 2.0  # of the bench's places
A_LITTLE = 1.5  # a search's own time, and that of machines with other work
LARGE = 20 << 20  # more than a range
IN_LARGE = 100_003  # a line in its middle
VERIFIED = 60.0
LONG = 120.0


def run(bench: Bench) -> Findings:
    place = bench.place()
    place.start()
    log = Log(place.inbox / "service.log")
    problems, polls = watch(bench, place, log)
    middle = log.written // 2
    problems += edited(place, log.path, f"line {middle} ", seconds=SETTLE_MAX + 2 * A_LITTLE)
    large = place.inbox / "large.log"
    fill(large)
    eventually(lambda: hits(place, "unedited"), seconds=60, what="the large text is taken in")
    problems += edited(place, large, f"number {IN_LARGE} ", seconds=20)
    edits = 2
    if bench.seconds >= LONG:
        patience = VERIFIED + SETTLE_MAX + 20
        problems += edited(place, large, f"number {IN_LARGE + 2} ", grow=True, seconds=patience)
        edits += 1
    log.close()
    problems += bench.audit(place, stale_words=[f"line_{middle}"])
    return Findings({"lines": log.written, "polls": polls, "edits": edits}, problems)


class Log:
    """Written by a thread through one descriptor that stays open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times: list[float] = []  # when each line was there
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    @property
    def written(self) -> int:
        return len(self.times)

    def _write(self) -> None:
        while not self._stopped.wait(1 / A_SECOND):
            line = f"{EVERY} line {self.written} line_{self.written} wordtobekept\n"
            os.write(self._descriptor, line.encode())
            self.times.append(time.monotonic())

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def close(self) -> None:
        self.stop()
        os.close(self._descriptor)


def hits(place: Place, *words: str) -> list[str]:
    """The lines found, as `path:number:text`."""
    return place.search(*words)


def watch(bench: Bench, place: Place, log: Log) -> tuple[list[str], int]:
    """Asks for all lines again and again while the log is written."""
    problems: list[str] = []
    polls = 0
    while bench.time_is_left():
        asked = time.monotonic()
        due = sum(when < asked - SETTLE_MAX - A_LITTLE for when in log.times)
        problems += missing_or_double(place, due)
        polls += 1
    log.stop()
    return problems, polls


def missing_or_double(place: Place, due: int) -> list[str]:
    """The lines that are due and not found, and those found twice."""
    answer = place.run("search", "-m", "0", "--json", "wordtobekept", "line")
    lines = [json.loads(row)["text"] for row in answer.stdout.splitlines()]
    numbers = sorted(int(text.split()[2]) for text in lines)
    found = set(numbers)
    late = [number for number in range(due) if number not in found]
    problems = [f"line {number} is not found in time" for number in late]
    if len(found) < len(numbers):
        problems.append(f"{len(numbers) - len(found)} lines are found twice")
    return problems[:3]


def fill(path: Path) -> None:
    part = path.with_name(".part")
    with part.open("w") as file:
        number = 0
        while file.tell() < LARGE:
            file.write(
                "".join(
                    f"{EVERY} number {each} unedited of a large log\n"
                    if each % 5_000 < 10
                    else f"some words of number {each} that fill a large log up with what is said\n"
                    for each in range(number, number + 5_000)
                )
            )
            number += 5_000
    part.rename(path)


def edited(place: Place, path: Path, at: str, *, seconds: float, grow: bool = False) -> list[str]:
    """Overwrites a word in the middle, the size staying; gives a problem unless it is seen."""
    word = "edited_" + at.strip().replace(" ", "_")
    with path.open("r+b") as file:
        file.seek(file.read().index(at.encode()))
        file.write(f"{word} ".encode())  # shorter than what is left of the line
        if grow:
            file.seek(0, os.SEEK_END)
            file.write(f"{EVERY} and grown again\n".encode())
    try:
        eventually(lambda: hits(place, word), seconds=seconds, what=f"the edit {word} is seen")
    except AssertionError as error:
        return [str(error)]
    return []

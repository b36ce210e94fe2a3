"""A note dropped behind very many queued files and a huge text: searchable within 2 seconds.

20,000 files and 500 MB in the short form, 200,000 and 5 GB in the long one.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..dropmill_process import Place
from ..polling import eventually
from .bench import Bench, Findings
from .inside import Inside

LIMIT = 2.0
LONG = 120.0
MANY = 1_000  # still queued, for a note to count as dropped behind them
LARGE_LANE = 2


def run(bench: Bench) -> Findings:
    factor = 10 if bench.seconds >= LONG else 1
    place = bench.place()
    fill(place.inbox / "many", 20_000 * factor)
    place.start()
    inside = Inside(place)
    write_huge(place.inbox / "huge.txt", 500_000_000 * factor)
    eventually(lambda: behind(inside)[1] or None, seconds=60, what="the huge text is queued")
    notes = {"files": 0, "the huge text": 0}
    slowest, problems, number = 0.0, [], 0
    while bench.time_is_left() or not all(notes.values()):
        queued, is_huge = behind(inside)
        if not (queued > MANY or is_huge):
            break
        number += 1
        seconds = drop_note(bench, place, number)
        slowest = max(slowest, seconds)
        if seconds > LIMIT:
            problems.append(f"note {number} was searchable after {seconds:.1f} s")
        notes["files"] += queued > MANY
        notes["the huge text"] += is_huge
        time.sleep(bench.chance.uniform(0.0, 0.3))
    inside.close()
    place.stop()
    faults = {f"notes behind {what}": count for what, count in notes.items()}
    return Findings(faults, problems, f"slowest {slowest:.2f} s")


def fill(folder: Path, count: int) -> None:
    for number in range(count):
        if number % 1_000 == 0:
            below = folder / str(number // 1_000)
            below.mkdir(parents=True)
        (below / f"{number}.txt").write_text(f"file {number} of very many\n" * 20)


def write_huge(path: Path, size: int) -> None:
    chunk = "".join(
        f"line {number} of word{number % 9_973} and word{number * 7_919 % 99_991}\n"
        for number in range(100_000)
    ).encode()
    part = path.with_name(".huge.part")
    with part.open("wb") as file:
        for _ in range(size // len(chunk) + 1):
            file.write(chunk)
    part.rename(path)


def behind(inside: Inside) -> tuple[int, bool]:
    """How many small files are queued, and whether the huge text is."""
    rows = dict(inside.query("SELECT lane, count(*) FROM files WHERE state = 1 GROUP BY lane"))
    huge = rows.pop(LARGE_LANE, 0)
    return sum(rows.values()), bool(huge)


def drop_note(bench: Bench, place: Place, number: int) -> float:
    """Seconds until the note is found."""
    dropped = time.monotonic()
    bench.text(place.inbox / f"note{number}.txt", lines=2)
    eventually(lambda: place.search(f"v1_note{number}"), seconds=30, what=f"note {number}")
    return time.monotonic() - dropped

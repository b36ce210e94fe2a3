"""The clock is set back and forward by a day: nothing waits for it, and retries do not storm."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from ..dropmill_process import Place
from ..polling import eventually
from .bench import Bench, Findings
from .saboteur import MODULE, variables

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
DAY = 86_400
STORM = 3  # starts of work on one poisoned file: two attempts, and one that was cut short


def run(bench: Bench) -> Findings:
    library = next((each for glob in LIBRARIES for each in Path("/").glob(glob[1:])), None)
    if library is None:
        return Findings({}, [], skipped="libfaketime is not installed (Debian: faketime)")
    place = bench.place()
    offset = bench.folder / "offset"
    set_clock(offset, 0)
    orders = bench.folder / "orders"
    place.start(
        MODULE,
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        NO_FAKE_STAT="1",
        **variables(orders, "poison"),
    )
    faults = {"set back": 0, "set forward": 0, "attempts cut by it": 0}
    problems: list[str] = []
    number = 0
    while not all(faults.values()) or bench.time_is_left():
        for name, days in (("set back", -1), ("set forward", 1), ("set forward", 0)):
            number += 1
            poison = place.inbox / f"poison-segfault-{number}.txt"
            poison.write_text("x\n")
            eventually(lambda path=poison: journal(orders, path.name), what="an attempt")  # type: ignore[misc]
            set_clock(offset, days * DAY)
            faults[name] += 1
            faults["attempts cut by it"] += 1
            problems += still_well(bench, place, number, poison, orders)
    for path in place.inbox.glob("poison-*"):
        path.unlink()
    eventually(lambda: not place.status()["files"]["quarantined"], what="poison is gone")
    # Under libfaketime a sleep may fail with EINVAL, as it does while stopping.
    place.stop(signal.SIGKILL)
    place.start()
    return Findings(faults, problems + bench.audit(place), f"{number} times")


def set_clock(offset: Path, seconds: int) -> None:
    part = offset.with_suffix(".part")
    part.write_text(f"{seconds:+d}\n")
    part.rename(offset)


def journal(orders: Path, name: str) -> int:
    """How often work on a file of that name was begun."""
    file = orders / "journal"
    return file.read_text().count(name) if file.exists() else 0


def still_well(bench: Bench, place: Place, number: int, poison: Path, orders: Path) -> list[str]:
    problems = []
    bench.text(place.inbox / f"renamed{number}.txt")
    written = place.inbox / f"written{number}.txt"
    written.write_text(f"everyline writtenword{number}\n")
    bench.image(place.inbox / f"image{number}.jpg")
    began = time.monotonic()
    eventually(
        lambda: place.search(f"writtenword{number}"), seconds=20, what="a new file is taken in"
    )
    if time.monotonic() - began > 5:
        problems.append(f"settling took {time.monotonic() - began:.1f} s")

    def is_quarantined() -> bool:
        row = place.results().get(poison.name)
        return row is not None and row["state"] == "quarantined"

    eventually(is_quarantined, seconds=30, what=f"the retry of {poison.name} comes")
    starts = journal(orders, poison.name)
    if not 2 <= starts <= STORM:
        problems.append(f"{poison.name} was begun {starts} times")
    return problems

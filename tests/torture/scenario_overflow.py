"""The kernel's queue of events overflows: zero missed, and the overflow is counted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ..dropmill_process import Place
from ..polling import eventually
from .audit import EVERY
from .bench import Bench, Findings

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
EVENTS_A_FILE = 2  # made, closed
MOST = 60_000
SHORT = 20_000
IN_NEW_FOLDERS = 4  # one file of so many: what is in an unwatched folder fills no queue


def run(bench: Bench) -> Findings:
    place = bench.place()
    for number in range(1_000):
        write(place.inbox / f"old{number // 100}" / f"old{number}.txt", 1)
    place.start()
    bench.settle(place)
    bursts, stale = 0, []
    while not bursts or (bench.time_is_left() and bench.seconds > 60):
        stale += burst(bench, place, bursts)
        bursts += 1
        bench.settle(place)
    overflows = place.status()["overflows"]
    problems = bench.audit(place, stale_words=stale)
    files = sum(len(names) for _, _, names in os.walk(place.inbox))
    return Findings({"bursts": bursts, "overflows": overflows}, problems, f"{files} files")


def burst(bench: Bench, place: Place, number: int) -> list[str]:
    """More changes than the queue holds while nobody reads it; gives words that are gone then."""
    count = SHORT if bench.seconds <= 60 else MOST
    known = count - count // IN_NEW_FOLDERS
    assert known * EVENTS_A_FILE > int(QUEUE.read_text())
    before = place.status()["overflows"]
    assert place.service is not None
    place.service.send_signal(signal.SIGSTOP)
    try:
        for file in range(count):
            is_new = file % IN_NEW_FOLDERS == 0
            folder = f"new{number}/{file // 1_000}" if is_new else f"old{file % 10}"
            write(place.inbox / folder / f"b{number}_{file}.txt", 1)
        stale = disturb(bench, place, number)
    finally:
        place.service.send_signal(signal.SIGCONT)
    eventually(
        lambda: place.status()["overflows"] > before, seconds=60, what="the overflow is counted"
    )
    return stale


def disturb(bench: Bench, place: Place, number: int) -> list[str]:
    """Rewrites, renames and deletes what was known before: those events are lost for sure."""
    old = sorted(place.inbox.glob("old*/old*.txt"))
    chosen = bench.chance.sample(old, 60)
    for path in chosen[:20]:
        write(path, number + 2)
    for path in chosen[20:40]:
        path.rename(path.with_name(f"r{number}_{path.name}"))
    for path in chosen[40:]:
        path.unlink()
    moved = place.inbox / f"moved{number}"
    (place.inbox / f"old{number % 10}").rename(moved)
    (place.inbox / f"old{number % 10}").mkdir()
    return [word(path, 1) for path in (*chosen[:3], *chosen[40:43])]


def write(path: Path, version: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{EVERY} {word(path, version)}\n")


def word(path: Path, version: int) -> str:
    return f"w{version}_{path.stem}"

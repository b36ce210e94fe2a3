"""SIGKILLs of workers, waiting, working and committing: all done once, nobody charged, no hang."""

from __future__ import annotations

import os
import signal
from collections import Counter

from dropmill.slots import Phase, Slots

from .bench import Bench, Findings, kill

LONG = 120.0  # seconds
FEW, MANY = 1_000, 10_000  # files
MOST = 100  # kills


def run(bench: Bench) -> Findings:
    place = bench.place()
    place.start()
    faults: Counter[str] = Counter({"waiting": 0, "working": 0, "committing": 0})
    slots = Slots(os.fsencode(place.folder / "state"))
    try:
        dropped = 0
        files, kills = (FEW, 3) if bench.seconds < LONG else (MANY, MOST)
        while dropped < files or (
            bench.time_is_left() and not (all(faults.values()) and sum(faults.values()) >= kills)
        ):
            for _ in range(20):
                bench.mixed(place, 10, prefix=f"b{dropped}_")
                dropped += 10
                strike(bench, slots, faults)
    finally:
        slots.close()
    return Findings(dict(faults), bench.audit(place), f"{dropped} files")


def strike(bench: Bench, slots: Slots, faults: Counter[str]) -> None:
    """Kills one worker, in the phase that was struck least often so far if one is seen in it."""
    if sum(faults.values()) >= MOST and all(faults.values()):
        return
    wanted = min(faults, key=lambda phase: faults[phase])
    for _ in range(2_000):
        for _, slot in slots.in_hand():
            if slot.phase is Phase[wanted.upper()]:
                if bench.chance.random() < 0.3 and kill(slot.pid, signal.SIGKILL):
                    faults[wanted] += 1
                return

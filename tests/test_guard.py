"""The guard: what has a limit of its own is a sign of life. Its limits: tests/test_pool.py."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from dropmill.blame import Blame
from dropmill.guard import Guard
from dropmill.job import Fingerprint, Job, Kind
from dropmill.slots import Phase, Slot, Slots

JOB = Job(7, 1, 1, Kind.TEXT, b"/inbox", b"a", Fingerprint(1, 2, 3, 4, 0))


@pytest.mark.parametrize(
    ("phase", "take", "up", "guarded"),
    [
        (Phase.WORKING, JOB.take, True, True),
        (Phase.WORKING, 0, True, False),
        (Phase.WAITING, 0, True, False),
        (Phase.WAITING, 0, False, True),
    ],
)
def test_a_start_and_a_file_in_hand_have_limits_of_their_own(
    folder: bytes, phase: Phase, take: int, up: bool, guarded: bool
) -> None:
    slots = Slots(folder)
    slots.write(0, Slot(phase, os.getpid(), 3, take, 1, 0.0))
    guard = Guard(slots, Blame(1, 1), {3: (JOB,)})
    worker: Any = SimpleNamespace(number=0, up=up, sentence=None)
    assert guard.is_guarded(worker) is guarded
    assert (guard.in_hand(slots.read(0)) == JOB) is bool(take)
    slots.close()

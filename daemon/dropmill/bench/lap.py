"""What every lap has: a fresh state folder to begin with, and a parent's part while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..config.settings import Config
from ..durable import make_folder
from ..errors import DropmillError
from ..feeder import Feeder
from ..index import Shard, identity
from ..job import Job, Report, Verdict
from ..log import shown
from ..store.ledger import Admission, Ledger

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What is done, of how much (0: nobody knows), and what it is.
Progress = Callable[[int, int, str], None]

_BATCH = 2_000  # admissions a transaction
_TELL_EVERY = 0.2
_UNSETTLED = (Verdict.BUSY, Verdict.CHANGED, Verdict.VANISHED)
_OPEN_END = (Verdict.PART, Verdict.VERIFYING, Verdict.STALE)


class Clocked(NamedTuple):
    """How long a lap took."""

    seconds: float
    unsettled: frozenset[bytes]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps back what would end us, so that no process is started that nobody knows of."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def prepare(config: Config, files: Sequence[Admission]) -> None:
    """An empty state folder, with the shards that the workers write and all files queued."""
    state_folder = os.fsencode(config.state)
    make_folder(state_folder, mode=0o700)
    numbers = range(config.worker_count)
    for number in numbers:
        Shard(state_folder, number).close()
    ledger = Ledger(state_folder)
    try:
        ledger.adopt_shards({number: identity(state_folder, number) for number in numbers})
        for start in range(0, len(files), _BATCH):
            ledger.admit(files[start : start + _BATCH])
    finally:
        ledger.close()


class Books:
    """What the parent does with a report, without watching and settling: there is no later."""

    def __init__(self, ledger: Ledger, feeder: Feeder, tell: Callable[[int], None]) -> None:
        """`tell` is given the number of finished files, a few times a second."""
        self._ledger = ledger
        self._feeder = feeder
        self._tell = tell
        self._told = 0.0
        self.finished = 0
        self.unsettled: set[bytes] = set()

    def enter(self, job: Job, report: Report) -> None:
        """One job's report."""
        if report.verdict in _UNSETTLED:
            self._ledger.faults.let_go([job.file])
            self.unsettled.add(os.path.join(job.root, job.path))
        if report.verdict not in (Verdict.DONE, *_OPEN_END):
            self._feeder.drop(job.file)
        self._feeder.landed(job)
        if report.verdict is Verdict.PART:
            self._feeder.first_range_done(job)
        elif report.verdict is Verdict.VERIFYING:
            self._feeder.go_on(job, report.trusted)
        if report.verdict not in _OPEN_END:
            self._count()

    def _count(self) -> None:
        self.finished += 1
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            self._tell(self.finished)


def killed(path: bytes, reason: str) -> DropmillError:
    """What is said of a file that no lap can get past."""
    return DropmillError(
        f"{shown(path)}: {reason}: nothing can be compared with it; leave it out by"
        " `exclude` in a --config, or choose another folder"
    )

"""The bench: the same files taken in by one process, then by the pool; what more workers are worth.

    sample ──► read once ──► lap: one after another ──► lap: 1 worker ──► 2 ──► ... ──► N
                             each: fresh state, clock, outcomes compared, all removed

Why the laps can be compared:

- All run the worker's own code (`worker.main`) on the messages that the service's feeder makes of
  the same ledger rows: the same batches, hashes, syncs and commits, in the same order. One after
  another, only Queue, Lock and the other processes are missing: the process that works also feeds
  itself. So what differs is the workers alone.
- All files are read once before the first lap, so no lap finds them colder than another does,
  unless they are more than memory holds.
- The clock runs from when the workers are up and everything is admitted, as in a service that has
  long been running, until the last outcome is committed. Walking the folder is in no lap.
- Every lap has an empty state folder on the same disk, and what it wrote is removed before the
  next.
- A lap counts only if what came out is what came out of the first: states, lines, encodings,
  ranges, hashes, keywords, and every byte of the copies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import durable
from ..config.settings import Config
from ..errors import DropmillError, MachineFault, UsageError
from ..fitting import worker_settings
from ..source import look
from ..store.ledger import Admission
from ..store.schema import machine_faults
from .alone import one_after_another
from .lap import STOPPING, Clocked, Progress, prepare
from .outcomes import Outcomes, gather
from .pooled import by_the_pool

__all__ = [
    "STOPPING",
    "Difference",
    "Lap",
    "Progress",
    "differences",
    "lap_name",
    "laps",
    "scratch",
    "worker_counts",
]


class Lap(NamedTuple):
    """All files, once."""

    workers: int | None  # None: one after another, in one process
    seconds: float
    unsettled: frozenset[bytes]  # files that were written, changed or removed meanwhile
    outcomes: Outcomes


class Difference(NamedTuple):
    """A file that two laps made something else of."""

    path: bytes
    changed: bool  # it is not any more what it was when it was looked for


def worker_counts(most: int) -> list[int]:
    """How many workers to try: 1, 2, 3, 4, 8, 16, ... and `most` itself."""
    counts = [count for count in (1, 2, 3, 4) if count <= most]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]


def laps(
    config: Config,
    files: Sequence[Admission],
    counts: Sequence[int],
    progress: Progress,
    before_removal: Callable[[Lap], None] = lambda lap: None,
) -> Iterator[Lap]:
    """One lap after another. State and copies of each go where the configuration says.

    `before_removal` may still ask what a lap has left there. Raises DropmillError.
    """
    for workers in (None, *counts):
        with _cleared(config), _told_as_a_sentence(config):
            configured = config.model_copy(update={"workers": workers or 1})
            prepare(configured, files)
            clocked = _run(configured, workers, _named(progress, len(files), lap_name(workers)))
            outcomes = gather(os.fsencode(config.state))
            lap = Lap(workers, clocked.seconds, clocked.unsettled, outcomes)
            before_removal(lap)
        yield lap


@contextlib.contextmanager
def _told_as_a_sentence(config: Config) -> Iterator[None]:
    """What may be wrong with the disk that state and copies lie on."""
    reason = ""
    try:
        with machine_faults("results.db"):
            yield
    except MachineFault as fault:
        reason = str(fault)
    except OSError as error:
        reason = f"{os.fsdecode(error.filename or config.state)}: {error.strerror}"
    if reason:
        scratch_folder = config.state.parent.parent
        raise DropmillError(f"{scratch_folder}: {reason}: --scratch DIR chooses another place")


def lap_name(workers: int | None) -> str:
    """What a lap is called: `one after another`, `1 worker`, `2 workers`."""
    if workers is None:
        return "one after another"
    return "1 worker" if workers == 1 else f"{workers} workers"


def _named(progress: Progress, total: int, what: str) -> Progress:
    """For what knows only how many it has finished."""
    return lambda finished, _total, _what: progress(finished, total, what)


def _run(config: Config, workers: int | None, progress: Progress) -> Clocked:
    settings = worker_settings(config)
    root = os.fsencode(config.watch[0].path)
    if workers is None:
        return one_after_another(settings, root, progress)
    return by_the_pool(settings, root, config.limits.timeout, progress)


@contextlib.contextmanager
def _cleared(config: Config) -> Iterator[None]:
    """Nothing of a lap is left for the next, nor for the disk to write during it."""
    try:
        yield
    finally:
        for folder in (config.state, config.images.output):
            shutil.rmtree(folder, ignore_errors=True)
    durable.sync(os.fsencode(config.state.parent))


def differences(files: Sequence[Admission], done: Sequence[Lap]) -> list[Difference]:
    """The files that the laps do not agree on, those that stood still first."""
    first, *others = done
    unsettled = frozenset().union(*(lap.unsettled for lap in done))
    paths = {os.path.join(each.folder, each.name): each for each in files}
    found = []
    for path, admitted in paths.items():
        digest = first.outcomes.digests.get(path)
        if path in unsettled:
            found.append(Difference(path, True))
        elif any(lap.outcomes.digests.get(path) != digest for lap in others):
            now = look(path)
            stands = now is not None and now[:3] == admitted.fingerprint[:3]
            found.append(Difference(path, not stands))
    return sorted(found, key=lambda difference: difference.changed)


# ---- where it happens ----------------------------------------------------------------------------


@contextlib.contextmanager
def scratch(parent: str | None, folder: Path) -> Iterator[Path]:
    """A folder of our own outside of `folder`, gone afterwards whatever happens within.

    In `parent`, or where temporary files that may be large belong. Raises UsageError where that
    lies in `folder`, which is only read, or cannot be written to.
    """
    place = Path(os.path.realpath(parent or _large_temporary_files()))
    if place == folder or folder in place.parents:
        raise UsageError(f"{place}: lies in {folder}, which is only read: name another --scratch")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        try:
            made = tempfile.mkdtemp(prefix="dropmill-bench-", dir=place)
        except OSError as error:
            sentence = f"{place}: nothing can be written there: {error.strerror}"
            raise UsageError(f"{sentence}: name another --scratch") from None
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            yield Path(made)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            _remove(made)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _large_temporary_files() -> str:
    """On a disk, as a state folder is; /tmp is often memory, where syncing costs nothing."""
    fitting = not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK)
    return "/var/tmp" if fitting else tempfile.gettempdir()


def _remove(folder: str) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise DropmillError(f"{folder}: cannot be removed: {error.strerror}: remove it") from None

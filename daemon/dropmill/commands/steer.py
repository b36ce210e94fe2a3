"""`dropmill retry`, `scan`, `pause` and `resume`: what is asked of the daemon."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sys
import time
from collections.abc import Iterator

from .. import asking
from ..errors import DropmillError, MachineFault, UsageError
from ..job import State
from ..store.reading import Reader, Result, Which
from .printing import absolute, amount, duration, shown

_AGAIN = (State.RETRY, State.QUARANTINED)
_PATHS_A_REQUEST = 40  # of at most 4 kB each, escaped: below the longest request
_PATIENCE_SECONDS = 10.0


def scan(state_folder: bytes, path: str | None) -> int:
    """Has disk and ledger compared now, waits for it, and prints how much was looked at."""
    where = None if path is None else os.fsdecode(absolute(path))
    found = asking.ask(state_folder, "scan", {"path": where})
    seen, seconds = amount(int(found["files"]), "file"), duration(float(found["seconds"]))
    print(f"looked at {seen} in {seconds}")
    return 0


def pause(state_folder: bytes) -> int:
    asking.ask(state_folder, "pause", {}, _PATIENCE_SECONDS)
    print("paused: the files in hand are finished, no new ones are taken", file=sys.stderr)
    return 0


def resume(state_folder: bytes) -> int:
    asking.ask(state_folder, "resume", {}, _PATIENCE_SECONDS)
    print("going on", file=sys.stderr)
    return 0


# ---- retry ---------------------------------------------------------------------------------------


def retry(state_folder: bytes, paths: tuple[str, ...], *, everything: bool) -> int:
    """Puts quarantined files back, with or without a daemon.

    A folder stands for all the files below it. Gives 1 when nothing was put back, or when one of
    the paths is in no quarantine.
    """
    if not paths and not everything:
        raise UsageError("retry: give the files to try again, or --all")
    if paths and everything:
        raise UsageError("retry: either the files to try again or --all, not both")
    with Reader(state_folder) as reader:
        wanted = list(_quarantined(reader, paths, everything))
    found = [each for each in wanted if isinstance(each, Result)]
    for sentence in (each for each in wanted if isinstance(each, str)):
        print(f"dropmill: {sentence}", file=sys.stderr)
    count = _put_back(state_folder, found, everything) if found else 0
    print(f"{amount(count, 'file')} put back into the queue")
    return 0 if count and len(found) == len(wanted) else 1


def _quarantined(
    reader: Reader, paths: tuple[str, ...], everything: bool
) -> Iterator[Result | str]:
    """The files to be tried again, and a sentence for each path that is none."""
    if everything:
        yield from reader.results(Which((State.QUARANTINED,)))
    for given in paths:
        path = absolute(given)
        result = reader.file(path)
        if result is None and os.path.isdir(path):
            below = list(reader.results(Which(_AGAIN, os.path.realpath(path))))
            yield from below
            if not below:
                yield f"{shown(path)}: nothing below it is in quarantine"
        elif result is None:
            yield f"{shown(path)}: unknown: dropmill explain tells why"
        elif result.state not in _AGAIN:
            yield f"{shown(path)}: not in quarantine, it is {result.state.label}"
        else:
            yield result


def _put_back(state_folder: bytes, found: list[Result], everything: bool) -> int:
    """By the daemon, else by ourselves while no daemon can start."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with contextlib.suppress(asking.NotRunning):
            return _ask_to_put_back(state_folder, found, everything)
        with _only_one(state_folder) as alone:
            if alone:
                return _put_back_alone(state_folder, found)
        if time.monotonic() > deadline:
            raise DropmillError("a daemon holds the state folder and does not answer; try again")
        time.sleep(0.1)  # it is just starting, or stopping


def _ask_to_put_back(state_folder: bytes, found: list[Result], everything: bool) -> int:
    if everything:
        return int(asking.ask(state_folder, "retry", {"paths": None})["count"])
    count = 0
    paths = iter([os.fsdecode(result.path) for result in found])
    while batch := list(itertools.islice(paths, _PATHS_A_REQUEST)):
        count += int(asking.ask(state_folder, "retry", {"paths": batch})["count"])
    return count


def _put_back_alone(state_folder: bytes, found: list[Result]) -> int:
    from ..store.ledger import Ledger

    ledger = Ledger(state_folder)
    try:
        return ledger.faults.retry(result.id for result in found)
    except MachineFault as fault:
        raise DropmillError(str(fault)) from None
    finally:
        ledger.close()


@contextlib.contextmanager
def _only_one(state_folder: bytes) -> Iterator[bool]:
    """Whether the state folder's lock was free; holds it for the length of a `with` if so."""
    path = os.path.join(state_folder, b"lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except PermissionError:
        raise DropmillError(
            f"{shown(path)}: without a daemon only the owner of the state folder may do that"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)

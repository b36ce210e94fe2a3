"""Opening: all sources of a message, before any of them is read, so that the kernel reads ahead."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence

from .errors import MachineFault
from .job import Job, Outcome, Verdict
from .source import Beneath, NotRegular

MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS}


class ShutOut(Exception):  # noqa: N818 - no error of anybody's
    """A root came, or was replaced, after this process was shut in: a fresh one can open it."""


@contextlib.contextmanager
def opened(
    jobs: Sequence[Job], in_hand: Callable[[Job], None], may_open: Callable[[bytes], bool]
) -> Iterator[list[tuple[Job, int | Outcome]]]:
    """Each job with its open source, or with the outcome that opening it had.

    `in_hand` is told of each before it is touched; `may_open` says whether what lies in a root is
    open to this process. Raises MachineFault and ShutOut.
    """
    roots: dict[bytes, Beneath | OSError] = {}
    sources: list[tuple[Job, int | Outcome]] = []
    try:
        for job in jobs:
            in_hand(job)
            sources.append((job, _open(job, roots, may_open)))
        yield sources
    finally:
        for _, found in sources:
            if isinstance(found, int):
                os.close(found)
        for root in roots.values():
            if isinstance(root, Beneath):
                root.close()


def _open(
    job: Job, roots: dict[bytes, Beneath | OSError], may_open: Callable[[bytes], bool]
) -> int | Outcome:
    if job.root not in roots:
        try:
            roots[job.root] = Beneath(job.root)
        except OSError as error:
            if error.errno in MACHINE:
                raise MachineFault(f"opening a watched folder: {error.strerror}") from None
            roots[job.root] = error
    root = roots[job.root]
    if isinstance(root, OSError):
        return Outcome(job, Verdict.VANISHED, 0, f"its root: {root.strerror}")
    try:
        descriptor = root.open(job.path)
    except OSError as error:
        if error.errno == errno.EACCES and not may_open(job.root):
            raise ShutOut from None
        return _fault(job, error)
    with contextlib.suppress(OSError):
        length = job.end - job.first if job.ranged else 0
        os.posix_fadvise(descriptor, job.first, length, os.POSIX_FADV_WILLNEED)
    return descriptor


def _fault(job: Job, error: OSError) -> Outcome:
    if isinstance(error, NotRegular) or error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Outcome(job, Verdict.VANISHED, time.time_ns())
    if error.errno in MACHINE:
        raise MachineFault(f"opening a source: {error.strerror}")
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = f"permission denied: let the service's user (uid {os.geteuid()}) read it"
        return Outcome(job, Verdict.QUARANTINED, time.time_ns(), reason)
    return Outcome(job, Verdict.RETRY, time.time_ns(), f"opening it: {error.strerror}")

"""The vocabulary: what a file, a take and its outcome are called, and nothing that does work.

Paths are bytes throughout (a name may hold any byte but `/` and NUL); times of day are whole
nanoseconds since the epoch; sizes and positions are bytes.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from .fingerprint import Fingerprint as Fingerprint


class State(enum.IntEnum):
    """Where a file stands in the ledger."""

    QUEUED = 1
    DONE = 2
    RETRY = 3
    QUARANTINED = 4
    SKIPPED = 5
    GONE = 6

    @property
    def label(self) -> str:
        return self.name.lower()


class Kind(enum.IntEnum):
    """What a file is taken in as."""

    TEXT = 1
    IMAGE = 2
    DATASET = 3  # a table that is aggregated, and perhaps a text as well

    @property
    def label(self) -> str:
        return self.name.lower()


class Lane(enum.IntEnum):
    """What is fed first: small and new overtake the backlog, and both overtake huge texts."""

    FRESH = 0
    BACKLOG = 1
    LARGE = 2


class Take(NamedTuple):
    """A piece of one text or data set: bytes `first` to `end`, indexed, aggregated or both."""

    id: int
    first: int
    end: int
    digest: bytes  # 16 bytes
    newlines: int
    unterminated: bool  # ends at the end of the file, in the middle of a line
    keywords: dict[str, list[int]]  # watch-list term → line numbers, the take's first being 1
    rules: bytes | None = None  # a digest of the rules that it is aggregated by
    partial: str | None = None  # what it comes to by them, packed


class Job(NamedTuple):
    """One take to be worked on: what a worker finds on the Queue.

    A small text or an image is one job. A large text or data set is one job a range: the first
    alone (it decides the encoding), then the others in parallel. `first` and `end` of a range are
    nominal unless `exact`: the worker moves both to the next line (or record), so that neighbours
    agree.
    """

    take: int  # random, 63 bits, never used again
    file: int  # its ledger row
    seq: int  # of the admission; an outcome for an older one is dropped
    kind: Kind
    root: bytes
    path: bytes  # relative to the root
    fingerprint: Fingerprint
    first: int = 0
    end: int = 0
    exact: bool = True  # `first` is a take's true start
    ranged: bool = False  # one of several ranges, not the first
    encoding: str | None = None  # decided already
    known: tuple[Take, ...] = ()  # what the index holds of this content, as far as is known
    trusted: int = 0  # the known takes up to here need not be read again
    skimmed: bool = False  # they never were: all of it is to be compared once it is quiet
    comparing: bool = False  # it is finished, and compared once more with what came of it
    unhurried: bool = True  # leave it alone while anyone writes it
    digest: bytes | None = None  # of an image's content when it was last done
    output: bytes | None = None  # the copy made then
    moved_from: int | None = None  # the ledger row it may be a rename of
    stride: int = 0  # bytes of a range


class Verdict(enum.IntEnum):
    """What came of a job, as the parent needs to know it."""

    DONE = 1  # the file is done
    PART = 2  # this range is done, the file is not
    SKIPPED = 3
    QUARANTINED = 4
    RETRY = 5  # charged: a fault that may pass
    BUSY = 6  # somebody is writing it: back to settle, uncharged
    CHANGED = 7  # not the file that was admitted: back to settle, uncharged
    VANISHED = 8  # no such file any more
    VERIFYING = 9  # known takes were verified up to `trusted`; go on from there
    STALE = 10  # the ledger knows a newer content by now; dropped
    RENAMED = 11  # the content of `moved_from`, under a new name
    UNCHANGED = 12  # touched, chmodded, restored: the content is what it was
    AS_BEFORE = 13  # compared once more, and still what it was: nothing to tell of


class Outcome(NamedTuple):
    """What a worker found out about one job, as it goes into the ledger."""

    job: Job
    verdict: Verdict
    started_ns: int
    reason: str | None = None
    encoding: str | None = None
    keep_to: int = 0  # known takes that end here or before are still true
    takes: tuple[Take, ...] = ()
    digest: bytes | None = None
    output: bytes | None = None
    width: int | None = None
    height: int | None = None
    fingerprint: Fingerprint | None = None  # where it differs from the job's (chmod, growth)
    look_again: bool = False  # it changed while it was read
    trusted: int = 0  # up to here the known takes agree with the content
    rules: bytes | None = None  # a digest of the rules that a data set was looked at by


class Report(NamedTuple):
    """One outcome on its way back to the parent."""

    take: int
    file: int
    verdict: Verdict
    reason: str | None
    look_again: bool
    trusted: int
    # Watch-list hits in lines that are new: term → lines of the file.
    keywords: dict[str, list[int]]
    rules: bytes | None = None  # a digest of the rules that a data set was looked at by

"""From the ledger to the pool: which queued files go next, and in what messages.

The backlog lives in the ledger; here are only the jobs in flight. Small and new overtake: what
arrived last goes first, with every fourth message from the oldest of the fresh, then the backlog,
the ranges of large texts and new large texts take turns. A message is small enough that a note
never waits long behind those that are on the Queue already.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import deque
from collections.abc import Callable, Iterable

from .job import Job, Kind, Lane
from .pool import Pool
from .processors.text import RANGE
from .store.ledger import Ledger
from .store.table import Row

MOST_FILES = 512
MOST_BYTES = 8 * 1024 * 1024
WORTH_SHARING = 256 * 1024  # bytes; less is done sooner (10 ms) than two workers sync it (15)
FILE_COST = 2_048  # what a file costs beside its bytes
_TRUSTED = 4  # ranges; a longer log is compared as a whole only once it is quiet
IMAGE_COST = 2  # a byte of a photograph costs 1.2 times a byte of text, of a flat picture up to 9


class Feeder:
    """Keeps the Queue full from the ledger's queued rows."""

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        root_of: Callable[[bytes], bytes | None],
        stride_of: Callable[[bytes, Kind], int] = lambda name, kind: RANGE,
    ) -> None:
        """`root_of` gives the watched folder that a folder lies in, `stride_of` how many bytes a
        range of a file has, by its name and kind."""
        self._stride_of = stride_of
        self._ledger = ledger
        self._pool = pool
        self._root_of = root_of
        self._in_flight: dict[int, int] = {}  # file → jobs of it
        self._postponed: set[int] = set()  # admitted anew while in flight
        self._again: deque[Job] = deque()
        self._ranges: deque[Job] = deque()
        self._held: frozenset[bytes] = frozenset()  # roots that hang
        self._waiting: set[int] = set()  # files of theirs, queued in the ledger
        self._large_takes: set[int] = set()  # those of large texts that are in flight
        self._fresh = _Newest(ledger)
        self._cursors = {Lane.BACKLOG: 0, Lane.LARGE: 0}
        self._guess = MOST_FILES
        self._to_compare: deque[Row] = deque()
        self._turns = itertools.cycle(
            (self._backlog, self._comparisons, self._one_range, self._large)
        )

    # ---- to the pool -------------------------------------------------------------------------

    def fill(self) -> None:
        """Sends messages until the Queue is full or nothing is queued."""
        while self._pool.has_room():
            jobs = self._next()
            if not jobs:
                return
            self._send(jobs)

    def _send(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._in_flight[job.file] = self._in_flight.get(job.file, 0) + 1
            if job.kind is not Kind.IMAGE and job.fingerprint.size > RANGE:
                self._large_takes.add(job.take)
        jobs.sort(key=lambda job: (job.root, job.path))
        if not self._pool.put(jobs):
            for job in jobs:
                self._landed(job)
            self._again.extend(jobs)

    def _next(self) -> list[Job]:
        while self._again:
            job = self._again.popleft()
            if not self._is_held(job.root, job.file):
                return [job]
        jobs = self._lane(self._fresh.rows, self._fresh.used)
        # Each turn, and those for ranges again after what a new large text brought.
        for _ in range(7):
            if jobs:
                break
            jobs = next(self._turns)()
        return jobs

    def hold(self, roots: frozenset[bytes]) -> None:
        """Sends nothing of these roots, which hang; what waited for the others goes on."""
        if roots != self._held:
            self._ledger.feed_again(self._waiting)
            self._held = roots
            self._waiting.clear()

    def _is_held(self, root: bytes, file: int) -> bool:
        if root in self._held:
            self._waiting.add(file)
        return root in self._held

    def _backlog(self) -> list[Job]:
        return self._lane(*self._cursor(Lane.BACKLOG))

    def _large(self) -> list[Job]:
        return self._lane(*self._cursor(Lane.LARGE)) if self._has_hands_for_large() else []

    def _one_range(self) -> list[Job]:
        while self._ranges and self._has_hands_for_large():
            job = self._ranges.popleft()
            if not self._is_held(job.root, job.file) and self._is_current(job):
                return [job]
        return []

    def compare(self, rows: Iterable[Row]) -> None:
        """These are due to be compared once more; any that were given before are not."""
        self._to_compare = deque(sorted(rows, key=lambda row: row.seq))

    def _comparisons(self) -> list[Job]:
        rows: list[Row] = []
        while self._to_compare and len(rows) < MOST_FILES:
            row = self._to_compare.popleft()
            if row.id not in self._in_flight:
                rows.append(row)
        jobs, seq = self._pack(rows, MOST_FILES)
        self._to_compare.extendleft(row for row in reversed(rows) if row.seq > seq)
        return [job._replace(comparing=True) for job in jobs]

    def _is_current(self, job: Job) -> bool:
        """Whether the file is queued, or to be compared, still as the job was made for."""
        if job.comparing:
            row = self._ledger.row(job.file)
            return row is not None and row.seq == job.seq
        return any(row.seq == job.seq for row in self._ledger.queued_rows([job.file]))

    def _has_hands_for_large(self) -> bool:
        """None of them waits on the Queue, and they leave one worker to the small, if any.

        A note that comes waits for what is in hand, not for all that was sent before.
        """
        hands = self._pool.size
        if len(self._large_takes) >= hands - 1 > 0 and self._ledger.has_small_queued():
            hands -= 1
        return len(self._large_takes) < hands

    def _cursor(self, lane: Lane) -> tuple[Callable[[int], list[Row]], Callable[[int], None]]:
        def rows(limit: int) -> list[Row]:
            after, newest = self._cursors[lane], self._ledger.seq
            if after == newest:
                return []
            found = self._ledger.queued(lane, after, newest, limit, newest_first=False)
            if not found:
                used(newest)  # nothing is queued again but with a number above it
            return found

        def used(seq: int) -> None:
            self._cursors[lane] = seq

        return rows, used

    def _lane(self, rows: Callable[[int], list[Row]], used: Callable[[int], None]) -> list[Job]:
        """A message's worth of a lane's next rows."""
        while found := rows(self._guess):
            # Where this is all there is, every worker gets its share, if that is worth a message.
            is_all = len(found) < self._guess
            most = math.ceil(len(found) / self._pool.size) if is_all else MOST_FILES
            jobs, seq = self._pack(found, most)
            if not is_all:
                self._guess = max(8, min(MOST_FILES, 2 * len(jobs)))
            used(seq)
            if jobs:
                return jobs
        return []

    def _pack(self, rows: list[Row], most: int) -> tuple[list[Job], int]:
        """As many of the rows as fit a message, and the number of the last one looked at."""
        jobs: list[Job] = []
        cost, seq = 0, 0
        for row in rows:
            weight = IMAGE_COST if row.kind is Kind.IMAGE else 1
            cost += FILE_COST + weight * min(row.fingerprint.size, RANGE)
            if jobs and (cost > MOST_BYTES or (len(jobs) >= most and cost > WORTH_SHARING)):
                break
            seq = row.seq
            job = self._job(row)
            if job is not None:
                jobs.append(job)
        return jobs, seq

    # ---- from a row to a job -----------------------------------------------------------------

    def _job(self, row: Row) -> Job | None:
        """The row's job; None where it goes another way, or must wait for an earlier one."""
        if row.id in self._in_flight:
            self._postponed.add(row.id)
            return None
        root = self._root_of(row.folder)
        if root is None:
            return None  # not watched any more: the next start takes it out of search
        if self._is_held(root, row.id):
            return None
        if row.in_parts:
            self._continue(row, root)
            return None
        job = self._with_what_is_known(row, self._plain_job(row, root))
        if row.alone:
            self._in_flight[row.id] = 1
            self._pool.put_alone(job)
            return None
        return job

    def _with_what_is_known(self, row: Row, job: Job) -> Job:
        known_as = row
        if row.moved_from is not None:
            known_as = self._ledger.row(row.moved_from) or row
        if known_as.kind is Kind.IMAGE:
            return job._replace(digest=known_as.digest, output=known_as.output)
        if known_as.encoding is None:
            return job
        known = tuple(self._ledger.takes(known_as.id))
        trusted = 0
        # Of one that was never finished, the takes so far say nothing of growth.
        held = known[-1].end if known and known_as.version else 0
        if row.kind is Kind.TEXT and row.fingerprint.size > held > _TRUSTED * RANGE:
            # A large log grew: its last take is compared now, all of it once it is quiet. Of a
            # table all is: one that was written anew would be added to what it held before.
            trusted = known[-1].first
        return job._replace(
            known=known,
            trusted=trusted,
            skimmed=trusted > 0,
            encoding=known_as.encoding if known else None,
        )

    def _continue(self, row: Row, root: bytes) -> None:
        """Makes jobs of the ranges that a large text still lacks."""
        covered, size = self._ledger.covered(row.id, row.kept_to), row.fingerprint.size
        missing = _missing(covered, size, self._stride_of(row.name, row.kind))
        if not missing:
            # It was rewritten between two ranges: they do not fit together any more.
            self._ledger.begin_anew(row.id)
            return
        jobs = [
            self._plain_job(row, root)._replace(
                first=first, end=end, exact=exact, ranged=True, trusted=row.kept_to or 0
            )
            for first, end, exact in missing
        ]
        if row.alone:
            self._in_flight[row.id] = 1
            self._pool.put_alone(jobs[0])
        else:
            self._ranges.extend(jobs)

    def _plain_job(self, row: Row, root: bytes) -> Job:
        job = _plain_job(row, root)
        if row.kind is Kind.DATASET:
            job = job._replace(stride=self._stride_of(row.name, row.kind))
        return job

    # ---- from the pool -----------------------------------------------------------------------

    def landed(self, job: Job) -> None:
        """One of a file's jobs is over. What it was admitted anew as goes next."""
        if self._landed(job) and job.file in self._postponed:
            self._postponed.discard(job.file)
            self._feed_now(job.file)

    def _landed(self, job: Job) -> bool:
        self._large_takes.discard(job.take)
        left = self._in_flight.get(job.file, 0) - 1
        if left > 0:
            self._in_flight[job.file] = left
            return False
        self._in_flight.pop(job.file, None)
        return True

    def _feed_now(self, file: int) -> None:
        for row in self._ledger.queued_rows([file]):
            job = self._job(row)
            if job is not None:
                self._again.append(job)

    def first_range_done(self, job: Job) -> None:
        """A large text's encoding is decided: the other ranges can go, in parallel."""
        if any(waiting.seq == job.seq for waiting in self._ranges_of(job.file)):
            return
        if job.file in self._in_flight:
            self._postponed.add(job.file)  # when the last has landed, it is seen what is missing
            return
        for row in self._ledger.queued_rows([job.file]):
            if row.seq == job.seq and row.in_parts:
                self._job(row)

    def _ranges_of(self, file: int) -> list[Job]:
        return [job for job in self._ranges if job.file == file]

    def go_on(self, job: Job, trusted: int) -> None:
        """Its known takes agree up to `trusted`; there is more to read."""
        if self._is_current(job):
            self._again.append(job._replace(take=random.getrandbits(63), trusted=trusted))

    def returned(self, jobs: Iterable[Job]) -> None:
        """Jobs that nobody finished: they go again, unless the ledger knows better by now."""
        files = set()
        for job in jobs:
            self._landed(job)
            files.add(job.file)
        for file in files:
            self._ranges = deque(job for job in self._ranges if job.file != file)
            if file not in self._in_flight:
                self._postponed.discard(file)
                self._feed_now(file)

    def rules_changed(self) -> None:
        """What was made for another root than its file lies in now is made anew. MachineFault."""
        waiting = (*self._again, *self._ranges)
        moved = {job.file for job in waiting if self._root_of(_path(job)) != job.root}
        self._again = deque(job for job in self._again if job.file not in moved)
        self._ranges = deque(job for job in self._ranges if job.file not in moved)
        self._ledger.feed_again(moved)

    def drop(self, file: int) -> None:
        """Its ranges that are not on their way yet are not to be sent."""
        self._ranges = deque(job for job in self._ranges if job.file != file)

    def files_in_flight(self) -> int:
        return len(self._in_flight)

    def is_empty(self) -> bool:
        return not (self._in_flight or self._again or self._ranges or self._postponed)


class _Newest:
    """The fresh lane: a stack of stretches of admissions that were not fed yet, newest on top."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seen = 0
        self._stretches: list[tuple[int, int]] = []  # (after, up to)
        self._turn = 0
        self._from_the_oldest = False

    def rows(self, limit: int) -> list[Row]:
        if self._ledger.seq > self._seen:
            self._stretches.append((self._seen, self._ledger.seq))
            self._seen = self._ledger.seq
        while self._stretches:
            self._turn += 1
            self._from_the_oldest = self._turn % 4 == 0
            after, up_to = self._stretches[0 if self._from_the_oldest else -1]
            found = self._ledger.queued(
                Lane.FRESH, after, up_to, limit, newest_first=not self._from_the_oldest
            )
            if found:
                return found
            self._stretches.pop(0 if self._from_the_oldest else -1)
        return []

    def used(self, seq: int) -> None:
        """The rows up to and with that number, of those given last, are on their way."""
        place = 0 if self._from_the_oldest else -1
        after, up_to = self._stretches[place]
        self._stretches[place] = (seq, up_to) if self._from_the_oldest else (after, seq - 1)


def _path(job: Job) -> bytes:
    return os.path.join(job.root, job.path)


def _plain_job(row: Row, root: bytes) -> Job:
    inside = row.folder[len(root) + 1 :]
    return Job(
        random.getrandbits(63),
        row.id,
        row.seq,
        row.kind,
        root,
        inside + b"/" + row.name if inside else row.name,
        row.fingerprint,
        encoding=row.encoding,
        unhurried=row.unhurried,
        moved_from=row.moved_from,
    )


def _missing(covered: list[tuple[int, int]], size: int, stride: int) -> list[tuple[int, int, bool]]:
    """The ranges that are not covered: (first, end, whether first is a true start).

    Inner borders are multiples of `stride`; the worker moves each to the next line end, so a range
    that ends where a finished one starts is given the multiple that one started from. None at all
    where what is covered cannot have been cut like that.
    """
    found: list[tuple[int, int, bool]] = []
    position = 0
    for first, end in [*covered, (size, size)]:
        if first > position:
            pieces = _cut_up(position, first, first == size, stride)
            if not pieces:
                return []
            found += pieces
        position = max(position, end)
    return found


def _cut_up(first: int, end: int, is_last: bool, stride: int) -> list[tuple[int, int, bool]]:
    begin = (first // stride + 1) * stride
    borders = list(range(begin, end + (0 if is_last else 1), stride))
    if is_last:
        borders.append(end)
    if not borders:
        return []
    starts = [first, *borders[:-1]]
    return [(start, border, start == first) for start, border in zip(starts, borders, strict=True)]

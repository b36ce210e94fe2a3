"""Settle: decide when a noticed file is quiet enough to be taken. Pure: clock and look are given.

    notice ──► pending ──► quiet for `settle`? ──► Ready
                  ▲             │ never, for `settle_max` ──► Ready, not unhurried
                  └── changed ── hot (an open log makes no events: looked at again)

Quiet means: an unchanged fingerprint, no notice and nobody writing for `settle` seconds of the
clock, which must be monotonic. The wall clock enters only as a file's age, which can put a look
off by one quiet time when it is wrong, never more.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, KeysView
from typing import NamedTuple

from .job import Fingerprint

# mtimes come from the kernel's coarse clock, which lags by up to one tick (10 ms at 100 Hz).
_TICK = 0.02
_STALE_TIMERS = 1_000


class Look(NamedTuple):
    """What one look at a file shows."""

    fingerprint: Fingerprint | None  # None: gone, or no regular file
    writing: bool | None  # somebody has it open for writing; None where we may not ask
    age: float | None  # seconds since its mtime by the wall clock; None or negative: unknown


class Ready(NamedTuple):
    """A file that may be taken."""

    path: bytes
    fingerprint: Fingerprint
    unhurried: bool  # False: it is not quiet, but `settle_max` ran out


class Gone(NamedTuple):
    """A noticed file that is not there (any more), or is no regular file."""

    path: bytes


class _Pending:
    """One noticed file. Its timer is the heap's item whose time is `due`; others are stale."""

    __slots__ = (
        "busy",
        "due",
        "fingerprint",
        "first",
        "may_hurry",
        "moved",
        "path",
        "quiet_from",
        "settle",
        "settle_max",
    )

    def __init__(self, path: bytes, first: float) -> None:
        self.path = path
        self.first = first
        self.quiet_from = first
        self.due = float("inf")
        self.fingerprint: Fingerprint | None = None  # as of `quiet_from`
        self.busy = 0  # looks in a row that found somebody writing
        self.settle = self.settle_max = 0.0
        self.moved = False
        self.may_hurry = True

    def next_look(self, now: float) -> float:
        """Exactly at the end of the quiet time; later and later while it is being written."""
        quiet_at = self.quiet_from + self.settle
        patience = min(self.settle * 2.0 ** min(self.busy, 30), max(self.settle_max, self.settle))
        when = quiet_at if quiet_at > now and not self.busy else now + max(patience, 0.01)
        can_run_out = self.may_hurry and not self.has_run_out(now)
        return min(when, self.first + self.settle_max) if can_run_out else when

    def has_waited(self, now: float) -> bool:
        return now >= self.quiet_from + self.settle

    def has_run_out(self, now: float) -> bool:
        return self.may_hurry and now >= self.first + self.settle_max


class _Hot(NamedTuple):
    fingerprint: Fingerprint
    due: float  # the time of its timer; others are stale
    changed: float
    looked: float
    settle: float
    settle_max: float
    may_hurry: bool


class Settle:
    """Noticed files until they are quiet. For one thread.

    A notice costs O(1) and starts no timer where one is running that comes soon enough: timers
    that turn out to be early are set again, so a file noticed 10,000 times a second has one.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        look: Callable[[bytes], Look],
        *,
        keep_hot: float = 3600.0,
        most_hot: int = 10_000,
    ) -> None:
        """`clock` gives monotonic seconds. Files stay hot until unchanged for `keep_hot` seconds;
        of more than `most_hot`, those unchanged the longest are dropped (a scan finds them)."""
        self._clock = clock
        self._look = look
        self._keep_hot = keep_hot
        self._most_hot = most_hot
        self._pending: dict[bytes, _Pending] = {}
        self._timers: list[tuple[float, int, _Pending]] = []
        self._order = itertools.count()
        self._hot: OrderedDict[bytes, _Hot] = OrderedDict()  # the longest unchanged first
        self._hot_timers: list[tuple[float, bytes]] = []

    def notice(
        self,
        path: bytes,
        settle: float,
        settle_max: float,
        moved: bool = False,
        may_hurry: bool = True,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """The file was seen to change: its quiet time (seconds) starts again.

        `moved`: renamed into place, so ready at once unless somebody is writing it.
        `may_hurry`: it may be taken unquiet after `settle_max`; False for images.
        `fingerprint`: what the noticing scan saw, where it was one.
        """
        now = self._clock()
        entry = self._pending.get(path)
        if entry is None:
            entry = self._pending[path] = _Pending(path, now)
        entry.settle, entry.settle_max, entry.may_hurry = settle, settle_max, may_hurry
        entry.moved, entry.fingerprint, entry.quiet_from = moved, fingerprint, now
        entry.busy = 0
        self._arm(entry, now if moved else entry.next_look(now))

    def forget(self, path: bytes) -> None:
        """Wait for it no longer (it is gone, or no longer wanted)."""
        self._pending.pop(path, None)
        self._hot.pop(path, None)

    def retime(self, times: Callable[[bytes], tuple[float, float] | None]) -> None:
        """Other settings: `times` gives a file's settle and settle_max; None forgets it."""
        for path in [*self._pending, *self._hot]:
            found = times(path)
            if found is None:
                self.forget(path)
                continue
            if (hot := self._hot.get(path)) is not None:
                due = min(hot.due, self._clock() + max(found[1], 0.01))
                self._hot[path] = hot._replace(due=due, settle=found[0], settle_max=found[1])
                if due != hot.due:
                    heapq.heappush(self._hot_timers, (due, path))
            if (entry := self._pending.get(path)) is not None:
                entry.settle, entry.settle_max = found
                self._arm(entry, entry.next_look(self._clock()))

    def due(self) -> float | None:
        """When `ready` next has something to do, by the clock; None: nothing is waited for."""
        self._drop_stale()
        times = [timers[0][0] for timers in (self._timers, self._hot_timers) if timers]
        return min(times, default=None)

    def ready(self, limit: int = 2_000) -> list[Ready | Gone]:
        """The files whose waiting is over, after at most `limit` looks. Never waits."""
        now = self._clock()
        found: list[Ready | Gone] = []
        looks = 0
        while looks < limit and self._timers and self._timers[0][0] <= now:
            when, _, entry = heapq.heappop(self._timers)
            if self._is_stale(when, entry):
                continue
            entry.due = float("inf")
            if self._is_early(entry, now):
                self._arm(entry, entry.next_look(now))
                continue
            looks += 1
            self._judge(entry, self._look(entry.path), now, found)
        while looks < limit and self._hot_timers and self._hot_timers[0][0] <= now:
            when, path = heapq.heappop(self._hot_timers)
            looks += self._look_at_hot(when, path, now, found)
        return found

    def since(self, path: bytes) -> float | None:
        """When the file was first noticed, by the clock; None if it is not waited for."""
        entry = self._pending.get(path)
        return None if entry is None else entry.first

    @property
    def pending(self) -> KeysView[bytes]:
        """The paths that are waited for."""
        return self._pending.keys()

    @property
    def hot(self) -> KeysView[bytes]:
        """The paths that are looked at again although nothing was noticed."""
        return self._hot.keys()

    def __len__(self) -> int:
        return len(self._pending)

    @staticmethod
    def _is_early(entry: _Pending, now: float) -> bool:
        return not (entry.moved or entry.has_waited(now) or entry.has_run_out(now))

    def _judge(self, entry: _Pending, look: Look, now: float, found: list[Ready | Gone]) -> None:
        seen = look.fingerprint
        if seen is None:
            self.forget(entry.path)
            found.append(Gone(entry.path))
        elif (entry.moved and look.writing is not True) or self._is_quiet(entry, look, now):
            self._take(entry, seen, True, now, found)
        elif entry.has_run_out(now):
            self._heat(entry, seen, now)
            self._take(entry, seen, False, now, found)
        else:
            self._wait_on(entry, look, seen, now)

    @staticmethod
    def _is_quiet(entry: _Pending, look: Look, now: float) -> bool:
        if look.writing or not entry.has_waited(now):
            return False
        if entry.fingerprint is not None:
            return look.fingerprint == entry.fingerprint
        if look.age is None or look.age < 0:
            # No telling when it changed last: believe the lease, else look twice.
            return look.writing is False
        changed_after_notice = look.age + _TICK < now - entry.quiet_from
        return look.age >= entry.settle or not changed_after_notice

    def _take(
        self,
        entry: _Pending,
        seen: Fingerprint,
        unhurried: bool,
        now: float,
        found: list[Ready | Gone],
    ) -> None:
        del self._pending[entry.path]
        hot = self._hot.get(entry.path)
        if hot is not None:
            self._hot[entry.path] = hot._replace(fingerprint=seen, looked=now)
        found.append(Ready(entry.path, seen, unhurried))

    def _wait_on(self, entry: _Pending, look: Look, seen: Fingerprint, now: float) -> None:
        before = entry.fingerprint
        if before is not None and seen.inode == before.inode and seen.size > before.size:
            self._heat(entry, seen, now)
        if before is None or seen != before:
            entry.fingerprint = seen
            age = look.age if look.age is not None and 0 <= look.age <= entry.settle else 0.0
            entry.quiet_from = max(entry.quiet_from, now - age)
        entry.moved = False
        entry.busy = entry.busy + 1 if look.writing else 0
        self._arm(entry, entry.next_look(now))

    def _arm(self, entry: _Pending, when: float) -> None:
        if when < entry.due:
            entry.due = when
            heapq.heappush(self._timers, (when, next(self._order), entry))
            if len(self._timers) > 2 * len(self._pending) + _STALE_TIMERS:
                self._timers = [item for item in self._timers if not self._is_stale(*item[::2])]
                heapq.heapify(self._timers)

    def _is_stale(self, when: float, entry: _Pending) -> bool:
        return when != entry.due or self._pending.get(entry.path) is not entry

    def _drop_stale(self) -> None:
        while self._timers and self._is_stale(*self._timers[0][::2]):
            heapq.heappop(self._timers)
        while self._hot_timers and self._is_stale_hot(*self._hot_timers[0]):
            heapq.heappop(self._hot_timers)

    def _heat(self, entry: _Pending, seen: Fingerprint, now: float) -> None:
        known = self._hot.get(entry.path)
        due = known.due if known is not None else now + max(entry.settle_max, 0.01)
        if known is None:
            heapq.heappush(self._hot_timers, (due, entry.path))
        self._hot[entry.path] = _Hot(
            seen, due, now, now, entry.settle, entry.settle_max, entry.may_hurry
        )
        self._hot.move_to_end(entry.path)
        if len(self._hot) > self._most_hot:
            self._hot.popitem(last=False)

    def _is_stale_hot(self, when: float, path: bytes) -> bool:
        hot = self._hot.get(path)
        return hot is None or hot.due != when

    def _look_at_hot(self, when: float, path: bytes, now: float, found: list[Ready | Gone]) -> int:
        """How many looks it took: none where the file is being waited for anyway."""
        hot = self._hot.get(path)
        if hot is None or hot.due != when:
            return 0
        if now - hot.changed >= self._keep_hot:
            del self._hot[path]
            return 0
        hot = self._hot[path] = hot._replace(due=now + max(hot.settle_max, 0.01))
        heapq.heappush(self._hot_timers, (hot.due, path))
        if path in self._pending:
            return 0
        look = self._look(path)
        if look.fingerprint is None:
            self.forget(path)
            found.append(Gone(path))
        elif look.fingerprint != hot.fingerprint:
            self._rekindle(path, hot, look, now, found)
        else:
            self._hot[path] = hot._replace(looked=now)
        return 1

    def _rekindle(
        self, path: bytes, hot: _Hot, look: Look, now: float, found: list[Ready | Gone]
    ) -> None:
        # It may have changed any time since the last look: `settle_max` counts from there, so
        # that a log which is always open is taken once in `settle_max`, not in twice that.
        self._hot[path] = hot._replace(changed=now, looked=now)
        self._hot.move_to_end(path)
        entry = self._pending[path] = _Pending(path, hot.looked)
        entry.settle, entry.settle_max = hot.settle, hot.settle_max
        entry.may_hurry = hot.may_hurry
        self._judge(entry, look, now, found)

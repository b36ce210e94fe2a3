"""When a worker deletes what its shard holds of dead takes: idle, or under load where it must.

Takes that died a short while ago are spared: a search that read the ledger before still asks the
shard for them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from .errors import MachineFault
from .index import Shard, compact, shard_numbers
from .processors.text import BLOCK
from .store.completion import Completion

EVERY = 60.0  # seconds between two passes when idle
WEIGHED_EVERY = 10.0  # seconds between looks at how much of the shard is dead, under load
DEAD_SHARE = 0.2  # beyond, it is compacted under load too
SLICE = 0.5  # seconds of compaction between two messages
SEEN_BY_SEARCHES_NS = 60 * 10**9
_TAKES = 256  # a step under load


class Compaction:
    """One worker's, of its own shard and of its share of those that a larger pool left behind."""

    def __init__(
        self,
        state_folder: bytes,
        workers: int,
        shard: Shard,
        completion: Completion,
        holding_the_lock: Callable[[], AbstractContextManager[None]],
        alone_with: Callable[[int], AbstractContextManager[bool]],
    ) -> None:
        """`holding_the_lock` tells the parent that the Lock may be held meanwhile; `alone_with`
        says whether nobody else writes to a shard meanwhile."""
        self._state_folder = state_folder
        self._workers = workers
        self._shard = shard
        self._completion = completion
        self._holding_the_lock = holding_the_lock
        self._alone_with = alone_with
        self._swept = 0.0
        self._weigh_at = 0.0

    # ---- when idle ---------------------------------------------------------------------------

    def when_idle(self, waiting: Callable[[], bool]) -> bool:
        """Compacts until something waits; True when all is done."""
        if time.monotonic() - self._swept < EVERY:
            return True
        try:
            return self._passes(waiting)
        except MachineFault:  # whatever is worked on next tells of it
            return True

    def _passes(self, waiting: Callable[[], bool]) -> bool:
        before = time.time_ns() - SEEN_BY_SEARCHES_NS
        for number in self._numbers():
            # A worker of a larger pool may be at its last file: what it has written and not yet
            # told the ledger would pass for dead.
            with self._alone_with(number) as is_alone:
                if is_alone and not self._is_tidy(number, before, waiting):
                    return False
        while self._shard.tidy():
            if waiting():
                return False
        self._shard.empty_wal()
        self._swept = time.monotonic()
        return True

    def _is_tidy(self, number: int, before: int, waiting: Callable[[], bool]) -> bool:
        if not self._completion.burial.dead_blocks(number, before, BLOCK):
            return True
        return self._pass(number, before, waiting)

    def _numbers(self) -> list[int]:
        return [
            number
            for number in shard_numbers(self._state_folder)
            if number % self._workers == self._shard.number
        ]

    def _pass(self, number: int, before: int, waiting: Callable[[], bool]) -> bool:
        own = number == self._shard.number
        shard = self._shard if own else Shard(self._state_folder, number)

        def removable(takes: Iterable[int]) -> set[int]:
            with self._holding_the_lock():
                return self._completion.burial.removable(takes, before)

        try:
            done = compact(shard, removable, waiting)
            if done:
                with self._holding_the_lock():
                    self._completion.burial.forget_dead(number, before)
            return done
        finally:
            if not own:
                shard.close()

    # ---- under load --------------------------------------------------------------------------

    def under_load(self) -> None:
        """Where much of its shard is dead, deletes some of it between two messages."""
        if time.monotonic() < self._weigh_at:
            return
        before = time.time_ns() - SEEN_BY_SEARCHES_NS
        is_done = True
        dead = self._completion.burial.dead_blocks(self._shard.number, before, BLOCK)
        if dead > DEAD_SHARE * self._shard.count():
            with contextlib.suppress(MachineFault):  # whatever is worked on next tells of it
                is_done = self._slice(before)
        self._weigh_at = time.monotonic() + (WEIGHED_EVERY if is_done else 2 * SLICE)

    def _slice(self, before: int) -> bool:
        until = time.monotonic() + SLICE
        while self._delete_some(before) or self._shard.tidy():
            if time.monotonic() > until:
                return False
        return True

    def _delete_some(self, before: int) -> bool:
        """Deletes the blocks of some dead takes; False when there are none left."""
        with self._holding_the_lock():
            takes = self._completion.burial.bury(self._shard.number, before, _TAKES)
        if takes:
            self._shard.delete(takes)
            with self._holding_the_lock():
                self._completion.burial.forget(takes)
        return bool(takes)

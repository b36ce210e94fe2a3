"""Why the pool is paused: by a person, for want of disk space, or by a fault of the machine.

Paused means that the files in hand are finished and no new ones are taken; nobody is charged, and
what passes by itself is tried again by itself.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Sequence

logger = logging.getLogger("dropmill")

_LONGEST = 60.0


class Pauses:
    """The reasons to pause that hold now."""

    def __init__(self, folders: Sequence[bytes], free: int) -> None:
        """`folders` are written to, and `free` bytes are to be left on their disks."""
        self.guard(folders, free)
        self._by_hand = False
        self._space: str | None = None
        self._fault: str | None = None
        self._fault_until = 0.0
        self._delay = 1.0
        self._told: str | None = None

    def guard(self, folders: Sequence[bytes], free: int) -> None:
        """Another configuration is in force; what pauses us by hand or by a fault goes on."""
        self._folders = folders
        self._free = free

    def reason(self) -> str | None:
        """Why nothing new is taken; None when it is."""
        if self._by_hand:
            return "paused by `dropmill pause`: `dropmill resume` goes on"
        if self._space is not None:
            return self._space
        return self._fault if time.monotonic() < self._fault_until else None

    def by_hand(self, paused: bool) -> None:
        self._by_hand = paused
        self._say()

    def machine(self, fault: str) -> None:
        """The machine failed us: wait 1 s, then longer and longer up to 60 s, jittered."""
        now = time.monotonic()
        # Messages that were under way fail with it: all of them are one failure.
        if now >= self._fault_until:
            self._fault = fault
            self._fault_until = now + self._delay * random.uniform(0.75, 1.25)
            self._delay = min(_LONGEST, 2 * self._delay)
        self._say()

    @property
    def until(self) -> float:
        """When what a fault of the machine made fail is tried again, by the monotonic clock."""
        return self._fault_until

    def worked(self) -> None:
        """A message was finished: the machine is well, unless it was under way when it failed."""
        if self._fault is not None and time.monotonic() >= self._fault_until:
            self._fault, self._delay = None, 1.0
            self._say()

    def tick(self, now: float) -> None:
        """About once a second: is there room on the disks?"""
        self._space = next(
            (short for folder in self._folders if (short := self._short(folder))), None
        )
        self._say()

    def _short(self, folder: bytes) -> str | None:
        try:
            status = _disk_of(folder)
        except OSError as error:
            return f"{os.fsdecode(folder)}: {error.strerror}: make its disk reachable again"
        left = status.f_bavail * status.f_frsize
        # Once paused, go on only when there is a little more than the limit.
        wanted = self._free + (self._free // 20 if self._space else 0)
        if left >= wanted:
            return None
        return (
            f"{os.fsdecode(folder)}: {left >> 20} MiB free, less than limits.free"
            f" ({self._free >> 20} MiB): make room, or lower the limit"
        )

    def _say(self) -> None:
        """Tells of each pause once, however often it is tried to go on, and of its end."""
        held_by = "hand" if self._by_hand else "space" if self._space else self._fault
        if held_by == self._told:
            return
        self._told = held_by
        if held_by is None:
            logger.info("going on")
        elif reason := self.reason():
            logger.warning("paused: %s", reason)


def _disk_of(folder: bytes) -> os.statvfs_result:
    """The disk that a folder lies on, or will lie on once it is made."""
    while True:
        try:
            return os.statvfs(folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder == os.path.dirname(folder):
                raise
            folder = os.path.dirname(folder)

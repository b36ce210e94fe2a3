"""Why the pool is paused: by a person, for want of disk space, or by a fault of the machine.

Paused means that the files in hand are finished and no new ones are taken; nobody is charged, and
what passes by itself is tried again by itself.
"""

from __future__ import annotations

import logging
import os
import random
import time

logger = logging.getLogger("dropmill")

_LONGEST = 60.0


class Pauses:
    """The reasons to pause that hold now."""

    def __init__(self, folders: list[bytes], free: int) -> None:
        """`folders` are written to, and `free` bytes are to be left on their disks."""
        self._folders = folders
        self._free = free
        self._by_hand = False
        self._space: str | None = None
        self._fault: str | None = None
        self._fault_until = 0.0
        self._delay = 1.0
        self._said: str | None = None

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
        self._fault = fault
        self._fault_until = time.monotonic() + self._delay * random.uniform(0.75, 1.25)
        self._delay = min(_LONGEST, 2 * self._delay)
        self._say()

    def worked(self) -> None:
        """A message was finished: the machine is well."""
        if self._fault is not None:
            logger.info("going on: %s is over", self._fault)
        self._fault, self._delay = None, 1.0

    def tick(self, now: float) -> None:
        """About once a second: is there room on the disks?"""
        self._space = next(
            (short for folder in self._folders if (short := self._short(folder))), None
        )
        self._say()

    def _short(self, folder: bytes) -> str | None:
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        status = os.statvfs(folder)
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
        reason = self.reason()
        kind = (self._by_hand, self._space is not None, self._fault)
        if str(kind) != self._said and (reason or self._said is not None):
            if reason:
                logger.warning("paused: %s", reason)
            elif self._said != str((False, False, self._fault)):
                logger.info("going on")
            self._said = str(kind)

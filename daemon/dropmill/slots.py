"""The slots: what each worker is doing, in a small file that outlives it and the daemon.

A worker writes its own slot, the parent reads it: while the worker lives for status and time-outs,
after its death to see what it had in hand. One slot is 64 bytes of `slots` in the state folder.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import zlib
from typing import NamedTuple

SLOTS = 1024  # more workers than that one machine will not have
_SIZE = 64
_FIELDS = struct.Struct("=BxxxIQQQdQ")  # as `Slot`
_CHECKSUM = struct.Struct("<I")
_WHOLE = _FIELDS.size + _CHECKSUM.size  # a write is not seen all at once
_TRIES = 100


class Phase(enum.IntEnum):
    """Which locks a worker may hold; decides what its death costs."""

    FREE = 0  # no worker
    WAITING = 1  # at the Queue: may hold its read lock
    WORKING = 2  # holds nothing
    COMMITTING = 3  # may hold the Lock


_PHASES = {phase.value: phase for phase in Phase}


class Slot(NamedTuple):
    phase: Phase
    pid: int
    message: int
    take: int
    file: int
    since: float  # of the take in hand, on the monotonic clock
    seq: int = 0  # of the admission that the take was made for


_NOBODY = Slot(Phase.FREE, 0, 0, 0, 0, 0.0)


def _checksum(fields: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(fields))


class Slots:
    """All slots; opened by the parent and, each for its own, by the workers."""

    def __init__(self, state_folder: bytes) -> None:
        path = os.path.join(state_folder, b"slots")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if os.fstat(descriptor).st_size != SLOTS * _SIZE:
                os.ftruncate(descriptor, SLOTS * _SIZE)
            # Writing to a hole of a mapped file on a full disk would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, SLOTS * _SIZE)
            self._map = mmap.mmap(descriptor, SLOTS * _SIZE)
        finally:
            os.close(descriptor)

    def read(self, number: int) -> Slot:
        """A slot as its worker wrote it last.

        One that died, or is held up, in the middle of writing reads as COMMITTING, with nothing in
        hand: nobody can be blamed by it, and it may hold anything.
        """
        for _ in range(_TRIES):
            content = self._map[number * _SIZE : number * _SIZE + _WHOLE]
            fields = content[: _FIELDS.size]
            if content[_FIELDS.size :] == _checksum(fields):
                phase, *others = _FIELDS.unpack(fields)
                return Slot(_PHASES.get(phase, Phase.FREE), *others)
            if not any(content):
                return _NOBODY
            os.sched_yield()
        return _NOBODY._replace(phase=Phase.COMMITTING)

    def write(self, number: int, slot: Slot) -> None:
        fields = _FIELDS.pack(*slot)
        self._map[number * _SIZE : number * _SIZE + _WHOLE] = fields + _checksum(fields)

    def clear(self, number: int) -> None:
        self.write(number, _NOBODY)

    def in_hand(self) -> list[tuple[int, Slot]]:
        """The slots that are in use, by number."""
        slots = [(number, self.read(number)) for number in range(SLOTS)]
        return [(number, slot) for number, slot in slots if slot.phase is not Phase.FREE]

    def close(self) -> None:
        self._map.close()

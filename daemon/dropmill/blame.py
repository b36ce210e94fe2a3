"""Blame: whether a worker's death is the fault of what it had in hand, and what that is told as.

A crash, a time-out or want of memory charges one take. A SIGKILL that nobody of us sent, and that
the kernel does not own up to, charges nobody; nor does one that we sent too late.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from typing import NamedTuple

from .job import Job
from .slots import Phase, Slot
from .worker import EXIT_OUT_OF_MEMORY

READ_RATE = 20_000_000  # bytes a second that even a slow disk gives; added to a job's time-out


class Returned(NamedTuple):
    """Jobs that nobody worked on to the end; nobody is charged."""

    jobs: list[Job]


class Killed(NamedTuple):
    """A worker died with this job in hand."""

    job: Job
    reason: str
    charged: bool


class Sentence(NamedTuple):
    """Why we kill a worker: it may have moved on before the kill reaches it."""

    message: int
    take: int
    reason: str | None  # None: through no fault of the take's

    def is_for(self, slot: Slot) -> bool:
        """Whether the slot of the dead shows it at what the sentence is for."""
        return (slot.message, slot.take) == (self.message, self.take)


class Blame:
    """The limits that takes must keep to, and what is known of kills for want of memory."""

    def __init__(self, timeout: float, memory: int) -> None:
        """`timeout`: seconds for one job; `memory`: bytes, resident, for one worker."""
        self.limit(timeout, memory)
        self._out_of_memory_kills = _out_of_memory_kills()

    def limit(self, timeout: float, memory: int) -> None:
        """Other limits, from now on."""
        self._timeout = timeout
        self._memory = memory

    def excess(self, seconds: float, size: int, resident: int) -> str | None:
        """What a take has too much of, after so long at a file of `size` bytes; None: nothing."""
        # Memory first: it says more of the file, where time may say more of a busy machine.
        if resident > self._memory:
            return f"needs more memory than limits.memory ({_size(self._memory)})"
        if seconds > self._timeout + size / READ_RATE:
            return f"took longer than limits.timeout ({self._timeout:g} s)"
        return None

    def of(
        self, sentence: Sentence | None, slot: Slot, code: int | None, jobs: Sequence[Job]
    ) -> list[Killed | Returned]:
        """What becomes of the message in a dead worker's hands; `code` is its exit status."""
        if slot.phase is not Phase.WORKING:
            return []  # its message goes back with the generation
        job = next((job for job in jobs if job.take == slot.take), None)
        reason = self._cause(code)
        if sentence is not None and code == -signal.SIGKILL:
            reason = sentence.reason
            if reason is None or not sentence.is_for(slot):
                return [Returned(list(jobs))]
        if job is None:
            return [Returned(list(jobs))]
        others = [each for each in jobs if each is not job]
        return [Killed(job, reason or manner(code), reason is not None), Returned(others)]

    def _cause(self, code: int | None) -> str | None:
        """Why a death is the take's own fault; None for a SIGKILL that nobody of us sent."""
        if code == EXIT_OUT_OF_MEMORY:
            return f"needs more memory than limits.memory ({_size(self._memory)})"
        if code == -signal.SIGKILL:
            before = self._out_of_memory_kills
            self._out_of_memory_kills = max(before, _out_of_memory_kills())
            risen = self._out_of_memory_kills > before
            return "the kernel killed its worker for want of memory" if risen else None
        if code == -signal.SIGTERM:
            return None  # somebody asked the worker to end
        return f"its worker {manner(code)}"


def manner(code: int | None) -> str:
    """How a worker ended, by its exit status."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count} bytes"


def _out_of_memory_kills() -> int:
    """How often the kernel killed in our cgroup for want of memory (cgroup v2, else v1)."""
    try:
        with open("/proc/self/cgroup") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
        for _, controllers, path in groups:
            if not controllers:
                events = f"/sys/fs/cgroup{path}/memory.events"
            elif "memory" in controllers.split(","):
                events = f"/sys/fs/cgroup/memory{path}/memory.oom_control"
            else:
                continue
            with contextlib.suppress(OSError), open(events) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
    except OSError:
        pass
    return 0

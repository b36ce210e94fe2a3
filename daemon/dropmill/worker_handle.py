"""What the parent holds of one worker: its process, its pipe, and why it was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from .blame import Sentence
from .slots import Slot

_PAGE = os.sysconf("SC_PAGE_SIZE")


class WorkerHandle:
    """One worker, as long as it lives and until its death is explained."""

    def __init__(self, number: int, process: BaseProcess, reports: Connection) -> None:
        """Raises OSError when it cannot be kept hold of."""
        self.number = number
        self.process = process
        # Its process id would do only as long as the fork server lives.
        self._handle = _process_handle(process.pid or 0)
        self.reports = reports
        self.up = False
        self.started = time.monotonic()
        self.sentence: Sentence | None = None
        self.leaving: float | None = None  # since when it is asked to make place for a successor
        self._pulse: tuple[int, int, int] | None = None
        self._pulse_since = 0.0

    def ends(self) -> tuple[Connection, int]:
        """What can be read when it has reported, and when it is dead."""
        return self.reports, self.process.sentinel

    def still_for(self, slot: Slot, now: float) -> float:
        """Seconds for which it has been seen to use no processor at what it has in hand."""
        pulse = (slot.message, slot.take, _processor_ticks(self.process.pid))
        if pulse != self._pulse:
            self._pulse, self._pulse_since = pulse, now
        return now - self._pulse_since

    def has_dawdled(self, slot: Slot, now: float) -> float:
        """Seconds for which it has been at the Queue since it was asked to make place."""
        return 0.0 if self.leaving is None else now - max(self.leaving, slot.since)

    def resident(self) -> int:
        """Bytes of its memory that are resident."""
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0

    def sentence_to_death(self, slot: Slot, reason: str | None) -> None:
        """Kills it for what its slot shows in hand; no reason: through no fault of that."""
        self.sentence = Sentence(slot.message, slot.take, reason)
        self.kill()

    def kill(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Until it is dead, whatever the fork server says."""
        if self._handle is not None:
            wait([self._handle], seconds)
        self.process.join(seconds)

    def close(self) -> None:
        self.reports.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self.process.join(1)
        with contextlib.suppress(ValueError):
            self.process.close()


def _process_handle(process_id: int) -> int | None:
    """A descriptor that stands for the process, whoever reaps it; None: it is dead already."""
    try:
        return os.pidfd_open(process_id)
    except ProcessLookupError:
        return None


def _processor_ticks(pid: int | None) -> int:
    """Processor time that a process has used, in clock ticks (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:13]))

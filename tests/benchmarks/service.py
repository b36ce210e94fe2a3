"""The real command, measured: started with its own configuration and looked at from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw

from dropmill import asking
from dropmill.errors import DropmillError

from ..dropmill_process import COMMAND, Place, environment
from ..polling import eventually

CONFIGURATION = """\
state: ./state
workers: {workers}
watch:
{watch}
images: {{output: ./grayscale, suffixes: {suffixes}}}
limits: {{free: 0}}
{more}
"""
IMAGES = "[.jpg, .jpeg, .png]"
DONE = 2  # of a file's states in the ledger
QUEUED = 1
_HOURS = 4 * 3600.0


class Service(Place):
    """A place whose folders may lie anywhere, with the settings that users have by default."""

    def __init__(
        self,
        folder: Path,
        roots: Sequence[Path] = (),
        *,
        workers: int = 2,
        images: bool = False,
        more: str = "",
    ) -> None:
        """Without roots, its inbox is watched."""
        super().__init__(folder, workers=workers)
        watch = "".join(
            f"  - path: {root}\n    exclude: []\n" for root in roots or [folder / "inbox"]
        )
        suffixes = IMAGES if images else "[]"
        self.configuration.write_text(
            CONFIGURATION.format(workers=workers, watch=watch, suffixes=suffixes, more=more)
        )
        self.state_folder = os.fsencode(folder / "state")
        self._database: apsw.Connection | None = None

    # ---- once --------------------------------------------------------------------------------

    def once(self, watch: Callable[[int], object] | None = None) -> float:
        """Seconds that `run --once` takes; `watch` is called with its process id meanwhile."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, "run", "--once"], cwd=self.folder, env=environment(), stderr=log
            )
        while watch is not None and process.poll() is None:
            watch(process.pid)
            time.sleep(0.02)
        if process.wait(_HOURS):
            raise RuntimeError(f"run --once failed: {self.log.read_text()[-2000:]}")
        return time.monotonic() - began

    # ---- the running service -----------------------------------------------------------------

    def launch(self) -> None:
        """Starts the service and does not wait for it."""
        with self.log.open("ab") as log:
            self.service = subprocess.Popen(
                [*COMMAND, "run"], cwd=self.folder, env=environment(), stderr=log
            )

    def begin(self, seconds: float = 600) -> None:
        """Starts the service and waits until it is ready."""
        self.launch()
        # Each answer costs it a millisecond or two.
        eventually(self.is_ready, seconds=seconds, what="the service is ready", every=0.05)

    @property
    def pid(self) -> int:
        assert self.service is not None
        return self.service.pid

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return asking.ask(self.state_folder, command, arguments, timeout=60)

    def is_ready(self) -> bool:
        """Whether it answers, and has compared all of its folders with what it knows."""
        assert self.service is not None
        assert self.service.poll() is None, self.log.read_text()[-2000:]
        try:
            status = self.ask("status")
        except DropmillError:
            return False
        return all(root["last_scan"] is not None for root in status["roots"])

    def query(self, sql: str, *values: Any) -> list[Any]:
        if self._database is None:
            path = self.folder / "state" / "results.db"
            self._database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            self._database.set_busy_timeout(10_000)
        return self._database.execute(sql, values).fetchall()

    def count(self, state: int = DONE) -> int:
        return int(self.query("SELECT count(*) FROM files WHERE state = ?", state)[0][0])

    def wait_for(
        self,
        count: int,
        state: int = DONE,
        every: float = 0.02,
        watch: Callable[[int], object] | None = None,
    ) -> None:
        """Until so many files are in that state; `watch` is called with the service's process id
        meanwhile."""
        deadline = time.monotonic() + _HOURS
        while self.count(state) < count:
            assert self.service is not None
            if self.service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it is over too early: {self.log.read_text()[-2000:]}")
            if watch is not None:
                watch(self.pid)
            time.sleep(every)

    # ---- what it uses ------------------------------------------------------------------------

    def processor_time(self) -> float:
        """Seconds, of all its processes that live."""
        return sum(map(_processor_time, processes(self.pid)))

    def memory(self) -> int:
        """Proportional set size of all its processes, in bytes."""
        return sum(_field(pid, "smaps_rollup", "Pss:") for pid in processes(self.pid))

    def index_size(self) -> int:
        """Bytes on disk."""
        return _on_disk(self.folder / "state" / "index")

    def state_size(self) -> int:
        """Bytes on disk of the index, the ledger and what else the state folder holds."""
        return _on_disk(self.folder / "state")

    def wait_until_merged(self, rest: float = 10) -> None:
        """Waits until the idle service leaves its index as it is for `rest` seconds."""
        size, since = 0, time.monotonic()

        def is_merged() -> bool:
            nonlocal size, since
            if size != (now := self.index_size()):
                size, since = now, time.monotonic()
            return time.monotonic() - since > rest

        eventually(is_merged, seconds=600, what="the index is merged", every=0.5)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self.service is not None and self.service.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(signal.SIGTERM, seconds=30)
        super().close()


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += processes(int(child))
    return found


def peak(pid: int) -> int:
    """The most resident memory that a process ever had, in bytes; 0 when it is over."""
    return _field(pid, "status", "VmHWM:")


def resident(pid: int) -> int:
    return _field(pid, "status", "VmRSS:")


def _processor_time(pid: int) -> float:
    """By the process's own processor clock: Linux names it by its number (clock_getcpuclockid)."""
    with contextlib.suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)
    return 0.0


def _field(pid: int, file: str, name: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0

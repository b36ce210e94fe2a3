"""One after another: a worker in a process of its own that feeds itself, from Queue and Lock free.

`worker.main` runs as it does in the pool. What it takes for the Queue, and for the pipe to the
parent, is `OneProcess`: it does the parent's part in the worker's own process, between messages.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple, cast

from ..datasets.rule import RuleSet
from ..errors import DropmillError, MachineFault
from ..feeder import Feeder
from ..job import Job
from ..pool import Pool
from ..processors.dataset import stride
from ..slots import Slots
from ..store.ledger import Ledger
from ..store.schema import configure
from ..worker import EXIT_OUT_OF_MEMORY, Done, Message, WorkerSettings, main
from .lap import Books, Clocked, Progress, killed, undisturbed


class Finished(NamedTuple):
    """So many files so far."""

    files: int


class Failed(NamedTuple):
    """The machine's fault, and the end."""

    reason: str


class OneProcess:
    """Messages from the ledger, and what becomes of them, in the process that works on them."""

    size = 1  # worker, as the feeder asks

    def __init__(self, state_folder: bytes, root: bytes, rules: RuleSet, told: Connection) -> None:
        """Once the worker is up it is shut in, and could open no ledger any more."""
        self._ledger = Ledger(state_folder)
        configure(self._ledger.connection, temp_store=2)  # in memory, as workers have it
        self._root = root
        self._rules = rules
        self._told = told
        self._message: Message | None = None
        self._sent = 0
        self._began = 0.0

    # ---- as the Queue ------------------------------------------------------------------------

    def get(self, timeout: float) -> Message:
        """The next message; at the end the one that says to leave."""
        self._feeder.fill()
        message, self._message = self._message, None
        if message is not None:
            return message
        seconds = time.perf_counter() - self._began
        self._told.send(Clocked(seconds, frozenset(self._books.unsettled)))
        self._ledger.close()
        return Message(0, ())

    def empty(self) -> bool:
        """Whether a worker may tidy up while it waits: this one never waits."""
        return False

    # ---- as the pipe to the parent -----------------------------------------------------------

    def send(self, done: Done) -> None:
        if done.fault is not None:
            self._told.send(Failed(done.fault))
            raise SystemExit
        if not done.message:
            self._begin()
            return
        by_take = {job.take: job for job in self._jobs}
        for report in done.reports:
            self._books.enter(by_take[report.take], report)

    def _begin(self) -> None:
        """The worker is up."""
        # The feeder asks a pool for its size and for room, and puts messages: so can this.
        self._feeder = Feeder(
            self._ledger, cast(Pool, self), lambda folder: self._root, partial(stride, self._rules)
        )
        told = self._told
        self._books = Books(self._ledger, self._feeder, lambda count: told.send(Finished(count)))
        self._began = time.perf_counter()

    # ---- as the pool -------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self._message is None

    def put(self, jobs: list[Job]) -> bool:
        self._sent += 1
        self._jobs = jobs
        self._message = Message(self._sent, tuple(jobs))
        return True


def work(settings: WorkerSettings, root: bytes, told: Connection) -> None:
    """The whole of it, in a process of its own."""
    source = OneProcess(settings.state_folder, root, settings.rules, told)
    main(0, settings, source, contextlib.nullcontext(), cast(Connection, source), None)


def one_after_another(settings: WorkerSettings, root: bytes, progress: Progress) -> Clocked:
    """Works off the state folder's queued files in one process. Raises DropmillError,
    MachineFault."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dropmill.worker", "dropmill.processors.preloaded"])
    told, telling = context.Pipe(duplex=False)
    process = context.Process(
        target=work,
        args=(settings, root, telling),
        name="dropmill-alone",
        daemon=True,
    )
    forkserver.ensure_running()  # not below: its children would keep the signals back for ever
    try:
        with undisturbed():
            process.start()
        telling.close()
        return _listen(process, told, settings.state_folder, lambda count: progress(count, 0, ""))
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        process.close()
        told.close()


def _listen(
    process: BaseProcess, told: Connection, state_folder: bytes, tell: Callable[[int], None]
) -> Clocked:
    while True:
        try:
            heard = told.recv()
        except EOFError:
            process.join()
            raise _died(state_folder, process.exitcode) from None
        if isinstance(heard, Clocked):
            process.join()
            return heard
        if isinstance(heard, Failed):
            raise MachineFault(heard.reason)
        tell(heard.files)


def _died(state_folder: bytes, code: int | None) -> DropmillError:
    """By its slot, which outlives it: the file that the process had in hand."""
    slots = Slots(state_folder)
    ledger = Ledger(state_folder)
    try:
        path = ledger.path_of(slots.read(0).file)
    finally:
        slots.close()
        ledger.close()
    if path is None:
        return DropmillError(f"the process that worked ended with exit status {code}: see above")
    if code == EXIT_OUT_OF_MEMORY:
        return killed(path, "needs more memory than limits.memory")
    return killed(path, f"ended the process that worked on it (exit status {code})")

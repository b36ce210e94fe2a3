"""The pool: one Queue, one Lock and N workers, which is a generation; runs in the parent.

A worker that dies while it works holds neither of the two locks that it shares with its siblings
(the Queue's read lock, the Lock): it alone is replaced. One that dies while it waits or commits may
have left one of them locked for ever (cpython#96062): the whole generation is killed and a fresh
one started. Whose fault it was is read from the dead worker's slot.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import queue
import random
import signal
import time
from collections.abc import Collection, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from .errors import BrokenState, DropmillError
from .job import Job, Report
from .slots import Phase, Slot, Slots
from .worker import EXIT_LEFT, EXIT_OUT_OF_MEMORY, Done, Message, WorkerSettings, main

logger = logging.getLogger("dropmill.pool")

MESSAGES_A_WORKER = 2
READ_RATE = 20_000_000  # bytes a second that even a slow disk gives; added to a job's time-out
_BOOT = 60.0
_LOCK_PATIENCE = 1.0
_LONGEST_DELAY = 60.0
_FREE_DEATHS = 8
_EXIT_UNKNOWN = 255  # what multiprocessing gives when its fork server died: it alone could know
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Finished(NamedTuple):
    """A message's jobs are done with, in the ways that its reports say."""

    reports: list[tuple[Job, Report]]


class Returned(NamedTuple):
    """Jobs that nobody worked on to the end; nobody is charged."""

    jobs: list[Job]


class Killed(NamedTuple):
    """A worker died with this job in hand."""

    job: Job
    reason: str
    charged: bool


class Trouble(NamedTuple):
    """A fault of the machine; the jobs are uncharged."""

    reason: str
    jobs: list[Job]


Event = Finished | Returned | Killed | Trouble


class _Sentence(NamedTuple):
    """Why we kill a worker. It may have moved on before the kill reaches it."""

    message: int
    take: int
    reason: str | None  # None: through no fault of the take's

    def is_for(self, slot: Slot) -> bool:
        """Whether the slot of the dead shows it at what the sentence is for."""
        return (slot.message, slot.take) == (self.message, self.take)


class _Worker:
    """What the parent knows of one worker."""

    def __init__(self, number: int, process: BaseProcess, reports: Connection) -> None:
        """Raises OSError when it cannot be kept hold of."""
        self.number = number
        self.process = process
        # Its process id would do only as long as the fork server lives.
        self._handle = _process_handle(process.pid or 0)
        self.reports = reports
        self.up = False
        self.started = time.monotonic()
        self.sentence: _Sentence | None = None
        self._pulse: tuple[int, int, int] | None = None
        self._pulse_since = 0.0

    def still_for(self, slot: Slot, now: float) -> float:
        """Seconds for which it has been seen to use no processor at what it has in hand."""
        pulse = (slot.message, slot.take, _processor_ticks(self.process.pid))
        if pulse != self._pulse:
            self._pulse, self._pulse_since = pulse, now
        return now - self._pulse_since

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


class Pool:
    """Gives messages to a fixed number of workers and says what became of them."""

    def __init__(self, settings: WorkerSettings, timeout: float) -> None:
        """`timeout` is `limits.timeout`, seconds for one job."""
        self.size = settings.workers
        self._settings = settings
        self._timeout = timeout
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["dropmill.worker"])
        _start_quiet_tracker()
        self._slots = Slots(settings.state_folder)
        self._ids = itertools.count(1)
        self._messages: dict[int, tuple[Job, ...]] = {}
        self._alone: list[Job] = []
        self._asked = 0  # requests to leave that no worker has followed yet
        self._workers: list[_Worker] = []
        self._queue: Any = None
        self._lock: Any = None
        self._proven = False  # a worker of ours has come up before
        self._deaths: list[float] = []
        self._start_at: float | None = None  # when the next generation is due
        self._vacant: list[int] = []  # numbers of the workers that are to be started
        self._fill_at = 0.0
        self._failures = 0  # to start a worker, in a row
        self._untold: list[Event] = []  # what `collect` is to give the next time
        self._out_of_memory_kills = _out_of_memory_kills()
        self._stopping = False

    # ---- a generation ------------------------------------------------------------------------

    def start(self) -> None:
        """A fresh Queue, a fresh Lock, N fresh workers; what cannot be had now `tick` gets."""
        try:
            self._queue = self._context.Queue(MESSAGES_A_WORKER * self.size)
            self._lock = self._context.Lock()
        except OSError as error:
            self._discard_queue()
            self._start_at = time.monotonic() + self._could_not_start(error)
            return
        self._start_at = None
        self._asked = 0
        self._vacant = list(range(self.size))
        self._fill()

    def _fill(self) -> None:
        """Starts the workers that are missing; one takes a job that is to run alone."""
        while self._vacant:
            first = Message(next(self._ids), (self._alone[0],)) if self._alone else None
            try:
                worker = self._spawn(self._vacant[0], first)
            except (OSError, EOFError) as error:
                self._fill_at = time.monotonic() + self._could_not_start(error)
                return
            if first is not None:
                self._messages[first.id] = first.jobs
                del self._alone[0]
            del self._vacant[0]
            self._workers = sorted([*self._workers, worker], key=lambda each: each.number)
        self._failures = 0

    def _could_not_start(self, error: OSError | EOFError) -> float:
        """It is the machine's fault; gives the seconds until the next attempt."""
        # The fork server dies of a fork that fails, and tells nobody why.
        why = error.strerror if isinstance(error, OSError) else "no more processes"
        self._untold.append(Trouble(f"a worker cannot be started: {why}", []))
        self._failures += 1
        return _delay(self._failures - 1)

    def _spawn(self, number: int, first: Message | None = None) -> _Worker:
        """Raises OSError, or EOFError where the fork server died over it."""
        ours, theirs = self._context.Pipe(duplex=False)
        self._slots.clear(number)
        process = self._context.Process(
            target=main,
            args=(number, self._settings, self._queue, self._lock, theirs, first),
            name=f"dropmill-worker-{number}",
            daemon=True,
        )
        try:
            process.start()
            return _Worker(number, process, ours)
        except BaseException:
            ours.close()
            if process.pid is not None:
                process.kill()
                process.join(10)
            raise
        finally:
            theirs.close()

    def _retire(self, delay: float = 0.0) -> list[Event]:
        """Kills the generation and starts another, at once or after `delay` seconds.

        Unfinished jobs are returned.
        """
        events: list[Event] = []
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait(10)
            events += self._reports(worker)
            self._bury(worker)
        self._workers = []
        self._vacant = []
        self._discard_queue()
        jobs = [job for message in self._messages.values() for job in message] + self._alone
        if jobs:
            events.append(Returned(jobs))
        self._messages.clear()
        self._alone.clear()
        if not self._stopping:
            self._start_at = time.monotonic() + delay
            if not delay:
                self.start()
        return events

    def _discard_queue(self) -> None:
        if self._queue is not None:
            self._queue.cancel_join_thread()
            self._queue.close()
            self._queue = None

    def _back_off(self) -> float:
        """Nothing for the first deaths since a message was finished, then 1 s doubling to 60 s."""
        now = time.monotonic()
        recent = [death for death in self._deaths if now - death < 2 * _LONGEST_DELAY]
        self._deaths = [*recent, now]
        return 0.0 if len(recent) < _FREE_DEATHS else _delay(len(recent) - _FREE_DEATHS)

    # ---- messages ----------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether a message can be put now; rows wait in the ledger until it can."""
        if self._stopping or not self._workers:
            return False
        return self._queue is not None and not self._queue.full()

    def put(self, jobs: list[Job]) -> bool:
        """Sends jobs as one message; False when the Queue is full."""
        message = Message(next(self._ids), tuple(jobs))
        self._messages[message.id] = message.jobs
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            del self._messages[message.id]
            return False
        return True

    def put_alone(self, job: Job) -> None:
        """Sends a charged job to a fresh worker, alone: a worker is asked to make place for it."""
        self._alone.append(job)
        self._ask_for_place()

    def _ask_for_place(self) -> None:
        """Asks as many workers to leave as jobs wait for a fresh one."""
        if self._queue is None or self._asked >= len(self._alone):
            return
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(Message(next(self._ids), ()))
            self._asked += 1

    def idle(self) -> bool:
        return not self._messages and not self._alone

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """The Lock, for the parent's own writes: with a time-out, since its holder may be dead.

        Without it SQLite's own lock still keeps the file whole.
        """
        lock = self._lock
        held = lock is not None and lock.acquire(timeout=_LOCK_PATIENCE)
        try:
            yield
        finally:
            if held:
                lock.release()

    # ---- what happened -----------------------------------------------------------------------

    def waitables(self) -> list[Any]:
        """What becomes readable when `collect` has something to say."""
        found: list[Any] = []
        for worker in self._workers:
            found += [worker.reports, worker.process.sentinel]
        return found

    def collect(self) -> list[Event]:
        """Everything that happened since the last call."""
        events = self._take_untold()
        for worker in list(self._workers):
            if worker not in self._workers:
                continue  # its generation was retired just now
            events += self._reports(worker)
            if not worker.process.is_alive():
                events += self._reports(worker)
                events += self._died(worker)
        return events + self._take_untold()

    def _take_untold(self) -> list[Event]:
        untold, self._untold = self._untold, []
        return untold

    def _reports(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        with contextlib.suppress(EOFError, OSError):
            while worker.reports.poll():
                events += self._done(worker, worker.reports.recv())
        return events

    def _done(self, worker: _Worker, done: Done) -> list[Event]:
        if done.broken and not self._stopping:
            raise BrokenState(f"{os.fsdecode(self._settings.state_folder)}: {done.fault}")
        if not done.message:
            worker.up = self._proven = True
            return []
        jobs = self._messages.pop(done.message, ())
        if done.fault is None:
            self._deaths.clear()
        else:
            return [Trouble(done.fault, list(jobs))]
        by_take = {job.take: job for job in jobs}
        return [
            Finished([(by_take[each.take], each) for each in done.reports if each.take in by_take])
        ]

    def _died(self, worker: _Worker) -> list[Event]:
        """One worker is dead: by its slot, replace it or the generation, and say who is charged."""
        slot = self._slots.read(worker.number)
        worker.process.join(5)
        code = worker.process.exitcode
        if code == _EXIT_UNKNOWN:
            logger.warning("the process that starts the workers died: all of them are replaced")
            return self._retire(self._back_off())
        if not worker.up and not self._proven:
            raise DropmillError(f"a worker could not start (exit status {code}): see above")
        if code == EXIT_LEFT and slot.phase is Phase.FREE:
            self._asked = max(0, self._asked - 1)
            self._replace(worker)
            return []
        logger.warning("worker %d (pid %d) %s", worker.number, worker.process.pid, _manner(code))
        events = self._blame(worker, slot, code)
        is_at_work = slot.phase is Phase.WORKING and worker.up
        # Deaths that a take is charged or spared for are few; others might go on for ever.
        delay = 0.0 if is_at_work and slot.take else self._back_off()
        if is_at_work and not delay:
            self._replace(worker)
            return events
        return events + self._retire(delay)

    def _blame(self, worker: _Worker, slot: Slot, code: int | None) -> list[Event]:
        if slot.phase is not Phase.WORKING:
            return []  # its message goes back with the generation
        jobs = self._messages.pop(slot.message, ())
        job = next((job for job in jobs if job.take == slot.take), None)
        reason = self._cause(code)
        if worker.sentence is not None and code == -signal.SIGKILL:
            reason = worker.sentence.reason
            if reason is None or not worker.sentence.is_for(slot):
                return [Returned(list(jobs))]
        if job is None:
            return [Returned(list(jobs))]
        others = [each for each in jobs if each is not job]
        return [Killed(job, reason or _manner(code), reason is not None), Returned(others)]

    def _cause(self, code: int | None) -> str | None:
        """Why a death is the take's own fault; None for a SIGKILL that nobody of us sent."""
        if code == EXIT_OUT_OF_MEMORY:
            return f"needs more memory than limits.memory ({_size(self._settings.memory)})"
        if code == -signal.SIGKILL:
            before = self._out_of_memory_kills
            self._out_of_memory_kills = max(before, _out_of_memory_kills())
            risen = self._out_of_memory_kills > before
            return "the kernel killed its worker for want of memory" if risen else None
        if code == -signal.SIGTERM:
            return None  # somebody asked the worker to end
        return f"its worker {_manner(code)}"

    def _replace(self, worker: _Worker) -> None:
        self._bury(worker)
        self._workers.remove(worker)
        self._vacant.append(worker.number)
        self._fill()

    def _bury(self, worker: _Worker) -> None:
        self._slots.clear(worker.number)
        worker.close()

    # ---- limits ------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Event]:
        """About once a second: time-outs, memory, a generation that is due."""
        if self._start_at is not None and now >= self._start_at:
            self.start()
        elif self._vacant and now >= self._fill_at:
            self._fill()
        for worker in self._workers:
            self._check(worker, now)
        self._ask_for_place()  # the Queue was full, or there was none
        return self._take_untold()

    def _check(self, worker: _Worker, now: float) -> None:
        if worker.sentence is not None:
            return
        if not worker.up and now - worker.started > _BOOT:
            worker.kill()
        slot = self._slots.read(worker.number)
        if slot.phase is Phase.WORKING and slot.take:
            worker.still_for(slot, now)
            reason = self._excess(worker, slot, now)
            if reason is not None and self._slots.read(worker.number) == slot:
                self._kill(worker, slot, reason)

    def _excess(self, worker: _Worker, slot: Slot, now: float) -> str | None:
        """What the take in hand has too much of; None while it keeps to the limits."""
        allowed = self._timeout + self._bytes(slot) / READ_RATE
        if now - slot.since > allowed:
            return f"took longer than limits.timeout ({self._timeout:g} s)"
        if _resident(worker.process.pid) > self._settings.memory:
            return f"needs more memory than limits.memory ({_size(self._settings.memory)})"
        return None

    @staticmethod
    def _kill(worker: _Worker, slot: Slot, reason: str | None) -> None:
        worker.sentence = _Sentence(slot.message, slot.take, reason)
        worker.kill()

    def abandon(self, roots: Collection[bytes], seconds: float) -> None:
        """Takes back what is of these roots, which hang.

        A worker that has stood still at one of their files for so long is ended; one that gets
        anywhere is not in the way.
        """
        now = time.monotonic()
        in_hand = set()
        for worker, (_, slot, job) in zip(self._workers, self.doing(), strict=True):
            in_hand.add(slot.message)
            is_at_it = slot.phase is Phase.WORKING and job is not None and job.root in roots
            if is_at_it and worker.sentence is None and worker.still_for(slot, now) > seconds:
                self._kill(worker, slot, None)
        waiting = [jobs for id_, jobs in self._messages.items() if id_ not in in_hand]
        if self._queue is not None and any(job.root in roots for jobs in waiting for job in jobs):
            self._sort_out(roots)

    def _sort_out(self, roots: Collection[bytes]) -> None:
        """Takes what is of these roots off the Queue, before one more worker waits for them."""
        for message in self._taken_back():
            others = [job for job in message.jobs if job.root not in roots]
            returned = [job for job in message.jobs if job.root in roots]
            if others and not self.put(others):
                returned += others
            if returned:
                self._untold.append(Returned(returned))

    def _taken_back(self) -> list[Message]:
        """What nobody began, off the Queue again; requests to leave are made anew by `tick`."""
        taken = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._queue.get(timeout=0.05))
        self._asked -= sum(not message.jobs for message in taken)
        for message in taken:
            self._messages.pop(message.id, None)
        return taken

    def _bytes(self, slot: Slot) -> int:
        jobs = self._messages.get(slot.message, ())
        return next((job.fingerprint.size for job in jobs if job.take == slot.take), 0)

    def doing(self) -> list[tuple[int, Slot, Job | None]]:
        """Each worker: its process id, its slot, the job in hand."""
        found: list[tuple[int, Slot, Job | None]] = []
        for worker in self._workers:
            slot = self._slots.read(worker.number)
            jobs = self._messages.get(slot.message, ())
            job = next((job for job in jobs if job.take == slot.take), None)
            found.append((worker.process.pid or 0, slot, job))
        return found

    # ---- the end -----------------------------------------------------------------------------

    def ask_to_leave(self) -> list[Event]:
        """No more work: takes what nobody began off the Queue, asks every worker to leave."""
        self._stopping = True
        self._start_at, self._vacant = None, []
        if self._queue is None:
            return []
        returned = [job for message in self._taken_back() for job in message.jobs]
        for _ in self._workers:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(Message(0, ()))
        return [Returned(returned)] if returned else []

    def collect_last(self) -> list[Event]:
        """While stopping: reports, and workers that have left."""
        events: list[Event] = []
        for worker in list(self._workers):
            events += self._reports(worker)
            if not worker.process.is_alive():
                events += self._reports(worker)
                self._workers.remove(worker)
                self._bury(worker)
        return events

    def alive(self) -> bool:
        return bool(self._workers)

    def kill(self) -> list[Event]:
        """Ends what is left, now."""
        self._stopping = True
        events = self._retire()
        self._slots.close()
        return events


def _start_quiet_tracker() -> None:
    """Starts the process that unlinks our semaphores should all of us be killed.

    It would warn, into the journal of a service that is gone, that it does its duty.
    """
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        with contextlib.suppress(OSError):  # then whoever needs it first starts it
            resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _delay(times: int) -> float:
    """Seconds to wait after so many waits in a row: 1 doubling to 60, jittered."""
    return min(_LONGEST_DELAY, 2.0 ** min(times, 6) * random.uniform(1.0, 1.5))


def _process_handle(process_id: int) -> int | None:
    """A descriptor that stands for the process, whoever reaps it; None: it is dead already."""
    try:
        return os.pidfd_open(process_id)
    except ProcessLookupError:
        return None


def _manner(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count} bytes"


def _resident(pid: int | None) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _processor_ticks(pid: int | None) -> int:
    """Processor time that a process has used, in clock ticks (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:13]))


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

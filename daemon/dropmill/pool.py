"""The pool: one Queue, one Lock and N workers, which is a generation; runs in the parent.

A worker that dies while it works holds neither of the two locks that it shares with its siblings
(the Queue's read lock, the Lock): it alone is replaced. One that dies while it waits or commits may
have left one of them locked for ever (cpython#96062): the whole generation is killed and a fresh
one started. Whose fault it was is read from the dead worker's slot.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from .blame import Blame, Killed, Returned, manner
from .errors import BrokenState, DropmillError
from .guard import Guard
from .job import Job, Report
from .outbox import Outbox
from .slots import Phase, Slot, Slots
from .spawning import Deaths, Spawner, delay
from .waiting import Waiting
from .worker import EXIT_LEFT, Done, WorkerSettings
from .worker_handle import WorkerHandle

__all__ = ["Event", "Finished", "Killed", "Pool", "Returned", "Trouble"]

logger = logging.getLogger("dropmill.pool")

_LOCK_PATIENCE = 1.0
_EXIT_UNKNOWN = 255  # what multiprocessing gives when its fork server died: it alone could know


class Finished(NamedTuple):
    """A message's jobs are done with, in the ways that its reports say."""

    reports: list[tuple[Job, Report]]


class Trouble(NamedTuple):
    """A fault of the machine; the jobs are uncharged."""

    reason: str
    jobs: list[Job]


Event = Finished | Returned | Killed | Trouble


class Pool:
    """Gives messages to a fixed number of workers and says what became of them."""

    def __init__(self, settings: WorkerSettings, timeout: float) -> None:
        """`timeout` is `limits.timeout`, seconds for one job."""
        self.size = settings.workers
        self._settings = settings
        self._blame = Blame(timeout, settings.memory)
        self._spawner = Spawner(settings)
        self._slots = Slots(settings.state_folder)
        self._outbox = Outbox()
        self._guard = Guard(self._slots, self._blame, self._outbox.messages)
        self._alone: list[Job] = []
        self._workers: list[WorkerHandle] = []
        self._waiting = Waiting()
        self._proven = False  # a worker of ours has come up before
        self._deaths = Deaths()
        self._start_at: float | None = None  # when the next generation is due
        self._vacant: list[int] = []  # numbers of the workers that are to be started
        self._fill_at = 0.0
        self._failures = 0  # to start a worker, in a row
        self._untold: list[Event] = []  # what `collect` is to give the next time
        self._stopping = False
        self._sign = time.monotonic()

    # ---- a generation ------------------------------------------------------------------------

    def start(self) -> None:
        """A fresh Queue, a fresh Lock, N fresh workers; what cannot be had now `tick` gets."""
        try:
            self._outbox.open(self._spawner, self.size)
        except OSError as error:
            self._outbox.close()
            self._start_at = time.monotonic() + self._could_not_start(error)
            return
        self._start_at = None
        self._sign = time.monotonic()
        self._vacant = list(range(self.size))
        self._fill()

    def _fill(self) -> None:
        """Starts the workers that are missing; one takes a job that is to run alone."""
        while self._vacant:
            first = self._outbox.message(self._alone[:1]) if self._alone else None
            try:
                self._slots.clear(self._vacant[0])
                worker = self._spawner.worker(
                    self._vacant[0], self._outbox.queue, self._outbox.lock, first
                )
            except (OSError, EOFError) as error:
                self._fill_at = time.monotonic() + self._could_not_start(error)
                return
            if first is not None:
                self._outbox.messages[first.id] = first.jobs
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
        return delay(self._failures - 1)

    def _retire(self, pause: float = 0.0) -> list[Event]:
        """Kills the generation and starts another, at once or after `pause` seconds.

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
        jobs = self._outbox.close() + self._alone
        if jobs:
            events.append(Returned(jobs))
        self._alone = []
        if not self._stopping:
            self._start_at = time.monotonic() + pause
            if not pause:
                self.start()
        return events

    # ---- other settings ----------------------------------------------------------------------

    def renew(self, settings: WorkerSettings, timeout: float) -> list[Event]:
        """Other settings, perhaps another number of workers; costs nobody what it has in hand.

        Each worker finishes its message and leaves; its successor, with the new settings, starts
        when it has left: of a slot and a shard there is one writer. A new Queue and a new Lock
        serve the successors, so that nobody of old gets what is sent from here on. (Until the
        last of old has left there are two Locks: all that is done under one is a transaction that
        takes SQLite's own at once.) Gives back the jobs that nobody had begun.
        """
        self._settings, self.size = settings, settings.workers
        self._blame.limit(timeout, settings.memory)
        self._spawner = Spawner(settings)
        if not self._outbox.is_open:
            return []  # the next generation starts with them
        returned = self._not_begun() + self._alone
        self._alone = []
        self._ask_all_to_leave()
        try:
            self._outbox.open(self._spawner, self.size)
        except OSError as error:
            return [Returned(returned), *self._retire(self._could_not_start(error))]
        taken = {worker.number for worker in self._workers}
        self._vacant = [number for number in range(self.size) if number not in taken]
        self._fill()
        return [Returned(returned)] if returned else []

    def _ask_all_to_leave(self) -> None:
        for worker in self._workers:
            if worker.leaving is None:
                worker.leaving = time.monotonic()
                self._outbox.ask_to_leave()

    def is_renewing(self) -> bool:
        """Whether a worker with other settings than the last is there still."""
        return any(worker.leaving is not None for worker in self._workers)

    # ---- signs of life -----------------------------------------------------------------------

    def ping(self) -> None:
        """Asks for a sign of life, through the Queue: whichever worker gets it answers."""
        if not self._stopping:
            self._outbox.ping()

    def last_sign(self) -> float:
        """When the pool last showed that it lives, by the monotonic clock.

        That is when a worker last said anything; and now, while it is at something that has a
        guard of its own: a file in hand or a start, both with a time-out, a generation or a worker
        that waits for its back-off, an end with a deadline.
        """
        is_between = not self._outbox.is_open or self._stopping or not self._workers
        if is_between or any(map(self._guard.is_guarded, self._workers)):
            return time.monotonic()
        return self._sign

    # ---- messages ----------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether a message can be put now; rows wait in the ledger until it can."""
        return bool(self._workers) and not self._stopping and self._outbox.has_room()

    def put(self, jobs: list[Job]) -> bool:
        """Sends jobs as one message; False when the Queue is full."""
        return self._outbox.put(jobs)

    def put_alone(self, job: Job) -> None:
        """Sends a charged job to a fresh worker, alone: a worker is asked to make place for it."""
        self._alone.append(job)
        self._outbox.ask_for_places(len(self._alone))

    def is_up(self) -> bool:
        """Whether all its workers are, or the generation waits for its back-off."""
        return self._start_at is not None or all(
            worker.up or worker.leaving is not None for worker in self._workers
        )

    def idle(self) -> bool:
        return not self._outbox.messages and not self._alone

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """The Lock, for the parent's own writes: with a time-out, since its holder may be dead.

        Without it SQLite's own lock still keeps the file whole.
        """
        lock = self._outbox.lock
        held = lock is not None and lock.acquire(timeout=_LOCK_PATIENCE)
        try:
            yield
        finally:
            if held:
                lock.release()

    # ---- what happened -----------------------------------------------------------------------

    def waitables(self) -> list[Any]:
        """What becomes readable when `collect` has something to say."""
        return [end for worker in self._workers for end in worker.ends()]

    def collect(self) -> list[Event]:
        """Everything that happened since the last call."""
        events = self._take_untold()
        ready = set(self._waiting.ready(self.waitables(), 0))
        for worker in [each for each in self._workers if not ready.isdisjoint(each.ends())]:
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

    def _reports(self, worker: WorkerHandle) -> list[Event]:
        events: list[Event] = []
        with contextlib.suppress(EOFError, OSError):
            while worker.reports.poll():
                events += self._done(worker, worker.reports.recv())
        return events

    def _done(self, worker: WorkerHandle, done: Done) -> list[Event]:
        self._sign = time.monotonic()
        if done.broken and not self._stopping:
            raise BrokenState(f"{os.fsdecode(self._settings.state_folder)}: {done.fault}")
        if not done.message:
            worker.up = self._proven = True
            self._outbox.one_answered()
            return []
        jobs = self._outbox.messages.pop(done.message, ())
        if done.returned:
            return [Returned(list(jobs))]
        if done.fault is not None:
            return [Trouble(done.fault, list(jobs))]
        self._deaths.forget()
        by_take = {job.take: job for job in jobs}
        return [
            Finished([(by_take[each.take], each) for each in done.reports if each.take in by_take])
        ]

    def _died(self, worker: WorkerHandle) -> list[Event]:
        """One worker is dead: by its slot, replace it or the generation, and say who is charged."""
        slot = self._slots.read(worker.number)
        worker.process.join(5)
        code = worker.process.exitcode
        if code == _EXIT_UNKNOWN:
            logger.warning("the process that starts the workers died: all of them are replaced")
            return self._retire(self._deaths.one_more())
        # One that somebody killed says nothing of whether workers can start.
        if not (worker.up or self._proven or code == -signal.SIGKILL):
            raise DropmillError(f"a worker could not start (exit status {code}): see above")
        if code == EXIT_LEFT and slot.phase is Phase.FREE:
            if worker.leaving is None:
                self._outbox.one_left()
            self._replace(worker)
            return []
        logger.warning("worker %d (pid %d) %s", worker.number, worker.process.pid, manner(code))
        events: list[Event] = []
        if slot.phase is Phase.WORKING:
            jobs = self._outbox.messages.pop(slot.message, ())
            events += self._blame.of(worker.sentence, slot, code, jobs)
        is_at_work = slot.phase is Phase.WORKING and worker.up
        # Deaths that a take is charged or spared for are few; others might go on for ever.
        pause = 0.0 if is_at_work and slot.take else self._deaths.one_more()
        if is_at_work and not pause:
            self._replace(worker)
            return events
        return events + self._retire(pause)

    def _replace(self, worker: WorkerHandle) -> None:
        self._bury(worker)
        self._workers.remove(worker)
        if worker.leaving is not None and not self.is_renewing():
            left = self._outbox.close_old()
            self._untold += [Returned(left)] if left else []
        if worker.number < self.size:
            self._vacant.append(worker.number)
        self._fill()

    def _bury(self, worker: WorkerHandle) -> None:
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
            self._guard.check(worker, now)
        self._outbox.ask_for_places(len(self._alone))  # the Queue was full, or there was none
        return self._take_untold()

    def abandon(self, roots: Collection[bytes], seconds: float) -> None:
        """Takes back what is of these roots, which hang.

        A worker that has stood still at one of their files for so long is ended; one that gets
        anywhere is not in the way.
        """
        waits = self._guard.end_those_at(roots, self._workers, seconds, time.monotonic())
        if waits and self._outbox.is_open:
            returned = self._outbox.sort_out(roots)
            self._untold += [Returned(returned)] if returned else []

    def _not_begun(self) -> list[Job]:
        """The jobs that nobody began, off the Queue again."""
        return [job for message in self._outbox.taken_back() for job in message.jobs]

    def doing(self) -> list[tuple[int, Slot, Job | None]]:
        """Each worker: its process id, its slot, the job in hand."""
        slots = [(worker, self._slots.read(worker.number)) for worker in self._workers]
        return [
            (worker.process.pid or 0, slot, self._guard.in_hand(slot)) for worker, slot in slots
        ]

    # ---- the end -----------------------------------------------------------------------------

    def ask_to_leave(self) -> list[Event]:
        """No more work: takes what nobody began off the Queue, asks every worker to leave."""
        self._stopping = True
        self._start_at, self._vacant = None, []
        if not self._outbox.is_open:
            return []
        # Where nothing was sent it would only be waited for.
        returned = [] if self.idle() else self._not_begun()
        self._ask_all_to_leave()
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

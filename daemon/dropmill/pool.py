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
import os
import queue
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from .blame import Blame, Killed, Returned, manner
from .errors import BrokenState, DropmillError
from .job import Job, Report
from .slots import Phase, Slot, Slots
from .spawning import LONGEST_DELAY, Spawner, delay
from .worker import EXIT_LEFT, Done, Message, WorkerSettings
from .worker_handle import WorkerHandle

__all__ = ["Event", "Finished", "Killed", "Pool", "Returned", "Trouble"]

logger = logging.getLogger("dropmill.pool")

MESSAGES_A_WORKER = 2
_BOOT = 60.0
_LEAVE = 10.0  # seconds in which a worker with nothing in hand makes place for its successor
_LOCK_PATIENCE = 1.0
_FREE_DEATHS = 8
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
        self._ids = itertools.count(1)
        self._messages: dict[int, tuple[Job, ...]] = {}
        self._alone: list[Job] = []
        self._asked = 0  # requests to leave that no worker has followed yet
        self._workers: list[WorkerHandle] = []
        self._queue: Any = None
        self._lock: Any = None
        self._proven = False  # a worker of ours has come up before
        self._deaths: list[float] = []
        self._start_at: float | None = None  # when the next generation is due
        self._vacant: list[int] = []  # numbers of the workers that are to be started
        self._fill_at = 0.0
        self._failures = 0  # to start a worker, in a row
        self._untold: list[Event] = []  # what `collect` is to give the next time
        self._stopping = False
        self._old_queues: list[Any] = []  # workers of other settings still listen there
        self._sign = time.monotonic()
        self._is_asked = False  # a no-op is on its way

    # ---- a generation ------------------------------------------------------------------------

    def start(self) -> None:
        """A fresh Queue, a fresh Lock, N fresh workers; what cannot be had now `tick` gets."""
        try:
            self._queue = self._spawner.queue(MESSAGES_A_WORKER * self.size)
            self._lock = self._spawner.lock()
        except OSError as error:
            self._discard_queue()
            self._start_at = time.monotonic() + self._could_not_start(error)
            return
        self._start_at = None
        self._asked = 0
        self._sign, self._is_asked = time.monotonic(), False
        self._vacant = list(range(self.size))
        self._fill()

    def _fill(self) -> None:
        """Starts the workers that are missing; one takes a job that is to run alone."""
        while self._vacant:
            first = Message(next(self._ids), (self._alone[0],)) if self._alone else None
            try:
                self._slots.clear(self._vacant[0])
                worker = self._spawner.worker(self._vacant[0], self._queue, self._lock, first)
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
        self._discard_queue()
        jobs = [job for message in self._messages.values() for job in message] + self._alone
        if jobs:
            events.append(Returned(jobs))
        self._messages.clear()
        self._alone.clear()
        if not self._stopping:
            self._start_at = time.monotonic() + pause
            if not pause:
                self.start()
        return events

    def _discard_queue(self) -> None:
        if self._queue is not None:
            self._old_queues.append(self._queue)
            self._queue = None
        self._discard_old_queues()

    def _discard_old_queues(self) -> None:
        while self._old_queues:
            old = self._old_queues.pop()
            old.cancel_join_thread()
            old.close()

    def _back_off(self) -> float:
        """Nothing for the first deaths since a message was finished, then 1 s doubling to 60 s."""
        now = time.monotonic()
        recent = [death for death in self._deaths if now - death < 2 * LONGEST_DELAY]
        self._deaths = [*recent, now]
        return 0.0 if len(recent) < _FREE_DEATHS else delay(len(recent) - _FREE_DEATHS)

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
        if self._queue is None:
            return []  # the next generation starts with them
        try:
            fresh = self._spawner.queue(MESSAGES_A_WORKER * self.size), self._spawner.lock()
        except OSError as error:
            return self._retire(self._could_not_start(error))
        returned = [job for message in self._taken_back() for job in message.jobs] + self._alone
        self._alone = []
        self._ask_all_to_leave()
        self._old_queues.append(self._queue)
        self._queue, self._lock = fresh
        self._asked, self._is_asked = 0, False
        taken = {worker.number for worker in self._workers}
        self._vacant = [number for number in range(self.size) if number not in taken]
        self._fill()
        return [Returned(returned)] if returned else []

    def _ask_all_to_leave(self) -> None:
        for worker in self._workers:
            if worker.leaving is None:
                worker.leaving = time.monotonic()
                with contextlib.suppress(queue.Full):
                    self._queue.put_nowait(Message(next(self._ids), ()))

    def is_renewing(self) -> bool:
        """Whether a worker with other settings than the last is there still."""
        return any(worker.leaving is not None for worker in self._workers)

    def _close_old_queues(self) -> None:
        """Nobody listens there any more; what somebody left there who died goes back."""
        left = [message for old in self._old_queues for message in _emptied(old)]
        jobs = [job for message in left for job in self._messages.pop(message.id, ())]
        if jobs:
            self._untold.append(Returned(jobs))
        self._discard_old_queues()

    # ---- signs of life -----------------------------------------------------------------------

    def ping(self) -> None:
        """Asks for a sign of life, through the Queue: whichever worker gets it answers."""
        if self._queue is not None and not self._stopping and not self._is_asked:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(Message(next(self._ids), (), ping=True))
                self._is_asked = True

    def last_sign(self) -> float:
        """When the pool last showed that it lives, by the monotonic clock.

        That is when a worker last said anything; and now, while it is at something that has a
        guard of its own: a file in hand or a start, both with a time-out, a generation or a worker
        that waits for its back-off, an end with a deadline.
        """
        is_between = self._queue is None or self._stopping or not self._workers
        if is_between or any(map(self._is_guarded, self._workers)):
            return time.monotonic()
        return self._sign

    def _is_guarded(self, worker: WorkerHandle) -> bool:
        if worker.sentence is not None:
            return False  # it was killed; one that does not die of it is no sign of life
        slot = self._slots.read(worker.number)
        return not worker.up or (slot.phase is Phase.WORKING and slot.take != 0)

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

    def is_up(self) -> bool:
        """Whether all its workers are, or the generation waits for its back-off."""
        return self._start_at is not None or all(
            worker.up or worker.leaving is not None for worker in self._workers
        )

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
        ends = [(worker.reports, worker.process.sentinel) for worker in self._workers]
        return [end for each in ends for end in each]

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
            self._is_asked = False
            return []
        jobs = self._messages.pop(done.message, ())
        if done.returned:
            return [Returned(list(jobs))]
        if done.fault is not None:
            return [Trouble(done.fault, list(jobs))]
        self._deaths.clear()
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
            return self._retire(self._back_off())
        if not worker.up and not self._proven:
            raise DropmillError(f"a worker could not start (exit status {code}): see above")
        if code == EXIT_LEFT and slot.phase is Phase.FREE:
            if worker.leaving is None:
                self._asked = max(0, self._asked - 1)
            self._replace(worker)
            return []
        logger.warning("worker %d (pid %d) %s", worker.number, worker.process.pid, manner(code))
        events: list[Event] = []
        if slot.phase is Phase.WORKING:
            jobs = self._messages.pop(slot.message, ())
            events += self._blame.of(worker.sentence, slot, code, jobs)
        is_at_work = slot.phase is Phase.WORKING and worker.up
        # Deaths that a take is charged or spared for are few; others might go on for ever.
        pause = 0.0 if is_at_work and slot.take else self._back_off()
        if is_at_work and not pause:
            self._replace(worker)
            return events
        return events + self._retire(pause)

    def _replace(self, worker: WorkerHandle) -> None:
        self._bury(worker)
        self._workers.remove(worker)
        if worker.leaving is not None and not self.is_renewing():
            self._close_old_queues()
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
            self._check(worker, now)
        self._ask_for_place()  # the Queue was full, or there was none
        return self._take_untold()

    def _check(self, worker: WorkerHandle, now: float) -> None:
        if worker.sentence is not None:
            return
        if not worker.up and now - worker.started > _BOOT:
            worker.kill()
        slot = self._slots.read(worker.number)
        if slot.phase is Phase.WAITING and worker.has_dawdled(slot, now) > _LEAVE:
            worker.kill()
        if slot.phase is Phase.WORKING and slot.take:
            worker.still_for(slot, now)
            job = self._in_hand(slot)
            size = job.fingerprint.size if job is not None else 0
            reason = self._blame.excess(now - slot.since, size, worker.resident())
            if reason is not None and self._slots.read(worker.number) == slot:
                worker.sentence_to_death(slot, reason)

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
                worker.sentence_to_death(slot, None)
        waiting = [
            job for id_, jobs in self._messages.items() if id_ not in in_hand for job in jobs
        ]
        if self._queue is not None and any(job.root in roots for job in waiting):
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
        taken = _emptied(self._queue)
        self._asked -= sum(not message.jobs and not message.ping for message in taken)
        self._is_asked &= not any(message.ping for message in taken)
        for message in taken:
            self._messages.pop(message.id, None)
        return taken

    def _in_hand(self, slot: Slot) -> Job | None:
        jobs = self._messages.get(slot.message, ())
        return next((job for job in jobs if job.take == slot.take), None)

    def doing(self) -> list[tuple[int, Slot, Job | None]]:
        """Each worker: its process id, its slot, the job in hand."""
        slots = [(worker, self._slots.read(worker.number)) for worker in self._workers]
        return [(worker.process.pid or 0, slot, self._in_hand(slot)) for worker, slot in slots]

    # ---- the end -----------------------------------------------------------------------------

    def ask_to_leave(self) -> list[Event]:
        """No more work: takes what nobody began off the Queue, asks every worker to leave."""
        self._stopping = True
        self._start_at, self._vacant = None, []
        if self._queue is None:
            return []
        # Where nothing was sent it would only be waited for.
        taken = [] if self.idle() else self._taken_back()
        returned = [job for message in taken for job in message.jobs]
        for worker in self._workers:
            if worker.leaving is None:
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


def _emptied(messages: Any) -> list[Message]:
    """What was on a Queue."""
    taken = []
    with contextlib.suppress(queue.Empty):
        while True:
            taken.append(messages.get(timeout=0.05))
    return taken

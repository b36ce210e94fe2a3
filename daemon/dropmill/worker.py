"""A worker: takes messages from the Queue, works on their jobs, commits, reports. Runs in a child.

    get ──► open all ──► process each ──► copies durable ──► shard ──► Lock: ledger ──► report
            (WAITING → WORKING, the take in hand in the slot)               (COMMITTING)

A job's fault is the job's: it becomes an outcome. A fault of the machine throws the message's work
away, charges nobody and is told to the parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from . import heap, log
from .compaction import EVERY, Compaction
from .copies import copy_path
from .datasets import engine
from .datasets.rule import Rule, RuleSet
from .errors import FileFault, MachineFault, NotOurs
from .index import Shard, shard_path
from .job import Fingerprint, Job, Kind, Outcome, Report, Verdict
from .membership import Membership
from .opening import MACHINE, ShutOut, opened
from .processors import PROCESSORS, Workbench
from .processors.dataset import DataSets
from .processors.watchlist import WatchList
from .sandbox import LIST, READ, WRITE, Access, Sandbox, lower_limits
from .slots import Phase, Slot, Slots
from .source import fingerprint, has_writer
from .staging import Staging
from .store.completion import Completion
from .store.schema import BROKEN

EXIT_LEFT = 0
EXIT_OUT_OF_MEMORY = 71
AGGREGATES_NAME = "{stem}{suffix}.aggregates.csv"
IDLE = 2.0  # seconds without a message until compaction may begin


class WorkerSettings(NamedTuple):
    """What a worker needs of the configuration; small, and cheap to send."""

    state_folder: bytes
    workers: int
    output: bytes
    name: str  # template of a copy's name
    root_names: dict[bytes, bytes]  # root → name of its folder among the copies
    keywords: tuple[str, ...]
    attempts: int
    memory: int
    pixels: int
    log_level: str
    log_format: str
    rules: RuleSet = RuleSet()  # for data sets


class Message(NamedTuple):
    """Work on its way through the Queue. No jobs: the worker that gets it leaves, or answers."""

    id: int
    jobs: tuple[Job, ...]
    ping: bool = False  # a no-op: say that you live

    def __reduce__(self) -> tuple[Any, ...]:
        # Lists and tuples alone: pickle asks a named tuple, in Python, what it is made of.
        jobs: list[list[Any]] = list(map(list, self.jobs))
        for job in jobs:
            job[_FINGERPRINT] = tuple(job[_FINGERPRINT])
        return _as_message, (self.id, jobs, *self[2:])


_FINGERPRINT = Job._fields.index("fingerprint")


def _as_message(number: int, jobs: list[list[Any]], *others: Any) -> Message:
    for job in jobs:
        job[_FINGERPRINT] = Fingerprint._make(job[_FINGERPRINT])
    return Message(number, tuple(map(Job._make, jobs)), *others)


class Done(NamedTuple):
    """A message on its way back: a report for each job, or the machine's fault."""

    message: int  # 0: none, it only says that the worker is up
    reports: tuple[Report, ...]
    fault: str | None = None
    broken: bool = False  # a database is: nobody can go on
    returned: bool = False  # untouched: for a worker that can open what this one cannot

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_done, (self.message, list(map(tuple, self.reports)), *self[2:])


def _as_done(message: int, reports: list[tuple[Any, ...]], *others: Any) -> Done:
    return Done(message, tuple(map(Report._make, reports)), *others)


def main(
    number: int,
    settings: WorkerSettings,
    messages: Any,
    lock: AbstractContextManager[object],
    reports: Connection,
    first: Message | None,
) -> None:
    """A worker's life. `first` is worked on alone, before anything is taken from the Queue."""
    _narrow(settings.memory)
    log.configure(settings.log_level, settings.log_format)
    worker = Worker(number, settings, lock, reports)
    worker.shut_in()
    _collect_seldom()
    reports.send(Done(0, ()))  # up
    try:
        if first is not None:
            worker.work(first)
        worker.serve(messages)
        worker.leave()
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)
    except BROKEN as error:
        reports.send(Done(0, (), str(error), broken=True))
    finally:
        with contextlib.suppress(Exception):
            worker.close()


def _narrow(memory: int) -> None:
    """The parent owns the signals, and a worker dies with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken lease
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _die_with_the_parent()
    lower_limits(memory)


def _collect_seldom() -> None:
    """A message's outcomes are many objects and no cycles: looking for some costs 5 %."""
    gc.freeze()
    gc.set_threshold(50_000)


def _die_with_the_parent() -> None:
    """Has the kernel kill this process when the parent's end of their pipe closes.

    PR_SET_PDEATHSIG would not do: it tells of the forkserver's death, and that lives on as long
    as one of its children does.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    pipe = parent.sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if not parent.is_alive():
        os.kill(os.getpid(), signal.SIGKILL)


class Worker:
    """One member of the pool, with its slot and its shard."""

    def __init__(
        self,
        number: int,
        settings: WorkerSettings,
        lock: AbstractContextManager[object],
        reports: Connection,
    ) -> None:
        self._number = number
        self._settings = settings
        self._reports = reports
        self._slots = Slots(settings.state_folder)
        self._sandbox = Sandbox(_kept(settings))
        self._must_leave = False
        self._pid = os.getpid()
        self._phase(Phase.WORKING)
        self._membership = Membership(settings.state_folder, number)
        self._shard = Shard(settings.state_folder, number)
        self._completion = Completion(
            settings.state_folder,
            lock,
            number,
            settings.attempts,
            {rule.name: rule for rule in settings.rules.rules},
            self._place_of,
        )
        self._staging = Staging(settings.output)
        self._bench = Workbench(
            self._shard.add,
            WatchList(settings.keywords),
            self._staging.new,
            settings.pixels,
            settings.rules,
            DataSets(),
        )
        self._compaction = Compaction(
            settings.state_folder,
            settings.workers,
            self._shard,
            self._completion,
            self._holding_the_lock,
            self._membership.alone_with,
        )

    def shut_in(self) -> None:
        """From here on it reads the roots, and writes copies and the index: nothing else."""
        from .processors import preloaded as preloaded  # not in the parent

        if self._settings.rules.rules:
            engine.load()

        time.localtime()  # reads the time zone, for the log
        self._sandbox.enter()

    def close(self) -> None:
        self._shard.close()
        self._completion.close()

    def leave(self) -> None:
        """Gives its slot back; what ended in any other way has something to explain there."""
        self._slots.clear(self._number)

    def serve(self, messages: Any) -> None:
        """Works until a message says to leave, or there is one that only others can work on."""
        until = time.monotonic() + IDLE
        while not self._must_leave:
            self._phase(Phase.WAITING)
            try:
                message: Message = messages.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self._phase(Phase.WORKING)
                heap.give_back()
                is_tidy = self._compaction.when_idle(lambda: not messages.empty())
                until = time.monotonic() + (EVERY if is_tidy else IDLE)
                continue
            self._phase(Phase.WORKING, message.id)
            if message.ping:
                self._reports.send(Done(0, ()))
                continue
            if not message.jobs:
                return
            self.work(message)
            self._compaction.under_load()
            until = time.monotonic() + IDLE

    def work(self, message: Message) -> None:
        """From jobs to reports; a fault of the machine undoes the message's work."""
        try:
            in_hand = partial(self._in_hand, message.id)
            with opened(message.jobs, in_hand, self._may_open) as sources:
                outcomes = [self._outcome(message.id, job, found) for job, found in sources]
            reports = self._commit(message.id, outcomes)
        except (MachineFault, ShutOut) as fault:
            self._shard.rollback()
            self._staging.clear()
            self._reports.send(self._undone(message.id, fault))
        else:
            self._reports.send(Done(message.id, reports))

    def _undone(self, message: int, fault: MachineFault | ShutOut) -> Done:
        """A fresh worker finds, or makes, the folders that are there now; what it cannot make
        either is the machine's fault."""
        outputs = _outputs(self._settings)
        returned = isinstance(fault, ShutOut) or any(map(self._sandbox.has_lost, outputs))
        self._must_leave = returned or not all(map(self._sandbox.was_left, outputs))
        return Done(message, (), None if returned else str(fault), returned=returned)

    def _may_open(self, root: bytes) -> bool:
        return self._sandbox.was_left(root) and not self._sandbox.has_lost(root)

    # ---- process -----------------------------------------------------------------------------

    def _outcome(self, message: int, job: Job, found: int | Outcome) -> Outcome:
        if isinstance(found, Outcome):
            return found
        self._in_hand(message, job)
        started = time.time_ns()
        try:
            return self._process(job, found, started)
        except NotOurs as verdict:
            return Outcome(job, Verdict.SKIPPED, started, str(verdict))
        except FileFault as fault:
            return Outcome(job, Verdict.QUARANTINED, started, str(fault))
        except EOFError:
            return Outcome(job, Verdict.CHANGED, started)
        except (MachineFault, MemoryError):
            raise
        except OSError as error:
            if error.errno in MACHINE:
                raise MachineFault(f"{error.strerror}") from error
            return Outcome(job, Verdict.RETRY, started, f"reading it: {error.strerror}")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Outcome(job, Verdict.RETRY, started, reason)

    def _process(self, job: Job, descriptor: int, started: int) -> Outcome:
        before = fingerprint(os.fstat(descriptor))
        if not _is_as_admitted(job, before):
            return Outcome(job, Verdict.CHANGED, started)
        if (job.unhurried or job.kind is not Kind.TEXT) and has_writer(descriptor):
            return Outcome(job, Verdict.BUSY, started)
        if job.kind is Kind.DATASET and self._rules_of(job) is None:
            return Outcome(job, Verdict.CHANGED, started)  # made by another configuration
        size = job.fingerprint.size if job.ranged else before.size
        outcome = PROCESSORS[job.kind](descriptor, job, size, started, self._bench)
        after = fingerprint(os.fstat(descriptor))
        if not _held_still(job, before, after):
            return Outcome(job, Verdict.CHANGED, started)
        seen = before._replace(device=job.fingerprint.device)
        if after == before and (job.ranged or seen == job.fingerprint):
            return outcome
        return outcome._replace(
            fingerprint=job.fingerprint if job.ranged else seen,
            look_again=after != before,
        )

    # ---- commit ------------------------------------------------------------------------------

    def _commit(self, message: int, outcomes: list[Outcome]) -> tuple[Report, ...]:
        """Copies, then the shard, then the ledger: a `done` never speaks of what is not there."""
        self._phase(Phase.WORKING, message)  # no take is to blame from here on
        outcomes = [self._keep_copy(outcome) for outcome in outcomes]
        failed = self._staging.publish()
        outcomes = [_without_copy(outcome, failed) for outcome in outcomes]
        self._shard.commit()
        self._phase(Phase.COMMITTING, message)
        try:
            verdicts = self._completion.complete(outcomes)
        finally:
            self._phase(Phase.WORKING, message)
        return tuple(map(self._report, outcomes, verdicts))

    def _report(self, outcome: Outcome, verdict: Verdict) -> Report:
        job = outcome.job
        is_news = verdict is Verdict.DONE and job.kind is not Kind.IMAGE and self._settings.keywords
        return Report(
            job.take,
            job.file,
            verdict,
            outcome.reason or self._completion.why.get(job.file),
            outcome.look_again,
            outcome.trusted,
            self._completion.news(outcome) if is_news else {},
            outcome.rules,
        )

    def _keep_copy(self, outcome: Outcome) -> Outcome:
        """Names the copy's place; renames the old one's copy where the source was renamed."""
        job = outcome.job
        if job.kind is Kind.DATASET:
            return outcome._replace(rules=self._rules_of(job))
        if job.kind is not Kind.IMAGE:
            return outcome
        if outcome.verdict not in _HAVE_COPY:
            self._staging.discard(job.take)
            return outcome
        output = copy_path(
            self._settings.output,
            self._settings.root_names[job.root],
            job.path,
            self._settings.name,
        )
        mtime_ns = (outcome.fingerprint or job.fingerprint).mtime_ns
        if outcome.verdict is Verdict.DONE:
            self._staging.keep(job.take, output, mtime_ns)
        elif job.output is not None:
            self._staging.move(job.output, output, mtime_ns)
        return outcome._replace(output=output)

    def _rules_of(self, job: Job) -> bytes | None:
        """The digest of the rules that a data set falls under."""
        return self._settings.rules.digest(os.fsdecode(os.path.basename(job.path)))

    def _place_of(self, job: Job, rule: Rule) -> bytes:
        """Where the CSV file of a data set's results by one rule lies."""
        root_name = self._settings.root_names[job.root]
        return copy_path(rule.output or b"", root_name, job.path, AGGREGATES_NAME)

    # ---- slot --------------------------------------------------------------------------------

    def _phase(self, phase: Phase, message: int = 0) -> None:
        self._slots.write(self._number, Slot(phase, self._pid, message, 0, 0, time.monotonic()))

    @contextlib.contextmanager
    def _holding_the_lock(self) -> Iterator[None]:
        """Between messages: whoever dies in here may leave the Lock locked."""
        self._phase(Phase.COMMITTING)
        try:
            yield
        finally:
            self._phase(Phase.WORKING)

    def _in_hand(self, message: int, job: Job) -> None:
        self._slots.write(
            self._number,
            Slot(Phase.WORKING, self._pid, message, job.take, job.file, time.monotonic(), job.seq),
        )


def _kept(settings: WorkerSettings) -> dict[bytes, Access]:
    """What may be done in which folder."""
    index = os.path.dirname(shard_path(settings.state_folder, 0))
    kept = dict.fromkeys(settings.root_names, READ)
    kept[settings.state_folder] = LIST  # SQLite syncs it
    return kept | {index: WRITE} | dict.fromkeys(_outputs(settings), WRITE)


def _outputs(settings: WorkerSettings) -> list[bytes]:
    """The folders that copies and results go to."""
    of_rules = [rule.output for rule in settings.rules.rules if rule.output is not None]
    return [settings.output, *of_rules]


_HAVE_COPY = (Verdict.DONE, Verdict.RENAMED, Verdict.UNCHANGED)


def _is_as_admitted(job: Job, now: Fingerprint) -> bool:
    """A text may have grown since; a mode or an owner may have changed; nothing else may."""
    was = job.fingerprint
    if now.inode != was.inode:
        return False
    if job.kind is Kind.TEXT and now.size > was.size:
        return True
    return (now.size, now.mtime_ns) == (was.size, was.mtime_ns)


def _held_still(job: Job, before: Fingerprint, after: Fingerprint) -> bool:
    if job.kind is Kind.TEXT and after.size > before.size:
        return True
    return (after.size, after.mtime_ns) == (before.size, before.mtime_ns)


def _without_copy(outcome: Outcome, failed: dict[bytes, str]) -> Outcome:
    """A copy that cannot be put in place is its file's fault, and may pass."""
    if outcome.output is None or outcome.output not in failed:
        return outcome
    reason = f"its copy cannot be put in place: {failed[outcome.output]}"
    return Outcome(outcome.job, Verdict.RETRY, outcome.started_ns, reason)

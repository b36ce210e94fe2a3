"""The composition root: one process that waits, turns the mill, and obeys signals and requests."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from . import __version__, log
from .aftermath import FATAL_ATTEMPTS, SPARED
from .config.changes import sentence
from .config.following import Following
from .config.settings import Config
from .control import Request, Server, runtime_folder
from .durable import make_folder
from .errors import BrokenState, DropmillError, MachineFault
from .index import Shard, identity, shard_numbers, shard_path
from .job import State
from .log import shown
from .membership import FILE_NAME as MEMBERS
from .mill import PATIENCE, Mill
from .notify import Notify
from .requests import Requests
from .slots import Phase, Slot, Slots
from .store.completion import retry_time_ns
from .store.ledger import Ledger
from .store.schema import (
    BROKEN,
    FILE_NAME,
    clear_suspect,
    is_suspect,
    machine_faults,
    mark_suspect,
    move_aside_if_broken,
)
from .tally import Tally
from .telling import Telling
from .waiting import Waiting

logger = logging.getLogger("dropmill")

TICK = 1.0
FINISH = 8.0  # seconds that files in hand get at the end
_OLD_WORKERS = 15.0
Progress = Callable[[int, int, str], None]


class Supervisor:
    """Runs dropmill in the foreground, until it is told to stop or, with `once`, all is done."""

    def __init__(
        self,
        config_path: Path,
        config: Config,
        notify: Notify,
        *,
        once: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._config_path = config_path
        self._config = config
        self._once = once
        self._progress = progress
        self._state_folder = os.fsencode(config.state)
        self._signals: list[int] = []
        self._should_exit = False
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        self._waiting = Waiting()
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._ticked = self._show_at = 0.0
        self._total = 0
        self._following = Following(config_path, config)
        self._notify = notify

    # ---- the main loop -----------------------------------------------------------------------

    def run(self) -> int:
        """Gives the exit code: 0; with `once` 1 when anything is quarantined."""
        with _told_as_a_sentence(self._state_folder):
            self._prepare()
        try:
            while not self._should_exit:
                self._wait()
                self._obey_signals()
                self._mill.turn()
                self._answer()
                self._tick()
                self._telling.round_ended()
        except (BrokenState, *BROKEN) as error:
            mark_suspect(self._state_folder)
            raise _broken(self._state_folder, error) from None
        finally:
            self._stop()
        return self._exit_code

    def _wait(self) -> None:
        until = self._ticked + TICK
        for due in (self._mill.due(), self._notify.due()):
            if due is not None:
                until = min(until, due)
        timeout = max(0.0, until - time.monotonic())
        ready = self._waiting.ready([self._woken, *self._mill.waitables()], timeout)
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                while self._woken.recv(4096):
                    pass

    def _wake(self) -> None:
        """From any thread: there is something to do."""
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._waker.send(b"!")

    def _tick(self) -> None:
        now = time.monotonic()
        self._show_progress()
        if self._once and self._mill.is_finished():
            self._should_exit = True
        if now - self._ticked >= TICK:
            self._ticked = now
            self._mill.tick(now)
            if not self._once and self._following.is_saved():
                self._reload()
            self._check_state()

    def _show_progress(self) -> None:
        began = time.monotonic()
        if self._progress is not None and began >= self._show_at:
            self._report_progress()
            # What is left is counted: of half a million files that takes 10 ms.
            self._show_at = began + max(0.1, 50 * (time.monotonic() - began))

    def _report_progress(self) -> None:
        if self._progress is not None:
            done = self._tally.finished
            # What is being looked for is not counted yet: the total only ever grows.
            self._total = max(self._total, done + self._mill.left_to_do())
            self._progress(done, self._total, "taking in")

    # ---- signals and requests ----------------------------------------------------------------

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _obey_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._reload()
            else:
                logger.info("%s: stopping", signal.Signals(number).name)
                self._should_exit = True

    def _answer(self) -> None:
        while True:
            try:
                self._requests.begin(self._inbox.get_nowait())
            except queue.Empty:
                break
        self._requests.go_on()

    def _receive(self, request: Request) -> None:
        self._inbox.put(request)
        self._wake()

    def _check_state(self) -> None:
        """Whoever removes the state folder leaves us writing to files that nobody else sees."""
        with contextlib.suppress(OSError):
            os.stat(os.path.join(self._state_folder, FILE_NAME))
            lock = os.stat(os.path.join(self._state_folder, b"lock"))
            if os.path.samestat(lock, os.fstat(self._lock)):
                return
        raise DropmillError(
            f"{os.fsdecode(self._state_folder)}: was removed or replaced while the service ran:"
            " start it again, and what was taken in is taken in anew"
        )

    # ---- configuration -----------------------------------------------------------------------

    def _reload(self) -> None:
        """Puts the configuration file as it stands in force; a wrong one changes nothing."""
        self._telling.begin_again()
        was_refused = self._following.refused
        config = self._following.read()
        name = shown(os.fsencode(self._config_path))
        if self._following.refused is not None:
            for line in self._following.refused.splitlines():
                logger.error("not in force: %s", line)
        elif config is not None:
            changes = sentence(self._config, config)
            self._change(config)
            # By the old log's rules or by the new one's, whichever lets it through.
            is_heard = logger.isEnabledFor(logging.INFO)
            if is_heard:
                logger.info("%s is in force: %s", name, changes)
            log.configure(config.log.level, config.log.format)
            if not is_heard:
                logger.info("%s is in force: %s", name, changes)
        elif was_refused is not None:
            logger.info("%s is as it was before: in force", name)
        else:
            logger.info("%s says nothing new", name)

    def _change(self, config: Config) -> None:
        if not self._mill.looks_out_as(config):
            self._requests.refuse_all("the configuration was changed meanwhile: ask again")
        self._mill.change(config)
        self._config = self._following.config = config

    # ---- beginning and end -------------------------------------------------------------------

    def _prepare(self) -> None:
        make_folder(self._state_folder, mode=0o750)
        self._lock = _only_one(self._state_folder)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken lease
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        _wait_for_old_workers(self._state_folder)
        _repair(self._state_folder, self._config.worker_count, self._notify.extend)
        self._tally = Tally()
        self._cookies = os.path.join(runtime_folder(self._state_folder), b"sync")
        os.makedirs(self._cookies, mode=0o750, exist_ok=True)
        self._begin()
        self._server = Server(self._state_folder, self._receive)
        self._exit_code = 0
        logger.info(
            "dropmill %s is up: %d workers, watching %s",
            __version__,
            self._config.worker_count,
            ", ".join(shown(os.fsencode(root.path)) for root in self._config.watch),
        )

    def _begin(self) -> None:
        self._mill = Mill(self._config, self._cookies, self._wake, self._tally)
        self._requests = Requests(self._mill, self._cookies, lambda: self._following.refused)
        self._telling = Telling(self._notify, self._mill, lambda: self._following.refused)
        self._mill.start()

    def _stop(self) -> None:
        """In this order, each step with a deadline: no new requests, no new files, the files in
        hand, then what is left is killed."""
        self._notify.stopping()
        self._server.close()
        if self._once:
            self._exit_code = self._verdict()
            self._report_progress()
        with contextlib.suppress(*BROKEN):
            self._mill.stop(FINISH, self._notify.extend)
        self._notify.close()
        os.close(self._lock)

    def _verdict(self) -> int:
        counts = self._mill.ledger.counts()
        offline = [root for root in self._mill.watch.status() if root.state == "offline"]
        held_up = self._mill.intake.held_up(PATIENCE)
        for path in held_up:
            logger.warning("%s: left out: somebody is still writing it", shown(path))
        return 1 if counts.get(State.QUARANTINED) or offline or held_up else 0


@contextlib.contextmanager
def _told_as_a_sentence(state_folder: bytes) -> Iterator[None]:
    """What a start may find wrong with the state folder's disk."""
    name = os.fsdecode(state_folder)
    try:
        with machine_faults(name):
            yield
    except MachineFault as fault:
        raise DropmillError(str(fault) if name in str(fault) else f"{name}: {fault}") from None
    except BROKEN as error:
        mark_suspect(state_folder)
        raise _broken(state_folder, error) from None
    except OSError as error:
        raise DropmillError(f"{error.filename or name}: {error.strerror}") from None


def _broken(state_folder: bytes, error: Exception) -> DropmillError:
    return DropmillError(
        f"{os.fsdecode(state_folder)}: a database in it is broken ({error}): start again, and it is"
        " moved aside and rebuilt from the sources"
    )


def _only_one(state_folder: bytes) -> int:
    """The state folder's lock; raises where another daemon has it."""
    path = os.path.join(state_folder, b"lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DropmillError(
            f"{os.fsdecode(state_folder)}: another dropmill runs on this state folder:"
            " `dropmill status` shows it"
        ) from None
    except OSError as error:
        raise DropmillError(f"{os.fsdecode(path)}: {error.strerror}") from None
    return descriptor


def _wait_for_old_workers(state_folder: bytes) -> None:
    """Workers of a daemon that was killed die with it; until they have, they may still write."""
    descriptor = os.open(
        os.path.join(state_folder, MEMBERS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
    )
    deadline = time.monotonic() + _OLD_WORKERS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pids = " ".join(str(slot.pid) for _, slot in _left_slots(state_folder))
                    raise DropmillError(
                        f"{os.fsdecode(state_folder)}: workers of an earlier dropmill are still"
                        f" alive: end them (`kill -KILL {pids}`), then start again"
                    ) from None
                time.sleep(0.02)
    finally:
        os.close(descriptor)


def _left_slots(state_folder: bytes) -> list[tuple[int, Slot]]:
    slots = Slots(state_folder)
    try:
        return slots.in_hand()
    finally:
        slots.close()


def _repair(state_folder: bytes, workers: int, meanwhile: Callable[[], None]) -> None:
    """Brings the state folder in order after whatever ended the last daemon.

    Calls `meanwhile` again and again.

    Broken databases are moved aside, every worker's shard is there and known to the ledger, and
    the files that workers had in hand are noted.
    """
    suspect = is_suspect(state_folder)
    for path in (
        os.path.join(state_folder, FILE_NAME),
        *(shard_path(state_folder, number) for number in shard_numbers(state_folder)),
    ):
        aside = move_aside_if_broken(path, suspect=suspect, meanwhile=meanwhile)
        if aside is not None:
            logger.error("%s is broken: moved to %s; what it held is taken in again",
                         shown(path), shown(aside))  # fmt: skip
    clear_suspect(state_folder)
    shards = []
    for number in range(workers):
        meanwhile()
        shards.append(Shard(state_folder, number))
    ledger = Ledger(state_folder)
    try:
        # While they are open: closing one for the last time costs syncs.
        marks = {number: identity(state_folder, number) for number in shard_numbers(state_folder)}
        for shard in shards:
            shard.close()
        lost = ledger.adopt_shards(marks)
        if lost:
            logger.warning("%d files were in a part of the index that is lost: queued again", lost)
        _note_interrupted(state_folder, ledger)
    finally:
        ledger.close()


def _note_interrupted(state_folder: bytes, ledger: Ledger) -> None:
    slots = Slots(state_folder)
    for number, slot in slots.in_hand():
        if slot.phase is Phase.WORKING and slot.file:
            _spare_or_charge(ledger, slot.file, slot.seq)
        slots.clear(number)
    slots.close()


def _spare_or_charge(ledger: Ledger, file: int, seq: int) -> None:
    """Nobody is blamed for a service that died, unless it died of the same file every time."""
    spared = ledger.faults.spare(file, seq)
    if spared > SPARED:
        reason = f"the service was killed {spared} times with it in hand"
        ledger.faults.charge(file, seq, reason, retry_time_ns(1, time.time_ns()), FATAL_ATTEMPTS)

"""Everything that depends on the configuration, put together: watch, intake, feeder and pool.

One turn of the mill moves each file one stage on:

    watch.drain ──► intake ──► ledger ──► feeder.fill ──► pool ──► pool.collect ──► ledger, tally

Another configuration is put in force part by part (`change`): the ledger, the feeder and the files
that workers have in hand never notice; watch and intake are made anew where other paths are to be
watched; workers are followed by others, each when it is done with what it has in hand.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from . import staging, watch
from .aftermath import Aftermath
from .config.settings import Config
from .errors import MachineFault
from .feeder import Feeder
from .fitting import outputs, watched, what_is_noticed, worker_settings
from .index import Shard, identity, shard_numbers
from .intake import Intake
from .keywords import Keywords
from .log import shown
from .pauses import Pauses
from .pool import Event, Pool
from .rules import Rules
from .store.ledger import Ledger
from .store.questions import COMPARE_RACY_NS
from .store.schema import machine_faults
from .tally import Tally

logger = logging.getLogger("dropmill")

PATIENCE = 30.0  # seconds that `run --once` waits for a file that somebody keeps writing
STUCK = 5.0  # seconds that a worker waits for a root that hangs
FORGET_GONE_NS = 30 * 24 * 3600 * 10**9


class Mill:
    """The service itself, with the configuration that is in force."""

    def __init__(
        self,
        config: Config,
        cookies: bytes,
        wake: Callable[[], None],
        tally: Tally,
    ) -> None:
        """`cookies` is a folder of ours that is watched with the roots."""
        self._config = config
        self.tally = tally
        self._state_folder = os.fsencode(config.state)
        self._output = os.fsencode(config.images.output)
        staging.empty(self._output)
        self._rules = Rules(config)
        self._pool = Pool(worker_settings(config), config.limits.timeout)
        self.ledger = Ledger(self._state_folder, self._pool.lock)
        self._wake, self._cookies = wake, cookies
        self._feeder = Feeder(self.ledger, self._pool, self._rules.of, self._rules.stride)
        self.pauses = Pauses([self._state_folder, *outputs(config)], config.limits.free)
        self._aftermath = Aftermath(
            self.ledger,
            self._feeder,
            self.pauses,
            tally,
            lambda: self.intake,
            lambda: self._output,
            self._rules.digest_of,
        )
        self._keywords = Keywords(self._state_folder, self._pool.lock, self._rules.of)
        self._look_out()
        self._began = time.monotonic()
        self._lost: set[bytes] = set()  # roots that were looked for and are not there
        self._rescans: set[int] = set()  # scans for files of polled roots that wait to be quiet
        self.echoes: set[bytes] = set()
        self.scanned: dict[int, watch.ScanDone | None] = {}  # scans that a request waits for
        self._forgot = 0.0
        self._clock_lead = time.time() - time.monotonic()  # of the wall's over the monotonic one
        self._admit_after = 0.0  # by the monotonic clock
        self._may_be_due = True  # retries or comparisons, some day
        self._untold: deque[Event] = deque()  # what happened, not yet told to the ledger

    def _look_out(self) -> None:
        """Makes what notices, for the configuration as it is."""
        self.intake = Intake(self._state_folder, self._rules, self.ledger, self._wake)
        self.watch = watch.Watch(
            [watched(root, self.ledger) for root in self._config.watch],
            watch.Reference(self.intake.compare, self.intake.met, self.intake.revision),
            self._wake,
            self._cookies,
            self._config.reconcile_every,
        )

    def start(self) -> None:
        self._keywords.want(self._config.text.keywords)
        self._leave_out()
        self.ledger.absence.bring_deaths_back(time.time_ns())
        self._pool.start()
        self.watch.start()

    def _leave_out(self) -> None:
        """Takes out of search what the configuration leaves out now, or does not watch."""
        dropped = self.ledger.absence.mark_unwatched(self._rules.of)
        if dropped:
            logger.info("%d files are in no watched folder any more: out of search", dropped)
        left_out = self.ledger.absence.leave_out(self._rules.ours_in, self._rules.digest)
        if left_out:
            logger.info(
                "%d files are left out by the configuration now, or taken as something else: out of"
                " search, until they are taken in anew",
                left_out,
            )

    # ---- another configuration ---------------------------------------------------------------

    def looks_out_as(self, config: Config) -> bool:
        """Whether the same paths are watched in the same way under that configuration."""
        return what_is_noticed(config) == what_is_noticed(self._config)

    def change(self, config: Config) -> None:
        """Puts another configuration in force; its state folder is the same.

        Loses nothing, and waits for no file in hand. What a fault of the machine (a full disk)
        keeps from being written now is made good by the next start.
        """
        old, self._config = self._config, config
        looks_out_anew = what_is_noticed(config) != what_is_noticed(old)
        if looks_out_anew:
            self.watch.stop(1.0)
            self.intake.close()
            self.echoes.clear()
            self.scanned.clear()
            self._rescans.clear()
        self._rules.change(config)
        self._change_output(os.fsencode(config.images.output))
        self._keywords.want(config.text.keywords)
        if looks_out_anew:
            self._lost.clear()
            self._try(self._leave_out)
            self._try(self._feeder.rules_changed)
        self._change_pool(old, config)
        if looks_out_anew:
            self._look_out()
            self.watch.start()
        else:
            self.intake.rules_changed()

    def _change_output(self, output: bytes) -> None:
        if output != self._output:
            staging.empty(output)
            self._output = output
        folders = [self._state_folder, *outputs(self._config)]
        self.pauses.guard(folders, self._config.limits.free)

    def _change_pool(self, old: Config, new: Config) -> None:
        settings, timeout = worker_settings(new), new.limits.timeout
        if (settings, timeout) == (worker_settings(old), old.limits.timeout):
            return
        if new.worker_count > old.worker_count:
            self._try(self._make_shards)
        for happened in self._pool.renew(settings, timeout):
            self._untold.append(happened)

    def _make_shards(self) -> None:
        """Each worker's shard is there, and known to the ledger, before the worker is."""
        known = shard_numbers(self._state_folder)
        with machine_faults("index"):
            for number in set(range(self._config.worker_count)).difference(known):
                Shard(self._state_folder, number).close()
        numbers = shard_numbers(self._state_folder)
        self.ledger.adopt_shards({each: identity(self._state_folder, each) for each in numbers})

    # ---- one turn ----------------------------------------------------------------------------

    def turn(self) -> None:
        """Moves everything on that can be moved; never waits."""
        for event in self.watch.drain():
            self._noticed(event)
        for root, folder in self.intake.rescans_due(time.monotonic()):
            self._rescans.add(self.watch.scan(root, folder))
        if time.monotonic() >= self._admit_after and not self._try(self.intake.admit):
            self._admit_after = self.pauses.until
        if self._try(self._collect) and not self.pauses.reason():
            self._try(self._feeder.fill)

    def _try(self, step: Callable[[], None]) -> bool:
        """Whether it went well; a fault of the machine makes everything pause."""
        try:
            step()
        except MachineFault as fault:
            self.pauses.machine(str(fault))
            return False
        return True

    def _collect(self) -> None:
        """What the ledger could not be told is told again the next time."""
        self._untold.extend(self._pool.collect())
        while self._untold:
            self._happened(self._untold[0])
            self._untold.popleft()

    def tick(self, now: float) -> None:
        """About once a second: what is due by the clock."""
        for happened in self._pool.tick(now):
            self._happened(happened)
        self.watch.tick(now)
        self._keywords.tick(now, may_begin=not self._pool.is_renewing())
        self._try(self._leave_out_what_hangs)
        self.pauses.tick(now)
        self.tally.tick(now)
        with suppress(MachineFault):
            self._go_back_to_what_is_due(time.time_ns())
            lead = time.time() - now
            if lead < self._clock_lead - 1:
                self.ledger.absence.bring_deaths_back(time.time_ns())
            self._clock_lead = lead
            if now - self._forgot > 3600:
                self._forgot = now
                self.ledger.absence.forget_gone(time.time_ns() - FORGET_GONE_NS)

    def _happened(self, event: object) -> None:
        self._may_be_due = True
        self._aftermath.of(event)

    def _go_back_to_what_is_due(self, now_ns: int) -> None:
        """To retries and comparisons; asks no more once there are none, until a worker reports."""
        if self._may_be_due:
            self.ledger.faults.due_retries(now_ns)
            self._compare(now_ns)
            self._may_be_due = self.ledger.expects_more()

    def _leave_out_what_hangs(self) -> None:
        """Workers that wait for a root that does not answer would be missed everywhere else."""
        hanging = self.watch.hanging()
        if hanging:
            self._pool.abandon(hanging, STUCK)
        self._feeder.hold(hanging)

    def due(self) -> float | None:
        """When there is next something to do that no event announces, by the monotonic clock."""
        due = self.intake.due()
        return None if due is None else max(due, self._admit_after)

    def waitables(self) -> list[Any]:
        return self._pool.waitables()

    # ---- what was noticed --------------------------------------------------------------------

    def _noticed(self, event: object) -> None:
        match event:
            case watch.Noticed():
                self.intake.noticed(event.root, event.path, moved=event.moved, gone=event.gone)
            case watch.FolderNoticed():
                self._folder_noticed(event)
            case watch.ScanDone():
                self._scan_done(event)
            case watch.RootReturned():
                self._root_returned(event)
            case watch.RootLost():
                self._lost.add(event.root)
                logger.warning("%s is offline: %s", shown(event.root), event.why)
            case watch.Echo():
                self.echoes.add(event.name)

    def _folder_noticed(self, event: watch.FolderNoticed) -> None:
        for folder in (event.moved_from, event.path if event.gone else None):
            if folder is not None and not os.path.isdir(folder):
                self.intake.folder_gone(folder)

    def _root_returned(self, event: watch.RootReturned) -> None:
        self._lost.discard(event.root)
        self._rules.root_returned(event.root)
        known = self.ledger.root_identity(event.root)
        with suppress(OSError):
            status = os.stat(event.root)
            identity = (status.st_dev, status.st_ino)
            if known in (None, identity):
                self._rules.root_is(event.root, identity)

    def _scan_done(self, done: watch.ScanDone) -> None:
        for request in done.requests:
            if request in self.scanned:
                self.scanned[request] = done
        if done.vanished:
            self.intake.folder_gone(done.folder)
        elif done.complete:
            self.intake.check_folders_below(done.folder, done.walk)
            if done.folder == done.root:
                with suppress(OSError, MachineFault):  # the next scan sees it again
                    status = os.stat(done.root)
                    identity = (status.st_dev, status.st_ino)
                    self.ledger.root_is(done.root, identity)
                    self._rules.root_is(done.root, identity)

    def scan(self, path: bytes | None) -> list[int]:
        """Requests a scan of one folder, or of all roots."""
        if path is None:
            requests = [self.watch.scan(root) for root in self._rules.roots]
        else:
            root = self._rules.of(path)
            folder = path if os.path.isdir(path) else os.path.dirname(path)
            requests = [] if root is None else [self.watch.scan(root, max(root, folder))]
        self.scanned.update(dict.fromkeys(requests))
        return requests

    def waiting_since(self, before: float) -> bool:
        """Whether a file noticed before that time is not admitted yet."""
        self._rescans &= self.watch.outstanding()
        return bool(self._rescans) or self.intake.waiting_since(before)

    def scan_polled(self) -> list[int]:
        """Requests a scan of every root whose changes make no events."""
        polled = ("polling", "degraded")
        return [self.watch.scan(root.path) for root in self.watch.status() if root.state in polled]

    # ---- how things stand --------------------------------------------------------------------

    def is_finished(self) -> bool:
        """Whether nothing is left to do for now: all scanned, settled, admitted and worked on."""
        return (
            self._feeder.is_empty()  # what costs least to ask comes first
            and self._pool.idle()
            and not self._untold
            and self.intake.waiting() == len(self.intake.held_up(PATIENCE))
            and self._all_scanned()
            and not self.ledger.has_queued(held=False)
            and self.ledger.faults.next_retry_ns() is None
            and not self.ledger.is_comparison_due(time.time_ns() + 2 * COMPARE_RACY_NS)
            and not self._keywords.is_busy()
        )

    def _all_scanned(self) -> bool:
        # Every root begins as offline: only one that was looked for and is not there counts.
        patient = time.monotonic() - self._began < PATIENCE
        seen = all(
            root.last_scan is not None
            or root.path in self._lost
            or (root.state == "offline" and not patient)
            for root in self.watch.status()
        )
        return self.watch.has_looked() and seen and not self.watch.outstanding()

    def is_up(self) -> bool:
        """Whether every root is watched, polled or known to be offline, and all workers are up."""
        return self.watch.is_settled() and self._pool.is_up()

    def left_to_do(self) -> int:
        return self.ledger.unfinished() + self.intake.waiting()

    def is_compared(self, by_ns: int) -> bool:
        """Whether what is due by then to be compared once more was; else it is, now."""
        if self.ledger.is_comparison_due(by_ns):
            self._compare(by_ns)
            return False
        return True

    def _compare(self, by_ns: int) -> None:
        if not self.pauses.reason():
            self._feeder.compare(self.ledger.to_compare(by_ns))

    def ping(self) -> None:
        self._pool.ping()

    def last_sign(self) -> float:
        """When the pool last showed that it lives: see `Pool.last_sign`."""
        return self._pool.last_sign()

    def workers(self) -> list[dict[str, Any]]:
        """What each worker does now, for `status`."""
        found = []
        for pid, slot, job in self._pool.doing():
            doing = os.fsdecode(os.path.join(job.root, job.path)) if job else None
            since = time.time_ns() - int((time.monotonic() - slot.since) * 1e9) if job else None
            found.append({"pid": pid, "doing": doing, "since": since})
        return found

    # ---- the end -----------------------------------------------------------------------------

    def stop(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """What finishes within that time is finished; the rest stays queued, uncharged.

        Calls `meanwhile` again and again.
        """
        deadline = time.monotonic() + seconds
        self._keywords.stop()
        self.watch.stop(min(1.0, seconds))
        self._happened_last([*self._untold, *self._pool.ask_to_leave()])
        while self._pool.alive() and time.monotonic() < deadline:
            self._happened_last(self._pool.collect_last())
            meanwhile()
            time.sleep(0.005)
        self._happened_last(self._pool.kill())
        self.tally.say_summary(time.monotonic())
        self.intake.close()
        self.ledger.close()

    def _happened_last(self, events: Iterable[Event]) -> None:
        """What the ledger cannot be told now is found out again at the next start."""
        for event in events:
            with suppress(MachineFault):
                self._happened(event)

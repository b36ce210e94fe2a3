"""What becomes of a file after the pool had it: which report leads to what."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from . import staging
from .feeder import Feeder
from .intake import Intake
from .job import Job, Kind, Report, State, Verdict
from .log import shown
from .pauses import Pauses
from .pool import Finished, Killed, Returned, Trouble
from .store.completion import retry_time_ns
from .store.ledger import Ledger
from .tally import Tally

logger = logging.getLogger("dropmill")

FATAL_ATTEMPTS = 2  # of a file that kills its worker
SPARED = 10  # deaths by a SIGKILL that nobody of us sent, before they are charged all the same


class Aftermath:
    """Acts on what the pool says."""

    def __init__(
        self,
        ledger: Ledger,
        feeder: Feeder,
        pauses: Pauses,
        tally: Tally,
        intake: Callable[[], Intake],
        output: Callable[[], bytes],
        rules_of: Callable[[bytes], bytes | None] = lambda name: None,
    ) -> None:
        """`intake` and `output` (the folder of the copies) give those that are in force, and
        `rules_of` the digest of the rules that a file of that name is a data set by."""
        self._rules_of = rules_of
        self._ledger = ledger
        self._feeder = feeder
        self._pauses = pauses
        self._tally = tally
        self._intake = intake
        self._output = output

    def of(self, event: object) -> None:
        """Tells the ledger and whoever else must know. Raises MachineFault."""
        match event:
            case Finished(reports=reports):
                self._pauses.worked()
                while reports:  # what was told is not told again when a later one fails
                    self._report(*reports[0])
                    self._tally.add(*reports.pop(0))
            case Returned(jobs=jobs):
                self._forget_staged(jobs)
                self._feeder.returned(jobs)
            case Killed(job=job, reason=reason, charged=charged):
                self._killed(job, reason, charged)
            case Trouble(reason=reason, jobs=jobs):
                self._pauses.machine(reason)
                self._feeder.returned(jobs)

    def _report(self, job: Job, report: Report) -> None:
        if report.rules is not None and report.rules != self._rules_of(os.path.basename(job.path)):
            self._by_old_rules(os.path.join(job.root, job.path))
        if report.verdict is Verdict.DONE and not report.look_again:  # nearly all of them
            self._feeder.landed(job)
            return
        path = os.path.join(job.root, job.path)
        match report.verdict:
            case Verdict.PART:
                self._feeder.landed(job)
                self._feeder.first_range_done(job)
                return
            case Verdict.VERIFYING:
                self._feeder.landed(job)
                self._feeder.go_on(job, report.trusted)
                return
            case Verdict.BUSY | Verdict.CHANGED:
                self._ledger.faults.let_go([job.file])
                self._feeder.drop(job.file)
                self._intake().look_again(path)
            case Verdict.VANISHED:
                self._vanished(job, path)
            case Verdict.RETRY | Verdict.QUARANTINED | Verdict.SKIPPED:
                self._feeder.drop(job.file)
        if report.look_again and report.verdict is not Verdict.CHANGED:
            self._intake().look_again(path)
        self._feeder.landed(job)

    def _by_old_rules(self, path: bytes) -> None:
        """A worker was at it when the rules changed: whatever came of it is of the old ones."""
        self._ledger.faults.look_at_again(path)
        self._intake().look_again(path)

    def _vanished(self, job: Job, path: bytes) -> None:
        """Gone, unless its root or its mount is away: then it is neither there nor gone."""
        self._feeder.drop(job.file)
        if self._intake().is_gone(path):
            self._intake().gone(path)
        else:
            self._ledger.faults.let_go([job.file])
            self._intake().look_again(path)

    def _forget_staged(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.kind is Kind.IMAGE:
                staging.forget(self._output(), job.take)

    def _killed(self, job: Job, reason: str, charged: bool) -> None:
        name = shown(os.path.join(job.root, job.path))
        self._feeder.drop(job.file)
        self._forget_staged([job])
        if not charged:
            spared = self._ledger.faults.spare(job.file, job.seq)
            charged = spared > SPARED
            reason = f"{spared} workers were killed with it in hand"
        if charged:
            state = self._ledger.faults.charge(
                job.file, job.seq, reason, retry_time_ns(1, time.time_ns()), FATAL_ATTEMPTS
            )
            if state is State.QUARANTINED:
                logger.warning("%s: quarantined: %s", name, reason)
            elif state is not None:
                logger.warning("%s: will be tried once more, alone: %s", name, reason)
            self._feeder.landed(job)
        else:
            self._feeder.returned([job])

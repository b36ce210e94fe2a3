"""What is told of files as they are done: a line each at a trickle, a summary in a burst."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque

from .job import Job, Kind, Report, Verdict
from .log import shown

logger = logging.getLogger("dropmill")
_files = logging.getLogger("dropmill.files")  # a line a file, or of a burst

TRICKLE = 20  # lines in a second, at most
SUMMARY_EVERY = 10.0
_RECENT = 60

_SAID = {
    Verdict.DONE: "taken in",
    Verdict.RENAMED: "renamed",
    Verdict.UNCHANGED: "unchanged",
    Verdict.SKIPPED: "skipped",
    Verdict.QUARANTINED: "quarantined",
    Verdict.RETRY: "will be tried again",
}
_KINDS = {kind: "data set" if kind is Kind.DATASET else kind.label for kind in Kind}
_WARNED = (Verdict.QUARANTINED, Verdict.RETRY)


def say_only_what_went_wrong() -> None:
    """Of files that went well nothing is logged any more: a progress bar shows them.

    Hits of the watch list are, as ever.
    """
    _files.setLevel(logging.WARNING)


class Tally:
    """Counts outcomes, and logs them."""

    def __init__(self) -> None:
        self.finished = 0
        self._second = 0
        self._lines = 0
        self._unsaid: Counter[str] = Counter()
        self._said_at = time.monotonic()
        self._recent: deque[tuple[int, int, int]] = deque(maxlen=_RECENT)  # second, files, bytes

    def add(self, job: Job, report: Report) -> None:
        """One file's outcome."""
        said = _SAID.get(report.verdict)
        if said is None:
            return
        now = int(time.monotonic())
        if report.verdict is not Verdict.RETRY:
            self.finished += 1
            self._count(now, job.fingerprint.size)
        if now != self._second:
            self._second, self._lines = now, 0
        if self._lines < TRICKLE or report.verdict in _WARNED or report.keywords:
            self._lines += 1
            self._say(job, report, said)
        else:
            self._unsaid[said] += 1

    def _count(self, second: int, size: int) -> None:
        if self._recent and self._recent[-1][0] == second:
            _, files, total = self._recent[-1]
            self._recent[-1] = (second, files + 1, total + size)
        else:
            self._recent.append((second, 1, size))

    def _say(self, job: Job, report: Report, said: str) -> None:
        name = shown(job.root + b"/" + job.path)
        level = logging.WARNING if report.verdict in _WARNED else logging.INFO
        kind = _KINDS[job.kind]
        because = f": {report.reason}" if report.reason else ""
        _files.log(level, "%s: %s %s%s", name, kind, said, because)
        for keyword, lines in report.keywords.items():
            numbers = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
            logger.info('%s: keyword "%s" in line %s', name, keyword, numbers)

    def tick(self, now: float) -> None:
        """Says in one line what was not said of a burst."""
        if self._unsaid and now - self._said_at >= SUMMARY_EVERY:
            self.say_summary(now)

    def say_summary(self, now: float) -> None:
        if self._unsaid:
            parts = ", ".join(f"{count:,} {said}" for said, count in self._unsaid.most_common())
            _files.info("and %s", parts)
            self._unsaid.clear()
        self._said_at = now

    def throughput(self) -> dict[str, float]:
        """Files and bytes a second, over the last minute."""
        now = int(time.monotonic())
        recent = [(files, size) for second, files, size in self._recent if now - second <= _RECENT]
        return {
            "files_per_second": round(sum(files for files, _ in recent) / _RECENT, 2),
            "bytes_per_second": round(sum(size for _, size in recent) / _RECENT),
        }

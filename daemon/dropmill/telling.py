"""What systemd is told at the end of each round of the main loop, and the sentence for
`systemctl status`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from .job import State
from .mill import Mill
from .notify import Notify

_COUNTING = 50  # counting may take a fiftieth of the time

_TOLD = (State.QUEUED, State.RETRY, State.QUARANTINED)


class Telling:
    """Tells systemd how the mill stands; nothing where systemd did not ask."""

    def __init__(
        self,
        notify: Notify,
        mill: Mill,
        refused: Callable[[], str | None],
    ) -> None:
        """`refused` says why the configuration as it is saved is not in force."""
        self._notify = notify
        self._mill = mill
        self._refused = refused
        self._is_ready = False
        self._counts: Mapping[State, int] = {}
        self._counted: object = None  # the ledger's revision then
        self._count_at = 0.0

    def begin_again(self) -> None:
        """Another configuration is being put in force: it is up again when all is watched."""
        self._is_ready = False
        self._notify.reloading()

    def round_ended(self) -> None:
        """To be called at the end of each round, whatever it did."""
        if not self._notify.is_heard:
            return
        self._notify.retry()
        if not self._is_ready:
            self._see_whether_ready()
        if self._notify.wants_status():
            self._notify.status(self._sentence())
        if self._notify.beat(self._mill.last_sign()):
            self._mill.ping()

    def _see_whether_ready(self) -> None:
        if not self._mill.is_up():
            self._notify.extend()  # a large tree takes its time to be watched
            return
        self._is_ready = True
        self._notify.status(self._sentence())
        self._notify.ready()

    def _sentence(self) -> str:
        self._count()
        return status_sentence(
            self._counts,
            [root.state for root in self._mill.watch.status()],
            [worker["doing"] is not None for worker in self._mill.workers()],
            self._mill.pauses.reason(),
            self._refused() is not None,
        )

    def _count(self) -> None:
        """Counts the files if anything was written since, and no more often than it is worth."""
        now, revision = time.monotonic(), self._mill.ledger.revision()
        if revision == self._counted or now < self._count_at:
            return
        self._counts, self._counted = self._mill.ledger.counts(), revision
        self._count_at = now + _COUNTING * (time.monotonic() - now)


def status_sentence(
    counts: Mapping[State, int],
    roots: Sequence[str],
    busy: Sequence[bool],
    paused: str | None,
    is_refused: bool,
) -> str:
    """One line: what is wrong first, then the files, the roots by their states, the workers."""
    parts = []
    if is_refused:
        parts.append("the configuration as saved is not in force")
    if paused is not None:
        parts.append(paused if paused.startswith("paused") else f"paused: {paused}")
    parts += [_files(counts), _roots(roots), _workers(busy)]
    return "; ".join(parts)


def _files(counts: Mapping[State, int]) -> str:
    done = counts.get(State.DONE, 0)
    parts = [f"{done:,} file{'' if done == 1 else 's'} done"]
    parts += [f"{counts[state]:,} {state.label}" for state in _TOLD if counts.get(state)]
    return ", ".join(parts)


def _roots(states: Sequence[str]) -> str:
    parts = [
        f"{state} {count} folder{'' if count == 1 else 's'}"
        if state in ("watching", "polling")
        else f"{count} {state}"
        for state, count in Counter(states).items()
    ]
    return ", ".join(parts)


def _workers(busy: Sequence[bool]) -> str:
    at_work, count = sum(busy), len(busy)
    workers = f"{count} worker{'' if count == 1 else 's'}"
    if not at_work:
        return f"{workers} idle"
    return f"{workers} busy" if at_work == count else f"{at_work} of {workers} busy"

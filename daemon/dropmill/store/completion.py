"""The workers' side of `results.db`: outcomes and `done` in one transaction, under the Lock."""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import apsw

from ..datasets.partial import BeyondFloat, TooManyGroups
from ..datasets.rule import Rule
from ..errors import MachineFault
from ..job import Fingerprint, Kind, Outcome, State, Verdict
from . import news
from .aggregates import Aggregates, CannotBePut, PlaceOf
from .burial import Burial
from .new_texts import NewTexts
from .questions import agrees, compare_at, is_tiled, is_whole_text, of_takes
from .schema import (
    IN_HAND,
    TakeState,
    configure,
    machine_faults,
    open_for_writing,
    transaction,
)
from .takes import Takes

LOOKED_AT = (Verdict.BUSY, Verdict.CHANGED, Verdict.VANISHED, Verdict.VERIFYING)


class Completion:
    """Writes what a worker found out."""

    def __init__(
        self,
        state_folder: bytes,
        lock: AbstractContextManager[object],
        shard: int,
        attempts: int,
        rules: Mapping[str, Rule] | None = None,
        place_of: PlaceOf = lambda job, rule: b"",
    ) -> None:
        """`lock` is the one that all processes share; `attempts` is `limits.attempts`; `rules`
        and `place_of` are those of `Aggregates`."""
        self._connection = open_for_writing(state_folder, synchronous="FULL")
        configure(self._connection, temp_store=2)  # in memory: workers may open no file elsewhere
        self._lock = lock
        self.burial = Burial(self._connection, lock)
        self._takes = Takes(self._connection, shard)
        self._new_texts = NewTexts(self._connection, self._takes)
        self._attempts = attempts
        self._aggregates = Aggregates(self._connection, rules or {}, place_of)
        self.why: dict[int, str] = {}  # file → what was found wrong when its parts came together

    def close(self) -> None:
        self._connection.close()

    def complete(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """What each outcome came to: its own verdict, STALE when the ledger has moved on,
        PART when a large text still lacks ranges, QUARANTINED when no attempt is left.

        All outcomes go in together or none does. Raises MachineFault (disk full, ...).
        """
        if all(outcome.verdict in LOOKED_AT for outcome in outcomes):
            return [outcome.verdict for outcome in outcomes]
        self.why.clear()
        with machine_faults("results.db"):
            for outcome in outcomes:
                if outcome.job.kind is Kind.DATASET and outcome.verdict is Verdict.DONE:
                    self._prepare(outcome)
        with self._lock, machine_faults("results.db"), transaction(self._connection):
            now = time.time_ns()
            new = self._new_texts.among(outcomes)
            self._new_texts.finish((each for each in outcomes if each.job.file in new), now)
            return [
                Verdict.DONE if outcome.job.file in new else self._complete(outcome, now)
                for outcome in outcomes
            ]

    def _prepare(self, outcome: Outcome) -> None:
        try:
            self._aggregates.prepare(outcome)
        except (apsw.Error, OSError, MemoryError):
            raise
        except Exception:  # it is told by `_aggregate`, which meets it too
            return

    def news(self, outcome: Outcome) -> dict[str, list[int]]:
        """The watch-list hits, by term, in the new lines of a text just completed as done."""
        with machine_faults("results.db"):
            return news.of(outcome, self._connection.execute)

    def _complete(self, outcome: Outcome, now: int) -> Verdict:
        if outcome.verdict in LOOKED_AT:
            return outcome.verdict
        job = outcome.job
        row = self._connection.execute(
            "SELECT attempts, in_parts, kept_to, state, reason, rules,"
            " EXISTS(SELECT 1 FROM takes WHERE file = files.id) FROM files"
            f" WHERE id = ? AND seq = ? AND {IN_HAND}",
            (job.file, job.seq),
        ).fetchone()
        if row is None:
            return Verdict.STALE
        attempts, in_parts, kept_to, state, reason, rules, has_takes = row
        if not self._takes.has_what_was_kept(outcome):
            return self._let_go(job.file)
        if job.kind is Kind.DATASET:
            self._connection.execute(
                "UPDATE files SET rules = ? WHERE id = ?", (outcome.rules, job.file)
            )
        elif rules is not None:  # it was a data set
            self._connection.execute("UPDATE files SET rules = NULL WHERE id = ?", (job.file,))
            self._aggregates.forget(job.file)
        if agrees(outcome, state, reason):
            self._agreed(outcome, now)
            return Verdict.AS_BEFORE
        match outcome.verdict:
            case Verdict.SKIPPED | Verdict.QUARANTINED:
                self._give_up(outcome, attempts, now)
            case Verdict.RETRY:
                return self._try_again(outcome, attempts + 1, now)
            case Verdict.RENAMED:
                return self._rename(outcome, now)
            case Verdict.UNCHANGED:
                self._takes.revive(outcome, job.file, now)
                self._finish(outcome, now, changed=False)
            case Verdict.DONE if not has_takes and is_whole_text(outcome):
                return self._first_time(outcome, now)
            case Verdict.DONE if outcome.takes or outcome.encoding:
                return self._text(outcome, in_parts, kept_to, now)
            case _:
                self._bury(job.file, now)
                self._finish(outcome, now, changed=True)
        return outcome.verdict

    def _let_go(self, file: int) -> Verdict:
        """It is not what was worked on: back to settle, to be admitted anew."""
        self._connection.execute(
            "UPDATE files SET moved_from = NULL, in_parts = 0, ctime_ns = -1,"
            " compare_ns = NULL WHERE id = ?",
            (file,),
        )
        return Verdict.CHANGED

    # ---- a text's takes ----------------------------------------------------------------------

    def _first_time(self, outcome: Outcome, now: int) -> Verdict:
        """A small data set of which nothing is known, or a text that was in other hands before."""
        takes = outcome.takes
        self._takes.insert(takes, outcome.job.file, TakeState.LIVE)
        wrong = self._aggregate(outcome, now)
        if wrong is not None:
            return wrong
        lines, keyworded = of_takes(takes)
        self._finish(outcome, now, changed=True, lines=lines, keyworded=keyworded)
        return Verdict.DONE

    def _aggregate(self, outcome: Outcome, now: int) -> Verdict | None:
        """Combines what a data set comes to; what is wrong, None where nothing is."""
        if outcome.job.kind is not Kind.DATASET:
            return None
        try:
            if self._aggregates.replace(outcome):
                return None
        except (TooManyGroups, BeyondFloat) as fault:
            self.why[outcome.job.file] = str(fault)
            found = outcome._replace(verdict=Verdict.QUARANTINED, reason=str(fault))
            self._give_up(found, 0, now)
            return Verdict.QUARANTINED
        except CannotBePut as fault:
            return self._cannot_be_put(outcome, str(fault), now)
        except (apsw.Error, OSError, MachineFault, MemoryError):
            raise
        except Exception as error:  # a worker that dies of it would die of it again and again
            return self._cannot_be_put(outcome, f"{type(error).__name__}: {error}", now)
        return self._let_go(outcome.job.file)

    def _cannot_be_put(self, outcome: Outcome, why: str, now: int) -> Verdict:
        """It may pass: all of it is done again."""
        file = outcome.job.file
        self.why[file] = why
        self._bury(file, now)
        (attempts,) = self._connection.execute(
            "SELECT attempts FROM files WHERE id = ?", (file,)
        ).fetchone() or (0,)
        self._connection.execute("UPDATE files SET in_parts = 0 WHERE id = ?", (file,))
        return self._try_again(outcome._replace(reason=why), attempts + 1, now)

    def _text(self, outcome: Outcome, in_parts: bool, kept_to: int | None, now: int) -> Verdict:
        file = outcome.job.file
        size = (outcome.fingerprint or outcome.job.fingerprint).size
        if is_whole_text(outcome):
            self._takes.revive(outcome, file, now)
            self._takes.kill(file, now, after=outcome.keep_to)
            self._takes.insert(outcome.takes, file, TakeState.LIVE)
        else:
            if not in_parts:
                kept_to = self._begin_ranges(outcome, now)
            is_new = kept_to is None
            self._takes.insert(outcome.takes, file, TakeState.LIVE if is_new else TakeState.PENDING)
            covered = self._takes.covered(file, kept_to)
            if sum(end - first for first, end in covered) < size:
                return Verdict.PART
            if not is_tiled(covered, size):
                return self._let_go(file)  # it was rewritten between two ranges
            if kept_to is not None:
                self._takes.kill(file, now, after=kept_to)
                self._connection.execute(
                    "UPDATE takes SET state = 1 WHERE file = ? AND state = 2", (file,)
                )
        wrong = self._aggregate(outcome, now)
        if wrong is not None:
            return wrong
        self._finish(outcome, now, changed=True)
        self._sum_up(file)
        return Verdict.DONE

    def _begin_ranges(self, outcome: Outcome, now: int) -> int | None:
        """Marks a large text as one in parts; gives its `kept_to`."""
        file = outcome.job.file
        self._takes.revive(outcome, file, now)
        (old,) = self._connection.execute(
            "SELECT count(*) FROM takes WHERE file = ? AND state = 1", (file,)
        ).fetchone() or (0,)
        kept_to = outcome.keep_to if old else None
        size = (outcome.fingerprint or outcome.job.fingerprint).size
        self._connection.execute(
            "UPDATE files SET state = 1, in_parts = 1, kept_to = ?, encoding = ?, size = ?,"
            " compare_ns = ? WHERE id = ?",
            (kept_to, outcome.encoding, size, compare_at(outcome, now), file),
        )
        return kept_to

    def _bury(self, file: int, now: int) -> None:
        """Whatever the index holds of the file is out of search."""
        self._takes.bury_all(file, now)
        self._aggregates.forget(file)

    def _sum_up(self, file: int) -> None:
        lines, keyworded = self._connection.execute(
            "SELECT sum(newlines) + max(unterminated), max(keywords IS NOT NULL) FROM takes"
            " WHERE file = ? AND state = 1",
            (file,),
        ).fetchone() or (0, 0)
        self._connection.execute(
            "UPDATE files SET lines = ?, keyworded = nullif(?, 0) WHERE id = ?",
            (lines or 0, keyworded, file),
        )

    # ---- the file's row ----------------------------------------------------------------------

    def _finish(self, outcome: Outcome, now: int, *, changed: bool, **found: int | None) -> None:
        """The file is done; `found` are columns that only its kind has."""
        seen: Fingerprint = outcome.fingerprint or outcome.job.fingerprint
        values: dict[str, Any] = {
            "state": int(State.DONE),
            "inode": seen.inode,
            "size": seen.size,
            "mtime_ns": seen.mtime_ns,
            "ctime_ns": seen.ctime_ns,
            "alone": 0,
            "in_parts": 0,
            "moved_from": None,
            "reason": None,
            "started_ns": outcome.started_ns,
            "finished_ns": now,
        }
        if not outcome.job.ranged:  # of one in parts the first decided it
            values["compare_ns"] = compare_at(outcome, now)
        if changed:
            values |= {
                "encoding": outcome.encoding,
                "digest": outcome.digest,
                "output": outcome.output,
                "width": outcome.width,
                "height": outcome.height,
            }
        self._update(outcome.job.file, values | found, is_new_version=changed)

    def _agreed(self, outcome: Outcome, now: int) -> None:
        """It was compared once more and is what it was, but perhaps for its mode or its owner."""
        seen = outcome.fingerprint or outcome.job.fingerprint
        values = {"ctime_ns": seen.ctime_ns, "compare_ns": compare_at(outcome, now)}
        self._update(outcome.job.file, values)

    def _update(self, file: int, values: dict[str, Any], *, is_new_version: bool = False) -> None:
        self._connection.execute(
            _update_of(tuple(values), is_new_version), (*values.values(), file)
        )

    def _give_up(self, outcome: Outcome, attempts: int, now: int) -> None:
        """Skipped or quarantined: whatever the index holds of it is of an older content."""
        skipped = outcome.verdict is Verdict.SKIPPED
        self._bury(outcome.job.file, now)
        self._update(
            outcome.job.file,
            {
                "state": int(State.SKIPPED if skipped else State.QUARANTINED),
                "reason": outcome.reason,
                "attempts": attempts if skipped else attempts + 1,
                "alone": 0,
                "in_parts": 0,
                "started_ns": outcome.started_ns,
                "finished_ns": now,
                "compare_ns": compare_at(outcome, now),
            },
        )

    def _try_again(self, outcome: Outcome, attempts: int, now: int) -> Verdict:
        if attempts >= self._attempts:
            self._give_up(outcome, attempts - 1, now)
            return Verdict.QUARANTINED
        self._update(
            outcome.job.file,
            {
                "state": int(State.RETRY),
                "attempts": attempts,
                "reason": outcome.reason,
                "retry_ns": retry_time_ns(attempts, now),
                "finished_ns": now,
                "compare_ns": None,
            },
        )
        return Verdict.RETRY

    def _rename(self, outcome: Outcome, now: int) -> Verdict:
        """The old row takes over the new path, with all that it knows; the new row goes."""
        job = outcome.job
        old = job.moved_from
        if old is None or not self._is_still_its_rename(old, outcome):
            return self._let_go(job.file)
        folder, name = self._connection.execute(
            "SELECT folder, name FROM files WHERE id = ?", (job.file,)
        ).fetchone() or (0, b"")
        if job.kind is Kind.DATASET:
            try:
                self._aggregates.renamed(outcome, old)
            except CannotBePut as fault:
                return self._cannot_be_put(outcome, str(fault), now)
        self._connection.execute("DELETE FROM files WHERE id = ?", (job.file,))
        self._takes.revive(outcome, old, now)
        seen = outcome.fingerprint or job.fingerprint
        self._update(
            old,
            {
                "folder": folder,
                "name": name,
                "state": int(State.DONE),
                "seq": job.seq,
                **seen._asdict(),
                "output": outcome.output,
                "finished_ns": now,
                "compare_ns": compare_at(outcome, now),
            },
        )
        return Verdict.RENAMED

    def _is_still_its_rename(self, old: int, outcome: Outcome) -> bool:
        """Whether the old row's path is still away, and its content what was compared with."""
        found = self._connection.execute(
            "SELECT d.path, f.name, f.digest FROM files f JOIN folders d ON d.id = f.folder"
            " WHERE f.id = ? AND f.state IN (2, 6)",
            (old,),
        ).fetchone()
        if found is None:
            return False
        folder, name, digest = found
        is_away = not os.path.lexists(os.path.join(bytes(folder), bytes(name)))
        if outcome.digest is not None:
            return is_away and digest == outcome.digest
        return is_away and outcome.keep_to == outcome.job.fingerprint.size


@functools.cache
def _update_of(columns: tuple[str, ...], is_new_version: bool) -> str:
    """The statement that sets these columns of a file's row: one, as each touches its indexes."""
    assignments = [f"{name} = ?" for name in columns]
    if is_new_version:
        assignments.append("version = version + 1")
    return f"UPDATE files SET {', '.join(assignments)} WHERE id = ?"


def retry_time_ns(attempts: int, now_ns: int) -> int:
    """When to try again: 1 s after the first attempt, doubling up to 60 s, give or take 25 %."""
    seconds = min(60.0, 2.0 ** (attempts - 1)) * random.uniform(0.75, 1.25)
    return now_ns + int(seconds * 1e9)

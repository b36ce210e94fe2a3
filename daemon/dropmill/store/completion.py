"""The workers' side of `results.db`: outcomes and `done` in one transaction, under the Lock."""

from __future__ import annotations

import functools
import json
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import apsw

from ..datasets.partial import BeyondFloat, TooManyGroups
from ..datasets.rule import Rule
from ..errors import MachineFault
from ..job import Fingerprint, Kind, Outcome, State, Take, Verdict
from . import news
from .aggregates import Aggregates, CannotBePut, PlaceOf
from .burial import Burial
from .schema import (
    COVERED,
    IN_HAND,
    TakeState,
    configure,
    machine_faults,
    open_for_writing,
    transaction,
)

RACY_NS = 20 * 10**6  # a file read so soon after its mtime may have been written once more since
COMPARE_RACY_NS = 10**9
COMPARE_SKIMMED_NS = 60 * 10**9  # of quiet
LOOKED_AT = (Verdict.BUSY, Verdict.CHANGED, Verdict.VANISHED, Verdict.VERIFYING)


_INSERT_TAKE = (
    "INSERT INTO takes(id, file, shard, state, first, end, newlines, unterminated, digest,"
    " keywords, rules, partial) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FINISH_NEW_TEXT = (
    "UPDATE files SET state = 2, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?, alone = 0,"
    " moved_from = NULL, reason = NULL, started_ns = ?, finished_ns = ?, compare_ns = ?,"
    " encoding = ?, digest = NULL, output = NULL, width = NULL, height = NULL, lines = ?,"
    " keyworded = ?, version = version + 1 WHERE id = ?"
)


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
        self._shard = shard
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
            new = self._new_texts(outcomes)
            self._finish_new_texts(
                [outcome for outcome in outcomes if outcome.job.file in new], now
            )
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
        if not self._has_what_was_kept(outcome):
            return self._let_go(job.file)
        if job.kind is Kind.DATASET:
            self._connection.execute(
                "UPDATE files SET rules = ? WHERE id = ?", (outcome.rules, job.file)
            )
        elif rules is not None:  # it was a data set
            self._connection.execute("UPDATE files SET rules = NULL WHERE id = ?", (job.file,))
            self._aggregates.forget(job.file)
        if _agrees(outcome, state, reason):
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
                self._revive(outcome, job.file, now)
                self._finish(outcome, now, changed=False)
            case Verdict.DONE if not has_takes and _is_whole_text(outcome):
                return self._first_time(outcome, now)
            case Verdict.DONE if outcome.takes or outcome.encoding:
                return self._text(outcome, in_parts, kept_to, now)
            case _:
                self._bury(job.file, now)
                self._finish(outcome, now, changed=True)
        return outcome.verdict

    # ---- many at once ------------------------------------------------------------------------

    def _new_texts(self, outcomes: Iterable[Outcome]) -> set[int]:
        """The files that are small texts of which the index holds nothing: by far the commonest.

        What is asked, and written, of all of them at once takes half the time. (CROSS JOIN: or
        SQLite walks all files, and looks for each among those that were asked for.)
        """
        found = {
            outcome.job.file: outcome.job.seq
            for outcome in outcomes
            if outcome.verdict is Verdict.DONE
            and outcome.job.kind is Kind.TEXT
            and not (outcome.keep_to or outcome.job.known or outcome.job.comparing)
            and _is_whole_text(outcome)
        }
        rows: list[Any] = self._connection.execute(
            "SELECT f.id, f.seq FROM json_each(?) asked CROSS JOIN files f ON f.id = asked.value"
            " WHERE f.state = 1 AND NOT f.in_parts"
            " AND NOT EXISTS(SELECT 1 FROM takes WHERE file = f.id)",
            (f"[{','.join(map(str, found))}]",),
        ).fetchall()
        return {file for file, seq in rows if found[file] == seq}

    def _finish_new_texts(self, outcomes: Iterable[Outcome], now: int) -> None:
        takes: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        for outcome in outcomes:
            job = outcome.job
            takes += map(functools.partial(self._take_row, job.file, TakeState.LIVE), outcome.takes)
            inode, size, mtime_ns, ctime_ns, _ = outcome.fingerprint or job.fingerprint
            lines, keyworded = _of_takes(outcome.takes)
            found = (outcome.started_ns, now, _compare_at(outcome, now), outcome.encoding)
            rows.append((inode, size, mtime_ns, ctime_ns, *found, lines, keyworded, job.file))
        self._connection.executemany(_INSERT_TAKE, takes)
        self._connection.executemany(_FINISH_NEW_TEXT, rows)

    def _let_go(self, file: int) -> Verdict:
        """It is not what was worked on: back to settle, to be admitted anew."""
        self._connection.execute(
            "UPDATE files SET moved_from = NULL, in_parts = 0, ctime_ns = -1,"
            " compare_ns = NULL WHERE id = ?",
            (file,),
        )
        return Verdict.CHANGED

    # ---- a text's takes ----------------------------------------------------------------------

    @staticmethod
    def _kept(outcome: Outcome) -> list[Take]:
        if outcome.takes and not outcome.keep_to:
            return []  # nor an empty take, which ends at 0 too
        return [take for take in outcome.job.known if take.end <= outcome.keep_to]

    def _has_what_was_kept(self, outcome: Outcome) -> bool:
        """Whether the known takes that were found true are there still, and cover what they must.

        They may have been compacted since, or have become another row's.
        """
        kept = self._kept(outcome)
        if not kept:
            return not outcome.keep_to
        owner = outcome.job.moved_from or outcome.job.file
        held = (
            self._connection.execute(
                "SELECT 1 FROM takes WHERE id = ? AND file = ? AND state IN (1, 3)",
                (take.id, owner),
            ).fetchone()
            for take in kept
        )
        return sum(take.end - take.first for take in kept) == outcome.keep_to and all(held)

    def _first_time(self, outcome: Outcome, now: int) -> Verdict:
        """A small data set of which nothing is known, or a text that was in other hands before."""
        takes = outcome.takes
        self._insert(takes, outcome.job.file, TakeState.LIVE)
        wrong = self._aggregate(outcome, now)
        if wrong is not None:
            return wrong
        lines, keyworded = _of_takes(takes)
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
        if _is_whole_text(outcome):
            self._revive(outcome, file, now)
            self._kill(file, now, after=outcome.keep_to)
            self._insert(outcome.takes, file, TakeState.LIVE)
        else:
            if not in_parts:
                kept_to = self._begin_ranges(outcome, now)
            is_new = kept_to is None
            self._insert(outcome.takes, file, TakeState.LIVE if is_new else TakeState.PENDING)
            covered = self._covered(file, kept_to)
            if sum(end - first for first, end in covered) < size:
                return Verdict.PART
            if not _is_tiled(covered, size):
                return self._let_go(file)  # it was rewritten between two ranges
            if kept_to is not None:
                self._kill(file, now, after=kept_to)
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
        self._revive(outcome, file, now)
        (old,) = self._connection.execute(
            "SELECT count(*) FROM takes WHERE file = ? AND state = 1", (file,)
        ).fetchone() or (0,)
        kept_to = outcome.keep_to if old else None
        size = (outcome.fingerprint or outcome.job.fingerprint).size
        self._connection.execute(
            "UPDATE files SET state = 1, in_parts = 1, kept_to = ?, encoding = ?, size = ?,"
            " compare_ns = ? WHERE id = ?",
            (kept_to, outcome.encoding, size, _compare_at(outcome, now), file),
        )
        return kept_to

    def _covered(self, file: int, kept_to: int | None) -> list[Any]:
        """The ranges of a text in parts that are there, in order."""
        return self._connection.execute(COVERED, (file, kept_to, kept_to)).fetchall()

    def _insert(self, takes: Iterable[Take], file: int, state: TakeState) -> None:
        rows = [self._take_row(file, state, take) for take in takes]
        self._connection.executemany(_INSERT_TAKE, rows)

    def _take_row(self, file: int, state: TakeState, take: Take) -> tuple[Any, ...]:
        number, first, end, digest, newlines, unterminated, keywords, rules, partial = take
        terms = json.dumps(keywords, ensure_ascii=False) if keywords else None
        place = (number, file, self._shard, int(state), first, end)
        return (*place, newlines, int(unterminated), digest, terms, rules, partial)

    def _kill(self, file: int, now: int, after: int = -1) -> None:
        self._connection.execute(
            "UPDATE takes SET state = ?, died_ns = ? WHERE file = ? AND state = 1"
            " AND (end > ? OR first = end)",
            (TakeState.DEAD, now, file, after),
        )

    def _revive(self, outcome: Outcome, file: int, now: int) -> None:
        """The file is back: of what was live when it went away, what was kept is live again."""
        self._connection.executemany(
            "UPDATE takes SET state = 1, died_ns = NULL WHERE id = ? AND state = 3",
            [(take.id,) for take in self._kept(outcome)],
        )
        self._connection.execute(
            "UPDATE takes SET state = 4, died_ns = ? WHERE file = ? AND state = 3", (now, file)
        )

    def _bury(self, file: int, now: int) -> None:
        """Whatever the index holds of the file is out of search."""
        self._connection.execute(
            "UPDATE takes SET state = 4, died_ns = ? WHERE file = ? AND state != 4", (now, file)
        )
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
            values["compare_ns"] = _compare_at(outcome, now)
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
        values = {"ctime_ns": seen.ctime_ns, "compare_ns": _compare_at(outcome, now)}
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
                "compare_ns": _compare_at(outcome, now),
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
        self._revive(outcome, old, now)
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
                "compare_ns": _compare_at(outcome, now),
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


def _of_takes(takes: Iterable[Take]) -> tuple[int, bool | None]:
    """How many lines a text has, and whether it holds watch-list terms, from all of its takes."""
    lines, is_keyworded = 0, None
    for take in takes:
        lines += take.newlines + take.unterminated  # only the last one may be
        is_keyworded = True if take.keywords else is_keyworded
    return lines, is_keyworded


@functools.cache
def _update_of(columns: tuple[str, ...], is_new_version: bool) -> str:
    """The statement that sets these columns of a file's row: one, as each touches its indexes."""
    assignments = [f"{name} = ?" for name in columns]
    if is_new_version:
        assignments.append("version = version + 1")
    return f"UPDATE files SET {', '.join(assignments)} WHERE id = ?"


def _is_whole_text(outcome: Outcome) -> bool:
    """Whether it speaks of a text up to its end, and is no range of it."""
    if not (outcome.takes or outcome.encoding) or outcome.job.ranged:
        return False
    end = outcome.takes[-1].end if outcome.takes else outcome.keep_to
    return end >= (outcome.fingerprint or outcome.job.fingerprint).size


def _agrees(outcome: Outcome, state: int, reason: str | None) -> bool:
    """Whether a file that was compared once more came to what it came to before."""
    match outcome.verdict:
        case Verdict.UNCHANGED:
            return state == State.DONE
        case Verdict.SKIPPED:
            return state == State.SKIPPED and outcome.reason == reason
        case Verdict.QUARANTINED:
            return state == State.QUARANTINED and outcome.reason == reason
    return False


def _compare_at(outcome: Outcome, now: int) -> int | None:
    """When the file is to be compared once more with what was read of it; None: never.

    A second write in the same tick of the kernel's clock leaves size and mtime as they were. An
    mtime that lies further in the future than that comparison says nothing of when it was written.
    """
    if outcome.job.skimmed:
        return now + COMPARE_SKIMMED_NS
    age = outcome.started_ns - (outcome.fingerprint or outcome.job.fingerprint).mtime_ns
    return now + COMPARE_RACY_NS if -COMPARE_RACY_NS < age < RACY_NS else None


def _is_tiled(ranges: Iterable[tuple[int, int]], size: int) -> bool:
    """Whether the ranges cover bytes 0 to `size` without gap or overlap."""
    position = 0
    for first, end in ranges:
        if first != position:
            return False
        position = end
    return position == size


def retry_time_ns(attempts: int, now_ns: int) -> int:
    """When to try again: 1 s after the first attempt, doubling up to 60 s, give or take 25 %."""
    seconds = min(60.0, 2.0 ** (attempts - 1)) * random.uniform(0.75, 1.25)
    return now_ns + int(seconds * 1e9)

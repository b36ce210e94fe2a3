"""The workers' side of `results.db`: outcomes and `done` in one transaction, under the Lock."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..job import Fingerprint, Outcome, State, Take, Verdict
from .schema import TakeState, machine_faults, open_for_writing, transaction

LOOKED_AT = (Verdict.BUSY, Verdict.CHANGED, Verdict.VANISHED, Verdict.VERIFYING)


class Completion:
    """Writes what a worker found out."""

    def __init__(
        self, state_folder: bytes, lock: AbstractContextManager[object], shard: int, attempts: int
    ) -> None:
        """`lock` is the one that all processes share; `attempts` is `limits.attempts`."""
        self._connection = open_for_writing(state_folder, synchronous="FULL")
        self._lock = lock
        self._shard = shard
        self._attempts = attempts

    def close(self) -> None:
        self._connection.close()

    def complete(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """What each outcome came to: its own verdict, STALE when the ledger has moved on,
        PART when a large text still lacks ranges, QUARANTINED when no attempt is left.

        All outcomes go in together or none does. Raises MachineFault (disk full, ...).
        """
        if all(outcome.verdict in LOOKED_AT for outcome in outcomes):
            return [outcome.verdict for outcome in outcomes]
        with self._lock, machine_faults("results.db"), transaction(self._connection):
            now = time.time_ns()
            return [self._complete(outcome, now) for outcome in outcomes]

    def _complete(self, outcome: Outcome, now: int) -> Verdict:
        if outcome.verdict in LOOKED_AT:
            return outcome.verdict
        job = outcome.job
        row = self._connection.execute(
            "SELECT attempts, part FROM files WHERE id = ? AND seq = ? AND state = 1",
            (job.file, job.seq),
        ).fetchone()
        if row is None:
            return Verdict.STALE
        attempts, part = row
        match outcome.verdict:
            case Verdict.SKIPPED | Verdict.QUARANTINED:
                self._give_up(outcome, attempts, now)
            case Verdict.RETRY:
                return self._try_again(outcome, attempts + 1, now)
            case Verdict.RENAMED:
                return self._rename(outcome, now)
            case Verdict.UNCHANGED:
                self._revive(job.file)
                self._finish(outcome, now, changed=False)
            case Verdict.DONE if outcome.takes or outcome.encoding:
                return self._text(outcome, part, now)
            case _:
                self._finish(outcome, now, changed=True)
        return outcome.verdict

    # ---- a text's takes ----------------------------------------------------------------------

    def _text(self, outcome: Outcome, part: int | None, now: int) -> Verdict:
        file = outcome.job.file
        size = (outcome.fingerprint or outcome.job.fingerprint).size
        end = outcome.takes[-1].end if outcome.takes else outcome.keep_to
        if not outcome.job.ranged and end >= size:
            self._revive(file)
            self._kill(file, now, after=outcome.keep_to)
            self._insert(outcome.takes, file, TakeState.LIVE)
        else:
            if part is None:
                part = self._begin_ranges(outcome)
            self._insert(outcome.takes, file, TakeState.LIVE if part < 0 else TakeState.PENDING)
            if self._covered(file, part) < size:
                return Verdict.PART
            if part >= 0:
                self._kill(file, now, after=part)
                self._connection.execute(
                    "UPDATE takes SET state = 1 WHERE file = ? AND state = 2", (file,)
                )
        self._finish(outcome, now, changed=True)
        self._sum_up(file)
        return Verdict.DONE

    def _begin_ranges(self, outcome: Outcome) -> int:
        """Marks a large text as in progress.

        What the index holds of its old content stays searchable until all of the new is there;
        where there is none, ranges are searchable one by one.
        """
        file = outcome.job.file
        self._revive(file)
        (old,) = self._connection.execute(
            "SELECT count(*) FROM takes WHERE file = ? AND state = 1", (file,)
        ).fetchone() or (0,)
        part = outcome.keep_to if old else -1
        size = (outcome.fingerprint or outcome.job.fingerprint).size
        self._connection.execute(
            "UPDATE files SET part = ?, encoding = ?, size = ? WHERE id = ?",
            (part, outcome.encoding, size, file),
        )
        return part

    def _covered(self, file: int, part: int) -> int:
        (covered,) = self._connection.execute(
            "SELECT sum(end - first) FROM takes WHERE file = ? AND (state = ? OR state = ? AND"
            " (end <= ? OR ? < 0))",
            (file, TakeState.PENDING, TakeState.LIVE, part, part),
        ).fetchone() or (0,)
        return int(covered or 0)

    def _insert(self, takes: Iterable[Take], file: int, state: TakeState) -> None:
        self._connection.executemany(
            "INSERT INTO takes(id, file, shard, state, first, end, newlines, unterminated, digest,"
            " keywords) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    take.id,
                    file,
                    self._shard,
                    int(state),
                    take.first,
                    take.end,
                    take.newlines,
                    int(take.unterminated),
                    take.digest,
                    json.dumps(take.keywords, ensure_ascii=False) if take.keywords else None,
                )
                for take in takes
            ],
        )

    def _kill(self, file: int, now: int, after: int = -1) -> None:
        self._connection.execute(
            "UPDATE takes SET state = ?, died_ns = ? WHERE file = ? AND state = 1"
            " AND (end > ? OR first = end)",
            (TakeState.DEAD, now, file, after),
        )

    def _revive(self, file: int) -> None:
        """The file is back: what was live when it went away is live again."""
        self._connection.execute(
            "UPDATE takes SET state = 1, died_ns = NULL WHERE file = ? AND state = 3", (file,)
        )

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

    def _finish(self, outcome: Outcome, now: int, *, changed: bool) -> None:
        seen: Fingerprint = outcome.fingerprint or outcome.job.fingerprint
        values: dict[str, Any] = {
            "state": int(State.DONE),
            "inode": seen.inode,
            "size": seen.size,
            "mtime_ns": seen.mtime_ns,
            "ctime_ns": seen.ctime_ns,
            "alone": 0,
            "part": None,
            "moved_from": None,
            "reason": None,
            "started_ns": outcome.started_ns,
            "finished_ns": now,
        }
        if changed:
            values |= {
                "encoding": outcome.encoding,
                "digest": outcome.digest,
                "output": outcome.output,
                "width": outcome.width,
                "height": outcome.height,
            }
        self._update(outcome.job.file, values)
        if changed:
            self._connection.execute(
                "UPDATE files SET version = version + 1 WHERE id = ?", (outcome.job.file,)
            )

    def _update(self, file: int, values: dict[str, Any]) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        self._connection.execute(
            f"UPDATE files SET {columns} WHERE id = ?", (*values.values(), file)
        )

    def _give_up(self, outcome: Outcome, attempts: int, now: int) -> None:
        """Skipped or quarantined: whatever the index holds of it is of an older content."""
        skipped = outcome.verdict is Verdict.SKIPPED
        self._revive(outcome.job.file)
        self._kill(outcome.job.file, now)
        self._connection.execute(
            "UPDATE takes SET state = ?, died_ns = ? WHERE file = ? AND state = 2",
            (TakeState.DEAD, now, outcome.job.file),
        )
        self._update(
            outcome.job.file,
            {
                "state": int(State.SKIPPED if skipped else State.QUARANTINED),
                "reason": outcome.reason,
                "attempts": attempts if skipped else attempts + 1,
                "alone": 0,
                "part": None,
                "started_ns": outcome.started_ns,
                "finished_ns": now,
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
            },
        )
        return Verdict.RETRY

    def _rename(self, outcome: Outcome, now: int) -> Verdict:
        """The old row takes over the new path, with all that it knows; the new row goes."""
        job = outcome.job
        old = job.moved_from
        holds = self._connection.execute(
            "SELECT 1 FROM files WHERE id = ? AND state IN (2, 6)", (old,)
        ).fetchone()
        if old is None or holds is None or not self._still_held(old, outcome):
            self._connection.execute(
                "UPDATE files SET moved_from = NULL, ctime_ns = -1 WHERE id = ?", (job.file,)
            )
            return Verdict.CHANGED
        folder, name = self._connection.execute(
            "SELECT folder, name FROM files WHERE id = ?", (job.file,)
        ).fetchone() or (0, b"")
        self._connection.execute("DELETE FROM files WHERE id = ?", (job.file,))
        self._revive(old)
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
            },
        )
        return Verdict.RENAMED

    def _still_held(self, old: int, outcome: Outcome) -> bool:
        """Whether the takes that were verified are there still, not compacted meanwhile."""
        (held,) = self._connection.execute(
            "SELECT sum(end - first) FROM takes WHERE file = ? AND state IN (1, 3)", (old,)
        ).fetchone() or (0,)
        is_image = outcome.digest is not None
        return is_image or (held or 0) == outcome.job.fingerprint.size

    # ---- compaction --------------------------------------------------------------------------

    def dead_takes(self, shard: int, before_ns: int) -> int:
        (count,) = self._connection.execute(
            "SELECT count(*) FROM takes WHERE shard = ? AND state >= 3 AND died_ns < ?",
            (shard, before_ns),
        ).fetchone() or (0,)
        return int(count)

    def removable(self, takes: Iterable[int], before_ns: int) -> set[int]:
        """Those of the takes that nobody can see any more: unknown, or dead since before then."""
        found: set[int] = set()
        for take in takes:
            row = self._connection.execute(
                "SELECT state, died_ns FROM takes WHERE id = ?", (take,)
            ).fetchone()
            if row is None or (row[0] >= TakeState.GONE and row[1] < before_ns):
                found.add(take)
        return found

    def forget_dead(self, shard: int, before_ns: int) -> None:
        """Drops the rows of takes whose blocks the shard holds no longer."""
        with self._lock, machine_faults("results.db"), transaction(self._connection):
            self._connection.execute(
                "DELETE FROM takes WHERE shard = ? AND state >= 3 AND died_ns < ?",
                (shard, before_ns),
            )


def retry_time_ns(attempts: int, now_ns: int) -> int:
    """When to try again: 1 s after the first attempt, doubling up to 60 s, give or take 25 %."""
    seconds = min(60.0, 2.0 ** (attempts - 1)) * random.uniform(0.75, 1.25)
    return now_ns + int(seconds * 1e9)

"""What went wrong with queued files: charged, spared, let go of, tried again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..job import State
from .schema import IN_HAND, TakeState
from .table import LONGEST_WAIT_NS, Table

COMPARE_AGAIN_NS = 60 * 10**9


class Faults:
    """The part of the ledger that knows of failures."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def charge(self, file: int, seq: int, reason: str, retry_ns: int, limit: int) -> State | None:
        """One attempt more on the account of one admission of a file, which killed a worker.

        Its next attempt runs alone in a fresh worker, and only an attempt that ran so may
        quarantine it. Gives the file's new state; None when that admission is queued no longer:
        what the file holds by now killed nobody.
        """
        with self._table.writing():
            found = self._table.one(
                f"SELECT attempts, alone FROM files WHERE id = ? AND seq = ? AND {IN_HAND}",
                (file, seq),
            )
            if found is None:
                return None
            attempts, alone = found[0] + 1, found[1]
            state = State.QUARANTINED if alone and attempts >= limit else State.RETRY
            self._table.connection.execute(
                "UPDATE files SET state = ?, attempts = ?, alone = 1, reason = ?, retry_ns = ?,"
                " finished_ns = ?, compare_ns = NULL WHERE id = ?",
                (int(state), attempts, reason, retry_ns, time.time_ns(), file),
            )
            if state is State.QUARANTINED:
                self._table.bury(file, TakeState.LIVE, TakeState.PENDING, TakeState.GONE)
            return state

    def spare(self, file: int, seq: int) -> int:
        """A worker died with that admission of a file in hand and nobody is charged.

        Gives how often so far; 0 when the file was admitted anew since.
        """
        with self._table.writing():
            self._table.connection.execute(
                "UPDATE files SET spared = spared + 1, alone = max(alone, spared >= 2)"
                " WHERE id = ? AND seq = ?",
                (file, seq),
            )
            self._table.connection.execute(  # it was finished well before it was compared
                "UPDATE files SET compare_ns = NULL WHERE id = ? AND seq = ? AND spared > 2",
                (file, seq),
            )
            (spared,) = self._table.one(
                "SELECT spared FROM files WHERE id = ? AND seq = ?", (file, seq)
            ) or (0,)
            return int(spared)

    def let_go(self, files: Iterable[int]) -> None:
        """Forgets the fingerprints of queued files that are not what was admitted.

        They go back to settle; whatever they are then, it is admitted anew. What was only to be
        compared with what it was is to be so later.
        """
        later = time.time_ns() + COMPARE_AGAIN_NS
        with self._table.writing():
            for file in files:
                self._table.connection.execute(
                    "UPDATE files SET ctime_ns = -1, in_parts = 0,"
                    " compare_ns = NULL WHERE id = ? AND state = 1",
                    (file,),
                )
                self._table.bury(file, TakeState.PENDING)
                self._table.connection.execute(
                    "UPDATE files SET compare_ns = ? WHERE id = ? AND compare_ns IS NOT NULL",
                    (later, file),
                )

    def look_at_again(self, path: bytes) -> None:
        """Forgets the fingerprint of a finished file: it is admitted anew when it is seen next."""
        file = self._table.find(path)
        if file is not None:
            with self._table.writing():
                self._table.connection.execute(
                    "UPDATE files SET ctime_ns = -1 WHERE id = ? AND state IN (2, 4, 5)", (file,)
                )

    # ---- tried again -------------------------------------------------------------------------

    def due_retries(self, now_ns: int, limit: int = 256) -> int:
        """Puts retries whose time has come back into the queue; gives how many.

        One that is further off than any retry is set was set by a clock that was put back since.
        """
        due = self._table.all(
            "SELECT id FROM files WHERE state = ? AND (retry_ns <= ? OR retry_ns > ?) LIMIT ?",
            (int(State.RETRY), now_ns, now_ns + LONGEST_WAIT_NS, limit),
        )
        if due:
            with self._table.writing():
                for (file,) in due:
                    self._table.requeue(file)
        return len(due)

    def next_retry_ns(self) -> int | None:
        (soonest,) = self._table.one(
            "SELECT min(retry_ns) FROM files WHERE state = ?", (int(State.RETRY),)
        ) or (None,)
        return soonest

    def retry(self, files: Iterable[int]) -> int:
        """Puts quarantined files back, their attempts forgotten; gives how many."""
        count = 0
        with self._table.writing():
            for file in files:
                self._table.connection.execute(
                    "UPDATE files SET attempts = 0, spared = 0, reason = NULL, queued_ns = ?"
                    " WHERE id = ? AND state IN (3, 4)",
                    (time.time_ns(), file),
                )
                if self._table.connection.changes():
                    self._table.requeue(file)
                    count += 1
        return count

    def quarantined(self) -> list[int]:
        return [file for (file,) in self._table.all("SELECT id FROM files WHERE state = 4")]

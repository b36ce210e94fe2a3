"""The parent's side of `results.db`: what is admitted, and what is fed to the pool.

What went wrong with files is in `faults`, what went away in `absence`; both are parts of the
ledger and write through its table.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from ..job import Fingerprint, Kind, Lane, State, Take
from .absence import Absence
from .faults import Faults
from .schema import COVERED, TakeState
from .table import LONGEST_WAIT_NS, ROW, Row, Table, as_row

RENAME_WINDOW_NS = 30 * 10**9  # takes that died longer ago may be compacted at any moment


class Admission(NamedTuple):
    """A settled file, as it asks to be let in."""

    folder: bytes
    name: bytes
    fingerprint: Fingerprint
    kind: Kind
    lane: Lane
    unhurried: bool = True


# One that is further off than any is set was set by a clock that was put back since. The plus keeps
# SQLite from its index by state, in which most files are of one.
TO_COMPARE = """SELECT id FROM files WHERE compare_ns IS NOT NULL
    AND (compare_ns <= ? OR compare_ns > ?) AND +state IN (2, 4, 5) LIMIT ?"""

# Files of an unpacked archive may all have one mtime: the index must know their sizes too.
RENAME_OF = """SELECT id, folder, name FROM files
    WHERE mtime_ns = ? AND size = ? AND kind = ? AND state IN (2, 6) LIMIT 8"""


class Ledger(Table):
    """The table of every file known. One thread of the parent uses it."""

    def __init__(
        self,
        state_folder: bytes,
        lock: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """`lock` gives the Lock that the workers share, for one write."""
        super().__init__(state_folder, lock)
        self.faults = Faults(self)
        self.absence = Absence(self)
        self._folders: dict[bytes, int] = {}

    # ---- admit -------------------------------------------------------------------------------

    def admit(self, admissions: Iterable[Admission]) -> list[Admission]:
        """Writes or refreshes the rows of settled files, in one transaction.

        Equal fingerprints change nothing. Gives back those that must wait: a large text in
        progress that only grew is finished as it was admitted first.
        """
        now = time.time_ns()
        try:
            with self.writing():
                return [each for each in admissions if not self._admit(each, now)]
        except BaseException:
            self._folders.clear()  # the numbers of folders that were rolled back
            raise

    def _admit(self, new: Admission, now: int) -> bool:
        folder = self._folder(new.folder)
        found = self.one(
            "SELECT id, state, inode, size, mtime_ns, ctime_ns, device, in_parts, lane"
            " FROM files WHERE folder = ? AND name = ?",
            (folder, new.name),
        )
        if found is None:
            self._insert(folder, new, now)
            return True
        file, state, *mark = found[:7]
        in_parts, lane = found[7:]
        old = Fingerprint(*mark)
        if old == new.fingerprint and state != State.GONE:
            if state == State.QUEUED and new.lane < lane:  # it arrived anew while in the backlog
                self.requeue(file, new.lane)
            return True
        in_progress = in_parts and state == State.QUEUED
        if in_progress and old.inode == new.fingerprint.inode and new.fingerprint.size > old.size:
            return False
        self._refresh(file, new, now)
        return True

    def _insert(self, folder: int, new: Admission, now: int) -> None:
        self._seq += 1
        self.connection.execute(
            "INSERT INTO files(folder, name, state, kind, lane, seq, inode, size, mtime_ns,"
            " ctime_ns, device, version, attempts, spared, alone, unhurried, moved_from, queued_ns)"
            " VALUES(?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, ?, ?, ?)",
            (
                folder,
                new.name,
                int(new.kind),
                int(new.lane),
                self._seq,
                *new.fingerprint,
                int(new.unhurried),
                self._rename_of(new),
                now,
            ),
        )

    def _refresh(self, file: int, new: Admission, now: int) -> None:
        self._seq += 1
        self.connection.execute(
            "UPDATE files SET state = 1, kind = ?, lane = ?, seq = ?, inode = ?, size = ?,"
            " mtime_ns = ?, ctime_ns = ?, device = ?, attempts = 0, spared = 0, alone = 0,"
            " unhurried = ?, compare_ns = NULL, in_parts = 0,"
            " moved_from = NULL, retry_ns = NULL, queued_ns = ?,"
            " started_ns = NULL, finished_ns = NULL, reason = NULL WHERE id = ?",
            (
                int(new.kind),
                int(new.lane),
                self._seq,
                *new.fingerprint,
                int(new.unhurried),
                now,
                file,
            ),
        )
        self.bury(file, TakeState.PENDING)

    def _rename_of(self, new: Admission) -> int | None:
        """The row whose path is gone and whose size and mtime agree: maybe the same content."""
        candidates = self.all(
            RENAME_OF,
            (new.fingerprint.mtime_ns, new.fingerprint.size, int(new.kind)),
        )
        for file, folder, name in candidates:
            (path,) = self.one("SELECT path FROM folders WHERE id = ?", (folder,)) or (b"",)
            if not os.path.lexists(os.path.join(path, name)):
                return int(file)
        return None

    def _folder(self, path: bytes) -> int:
        known = self._folders.get(path)
        if known is not None:
            return known
        self.connection.execute("INSERT OR IGNORE INTO folders(path) VALUES(?)", (path,))
        (number,) = self.one("SELECT id FROM folders WHERE path = ?", (path,)) or (0,)
        if len(self._folders) > 10_000:
            self._folders.clear()
        self._folders[path] = number
        return int(number)

    # ---- feed --------------------------------------------------------------------------------

    def queued(
        self, lane: Lane, after: int, up_to: int, limit: int, *, newest_first: bool
    ) -> list[Row]:
        """Queued rows of a lane whose admission has a number in (after, up_to], in its order."""
        order = "DESC" if newest_first else "ASC"
        found = self.connection.execute(
            ROW + "WHERE f.state = 1 AND f.lane = ? AND f.seq > ? AND f.seq <= ?"
            f" ORDER BY f.seq {order} LIMIT ?",
            (int(lane), after, up_to, limit),
        )
        return [as_row(values) for values in found]

    def begin_anew(self, file: int) -> None:
        """Forgets the ranges of a large text in progress, and queues it from its beginning."""
        with self.writing():
            self.connection.execute(
                "UPDATE files SET in_parts = 0 WHERE id = ? AND state = 1", (file,)
            )
            self.bury(file, TakeState.PENDING)
            self.requeue(file)

    def to_compare(self, by_ns: int, limit: int = 2_000) -> list[Row]:
        """Finished files whose content is due, by then, to be compared once more.

        They stay what they are, also in search, unless something else comes of it.
        """
        due = self.all(TO_COMPARE, (by_ns, by_ns + LONGEST_WAIT_NS, limit))
        return [row for (file,) in due if (row := self.row(file)) is not None]

    def is_comparison_due(self, by_ns: int) -> bool:
        """Whether any file is to be compared once more by that time, or is just now."""
        return bool(self.all(TO_COMPARE, (by_ns, by_ns + LONGEST_WAIT_NS, 1)))

    def expects_more(self) -> bool:
        """Whether any file is to be tried again, or compared once more, some day."""
        to_retry = self.one("SELECT 1 FROM files WHERE state = 3 LIMIT 1")
        to_compare = self.one("SELECT 1 FROM files WHERE compare_ns IS NOT NULL LIMIT 1")
        return bool(to_retry or to_compare)

    def feed_again(self, files: Iterable[int]) -> None:
        """Puts files that are queued still at the end of their lanes."""
        with self.writing():
            for row in self.queued_rows(files):
                self.requeue(row.id)

    def takes(self, file: int) -> list[Take]:
        """What the index holds of a file (or held, until it went away just now), in order."""
        found = self.connection.execute(
            "SELECT id, first, end, digest, newlines, unterminated, rules FROM takes"
            " WHERE file = ? AND (state = ? OR state = ? AND died_ns > ?) ORDER BY first, id",
            (file, TakeState.LIVE, TakeState.GONE, time.time_ns() - RENAME_WINDOW_NS),
        )
        return [
            Take(take, first, end, digest, newlines, bool(unterminated), {}, rules)
            for take, first, end, digest, newlines, unterminated, rules in found
        ]

    def covered(self, file: int, kept_to: int | None) -> list[tuple[int, int]]:
        """The byte ranges of a text in parts that are there already, in order."""
        return self.all(COVERED, (file, kept_to, kept_to))

    # ---- roots -------------------------------------------------------------------------------

    def root_identity(self, root: bytes) -> tuple[int, int] | None:
        """Who a watched folder was, (device, inode), when it was last taken in completely."""
        found = self.one("SELECT device, inode FROM roots WHERE path = ?", (root,))
        return (found[0], found[1]) if found else None

    def root_is(self, root: bytes, identity: tuple[int, int]) -> None:
        if self.root_identity(root) == identity:
            return
        with self.writing():
            self.connection.execute(
                "INSERT OR REPLACE INTO roots VALUES(?, ?, ?)", (root, *identity)
            )

    # ---- counts ------------------------------------------------------------------------------

    def revision(self) -> tuple[int, int]:
        """Differs from that of the last call when anybody wrote to `results.db` meanwhile."""
        (others,) = self.one("PRAGMA data_version") or (0,)
        return int(others), self.connection.total_changes()

    def counts(self) -> dict[State, int]:
        """Files by state."""
        found = self.all("SELECT state, count(*) FROM files GROUP BY state")
        return {State(state): count for state, count in found}

    def unfinished(self) -> int:
        """How many files are queued, or will be tried again."""
        (count,) = self.one("SELECT count(*) FROM files WHERE state IN (1, 3)")
        return int(count)

    def has_small_queued(self) -> bool:
        """Whether anything is queued that is no large text."""
        sql = "SELECT 1 FROM files WHERE state = 1 AND lane = ? LIMIT 1"
        return any(self.one(sql, (int(lane),)) for lane in (Lane.FRESH, Lane.BACKLOG))

    def has_queued(self, up_to: int | None = None, *, held: bool = True) -> bool:
        """Whether a file admitted by then (None: ever) is queued still.

        `held`: those that were let go of count too.
        """
        bound = self._seq if up_to is None else up_to
        sql = (
            "SELECT 1 FROM files WHERE state = 1 AND lane = ? AND seq <= ?"
            " AND (? OR ctime_ns != -1) LIMIT 1"
        )
        return any(self.one(sql, (int(lane), bound, held)) for lane in Lane)

    # ---- shards ------------------------------------------------------------------------------

    def adopt_shards(self, identities: dict[int, bytes]) -> int:
        """Compares the shards on disk with those the takes were written to.

        What a lost or replaced shard held is queued again. Gives the number of files.
        """
        lost = [
            number
            for number, identity in self.connection.execute("SELECT number, identity FROM shards")
            if identities.get(number) != identity
        ]
        queued = 0
        with self.writing():
            for number in lost:
                queued += self._requeue_shard(number)
                self.connection.execute("DELETE FROM shards WHERE number = ?", (number,))
            for number, identity in identities.items():
                self.connection.execute(
                    "INSERT OR REPLACE INTO shards VALUES(?, ?)", (number, identity)
                )
        return queued

    def _requeue_shard(self, number: int) -> int:
        files = self.all(
            "SELECT DISTINCT t.file FROM takes t JOIN files f ON f.id = t.file"
            " WHERE t.shard = ? AND f.state IN (1, 2)",
            (number,),
        )
        self.connection.execute("DELETE FROM takes WHERE shard = ?", (number,))
        for (file,) in files:
            self.connection.execute("UPDATE files SET in_parts = 0 WHERE id = ?", (file,))
            self.bury(file, TakeState.PENDING)
            self.requeue(file, Lane.BACKLOG)
        return len(files)

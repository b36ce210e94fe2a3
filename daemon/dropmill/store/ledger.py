"""The parent's side of `results.db`: admit, feed, charge, let go, mark gone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import apsw

from ..job import Fingerprint, Kind, Lane, State, Take
from .schema import COVERED, IN_HAND, TakeState, machine_faults, open_for_writing, transaction

LONGEST_WAIT_NS = 120 * 10**9
COMPARE_AGAIN_NS = 60 * 10**9
LEFT_OUT = "left out by the configuration"
RENAME_WINDOW_NS = 30 * 10**9  # takes that died longer ago may be compacted at any moment


class Admission(NamedTuple):
    """A settled file, as it asks to be let in."""

    folder: bytes
    name: bytes
    fingerprint: Fingerprint
    kind: Kind
    lane: Lane
    unhurried: bool = True


class Row(NamedTuple):
    """A queued file, as it is fed to the pool."""

    id: int
    seq: int
    folder: bytes
    name: bytes
    kind: Kind
    lane: Lane
    fingerprint: Fingerprint
    version: int
    attempts: int
    alone: bool
    unhurried: bool
    in_parts: bool
    kept_to: int | None
    encoding: str | None
    digest: bytes | None
    output: bytes | None
    moved_from: int | None


class Known(NamedTuple):
    """What the ledger knows of one name in a folder."""

    fingerprint: Fingerprint
    state: int


_ROW = """SELECT f.id, f.seq, d.path, f.name, f.kind, f.lane, f.inode, f.size, f.mtime_ns,
    f.ctime_ns, f.device, f.version, f.attempts, f.alone, f.unhurried, f.in_parts, f.kept_to,
    f.encoding, f.digest, f.output, f.moved_from
    FROM files f JOIN folders d ON d.id = f.folder """


# One that is further off than any is set was set by a clock that was put back since.
_TO_COMPARE = """SELECT id FROM files WHERE compare_ns IS NOT NULL
    AND (compare_ns <= ? OR compare_ns > ?) AND state IN (2, 4, 5) LIMIT ?"""


def _row(values: Any) -> Row:
    file, seq, folder, name, kind, lane = values[:6]
    version, attempts, alone, unhurried, in_parts, *rest = values[11:]
    return Row(
        file,
        seq,
        folder,
        name,
        Kind(kind),
        Lane(lane),
        Fingerprint(*values[6:11]),
        version,
        attempts,
        bool(alone),
        bool(unhurried),
        bool(in_parts),
        *rest,
    )


_KINDS = {int(kind): kind for kind in Kind}  # five times as fast as Kind(number)


class Ledger:
    """The table of every file known. One thread of the parent uses it."""

    def __init__(
        self,
        state_folder: bytes,
        lock: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """`lock` gives the Lock that the workers share, for one write."""
        self._lock = lock
        self._connection = open_for_writing(state_folder, synchronous="NORMAL")
        self._folders: dict[bytes, int] = {}
        (highest,) = self._one("SELECT max(seq) FROM files") or (0,)
        self._seq = int(highest or 0)

    def close(self) -> None:
        self._connection.close()

    def _all(self, sql: str, bindings: Any = ()) -> list[Any]:
        return self._connection.execute(sql, bindings).fetchall()

    def _one(self, sql: str, bindings: Any = ()) -> Any:
        return self._connection.execute(sql, bindings).fetchone()

    # ---- admit -------------------------------------------------------------------------------

    def admit(self, admissions: Iterable[Admission]) -> list[Admission]:
        """Writes or refreshes the rows of settled files, in one transaction.

        Equal fingerprints change nothing. Gives back those that must wait: a large text in
        progress that only grew is finished as it was admitted first.
        """
        now = time.time_ns()
        try:
            with machine_faults("results.db"), self._lock(), transaction(self._connection):
                return [each for each in admissions if not self._admit(each, now)]
        except BaseException:
            self._folders.clear()  # the numbers of folders that were rolled back
            raise

    def _admit(self, new: Admission, now: int) -> bool:
        folder = self._folder(new.folder)
        found = self._one(
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
                self._requeue(file, new.lane)
            return True
        in_progress = in_parts and state == State.QUEUED
        if in_progress and old.inode == new.fingerprint.inode and new.fingerprint.size > old.size:
            return False
        self._refresh(file, new, now)
        return True

    def _insert(self, folder: int, new: Admission, now: int) -> None:
        self._seq += 1
        self._connection.execute(
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
        self._connection.execute(
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
        self._bury(file, TakeState.PENDING)

    def _bury(self, file: int, *states: TakeState) -> None:
        for state in states:
            self._connection.execute(
                "UPDATE takes SET state = ?, died_ns = ? WHERE file = ? AND state = ?",
                (TakeState.DEAD, time.time_ns(), file, state),
            )

    def _rename_of(self, new: Admission) -> int | None:
        """The row whose path is gone and whose size and mtime agree: maybe the same content."""
        candidates = self._all(
            "SELECT f.id, d.path, f.name FROM files f JOIN folders d ON d.id = f.folder"
            " WHERE f.mtime_ns = ? AND f.size = ? AND f.kind = ? AND f.state IN (2, 6) LIMIT 8",
            (new.fingerprint.mtime_ns, new.fingerprint.size, int(new.kind)),
        )
        for file, folder, name in candidates:
            if not os.path.lexists(os.path.join(folder, name)):
                return int(file)
        return None

    def _folder(self, path: bytes) -> int:
        known = self._folders.get(path)
        if known is not None:
            return known
        self._connection.execute("INSERT OR IGNORE INTO folders(path) VALUES(?)", (path,))
        (number,) = self._one("SELECT id FROM folders WHERE path = ?", (path,)) or (0,)
        if len(self._folders) > 10_000:
            self._folders.clear()
        self._folders[path] = number
        return int(number)

    # ---- feed --------------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """The number of the newest admission."""
        return self._seq

    def queued(
        self, lane: Lane, after: int, up_to: int, limit: int, *, newest_first: bool
    ) -> list[Row]:
        """Queued rows of a lane whose admission has a number in (after, up_to], in its order."""
        order = "DESC" if newest_first else "ASC"
        found = self._connection.execute(
            _ROW + "WHERE f.state = 1 AND f.lane = ? AND f.seq > ? AND f.seq <= ?"
            f" ORDER BY f.seq {order} LIMIT ?",
            (int(lane), after, up_to, limit),
        )
        return [_row(values) for values in found]

    def row(self, file: int) -> Row | None:
        """A file's row, whatever its state."""
        values = self._one(_ROW + "WHERE f.id = ?", (file,))
        return _row(values) if values else None

    def begin_anew(self, file: int) -> None:
        """Forgets the ranges of a large text in progress, and queues it from its beginning."""
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            self._connection.execute(
                "UPDATE files SET in_parts = 0 WHERE id = ? AND state = 1", (file,)
            )
            self._bury(file, TakeState.PENDING)
            self._requeue(file)

    def to_compare(self, by_ns: int, limit: int = 2_000) -> list[Row]:
        """Finished files whose content is due, by then, to be compared once more.

        They stay what they are, also in search, unless something else comes of it.
        """
        due = self._all(_TO_COMPARE, (by_ns, by_ns + LONGEST_WAIT_NS, limit))
        return [row for (file,) in due if (row := self.row(file)) is not None]

    def is_comparison_due(self, by_ns: int) -> bool:
        """Whether any file is to be compared once more by that time, or is just now."""
        return bool(self._all(_TO_COMPARE, (by_ns, by_ns + LONGEST_WAIT_NS, 1)))

    def feed_again(self, files: Iterable[int]) -> None:
        """Puts files that are queued still at the end of their lanes."""
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for row in self.queued_rows(files):
                self._requeue(row.id)

    def queued_rows(self, files: Iterable[int]) -> list[Row]:
        """Those of the files that are still queued, as they are now."""
        found: list[Row] = []
        for file in files:
            values = self._one(_ROW + "WHERE f.id = ? AND f.state = 1", (file,))
            if values:
                found.append(_row(values))
        return found

    def takes(self, file: int) -> list[Take]:
        """What the index holds of a file (or held, until it went away just now), in order."""
        found = self._connection.execute(
            "SELECT id, first, end, digest, newlines, unterminated FROM takes"
            " WHERE file = ? AND (state = ? OR state = ? AND died_ns > ?) ORDER BY first, id",
            (file, TakeState.LIVE, TakeState.GONE, time.time_ns() - RENAME_WINDOW_NS),
        )
        return [
            Take(take, first, end, digest, newlines, bool(unterminated), {})
            for take, first, end, digest, newlines, unterminated in found
        ]

    def covered(self, file: int, kept_to: int | None) -> list[tuple[int, int]]:
        """The byte ranges of a text in parts that are there already, in order."""
        return self._all(COVERED, (file, kept_to, kept_to))

    def due_retries(self, now_ns: int, limit: int = 256) -> int:
        """Puts retries whose time has come back into the queue; gives how many.

        One that is further off than any retry is set was set by a clock that was put back since.
        """
        due = self._all(
            "SELECT id FROM files WHERE state = ? AND (retry_ns <= ? OR retry_ns > ?) LIMIT ?",
            (int(State.RETRY), now_ns, now_ns + LONGEST_WAIT_NS, limit),
        )
        if due:
            with machine_faults("results.db"), self._lock(), transaction(self._connection):
                for (file,) in due:
                    self._requeue(file)
        return len(due)

    def next_retry_ns(self) -> int | None:
        (soonest,) = self._one(
            "SELECT min(retry_ns) FROM files WHERE state = ?", (int(State.RETRY),)
        ) or (None,)
        return soonest

    def _requeue(self, file: int, lane: Lane | None = None) -> None:
        self._seq += 1
        self._connection.execute(
            "UPDATE files SET state = 1, seq = ?, lane = coalesce(?, lane), retry_ns = NULL"
            " WHERE id = ?",
            (self._seq, None if lane is None else int(lane), file),
        )

    def retry(self, files: Iterable[int]) -> int:
        """Puts quarantined files back, their attempts forgotten; gives how many."""
        count = 0
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for file in files:
                self._connection.execute(
                    "UPDATE files SET attempts = 0, spared = 0, reason = NULL, queued_ns = ?"
                    " WHERE id = ? AND state IN (3, 4)",
                    (time.time_ns(), file),
                )
                if self._connection.changes():
                    self._requeue(file)
                    count += 1
        return count

    def quarantined(self) -> list[int]:
        return [file for (file,) in self._all("SELECT id FROM files WHERE state = 4")]

    # ---- what went wrong ---------------------------------------------------------------------

    def charge(self, file: int, seq: int, reason: str, retry_ns: int, limit: int) -> State | None:
        """One attempt more on the account of one admission of a file, which killed a worker.

        Its next attempt runs alone in a fresh worker, and only an attempt that ran so may
        quarantine it. Gives the file's new state; None when that admission is queued no longer:
        what the file holds by now killed nobody.
        """
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            found = self._one(
                f"SELECT attempts, alone FROM files WHERE id = ? AND seq = ? AND {IN_HAND}",
                (file, seq),
            )
            if found is None:
                return None
            attempts, alone = found[0] + 1, found[1]
            state = State.QUARANTINED if alone and attempts >= limit else State.RETRY
            self._connection.execute(
                "UPDATE files SET state = ?, attempts = ?, alone = 1, reason = ?, retry_ns = ?,"
                " finished_ns = ?, compare_ns = NULL WHERE id = ?",
                (int(state), attempts, reason, retry_ns, time.time_ns(), file),
            )
            if state is State.QUARANTINED:
                self._bury(file, TakeState.LIVE, TakeState.PENDING, TakeState.GONE)
            return state

    def spare(self, file: int, seq: int) -> int:
        """A worker died with that admission of a file in hand and nobody is charged.

        Gives how often so far; 0 when the file was admitted anew since.
        """
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            self._connection.execute(
                "UPDATE files SET spared = spared + 1, alone = max(alone, spared >= 2)"
                " WHERE id = ? AND seq = ?",
                (file, seq),
            )
            self._connection.execute(  # it was finished well before it was compared
                "UPDATE files SET compare_ns = NULL WHERE id = ? AND seq = ? AND spared > 2",
                (file, seq),
            )
            (spared,) = self._one(
                "SELECT spared FROM files WHERE id = ? AND seq = ?", (file, seq)
            ) or (0,)
            return int(spared)

    def let_go(self, files: Iterable[int]) -> None:
        """Forgets the fingerprints of queued files that are not what was admitted.

        They go back to settle; whatever they are then, it is admitted anew. What was only to be
        compared with what it was is to be so later.
        """
        later = time.time_ns() + COMPARE_AGAIN_NS
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for file in files:
                self._connection.execute(
                    "UPDATE files SET ctime_ns = -1, in_parts = 0,"
                    " compare_ns = NULL WHERE id = ? AND state = 1",
                    (file,),
                )
                self._bury(file, TakeState.PENDING)
                self._connection.execute(
                    "UPDATE files SET compare_ns = ? WHERE id = ? AND compare_ns IS NOT NULL",
                    (later, file),
                )

    # ---- gone --------------------------------------------------------------------------------

    def path_of(self, file: int) -> bytes | None:
        found = self._one(
            "SELECT d.path, f.name FROM files f JOIN folders d ON d.id = f.folder WHERE f.id = ?",
            (file,),
        )
        return os.path.join(*found) if found else None

    def find(self, path: bytes) -> int | None:
        folder, name = os.path.split(path)
        found = self._one(
            "SELECT f.id FROM files f JOIN folders d ON d.id = f.folder"
            " WHERE d.path = ? AND f.name = ?",
            (folder, name),
        )
        return int(found[0]) if found else None

    def was_on_a_mount(self, path: bytes) -> bool:
        """Whether a file lay on a mount below its root when it was last admitted."""
        file = self.find(path)
        found = file and self._one("SELECT device FROM files WHERE id = ?", (file,))
        return bool(found and found[0])

    def mark_gone(self, paths: Iterable[bytes]) -> list[bytes]:
        """Takes absent files out of search at once; gives those that were known."""
        known: list[bytes] = []
        now = time.time_ns()
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for path in paths:
                file = self.find(path)
                if file is not None and self._mark_gone(file, now):
                    known.append(path)
        return known

    def _mark_gone(self, file: int, now: int, reason: str | None = None) -> bool:
        self._connection.execute(
            "UPDATE files SET state = 6, finished_ns = ?, in_parts = 0,"
            " compare_ns = NULL, retry_ns = NULL,"
            " reason = ? WHERE id = ? AND state != 6",
            (now, reason, file),
        )
        if not self._connection.changes():
            return False
        self._connection.execute(
            "UPDATE takes SET state = CASE state WHEN 1 THEN 3 ELSE 4 END, died_ns = ?"
            " WHERE file = ? AND state IN (1, 2)",
            (now, file),
        )
        return True

    def mark_unwatched(self, root_of: Callable[[bytes], bytes | None]) -> int:
        """Takes files that lie in no watched folder out of search; gives how many."""
        now, count = time.time_ns(), 0
        folders = [
            number
            for number, path in self._all("SELECT id, path FROM folders")
            if root_of(path) is None
        ]
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for folder in folders:
                for (file,) in self._all(
                    "SELECT id FROM files WHERE folder = ? AND state != 6", (folder,)
                ):
                    count += self._mark_gone(file, now)
        return count

    def bring_deaths_back(self, now_ns: int) -> None:
        """After the clock was put back: takes that died in what is the future now died just now.

        Or compaction would spare them until the clock has caught up.
        """
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            self._connection.execute(
                "UPDATE takes SET died_ns = ? WHERE state >= 3 AND died_ns > ?", (now_ns, now_ns)
            )

    def leave_out(
        self, ours_in: Callable[[bytes], Callable[[bytes, Kind], bool]], rules: bytes
    ) -> int:
        """Takes files out of search that the configuration leaves out now; gives how many.

        `ours_in` gives for a folder what is asked about the name and kind of each file in it. It
        is asked nothing where the `rules`, a digest, are those of the last time.
        """
        if self._one("SELECT 1 FROM rules WHERE digest = ?", (rules,)):
            return 0
        count = 0
        for folder, path in self._all("SELECT id, path FROM folders"):
            rows = self._connection.execute(
                "SELECT id, name, kind FROM files WHERE folder = ? AND state != 6", (folder,)
            )
            is_ours = ours_in(path)
            out = [file for file, name, kind in rows if not is_ours(name, _KINDS[kind])]
            if out:
                self._leave_out(out)
                count += len(out)
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            self._connection.execute("DELETE FROM rules")
            self._connection.execute("INSERT INTO rules VALUES(?)", (rules,))
        return count

    def _leave_out(self, files: list[int]) -> None:
        now = time.time_ns()
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for file in files:
                self._mark_gone(file, now, LEFT_OUT)

    def forget_gone(self, before_ns: int, limit: int = 10_000) -> None:
        """Drops the rows of files that went away before then."""
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            self._connection.execute(
                "DELETE FROM files WHERE id IN (SELECT id FROM files WHERE state = 6"
                " AND finished_ns < ? LIMIT ?)",
                (before_ns, limit),
            )

    # ---- roots -------------------------------------------------------------------------------

    def root_identity(self, root: bytes) -> tuple[int, int] | None:
        """Who a watched folder was, (device, inode), when it was last taken in completely."""
        found = self._one("SELECT device, inode FROM roots WHERE path = ?", (root,))
        return (found[0], found[1]) if found else None

    def root_is(self, root: bytes, identity: tuple[int, int]) -> None:
        if self.root_identity(root) == identity:
            return
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO roots VALUES(?, ?, ?)", (root, *identity)
            )

    # ---- counts ------------------------------------------------------------------------------

    def counts(self) -> dict[State, int]:
        """Files by state."""
        found = self._all("SELECT state, count(*) FROM files GROUP BY state")
        return {State(state): count for state, count in found}

    def has_small_queued(self) -> bool:
        """Whether anything is queued that is no large text."""
        sql = "SELECT 1 FROM files WHERE state = 1 AND lane = ? LIMIT 1"
        return any(self._one(sql, (int(lane),)) for lane in (Lane.FRESH, Lane.BACKLOG))

    def has_queued(self, up_to: int | None = None, *, held: bool = True) -> bool:
        """Whether a file admitted by then (None: ever) is queued still.

        `held`: those that were let go of count too.
        """
        bound = self._seq if up_to is None else up_to
        sql = (
            "SELECT 1 FROM files WHERE state = 1 AND lane = ? AND seq <= ?"
            " AND (? OR ctime_ns != -1) LIMIT 1"
        )
        return any(self._one(sql, (int(lane), bound, held)) for lane in Lane)

    # ---- shards ------------------------------------------------------------------------------

    def adopt_shards(self, identities: dict[int, bytes]) -> int:
        """Compares the shards on disk with those the takes were written to.

        What a lost or replaced shard held is queued again. Gives the number of files.
        """
        lost = [
            number
            for number, identity in self._connection.execute("SELECT number, identity FROM shards")
            if identities.get(number) != identity
        ]
        queued = 0
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for number in lost:
                queued += self._requeue_shard(number)
                self._connection.execute("DELETE FROM shards WHERE number = ?", (number,))
            for number, identity in identities.items():
                self._connection.execute(
                    "INSERT OR REPLACE INTO shards VALUES(?, ?)", (number, identity)
                )
        return queued

    def _requeue_shard(self, number: int) -> int:
        files = self._all(
            "SELECT DISTINCT t.file FROM takes t JOIN files f ON f.id = t.file"
            " WHERE t.shard = ? AND f.state IN (1, 2)",
            (number,),
        )
        self._connection.execute("DELETE FROM takes WHERE shard = ?", (number,))
        for (file,) in files:
            self._connection.execute("UPDATE files SET in_parts = 0 WHERE id = ?", (file,))
            self._bury(file, TakeState.PENDING)
            self._requeue(file, Lane.BACKLOG)
        return len(files)


class FolderReader:
    """What a scan compares with; one a scan thread, on a connection of its own."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def known(self, folder: bytes) -> dict[bytes, Known]:
        """Every name that the ledger knows in a folder and that has not gone."""
        found = self._connection.execute(
            "SELECT f.name, f.inode, f.size, f.mtime_ns, f.ctime_ns, f.device, f.state"
            " FROM folders d JOIN files f ON f.folder = d.id WHERE d.path = ? AND f.state != 6",
            (folder,),
        )
        return {name: Known(Fingerprint(*mark), state) for name, *mark, state in found}

    def folders_below(self, top: bytes) -> list[bytes]:
        """Every folder at or below `top` that the ledger has files in."""
        low, high = top + b"/", top + b"0"  # "0" comes after "/"
        return [
            path
            for (path,) in self._connection.execute(
                "SELECT path FROM folders WHERE path = ? OR path >= ? AND path < ?",
                (top, low, high),
            )
        ]

    def close(self) -> None:
        self._connection.close()

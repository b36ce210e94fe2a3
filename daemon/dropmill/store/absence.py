"""Files that went away, or that nobody wants any more: out of search at once, known for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..job import Kind
from .table import Table

LEFT_OUT = "left out by the configuration"
_KINDS = {int(kind): kind for kind in Kind}  # five times as fast as Kind(number)


class Absence:
    """The part of the ledger that knows of what is gone."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def was_on_a_mount(self, path: bytes) -> bool:
        """Whether a file lay on a mount below its root when it was last admitted."""
        file = self._table.find(path)
        found = file and self._table.one("SELECT device FROM files WHERE id = ?", (file,))
        return bool(found and found[0])

    def mark_gone(self, paths: Iterable[bytes]) -> list[bytes]:
        """Takes absent files out of search at once; gives those that were known."""
        known: list[bytes] = []
        now = time.time_ns()
        with self._table.writing():
            for path in paths:
                file = self._table.find(path)
                if file is not None and self._mark_gone(file, now):
                    known.append(path)
        return known

    def _mark_gone(self, file: int, now: int, reason: str | None = None) -> bool:
        self._table.connection.execute(
            "UPDATE files SET state = 6, finished_ns = ?, in_parts = 0,"
            " compare_ns = NULL, retry_ns = NULL,"
            " reason = ? WHERE id = ? AND state != 6",
            (now, reason, file),
        )
        if not self._table.connection.changes():
            return False
        self._table.connection.execute(
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
            for number, path in self._table.all("SELECT id, path FROM folders")
            if root_of(path) is None
        ]
        with self._table.writing():
            for folder in folders:
                for (file,) in self._table.all(
                    "SELECT id FROM files WHERE folder = ? AND state != 6", (folder,)
                ):
                    count += self._mark_gone(file, now)
        return count

    def bring_deaths_back(self, now_ns: int) -> None:
        """After the clock was put back: takes that died in what is the future now died just now.

        Or compaction would spare them until the clock has caught up.
        """
        with self._table.writing():
            self._table.connection.execute(
                "UPDATE takes SET died_ns = ? WHERE state >= 3 AND died_ns > ?", (now_ns, now_ns)
            )

    def leave_out(
        self,
        ours_in: Callable[[bytes], Callable[[bytes, Kind, bytes | None], bool]],
        rules: bytes,
    ) -> int:
        """Takes files out of search that the configuration leaves out now; gives how many.

        `ours_in` gives for a folder what is asked about the name and kind of each file in it, and
        about the rules that a data set was looked at by (None: by none yet). It is asked nothing
        where the `rules`, a digest, are those of the last time.
        """
        if self._table.one("SELECT 1 FROM rules WHERE digest = ?", (rules,)):
            return self._leave_out_datasets(ours_in)
        count = 0
        for folder, path in self._table.all("SELECT id, path FROM folders"):
            rows = self._table.connection.execute(
                "SELECT id, name, kind, rules FROM files WHERE folder = ? AND state != 6", (folder,)
            )
            is_ours = ours_in(path)
            out = [file for file, name, kind, by in rows if not is_ours(name, _KINDS[kind], by)]
            if out:
                self._leave_out(out)
                count += len(out)
        with self._table.writing():
            self._table.connection.execute("DELETE FROM rules")
            self._table.connection.execute("INSERT INTO rules VALUES(?)", (rules,))
        return count

    def _leave_out_datasets(
        self, ours_in: Callable[[bytes], Callable[[bytes, Kind, bytes | None], bool]]
    ) -> int:
        """Those that a worker looked at by older rules, and nobody since."""
        rows = self._table.all(
            "SELECT f.id, d.path, f.name, f.rules FROM files f JOIN folders d ON d.id = f.folder"
            " WHERE f.kind = 3 AND f.state != 6"
        )
        out = [
            file for file, folder, name, by in rows if not ours_in(folder)(name, Kind.DATASET, by)
        ]
        if out:
            self._leave_out(out)
        return len(out)

    def _leave_out(self, files: list[int]) -> None:
        now = time.time_ns()
        with self._table.writing():
            for file in files:
                self._mark_gone(file, now, LEFT_OUT)

    def forget_gone(self, before_ns: int, limit: int = 10_000) -> None:
        """Drops the rows of files that went away before then."""
        with self._table.writing():
            doomed = self._table.all(
                "SELECT id FROM files WHERE state = 6 AND finished_ns < ? LIMIT ?",
                (before_ns, limit),
            )
            self._table.connection.executemany("DELETE FROM aggregates WHERE file = ?", doomed)
            self._table.connection.executemany("DELETE FROM files WHERE id = ?", doomed)

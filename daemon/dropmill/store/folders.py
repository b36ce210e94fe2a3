"""What a scan compares the disk with: the names that the ledger knows, folder by folder."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import apsw

_LEAST_AHEAD = 32  # rows
_MOST_AHEAD = 1_000  # about 0.5 MB
_CACHE = 256  # KiB; nothing is read twice on the way through the ledger

_MARK = "f.name, f.inode, f.size, f.mtime_ns, f.ctime_ns, f.device"

_ONE_NAME, _ONE_MARK = itemgetter(0), itemgetter(1, 2, 3, 4, 5)
_AHEAD_NAME, _AHEAD_MARK = itemgetter(2), itemgetter(3, 4, 5, 6, 7)

AHEAD = f"""SELECT d.id, d.path, {_MARK}
    FROM folders d CROSS JOIN files f ON f.folder = d.id
    WHERE d.path >= ? AND f.state != 6 ORDER BY d.path, f.name LIMIT ?"""

_ONE = f"""SELECT {_MARK} FROM folders d JOIN files f ON f.folder = d.id
    WHERE d.path = ? AND f.state != 6 AND f.name > ?"""

_BELOW = "FROM folders WHERE path = ? OR path >= ? AND path < ?"

Marks = dict[bytes, tuple[int, ...]]  # name → what equals its fingerprint
# What the ledger knows of one folder: its number there, and the names in it that have not gone.
# Number 0: it knows no such folder, or no file in it.
KnownFolder = tuple[int, Marks]

_UNKNOWN: KnownFolder = (0, {})


class FolderReader:
    """What a scan compares with; one a scan thread, on a connection of its own.

    A question for each folder takes ten times as long as one for many, so it reads ahead of a
    walk, in the order of paths. A walk that goes another way only makes it ask more often.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        self._connection = connection
        self._walk: int | None = None  # None: what was read serves no walk
        self._rows = _LEAST_AHEAD
        self._ahead: dict[bytes, KnownFolder] = {}
        self._first, self._last = b"", b""  # of the paths that were read ahead, where there are any
        self._cut_after = b""  # the name up to which the last of them is there; empty: all of it

    def met(self, folder: bytes, walk: int) -> KnownFolder:
        """What is known of a folder that a walk has come to, which is not older than the walk.

        Walks have numbers; what was read for one serves no other. 0: no walk.
        """
        found = self._ahead.get(folder)
        if found is not None and walk == self._walk and folder != self._last:
            return found
        if walk != self._walk:
            self._walk, self._ahead, self._last = walk or None, {}, b""
        if not self._first <= folder <= self._last:
            self._read_ahead(folder)
        found = self._ahead.get(folder, _UNKNOWN)
        if folder == self._last and self._cut_after:
            found[1].update(self.known(folder, self._cut_after))
            self._cut_after = b""
        return found

    def _read_ahead(self, folder: bytes) -> None:
        goes_on = bool(self._last) and folder > self._last
        self._rows = min(_MOST_AHEAD, 4 * self._rows) if goes_on else _LEAST_AHEAD
        rows: list[Any] = self._connection.execute(AHEAD, (folder, self._rows)).fetchall()
        self._ahead = _by_folder(rows)
        self._first, self._last, self._cut_after = folder, folder, b""
        if len(rows) == self._rows:
            self._last, self._cut_after = rows[-1][1:3]
        elif rows:
            self._last = max(folder, rows[-1][1])

    def known(
        self, folder: bytes, after: bytes = b"", upto: bytes | None = None
    ) -> dict[bytes, tuple[int, ...]]:
        """Name → what equals its fingerprint, of all names in a folder that have not gone.

        Of those > `after` and <= `upto`, where these are given.
        """
        bounds = (after,) if upto is None else (after, upto)
        sql = _ONE if upto is None else _ONE + " AND f.name <= ?"
        rows: list[Any] = self._connection.execute(sql, (folder, *bounds)).fetchall()
        return _marks(rows, _ONE_NAME, _ONE_MARK)

    def folders_below(self, top: bytes) -> list[tuple[int, bytes]]:
        """Every folder at or below `top` that the ledger has files in: its number and path."""
        found = self._connection.execute(f"SELECT id, path {_BELOW}", _bounds(top))
        return [(number, path) for number, path in found]

    def count_below(self, top: bytes) -> int:
        """How many folders those are."""
        ((count,),) = self._connection.execute(f"SELECT count(*) {_BELOW}", _bounds(top))
        return int(count)

    def revision(self) -> int:
        """Another one than the last if anyone wrote to the ledger meanwhile."""
        ((revision,),) = self._connection.execute("PRAGMA data_version")
        return int(revision)

    def close(self) -> None:
        self._connection.close()


def _bounds(top: bytes) -> tuple[bytes, bytes, bytes]:
    return top, top + b"/", top + b"0"  # "0" comes after "/"


def _by_folder(rows: list[Any]) -> dict[bytes, KnownFolder]:
    if rows and rows[0][0] == rows[-1][0]:
        return {rows[0][1]: (rows[0][0], _marks(rows, _AHEAD_NAME, _AHEAD_MARK))}
    found: dict[bytes, KnownFolder] = {}
    number, files = _UNKNOWN
    for row in rows:
        if row[0] != number:
            number, files = row[0], {}
            found[row[1]] = number, files
        files[row[2]] = row[3:]
    return found


def _marks(
    rows: list[Any], name: Callable[[Any], bytes], mark: Callable[[Any], tuple[int, ...]]
) -> Marks:
    """Those of one folder's rows: of many, in two thirds of the time of a loop."""
    return dict(zip(map(name, rows), map(mark, rows), strict=True))

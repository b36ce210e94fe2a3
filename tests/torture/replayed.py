"""The audit of what a power cut left, before the service is started on it.

Every copy in place is whole, and whatever the ledger calls done is there: its blocks in the shards,
live and found by its words; its copy with its time, unless the source has changed since. SQLite may
recover its databases first, as it would at the next start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from dropmill.index import shard_numbers, shard_path
from dropmill.staging import FOLDER as STAGING

from .lossy_disk import Tree, put

PARTS = STATE, OUTPUT = (b"state", b"grayscale")
_DATABASES = (b".db", b".db-wal", b".db-journal")
_DONE, _TEXT = 2, 1


class Wanted(NamedTuple):
    """What must be true of a recording, whenever the power went."""

    copies: dict[bytes, set[bytes]]  # path below the place → what it may hold there
    words: dict[tuple[bytes, int], list[str]]  # source and its mtime_ns → words of it
    images: dict[bytes, int]  # source as it is now → its mtime_ns
    moved: dict[bytes, bytes]  # copy's place → where it was before


class Audit:
    """Looks at one replayed state after the other."""

    def __init__(self, place: bytes, scratch: Path, wanted: Wanted) -> None:
        """`place` is where the recorded folders were."""
        self._place = place
        self._scratch = scratch
        self._wanted = wanted
        self._seen: dict[int, tuple[list[str], list[_Row]]] = {}

    def problems(self, tree: Tree) -> list[str]:
        problems, done = self._databases(tree)
        for row in done:
            if self._wanted.images.get(row.path) == row.mtime_ns:
                problems = problems + self._missing_copy(tree, row)
        return problems + list(self._half_written(tree))

    def done(self, tree: Tree) -> set[bytes]:
        """The sources that the ledger calls done."""
        return {row.path for row in self._databases(tree)[1]}

    # ---- copies ------------------------------------------------------------------------------

    def _half_written(self, tree: Tree) -> Iterator[str]:
        for path, left in tree.items():
            folder = path.split(b"/")[:2]
            if left is None or folder[0] != OUTPUT or folder[1] == STAGING:
                continue
            if left.content not in self._wanted.copies.get(path, ()):
                yield f"{path!r} is in place and not whole: {len(left.content)} bytes"

    def _missing_copy(self, tree: Tree, row: _Row) -> list[str]:
        relative = os.path.relpath(row.output or b"none", self._place)
        left = tree.get(relative)
        if left is None:
            return [f"{row.path!r} is done, its copy {relative!r} is not there"]
        if left.mtime_ns != row.mtime_ns:
            return [f"{row.path!r} is done, its copy has another time"]
        if self._wanted.moved.get(relative) in tree:
            return [f"{row.path!r} is done, its copy is in its old place too"]
        return []

    # ---- databases ---------------------------------------------------------------------------

    def _databases(self, tree: Tree) -> tuple[list[str], list[_Row]]:
        """What is wrong in them, and the files that are done; known ones are not read again."""
        databases = {
            path: left
            for path, left in tree.items()
            if path.split(b"/")[0] == STATE and (left is None or path.endswith(_DATABASES))
        }
        mark = hash(
            tuple(sorted((path, left and left.content) for path, left in databases.items()))
        )
        if mark not in self._seen:
            folder = Path(tempfile.mkdtemp(dir=self._scratch))
            put(databases, os.fsencode(folder))
            try:
                self._seen[mark] = self._read(os.path.join(os.fsencode(folder), STATE))
            finally:
                shutil.rmtree(folder)
        return self._seen[mark]

    def _read(self, state: bytes) -> tuple[list[str], list[_Row]]:
        try:
            with contextlib.ExitStack() as open_ones:
                shards = {
                    number: _opened(shard_path(state, number), open_ones)
                    for number in shard_numbers(state)
                }
                ledger = _opened(os.path.join(state, b"results.db"), open_ones)
                done = _done(ledger)
                texts = [row for row in done if row.kind == _TEXT]
                return [each for row in texts for each in self._lost(ledger, shards, row)], done
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
            return [f"a database is broken: {error}"], []

    def _lost(self, ledger: _Database, shards: dict[int, _Database], row: _Row) -> Iterator[str]:
        """What of a done text no live block holds."""
        held = 0
        words = set(self._wanted.words[row.path, row.mtime_ns])
        for take, number, first, end in ledger.rows(
            "SELECT id, shard, first, end FROM takes WHERE file = ? AND state = 1", row.file
        ):
            shard = shards.get(number, _Database(None))
            blocks = shard.rows("SELECT id, end - first FROM blocks WHERE take = ?", take)
            if sum(size for _, size in blocks) != end - first:
                yield f"{row.path!r} is done, shard {number} lacks blocks of its take"
            words -= {word for word in words if _finds(shard, word, {block for block, _ in blocks})}
            held += end - first
        if held != row.size:
            yield f"{row.path!r} is done, its takes are {held} of its {row.size} bytes"
        if words:
            yield f"{row.path!r} is done, {words} are not found"


class _Row(NamedTuple):
    file: int
    path: bytes
    kind: int
    size: int
    mtime_ns: int
    output: bytes | None


class _Database:
    """One that is not there, or has no tables yet, is empty."""

    def __init__(self, connection: apsw.Connection | None) -> None:
        self._connection = connection

    def rows(self, sql: str, *values: object) -> list[Any]:
        if self._connection is None:
            return []
        return self._connection.execute(sql, values).fetchall()


def _opened(path: bytes, open_ones: contextlib.ExitStack) -> _Database:
    if not os.path.exists(path):
        return _Database(None)
    connection = apsw.Connection(os.fsdecode(path))
    open_ones.callback(connection.close)
    connection.execute("PRAGMA synchronous = OFF")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone() or ("",)
    if verdict != "ok":
        raise apsw.CorruptError(f"{os.fsdecode(path)}: {verdict}")
    has_tables = connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    return _Database(connection if has_tables else None)


def _done(ledger: _Database) -> list[_Row]:
    return [
        _Row(file, os.path.join(folder, name), *rest)
        for file, folder, name, *rest in ledger.rows(
            "SELECT f.id, d.path, f.name, f.kind, f.size, f.mtime_ns, f.output FROM files f"
            " JOIN folders d ON d.id = f.folder WHERE f.state = ?",
            _DONE,
        )
    ]


def _finds(shard: _Database, word: str, blocks: set[int]) -> bool:
    found = shard.rows("SELECT rowid FROM words WHERE words MATCH ?", word)
    return not blocks.isdisjoint(row for (row,) in found)

"""A shard: one worker's own full-text index file. The only SQL on shards.

Shard k is `index/shard-k.db` in the state folder. It maps words to blocks and knows of each block
the take it belongs to, its byte range in the source and the number of line breaks between the
take's start and its own. It does not hold the text: a hit reads its block again from the source.

A block is live if and only if its take is, and that only `results.db` knows; so a worker that dies
between its shard's commit and the ledger's leaves nothing but invisible blocks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apsw

from ..durable import make_folder
from ..errors import MachineFault
from ..store.schema import configure, keep_wal, machine_fault, machine_faults, transaction

TOKENIZER = ("unicode61", ["remove_diacritics", "2", "tokenchars", "_"])
_TABLES = """
CREATE TABLE blocks(
    id INTEGER PRIMARY KEY,
    take INTEGER NOT NULL,
    first INTEGER NOT NULL,
    end INTEGER NOT NULL,
    newlines INTEGER NOT NULL    -- between the take's start and the block's
);
CREATE TABLE shard(identity BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(
    text, content='', contentless_delete=1, detail=full,
    tokenize="unicode61 remove_diacritics 2 tokenchars '_'"
);
INSERT INTO shard VALUES(randomblob(16));
"""
# Under load hardly anything is merged, as `tidy` does it when idle: 64 segments a level cost a
# search 0.1 ms and no room, merging them at 16 costs a worker 17 % of its time. deletemerge 0:
# compaction merges by itself, in steps that it can bound.
_SETTINGS = {"hashsize": 8 << 20, "automerge": 64, "crisismerge": 256, "deletemerge": 0}
_MERGE_PAGES = 500  # a step of at most about 64 ms
_SWEEP = 2_000  # blocks a step
_PATIENCE_MS = 15_000
_FREE_PAGES = 250  # 1 MB; more are given back when idle


class Block(NamedTuple):
    """A piece of a text file, about 256 KiB, cut at a line end."""

    take: int
    first: int
    end: int
    newlines: int


class Hit(NamedTuple):
    """A block that holds what was asked for; `rank` is bm25, smaller is better."""

    block: Block
    rank: float


def shard_path(state_folder: bytes, number: int) -> bytes:
    return os.path.join(state_folder, b"index", b"shard-%d.db" % number)


def shard_numbers(state_folder: bytes) -> list[int]:
    """The shards that exist, in order."""
    try:
        names = os.listdir(os.path.join(state_folder, b"index"))
    except FileNotFoundError:
        return []
    return sorted(
        int(name[6:-3]) for name in names if name.startswith(b"shard-") and name.endswith(b".db")
    )


def identity(state_folder: bytes, number: int) -> bytes:
    """The random mark a shard got when it was made: another one means another shard."""
    connection = apsw.Connection(os.fsdecode(shard_path(state_folder, number)))
    try:
        connection.set_busy_timeout(_PATIENCE_MS)
        row = connection.execute("SELECT identity FROM shard").fetchone()
    finally:
        connection.close()
    return bytes(row[0]) if row else b""


def tokenize(text: bytes) -> list[tuple[int, int, str]]:
    """The words of a UTF-8 text as the index sees them: (first byte, end byte, folded word)."""
    return _tokenizer()(  # type: ignore[return-value]
        text, apsw.FTS5_TOKENIZE_DOCUMENT, None, include_colocated=False
    )


def _tokenizer() -> apsw.FTS5Tokenizer:
    global _tokenizer_made
    if _tokenizer_made is None:
        name, arguments = TOKENIZER
        _tokenizer_made = apsw.Connection(":memory:").fts5_tokenizer(name, arguments)
    return _tokenizer_made


_tokenizer_made: apsw.FTS5Tokenizer | None = None


class Shard:
    """The writing side: one worker at a time has it open."""

    def __init__(self, state_folder: bytes, number: int) -> None:
        """Makes the shard where it is missing."""
        make_folder(os.path.join(state_folder, b"index"), mode=0o750)
        self.number = number
        self._connection = apsw.Connection(os.fsdecode(shard_path(state_folder, number)))
        self._connection.set_busy_timeout(_PATIENCE_MS)
        self._name = f"shard-{number}.db"
        self._added: list[tuple[int, ...]] = []  # rows of `blocks` that `commit` writes
        self._prepare()
        (highest,) = self._connection.execute("SELECT max(id) FROM blocks").fetchone() or (0,)
        self._next = int(highest or 0) + 1

    def _prepare(self) -> None:
        fresh = not self._connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
        if fresh:
            configure(self._connection, auto_vacuum=2)  # incremental, before the first table
        configure(self._connection, journal_mode="wal", cache_size=-16_000)
        configure(self._connection, wal_autocheckpoint=4_000, synchronous=2)
        configure(self._connection, temp_store=2)  # in memory: workers may open no file elsewhere
        keep_wal(self._connection)
        if fresh:
            with transaction(self._connection):
                self._connection.execute(_TABLES)
                self._settle_for({})
        else:
            self._settle_for(dict(self._connection.execute("SELECT k, v FROM words_config")))

    def _settle_for(self, found: dict[str, object]) -> None:
        """Writes those of the settings that are others than it has: each write is a sync."""
        for name, value in _SETTINGS.items():
            if found.get(name) != value:
                sql = "INSERT INTO words(words, rank) VALUES(?, ?)"
                self._connection.execute(sql, (name, value))

    def add(self, block: Block, text: str) -> None:
        """Indexes a block; nobody sees it before `commit`.

        Raises MachineFault: what does not fit in memory goes to disk before that.
        """
        try:
            if not self._connection.in_transaction:
                self._need_nothing_lost()
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "INSERT INTO words(rowid, text) VALUES(?, ?)", (self._next, text)
            )
        except apsw.Error as error:
            raise machine_fault(self._name, error) or error from None
        self._added.append((self._next, *block))
        self._next += 1

    def _need_nothing_lost(self) -> None:
        """Some errors (out of memory, ...) have SQLite roll back all of the transaction."""
        if self._added:
            raise MachineFault(f"{self._name}: SQLite gave up the transaction")

    def commit(self) -> None:
        """Raises MachineFault (disk full, ...) and then holds none of it."""
        try:
            if self._connection.in_transaction:
                with machine_faults(self._name):
                    self._connection.executemany(
                        "INSERT INTO blocks VALUES(?, ?, ?, ?, ?)", self._added
                    )
                    self._connection.execute("COMMIT")
                self._added.clear()
            self._need_nothing_lost()
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        self._added.clear()
        if self._connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._connection.execute("ROLLBACK")

    def count(self) -> int:
        """Blocks held, live and dead."""
        (count,) = self._connection.execute("SELECT count(*) FROM blocks").fetchone() or (0,)
        return int(count)

    def sweep(self, after: int, removable: Callable[[Iterable[int]], set[int]]) -> int | None:
        """One step of compaction: deletes dead blocks among the next 2,000.

        Gives the block to go on after, None at the end.
        """
        blocks: list[Any] = self._connection.execute(
            "SELECT id, take FROM blocks WHERE id > ? ORDER BY id LIMIT ?", (after, _SWEEP)
        ).fetchall()
        if not blocks:
            return None
        dead = removable({take for _, take in blocks})
        doomed = [(block,) for block, take in blocks if take in dead]
        if doomed:
            with machine_faults(self._name), transaction(self._connection):
                self._connection.executemany("DELETE FROM words WHERE rowid = ?", doomed)
                self._connection.executemany("DELETE FROM blocks WHERE id = ?", doomed)
        return int(blocks[-1][0])

    def delete(self, takes: Iterable[int]) -> None:
        """Deletes the blocks of some takes."""
        # No index leads from a take to its blocks, but 100,000 are looked at in 5 ms.
        doomed = self._connection.execute(
            "SELECT id FROM blocks WHERE take IN (SELECT value FROM json_each(?))",
            (f"[{','.join(map(str, takes))}]",),
        ).fetchall()
        with machine_faults(self._name), transaction(self._connection):
            self._connection.executemany("DELETE FROM words WHERE rowid = ?", doomed)
            self._connection.executemany("DELETE FROM blocks WHERE id = ?", doomed)

    def tidy(self) -> bool:
        """One bounded step of merging and giving pages back; False when there is nothing to do."""
        before = self._connection.total_changes()
        with machine_faults(self._name):
            self._connection.execute(
                "INSERT INTO words(words, rank) VALUES('merge', ?)", (_MERGE_PAGES,)
            )
            merged = self._connection.total_changes() - before >= 2
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone() or (0,)
            if free > _FREE_PAGES:
                self._connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()
        return merged or free > _FREE_PAGES

    def empty_wal(self) -> None:
        """Moves what the -wal holds, up to 16 MB, to where it belongs; not while anyone reads."""
        with machine_faults(self._name):
            self._connection.set_busy_timeout(0)
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._connection.set_busy_timeout(_PATIENCE_MS)

    def close(self) -> None:
        self.rollback()
        self._connection.close()


class ShardReader:
    """The reading side: one snapshot, taken when it is opened."""

    def __init__(self, state_folder: bytes, number: int) -> None:
        self.number = number
        path = os.fsdecode(shard_path(state_folder, number))
        self._connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        self._connection.set_busy_timeout(_PATIENCE_MS)
        try:
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT 1 FROM blocks LIMIT 1").fetchone()
        except apsw.CantOpenError:
            # Without -wal and -shm, and without the right to make them, nobody writes either.
            escaped = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            self._connection = apsw.Connection(
                f"file:{escaped}?immutable=1",
                flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
            )

    def find(self, query: str, *, ranked: bool) -> Iterator[Hit]:
        """The blocks that an FTS5 query matches, in no order. Dead ones among them."""
        rank = "bm25(words)" if ranked else "0.0"
        for take, first, end, newlines, score in self._connection.execute(
            f"SELECT b.take, b.first, b.end, b.newlines, {rank}"
            " FROM words JOIN blocks b ON b.id = words.rowid WHERE words MATCH ?",
            (query,),
        ):
            yield Hit(Block(take, first, end, newlines), score)

    def count(self, query: str, at_most: int) -> int:
        """How many blocks an FTS5 query matches, counted no further than `at_most`."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)",
            (query, at_most),
        ).fetchone() or (0,)
        return int(count)

    def close(self) -> None:
        self._connection.close()


def compact(
    shard: Shard,
    removable: Callable[[Iterable[int]], set[int]],
    should_stop: Callable[[], bool],
) -> bool:
    """Deletes every dead block of a shard, in steps, until done; False when it was interrupted."""
    after: int | None = 0
    while after is not None:
        after = shard.sweep(after, removable)
        if after is not None and should_stop():
            return False
        time.sleep(0)  # lets another process have the core
    return True

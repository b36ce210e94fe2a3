"""What search asks of shards, beyond what `index.ShardReader` gives: many blocks in one row.

A row at a time costs a trip through Python each, and keeps the interpreter's lock busy; one row
with all of them leaves it to other threads: two shards take 5 ms for 53,000 blocks instead of 17.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import apsw

from ..errors import DropmillError
from . import Block, ShardReader, shard_numbers, shard_path

T = TypeVar("T")
_LIST = "(SELECT value FROM json_each(?))"


class Holders(NamedTuple):
    """The blocks of one shard that hold something, dead ones among them, and each one's take."""

    takes: list[int]
    blocks: list[int]


class ShardSearch(ShardReader):
    """One snapshot of a shard, until `release`."""

    def __init__(self, state_folder: bytes, number: int) -> None:
        self._name = os.fsdecode(shard_path(state_folder, number))
        with self._understood():
            super().__init__(state_folder, number)

    def release(self) -> None:
        """Ends the snapshot; later questions see the newest."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def holders(self, query: str) -> Holders:
        """The blocks that an FTS5 query matches."""
        takes, blocks = self._rows(
            "SELECT group_concat(b.take), group_concat(b.id)"
            " FROM words JOIN blocks b ON b.id = words.rowid WHERE words MATCH ?",
            query,
        )[0]
        return Holders(_numbers(takes), _numbers(blocks))

    def newest(self, query: str, before: int, at_most: int) -> Holders:
        """The same, the last indexed first: those numbered below `before`."""
        found = self._rows(
            "SELECT b.take, b.id FROM words JOIN blocks b ON b.id = words.rowid"
            " WHERE words MATCH ? AND words.rowid < ? ORDER BY words.rowid DESC LIMIT ?",
            query,
            before,
            at_most,
        )
        return Holders([take for take, _ in found], [block for _, block in found])

    def ranks(self, query: str) -> list[float]:
        """bm25 of each block that an FTS5 query matches, in the order of `holders`.

        Smaller is better.
        """
        found = self._rows(
            "SELECT bm25(words) FROM words JOIN blocks b ON b.id = words.rowid WHERE words MATCH ?",
            query,
        )
        return [rank for (rank,) in found]

    def blocks(self, numbers: Iterable[int]) -> list[Block]:
        """Those of the blocks that are still there."""
        found = self._rows(
            f"SELECT take, first, end, newlines FROM blocks WHERE id IN {_LIST}", _list(numbers)
        )
        return [Block(*row) for row in found]

    def blocks_of(self, query: str, takes: Iterable[int]) -> list[Block]:
        """The blocks of some takes that match. A take's are numbered without a gap."""
        # No index leads from a take to its blocks, but 100,000 are looked at in 5 ms.
        ranges = self._rows(
            f"SELECT take, min(id), max(id) FROM blocks WHERE take IN {_LIST} GROUP BY take",
            _list(takes),
        )
        return [
            Block(*row)
            for take, first, last in ranges
            for row in self._rows(
                "SELECT b.take, b.first, b.end, b.newlines"
                " FROM words JOIN blocks b ON b.id = words.rowid"
                " WHERE words MATCH ? AND words.rowid BETWEEN ? AND ? AND b.take = ?",
                query,
                first,
                last,
                take,
            )
        ]

    def _rows(self, sql: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._understood():
            return self._connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError):
            raise DropmillError(
                f"{self._name}: damaged: the next start of the daemon moves it aside and takes"
                " what it held in again"
            ) from None
        except apsw.SQLError:
            raise
        except apsw.Error as error:
            raise DropmillError(f"{self._name}: cannot be read: {error}") from None


def open_shards(state_folder: bytes) -> list[ShardSearch]:
    """A snapshot of every shard there is; one that is just being made holds nothing yet."""
    shards: list[ShardSearch] = []
    for number in shard_numbers(state_folder):
        with contextlib.suppress(apsw.SQLError):
            shards.append(ShardSearch(state_folder, number))
    return shards


def on_each(shards: Sequence[ShardSearch], ask: Callable[[ShardSearch], T]) -> list[T]:
    """What each shard answers, all asked at once: SQLite works without the interpreter's lock."""
    answers: dict[int, T] = {}
    failures: list[BaseException] = []

    def answer(number: int) -> None:
        try:
            answers[number] = ask(shards[number])
        except BaseException as failure:  # raised again below, in the thread that asked
            failures.append(failure)

    threads = [Thread(target=answer, args=(number,)) for number in range(1, len(shards))]
    for thread in threads:
        thread.start()
    if shards:
        answer(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [answers[number] for number in range(len(shards))]


def _list(numbers: Iterable[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def _numbers(joined: str | None) -> list[int]:
    return list(map(int, joined.split(","))) if joined else []

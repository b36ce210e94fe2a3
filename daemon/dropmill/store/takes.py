"""The takes of files, as workers write them: which are live, pending, gone or dead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import apsw

from ..job import Outcome, Take
from .schema import COVERED, TakeState

_INSERT = (
    "INSERT INTO takes(id, file, shard, state, first, end, newlines, unterminated, digest,"
    " keywords, rules, partial) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Takes:
    """Within the transactions of completion."""

    def __init__(self, connection: apsw.Connection, shard: int) -> None:
        """`shard` is the one that the worker's blocks are in."""
        self._connection = connection
        self._shard = shard

    def insert(self, takes: Iterable[Take], file: int, state: TakeState) -> None:
        self.insert_rows([self.row(file, state, take) for take in takes])

    def insert_rows(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._connection.executemany(_INSERT, rows)

    def row(self, file: int, state: TakeState, take: Take) -> tuple[Any, ...]:
        """As `insert_rows` takes it."""
        number, first, end, digest, newlines, unterminated, keywords, rules, partial = take
        terms = json.dumps(keywords, ensure_ascii=False) if keywords else None
        place = (number, file, self._shard, int(state), first, end)
        return (*place, newlines, int(unterminated), digest, terms, rules, partial)

    def kill(self, file: int, now: int, after: int = -1) -> None:
        """The live takes that end after a byte are dead."""
        self._connection.execute(
            "UPDATE takes SET state = ?, died_ns = ? WHERE file = ? AND state = 1"
            " AND (end > ? OR first = end)",
            (TakeState.DEAD, now, file, after),
        )

    def revive(self, outcome: Outcome, file: int, now: int) -> None:
        """The file is back: of what was live when it went away, what was kept is live again."""
        self._connection.executemany(
            "UPDATE takes SET state = 1, died_ns = NULL WHERE id = ? AND state = 3",
            [(take.id,) for take in self.kept(outcome)],
        )
        self._connection.execute(
            "UPDATE takes SET state = 4, died_ns = ? WHERE file = ? AND state = 3", (now, file)
        )

    def bury_all(self, file: int, now: int) -> None:
        """Whatever the index holds of the file is out of search."""
        self._connection.execute(
            "UPDATE takes SET state = 4, died_ns = ? WHERE file = ? AND state != 4", (now, file)
        )

    def covered(self, file: int, kept_to: int | None) -> list[Any]:
        """The ranges of a text in parts that are there, in order."""
        return self._connection.execute(COVERED, (file, kept_to, kept_to)).fetchall()

    @staticmethod
    def kept(outcome: Outcome) -> list[Take]:
        """The known takes that were found true."""
        if outcome.takes and not outcome.keep_to:
            return []  # nor an empty take, which ends at 0 too
        return [take for take in outcome.job.known if take.end <= outcome.keep_to]

    def has_what_was_kept(self, outcome: Outcome) -> bool:
        """Whether the known takes that were found true are there still, and cover what they must.

        They may have been compacted since, or have become another row's.
        """
        kept = self.kept(outcome)
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

"""What compaction asks and says of `results.db`: which takes nobody can see any more."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import apsw

from .schema import TakeState, machine_faults, transaction


class Burial:
    """The part of a worker's side that knows of dead takes."""

    def __init__(self, connection: apsw.Connection, lock: AbstractContextManager[object]) -> None:
        """`lock` is the one that all processes share."""
        self._connection = connection
        self._lock = lock

    def dead_blocks(self, shard: int, before_ns: int, size: int) -> int:
        """About how many blocks of a shard, of about that size, nobody can see any more."""
        (count,) = self._connection.execute(
            "SELECT sum(1 + (end - first) / ?) FROM takes"
            " WHERE shard = ? AND state >= 3 AND died_ns < ?",
            (size, shard, before_ns),
        ).fetchone() or (0,)
        return int(count or 0)

    def bury(self, shard: int, before_ns: int, limit: int) -> list[int]:
        """Some of the takes that nobody can see any more; from here on they cannot be revived."""
        with self._lock, machine_faults("results.db"), transaction(self._connection):
            found: list[Any] = self._connection.execute(
                "SELECT id FROM takes WHERE shard = ? AND state >= 3 AND died_ns < ? LIMIT ?",
                (shard, before_ns, limit),
            ).fetchall()
            self._connection.executemany("UPDATE takes SET state = 4 WHERE id = ?", found)
        return [int(take) for (take,) in found]

    def forget(self, takes: Iterable[int]) -> None:
        """Drops the rows of dead takes whose blocks are deleted."""
        with self._lock, machine_faults("results.db"), transaction(self._connection):
            self._connection.executemany(
                "DELETE FROM takes WHERE id = ? AND state = 4", [(take,) for take in takes]
            )

    def removable(self, takes: Iterable[int], before_ns: int) -> set[int]:
        """Those of the takes that nobody can see any more: unknown, or dead since before then.

        From here on they cannot be revived.
        """
        found: set[int] = set()
        gone: list[tuple[int]] = []
        for take in takes:
            row = self._connection.execute(
                "SELECT state, died_ns FROM takes WHERE id = ?", (take,)
            ).fetchone()
            if row is None or (row[0] == TakeState.DEAD and row[1] < before_ns):
                found.add(take)
            elif row[0] == TakeState.GONE and row[1] < before_ns:
                gone.append((take,))
        return found | self._buried(gone)

    def _buried(self, gone: list[tuple[int]]) -> set[int]:
        """Those of the takes that were gone still, and now are dead for good."""
        found: set[int] = set()
        if gone:
            with self._lock, machine_faults("results.db"), transaction(self._connection):
                for take in gone:
                    self._connection.execute(
                        "UPDATE takes SET state = 4 WHERE id = ? AND state = 3", take
                    )
                    if self._connection.changes():
                        found.add(take[0])
        return found

    def forget_dead(self, shard: int, before_ns: int) -> None:
        """Drops the rows of takes whose blocks the shard holds no longer."""
        with self._lock, machine_faults("results.db"), transaction(self._connection):
            self._connection.execute(
                "DELETE FROM takes WHERE shard = ? AND state >= 3 AND died_ns < ?",
                (shard, before_ns),
            )

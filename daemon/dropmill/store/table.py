"""The table of files as the parent writes it: its rows, and what all its writers share."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

from ..job import Fingerprint, Kind, Lane
from .schema import TakeState, machine_faults, open_for_writing, transaction

_KINDS = {int(kind): kind for kind in Kind}  # five times as fast as Kind(number)
_LANES = {int(lane): lane for lane in Lane}
LONGEST_WAIT_NS = 120 * 10**9  # what is further off was set by a clock that was put back since


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


ROW = """SELECT f.id, f.seq, d.path, f.name, f.kind, f.lane, f.inode, f.size, f.mtime_ns,
    f.ctime_ns, f.device, f.version, f.attempts, f.alone, f.unhurried, f.in_parts, f.kept_to,
    f.encoding, f.digest, f.output, f.moved_from
    FROM files f JOIN folders d ON d.id = f.folder """


def as_row(values: Any) -> Row:
    """A row of `ROW`'s answer."""
    file, seq, folder, name, kind, lane = values[:6]
    version, attempts, alone, unhurried, in_parts, *rest = values[11:]
    return Row(
        file,
        seq,
        folder,
        name,
        _KINDS[kind],
        _LANES[lane],
        Fingerprint(*values[6:11]),
        version,
        attempts,
        bool(alone),
        bool(unhurried),
        bool(in_parts),
        *rest,
    )


class Table:
    """One connection that writes, and the numbers of admissions. For one thread."""

    def __init__(
        self,
        state_folder: bytes,
        lock: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """`lock` gives the Lock that the workers share, for one write."""
        self._lock = lock
        self.connection = open_for_writing(state_folder, synchronous="NORMAL")

    @cached_property
    def _seq(self) -> int:
        """Of the newest admission; looked for only where it is needed: it takes 0.2 µs a file."""
        (highest,) = self.one("SELECT max(seq) FROM files") or (0,)
        return int(highest or 0)

    def close(self) -> None:
        self.connection.close()

    def all(self, sql: str, bindings: Any = ()) -> list[Any]:
        """Every row of a question's answer."""
        return self.connection.execute(sql, bindings).fetchall()

    def one(self, sql: str, bindings: Any = ()) -> Any:
        """The first row of a question's answer; None if there is none."""
        return self.connection.execute(sql, bindings).fetchone()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, under the Lock; raises MachineFault."""
        with machine_faults("results.db"), self._lock(), transaction(self.connection):
            yield

    @property
    def seq(self) -> int:
        """The number of the newest admission."""
        return self._seq

    def row(self, file: int) -> Row | None:
        """A file's row, whatever its state."""
        values = self.one(ROW + "WHERE f.id = ?", (file,))
        return as_row(values) if values else None

    def queued_rows(self, files: Iterable[int]) -> list[Row]:
        """Those of the files that are still queued, as they are now."""
        found: list[Row] = []
        for file in files:
            values = self.one(ROW + "WHERE f.id = ? AND f.state = 1", (file,))
            if values:
                found.append(as_row(values))
        return found

    def path_of(self, file: int) -> bytes | None:
        found = self.one(
            "SELECT d.path, f.name FROM files f JOIN folders d ON d.id = f.folder WHERE f.id = ?",
            (file,),
        )
        return os.path.join(*found) if found else None

    def find(self, path: bytes) -> int | None:
        folder, name = os.path.split(path)
        found = self.one(
            "SELECT f.id FROM files f JOIN folders d ON d.id = f.folder"
            " WHERE d.path = ? AND f.name = ?",
            (folder, name),
        )
        return int(found[0]) if found else None

    def requeue(self, file: int, lane: Lane | None = None) -> None:
        """Within a transaction: a file goes to the end of its lane, or of another."""
        self._seq += 1
        self.connection.execute(
            "UPDATE files SET state = 1, seq = ?, lane = coalesce(?, lane), retry_ns = NULL"
            " WHERE id = ?",
            (self._seq, None if lane is None else int(lane), file),
        )

    def bury(self, file: int, *states: TakeState) -> None:
        """Within a transaction: the takes of a file in these states are dead."""
        for state in states:
            self.connection.execute(
                "UPDATE takes SET state = ?, died_ns = ? WHERE file = ? AND state = ?",
                (TakeState.DEAD, time.time_ns(), file, state),
            )

"""Watch-list terms of takes that are there already: written after the fact."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .schema import machine_faults, open_for_writing, transaction

_LIST = "(SELECT value FROM json_each(?))"

Found = Mapping[int, Mapping[str, list[int]]]  # take → term → lines, the take's first being 1


class Piece(NamedTuple):
    """A take that is live, or will be when all of its file is there; and where its source is."""

    take: int
    first: int
    end: int
    digest: bytes
    folder: bytes
    name: bytes
    encoding: str
    fingerprint: tuple[int, int, int, int] | None  # inode, size, mtime, ctime; None: in progress

    @property
    def path(self) -> bytes:
        return os.path.join(self.folder, self.name)


class Keywording:
    """One thread's connection."""

    def __init__(
        self, state_folder: bytes, lock: Callable[[], AbstractContextManager[object]], most: int
    ) -> None:
        """`lock` gives the Lock for one write; `most` lines of a term are kept of a take."""
        self._connection = open_for_writing(state_folder, synchronous="NORMAL")
        self._lock = lock
        self._most = most

    def close(self) -> None:
        self._connection.close()

    def pieces(self, takes: Iterable[int]) -> list[Piece]:
        """Those of the takes that count, in the order of their folders."""
        found: list[Any] = self._connection.execute(
            "SELECT t.id, t.first, t.end, t.digest, d.path, f.name, coalesce(f.encoding, 'utf-8'),"
            " f.state = 2, f.inode, f.size, f.mtime_ns, f.ctime_ns"
            " FROM takes t JOIN files f ON f.id = t.file JOIN folders d ON d.id = f.folder"
            f" WHERE t.state IN (1, 2) AND t.id IN {_LIST} ORDER BY d.path, f.name, t.first",
            (_numbers(takes),),
        ).fetchall()
        return [Piece._make((*row[:7], row[8:] if row[7] else None)) for row in found]

    def add(self, found: Found) -> set[int]:
        """Adds lines to what is recorded of each take; gives the files. Raises MachineFault."""
        files: set[int] = set()
        with machine_faults("results.db"), self._lock(), transaction(self._connection):
            for take, terms in found.items():
                files |= self._add(take, terms)
        return files

    def _add(self, take: int, terms: Mapping[str, list[int]]) -> set[int]:
        row: Any = self._connection.execute(
            "SELECT file, keywords FROM takes WHERE id = ? AND state IN (1, 2)", (take,)
        ).fetchone()
        if row is None or not terms:
            return set()
        file, before = row
        known: dict[str, list[int]] = json.loads(before) if before else {}
        for term, lines in terms.items():
            known[term] = sorted({*known.get(term, ()), *lines})[: self._most]
        self._connection.execute(
            "UPDATE takes SET keywords = ? WHERE id = ?",
            (json.dumps(known, ensure_ascii=False), take),
        )
        self._connection.execute("UPDATE files SET keyworded = 1 WHERE id = ?", (file,))
        return {file}


def _numbers(takes: Iterable[int]) -> str:
    return f"[{','.join(map(str, takes))}]"

"""Search: a query understood, the files that answer it, and their lines.

    query ──► terms ──► candidates (results.db, then the shards) ──► excerpt (the sources) ──► lines

Reading a source costs more than all that comes before, so sources are read one by one as the
result is asked for, and no more of them than are to be shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from ..errors import UsageError
from ..index.reading import open_shards
from ..store.lookup import Lookup
from .excerpts import Candidate, FileHits, Line, Wanted, excerpt, unchanged
from .pin import Term, compile_term
from .selection import Asked, candidates

__all__ = ["FileHits", "Line", "Query", "Result", "parse", "search"]

_BATCH = 32


class Query(NamedTuple):
    """What is asked: each term is one argument (a word, `prefix*`, or several words: a phrase)."""

    terms: tuple[str, ...]
    any: bool = False
    excluded: tuple[str, ...] = ()
    under: bytes | None = None  # an absolute path: only files at or below it


class Parsed(NamedTuple):
    """A query, understood."""

    terms: tuple[Term, ...]
    excluded: tuple[Term, ...]


def parse(query: Query) -> Parsed:
    """Raises UsageError where there is nothing to look for, or a term has no word in it."""
    if not query.terms:
        raise UsageError(
            "a query needs something to look for beside what it excludes: name a word"
            if query.excluded
            else "an empty query: name a word to look for"
        )
    return Parsed(
        tuple(dict.fromkeys(map(compile_term, query.terms))),
        tuple(dict.fromkeys(map(compile_term, query.excluded))),
    )


def search(
    state_folder: bytes,
    query: Query,
    *,
    at_most: int = 20,
    context: int = 0,
    paths_only: bool = False,
) -> Result:
    """The files that answer a query, best first; at most that many, 0 for all.

    Their lines come with `context` lines around each. With `paths_only` sources are not read
    unless they changed, and the lines are left empty. Raises UsageError for a bad query,
    DropmillError when the state folder cannot be read.
    """
    parsed = parse(query)
    wanted = Wanted(parsed.terms, parsed.excluded, query.any, context)
    return Result(state_folder, query, wanted, at_most, paths_only)


class Result:
    """The answer. Files are read as it is iterated; `more` is right once that has ended."""

    def __init__(
        self, state_folder: bytes, query: Query, wanted: Wanted, at_most: int, paths_only: bool
    ) -> None:
        self._wanted = wanted
        self._at_most = at_most
        self._paths_only = paths_only
        self._lookup = Lookup(state_folder)
        self._shards = open_shards(state_folder)  # after the ledger: see decision 7 in DESIGN.md
        allowed = None if query.under is None else self._under(query.under)
        asked = Asked(wanted.terms, wanted.excluded, query.any, allowed)
        self._candidates = candidates(self._lookup, self._shards, asked)
        self._order = self._candidates.in_order()
        self._looked_at = 0
        self._is_all = False
        self._first = self._details(list(islice(self._order, _BATCH)))
        # Whoever reads the result may take all day over it (a pager).
        self._lookup.release()
        for shard in self._shards:
            shard.release()

    @property
    def more(self) -> int | None:
        """Further files that answer the query by the index; None: some, but nobody counted."""
        if self._is_all:
            return 0
        count = self._candidates.count
        return None if count is None else count - self._looked_at

    def __iter__(self) -> Iterator[FileHits]:
        given = 0
        try:
            for candidate in self._each():
                if self._at_most and given >= self._at_most:
                    return
                self._looked_at += 1
                hits = self._hits(candidate)
                if hits is not None:
                    given += 1
                    yield hits
            self._is_all = True
        finally:
            self.close()

    def close(self) -> None:
        """Gives up whatever has not been asked for yet."""
        for shard in self._shards:
            shard.close()
        self._lookup.close()

    def _under(self, path: bytes) -> set[int]:
        return self._lookup.files_under(path) | self._lookup.files_under(os.path.realpath(path))

    # ---- file by file --------------------------------------------------------------------------

    def _each(self) -> Iterator[Candidate]:
        batch, size = self._first, _BATCH
        while batch:
            yield from batch
            size = min(2 * size, 4096)
            batch = self._details(list(islice(self._order, size)))

    def _details(self, files: Sequence[int]) -> list[Candidate]:
        takes = {file: self._lookup.takes(file) for file in files}
        blocks = {}
        if not self._paths_only:
            blocks = self._candidates.blocks(take.id for of in takes.values() for take in of)
        found: list[Candidate] = []
        for file in files:
            source = self._lookup.source(file)
            if source is None:
                self._looked_at += 1
                continue
            held = [block for take in takes[file] for block in blocks.get(take.id, ())]
            found.append(Candidate(source, takes[file], held))
        return found

    def _hits(self, candidate: Candidate) -> FileHits | None:
        if not self._paths_only:
            return excerpt(candidate, self._wanted)
        path = candidate.source.path
        try:
            is_as_indexed = unchanged(candidate.source, os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return FileHits(path, None)
        if is_as_indexed:
            return FileHits(path, [])
        return excerpt(self._with_blocks(candidate), self._wanted)

    def _with_blocks(self, candidate: Candidate) -> Candidate:
        blocks = self._candidates.blocks(take.id for take in candidate.takes)
        return candidate._replace(blocks=[block for of in blocks.values() for block in of])

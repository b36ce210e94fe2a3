"""Which files answer a query, best first: decided from the index alone, no source is read.

AND and exclusion are decided a file, over all its live takes: different blocks may hold the
different terms. There are two ways. `Ranked` finds all files and puts them in order. Where a great
many blocks answer, ranking says little and costs much: `Newest` gives the files as they come, those
first that were taken in last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ..index import Block
from ..index.reading import Holders, ShardSearch, on_each
from ..store.lookup import Lookup
from .pin import Term

_RANKED = 20_000  # blocks; bm25 of so many takes as long as all the rest of a search
_STEP = 256

_Held = list[Holders]  # of one term, a shard each


class Asked(NamedTuple):
    """A query as the index is asked it."""

    terms: tuple[Term, ...]
    excluded: tuple[Term, ...]
    any_term: bool
    allowed: set[int] | None  # the only files that count, by their numbers in the ledger

    def fts(self, operator: str) -> str:
        return f" {operator} ".join(term.fts for term in self.terms)


def candidates(lookup: Lookup, shards: Sequence[ShardSearch], asked: Asked) -> Ranked | Newest:
    """The files that answer, in the way that suits the query."""
    # Of a prefix, counting is as dear as finding.
    if not any(term.prefix for term in asked.terms):
        query = asked.fts("OR" if asked.any_term else "AND")
        if sum(on_each(shards, lambda shard: shard.count(query, _RANKED))) > _RANKED:
            return Newest(lookup, shards, asked)
    return Ranked(lookup, shards, asked)


class Ranked:
    """All files that answer a query, by bm25; which of their blocks hold its terms."""

    def __init__(self, lookup: Lookup, shards: Sequence[ShardSearch], asked: Asked) -> None:
        self._lookup = lookup
        self._shards = shards
        self._asked = asked
        self._held: dict[Term, _Held] = {}
        self._live: dict[int, int] = {}  # take → file, of all that may answer
        files = self._any() if asked.any_term else self._all()
        self.files = files - _excluded(lookup, shards, asked.excluded, files)
        self._scores = self._rank()

    @property
    def count(self) -> int | None:
        """How many there are."""
        return len(self.files)

    # ---- which ---------------------------------------------------------------------------------

    def _any(self) -> set[int]:
        for term in self._asked.terms:
            self._held[term] = self._holders(term)
        takes = {take for held in self._held.values() for shard in held for take in shard.takes}
        self._live = self._lookup.files_of(takes)
        return _allowed(self._asked, self._live.values())

    def _all(self) -> set[int]:
        # A prefix may cost a third of a second, a word some milliseconds, a long one less.
        for term in sorted(self._asked.terms, key=lambda term: (term.prefix, -len(term.fts))):
            self._held[term] = held = self._holders(term)
            if not any(shard.takes for shard in held):
                return set()
        rarest, *others = sorted(self._held.values(), key=_count)
        takes = {take for shard in rarest for take in shard.takes}
        self._live = self._lookup.files_of(takes)
        files = _allowed(self._asked, self._live.values())
        if others and files:
            self._live = self._lookup.takes_of(files)
            for held in others:
                files &= _files(held, self._live)
        return files

    def _holders(self, term: Term) -> _Held:
        return on_each(self._shards, lambda shard: shard.holders(term.fts))

    # ---- how good ------------------------------------------------------------------------------

    def _rank(self) -> dict[int, float]:
        """bm25 of each file: the sum over the terms of its best block's; smaller is better."""
        scores: dict[int, float] = {}
        ranked = [term for term, held in self._held.items() if _count(held) <= _RANKED]
        if len(self.files) < 2 or not ranked:
            return scores
        for term in ranked:
            for file, rank in self._best(term).items():
                if file in self.files:
                    scores[file] = scores.get(file, 0.0) + rank
        return scores

    def _best(self, term: Term) -> dict[int, float]:
        best: dict[int, float] = {}
        ranks = on_each(self._shards, lambda shard: shard.ranks(term.fts))
        for held, of_shard in zip(self._held[term], ranks, strict=True):
            for take, rank in zip(held.takes, of_shard, strict=True):
                file = self._live.get(take)
                if file is not None and rank < best.get(file, 0.0):
                    best[file] = rank
        return best

    def in_order(self) -> Iterator[int]:
        """Best first, ties by path; where nothing could be ranked, what was taken in last first."""
        if not self._scores:
            yield from sorted(self.files, reverse=True)
            return
        scored = sorted((self._scores.get(file, 0.0), file) for file in self.files)
        for _, tied in groupby(scored, key=lambda scored: scored[0]):
            files = [file for _, file in tied]
            if len(files) > 1:
                paths = self._lookup.paths(files)
                files.sort(key=lambda file: paths.get(file, b""))
            yield from files

    # ---- where ---------------------------------------------------------------------------------

    def blocks(self, takes: Iterable[int]) -> dict[int, list[Block]]:
        """The blocks of the takes that hold any of the terms, by take."""
        wanted = set(takes)
        found: dict[int, list[Block]] = {}
        for number, shard in enumerate(self._shards):
            blocks = {
                block
                for held in self._held.values()
                for take, block in zip(*held[number], strict=True)
                if take in wanted
            }
            for block in shard.blocks(blocks) if blocks else ():
                if block.take in wanted:  # a number may have been used again since
                    found.setdefault(block.take, []).append(block)
        return found


class Newest:
    """The files that answer a query of common words, the last taken in first, as they are found."""

    count: int | None = None  # it would take finding all

    def __init__(self, lookup: Lookup, shards: Sequence[ShardSearch], asked: Asked) -> None:
        self._lookup = lookup
        self._shards = shards
        self._asked = asked
        self._query = asked.fts("OR" if asked.any_term else "AND")

    def in_order(self) -> Iterator[int]:
        """Those first that hold everything in one block; at last those that hold it in several."""
        seen: set[int] = set()
        for takes in self._steps():
            files = _allowed(self._asked, self._lookup.files_of(takes).values()) - seen
            seen |= files
            files -= _excluded(self._lookup, self._shards, self._asked.excluded, files)
            yield from sorted(files, reverse=True)
        if len(self._asked.terms) > 1 and not self._asked.any_term:
            everything = Ranked(self._lookup, self._shards, self._asked)
            yield from sorted(everything.files - seen, reverse=True)

    def _steps(self) -> Iterator[list[int]]:
        """The takes that hold it, in growing steps: of most questions the first is enough."""
        before = [1 << 62] * len(self._shards)
        step = _STEP
        while True:
            takes: list[int] = []
            for number, shard in enumerate(self._shards):
                held = shard.newest(self._query, before[number], step)
                takes += held.takes
                before[number] = held.blocks[-1] if held.blocks else 0
            if not takes:
                return
            yield takes
            step = min(4 * step, 1 << 14)

    def blocks(self, takes: Iterable[int]) -> dict[int, list[Block]]:
        """The blocks of the takes that hold any of the terms, by take."""
        wanted = list(takes)
        query = self._asked.fts("OR")
        found: dict[int, list[Block]] = {}
        for blocks in on_each(self._shards, lambda shard: shard.blocks_of(query, wanted)):
            for block in blocks:
                found.setdefault(block.take, []).append(block)
        return found


def _allowed(asked: Asked, files: Iterable[int]) -> set[int]:
    return set(files) if asked.allowed is None else asked.allowed.intersection(files)


def _excluded(
    lookup: Lookup, shards: Sequence[ShardSearch], terms: Sequence[Term], files: set[int]
) -> set[int]:
    """Those of the files that hold any of the terms."""
    if not terms or not files:
        return set()
    query = " OR ".join(term.fts for term in terms)
    held = on_each(shards, lambda shard: shard.holders(query))
    return _files(held, lookup.takes_of(files))


def _count(held: _Held) -> int:
    return sum(len(shard.takes) for shard in held)


def _files(held: _Held, live: dict[int, int]) -> set[int]:
    """The files of those takes that are live."""
    return {live[take] for shard in held for take in shard.takes if take in live}

"""Which watch-list hits of a text just done are news: those in lines that it did not have before.

The last block of a text that grew is made again with what follows, and so are its hits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..job import Outcome, Take

Keywords = dict[str, list[int]]
Query = Callable[[str, tuple[Any, ...]], Iterable[Any]]


class _Told(NamedTuple):
    """A take's share of what is told: its line breaks and its hits."""

    newlines: int
    keywords: Keywords


def of(outcome: Outcome, query: Query) -> Keywords:
    """The terms and their new lines, as the file counts them.

    `outcome` is done, and what came of it is in the ledger, which `query` asks.
    """
    if outcome.job.ranged:
        return _of_ranges(outcome, query)
    if not any(take.keywords for take in outcome.takes):
        return {}
    kept, again = _split(outcome)
    before = sum(take.newlines for take in kept)
    new = _absolute((_Told(take.newlines, take.keywords) for take in outcome.takes), before)
    return _without(new, _absolute((_stored(take, query) for take in again), before))


def _split(outcome: Outcome) -> tuple[list[Take], list[Take]]:
    """Of the known takes, those that were kept, and those that were true but were made again."""
    known = outcome.job.known
    kept = [take for take in known if take.end <= outcome.keep_to]
    return kept, [take for take in known if outcome.keep_to < take.end <= outcome.trusted]


def _stored(take: Take, query: Query) -> _Told:
    row = next(iter(query("SELECT keywords FROM takes WHERE id = ?", (take.id,))), (None,))
    return _read(take.newlines, row[0])


def _of_ranges(outcome: Outcome, query: Query) -> Keywords:
    """All that the ranges of a large text brought, once the last of them is there.

    `trusted` of the job is where they begin: a take that began there and died just now was true.
    So was one that was made again to the byte.
    """
    file, begin = outcome.job.file, outcome.job.trusted
    died = list(
        query(
            "SELECT t.first, t.end, t.digest, t.newlines, t.keywords FROM takes t"
            " JOIN files f ON f.id = t.file"
            " WHERE f.id = ? AND t.state = 4 AND t.died_ns = f.finished_ns",
            (file,),
        )
    )
    told = {(first, end, digest) for first, end, digest, *_ in died}
    again = [_read(*rest) for first, _, _, *rest in died if first == begin > 0]
    before, new = 0, []
    for first, end, digest, newlines, keywords in query(
        "SELECT first, end, digest, newlines, keywords FROM takes WHERE file = ? AND state = 1"
        " ORDER BY first",
        (file,),
    ):
        if first < begin:
            before += newlines
        else:
            is_told = (first, end, digest) in told
            new.append(_read(newlines, None if is_told else keywords))
    return _without(_absolute(new, before), _absolute(again, before))


def _read(newlines: int, keywords: str | None) -> _Told:
    return _Told(newlines, json.loads(keywords) if keywords else {})


def _absolute(takes: Iterable[_Told], before: int) -> Keywords:
    found: Keywords = {}
    for newlines, keywords in takes:
        for keyword, lines in keywords.items():
            found.setdefault(keyword, []).extend(before + line for line in lines)
        before += newlines
    return found


def _without(new: Keywords, told: Keywords) -> Keywords:
    """Each line once: two takes may share one."""
    left = {
        keyword: sorted(set(lines) - set(told.get(keyword, ()))) for keyword, lines in new.items()
    }
    return {keyword: lines for keyword, lines in left.items() if lines}

"""What came out of a lap, small enough to be kept: a digest for each file, and what is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

from ..datasets.partial import Group, answer
from ..job import Kind, State
from ..store.ledger import Ledger
from ..store.reading import Reader, Result

_CHUNK = 1 << 20


class Outcomes(NamedTuple):
    """The files that have an outcome."""

    digests: dict[bytes, bytes]  # path → of all that is known of it, its copy's bytes included
    states: Counter[State]
    done_bytes: int
    keywords: dict[bytes, dict[str, list[int]]]  # path → watch-list term → line numbers


def gather(state_folder: bytes) -> Outcomes:
    """Reads them from a state folder that nobody writes to any more."""
    found = Outcomes({}, Counter(), 0, {})
    done_bytes = 0
    ledger = Ledger(state_folder)
    try:
        with Reader(state_folder) as reader:
            for result in reader.results():
                keywords = reader.keywords(result.id) if result.keyworded else {}
                tables = _tables(reader, result)
                found.digests[result.path] = _digest(ledger, result, keywords, tables)
                found.states[result.state] += 1
                done_bytes += result.size if result.state is State.DONE else 0
                if keywords:
                    found.keywords[result.path] = keywords
    finally:
        ledger.close()
    return found._replace(done_bytes=done_bytes)


def _tables(reader: Reader, result: Result) -> list[tuple[str, list[Group]]]:
    """What a data set comes to by each rule, its groups in order."""
    if result.kind is not Kind.DATASET:
        return []
    return [(name, list(answer(each))) for name, each in reader.datasets(result.id).items()]


def _digest(
    ledger: Ledger,
    result: Result,
    keywords: dict[str, list[int]],
    tables: list[tuple[str, list[Group]]],
) -> bytes:
    """Of everything but times and what is drawn at random (the takes' ids)."""
    pieces = [(take.first, take.end, take.digest, take.newlines, take.unterminated)
              for take in ledger.takes(result.id)]  # fmt: skip
    facts = (result.state, result.reason, result.size, result.encoding, result.lines, result.output,
             result.width, result.height, sorted(keywords.items()), pieces, tables)  # fmt: skip
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    if result.output is not None:
        with open(result.output, "rb") as copy:
            while chunk := copy.read(_CHUNK):
                digest.update(chunk)
    return digest.digest()

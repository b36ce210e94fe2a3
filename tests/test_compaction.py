"""Compaction: what is dead leaves the shard, when idle and under load, and nothing else does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dropmill import compaction
from dropmill.compaction import Compaction
from dropmill.index import Block, Shard, shard_path

from .ledgers import MadeState, take


class Made:
    """A ledger and a shard that agree, and the compaction of both."""

    def __init__(self, folder: Path) -> None:
        self.inbox = os.fsencode(folder / "inbox")
        self.state = MadeState(os.fsencode(folder / "state"))
        self.shard = Shard(self.state.folder, 0)
        self.in_use: set[int] = set()  # shards
        self.compaction = Compaction(
            self.state.folder,
            1,
            self.shard,
            self.state.completion,
            contextlib.nullcontext,
            lambda number: contextlib.nullcontext(number not in self.in_use),
        )

    def put(self, count: int) -> list[bytes]:
        """So many new texts, of a block each."""
        first = self.shard.count()
        paths = [self.inbox + b"/%d" % (first + number) for number in range(count)]
        for path in paths:
            taken = take(b"one\ntwo\n")
            self.shard.add(Block(taken.id, taken.first, taken.end, 0), "one two")
            self.state.done(path, takes=(taken,))
        self.shard.commit()
        return paths

    def remove(self, paths: list[bytes]) -> None:
        self.state.ledger.absence.mark_gone(paths)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(compaction, "SEEN_BY_SEARCHES_NS", -(10**9))
    place = Made(tmp_path)
    yield place
    place.shard.close()
    place.state.close()


def test_a_shard_that_is_dead_in_great_part_is_compacted_under_load(made: Made) -> None:
    paths = made.put(20)
    made.remove(paths[:6])
    made.compaction.under_load()
    assert made.shard.count() == 14


def test_a_few_dead_wait_until_nothing_else_is_to_be_done(made: Made) -> None:
    paths = made.put(20)
    made.remove(paths[:3])
    made.compaction.under_load()
    assert made.shard.count() == 20
    assert made.compaction.when_idle(lambda: False)
    assert made.shard.count() == 17


def test_an_idle_worker_leaves_an_empty_wal(made: Made) -> None:
    made.put(20)
    wal = shard_path(made.state.folder, 0) + b"-wal"
    assert os.path.getsize(wal)
    assert made.compaction.when_idle(lambda: False)
    assert os.path.getsize(wal) == 0


def test_a_shard_that_somebody_else_writes_to_is_left_alone(made: Made) -> None:
    made.remove(made.put(20))
    made.in_use.add(0)
    assert made.compaction.when_idle(lambda: False)
    assert made.shard.count() == 20


def test_under_load_it_is_weighed_now_and_then_only(made: Made) -> None:
    paths = made.put(20)
    made.compaction.under_load()
    made.remove(paths)
    made.compaction.under_load()
    assert made.shard.count() == 20


def test_what_a_search_may_still_ask_for_stays(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SEEN_BY_SEARCHES_NS", 60 * 10**9)
    made.remove(made.put(20))
    made.compaction.under_load()
    assert made.compaction.when_idle(lambda: False)
    assert made.shard.count() == 20


def test_a_slice_under_load_ends_and_goes_on_later(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_TAKES", 5)
    monkeypatch.setattr(compaction, "SLICE", 0.0)
    made.remove(made.put(20))
    made.compaction.under_load()
    assert made.shard.count() == 15
    made.compaction.under_load()
    assert made.shard.count() == 10


def test_what_was_deleted_is_not_revived(made: Made) -> None:
    """A file that comes back after its blocks went is taken in anew."""
    (path,) = made.put(1)
    made.remove([path])
    made.compaction.under_load()
    row = made.state.ledger.find(path)
    assert row is not None
    assert made.state.ledger.takes(row) == []

"""A shard: words lead to blocks; what is deleted is gone, what is not committed was never there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill.errors import MachineFault
from dropmill.index import (
    Block,
    Shard,
    ShardReader,
    compact,
    identity,
    shard_numbers,
    shard_path,
    tokenize,
)


@pytest.fixture
def shard(folder: bytes) -> Iterator[Shard]:
    made = Shard(folder, 0)
    yield made
    made.close()


def found(folder: bytes, query: str, number: int = 0) -> list[Block]:
    reader = ShardReader(folder, number)
    try:
        return sorted(hit.block for hit in reader.find(query, ranked=False))
    finally:
        reader.close()


def block(take: int, first: int = 0) -> Block:
    return Block(take, first, first + 10, 0)


def test_words_are_found_whatever_their_case_and_accents(folder: bytes, shard: Shard) -> None:
    shard.add(block(1), "Élan VITAL and snake_case, e.g. naïve")
    shard.commit()
    for query in ("elan", "ÉLAN", "vital", "snake_case", "naive", '"elan vital"', "nai*"):
        assert found(folder, query) == [block(1)], query
    for query in ("snake", "case", "vit", '"vital elan"'):
        assert found(folder, query) == [], query


def test_nobody_sees_a_block_before_its_commit(folder: bytes, shard: Shard) -> None:
    shard.add(block(1), "word")
    assert found(folder, "word") == []
    shard.commit()
    assert found(folder, "word") == [block(1)]


def test_what_is_rolled_back_was_never_there(folder: bytes, shard: Shard) -> None:
    shard.add(block(1), "word")
    shard.rollback()
    shard.add(block(2), "other")
    shard.commit()
    assert found(folder, "word OR other") == [block(2)]
    assert shard.count() == 1


def test_a_reader_sees_one_moment_only(folder: bytes, shard: Shard) -> None:
    shard.add(block(1), "word")
    shard.commit()
    reader = ShardReader(folder, 0)
    shard.add(block(2), "word")
    shard.commit()
    compact(shard, lambda takes: {1} & set(takes), lambda: False)
    assert [hit.block for hit in reader.find("word", ranked=True)] == [block(1)]
    reader.close()
    assert found(folder, "word") == [block(2)]


def test_counting_stops_where_it_was_told(folder: bytes, shard: Shard) -> None:
    for number in range(20):
        shard.add(block(number), "word")
    shard.commit()
    reader = ShardReader(folder, 0)
    assert (reader.count("word", 7), reader.count("word", 100)) == (7, 20)
    reader.close()


def test_a_block_with_the_word_more_often_ranks_better(folder: bytes, shard: Shard) -> None:
    shard.add(block(1), "word " + "other " * 50)
    shard.add(block(2), "word word word " + "other " * 48)
    for number in range(3, 20):
        shard.add(block(number), "nothing of the kind " * 10)
    shard.commit()
    reader = ShardReader(folder, 0)
    hits = sorted(reader.find("word", ranked=True), key=lambda hit: hit.rank)
    assert [hit.block.take for hit in hits] == [2, 1]
    reader.close()


# ---- compaction --------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_compaction_takes_the_dead_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[int, bool]]
) -> None:
    folder = os.fsencode(tmp_path_factory.mktemp("state"))
    shard = Shard(folder, 0)
    model: dict[Block, int] = {}
    for number, (word, compacts) in enumerate(deeds):
        this = block(number)
        shard.add(this, f"w{word} common")
        model[this] = word
        if compacts:
            shard.commit()
            dead = {each.take for each, held in model.items() if held == word}
            assert compact(shard, dead.intersection, lambda: False)
            model = {each: held for each, held in model.items() if held != word}
            while shard.tidy():
                pass
    shard.commit()
    for word in range(6):
        wanted = sorted(each for each, held in model.items() if held == word)
        assert found(folder, f"w{word}") == wanted
    assert found(folder, "common") == sorted(model)
    assert shard.count() == len(model)
    shard.close()


def test_compaction_can_be_interrupted_and_goes_on_later(folder: bytes, shard: Shard) -> None:
    for number in range(5_000):
        shard.add(block(number), "word")
    shard.commit()

    def odd(takes: Iterable[int]) -> set[int]:
        return {take for take in takes if take % 2}

    assert not compact(shard, odd, lambda: True)
    assert 2_500 < shard.count() < 5_000
    assert compact(shard, odd, lambda: False)
    assert [each.take for each in found(folder, "word")] == list(range(0, 5_000, 2))


def test_space_that_compaction_freed_is_given_back(folder: bytes, shard: Shard) -> None:
    for number in range(60):
        shard.add(block(number), " ".join(f"w{number}x{word}" for word in range(6_000)))
    shard.commit()
    compact(shard, set, lambda: False)
    for _ in range(1_000):
        if not shard.tidy():
            break
    shard.empty_wal()
    assert os.path.getsize(shard_path(folder, 0)) < 8 << 20
    assert shard.count() == 0


def test_a_wal_is_emptied_unless_somebody_reads(folder: bytes, shard: Shard) -> None:
    wal = shard_path(folder, 0) + b"-wal"
    shard.add(Block(1, 0, 5, 0), "words")
    shard.commit()
    assert os.path.getsize(wal)
    reader = ShardReader(folder, 0)
    began = time.monotonic()
    shard.empty_wal()
    assert time.monotonic() - began < 5, "it waits for a reader"
    assert os.path.getsize(wal)
    reader.close()
    shard.empty_wal()
    assert os.path.getsize(wal) == 0
    assert found(folder, "words") == [Block(1, 0, 5, 0)]
    shard.add(Block(2, 0, 5, 0), "words")
    shard.commit()
    assert len(found(folder, "words")) == 2


# ---- its file ----------------------------------------------------------------------------------


def test_a_shard_opened_again_goes_on(folder: bytes) -> None:
    for number in range(3):
        shard = Shard(folder, 4)
        shard.add(block(number), "word")
        shard.commit()
        shard.close()
    assert len(found(folder, "word", 4)) == 3


def test_shards_are_told_apart_by_a_mark_that_lasts(folder: bytes) -> None:
    Shard(folder, 0).close()
    Shard(folder, 10).close()
    marks = {number: identity(folder, number) for number in shard_numbers(folder)}
    assert list(marks) == [0, 10]
    assert len(marks[0]) == 16
    assert marks[0] != marks[10]
    Shard(folder, 0).close()
    assert identity(folder, 0) == marks[0]
    os.unlink(shard_path(folder, 0))
    Shard(folder, 0).close()
    assert identity(folder, 0) != marks[0]


def test_a_shard_is_durable_and_its_settings_are_in_force(shard: Shard) -> None:
    def pragma(name: str) -> object:
        return shard._connection.execute(f"PRAGMA {name}").fetchall()[0][0]

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("auto_vacuum")) == ("wal", 2, 2)


def test_a_shard_with_other_settings_is_given_ours(folder: bytes) -> None:
    Shard(folder, 0).close()
    other = apsw.Connection(os.fsdecode(shard_path(folder, 0)))
    other.execute("INSERT INTO words(words, rank) VALUES('automerge', 4)")
    other.execute("DELETE FROM words_config WHERE k = 'hashsize'")
    other.close()
    Shard(folder, 0).close()
    again = apsw.Connection(os.fsdecode(shard_path(folder, 0)))
    found = dict(again.execute("SELECT k, v FROM words_config"))
    assert found["automerge"] == 64
    assert found["hashsize"] == 8 << 20
    again.close()


def test_a_reader_needs_no_writer(folder: bytes) -> None:
    shard = Shard(folder, 0)
    shard.add(block(1), "word")
    shard.commit()
    shard.close()
    assert os.path.exists(shard_path(folder, 0) + b"-wal")
    assert found(folder, "word") == [block(1)]


def no_room(shard: Shard, pages: int = 0) -> None:
    connection = shard._connection
    (count,) = connection.execute("PRAGMA page_count").fetchone() or (0,)
    connection.execute(f"PRAGMA max_page_count = {count + pages}").fetchall()


def fill(shard: Shard) -> None:
    for number in range(200):
        words = " ".join(f"w{number}x{word}" for word in range(20_000))
        shard.add(block(number), words)
    shard.commit()


def test_a_full_disk_is_the_machines_fault_also_in_the_middle_of_a_message(
    folder: bytes, shard: Shard
) -> None:
    """The index spills to disk long before the commit: no file is to be charged for that."""
    no_room(shard)
    with pytest.raises(MachineFault, match=r"shard-0\.db"):
        fill(shard)
    shard.rollback()
    assert shard.count() == 0
    assert found(folder, "w0x0") == []
    no_room(shard, 1_000_000)
    shard.add(block(1), "word")
    shard.commit()
    assert found(folder, "word") == [block(1)]


def test_words_come_with_their_places_in_bytes() -> None:
    content = "Été, snake_case\nfin".encode()
    words = tokenize(content)
    assert [word for _, _, word in words] == ["ete", "snake_case", "fin"]
    assert [content[first:end].decode() for first, end, _ in words] == ["Été", "snake_case", "fin"]


def test_a_query_that_cannot_be_understood_is_no_crash(folder: bytes, shard: Shard) -> None:
    shard.commit()
    with pytest.raises(apsw.SQLError):
        found(folder, '"unbalanced')


def test_a_transaction_that_sqlite_gave_up_is_the_machines_fault_and_kept_by_nobody(
    folder: bytes, shard: Shard
) -> None:
    """Out of memory, it may roll back by itself: what went in before is lost."""
    for commit_at_once in (True, False):
        shard.add(block(1), "lost")
        given_up(shard)
        with pytest.raises(MachineFault, match=r"shard-0\.db: SQLite gave up the transaction"):
            shard.commit() if commit_at_once else shard.add(block(2), "later")
        shard.rollback()
        shard.add(block(3), "kept")
        shard.commit()
    assert found(folder, "lost OR later") == []
    assert found(folder, "kept") == [block(3), block(3)]


def given_up(shard: Shard) -> None:
    shard._connection.execute("ROLLBACK")

"""What status, results and explain read of the ledger."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from dropmill.errors import DropmillError
from dropmill.job import Kind, State, Verdict
from dropmill.store import reading
from dropmill.store.reading import Follower, Reader, Result, Which

from .ledgers import MadeState, take


@pytest.fixture
def made(tmp_path: Path) -> Iterator[MadeState]:
    state = MadeState(os.fsencode(tmp_path / "state"))
    yield state
    state.close()


@pytest.fixture
def inbox(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "inbox")


def names(results: Iterator[Result] | list[Result]) -> list[bytes]:
    return [os.path.basename(result.path) for result in results]


def one_of_each(made: MadeState, inbox: bytes) -> None:
    made.done(inbox + b"/done.txt")
    made.failed(inbox + b"/retry.jpg", "busy disk", Verdict.RETRY)
    made.failed(inbox + b"/bad.jpg", "truncated")
    made.failed(inbox + b"/binary", "binary content", Verdict.SKIPPED)
    made.done(inbox + b"/gone.txt")
    made.ledger.absence.mark_gone([inbox + b"/gone.txt"])
    with open(inbox + b"/queued.txt", "wb"):
        made.admit(inbox + b"/queued.txt")


# ---- counts and results --------------------------------------------------------------------------


def test_every_state_is_counted(made: MadeState, inbox: bytes) -> None:
    with Reader(made.folder) as reader:
        assert reader.counts() == dict.fromkeys(State, 0)
        one_of_each(made, inbox)
        assert reader.counts() == dict.fromkeys(State, 1)


def test_outcomes_come_newest_last_without_what_waits_or_went(
    made: MadeState, inbox: bytes
) -> None:
    one_of_each(made, inbox)
    with Reader(made.folder) as reader:
        assert names(reader.results()) == [b"done.txt", b"retry.jpg", b"bad.jpg", b"binary"]
        assert names(reader.newest(2)) == [b"bad.jpg", b"binary"]


@pytest.mark.parametrize("state", State)
def test_each_state_can_be_asked_for(made: MadeState, inbox: bytes, state: State) -> None:
    one_of_each(made, inbox)
    with Reader(made.folder) as reader:
        (found,) = reader.results(Which((state,)))
    assert found.state is state


def test_a_folder_means_what_is_below_it_and_nothing_that_only_begins_alike(
    made: MadeState, inbox: bytes
) -> None:
    for name in (b"/a/1", b"/a/b/2", b"/a-b/3", b"/ab/4", b"/5"):
        made.done(inbox + name)
    with Reader(made.folder) as reader:
        assert names(reader.results(Which(under=inbox + b"/a"))) == [b"1", b"2"]
        assert len(names(reader.results(Which(under=b"/")))) == 5
        assert names(reader.results(Which(under=b"/elsewhere"))) == []


def test_a_kind_can_be_asked_for(made: MadeState, inbox: bytes) -> None:
    one_of_each(made, inbox)
    with Reader(made.folder) as reader:
        found = list(reader.results(Which(kind=Kind.TEXT)))
    assert names(found) == [b"done.txt"]


def test_pages_join_without_loss_or_repetition(
    made: MadeState, inbox: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [b"%02d" % number for number in range(23)]
    for name in wanted:
        made.done(inbox + b"/" + name)
    for size in (1, 2, 5, 23, 24):
        monkeypatch.setattr(reading, "_PAGE", size)
        with Reader(made.folder) as reader:
            assert names(reader.results()) == wanted
    for name in wanted:
        os.utime(inbox + b"/" + name)
        made.admit(inbox + b"/" + name)
    with Reader(made.folder) as reader:
        assert sorted(names(reader.results(Which((State.QUEUED,))))) == wanted


def test_no_read_transaction_stays_open_between_two_results(made: MadeState, inbox: bytes) -> None:
    for number in range(3):
        made.done(inbox + b"/%d" % number)
    with Reader(made.folder) as reader:
        results = reader.results()
        next(results)
        assert not reader._connection.in_transaction
        writer = apsw.Connection(os.fsdecode(made.folder) + "/results.db")
        busy, _, _ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() or (1, 0, 0)
        writer.close()
        assert busy == 0
        assert len(list(results)) == 2


def test_a_copy_leads_to_its_source(made: MadeState, inbox: bytes) -> None:
    os.makedirs(inbox)
    with open(inbox + b"/a.jpg", "wb"):
        row = made.admit(inbox + b"/a.jpg", Kind.IMAGE)
    made.complete(row, output=b"/copies/a.jpg", width=4, height=3, digest=b"d" * 16)
    with Reader(made.folder) as reader:
        found = reader.file(inbox + b"/a.jpg")
        assert found is not None
        assert (found.output, found.width, found.height) == (b"/copies/a.jpg", 4, 3)
        assert reader.source_of(b"/copies/a.jpg") == inbox + b"/a.jpg"
        assert reader.source_of(b"/copies/b.jpg") is None
        assert reader.file(inbox + b"/b.jpg") is None


# ---- keywords ------------------------------------------------------------------------------------


def test_keyword_lines_are_those_of_the_file_whatever_takes_it_has(
    made: MadeState, inbox: bytes
) -> None:
    first, second, third = b"a\nb\nc\n", b"d\ne\n", b"f"
    takes = (
        take(first, 0, {"invoice": [1, 3]}),
        take(second, len(first), {"due": [2]}),
        take(third, len(first + second), {"invoice": [1]}),
    )
    row = made.done(inbox + b"/log", first + second + third, takes=takes)
    with Reader(made.folder) as reader:
        assert reader.keywords(row.id) == {"invoice": [1, 3, 6], "due": [5]}
        found = reader.file(inbox + b"/log")
        assert found is not None
        assert (found.keyworded, found.lines) == (True, 6)
        held = reader.held(row.id)
        assert (held.takes, held.size, held.shards) == (3, len(first + second + third), [0])


def test_a_file_without_keywords_has_none(made: MadeState, inbox: bytes) -> None:
    row = made.done(inbox + b"/a")
    with Reader(made.folder) as reader:
        assert reader.keywords(row.id) == {}


# ---- follow --------------------------------------------------------------------------------------


def test_following_gives_each_outcome_once_also_of_a_file_done_again(
    made: MadeState, inbox: bytes
) -> None:
    for number in range(15):
        made.done(inbox + b"/%02d" % number)
    with Reader(made.folder) as reader:
        follower = Follower(reader)
        assert names(follower.first(10)) == [b"%02d" % number for number in range(5, 15)]
        assert names(follower.new()) == []
        made.done(inbox + b"/new")
        made.failed(inbox + b"/bad.jpg", "truncated")
        assert names(follower.new()) == [b"new", b"bad.jpg"]
        assert names(follower.new()) == []
        made.done(inbox + b"/new", b"other\n")
        assert names(follower.new()) == [b"new"]


def test_following_an_empty_ledger_gives_the_first_outcome(made: MadeState, inbox: bytes) -> None:
    with Reader(made.folder) as reader:
        follower = Follower(reader)
        assert follower.first(10) == []
        made.done(inbox + b"/a")
        assert names(follower.new()) == [b"a"]


def test_an_outcome_whose_time_lies_a_little_back_is_not_lost(
    made: MadeState, inbox: bytes
) -> None:
    made.done(inbox + b"/late")
    made.done(inbox + b"/early")
    with Reader(made.folder) as reader:
        follower = Follower(reader)
        follower.first(10)
        made.done(inbox + b"/slow")
        writer = apsw.Connection(os.fsdecode(made.folder) + "/results.db")
        writer.execute(
            "UPDATE files SET finished_ns = ? WHERE name = ?", (time.time_ns() - 10**9, b"slow")
        )
        writer.close()
        assert names(follower.new()) == [b"slow"]


def test_looking_for_news_costs_no_query_when_nobody_wrote(made: MadeState, inbox: bytes) -> None:
    made.done(inbox + b"/a")
    with Reader(made.folder) as reader:
        follower = Follower(reader)
        follower.first(10)
        asked: list[str] = []
        reader._connection.trace_v2(
            apsw.SQLITE_TRACE_STMT, lambda event: asked.append(event["sql"])
        )
        for _ in range(3):
            assert list(follower.new()) == []
        assert asked == ["PRAGMA data_version"] * 3


# ---- what can be wrong ---------------------------------------------------------------------------


def test_without_a_ledger_it_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DropmillError, match="dropmill run"):
        Reader(os.fsencode(tmp_path))


def test_a_damaged_ledger_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "results.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(DropmillError, match=r"results\.db: damaged"):
        Reader(os.fsencode(tmp_path))

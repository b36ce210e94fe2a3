"""The ledger: admitted, fed, charged, let go and gone, with nothing lost and nothing twice."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator

import apsw
import pytest

from dropmill.errors import DropmillError, MachineFault
from dropmill.job import Fingerprint, Job, Kind, Lane, Outcome, State, Verdict
from dropmill.source import fingerprint
from dropmill.store import schema
from dropmill.store.folders import AHEAD, FolderReader
from dropmill.store.ledger import RENAME_OF, TO_COMPARE, Admission, Ledger
from dropmill.store.schema import TakeState, open_for_reading, open_for_writing

from .ledgers import MadeState, take


@pytest.fixture
def state(folder: bytes) -> Iterator[MadeState]:
    made = MadeState(os.path.join(folder, b"state"))
    yield made
    made.close()


@pytest.fixture
def inbox(folder: bytes) -> bytes:
    path = os.path.join(folder, b"inbox")
    os.mkdir(path)
    return path


def write(path: bytes, content: bytes = b"one\ntwo\n") -> bytes:
    with open(path, "wb") as file:
        file.write(content)
    return path


def mark(path: bytes) -> Fingerprint:
    return fingerprint(os.lstat(path))._replace(device=0)


def admission(path: bytes, lane: Lane = Lane.FRESH, unhurried: bool = True) -> Admission:
    folder, name = os.path.split(path)
    return Admission(folder, name, mark(path), Kind.TEXT, lane, unhurried)


def takes_of(state: MadeState, path: bytes, *states: TakeState) -> list[tuple[int, int]]:
    file = state.ledger.find(path)
    wanted = ", ".join(str(int(each)) for each in states or (TakeState.LIVE,))
    found = state.ledger.all(
        f"SELECT first, end FROM takes WHERE file = ? AND state IN ({wanted}) ORDER BY first",
        (file,),
    )
    return [(first, end) for first, end in found]


def column(state: MadeState, path: bytes, name: str) -> object:
    return state.ledger.one(f"SELECT {name} FROM files WHERE id = ?", (state.ledger.find(path),))[0]


# ---- admit -------------------------------------------------------------------------------------


def test_a_file_admitted_is_there_after_a_restart(state: MadeState, inbox: bytes) -> None:
    state.admit(write(inbox + b"/a"))
    other = Ledger(state.folder)
    rows = other.queued(Lane.FRESH, 0, other.seq, 10, newest_first=False)
    assert [(row.folder, row.name, row.kind) for row in rows] == [(inbox, b"a", Kind.TEXT)]
    other.close()


def test_an_unchanged_file_is_not_admitted_twice(state: MadeState, inbox: bytes) -> None:
    path = write(inbox + b"/a")
    state.done(path)
    seq = state.ledger.seq
    assert state.ledger.admit([admission(path)]) == []
    assert (state.ledger.seq, column(state, path, "state")) == (seq, State.DONE)


@pytest.mark.parametrize(
    "verdict", [Verdict.DONE, Verdict.SKIPPED, Verdict.QUARANTINED, Verdict.RETRY]
)
def test_a_changed_file_is_admitted_anew_whatever_it_was(
    state: MadeState, inbox: bytes, verdict: Verdict
) -> None:
    path = inbox + b"/a"
    if verdict is Verdict.DONE:
        state.done(path)
    else:
        state.failed(path, "reason", verdict)
    row = state.admit(write(path, b"changed"))
    assert row.attempts == 0
    assert not row.alone
    assert column(state, path, "reason") is None


def test_a_file_that_arrives_anew_overtakes_the_backlog(state: MadeState, inbox: bytes) -> None:
    path = write(inbox + b"/a")
    state.ledger.admit([admission(path, Lane.BACKLOG)])
    state.ledger.admit([admission(path, Lane.FRESH)])
    (row,) = state.ledger.queued(Lane.FRESH, 0, state.ledger.seq, 10, newest_first=True)
    assert row.name == b"a"
    assert not state.ledger.queued(Lane.BACKLOG, 0, state.ledger.seq, 10, newest_first=True)


def test_names_may_hold_any_byte(state: MadeState, inbox: bytes) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[31m", b"a" * 255, b"-rf", b"it's", b"%_"):
        state.admit(write(os.path.join(inbox, name)))
        found = state.ledger.find(os.path.join(inbox, name))
        assert found is not None
        assert state.ledger.path_of(found) == os.path.join(inbox, name)


def test_a_failed_transaction_leaves_nothing_behind_that_misleads_the_next(
    state: MadeState, inbox: bytes
) -> None:
    """A full disk while a new folder is admitted: later files are not filed under another."""
    os.mkdir(inbox + b"/new")
    os.mkdir(inbox + b"/other")
    first, second = write(inbox + b"/new/a"), write(inbox + b"/other/b")
    with pytest.raises(MachineFault), no_room(state.ledger):
        state.ledger.admit([admission(first), *many(inbox, 2_000)])
    state.ledger.admit([admission(second)])
    state.ledger.admit([admission(first)])
    for path in (first, second):
        file = state.ledger.find(path)
        assert file is not None
        assert state.ledger.path_of(file) == path
    rows = state.ledger.queued(Lane.FRESH, 0, state.ledger.seq, 10, newest_first=False)
    assert {os.path.join(row.folder, row.name) for row in rows} == {first, second}


class no_room:  # noqa: N801 - reads like a function where it is used
    """The database cannot grow, as on a full disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._connection = ledger.connection

    def __enter__(self) -> None:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone() or (0,)
        self._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def __exit__(self, *_: object) -> None:
        self._connection.execute("PRAGMA max_page_count = 1000000000").fetchall()


def many(inbox: bytes, count: int) -> Iterator[Admission]:
    mark = fingerprint(os.lstat(inbox))
    for number in range(count):
        yield Admission(inbox, b"%d" % number, mark, Kind.TEXT, Lane.BACKLOG)


# ---- a large text in progress ------------------------------------------------------------------

SIZE = 100


def begin_large(state: MadeState, path: bytes) -> None:
    """The first range of a large text is done."""
    row = state.admit(write(path, b"x" * SIZE))
    assert state.complete(row, takes=(take(b"x" * 40),), encoding="utf-8") is Verdict.PART


def test_a_large_text_in_progress_that_only_grew_is_finished_first(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    begin_large(state, path)
    with open(path, "ab") as file:
        file.write(b"more")
    waiting = state.ledger.admit([admission(path)])
    assert [each.name for each in waiting] == [b"a"]
    assert column(state, path, "in_parts") == 1


def test_a_large_text_in_progress_that_was_let_go_is_admitted_although_it_grew(
    state: MadeState, inbox: bytes
) -> None:
    """Nobody works on it any more (a writer was there, or it had changed): it must not wait."""
    path = inbox + b"/a"
    begin_large(state, path)
    file = state.ledger.find(path)
    assert file is not None
    state.ledger.faults.let_go([file])
    with open(path, "ab") as grown:
        grown.write(b"more")
    assert state.ledger.admit([admission(path)]) == []
    (row,) = state.ledger.queued_rows([file])
    assert (row.fingerprint, row.in_parts) == (mark(path), False)


def test_a_large_text_in_progress_that_was_rewritten_begins_anew(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    begin_large(state, path)
    row = state.admit(write(path, b"y" * (SIZE - 10)))
    assert not row.in_parts
    assert not takes_of(state, path, TakeState.PENDING)


# ---- charged, spared, tried again --------------------------------------------------------------


def charge(state: MadeState, path: bytes) -> State | None:
    file = state.ledger.find(path)
    assert file is not None
    row = state.ledger.row(file)
    assert row is not None
    return state.ledger.faults.charge(file, row.seq, "its worker died", time.time_ns() - 1, 2)


def test_only_an_attempt_that_ran_alone_may_quarantine(state: MadeState, inbox: bytes) -> None:
    path = write(inbox + b"/a")
    state.admit(path)
    assert charge(state, path) is State.RETRY
    assert state.ledger.faults.due_retries(time.time_ns()) == 1
    file = state.ledger.find(path)
    assert file is not None
    (row,) = state.ledger.queued_rows([file])
    assert row.alone
    assert charge(state, path) is State.QUARANTINED
    assert column(state, path, "reason") == "its worker died"


def test_nothing_of_a_file_that_killed_its_workers_stays_in_search(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    state.admit(write(path, b"poison"))
    charge(state, path)
    state.ledger.faults.due_retries(time.time_ns())
    assert charge(state, path) is State.QUARANTINED
    assert not takes_of(state, path, TakeState.LIVE, TakeState.PENDING)


def test_a_large_text_that_killed_its_workers_half_way_is_not_half_in_search(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    begin_large(state, path)
    charge(state, path)
    state.ledger.faults.due_retries(time.time_ns())
    assert charge(state, path) is State.QUARANTINED
    assert not takes_of(state, path, TakeState.LIVE, TakeState.PENDING)


def test_a_charge_against_what_is_no_longer_queued_changes_nothing(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    state.ledger.connection.execute("UPDATE files SET compare_ns = NULL")
    assert charge(state, path) is None
    assert (column(state, path, "state"), column(state, path, "attempts")) == (State.DONE, 0)


def test_what_a_file_holds_by_now_is_not_charged_for_what_it_held(
    state: MadeState, inbox: bytes
) -> None:
    """A worker died of the poison, and the file was mended before anyone knew."""
    path = inbox + b"/a"
    poison = state.admit(write(path, b"poison"))
    state.admit(write(path, b"mended meanwhile"))
    retry_ns = time.time_ns()
    assert state.ledger.faults.charge(poison.id, poison.seq, "its worker died", retry_ns, 2) is None
    assert [state.ledger.faults.spare(poison.id, poison.seq) for _ in range(3)] == [0, 0, 0]
    (row,) = state.ledger.queued_rows([poison.id])
    assert (row.attempts, row.alone) == (0, False)
    assert column(state, path, "spared") == 0


def test_a_file_that_was_spared_twice_runs_alone(state: MadeState, inbox: bytes) -> None:
    row = state.admit(write(inbox + b"/a"))
    assert [state.ledger.faults.spare(row.id, row.seq) for _ in range(3)] == [1, 2, 3]
    (row,) = state.ledger.queued_rows([row.id])
    assert (row.alone, row.attempts) == (True, 0)


def test_a_retry_waits_for_its_time(state: MadeState, inbox: bytes) -> None:
    row = state.admit(write(inbox + b"/a"))
    now = time.time_ns()
    assert state.complete(row, Verdict.RETRY, reason="it may pass") is Verdict.RETRY
    soonest = state.ledger.faults.next_retry_ns()
    assert soonest is not None
    assert 0.7e9 < soonest - now < 3e9
    assert state.ledger.faults.due_retries(soonest - 1) == 0
    assert not state.ledger.has_queued()
    assert state.ledger.expects_more()
    assert state.ledger.faults.due_retries(soonest) == 1
    assert state.ledger.has_queued()
    assert not state.ledger.expects_more()


def test_retry_puts_back_quarantined_files_and_no_others(state: MadeState, inbox: bytes) -> None:
    state.failed(inbox + b"/bad", "broken")
    state.failed(inbox + b"/skipped", "binary", Verdict.SKIPPED)
    state.done(inbox + b"/good")
    files = [state.ledger.find(inbox + name) for name in (b"/bad", b"/skipped", b"/good")]
    assert state.ledger.faults.retry([file for file in files if file is not None]) == 1
    assert column(state, inbox + b"/bad", "state") == State.QUEUED
    assert column(state, inbox + b"/bad", "attempts") == 0
    assert column(state, inbox + b"/skipped", "state") == State.SKIPPED
    assert column(state, inbox + b"/good", "state") == State.DONE


def test_what_lies_in_no_watched_folder_any_more_is_not_in_search(
    state: MadeState, inbox: bytes
) -> None:
    os.mkdir(inbox + b"/other")
    done, queued, watched = inbox + b"/a", inbox + b"/b", inbox + b"/other/c"
    for path in (done, queued, watched):
        state.done(path)
    state.admit(write(queued, b"changed"))
    roots = [inbox + b"/other"]
    assert state.ledger.absence.mark_unwatched(lambda path: path if path in roots else None) == 2
    assert [column(state, path, "state") for path in (done, queued)] == [State.GONE] * 2
    assert not takes_of(state, done) + takes_of(state, queued)
    assert takes_of(state, watched)


def test_what_new_rules_leave_out_is_not_in_search_and_the_reason_is_kept(
    state: MadeState, inbox: bytes
) -> None:
    out, stays = inbox + b"/a.log", inbox + b"/a.txt"
    for path in (out, stays):
        state.done(path)

    def no_logs(folder: bytes) -> Callable[[bytes, Kind, bytes | None], bool]:
        return lambda name, kind, by: folder == inbox and not name.endswith(b".log")

    assert state.ledger.absence.leave_out(no_logs, b"rules") == 1
    assert column(state, out, "state") == State.GONE
    assert column(state, out, "reason") == "left out by the configuration"
    assert (takes_of(state, out), takes_of(state, stays)) == ([], [(0, 8)])


def test_nobody_is_asked_again_while_the_rules_stay_the_same(
    state: MadeState, inbox: bytes
) -> None:
    state.done(inbox + b"/a")
    asked: list[bytes] = []

    def all_is_ours(folder: bytes) -> Callable[[bytes, Kind, bytes | None], bool]:
        asked.append(folder)
        return lambda name, kind, by: True

    for rules, wanted in ((b"one", 1), (b"one", 1), (b"two", 2), (b"one", 3)):
        assert state.ledger.absence.leave_out(all_is_ours, rules) == 0
        assert len(asked) == wanted


# ---- gone --------------------------------------------------------------------------------------


def test_a_file_that_went_away_leaves_search_at_once_and_stays_known(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    os.unlink(path)
    assert state.ledger.absence.mark_gone([path, inbox + b"/never"]) == [path]
    assert not takes_of(state, path)
    assert column(state, path, "state") == State.GONE
    assert state.ledger.absence.mark_gone([path]) == []


def test_a_large_text_that_goes_away_half_way_leaves_nothing_live(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    begin_large(state, path)
    os.unlink(path)
    state.ledger.absence.mark_gone([path])
    assert not takes_of(state, path, TakeState.LIVE, TakeState.PENDING)
    assert column(state, path, "in_parts") == 0


def test_a_row_of_a_file_long_gone_is_dropped_and_no_other(state: MadeState, inbox: bytes) -> None:
    state.done(inbox + b"/here")
    state.done(inbox + b"/gone")
    os.unlink(inbox + b"/gone")
    state.ledger.absence.mark_gone([inbox + b"/gone"])
    state.ledger.absence.forget_gone(time.time_ns() - 10**9)
    assert state.ledger.find(inbox + b"/gone") is not None
    state.ledger.absence.forget_gone(time.time_ns() + 10**9)
    assert state.ledger.find(inbox + b"/gone") is None
    assert state.ledger.find(inbox + b"/here") is not None


def test_a_new_file_gets_nothing_of_one_that_was_forgotten(state: MadeState, inbox: bytes) -> None:
    """Also where SQLite gives it the same row number."""
    state.done(inbox + b"/old", b"old words\n")
    os.unlink(inbox + b"/old")
    state.ledger.absence.mark_gone([inbox + b"/old"])
    state.ledger.absence.forget_gone(time.time_ns() + 10**9)
    state.done(inbox + b"/new", b"new\n")
    assert takes_of(state, inbox + b"/new") == [(0, 4)]


def test_the_number_of_a_file_is_never_used_again(state: MadeState, inbox: bytes) -> None:
    """Neither after its row was dropped, nor by the next service."""
    state.done(inbox + b"/old", b"old words\n")
    number = state.ledger.find(inbox + b"/old")
    os.unlink(inbox + b"/old")
    state.ledger.absence.mark_gone([inbox + b"/old"])
    state.ledger.absence.forget_gone(time.time_ns() + 10**9)
    state.close()
    again = MadeState(state.folder)
    row = again.done(inbox + b"/new", b"new\n")
    assert number is not None
    assert row.id > number
    held = again.ledger.all("SELECT count(*) FROM takes WHERE file = ?", (row.id,))
    assert held == [(1,)]
    again.close()


def test_what_came_back_in_time_needs_no_new_reading(state: MadeState, inbox: bytes) -> None:
    path = inbox + b"/a"
    state.done(path)
    state.ledger.absence.mark_gone([path])
    row = state.admit(path)
    assert [(each.first, each.end) for each in state.ledger.takes(row.id)] == [(0, 8)]


# ---- feeding -----------------------------------------------------------------------------------


def test_rows_are_given_by_lane_in_the_order_of_their_admission(
    state: MadeState, inbox: bytes
) -> None:
    for number in range(6):
        path = write(inbox + b"/%d" % number)
        state.ledger.admit([admission(path, Lane.BACKLOG if number % 2 else Lane.FRESH)])
    seq = state.ledger.seq
    fresh = state.ledger.queued(Lane.FRESH, 0, seq, 10, newest_first=True)
    backlog = state.ledger.queued(Lane.BACKLOG, 0, seq, 10, newest_first=False)
    assert [row.name for row in fresh] == [b"4", b"2", b"0"]
    assert [row.name for row in backlog] == [b"1", b"3", b"5"]
    after, up_to = backlog[0].seq, backlog[2].seq - 1
    between = state.ledger.queued(Lane.BACKLOG, after, up_to, 10, newest_first=False)
    assert [row.name for row in between] == [b"3"]


def test_numbers_of_admissions_are_never_used_again(state: MadeState, inbox: bytes) -> None:
    seen = set()
    for number in range(5):
        row = state.admit(write(inbox + b"/a", b"%d" % number))
        seen.add(row.seq)
    other = Ledger(state.folder)
    assert other.seq >= max(seen)
    other.close()
    assert len(seen) == 5


# ---- shards ------------------------------------------------------------------------------------


def test_what_a_lost_shard_held_is_queued_again(state: MadeState, inbox: bytes) -> None:
    path = inbox + b"/a"
    state.done(path)
    assert state.ledger.adopt_shards({0: b"one"}) == 0
    assert state.ledger.adopt_shards({0: b"one"}) == 0
    assert state.ledger.adopt_shards({0: b"another"}) == 1
    assert column(state, path, "state") == State.QUEUED
    assert not takes_of(state, path)


def test_a_large_text_whose_shard_is_lost_half_way_is_covered_once_in_the_end(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    row = state.admit(write(path, b"x" * SIZE))
    whole = (take(b"x" * SIZE),)
    assert state.complete(row, takes=whole, encoding="utf-8") is Verdict.DONE
    row = state.admit(write(path, b"y" * SIZE))  # the old content stays until the new is there
    state.complete(row, takes=(take(b"y" * 40),), encoding="utf-8")
    assert takes_of(state, path, TakeState.PENDING) == [(0, 40)]
    state.ledger.connection.execute("UPDATE takes SET shard = 1 WHERE state = 1")
    state.ledger.adopt_shards({0: b"zero", 1: b"one"})
    assert state.ledger.adopt_shards({0: b"zero", 1: b"lost"}) == 1
    assert not takes_of(state, path, TakeState.PENDING)
    (row,) = state.ledger.queued_rows([row.id])
    assert not row.in_parts
    first = (take(b"y" * 60),)
    assert state.complete(row, takes=first, encoding="utf-8") is Verdict.PART
    rest = Job(1, row.id, row.seq, row.kind, inbox, b"a", row.fingerprint, 60, SIZE, ranged=True)
    outcome = Outcome(rest, Verdict.DONE, 1, takes=(take(b"y" * 40, 60),), encoding="utf-8")
    assert state.completion.complete([outcome]) == [Verdict.DONE]
    assert takes_of(state, path) == [(0, 60), (60, 100)]


# ---- opening -----------------------------------------------------------------------------------


def test_a_ledger_of_a_newer_dropmill_is_refused_with_a_sentence(folder: bytes) -> None:
    connection = open_for_writing(folder, synchronous="NORMAL")
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    for opening in (lambda: Ledger(folder), lambda: open_for_reading(folder)):
        with pytest.raises(DropmillError, match=r"schema version"):
            opening()


def test_a_broken_ledger_is_moved_aside_and_a_whole_one_is_not(folder: bytes) -> None:
    path = os.path.join(folder, schema.FILE_NAME)
    assert schema.move_aside_if_broken(path) is None
    Ledger(folder).close()
    assert schema.move_aside_if_broken(path) is None
    with open(path, "r+b") as file:
        file.write(secrets.token_bytes(4096))
    aside = schema.move_aside_if_broken(path)
    assert aside is not None
    assert os.path.exists(aside)
    assert not os.path.exists(path)
    Ledger(folder).close()


def test_every_setting_of_a_database_is_checked(folder: bytes) -> None:
    connection = apsw.Connection(os.fsdecode(folder + b"/x.db"))
    schema.configure(connection, journal_mode="wal", cache_size=-16_000)
    with pytest.raises(DropmillError, match="refused"):
        schema.configure(connection, page_size=1234)
    connection.close()


def test_workers_sync_every_commit_to_the_disk(folder: bytes) -> None:
    connection = open_for_writing(folder, synchronous="FULL")
    assert connection.execute("PRAGMA synchronous").fetchall() == [(2,)]
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    connection.close()


def test_a_reader_needs_no_daemon_and_no_right_to_write(state: MadeState, inbox: bytes) -> None:
    state.done(inbox + b"/a")
    state.close()
    connection = open_for_reading(state.folder)
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM files")
    known = FolderReader(connection)
    assert set(known.known(inbox)) == {b"a"}
    known.close()


def test_a_scan_is_told_of_the_folders_below_and_of_no_others(
    state: MadeState, inbox: bytes
) -> None:
    for name in (b"a", b"a/b", b"a-b", b"ab"):
        os.mkdir(os.path.join(inbox, name))
        state.admit(write(os.path.join(inbox, name, b"x")))
    reader = FolderReader(open_for_reading(state.folder))
    below = [path for _, path in reader.folders_below(inbox + b"/a")]
    assert sorted(below) == [inbox + b"/a", inbox + b"/a/b"]
    assert len(reader.folders_below(inbox)) == 4
    reader.close()


def make_folders(state: MadeState, inbox: bytes) -> list[bytes]:
    """Nested ones with 1 to 40 files each, whose order as a tree is another than as paths."""
    folders = [inbox + name for name in (b"/a", b"/a/b", b"/a/b-c", b"/a-b", b"/a.b", b"/b", b"/c")]
    for number, folder in enumerate(folders):
        os.mkdir(folder)
        for name in range(1, 42, number + 1):
            state.admit(write(b"%s/%d" % (folder, name)))
    return folders


def is_told_all(reader: FolderReader, walk: int, folders: list[bytes]) -> bool:
    return all(reader.met(folder, walk)[1] == reader.known(folder) for folder in folders)


def test_a_walk_is_told_the_same_in_whatever_order_it_goes(
    state: MadeState, inbox: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [*make_folders(state, inbox), inbox, inbox + b"/none"]
    reader = FolderReader(open_for_reading(state.folder))
    monkeypatch.setattr("dropmill.store.folders._MOST_AHEAD", 64)
    chance = random.Random(1)
    for walk in range(1, 40):
        monkeypatch.setattr("dropmill.store.folders._LEAST_AHEAD", walk)
        assert is_told_all(reader, walk, chance.sample(folders, len(folders)))
        assert is_told_all(reader, walk + 1_000, sorted(folders))
    reader.close()


def test_a_walk_is_told_nothing_that_was_read_for_another(state: MadeState, inbox: bytes) -> None:
    state.admit(write(inbox + b"/a"))
    reader = FolderReader(open_for_reading(state.folder))
    assert set(reader.met(inbox, 1)[1]) == {b"a"}
    state.admit(write(inbox + b"/b"))
    assert set(reader.met(inbox, 2)[1]) == {b"a", b"b"}
    reader.close()


def test_a_portion_of_a_folder_is_told_by_its_bounds(state: MadeState, inbox: bytes) -> None:
    for name in b"abcd":
        state.admit(write(inbox + b"/%c" % name))
    reader = FolderReader(open_for_reading(state.folder))
    assert set(reader.known(inbox, b"a", b"c")) == {b"b", b"c"}
    assert set(reader.known(inbox, b"c")) == {b"d"}
    reader.close()


def test_what_is_due_is_found_without_reading_what_is_not(state: MadeState) -> None:
    """It is asked for every second, of a ledger of half a million finished files."""
    plan = state.ledger.all(f"EXPLAIN QUERY PLAN {TO_COMPARE}", (1, 2, 3))
    assert not any("files_by_state" in row[3] or "SCAN" in row[3] for row in plan), plan


def test_a_walk_is_read_ahead_of_without_sorting(state: MadeState) -> None:
    plan = state.ledger.all(f"EXPLAIN QUERY PLAN {AHEAD}", (b"/", 10))
    assert not any("TEMP B-TREE" in row[3] for row in plan), plan


def test_a_rename_is_looked_for_among_files_of_its_size_only(state: MadeState) -> None:
    plan = state.ledger.all(f"EXPLAIN QUERY PLAN {RENAME_OF}", (1, 2, 3))
    assert any("files_by_mtime (mtime_ns=? AND size=?)" in row[3] for row in plan), plan


def test_no_statement_is_planned_anew_for_what_is_bound_to_it(
    state: MadeState, inbox: bytes
) -> None:
    """It takes four times as long as what most of them do, of which each file needs several."""
    planned: list[str] = []

    def look(code: int, table: str | None, *others: str | None) -> int:
        planned.append(f"{table}: {others}")
        return apsw.SQLITE_OK

    def new_and_changed(name: bytes) -> None:
        state.admit(write(inbox + name))
        state.admit(write(inbox + name, b"more than before\n"))

    state.ledger.connection.authorizer = look  # which is asked when a statement is planned
    new_and_changed(b"/first")
    assert planned
    planned.clear()
    new_and_changed(b"/second")
    assert planned == []

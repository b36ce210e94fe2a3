"""Outcomes and `done` go in together; whatever comes in whatever order, the ledger stays true."""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from dropmill import compaction, feeder
from dropmill import worker as worker_module
from dropmill.errors import MachineFault
from dropmill.feeder import Feeder
from dropmill.index import Block, ShardReader, tokenize
from dropmill.job import Job, Kind, Lane, Outcome, Report, State, Verdict
from dropmill.opening import opened
from dropmill.processors import text
from dropmill.slots import Phase, Slots
from dropmill.source import look
from dropmill.store.completion import retry_time_ns
from dropmill.store.ledger import Admission, Ledger
from dropmill.store.schema import TakeState
from dropmill.store.table import Row
from dropmill.worker import Done, Message, Worker, WorkerSettings

from .ledgers import MadeState, take

FAR_OFF = 2**62
LIVE, PENDING = TakeState.LIVE, TakeState.PENDING


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


def live(state: MadeState, path: bytes, wanted: TakeState = LIVE) -> list[tuple[int, int]]:
    found = state.ledger.all(
        "SELECT first, end FROM takes WHERE file = ? AND state = ? ORDER BY first",
        (state.ledger.find(path), wanted),
    )
    return [(first, end) for first, end in found]


def column(state: MadeState, path: bytes, name: str) -> Any:
    file = state.ledger.find(path)
    return state.ledger.one(f"SELECT {name} FROM files WHERE id = ?", (file,))[0]


def everything(state: MadeState) -> list[Any]:
    files = state.ledger.all("SELECT * FROM files ORDER BY id")
    return files + state.ledger.all("SELECT * FROM takes ORDER BY id")


def finish(state: MadeState, job: Job, verdict: Verdict = Verdict.DONE, **found: Any) -> Verdict:
    (said,) = state.completion.complete([Outcome(job, verdict, time.time_ns())._replace(**found)])
    return said


def job_of(row: Row, **more: Any) -> Job:
    job = Job(row.id, row.id, row.seq, row.kind, row.folder, row.name, row.fingerprint)
    return job._replace(**more)


# ---- one outcome -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict.DONE,
        Verdict.SKIPPED,
        Verdict.QUARANTINED,
        Verdict.RETRY,
        Verdict.UNCHANGED,
        Verdict.RENAMED,
    ],
)
def test_an_outcome_for_an_older_content_changes_nothing(
    state: MadeState, inbox: bytes, verdict: Verdict
) -> None:
    path = inbox + b"/a"
    state.done(path)
    old = state.admit(write(path, b"second"))
    state.admit(write(path, b"third"))
    before = everything(state)
    found = {"takes": (take(b"second"),), "encoding": "utf-8", "reason": "r"}
    assert state.complete(old, verdict, **found) is Verdict.STALE
    assert everything(state) == before


@pytest.mark.parametrize("verdict", [Verdict.SKIPPED, Verdict.QUARANTINED])
def test_nothing_of_a_file_that_is_given_up_stays_in_search(
    state: MadeState, inbox: bytes, verdict: Verdict
) -> None:
    path = inbox + b"/a"
    state.done(path)
    row = state.admit(write(path, b"\0\0"))
    assert state.complete(row, verdict, reason="binary content") is verdict
    assert (live(state, path), live(state, path, PENDING)) == ([], [])
    assert column(state, path, "reason") == "binary content"


def test_a_fault_that_may_pass_is_tried_as_often_as_the_limit_says_and_no_oftener(
    state: MadeState, inbox: bytes
) -> None:
    path = write(inbox + b"/a")
    row = state.admit(path)
    verdicts = []
    for _ in range(3):
        verdicts.append(state.complete(row, Verdict.RETRY, reason="may pass"))
        state.ledger.faults.due_retries(time.time_ns() + 10**12)
        for again in state.ledger.queued_rows([row.id]):
            row = again
    assert verdicts == [Verdict.RETRY, Verdict.RETRY, Verdict.QUARANTINED]
    assert column(state, path, "attempts") == 3


def test_back_off_doubles_from_one_second_to_sixty_and_is_jittered() -> None:
    waits = [retry_time_ns(attempts, 0) / 1e9 for attempts in (1, 2, 3, 7, 50)]
    for wait, wanted in zip(waits, (1, 2, 4, 60, 60), strict=True):
        assert 0.75 * wanted <= wait <= 1.25 * wanted
    assert len({retry_time_ns(1, 0) for _ in range(20)}) > 1


def test_all_outcomes_of_a_message_go_in_together_or_none_does(
    state: MadeState, inbox: bytes
) -> None:
    rows = [state.admit(write(inbox + b"/%d" % number)) for number in range(3)]
    connection = state.completion._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone() or (0,)
    connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    before = everything(state)
    many = tuple(take(b"x" * 10, 10 * number) for number in range(5_000))
    takes = [(take(b"12345678"),), (take(b"12345678"),), many]
    outcomes = [
        Outcome(job_of(row), Verdict.DONE, 1, takes=each, encoding="utf-8")
        for row, each in zip(rows, takes, strict=True)
    ]
    with pytest.raises(MachineFault, match="full"):
        state.completion.complete(outcomes)
    assert everything(state) == before
    connection.execute("PRAGMA max_page_count = 1000000000").fetchall()
    assert state.completion.complete(outcomes[:2]) == [Verdict.DONE, Verdict.DONE]


# ---- texts -------------------------------------------------------------------------------------


def test_growth_keeps_the_takes_before_it(state: MadeState, inbox: bytes) -> None:
    path = inbox + b"/a"
    first, second = take(b"x" * 50), take(b"y" * 10, 50)
    row = state.admit(write(path, b"x" * 50 + b"y" * 10))
    assert state.complete(row, takes=(first, second), encoding="utf-8") is Verdict.DONE
    row = state.admit(write(path, b"x" * 50 + b"y" * 30))
    rest, job = take(b"y" * 30, 50), job_of(row, known=(first, second))
    found = {"keep_to": 50, "takes": (rest,), "encoding": "utf-8"}
    assert finish(state, job, Verdict.DONE, **found) is Verdict.DONE
    assert live(state, path) == [(0, 50), (50, 80)]
    assert column(state, path, "version") == 2


def test_lines_are_counted_as_grep_counts_them(state: MadeState, inbox: bytes) -> None:
    for content, lines in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)):
        state.done(inbox + b"/a", content)
        assert column(state, inbox + b"/a", "lines") == lines


def test_the_old_content_of_a_large_text_stays_in_search_until_all_of_the_new_is_there(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path, b"x" * 100)
    row = state.admit(write(path, b"y" * 120))
    assert state.complete(row, takes=(take(b"y" * 60),), encoding="utf-8") is Verdict.PART
    assert live(state, path) == [(0, 100)]
    rest = job_of(row, ranged=True, first=60, end=120, exact=True)
    second = (take(b"y" * 60, 60),)
    assert finish(state, rest, takes=second, encoding="utf-8") is Verdict.DONE
    assert live(state, path) == [(0, 60), (60, 120)]


def test_a_new_large_text_is_in_search_range_by_range(state: MadeState, inbox: bytes) -> None:
    path = inbox + b"/a"
    row = state.admit(write(path, b"y" * 120))
    assert state.complete(row, takes=(take(b"y" * 60),), encoding="utf-8") is Verdict.PART
    assert live(state, path) == [(0, 60)]
    assert column(state, path, "state") == State.QUEUED


def test_a_text_is_not_done_where_its_takes_do_not_cover_it(state: MadeState, inbox: bytes) -> None:
    """Kept takes that are not there any more (compacted, of another row) are no takes."""
    path = inbox + b"/a"
    row = state.admit(write(path, b"y" * 120))
    second = (take(b"y" * 60, 60),)
    verdict = state.complete(row, keep_to=60, takes=second, encoding="utf-8")
    assert verdict is not Verdict.DONE
    assert column(state, path, "state") == State.QUEUED


def test_a_text_that_came_back_after_its_takes_were_compacted_is_not_done_without_them(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    state.ledger.absence.mark_gone([path])
    row = state.admit(path)
    known = tuple(state.ledger.takes(row.id))
    assert known
    state.completion.burial.forget_dead(0, time.time_ns() + 1)
    finish(state, job_of(row, known=known), Verdict.UNCHANGED, keep_to=8, encoding="utf-8")
    assert column(state, path, "state") != State.DONE or live(state, path) == [(0, 8)]


def test_what_compaction_took_for_dead_never_lives_again(state: MadeState, inbox: bytes) -> None:
    """Its blocks are gone: a take that lives again after that would hide its file."""
    path = inbox + b"/a"
    state.done(path)
    state.ledger.absence.mark_gone([path])
    row = state.admit(path)
    known = tuple(state.ledger.takes(row.id))
    later = time.time_ns() + 1
    gone = state.completion.burial.removable([each.id for each in known], later)
    finish(state, job_of(row, known=known), Verdict.UNCHANGED, keep_to=8, encoding="utf-8")
    state.completion.burial.forget_dead(0, later)
    alive = state.ledger.all("SELECT id FROM takes WHERE state = 1")
    assert not gone & {each for (each,) in alive}


def test_compaction_spares_what_died_just_now_and_what_lives(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    (old,) = state.ledger.one("SELECT id FROM takes")
    state.done(path, b"changed\n")
    (new,) = state.ledger.one("SELECT id FROM takes WHERE state = 1")
    before = time.time_ns() - 60 * 10**9
    assert state.completion.burial.removable([old, new, 12345], before) == {12345}
    assert state.completion.burial.removable([old, new], time.time_ns() + 1) == {old}
    assert state.completion.burial.dead_blocks(0, before, 1 << 18) == 0
    state.completion.burial.forget_dead(0, time.time_ns() + 1)
    assert [each for (each,) in state.ledger.all("SELECT id FROM takes")] == [new]


def test_what_died_before_the_clock_was_put_back_is_compacted_all_the_same(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    os.unlink(path)
    state.ledger.absence.mark_gone([path])
    state.ledger.connection.execute("UPDATE takes SET died_ns = died_ns + 86400000000000")
    now = time.time_ns()
    assert state.completion.burial.dead_blocks(0, now + 1, text.BLOCK) == 0
    state.ledger.absence.bring_deaths_back(now)
    assert state.completion.burial.dead_blocks(0, now, text.BLOCK) == 0, "a search may see it still"
    assert state.completion.burial.dead_blocks(0, now + 1, text.BLOCK) == 1


def test_a_file_that_is_an_image_by_now_leaves_no_text_in_search(
    state: MadeState, inbox: bytes
) -> None:
    path = inbox + b"/a"
    state.done(path)
    row = state.admit(write(path, b"an image"), Kind.IMAGE)
    assert state.complete(row, digest=b"d", output=b"/out", width=1, height=1) is Verdict.DONE
    assert live(state, path) == []


# ---- renames -----------------------------------------------------------------------------------


def test_a_rename_keeps_the_row_its_results_and_its_number_of_versions(
    state: MadeState, inbox: bytes
) -> None:
    old, new = inbox + b"/old", inbox + b"/new"
    row = state.done(old)
    os.rename(old, new)
    state.ledger.absence.mark_gone([old])
    renamed = state.admit(new)
    assert renamed.moved_from == row.id
    job = job_of(renamed, moved_from=row.id, known=tuple(state.ledger.takes(row.id)))
    assert finish(state, job, Verdict.RENAMED, keep_to=8, encoding="utf-8") is Verdict.RENAMED
    assert state.ledger.find(new) == row.id
    assert state.ledger.find(old) is None
    assert live(state, new) == [(0, 8)]
    assert column(state, new, "version") == 1


def moved(state: MadeState, inbox: bytes) -> tuple[Job, Job]:
    """A file that went away, and two new ones with its content; nobody knows which it became."""
    old, content = inbox + b"/old", b"one\ntwo\n"
    row = state.done(old, content)
    mark = os.stat(old)
    os.unlink(old)
    state.ledger.absence.mark_gone([old])
    jobs = []
    for name in (b"/b", b"/c"):
        os.utime(write(inbox + name, content), ns=(mark.st_atime_ns, mark.st_mtime_ns))
    known = tuple(state.ledger.takes(row.id))
    for name in (b"/b", b"/c"):
        new = state.admit(inbox + name)
        assert new.moved_from == row.id
        jobs.append(job_of(new, moved_from=row.id, known=known))
    return jobs[0], jobs[1]


def test_of_two_files_that_could_be_a_renamed_one_only_one_takes_its_row(
    state: MadeState, inbox: bytes
) -> None:
    first, second = moved(state, inbox)
    found = {"keep_to": 8, "encoding": "utf-8"}
    assert finish(state, first, Verdict.RENAMED, **found) is Verdict.RENAMED
    assert finish(state, second, Verdict.RENAMED, **found) is not Verdict.RENAMED
    assert state.ledger.find(inbox + b"/b") is not None
    assert state.ledger.find(inbox + b"/c") is not None


def test_a_rename_takes_over_only_the_content_that_it_was_compared_with(
    state: MadeState, inbox: bytes
) -> None:
    """Under the old name another file of that size was taken in meanwhile."""
    first, _ = moved(state, inbox)
    state.done(inbox + b"/old", b"OTHER!!\n")
    found = {"keep_to": 8, "encoding": "utf-8"}
    assert finish(state, first, Verdict.RENAMED, **found) is not Verdict.RENAMED
    assert state.ledger.find(inbox + b"/old") is not None


def test_what_only_might_have_been_a_rename_revives_nothing_of_the_other(
    state: MadeState, inbox: bytes
) -> None:
    """An empty file went away, another of its time came, and grew before it was read."""
    old, new = inbox + b"/old", inbox + b"/new"
    row = state.done(old, b"")
    mark = os.stat(old)
    os.unlink(old)
    state.ledger.absence.mark_gone([old])
    os.utime(write(new, b""), ns=(mark.st_atime_ns, mark.st_mtime_ns))
    other = state.admit(new)
    assert other.moved_from == row.id
    job = job_of(other, moved_from=row.id, known=tuple(state.ledger.takes(row.id)))
    grown = other.fingerprint._replace(size=8)
    found = (take(b"one\ntwo\n"),)
    assert finish(state, job, takes=found, encoding="utf-8", fingerprint=grown) is Verdict.DONE
    assert live(state, new) == [(0, 8)]
    assert live(state, old) == []


def test_an_image_takes_over_only_the_copy_that_was_made_of_its_content(
    state: MadeState, inbox: bytes
) -> None:
    old, new = write(inbox + b"/old"), inbox + b"/new"
    row = state.admit(old, Kind.IMAGE)
    assert state.complete(row, digest=b"first", output=b"/out/old") is Verdict.DONE
    os.rename(old, new)
    state.ledger.absence.mark_gone([old])
    renamed = state.admit(new, Kind.IMAGE)
    assert renamed.moved_from == row.id
    again = state.admit(write(old, b"another"), Kind.IMAGE)
    assert state.complete(again, digest=b"second", output=b"/out/old") is Verdict.DONE
    job = job_of(renamed, moved_from=row.id, digest=b"first", output=b"/out/old")
    found = {"digest": b"first", "output": b"/out/new"}
    assert finish(state, job, Verdict.RENAMED, **found) is not Verdict.RENAMED
    assert state.ledger.find(old) == row.id


# ---- a full disk -------------------------------------------------------------------------------


def test_a_disk_that_fills_up_in_the_middle_of_a_message_loses_and_charges_nobody(
    folder: bytes, inbox: bytes, state: MadeState
) -> None:
    """What the shard gave up with the second file, the ledger must not call done of the first."""
    jobs = []
    for number in range(2):
        words = b"".join(b"w%dx%d " % (number, word) for word in range(200_000 * number + 10))
        row = state.admit(write(inbox + b"/%d" % number, words))
        jobs.append(job_of(row, root=inbox, path=row.name, take=number + 1))
    reports, sending = multiprocessing.Pipe(duplex=False)
    lock = multiprocessing.get_context("spawn").Lock()
    worker = Worker(0, _settings(state.folder, inbox), lock, sending)
    connection = worker._shard._connection
    connection.execute("PRAGMA cache_size = 10").fetchall()
    connection.execute("INSERT INTO words(words, rank) VALUES('hashsize', 65536)")
    (pages,) = connection.execute("PRAGMA page_count").fetchone() or (0,)
    connection.execute(f"PRAGMA max_page_count = {pages + 4}").fetchall()
    worker.work(Message(1, tuple(jobs)))
    done = reports.recv()
    worker.close()
    worker._membership.close()
    for end in (reports, sending):
        end.close()
    reader = ShardReader(state.folder, 0)
    found = list(reader.find("w0x1", ranked=False))
    reader.close()
    if column(state, inbox + b"/0", "state") == State.DONE:
        assert found, "done, and not in the index"
    assert done.fault is not None
    assert column(state, inbox + b"/1", "attempts") == 0


# ---- the Lock ----------------------------------------------------------------------------------


class NotedLock:
    """A lock that notes what its holder's slot says."""

    def __init__(self, state_folder: bytes) -> None:
        self._slots = Slots(state_folder)
        self.phases: list[Phase] = []

    def __enter__(self) -> None:
        self.phases.append(self._slots.read(0).phase)

    def __exit__(self, *_: object) -> None:
        self.phases.append(self._slots.read(0).phase)

    def close(self) -> None:
        self._slots.close()


def test_whoever_holds_the_lock_says_so_in_its_slot(
    state: MadeState, inbox: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent takes a worker that died in any other phase for one that held nothing."""
    monkeypatch.setattr(compaction, "SEEN_BY_SEARCHES_NS", -(10**9))
    lock = NotedLock(state.folder)
    reports, sending = multiprocessing.Pipe(duplex=False)
    worker = Worker(0, _settings(state.folder, inbox), lock, sending)
    for name in (b"a", b"b"):
        row = state.admit(write(inbox + b"/" + name))
        job = job_of(row, root=inbox, path=row.name, take=row.id)
        worker.work(Message(1, (job,)))
        assert [each.verdict for each in reports.recv().reports] == [Verdict.DONE]
    os.unlink(inbox + b"/a")
    state.ledger.absence.mark_gone([inbox + b"/a"])
    assert worker._compaction.when_idle(lambda: False)
    assert worker._shard.count() == 1
    worker.close()
    worker._membership.close()
    lock.close()
    for end in (reports, sending):
        end.close()
    assert set(lock.phases) == {Phase.COMMITTING}


def test_no_ops_are_answered_and_do_not_keep_a_worker_from_tidying_up(
    state: MadeState, inbox: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "IDLE", 0.2)
    reports, sending = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    worker = Worker(0, _settings(state.folder, inbox), context.Lock(), sending)
    pings = 0

    class Pinging:
        """A Queue with a no-op in it each time, until the worker was idle."""

        def get(self, timeout: float) -> Message:
            nonlocal pings
            if not timeout:
                raise queue.Empty
            time.sleep(0.01)
            pings += 1
            return Message(pings, (), ping=True)

        def empty(self) -> bool:
            return True

    def tidy(waiting: object) -> bool:
        raise StopIteration  # the end of this test

    monkeypatch.setattr(worker._compaction, "when_idle", tidy)
    with pytest.raises(StopIteration):
        worker.serve(Pinging())
    worker.close()
    worker._membership.close()
    answers = 0
    while reports.poll():
        assert reports.recv() == Done(0, ())
        answers += 1
    for end in (reports, sending):
        end.close()
    assert pings == answers > 5


def test_a_fault_of_the_machine_while_a_worker_is_idle_does_not_end_it(
    state: MadeState, inbox: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction can wait; a worker that dies of a full disk dies every two seconds."""
    monkeypatch.setattr(worker_module, "IDLE", 0.01)
    monkeypatch.setattr(compaction, "SEEN_BY_SEARCHES_NS", -(10**9))
    reports, sending = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    worker = Worker(0, _settings(state.folder, inbox), context.Lock(), sending)
    row = state.admit(write(inbox + b"/a"))
    worker.work(Message(1, (job_of(row, root=inbox, path=row.name),)))
    assert [each.verdict for each in reports.recv().reports] == [Verdict.DONE]
    os.unlink(inbox + b"/a")
    state.ledger.absence.mark_gone([inbox + b"/a"])
    worker._completion._connection.set_busy_timeout(0)
    state.ledger.connection.execute("BEGIN IMMEDIATE")  # somebody holds results.db
    messages = context.Queue()
    timer = threading.Timer(0.3, messages.put, [Message(2, ())])
    timer.start()
    try:
        worker.serve(messages)
    finally:
        timer.join()
        state.ledger.connection.execute("ROLLBACK")
        messages.close()
        messages.join_thread()
        worker.close()
        worker._membership.close()
        for end in (reports, sending):
            end.close()


# ---- compared once more ------------------------------------------------------------------------


def read_at_once(state: MadeState, path: bytes, **found: Any) -> Row:
    """A file taken in within a tick of its last write."""
    row = state.admit(write(path))
    outcome: dict[str, Any] = {"takes": (take(b"one\ntwo\n"),), "encoding": "utf-8"}
    finish(state, job_of(row), **outcome | {"started_ns": row.fingerprint.mtime_ns} | found)
    return row


def compared(state: MadeState, row: Row, verdict: Verdict, **found: Any) -> Verdict:
    """What comes of it when it is compared after a second."""
    assert state.ledger.to_compare(time.time_ns()) == []
    (row,) = state.ledger.to_compare(time.time_ns() + 10**9)
    job = job_of(row, known=tuple(state.ledger.takes(row.id)), comparing=True)
    return finish(state, job, verdict, started_ns=row.fingerprint.mtime_ns + 10**9, **found)


def test_a_comparison_that_agrees_is_told_to_nobody(state: MadeState, inbox: bytes) -> None:
    row = read_at_once(state, inbox + b"/a")
    before = everything(state)
    assert compared(state, row, Verdict.UNCHANGED, keep_to=8) is Verdict.AS_BEFORE
    ((*was, due, _), *takes), ((*now, done, _), *still) = before, everything(state)
    assert (due is not None, done) == (True, None)
    assert (now, still) == (was, takes)


@pytest.mark.parametrize("verdict", [Verdict.SKIPPED, Verdict.QUARANTINED])
def test_a_file_that_was_given_up_at_once_is_compared_too(
    state: MadeState, inbox: bytes, verdict: Verdict
) -> None:
    """Room for it was made first, and its content followed within the same tick."""
    path = inbox + b"/a"
    row = read_at_once(state, path, verdict=verdict, reason="zeros", takes=(), encoding=None)
    before = column(state, path, "attempts"), column(state, path, "finished_ns")
    assert compared(state, row, verdict, reason="zeros") is Verdict.AS_BEFORE
    assert (column(state, path, "attempts"), column(state, path, "finished_ns")) == before
    row = read_at_once(state, inbox + b"/b", verdict=verdict, reason="zeros", takes=())
    found = {"takes": (take(b"one\ntwo\n"),), "encoding": "utf-8"}
    assert compared(state, row, Verdict.DONE, **found) is Verdict.DONE
    assert column(state, inbox + b"/b", "state") == State.DONE


def test_what_is_to_be_compared_outlives_the_service(state: MadeState, inbox: bytes) -> None:
    read_at_once(state, inbox + b"/a")
    state.close()
    again = Ledger(state.folder)
    assert again.is_comparison_due(time.time_ns() + 10**9)
    assert len(again.to_compare(time.time_ns() + 10**9)) == 1
    again.close()


def test_a_file_that_cannot_be_compared_now_is_what_it_was_and_compared_later(
    state: MadeState, inbox: bytes
) -> None:
    """Its root went away, or somebody is writing it."""
    row = read_at_once(state, inbox + b"/a")
    state.ledger.faults.let_go([row.id])
    assert (column(state, inbox + b"/a", "state"), live(state, inbox + b"/a")) == (2, [(0, 8)])
    assert state.ledger.to_compare(time.time_ns() + 50 * 10**9) == []
    assert len(state.ledger.to_compare(time.time_ns() + 61 * 10**9)) == 1


def test_a_file_that_kills_its_worker_when_it_is_compared_is_charged(
    state: MadeState, inbox: bytes
) -> None:
    row = read_at_once(state, inbox + b"/a")
    assert state.ledger.faults.charge(row.id, row.seq, "crash", 0, 2) is State.RETRY
    assert not state.ledger.is_comparison_due(FAR_OFF)
    assert state.ledger.faults.due_retries(time.time_ns()) == 1


def test_an_old_file_and_one_from_the_future_are_not_compared(
    state: MadeState, inbox: bytes
) -> None:
    for name, seconds in ((b"/old", -1), (b"/future", 3_600)):
        path = write(inbox + name)
        now = time.time_ns()
        os.utime(path, ns=(now, now + seconds * 10**9))
        row = state.admit(path)
        takes = (take(b"one\ntwo\n"),)
        assert finish(state, job_of(row), takes=takes, encoding="utf-8") is Verdict.DONE
    assert not state.ledger.is_comparison_due(FAR_OFF)


def test_a_comparison_set_before_the_clock_was_put_back_is_not_waited_for(
    state: MadeState, inbox: bytes
) -> None:
    read_at_once(state, inbox + b"/a")
    assert len(state.ledger.to_compare(time.time_ns() - 24 * 3600 * 10**9)) == 1


def test_a_second_write_in_the_same_tick_of_the_clock_is_seen(folder: bytes) -> None:
    """Of the same size, and nobody notices it: size and mtime are what they were."""
    mill = Mill(folder, 0)
    path = mill.path(b"a")
    write(path, b"w1\n")
    tick = os.stat(path).st_mtime_ns
    mill.noticed.add(b"a")
    mill.admit()
    mill.feed()
    mill.work()
    with open(path, "r+b") as file:
        file.write(b"w2\n")
    os.utime(path, ns=(tick, tick))
    mill.complete()
    mill.come_to_rest()
    mill.close()


# ---- anything, in any order --------------------------------------------------------------------


class Waiting:
    """Stands where the pool stands: takes messages, and keeps them until a rule works on one."""

    size = 2

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def has_room(self) -> bool:
        return len(self.jobs) < 6

    def put(self, jobs: list[Job]) -> bool:
        self.jobs += jobs
        return True

    def put_alone(self, job: Job) -> None:
        self.jobs.append(job)


class Mill:
    """Files change at random while jobs on them are fed, worked on, finished or lost.

    Ledger, feeder, worker, processor, shard and files are the real ones; `owner` stands for who
    puts files there, `service` for the parent's main loop and for time.
    """

    NAMES = (b"a", b"b", b"c")
    SIZES = (0, 5, 20, 60, 70, 130, 180, 200, 300, 400, 700)

    def __init__(self, folder: bytes, seed: int) -> None:
        self.chooser = random.Random(seed)
        self.root = os.path.join(folder, b"inbox")
        self.state_folder = os.path.join(folder, b"state")
        os.mkdir(self.root)
        os.mkdir(self.state_folder)
        self.ledger = Ledger(self.state_folder)
        self.reports, reports = multiprocessing.Pipe(duplex=False)
        lock = multiprocessing.get_context("spawn").Lock()
        self.worker = Worker(0, _settings(self.state_folder, self.root), lock, reports)
        self.pool = Waiting()
        self.feeder = Feeder(self.ledger, self.pool, lambda folder: self.root)  # type: ignore[arg-type]
        self.worked: list[Outcome] = []
        self.noticed: set[bytes] = set()
        self.clock = 10**18
        self.verdicts: Counter[Verdict] = Counter()
        self.done: list[str] = []  # what happened, told when it ends badly

    def close(self) -> None:
        self.worker.close()
        self.worker._membership.close()
        self.ledger.close()
        self.reports.close()

    def live_on(self, steps: int) -> None:
        for _ in range(steps):
            if self.chooser.random() < 0.15:
                self.owner()
            else:
                self.service()
            self.check()
        self.come_to_rest()

    # ---- whoever puts files there ------------------------------------------------------------

    def owner(self) -> None:
        deed = self.chooser.choice([self.write, self.write, self.append, self.append, self.append,
                                    self.edit, self.truncate, self.make_binary, self.delete,
                                    self.rename, self.rename, self.copy, self.touch])  # fmt: skip
        name = self.chooser.choice(self.NAMES)
        self.done.append(f"{deed.__name__} {name.decode()}")
        if deed in (self.write, self.make_binary) or self.content(name) is not None:
            deed(name)

    def path(self, name: bytes) -> bytes:
        return os.path.join(self.root, name)

    def content(self, name: bytes) -> bytes | None:
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def words(self) -> bytes:
        words = (b"w%d" % self.chooser.randrange(30) for _ in range(700))
        spaced = b"".join(word + self.chooser.choice([b" ", b" ", b"\n"]) for word in words)
        return spaced[: self.chooser.choice(self.SIZES)] + self.chooser.choice([b"", b"\n"])

    def put(self, name: bytes, content: bytes, mode: str = "wb", place: int = 0) -> None:
        with open(self.path(name), mode) as file:
            file.seek(place, os.SEEK_END if mode == "ab" else os.SEEK_SET)
            file.write(content)
        self.touch(name)

    def touch(self, name: bytes) -> None:
        # No two contents have one mtime: what only the kernel's coarse clock hides is not what
        # is looked for here.
        self.clock += 1
        os.utime(self.path(name), ns=(self.clock, self.clock))
        self.noticed.add(name)

    def write(self, name: bytes) -> None:
        self.put(name, self.words())

    def append(self, name: bytes) -> None:
        self.put(name, self.words(), "ab")

    def edit(self, name: bytes) -> None:
        size = len(self.content(name) or b"")
        if size > 3:
            self.put(name, b" z ", "r+b", self.chooser.randrange(size - 3))

    def truncate(self, name: bytes) -> None:
        os.truncate(self.path(name), self.chooser.randrange(len(self.content(name) or b"") + 1))
        self.touch(name)

    def make_binary(self, name: bytes) -> None:
        self.put(name, b"\0\1\2" * 20)

    def delete(self, name: bytes) -> None:
        os.unlink(self.path(name))
        self.noticed.add(name)

    def rename(self, name: bytes) -> None:
        to = self.chooser.choice([other for other in self.NAMES if other != name])
        os.rename(self.path(name), self.path(to))
        self.noticed |= {name, to}
        if self.chooser.random() < 0.2:  # whoever had it open writes on
            self.put(to, self.words(), "ab")

    def copy(self, name: bytes) -> None:
        """As `cp -p` does it; sometimes that is all that is left of it."""
        to = self.chooser.choice([other for other in self.NAMES if other != name])
        mark = os.stat(self.path(name))
        self.put(to, self.content(name) or b"")
        os.utime(self.path(to), ns=(mark.st_atime_ns, mark.st_mtime_ns))
        if self.chooser.random() < 0.5:
            self.delete(name)

    # ---- the parent --------------------------------------------------------------------------

    def service(self) -> None:
        deeds = {
            self.admit: 6 * bool(self.noticed),
            self.feed: 2,
            self.work: 6 * bool(self.pool.jobs),
            self.complete: 6 * bool(self.worked),
            self.lose: bool(self.pool.jobs),
            self.lose_after_the_commit: bool(self.worked),
            self.restart: 0.1,
        }
        (deed,) = self.chooser.choices(list(deeds), list(deeds.values()))
        self.done.append(deed.__name__)
        deed()

    def admit(self) -> None:
        paths = [self.path(name) for name in sorted(self.noticed)]
        self.noticed.clear()
        self.ledger.absence.mark_gone([path for path in paths if look(path) is None])
        admissions = []
        for path in paths:
            seen = look(path)
            if seen is not None:
                lane = Lane.LARGE if seen.size > text.RANGE else Lane.FRESH
                mark = seen._replace(device=0)
                admissions.append(Admission(*os.path.split(path), mark, Kind.TEXT, lane))
        self.noticed |= {each.name for each in self.ledger.admit(admissions)}

    def feed(self) -> None:
        self.feeder.fill()

    def restart(self) -> None:
        """The daemon is killed and started again: what only it knew is lost."""
        self.pool.jobs.clear()
        self.worked.clear()
        self.worker._shard.rollback()
        self.feeder = Feeder(self.ledger, self.pool, lambda folder: self.root)  # type: ignore[arg-type]
        self.noticed.update(self.NAMES)  # the scan

    # ---- workers -----------------------------------------------------------------------------

    def work(self) -> None:
        job = self.pool.jobs.pop(self.chooser.randrange(len(self.pool.jobs)))
        with opened([job], lambda job: None, lambda root: True) as sources:
            self.worked += [self.worker._outcome(1, job, found) for job, found in sources]

    def complete(self) -> None:
        outcome = self.worked.pop(self.chooser.randrange(len(self.worked)))
        (report,) = self.worker._commit(1, [outcome])
        self.done.append(f"  {outcome.job.path.decode()}: {report.verdict.name}")
        self.react(outcome.job, report)

    def lose(self) -> None:
        """A worker died with it; nobody is charged."""
        job = self.pool.jobs.pop(self.chooser.randrange(len(self.pool.jobs)))
        self.feeder.returned([job])

    def lose_after_the_commit(self) -> None:
        """A worker died between its commit and its report."""
        outcome = self.worked.pop(self.chooser.randrange(len(self.worked)))
        self.worker._commit(1, [outcome])
        self.feeder.returned([outcome.job])

    def react(self, job: Job, report: Report) -> None:
        """What `Mill` does with a report."""
        self.verdicts[report.verdict] += 1
        match report.verdict:
            case Verdict.PART | Verdict.STALE:
                self.feeder.landed(job)
                self.feeder.first_range_done(job)
                return
            case Verdict.VERIFYING:
                self.feeder.landed(job)
                self.feeder.go_on(job, report.trusted)
                return
            case Verdict.BUSY | Verdict.CHANGED | Verdict.VANISHED:
                self.feeder.drop(job.file)
                self.ledger.faults.let_go([job.file])
                self.noticed.add(os.path.basename(job.path))
            case Verdict.RETRY | Verdict.QUARANTINED | Verdict.SKIPPED:
                self.feeder.drop(job.file)
        self.feeder.landed(job)

    # ---- what holds always -------------------------------------------------------------------

    def check(self) -> None:
        for file, size in self.ledger.all("SELECT id, size FROM files WHERE state = 2"):
            at = 0
            for first, end in self.takes(file, LIVE):
                assert first == at, "live takes of a done text cover it, once"
                at = end
            assert at == size, "live takes of a done text cover all of it"
            assert not self.takes(file, PENDING)
        for (file,) in self.ledger.all("SELECT id FROM files WHERE state IN (4, 5, 6)"):
            left = self.takes(file, LIVE) + self.takes(file, PENDING)
            assert not left, "nothing is live of what is gone, skipped or quarantined"
        orphans = self.ledger.all(
            "SELECT * FROM takes WHERE state IN (1, 2) AND file NOT IN (SELECT id FROM files)"
        )
        assert not orphans, "nothing is live without a file"
        assert not self.ledger.all("SELECT reason FROM files WHERE state IN (3, 4)")

    def takes(self, file: int, wanted: TakeState) -> list[tuple[int, int]]:
        return self.ledger.all(
            "SELECT first, end FROM takes WHERE file = ? AND state = ? ORDER BY first, end",
            (file, wanted),
        )

    # ---- in the end --------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """When nothing happens any more, search tells what the disk holds."""
        for _ in range(500):
            if self.noticed:
                self.admit()
            self.feed()
            if self.pool.jobs:
                self.work()
            elif self.worked:
                self.complete()
            elif due := self.ledger.to_compare(FAR_OFF):
                self.feeder.compare(due)
            elif not self.noticed:
                break
            self.check()
        assert not (self.noticed or self.pool.jobs or self.worked), "it never comes to rest"
        assert self.feeder.is_empty()
        assert not self.ledger.has_queued()
        self.search_tells_what_the_disk_holds()

    def search_tells_what_the_disk_holds(self) -> None:
        expected = {}
        for name in self.NAMES:
            content = self.content(name)
            if content is not None and b"\0" not in content:
                expected[name] = {word for _, _, word in tokenize(content)}
        found: dict[bytes, set[str]] = {name: set() for name in expected}
        words = set().union(*expected.values()) | {"z", "w0", "w1"}
        reader = ShardReader(self.state_folder, 0)
        for word in words:
            for hit in reader.find(f'"{word}"', ranked=False):
                row = self.ledger.one(
                    "SELECT name FROM files WHERE id ="
                    " (SELECT file FROM takes WHERE id = ? AND state = 1)",
                    (hit.block.take,),
                )
                if row is not None and self.holds(row[0], hit.block, word):
                    found[row[0]].add(word)
        reader.close()
        assert found == expected

    def holds(self, name: bytes, block: Block, word: str) -> bool:
        """As a search looks again: what begins in the overlap is the next block's."""
        own = (self.content(name) or b"")[block.first : block.end]
        return word in {each for _, _, each in tokenize(own)}


def _settings(state_folder: bytes, root: bytes) -> WorkerSettings:
    return WorkerSettings(
        state_folder, 1, os.path.join(state_folder, b"out"), "{stem}{suffix}",
        {root: b"inbox"}, ("w3", "w4 w5"), 3, 1 << 30, 10**8, "info", "plain",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(100))
def test_files_that_change_at_random_under_work_are_found_as_they_are(
    folder: bytes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(text, "BLOCK", 64)
    monkeypatch.setattr(text, "RANGE", 192)
    monkeypatch.setattr(text, "OVERLAP", 32)
    monkeypatch.setattr(text, "VERIFY", 200)
    monkeypatch.setattr(feeder, "RANGE", 192)
    mill = Mill(folder, seed)
    try:
        mill.live_on(300)
    except BaseException:
        print("\n".join(mill.done[-60:]))
        raise
    finally:
        mill.close()

"""What goes next: small and new first, nothing twice, nothing forgotten."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill import feeder as feeder_module
from dropmill.feeder import MOST_BYTES, MOST_FILES, Feeder
from dropmill.job import Fingerprint, Job, Kind, Lane, Outcome, State, Verdict
from dropmill.store.ledger import Admission

from .ledgers import MadeState, take

RANGE = 1000
INBOX = b"/inbox"


class RecordingPool:
    """A Queue of a given length that a test reads."""

    size = 2

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.messages: list[list[Job]] = []
        self.alone: list[Job] = []
        self.full_at_the_last_moment = False

    def has_room(self) -> bool:
        return len(self.messages) < self.room

    def put(self, jobs: list[Job]) -> bool:
        if self.full_at_the_last_moment:
            self.full_at_the_last_moment, self.room = False, 0
            return False
        self.messages.append(jobs)
        return True

    def put_alone(self, job: Job) -> None:
        self.alone.append(job)

    def jobs(self) -> list[Job]:
        return [job for message in self.messages for job in message]


class Fed:
    """A ledger, a feeder and a pool that only records."""

    def __init__(self, folder: bytes) -> None:
        self.state = MadeState(folder)
        self.ledger = self.state.ledger
        self.pool = RecordingPool()
        self.root: bytes | None = INBOX
        self.feeder = self.new_feeder()
        self._inode = 0

    def new_feeder(self) -> Feeder:
        return Feeder(self.ledger, self.pool, self._root_of)  # type: ignore[arg-type]

    def _root_of(self, folder: bytes) -> bytes | None:
        return self.root

    def admit(
        self,
        *names: bytes,
        size: int = 10,
        lane: Lane = Lane.FRESH,
        kind: Kind = Kind.TEXT,
    ) -> None:
        admissions = []
        for name in names:
            self._inode += 1
            mark = Fingerprint(self._inode, size, self._inode, self._inode, 0)
            admissions.append(Admission(INBOX, name, mark, kind, lane))
        self.ledger.admit(admissions)

    def fed(self) -> list[bytes]:
        """What goes to the pool now, message by message."""
        before = len(self.pool.messages)
        self.feeder.fill()
        return [job.path for message in self.pool.messages[before:] for job in message]

    def complete(self, job: Job, end: int, first: int | None = None) -> Verdict:
        content = b"x" * (end - (job.first if first is None else first))
        taken = take(content, job.first if first is None else first)
        outcome = Outcome(job, Verdict.DONE, 1, takes=(taken,), encoding="utf-8")
        (verdict,) = self.state.completion.complete([outcome])
        self.feeder.landed(job)
        if verdict in (Verdict.PART, Verdict.STALE):
            self.feeder.first_range_done(job)
        return verdict


@pytest.fixture
def fed(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fed]:
    monkeypatch.setattr(feeder_module, "RANGE", RANGE)
    made = Fed(folder)
    yield made
    made.state.close()


# ---- order -------------------------------------------------------------------------------------


def test_every_queued_file_is_fed_once(fed: Fed) -> None:
    fed.pool.size = 1_000  # enough hands for all the large ones at once
    names = [b"%03d" % number for number in range(700)]
    fed.admit(*names[:300])
    fed.admit(*names[300:500], lane=Lane.BACKLOG)
    fed.admit(*names[500:], size=2 * RANGE, lane=Lane.LARGE)
    assert sorted(fed.fed()) == names
    assert fed.fed() == []


def test_a_note_overtakes_the_backlog_and_the_large(fed: Fed) -> None:
    fed.admit(*(b"old-%d" % number for number in range(3_000)), lane=Lane.BACKLOG)
    fed.admit(*(b"huge-%d" % number for number in range(20)), size=9 * RANGE, lane=Lane.LARGE)
    fed.pool.room = 2
    fed.fed()
    fed.admit(b"note")
    fed.pool.room = 3
    assert fed.fed() == [b"note"]


def test_what_is_fresh_longest_is_not_starved_by_what_is_newer(fed: Fed) -> None:
    fed.admit(*(b"first-%d" % number for number in range(600)))
    fed.pool.room = 0
    seen: list[bytes] = []
    for number in range(40):
        fed.admit(b"new-%d" % number)
        fed.pool.room = len(fed.pool.messages) + 1
        seen += fed.fed()
    assert b"first-0" in seen


def test_backlog_and_large_take_turns(fed: Fed) -> None:
    fed.admit(*(b"old-%d" % number for number in range(3_000)), lane=Lane.BACKLOG)
    fed.admit(*(b"huge-%d" % number for number in range(20)), size=9 * RANGE, lane=Lane.LARGE)
    fed.pool.room = 4
    lanes = {name.split(b"-")[0] for name in fed.fed()}
    assert lanes == {b"old", b"huge"}


# ---- messages ----------------------------------------------------------------------------------


def test_small_files_travel_many_to_a_message_but_not_too_many(fed: Fed) -> None:
    fed.admit(*(b"%d" % number for number in range(3_000)))
    fed.fed()
    sizes = [len(message) for message in fed.pool.messages]
    assert max(sizes) == MOST_FILES
    assert len(sizes) < 60


def test_a_message_holds_no_more_bytes_than_it_may(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder_module, "RANGE", 1 << 30)
    fed.admit(*(b"%d" % number for number in range(100)), size=1 << 20)
    fed.fed()
    for message in fed.pool.messages:
        assert len(message) == 1 or sum(job.fingerprint.size for job in message) <= MOST_BYTES


def test_where_there_are_few_files_every_worker_gets_its_share(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder_module, "RANGE", 1 << 30)
    fed.admit(b"a", b"b", b"c", b"d", size=feeder_module.WORTH_SHARING)
    fed.fed()
    assert [len(message) for message in fed.pool.messages] == [2, 1, 1]


def test_a_few_small_files_are_one_message_as_each_costs_syncs(fed: Fed) -> None:
    fed.admit(b"a", b"b", b"c", b"d")
    fed.fed()
    assert [len(message) for message in fed.pool.messages] == [4]


def test_a_full_queue_loses_nothing(fed: Fed) -> None:
    fed.admit(b"a", b"b")
    fed.pool.full_at_the_last_moment = True
    assert fed.fed() == []
    fed.pool.room = 10
    assert sorted(fed.fed()) == [b"a", b"b"]


def test_a_message_is_in_the_order_of_its_folders(fed: Fed) -> None:
    fed.admit(*(b"%d" % number for number in range(50)))
    fed.fed()
    for message in fed.pool.messages:
        assert [job.path for job in message] == sorted(job.path for job in message)


# ---- in flight ---------------------------------------------------------------------------------


def test_a_file_admitted_anew_while_in_flight_waits_and_goes_next(fed: Fed) -> None:
    fed.admit(b"a")
    fed.fed()
    (first,) = fed.pool.jobs()
    fed.admit(b"a", size=20)
    assert fed.fed() == []
    fed.feeder.landed(first)
    assert fed.fed() == [b"a"]
    assert fed.pool.jobs()[-1].seq > first.seq


def test_returned_jobs_go_again_with_another_take(fed: Fed) -> None:
    fed.admit(b"a", b"b", b"c")
    fed.fed()
    jobs = fed.pool.jobs()
    fed.feeder.returned(jobs)
    assert sorted(fed.fed()) == [b"a", b"b", b"c"]
    again = fed.pool.jobs()[3:]
    assert not {job.take for job in jobs} & {job.take for job in again}


def test_what_was_done_after_all_is_not_fed_again(fed: Fed) -> None:
    fed.admit(b"a")
    fed.fed()
    (job,) = fed.pool.jobs()
    outcome = Outcome(job, Verdict.DONE, 1, takes=(take(b"x" * 10),), encoding="utf-8")
    assert fed.state.completion.complete([outcome]) == [Verdict.DONE]
    fed.feeder.returned([job])
    assert fed.fed() == []
    assert fed.feeder.is_empty()


def test_after_a_restart_all_that_is_queued_is_fed(fed: Fed) -> None:
    fed.admit(*(b"%d" % number for number in range(10)))
    fed.admit(b"large", size=5 * RANGE, lane=Lane.LARGE)
    fed.fed()
    fed.feeder = fed.new_feeder()
    assert len(fed.fed()) == 11


def test_a_charged_file_goes_alone(fed: Fed) -> None:
    fed.admit(b"a")
    fed.fed()
    (job,) = fed.pool.jobs()
    fed.ledger.faults.charge(job.file, job.seq, "crash", 0, 2)
    fed.feeder.landed(job)
    fed.ledger.faults.due_retries(1)
    assert fed.fed() == []
    assert [each.path for each in fed.pool.alone] == [b"a"]
    assert fed.fed() == []
    fed.feeder.landed(fed.pool.alone[0])
    assert fed.feeder.is_empty()


def test_what_is_in_no_watched_folder_is_not_fed(fed: Fed) -> None:
    fed.admit(b"a")
    fed.root = None
    assert fed.fed() == []


# ---- large texts -------------------------------------------------------------------------------


def test_the_first_range_goes_alone_and_then_all_the_others(fed: Fed) -> None:
    fed.pool.size = 10
    fed.admit(b"large", size=4 * RANGE + 10, lane=Lane.LARGE)
    assert fed.fed() == [b"large"]
    (first,) = fed.pool.jobs()
    assert (first.ranged, first.encoding) == (False, None)
    assert fed.complete(first, RANGE + 7) is Verdict.PART
    assert len(fed.fed()) == 4
    rest = fed.pool.jobs()[1:]
    assert [(job.first, job.end, job.exact) for job in rest] == [
        (RANGE + 7, 2 * RANGE, True),
        (2 * RANGE, 3 * RANGE, False),
        (3 * RANGE, 4 * RANGE, False),
        (4 * RANGE, 4 * RANGE + 10, False),
    ]
    assert {job.encoding for job in rest} == {"utf-8"}


def test_a_range_that_was_lost_is_fed_again_and_only_that(fed: Fed) -> None:
    fed.pool.size = 10
    fed.admit(b"large", size=3 * RANGE, lane=Lane.LARGE)
    fed.fed()
    fed.complete(fed.pool.jobs()[0], RANGE)
    fed.fed()
    second, third = fed.pool.jobs()[1:]
    assert fed.complete(third, 3 * RANGE) is Verdict.PART
    fed.feeder.returned([second])
    fed.fed()
    (again,) = fed.pool.jobs()[3:]
    assert (again.first, again.end) == (second.first, second.end)
    assert fed.complete(again, 2 * RANGE) is Verdict.DONE
    assert fed.feeder.is_empty()


def test_a_large_text_goes_on_after_a_restart_where_it_was(fed: Fed) -> None:
    fed.pool.size = 10
    fed.admit(b"large", size=4 * RANGE, lane=Lane.LARGE)
    fed.fed()
    fed.complete(fed.pool.jobs()[0], RANGE)
    fed.fed()
    fed.complete(fed.pool.jobs()[2], 3 * RANGE)
    fed.feeder = fed.new_feeder()
    before = len(fed.pool.jobs())
    fed.fed()
    again = fed.pool.jobs()[before:]
    assert [(job.first, job.end) for job in again] == [
        (RANGE, 2 * RANGE), (3 * RANGE, 4 * RANGE),
    ]  # fmt: skip


def test_a_large_text_admitted_anew_as_its_first_range_lands_is_begun_once(fed: Fed) -> None:
    """The report comes after the admission: twice begun, its ranges would lie over one another."""
    fed.admit(b"large", size=3 * RANGE, lane=Lane.LARGE)
    fed.fed()
    (first,) = fed.pool.jobs()
    found = Outcome(first, Verdict.DONE, 1, takes=(take(b"x" * RANGE),), encoding="utf-8")
    assert fed.state.completion.complete([found]) == [Verdict.PART]
    fed.admit(b"large", size=2 * RANGE, lane=Lane.LARGE)
    fed.fed()
    fed.feeder.landed(first)
    fed.feeder.first_range_done(first)
    fed.fed()
    assert len(fed.pool.jobs()) == 2


def test_ranges_of_an_older_admission_that_were_not_sent_yet_are_never_sent(fed: Fed) -> None:
    """They would hold up those of the newer one, and land as stale, and nobody would go on."""
    fed.pool.size = 10
    fed.admit(b"large", size=3 * RANGE, lane=Lane.LARGE)
    fed.fed()
    (first,) = fed.pool.jobs()
    found = Outcome(first, Verdict.DONE, 1, takes=(take(b"x" * RANGE),), encoding="utf-8")
    assert fed.state.completion.complete([found]) == [Verdict.PART]
    fed.feeder.returned([first])  # its worker died before it could say so
    fed.admit(b"large", size=2 * RANGE, lane=Lane.LARGE)
    fed.fed()
    assert {job.seq for job in fed.pool.jobs()[1:]} == {fed.ledger.seq}
    (again,) = fed.pool.jobs()[1:]
    assert fed.complete(again, RANGE) is Verdict.PART
    fed.fed()
    assert len(fed.pool.jobs()) == 3


def test_a_large_text_goes_on_although_a_stale_job_of_it_lands_last(fed: Fed) -> None:
    """Verified in part, admitted anew, begun anew: the older job must not hold up the ranges."""
    fed.pool.size = 10
    fed.admit(b"large", size=3 * RANGE, lane=Lane.LARGE)
    fed.fed()
    (older,) = fed.pool.jobs()
    fed.admit(b"large", size=3 * RANGE + 5, lane=Lane.LARGE)
    fed.fed()
    fed.feeder.landed(older)
    fed.feeder.go_on(older, 5)
    fed.fed()
    newer = next(job for job in fed.pool.jobs() if job.seq == fed.ledger.seq)
    stale = [job for job in fed.pool.jobs()[1:] if job is not newer]
    assert fed.complete(newer, RANGE) is Verdict.PART
    for job in stale:
        assert fed.complete(job, 3 * RANGE) is Verdict.STALE
    before = len(fed.pool.jobs())
    fed.fed()
    ranges = [job for job in fed.pool.jobs() if job.ranged and job.seq == newer.seq]
    assert len(ranges) == 3
    assert len(fed.pool.jobs()) - before <= 3


def test_large_texts_leave_a_worker_to_the_small_that_wait(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder_module, "MOST_BYTES", RANGE)  # so that a range fills a message
    fed.admit(*(b"huge-%d" % number for number in range(6)), size=9 * RANGE, lane=Lane.LARGE)
    fed.admit(*(b"old-%d" % number for number in range(3_000)), lane=Lane.BACKLOG)
    fed.pool.room = 8
    names = fed.fed()
    assert len([name for name in names if name.startswith(b"huge")]) == 1


def test_a_large_text_that_was_rewritten_to_something_larger_half_way_ends_the_daemon_not(
    fed: Fed,
) -> None:
    """Its ranges do not fit together any more; it has to begin anew, whatever they covered."""
    fed.pool.size = 10
    fed.admit(b"large", size=4 * RANGE, lane=Lane.LARGE)
    fed.fed()
    fed.complete(fed.pool.jobs()[0], RANGE + 50)
    fed.fed()
    second, third, _ = fed.pool.jobs()[1:]
    fed.complete(third, 3 * RANGE + 40, first=2 * RANGE + 90)
    fed.complete(second, 2 * RANGE + 60)
    fed.feeder = fed.new_feeder()
    fed.fed()


@given(st.integers(1, 50), st.data())
def test_the_ranges_that_are_missing_are_exactly_those_that_are_not_there(
    sevenths: int, data: st.DataObject
) -> None:
    """For ranges that begin and end where the worker cuts: at a multiple, or a little beyond."""
    size = sevenths * RANGE // 7
    inner = range(RANGE, size, RANGE)
    slack = [data.draw(st.integers(0, RANGE // 5)) for _ in inner]
    cuts = [0, *(min(size, at + more) for at, more in zip(inner, slack, strict=True)), size]
    places = dict(zip((0, *inner, size), cuts, strict=True))
    pieces = [pair for pair in itertools.pairwise(cuts) if pair[0] < pair[1]]
    covered = [piece for piece in pieces if data.draw(st.booleans())]
    missing = feeder_module._missing(covered, size, RANGE)
    worked = [
        (first if exact else places[first], size if end >= size else places[end])
        for first, end, exact in missing
    ]
    nonempty = [piece for piece in worked if piece[0] < piece[1]]
    assert sorted(covered + nonempty) == pieces


def test_a_log_that_grew_is_compared_at_its_end_only_and_later_as_a_whole(fed: Fed) -> None:
    size = 5 * RANGE
    fed.admit(b"log", size=size)
    fed.fed()
    (job,) = fed.pool.jobs()
    takes = (take(b"x" * (size - 100)), take(b"x" * 100, size - 100))
    done = Outcome(job, Verdict.DONE, 1, takes=takes, encoding="utf-8")
    assert fed.state.completion.complete([done]) == [Verdict.DONE]
    fed.feeder.landed(job)
    fed.admit(b"log", size=size + 50)
    fed.fed()
    again = fed.pool.jobs()[-1]
    assert (again.trusted, len(again.known)) == (size - 100, 2)
    assert again.skimmed
    more = take(b"x" * 150, size - 100)
    grown = Outcome(
        again, Verdict.DONE, 1, keep_to=size - 100, takes=(more,), encoding="utf-8",
        fingerprint=again.fingerprint,
    )  # fmt: skip
    assert fed.state.completion.complete([grown]) == [Verdict.DONE]
    fed.feeder.landed(again)
    assert fed.ledger.to_compare(time.time_ns() + 50 * 10**9) == []
    due = fed.ledger.to_compare(time.time_ns() + 61 * 10**9)
    fed.feeder.compare(due)
    assert fed.fed() == [b"log"]
    fed.feeder.compare(due)  # a second later, while it is in flight
    assert fed.fed() == []
    whole = fed.pool.jobs()[-1]
    assert (whole.trusted, whole.skimmed, len(whole.known)) == (0, False, 2)


def test_verifying_goes_on_from_where_it_was(fed: Fed) -> None:
    fed.admit(b"a")
    fed.fed()
    (job,) = fed.pool.jobs()
    fed.feeder.landed(job)
    fed.feeder.go_on(job, 5)
    assert fed.fed() == [b"a"]
    again = fed.pool.jobs()[-1]
    assert again.trusted == 5
    assert again.take != job.take


def test_an_image_is_told_of_its_last_copy(fed: Fed) -> None:
    fed.admit(b"a.png", kind=Kind.IMAGE)
    fed.fed()
    (job,) = fed.pool.jobs()
    done = Outcome(job, Verdict.DONE, 1, digest=b"d", output=b"/out/a.png")
    assert fed.state.completion.complete([done]) == [Verdict.DONE]
    fed.feeder.landed(job)
    fed.admit(b"a.png", kind=Kind.IMAGE)
    fed.fed()
    again = fed.pool.jobs()[-1]
    assert (again.digest, again.output) == (b"d", b"/out/a.png")
    assert fed.ledger.counts() == {State.QUEUED: 1}
    assert os.path.basename(again.path) == b"a.png"


# ---- other rules ---------------------------------------------------------------------------------


def test_what_waits_to_go_again_goes_for_the_root_that_its_file_lies_in_now(fed: Fed) -> None:
    fed.admit(b"a")
    fed.fed()
    (job,) = fed.pool.jobs()
    fed.feeder.returned([job])
    fed.root = b"/"
    fed.feeder.rules_changed()
    fed.feeder.fill()
    (again,) = fed.pool.jobs()[1:]
    assert (again.root, again.file) == (b"/", job.file)
    fed.root = None
    fed.feeder.returned([again])
    fed.feeder.rules_changed()
    assert fed.fed() == []
    assert fed.feeder.is_empty()

"""Blame is exact, and fair: what a worker died of is charged to one take, or to nobody."""

from __future__ import annotations

import signal

import pytest

from dropmill import blame
from dropmill.blame import READ_RATE, Blame, Killed, Returned, Sentence
from dropmill.job import Fingerprint, Job, Kind
from dropmill.slots import Phase, Slot
from dropmill.worker import EXIT_OUT_OF_MEMORY

FINGERPRINT = Fingerprint(1, 2, 3, 4, 0)
JOBS = [Job(take, take, take, Kind.TEXT, b"/r", b"%d" % take, FINGERPRINT) for take in (1, 2, 3)]


def slot(take: int, phase: Phase = Phase.WORKING, message: int = 9) -> Slot:
    return Slot(phase, 1234, message, take, take, 0.0)


def test_a_crash_charges_the_take_in_hand_and_gives_the_others_back() -> None:
    killed, returned = Blame(1, 1).of(None, slot(2), -signal.SIGSEGV, JOBS)
    assert killed == Killed(JOBS[1], "its worker was killed by SIGSEGV", True)
    assert returned == Returned([JOBS[0], JOBS[2]])


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM])
def test_a_kill_from_outside_charges_nobody(code: int) -> None:
    killed, _ = Blame(1, 1).of(None, slot(2), code, JOBS)
    assert isinstance(killed, Killed)
    assert not killed.charged


def test_a_sentence_is_charged_to_the_take_it_was_for() -> None:
    killed, _ = Blame(1, 1).of(Sentence(9, 2, "too slow"), slot(2), -signal.SIGKILL, JOBS)
    assert killed == Killed(JOBS[1], "too slow", True)


@pytest.mark.parametrize(
    "sentence", [Sentence(9, 1, "too slow"), Sentence(8, 2, "too slow"), Sentence(9, 2, None)]
)
def test_a_sentence_for_another_take_or_for_nobodys_fault_charges_nobody(
    sentence: Sentence,
) -> None:
    assert Blame(1, 1).of(sentence, slot(2), -signal.SIGKILL, JOBS) == [Returned(JOBS)]


def test_who_died_of_itself_before_the_kill_is_blamed_for_that() -> None:
    sentence = Sentence(9, 1, "too slow")
    killed, _ = Blame(1, 1 << 30).of(sentence, slot(2), EXIT_OUT_OF_MEMORY, JOBS)
    assert killed == Killed(JOBS[1], "needs more memory than limits.memory (1GiB)", True)


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.COMMITTING, Phase.FREE])
def test_a_death_outside_of_work_charges_nobody(phase: Phase) -> None:
    assert Blame(1, 1).of(Sentence(9, 2, "too slow"), slot(2, phase), -9, JOBS) == []


def test_a_large_file_may_take_as_long_as_a_slow_disk_needs_to_read_it() -> None:
    limits = Blame(timeout=10, memory=1 << 20)
    assert limits.excess(9, 0, 0) is None
    assert limits.excess(11, 0, 0) == "took longer than limits.timeout (10 s)"
    assert limits.excess(11, 2 * READ_RATE, 0) is None


def test_too_much_memory_is_told_rather_than_the_time_it_took() -> None:
    limits = Blame(timeout=10, memory=1 << 20)
    for seconds in (1, 11):
        assert limits.excess(seconds, 0, 2 << 20) == "needs more memory than limits.memory (1MiB)"


def test_a_count_of_kernel_kills_that_could_not_be_read_blames_nobody_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter([2, 3, 0, 3, 4])
    monkeypatch.setattr(blame, "_out_of_memory_kills", lambda: next(counts))
    made = Blame(1, 1)
    deaths = [made.of(None, slot(2), -signal.SIGKILL, JOBS)[0] for _ in range(4)]
    charged = [death.charged for death in deaths if isinstance(death, Killed)]
    assert charged == [True, False, False, True]

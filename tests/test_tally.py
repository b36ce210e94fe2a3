"""What is told of files as they are done: each at a trickle, a summary of a burst."""

from __future__ import annotations

import logging

import pytest

from dropmill import tally as tally_module
from dropmill.job import Fingerprint, Job, Kind, Report, Verdict
from dropmill.tally import SUMMARY_EVERY, TRICKLE, Tally


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tally_module, "time", made)
    return made


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "dropmill")
    return caplog


def add(
    tally: Tally,
    verdict: Verdict = Verdict.DONE,
    path: bytes = b"a",
    reason: str | None = None,
    keywords: dict[str, list[int]] | None = None,
    size: int = 1000,
) -> None:
    mark = Fingerprint(1, size, 0, 0, 0)
    job = Job(1, 1, 1, Kind.TEXT, b"/inbox", path, mark)
    tally.add(job, Report(1, 1, verdict, reason, False, 0, keywords or {}))


def test_at_a_trickle_each_file_gets_a_line(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    for number in range(5):
        add(tally, path=b"%d" % number)
        clock.now += 1
    assert [line.getMessage() for line in lines.records] == [
        f"/inbox/{number}: text taken in" for number in range(5)
    ]


def test_a_burst_is_summed_up_and_nothing_is_told_twice(
    clock: Clock, lines: pytest.LogCaptureFixture
) -> None:
    tally = Tally()
    for _ in range(1_500):
        add(tally)
    assert len(lines.records) == TRICKLE
    tally.tick(clock.now + SUMMARY_EVERY)
    tally.tick(clock.now + 2 * SUMMARY_EVERY)
    assert [line.getMessage() for line in lines.records[TRICKLE:]] == ["and 1,480 taken in"]
    assert tally.finished == 1_500


def test_what_went_wrong_is_told_in_a_burst_too_with_its_reason(
    clock: Clock, lines: pytest.LogCaptureFixture
) -> None:
    tally = Tally()
    for _ in range(100):
        add(tally)
    add(tally, Verdict.QUARANTINED, b"bad", "412 megapixels")
    assert lines.records[-1].levelno == logging.WARNING
    assert lines.records[-1].getMessage() == "/inbox/bad: text quarantined: 412 megapixels"


def test_hits_of_the_watch_list_are_told_in_a_burst_too(
    clock: Clock, lines: pytest.LogCaptureFixture
) -> None:
    tally = Tally()
    for _ in range(100):
        add(tally)
    add(tally, keywords={"invoice": [3, 17], "due": list(range(1, 30))})
    told = [line.getMessage() for line in lines.records[-2:]]
    assert told[0] == '/inbox/a: keyword "invoice" in line 3, 17'
    assert told[1] == '/inbox/a: keyword "due" in line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...'


def test_names_cannot_forge_a_line(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    add(tally, path=b"x\n\x1b[31mforged\xff")
    (line,) = lines.records
    assert "\n" not in line.getMessage()
    assert "\x1b" not in line.getMessage()


def test_what_is_no_end_is_not_counted(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    for verdict in (Verdict.PART, Verdict.BUSY, Verdict.CHANGED, Verdict.VANISHED,
                    Verdict.VERIFYING, Verdict.STALE, Verdict.RETRY):  # fmt: skip
        add(tally, verdict, reason="r")
    assert tally.finished == 0
    assert [line.levelno for line in lines.records] == [logging.WARNING]


def test_throughput_is_that_of_the_last_minute(clock: Clock) -> None:
    tally = Tally()
    for _ in range(600):
        add(tally, size=6_000)
    assert tally.throughput() == {"files_per_second": 10.0, "bytes_per_second": 60_000}
    clock.now += 61
    assert tally.throughput() == {"files_per_second": 0, "bytes_per_second": 0}

"""Why nothing new is taken, and that it goes on by itself."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from dropmill import pauses as pauses_module
from dropmill.pauses import Pauses


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pauses_module, "time", made)
    return made


@pytest.fixture
def pauses(folder: bytes, clock: Clock) -> Pauses:
    return Pauses([folder], 0)


def test_a_person_pauses_and_resumes(pauses: Pauses) -> None:
    assert pauses.reason() is None
    pauses.by_hand(True)
    assert "dropmill resume" in (pauses.reason() or "")
    pauses.tick(0)
    assert pauses.reason() is not None
    pauses.by_hand(False)
    assert pauses.reason() is None


def test_a_fault_of_the_machine_passes_by_itself_and_waits_longer_each_time(
    pauses: Pauses, clock: Clock
) -> None:
    waits = []
    for _ in range(10):
        pauses.machine("the disk is full")
        assert pauses.reason() == "the disk is full"
        began = clock.now
        while pauses.reason() is not None:
            clock.now += 0.05
        waits.append(clock.now - began)
    for wait, wanted in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60), strict=True):
        assert 0.7 * wanted <= wait <= 1.3 * wanted + 0.1


def test_a_message_that_went_well_after_the_pause_ends_the_waiting(
    pauses: Pauses, clock: Clock
) -> None:
    for _ in range(5):
        pauses.machine("the disk is full")
    clock.now += 100
    pauses.worked()
    pauses.machine("the disk is full")
    clock.now += 1.5
    assert pauses.reason() is None


def test_a_message_that_was_under_way_does_not_end_a_pause_that_has_just_begun(
    pauses: Pauses,
) -> None:
    """Or images that find no room and texts that do would spin, and fill the log."""
    pauses.machine("the disk is full")
    pauses.worked()
    assert pauses.reason() == "the disk is full"


def test_too_little_room_pauses_and_says_how_much_there_is(folder: bytes, clock: Clock) -> None:
    status = os.statvfs(folder)
    left = status.f_bavail * status.f_frsize
    pauses = Pauses([folder], left * 2)
    pauses.tick(0)
    reason = pauses.reason() or ""
    assert os.fsdecode(folder) in reason
    assert "limits.free" in reason
    assert "MiB free" in reason


def test_enough_room_is_no_reason_and_a_folder_that_is_not_there_yet_is_none_either(
    folder: bytes, clock: Clock
) -> None:
    pauses = Pauses([folder, folder + b"/not/yet"], 1)
    pauses.tick(0)
    assert pauses.reason() is None


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EACCES])
def test_a_disk_that_cannot_be_asked_is_a_reason_to_pause_until_it_can(
    folder: bytes, clock: Clock, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(_: bytes) -> os.statvfs_result:
        raise OSError(code, os.strerror(code))

    pauses = Pauses([folder], 0)
    with monkeypatch.context() as broken:
        broken.setattr(os, "statvfs", fails)
        pauses.tick(0)
    assert os.strerror(code) in (pauses.reason() or "")
    assert os.fsdecode(folder) in (pauses.reason() or "")
    pauses.tick(1)
    assert pauses.reason() is None


def test_a_folder_removed_while_its_disk_is_asked_is_no_fault(
    folder: bytes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made again by whoever writes into it next."""
    asked = os.statvfs
    there = folder + b"/copies"
    os.mkdir(there)

    def raced(path: bytes) -> os.statvfs_result:
        if os.path.isdir(there):
            os.rmdir(there)
        return asked(path)

    monkeypatch.setattr(os, "statvfs", raced)
    pauses = Pauses([there], 0)
    pauses.tick(0)
    assert pauses.reason() is None


def test_a_pause_and_its_end_are_each_told_once(
    pauses: Pauses, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dropmill"):
        for _ in range(3):
            pauses.machine("the disk is full")
            pauses.tick(0)
        clock.now += 100
        pauses.worked()
        for _ in range(3):
            pauses.tick(0)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.startswith("paused")]) == 1
    assert len([line for line in lines if line.startswith("going on")]) == 1


def test_a_pause_by_hand_is_told_and_so_is_its_end(
    pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dropmill"):
        pauses.by_hand(True)
        pauses.by_hand(True)
        pauses.by_hand(False)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["paused", "going on"]

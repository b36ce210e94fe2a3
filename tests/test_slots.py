"""Slots tell what a worker had in hand, also after its death and the daemon's."""

from __future__ import annotations

import multiprocessing
import os
import signal

from dropmill.slots import SLOTS, Phase, Slot, Slots

from .polling import eventually

WORKING = Slot(Phase.WORKING, 1234, 2**60, 2**63 - 1, 2**40, 12345.678, 2**50)
OTHER = Slot(Phase.WAITING, 4321, 2**59, 7, 3, 67890.123, 2**40)


def test_what_one_writes_another_reads(folder: bytes) -> None:
    writer, reader = Slots(folder), Slots(folder)
    writer.write(3, WORKING)
    assert reader.read(3) == WORKING
    assert reader.read(2).phase is reader.read(4).phase is Phase.FREE
    writer.close()
    reader.close()


def test_slots_outlive_the_daemon(folder: bytes) -> None:
    slots = Slots(folder)
    slots.write(0, WORKING)
    slots.write(SLOTS - 1, WORKING)
    slots.close()
    again = Slots(folder)
    assert again.in_hand() == [(0, WORKING), (SLOTS - 1, WORKING)]
    again.clear(0)
    assert [number for number, _ in again.in_hand()] == [SLOTS - 1]
    again.close()


def test_of_a_slot_that_was_half_written_nobody_is_blamed(folder: bytes) -> None:
    slots = Slots(folder)
    slots.write(5, WORKING)
    with open(os.path.join(folder, b"slots"), "r+b") as file:
        file.seek(5 * 64 + 20)
        file.write(b"half")
    assert slots.read(5) == Slot(Phase.COMMITTING, 0, 0, 0, 0, 0.0)
    slots.close()


def test_a_slots_file_of_another_size_is_taken_as_it_can_be(folder: bytes) -> None:
    with open(os.path.join(folder, b"slots"), "wb") as file:
        file.write(b"\0" * 10)
    slots = Slots(folder)
    assert slots.in_hand() == []
    slots.write(SLOTS - 1, WORKING)
    slots.close()


def test_a_slots_file_of_garbage_does_not_keep_the_daemon_from_starting(folder: bytes) -> None:
    with open(os.path.join(folder, b"slots"), "wb") as file:
        file.write(b"\xff" * 64 * SLOTS)
    slots = Slots(folder)
    assert all(slot.phase in Phase for _, slot in slots.in_hand())
    slots.close()


def _work(folder: bytes) -> None:
    Slots(folder).write(7, WORKING)
    signal.pause()


def test_the_slot_of_a_killed_worker_is_as_it_was(folder: bytes) -> None:
    slots = Slots(folder)
    worker = multiprocessing.get_context("forkserver").Process(target=_work, args=(folder,))
    worker.start()
    eventually(lambda: slots.read(7).phase is Phase.WORKING, what="the worker begins")
    worker.kill()
    worker.join()
    assert slots.read(7) == WORKING
    slots.close()


def write_for_ever(folder: bytes) -> None:
    slots = Slots(folder)
    while True:
        slots.write(0, WORKING)
        slots.write(0, OTHER)


def test_a_slot_is_read_whole_while_its_worker_writes_it(folder: bytes) -> None:
    reader = Slots(folder)
    writer = multiprocessing.get_context("spawn").Process(target=write_for_ever, args=(folder,))
    writer.start()
    try:
        eventually(lambda: reader.read(0).phase is not Phase.FREE, what="the worker writes")
        seen = {reader.read(0) for _ in range(200_000)}
    finally:
        writer.kill()
        writer.join()
        reader.close()
    assert seen == {WORKING, OTHER}

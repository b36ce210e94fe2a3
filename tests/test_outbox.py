"""The outbox: what is on its way goes to one worker, or comes back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest

from dropmill.job import Fingerprint, Job, Kind
from dropmill.outbox import MESSAGES_A_WORKER, Outbox

from .polling import eventually


def job(take: int) -> Job:
    return Job(take, take, 1, Kind.TEXT, b"/inbox", b"a", Fingerprint(1, 2, 3, 4, 0))


class Maker:
    """Makes Queues as a Spawner does, and nothing else."""

    def queue(self, size: int) -> Any:
        return multiprocessing.get_context("forkserver").Queue(size)

    def lock(self) -> Any:
        return multiprocessing.get_context("forkserver").Lock()


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    made = Outbox()
    made.open(Maker(), 1)  # type: ignore[arg-type]
    yield made
    made.close()


def test_a_full_queue_takes_no_more_and_what_nobody_took_comes_back(outbox: Outbox) -> None:
    sent = [outbox.put([job(take)]) for take in range(MESSAGES_A_WORKER + 1)]
    assert sent == [True] * MESSAGES_A_WORKER + [False]
    assert not outbox.has_room()
    back: list[Job] = []

    def is_back() -> bool:
        back.extend(job for message in outbox.taken_back() for job in message.jobs)
        return len(back) == MESSAGES_A_WORKER

    eventually(is_back, what="all of it is back")
    assert back == [job(take) for take in range(MESSAGES_A_WORKER)]
    assert not outbox.messages


def test_as_many_are_asked_to_leave_as_places_are_wanted_and_one_for_a_sign(
    outbox: Outbox,
) -> None:
    outbox.ping()
    outbox.ping()
    outbox.ask_for_places(1)
    outbox.ask_for_places(1)
    first, second = (outbox.queue.get(timeout=10) for _ in range(2))
    assert (first.ping, second.ping, second.jobs) == (True, False, ())
    outbox.one_left()
    outbox.one_answered()
    outbox.ask_for_places(1)
    assert not outbox.queue.get(timeout=10).ping


def test_what_was_left_on_a_queue_of_old_comes_back_and_the_new_one_stays(outbox: Outbox) -> None:
    outbox.put([job(1)])
    eventually(lambda: not outbox.queue.empty(), what="it is on the Queue")
    outbox.open(Maker(), 1)  # type: ignore[arg-type]
    outbox.put([job(2)])
    assert outbox.close_old() == [job(1)]
    assert outbox.queue.get(timeout=10).jobs == (job(2),)
    assert outbox.close() == [job(2)]

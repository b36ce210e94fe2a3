"""The outbox: what is on its way to the workers, on a Queue that they share.

Beside jobs these are requests: to leave, so that a fresh worker has a place, and for a sign of
life. A pool that takes other settings has two Queues for a while: on the one of old nothing more is
sent, and what nobody takes from there comes back.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from typing import Any

from .job import Job
from .spawning import Spawner
from .worker import Message

MESSAGES_A_WORKER = 2


class Outbox:
    """The parent's end of the Queue, and the messages that no worker has answered yet."""

    def __init__(self) -> None:
        self.queue: Any = None
        self.messages: dict[int, tuple[Job, ...]] = {}  # by number
        self._old_queues: list[Any] = []  # workers of other settings still listen there
        self._ids = itertools.count(1)
        self._asked = 0  # requests to leave that no worker has followed yet
        self._is_asked_for_a_sign = False

    # ---- the Queue ---------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.queue is not None

    def open(self, spawner: Spawner, workers: int) -> None:
        """A fresh Queue, beside the one that there may be. Raises OSError, and changes nothing."""
        fresh = spawner.queue(MESSAGES_A_WORKER * workers)
        if self.queue is not None:
            self._old_queues.append(self.queue)
        self.queue = fresh
        self._asked, self._is_asked_for_a_sign = 0, False

    def close(self) -> list[Job]:
        """Nobody listens any more: gives all that was on its way."""
        if self.queue is not None:
            self._old_queues.append(self.queue)
            self.queue = None
        self._discard_old()
        jobs = [job for message in self.messages.values() for job in message]
        self.messages.clear()
        return jobs

    def close_old(self) -> list[Job]:
        """Nobody listens to earlier Queues any more: gives what one who died left there."""
        left = [message for old in self._old_queues for message in _emptied(old)]
        self._discard_old()
        return [job for message in left for job in self.messages.pop(message.id, ())]

    def _discard_old(self) -> None:
        while self._old_queues:
            old = self._old_queues.pop()
            old.cancel_join_thread()
            old.close()

    # ---- what is sent ------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self.queue is not None and not self.queue.full()

    def put(self, jobs: list[Job]) -> bool:
        """Sends jobs as one message; False when the Queue is full."""
        message = self.message(jobs)
        self.messages[message.id] = message.jobs
        if not self._send(message):
            del self.messages[message.id]
            return False
        return True

    def message(self, jobs: list[Job]) -> Message:
        """One that is not sent; whoever hands it over puts it into `messages`."""
        return Message(next(self._ids), tuple(jobs))

    def ask_to_leave(self) -> bool:
        """Asks one worker, whichever gets it."""
        return self._send(self.message([]))

    def ask_for_places(self, wanted: int) -> None:
        """Asks one more worker to leave, where fewer than `wanted` were asked to."""
        if self.queue is not None and self._asked < wanted and self.ask_to_leave():
            self._asked += 1

    def one_left(self) -> None:
        """A worker left as it was asked to."""
        self._asked = max(0, self._asked - 1)

    def ping(self) -> None:
        """Asks for a sign of life, unless that is asked already."""
        if self.queue is not None and not self._is_asked_for_a_sign:
            self._is_asked_for_a_sign = self._send(self.message([])._replace(ping=True))

    def one_answered(self) -> None:
        self._is_asked_for_a_sign = False

    def _send(self, message: Message) -> bool:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(message)
            return True
        return False

    def taken_back(self) -> list[Message]:
        """What nobody began, off the Queue again; requests are to be made anew."""
        taken = _emptied(self.queue)
        self._asked -= sum(not message.jobs and not message.ping for message in taken)
        self._is_asked_for_a_sign &= not any(message.ping for message in taken)
        for message in taken:
            self.messages.pop(message.id, None)
        return taken


def _emptied(messages: Any) -> list[Message]:
    """What was on a Queue."""
    taken = []
    with contextlib.suppress(queue.Empty):
        while True:
            taken.append(messages.get(timeout=0.05))
    return taken

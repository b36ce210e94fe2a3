"""The outbox: what is on its way to the workers, on a Queue that they share.

Beside jobs these are requests: to leave, so that a fresh worker has a place, and for a sign of
life. A pool that takes other settings has two Queues for a while: on the one of old nothing more is
sent, and what nobody takes from there comes back.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections.abc import Collection
from typing import Any

from .job import Job
from .spawning import Spawner
from .worker import Message

MESSAGES_A_WORKER = 2


class Outbox:
    """The parent's end of the Queue, and the messages that no worker has answered yet."""

    def __init__(self) -> None:
        self.queue: Any = None
        self.lock: Any = None  # the Lock, which those who listen share
        self.messages: dict[int, tuple[Job, ...]] = {}  # by number
        # Workers of other settings still listen there. Who is only just starting opens both by
        # their names, which last as long as these.
        self._old: list[tuple[Any, Any]] = []
        self._ids = itertools.count(1)
        self._asked = 0  # requests to leave that no worker has followed yet
        self._is_asked_for_a_sign = False

    # ---- the Queue ---------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.queue is not None

    def open(self, spawner: Spawner, workers: int) -> None:
        """A fresh Queue and Lock, beside those that there may be.

        Raises OSError, and changes nothing.
        """
        fresh = spawner.queue(MESSAGES_A_WORKER * workers), spawner.lock()
        self._set_aside()
        self.queue, self.lock = fresh
        self._asked, self._is_asked_for_a_sign = 0, False

    def close(self) -> list[Job]:
        """Nobody listens any more: gives all that was on its way."""
        self._set_aside()
        self._discard_old()
        jobs = [job for message in self.messages.values() for job in message]
        self.messages.clear()
        return jobs

    def close_old(self) -> list[Job]:
        """Nobody listens to earlier Queues any more: gives what one who died left there."""
        left = [message for old, _ in self._old for message in _emptied(old)]
        self._discard_old()
        return [job for message in left for job in self.messages.pop(message.id, ())]

    def _set_aside(self) -> None:
        if self.queue is not None:
            self._old.append((self.queue, self.lock))
        self.queue = self.lock = None

    def _discard_old(self) -> None:
        while self._old:
            old, _ = self._old.pop()
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

    def sort_out(self, roots: Collection[bytes]) -> list[Job]:
        """Takes what is of these roots, which hang, off the Queue, before one more worker waits."""
        returned: list[Job] = []
        for message in self.taken_back():
            others = [job for job in message.jobs if job.root not in roots]
            returned += [job for job in message.jobs if job.root in roots]
            if others and not self.put(others):
                returned += others
        return returned


def _emptied(messages: Any) -> list[Message]:
    """What was on a Queue."""
    taken = []
    with contextlib.suppress(queue.Empty):
        while True:
            taken.append(messages.get(timeout=0.05))
    return taken

"""Spawning: how workers come to be, and what they share; by a fork server, never by fork.

A fork of this process would carry watchdog's threads and watches along.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import Any

from . import fork_server
from .worker import Message, WorkerSettings, main
from .worker_handle import WorkerHandle

LONGEST_DELAY = 60.0
_FREE_DEATHS = 8
_DESCRIPTORS = 12  # pipes, a socket, a handle; more than it takes


class Spawner:
    """Makes what a generation is made of. All methods raise OSError where the machine cannot."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._context = fork_server.CONTEXT
        fork_server.begin()

    def queue(self, size: int) -> Any:
        """A Queue for so many messages."""
        return self._context.Queue(size)

    def lock(self) -> Any:
        return self._context.Lock()

    def worker(self, number: int, queue: Any, lock: Any, first: Message | None) -> WorkerHandle:
        """Raises EOFError too: where the fork server died over it."""
        _need_descriptors()
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=main,
            args=(number, self._settings, queue, lock, theirs, first),
            name=f"dropmill-worker-{number}",
            daemon=True,
        )
        try:
            process.start()
            return WorkerHandle(number, process, ours)
        except BaseException:
            ours.close()
            if process.pid is not None:
                process.kill()
                process.join(10)
            raise
        finally:
            theirs.close()


def _need_descriptors() -> None:
    """Raises OSError where there are too few.

    Noticed half-way, it would kill the fork server, which does not bear a client that hangs up.
    """
    with contextlib.ExitStack() as opened:
        for _ in range(_DESCRIPTORS):
            opened.callback(os.close, os.open("/", os.O_PATH | os.O_CLOEXEC))


def delay(times: int) -> float:
    """Seconds to wait after so many waits in a row: 1 doubling to 60, jittered."""
    return min(LONGEST_DELAY, 2.0 ** min(times, 6) * random.uniform(1.0, 1.5))


class Deaths:
    """Workers that died since a message was finished, and how long their successors wait."""

    def __init__(self) -> None:
        self._recent: list[float] = []

    def one_more(self) -> float:
        """Seconds until the next start: nothing for the first deaths, then 1 doubling to 60."""
        now = time.monotonic()
        recent = [death for death in self._recent if now - death < 2 * LONGEST_DELAY]
        self._recent = [*recent, now]
        return 0.0 if len(recent) < _FREE_DEATHS else delay(len(recent) - _FREE_DEATHS)

    def forget(self) -> None:
        self._recent.clear()

"""Waiting for the first of a few ends (sockets, pipes, descriptors) that can be read.

`multiprocessing.connection.wait` does the same, and sets up a selector each time: 0.1 ms for what
an idle service does every second and a busy one for every message.
"""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import Any


class Waiting:
    """Keeps what it takes to wait, as long as the ends are the same."""

    def __init__(self) -> None:
        self._ends: list[Any] = []
        self._selector = selectors.PollSelector()

    def ready(self, ends: Sequence[Any], seconds: float) -> list[Any]:
        """Those that can be read, or were hung up; waits at most so long for the first."""
        if self._ends != [*ends]:
            self._ends = [*ends]
            self._selector = selectors.PollSelector()
            for end in ends:
                self._selector.register(end, selectors.EVENT_READ)
        return [key.fileobj for key, _ in self._selector.select(seconds)]

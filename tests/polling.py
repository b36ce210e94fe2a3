"""Waiting in tests: always for a condition, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    *,
    seconds: float = 20,
    what: str = "condition",
    every: float = 0.01,
) -> T:
    """What `condition` gives as soon as that is true; fails the test when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s (last seen: {value!r})")
        time.sleep(every)

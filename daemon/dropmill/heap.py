"""The C library's heap: what of it is kept between two uses, and when it is given back.

glibc asks the kernel for each large buffer anew, and the kernel clears it page by page: 12,000
page faults, a quarter of the time, for the coefficients of one photograph. Where the C library is
another one, nothing is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_KEPT = 128 << 20  # bytes that may stay free at the heap's end
_LARGE = 32 << 20  # the most that glibc takes; as it would come to by itself in time
_USUAL_MMAPS = 65_536


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What is allocated here lies in the heap, whatever its size, and stays when it is freed."""
    tune = _tune()
    if tune is None:
        yield
        return
    tune(_MMAP_MAX, 0)
    try:
        yield
    finally:
        tune(_MMAP_MAX, _USUAL_MMAPS)


def give_back() -> None:
    """Gives the kernel what `kept` has kept."""
    if _tune.cache_info().currsize and _tune() is not None:
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _tune() -> Callable[[int, int], int] | None:
    """`mallopt`, and at the first call the thresholds, which no longer adapt once one is set."""
    tune: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_TRIM_THRESHOLD, _KEPT)
        tune(_MMAP_THRESHOLD, _LARGE)
    return tune

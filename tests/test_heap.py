"""The heap: large buffers that are kept between two uses, and given back."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator

import pytest

from dropmill import heap

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = (ctypes.c_size_t,)
LIBC.free.argtypes = (ctypes.c_void_p,)
SIZE = 40 << 20  # more than glibc would ever take from the heap by itself
PAGES = SIZE // resource.getpagesize()

pytestmark = pytest.mark.skipif(not hasattr(LIBC, "mallopt"), reason="the C library is not glibc")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    heap.give_back()
    yield
    heap.give_back()


def faults_of_a_large_buffer() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = LIBC.malloc(SIZE)
    ctypes.memset(buffer, 1, SIZE)
    LIBC.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_large_buffer_is_faulted_in_once() -> None:
    with heap.kept():
        faults_of_a_large_buffer()
    with heap.kept():
        assert faults_of_a_large_buffer() < PAGES // 100


def test_what_was_kept_is_given_back() -> None:
    with heap.kept():
        faults_of_a_large_buffer()
    heap.give_back()
    with heap.kept():
        assert faults_of_a_large_buffer() > PAGES // 20  # huge pages make fewer


def test_a_heap_that_grew_very_large_is_not_kept() -> None:
    with heap.kept():
        buffers = [LIBC.malloc(SIZE) for _ in range(4)]
        for buffer in buffers:
            ctypes.memset(buffer, 1, SIZE)
        for buffer in buffers:
            LIBC.free(buffer)
        assert faults_of_a_large_buffer() > PAGES // 20


def test_without_mallopt_all_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_tune", lambda: None)
    with heap.kept():
        assert LIBC.malloc(0)

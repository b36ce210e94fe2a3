"""libjpeg-turbo's TurboJPEG library, where the system has it: a JPEG's luma without its chroma.

The transform takes the luma's coefficients as they are, so nothing is lost, and neither the
cosine transform nor its inverse is worked out. What is called has been there since TurboJPEG 2.0,
and is in 3 as well (turbojpeg.h, whose numbers these are).

Its coder writes nonsense where a coefficient is too large for a JPEG. Only damage makes such, and
that libjpeg nearly always sees: of 1,800 baseline files with flipped bits or lost sectors that it
took for sound, 5 had one (in progressive ones 17 of 1,200). Then the copy is worse than its source.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager

from ... import heap

# The first is what Debian, Fedora, Alpine and their like have; no tool is asked for others.
_NAMES = ("libturbojpeg.so.0", "libturbojpeg.so")
_GRAY, _COPY_NO_MARKERS = 8, 64
_STOP_ON_WARNING = 8192


class _Transform(ctypes.Structure):
    _fields_ = (
        ("region", ctypes.c_int * 4),
        ("operation", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, looked for once: a worker that is shut in could not open it any more."""
    for name in _NAMES:
        try:
            found = ctypes.CDLL(name)
            _declare(found)
        except (OSError, AttributeError):  # AttributeError: older than 2.0
            continue
        return found
    return None


def _declare(found: ctypes.CDLL) -> None:
    handle, buffer, size = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong
    found.tjInitTransform.restype = handle
    found.tjInitTransform.argtypes = ()
    found.tjTransform.argtypes = (
        *(handle, ctypes.c_char_p, size, ctypes.c_int),
        *(ctypes.POINTER(buffer), ctypes.POINTER(size)),
        *(ctypes.POINTER(_Transform), ctypes.c_int),
    )
    found.tjFree.argtypes = (buffer,)
    found.tjDestroy.argtypes = (handle,)
    found.tjGetErrorCode.argtypes = (handle,)  # it came with the flag to stop on warnings


def luma(jpeg: bytes) -> bytes | None:
    """A whole, baseline JPEG of the luma alone, without metadata.

    None where there is no library, or where it has any doubt: the chroma is not to be separated,
    something is damaged, memory ran out.
    """
    turbo = library()
    if turbo is None:
        return None
    with heap.kept(), _handle(turbo) as handle:
        made, size = ctypes.c_void_p(), ctypes.c_ulong()
        transform = _Transform(options=_GRAY | _COPY_NO_MARKERS)
        parts = ctypes.byref(made), ctypes.byref(size), ctypes.byref(transform)
        try:
            if turbo.tjTransform(handle, jpeg, len(jpeg), 1, *parts, _STOP_ON_WARNING):
                return None
            return ctypes.string_at(made, size.value)
        except MemoryError:
            return None
        finally:
            turbo.tjFree(made)


@contextmanager
def _handle(turbo: ctypes.CDLL) -> Iterator[int | None]:
    """What the library works with; a new one each time, as one that failed may be half-way."""
    handle = turbo.tjInitTransform()
    try:
        yield handle
    finally:
        if handle:
            turbo.tjDestroy(handle)

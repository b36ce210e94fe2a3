"""What the image formats share: how large is too large, and reads and writes that are whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple, cast

from ...errors import FileFault

# Frames are read one by one, so all of them together cost time, not memory: an animation or a
# scanned book may hold this many times the pixels that one picture may.
FRAMES_FACTOR = 16
# Pillow says "out of memory" of a row whose bits are more than an int counts.
SIDE_MAX = 1 << 24
_BLOCK = 1 << 20


class Copied(NamedTuple):
    """The size in pixels of what was copied, as stored: not turned by its orientation."""

    width: int
    height: int


class WholeWrites:
    """A target for Pillow that hides the descriptor.

    Pillow's encoders write to a descriptor themselves and take a short write for a whole one
    (`_encode_to_file` in encode.c), so a disk that fills up in the last block went unseen.
    """

    def __init__(self, target: BinaryIO) -> None:
        self._target = target

    def as_file(self) -> BinaryIO:
        """Itself, for those who ask for a file but write, read, seek and tell at most."""
        return cast("BinaryIO", self)

    def write(self, data: bytes | memoryview) -> int:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._target.write(rest) :]
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self._target.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._target.seek(offset, whence)

    def tell(self) -> int:
        return self._target.tell()

    def flush(self) -> None:
        self._target.flush()


def check_size(sizes: Iterable[tuple[int, int]], pixels: int) -> None:
    """Refuses what would be too large once decoded, before it is.

    Takes (width, height) of every frame; `pixels` is for the largest of them, and
    FRAMES_FACTOR times as much for all. Raises FileFault.
    """
    sizes = list(sizes)
    areas = [width * height for width, height in sizes]
    largest, total = max(areas, default=0), sum(areas)
    if not largest:
        raise FileFault("no image in it")
    if largest > pixels:
        raise FileFault(f"{_mega(largest)}, above limits.pixels ({_short(pixels)})")
    if (side := max(max(size) for size in sizes)) > SIDE_MAX:
        raise FileFault(f"{side:,} pixels wide or high, above {SIDE_MAX:,}")
    if total > pixels * FRAMES_FACTOR:
        raise FileFault(
            f"{len(areas):,} frames of together {_mega(total)}, "
            f"above {FRAMES_FACTOR} times limits.pixels ({_short(pixels)})"
        )


def _mega(pixels: int) -> str:
    return f"{math.ceil(pixels / 1e5) / 10:,.1f}".removesuffix(".0") + " megapixels"


def _short(pixels: int) -> str:
    for factor, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if pixels >= factor and pixels % factor == 0:
            return f"{pixels // factor}{letter}"
    return str(pixels)


def read_whole(source: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes; raises FileFault where the file ends before."""
    data = source.read(size)
    if len(data) < size:
        raise FileFault("truncated: it ends in the middle of the image")
    return data


def copy_bytes(source: BinaryIO, target: WholeWrites) -> None:
    """The whole source, byte for byte."""
    source.seek(0)
    while block := source.read(_BLOCK):
        target.write(block)

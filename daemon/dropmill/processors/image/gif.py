"""GIF: its colour tables are made gray, and nothing else is touched.

Its pixels are numbers into colour tables, so the copy keeps every frame, its place, timing,
disposal, transparency and compressed data, byte for byte, at the speed of copying. (Pillow's
writer would hold all frames, join equal ones and lose their disposal.)
Reference: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from ...errors import FileFault
from .parts import Copied, WholeWrites, check_size, read_whole

_HEADER_SIZE = 13
_EXTENSION, _IMAGE, _TRAILER = b"\x21", b"\x2c", b"\x3b"


def copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    """Writes the gray copy (of a gray source: byte for byte the same)."""
    size, sizes = (0, 0), []
    for number, data in enumerate(_blocks(source)):
        if number == 0:
            size = struct.unpack("<HH", data[6:10])
        elif data.startswith(_IMAGE):
            sizes.append(struct.unpack("<HH", data[5:9]))
    check_size([size, *sizes] if sizes else [], pixels)
    for data in _blocks(source):
        target.write(data)
    return Copied(*size)


def _blocks(source: BinaryIO) -> Iterator[bytes]:
    """The file in pieces that follow one another, its colour tables gray."""
    source.seek(0)
    header = read_whole(source, _HEADER_SIZE)
    yield header + _gray_table(source, header[10])
    while (kind := read_whole(source, 1)) != _TRAILER:
        if kind == _IMAGE:
            place = read_whole(source, 9)
            yield kind + place + _gray_table(source, place[8]) + read_whole(source, 1)
        elif kind == _EXTENSION:
            yield kind + read_whole(source, 1)
        else:
            raise FileFault("damaged: something that is no GIF block in the middle of it")
        yield from _sub_blocks(source)
    yield kind


def _sub_blocks(source: BinaryIO) -> Iterator[bytes]:
    size = b"\1"
    while size != b"\0":
        size = read_whole(source, 1)
        yield size + read_whole(source, size[0])


def _gray_table(source: BinaryIO, flags: int) -> bytes:
    """The colour table that `flags` announces, in gray; nothing where it announces none."""
    if not flags & 0x80:
        return b""
    table = read_whole(source, 3 << (flags & 7) + 1)
    triples = zip(table[0::3], table[1::3], table[2::3], strict=True)
    # As Pillow's convert("L") rounds, so that black stays 0 and white 255.
    return b"".join(
        bytes([19595 * red + 38470 * green + 7471 * blue + 0x8000 >> 16]) * 3
        for red, green, blue in triples
    )

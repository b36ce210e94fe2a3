"""PNG and animated PNG: the file is written anew chunk by chunk, and only its pixels are replaced.

To the codec each frame is a picture of its own. So timing, disposal and order stay as they were,
and one frame at a time is in memory (Pillow's writer holds all of them and joins equal ones).
Reference: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile

from ...errors import FileFault
from .gray import deep_gray, gray_profile, to_gray
from .parts import Copied, WholeWrites, check_size, copy_bytes, read_whole

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _COLOUR, _GRAY_ALPHA, _COLOUR_ALPHA = 0, 2, 4, 6
_PIXELS = (b"IDAT", b"fdAT")
# Copied though the format says "unsafe to copy": they stay true of the gray picture.
_STILL_TRUE = {b"acTL", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tIME", b"sCAL"}
_PROFILE_MAX = 1 << 24


class _Header(NamedTuple):
    """The IHDR chunk, and what else is needed to read the pixels."""

    size: tuple[int, int]
    depth: int
    colour: int
    interlace: int
    shared: bytes = b""  # PLTE and tRNS, as chunks
    colour_key: bytes | None = None  # the data of tRNS
    profile: bytes | None = None

    @property
    def is_gray(self) -> bool:
        return self.colour in (_GRAY, _GRAY_ALPHA)

    @property
    def has_alpha(self) -> bool:
        return self.colour == _COLOUR_ALPHA or self.colour_key is not None


def copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    """Writes the gray copy; of a source that is gray already, and whole, the very bytes."""
    header = _survey(source, pixels)
    source.seek(len(_SIGNATURE))
    if header.is_gray:
        for _, _, frame in _parts(source, header):
            if frame:
                PngImageFile(frame).load()
        copy_bytes(source, target)
        return Copied(*header.size)
    target.write(_SIGNATURE)
    sequence = 0
    for name, data, frame in _parts(source, header):
        if name in (b"fcTL", b"fdAT"):
            count = struct.pack(">I", sequence)
            sequence += 1
            data = count + (_gray_frame(frame, header) if frame else data[4:])
        elif frame:
            data = _gray_frame(frame, header)
        elif name == b"IHDR":
            data = _gray_header(header)
        elif name == b"iCCP":
            profile = gray_profile(header.profile, tone_of_source=header.depth == 16)
            data = b"Gray\0\0" + zlib.compress(profile) if profile else b""
        if data or name == b"IEND":
            target.write(_chunk(name, data))
    return Copied(*header.size)


def _survey(source: BinaryIO, pixels: int) -> _Header:
    """Reads all but the pixels: is it whole, is it too large, what are its colours?"""
    source.seek(0, os.SEEK_END)
    end = source.tell()
    source.seek(len(_SIGNATURE))
    header, sizes, name = None, [], b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", read_whole(source, 8))
        if source.tell() + length + 4 > end:
            raise FileFault("truncated: it ends in the middle of the image")
        if name in (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"fcTL"):
            data = source.read(length)
            source.seek(4, os.SEEK_CUR)
            if name == b"IHDR":
                header = _Header(*_unpack_header(data))
                sizes.append(header.size)
            elif header is None:
                raise FileFault("damaged: its first chunk is not the header")
            elif name == b"fcTL":
                sizes.append(struct.unpack(">II", data[4:12]))
            else:
                header = _with_chunk(header, name, data)
        else:
            source.seek(length + 4, os.SEEK_CUR)
    if header is None:
        raise FileFault("damaged: it has no header")
    check_size(sizes, pixels)
    return header


def _unpack_header(data: bytes) -> tuple[tuple[int, int], int, int, int]:
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[:13])
    return (width, height), depth, colour, interlace


def _with_chunk(header: _Header, name: bytes, data: bytes) -> _Header:
    if name == b"iCCP":
        return header._replace(profile=_unpack_profile(data))
    header = header._replace(shared=header.shared + _chunk(name, data))
    return header._replace(colour_key=data) if name == b"tRNS" else header


def _unpack_profile(data: bytes) -> bytes | None:
    packed = data.partition(b"\0")[2][1:]
    try:
        return zlib.decompressobj().decompress(packed, _PROFILE_MAX)
    except zlib.error:
        return None  # a broken profile is none


def _parts(source: BinaryIO, header: _Header) -> Iterator[tuple[bytes, bytes, io.BytesIO | None]]:
    """The chunks to be copied, in order, as (name, data, None).

    All pixels of one frame come as one part (IDAT or fdAT, nothing, a PNG file with that frame).
    """
    name, size = b"", header.size
    pending: tuple[bytes, io.BytesIO] | None = None
    while name != b"IEND":
        name, data = _read_chunk(source)
        if pending and (name in (b"fcTL", b"IEND") or (name in _PIXELS and name != pending[0])):
            pending[1].write(_chunk(b"IEND", b""))
            pending[1].seek(0)
            yield pending[0], b"", pending[1]
            pending = None
        if name in _PIXELS:
            pending = pending or (name, _frame_file(header, size))
            pending[1].write(_chunk(b"IDAT", data if name == b"IDAT" else data[4:]))
        elif _is_copied(name, header):
            if name == b"fcTL":
                size = struct.unpack(">II", data[4:12])
            yield name, data, None


def _is_copied(name: bytes, header: _Header) -> bool:
    if name == b"gAMA" and header.profile:
        return False  # the profile's stand-in for those who cannot read profiles
    is_safe_to_copy = bool(name[0] & 0x20 and name[3] & 0x20)
    return is_safe_to_copy or name in _STILL_TRUE or name in (b"IHDR", b"iCCP", b"fcTL", b"IEND")


def _read_chunk(source: BinaryIO) -> tuple[bytes, bytes]:
    length, name = struct.unpack(">I4s", read_whole(source, 8))
    data = read_whole(source, length)
    if zlib.crc32(data, zlib.crc32(name)) != int.from_bytes(read_whole(source, 4), "big"):
        raise FileFault(f"damaged: wrong checksum of its {name.decode('latin-1')} data")
    return name, data


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(name))
    return b"".join((struct.pack(">I4s", len(data), name), data, struct.pack(">I", checksum)))


def _frame_file(header: _Header, size: tuple[int, int]) -> io.BytesIO:
    """The beginning of a PNG file that holds one frame alone."""
    file = io.BytesIO()
    numbers = (*size, header.depth, header.colour, 0, 0, header.interlace)
    file.write(_SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", *numbers)) + header.shared)
    return file


def _gray_header(header: _Header) -> bytes:
    depth = 16 if header.depth == 16 else 8
    colour = _GRAY_ALPHA if header.has_alpha else _GRAY
    return struct.pack(">IIBBBBB", *header.size, depth, colour, 0, 0, 0)


def _gray_frame(frame: io.BytesIO, header: _Header) -> bytes:
    """The frame in gray, as the data of an IDAT chunk."""
    if header.depth == 16:
        gray = _deep_frame(frame, header)
    else:
        gray = to_gray(PngImageFile(frame), header.profile, alpha=header.has_alpha)
    frame.close()
    gray.info = {}
    file = io.BytesIO()
    gray.save(file, "PNG", compress_level=1)
    file.seek(len(_SIGNATURE))
    name, pieces = b"", []
    while name != b"IEND":
        name, data = _read_chunk(file)
        if name == b"IDAT":
            pieces.append(data)
    return b"".join(pieces)


def _deep_frame(frame: io.BytesIO, header: _Header) -> Image.Image:
    """Gray at 16 bits, each channel's high and low byte as two channels of 8 bits.

    To the codec a pixel is then the same bytes: LA at 8 bits is L at 16, RGBA is LA at 16.
    """
    key = header.colour_key
    opaque: list[Image.Image] = []

    def read(order: str, key_bytes: bytes | None) -> Image.Image:
        frame.seek(0)
        image = PngImageFile(frame)
        image.info = {name: image.info[name] for name in ("interlace",) if name in image.info}
        # Read as if the low byte came first, the high byte's place holds the low one.
        image.tile = [image.tile[0]._replace(args=f"{image.mode};16{order}")]
        image.load()
        if key_bytes:
            opaque.extend(
                band.point([255 * (value != wanted) for value in range(256)])
                for band, wanted in zip(image.split(), key_bytes, strict=True)
            )
        return image

    planes = deep_gray(lambda: read("B", key and key[0::2]), lambda: read("L", key and key[1::2]))
    if opaque:
        planes += [functools.reduce(ImageChops.lighter, opaque)] * 2
    return Image.merge("RGBA" if len(planes) == 4 else "LA", planes)

"""WebP: the file is written anew chunk by chunk, and only its pictures are coded again.

To the codec each frame is a file of its own, so canvas, timing, blending and disposal of an
animation stay as they were, and one frame at a time is in memory. A lossless picture stays
lossless. WebP knows no gray mode: gray is red, green and blue alike.
Reference: https://developers.google.com/speed/webp/docs/riff_container
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageChops
from PIL.WebPImagePlugin import WebPImageFile

from ...errors import FileFault
from .gray import is_visible, to_gray
from .parts import Copied, WholeWrites, check_size, copy_bytes, read_whole

_HAS_ALPHA, _HAS_PROFILE = 0x10, 0x20  # flags of VP8X
_CODED = (b"VP8 ", b"VP8L")
_PICTURE = (b"ALPH", *_CODED)
_FRAME_HEADER = 16
# The quality of the source is not recorded; for lossless pictures it is the effort spent.
_LOSSY = {"quality": 90, "method": 2}
_LOSSLESS = {"lossless": True, "exact": True, "quality": 20, "method": 2}

_Chunks = list[tuple[bytes, bytes]]


class _Survey(NamedTuple):
    canvas: tuple[int, int]
    profile: bytes | None


def copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    """Writes the gray copy; of a source that is gray already, and whole, the very bytes."""
    survey = _survey(source, pixels)
    pictures = (_decode(picture) for _, _, picture in _parts(source) if picture)
    if all(_is_gray(image, is_lossless) for image, is_lossless in pictures):
        copy_bytes(source, target)
        return Copied(*survey.canvas)
    profile = survey.profile if is_visible(survey.profile) else None
    target.write(b"RIFF\0\0\0\0WEBP")
    for name, data, picture in _parts(source):
        if picture:
            gray = _gray_picture(picture, profile)
            if name == b"ANMF":
                target.write(_chunk(name, data + b"".join(_chunk(*part) for part in gray)))
            else:
                for part in gray:
                    target.write(_chunk(*part))
        elif name == b"VP8X" and profile:
            target.write(_chunk(name, bytes([data[0] & ~_HAS_PROFILE]) + data[1:]))
        elif name != b"ICCP" or not profile:  # once brought into sRGB, no profile is meant
            target.write(_chunk(name, data))
    size = target.tell() - 8
    target.seek(4)
    target.write(struct.pack("<I", size))
    return Copied(*survey.canvas)


def _survey(source: BinaryIO, pixels: int) -> _Survey:
    canvas, profile, sizes = None, None, []
    for name, data, picture in _parts(source):
        if picture:
            sizes.append(_picture_size(picture))
            if name == b"ANMF" and sizes[-1] != (_three(data, 6), _three(data, 9)):
                raise FileFault("damaged: a frame is not of the size that is given for it")
        elif name == b"VP8X":
            canvas = _three(data, 4), _three(data, 7)
        elif name == b"ICCP":
            profile = data
    check_size([*sizes, canvas] if sizes and canvas else sizes, pixels)
    return _Survey(canvas or sizes[0], profile)


def _three(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little") + 1


def _parts(source: BinaryIO) -> Iterator[tuple[bytes, bytes, _Chunks]]:
    """The file's chunks as (name, data, nothing); a picture as (name, frame header, chunks)."""
    alpha: _Chunks = []
    for name, data in _file_chunks(source):
        if name == b"ANMF":
            picture = list(_chunks_in(io.BytesIO(data[_FRAME_HEADER:]), len(data) - _FRAME_HEADER))
            yield name, data[:_FRAME_HEADER], picture
        elif name == b"ALPH":
            alpha = [(name, data)]
        elif name in _CODED:
            yield name, b"", [*alpha, (name, data)]
        else:
            yield name, data, []


def _file_chunks(source: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    end = source.seek(0, os.SEEK_END)
    source.seek(4)
    size = int.from_bytes(read_whole(source, 4), "little")
    if size + 8 > end:
        raise FileFault("truncated: it ends in the middle of the image")
    source.seek(12)
    yield from _chunks_in(source, size - 4)


def _chunks_in(source: BinaryIO, left: int) -> Iterator[tuple[bytes, bytes]]:
    while left >= 8:
        name, size = struct.unpack("<4sI", read_whole(source, 8))
        left -= 8 + size + size % 2
        if left < -1:  # some writers leave the last padding out
            raise FileFault("damaged: a part of it is longer than the whole")
        yield name, read_whole(source, size)
        source.read(size % 2)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data + b"\0" * (len(data) % 2)


def _picture_size(picture: _Chunks) -> tuple[int, int]:
    """Width and height as the coded data says: what the decoder will make room for."""
    for name, data in picture:
        if name == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
            width, height = struct.unpack("<HH", data[6:10])
            return width & 0x3FFF, height & 0x3FFF
        if name == b"VP8L" and data[:1] == b"\x2f":
            bits = int.from_bytes(data[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise FileFault("damaged: a frame holds no picture")


def _decode(picture: _Chunks) -> tuple[Image.Image, bool]:
    """The loaded picture, and whether it was coded without loss."""
    parts = [_chunk(*part) for part in picture if part[0] in _PICTURE]
    if any(name == b"ALPH" for name, _ in picture):
        width, height = _picture_size(picture)
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        parts.insert(0, _chunk(b"VP8X", bytes([_HAS_ALPHA, 0, 0, 0]) + canvas))
    body = b"WEBP" + b"".join(parts)
    image = WebPImageFile(io.BytesIO(struct.pack("<4sI", b"RIFF", len(body)) + body))
    image.load()
    return image, any(name == b"VP8L" for name, _ in picture)


def _is_gray(image: Image.Image, is_lossless: bool) -> bool:
    """Whether the channels agree; lossy gray comes out of libwebp with a green one level off."""
    red, green, blue = image.split()[:3]
    differences = ImageChops.difference(red, green), ImageChops.difference(green, blue)
    allowed = 0 if is_lossless else 1
    return all(found.getextrema()[1] <= allowed for found in differences)  # type: ignore[operator]


def _gray_picture(picture: _Chunks, profile: bytes | None) -> _Chunks:
    """The picture in gray, as chunks; others that lie between its own are kept."""
    image, is_lossless = _decode(picture)
    alpha = image.mode == "RGBA"
    gray = to_gray(image, profile, alpha=alpha).convert("RGBA" if alpha else "RGB")
    file = io.BytesIO()
    gray.save(file, "WEBP", **(_LOSSLESS if is_lossless else _LOSSY))
    coded = [part for part in _file_chunks(file) if part[0] in _PICTURE]
    return coded + [part for part in picture if part[0] not in _PICTURE]

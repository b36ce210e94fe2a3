"""JPEG: the luma's own coefficients, or where that cannot be, its luma decoded and coded again.

The first loses nothing (`jpegtran -grayscale` does the same) and is the faster, but needs
libturbojpeg and a sound file, and memory for all coefficients. Otherwise `Image.draft` has libjpeg
skip the chroma, and the very quantisation table that the source came with gives (within rounding)
the same coefficients: 72 dB. Less, down to 56 dB, where much of a coarsely coded picture is sharp
edges between black and white: there coding overshoots, and decoding cuts that off at 0 and 255.
(Decoding such a picture at half its contrast, by smaller steps in its table, mends that, and costs
flat areas as much: 59 dB for a photograph.)
What goes with the picture (EXIF, XMP, IPTC, comments) is copied as bytes, so that even broken EXIF
survives.
"""

from __future__ import annotations

import io
import os
import re
import resource
import struct
from typing import BinaryIO

from PIL.JpegImagePlugin import JpegImageFile

from ...errors import FileFault
from . import turbojpeg
from .gray import gray_profile, is_visible, to_gray
from .parts import Copied, WholeWrites, check_size, copy_bytes

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}  # no length follows
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends a scan: no stuffing, no restart
_FIRST_WINDOW = 1 << 8  # where it nearly always is
_WINDOW = 1 << 16
_SEGMENT_MAX = 65519  # of a profile; one segment holds 65,533 bytes
# libjpeg writes APP0 anew. The rest is untrue of the copy: JUMBF (signatures, residuals) and
# Adobe's colour transform; in APP2 the profile and the index of further pictures.
_DROPPED = ("APP0", "APP11", "APP14")
_DROPPED_APP2 = (b"ICC_PROFILE\0", b"MPF\0")
# In a file that begins with SOI and JFIF's APP0:
_DENSITY_AT = 13
_AFTER_APP0 = 20
_HEAD = 256  # with the tables and the frame's header
_TRANSFORM_MAX = 192 << 20  # bytes; decoded strip by strip, 100 megapixels need 100 MB


def copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    """Writes the gray copy; of a source that is gray already, and whole, the very bytes."""
    image = JpegImageFile(source)
    check_size([image.size], pixels)
    _check_end(source)
    profile = image.info.get("icc_profile")
    if image.layers == 1:
        image.load()
        copy_bytes(source, target)
        return Copied(*image.size)
    density = image.info.get("jfif_unit"), image.info.get("jfif_density")
    segments = _segments(image.applist) + _profile_segment(gray_profile(profile))
    # CMYK has no luma, and under a profile of its own the luma is not the gray.
    has_luma = image.layers == 3 and not is_visible(profile)
    data = _worth_reading(source, image) if has_luma and _is_luma_first(image) else None
    transformed = _transformed(data, image.size) if data else None
    if transformed:
        target.write(transformed[:_AFTER_APP0] + segments)
        target.write(memoryview(transformed)[_AFTER_APP0:])
    else:
        table = image.quantization[image.layer[0][3]]
        if "progressive" in image.info and data:
            image = JpegImageFile(io.BytesIO(data))
        if has_luma:
            image.draft("L", image.size)
        image.load()
        gray = to_gray(image, profile, alpha=False)
        gray.info = {}
        # Progressive costs 8 times the coding and saves 7 % of the bytes, `optimize` 4 and 4 %.
        gray.save(target.as_file(), "JPEG", qtables=[table], extra=segments)
    if density[0] is not None and density[1]:
        target.seek(_DENSITY_AT)
        target.write(struct.pack(">BHH", density[0], *density[1]))
    return Copied(*image.size)


def _worth_reading(source: BinaryIO, image: JpegImageFile) -> bytes | None:
    """The file as a whole, where that is of use; a progressive one without its chroma."""
    if "progressive" in image.info:
        return _without_chroma(source, image.layer[0][0])
    size = source.seek(0, os.SEEK_END)
    if turbojpeg.library() is None or size + _coefficients(image) > _affordable():
        return None
    source.seek(0)
    return source.read(size)


def _coefficients(image: JpegImageFile) -> int:
    """The bytes that the coefficients of all components take: libjpeg holds all of them."""
    factors = [across * down for _, across, down, _ in image.layer]
    return 2 * image.width * image.height * sum(factors) // (max(factors) or 1)


def _affordable() -> int:
    """What a transform may take, in bytes: a picture must not die of the faster way."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return _TRANSFORM_MAX if limit == resource.RLIM_INFINITY else min(_TRANSFORM_MAX, limit // 4)


def _transformed(data: bytes, size: tuple[int, int]) -> bytes | None:
    """The luma's own coefficients as a baseline JPEG that begins with SOI and APP0."""
    made = turbojpeg.luma(data)
    frame = struct.pack(">HHBHHB", 0xFFC0, 11, 8, size[1], size[0], 1)
    return made if made and frame in made[:_HEAD] else None


def _is_luma_first(image: JpegImageFile) -> bool:
    """Whether the first component is luma, not red: libjpeg's rule (jdapimin.c) or stricter."""
    numbers = bytes(layer[0] for layer in image.layer)
    return numbers != b"RGB" and image.info.get("adobe_transform") != 0


def _without_chroma(source: BinaryIO, luma: int) -> bytes:
    """A progressive file without the scans that hold no luma, the component of that number.

    libjpeg would decode them before it drops them, which is half of its time. What does not look
    as expected is left for libjpeg to judge.
    """
    source.seek(0)
    data = source.read()
    kept, at = [data[:2]], 2
    while (marker := data[at : at + 2]) != _END:
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in _ALONE:
            return data
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        has_luma = True
        if marker == _SCAN:
            following = _MARKER.search(data, end)
            if following is None:
                return data
            end = following.start()
            has_luma = luma in data[at + 5 : at + 5 + 2 * data[at + 4] : 2]
        if has_luma:
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, _END))


def _check_end(source: BinaryIO) -> None:
    """Looks for the end marker: a tail of zeros (a broken transfer) decodes as gray areas."""
    after = source.tell()
    source.seek(0, os.SEEK_END)
    end = source.tell()
    window = _FIRST_WINDOW
    while end > after:
        start = max(after, end - window)
        source.seek(start)
        if _END in source.read(end - start):
            return
        end = start + 1 if start > after else after
        window = _WINDOW
    raise FileFault("truncated: it ends in the middle of the image")


def _segments(segments: list[tuple[str, bytes]]) -> bytes:
    kept = b""
    for name, data in segments:
        if name in _DROPPED or (name == "APP2" and data.startswith(_DROPPED_APP2)):
            continue
        marker = 0xFE if name == "COM" else 0xE0 + int(name[3:])
        kept += struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    return kept


def _profile_segment(profile: bytes | None) -> bytes:
    if not profile:
        return b""
    data = b"ICC_PROFILE\0\x01\x01" + profile[:_SEGMENT_MAX]
    return struct.pack(">BBH", 0xFF, 0xE2, len(data) + 2) + data

"""TIFF: page by page into a file of the same compression.

Of a page's tags those are kept that describe the picture rather than how its bytes lie.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import (
    II,
    MM,
    OPEN_INFO,
    AppendingTiffWriter,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from ...errors import FileFault
from .gray import deep_gray, gray_profile, to_gray
from .parts import Copied, WholeWrites, check_size, copy_bytes

_PAGES_MAX = 10_000  # Pillow looks through all pages seen for each new one
_GRAY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 277, 338, 339
_ORIENTATION, _PREDICTOR, _EXIF, _PROFILE, _GPS = 274, 317, 34665, 34675, 34853
# Sub-file type, names, description, maker, resolution and place, page, software, date, people,
# XMP, copyright, IPTC, Photoshop's resources.
_KEPT_TAGS = (
    *(254, 269, 270, 271, 272, _ORIENTATION, 282, 283, 285, 286, 287, 296, 297, 305, 306),
    *(315, 316, 700, 33432, 33723, 34377),
)
_NEEDED_TAGS = (_ORIENTATION, 282, 283, 296)
_WITH_PREDICTOR = {"tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd"}
# How to lay a picture back as it was stored; Pillow turns it upright as it loads.
_LAID_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_WRITABLE = {"La": "LA", "I;16B": "I;16", "I;16L": "I;16", "I;16N": "I;16"}
_JPEG_QUALITY = 95  # Pillow does not tell with which tables the source was coded
_DEEP = re.compile("(RGB[AaX]?);16([BLN])")
# Pillow knows no gray with alpha at 16 bits: its bytes are loaded, to see that all are there.
for _prefix, _meaning in itertools.product((II, MM), (0, 1, 2)):
    OPEN_INFO.setdefault((_prefix, 1, (1,), 1, (16, 16), (_meaning,)), ("RGBA", "RGBA"))
# They code bytes, whatever these mean; others look at samples.
_OF_BYTES = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd", "lzma"}
_BROKEN = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error)
# The byte that is taken for the high one when the other byte order is claimed is the low one.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    """Writes the gray copy; of a source that is gray already, and whole, the very bytes.

    A target for several pages is read as well as written.
    """
    with _quiet_libtiff():
        return _copy(source, target, pixels)


@contextlib.contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Sends away what libtiff itself prints: a line for every bad strip, without a name.

    What of it matters comes as an exception. There is no other way to its error handler.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    image = TiffImageFile(source)
    sizes, modes = _survey(image)
    check_size(sizes, pixels)
    if modes <= _GRAY_MODES:
        for number in range(len(sizes)):
            image.seek(number)
            image.load()
        copy_bytes(source, target)
        return Copied(*sizes[0])
    source.seek(0)
    twin = TiffImageFile(source)
    if len(sizes) == 1:
        target.write(_gray_page(image, twin, is_first=True))
    else:
        with AppendingTiffWriter(target.as_file()) as pages:
            for number in range(len(sizes)):
                image.seek(number)
                twin.seek(number)
                pages.write(_gray_page(image, twin, is_first=number == 0))
                pages.newFrame()
    return Copied(*sizes[0])


def _survey(image: TiffImageFile) -> tuple[list[tuple[int, int]], set[str]]:
    """The sizes, as stored, and modes of all pages; ends at the first page again."""
    sizes: list[tuple[int, int]] = []
    modes: set[str] = set()
    for number in range(_PAGES_MAX + 1):
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return sizes, modes
        sizes.append((image.tag_v2[256], image.tag_v2[257]))
        modes.add("LA" if _is_deep_gray(image) else image.mode)
    raise FileFault(f"more than {_PAGES_MAX:,} pages")


def _gray_page(image: TiffImageFile, twin: TiffImageFile, *, is_first: bool) -> bytes:
    """The page that `image` and `twin` (the same file, opened twice) stand at, as a TIFF file."""
    tags, compression = image.tag_v2, image.info["compression"]
    orientation, profile = tags.get(_ORIENTATION), tags.get(_PROFILE)
    kept = {tag: (tags[tag], tags.tagtype[tag]) for tag in _KEPT_TAGS if tag in tags}
    if tags.get(_PREDICTOR) == 2 and compression in _WITH_PREDICTOR:
        kept[_PREDICTOR] = (2, tags.tagtype[_PREDICTOR])
    # Their offsets are right in a file's first page only: AppendingTiffWriter does not move them.
    folders = _folders(image) if is_first else {}
    is_deep_alpha = False
    if _is_deep_gray(image):
        raise FileFault("a page of 16-bit gray with alpha among others in colour: split it up")
    if image.mode in _GRAY_MODES:
        image.load()
        gray = image.convert(_WRITABLE.get(image.mode, image.mode)).copy()
    elif _deep_args(image, low=False):
        is_deep_alpha = image.mode == "RGBA"
        gray, profile = _deep_page(image, twin), gray_profile(profile, tone_of_source=True)
    else:
        image.load()
        gray = to_gray(image, profile, alpha=image.mode in ("RGBA", "PA"))
        profile = gray_profile(profile)
    if orientation in _LAID_BACK:
        gray = gray.transpose(_LAID_BACK[orientation])
    gray.info = {}
    if not is_deep_alpha:
        return _encoded(gray, kept, folders, compression=compression, icc_profile=profile)
    kept.pop(_PREDICTOR, None)  # it would take the difference of bytes for that of samples
    compression = compression if compression in _OF_BYTES else "tiff_adobe_deflate"
    data = _encoded(gray, kept, folders, compression=compression, icc_profile=profile)
    return _as_deep_alpha(data, 1 if tags.get(_EXTRA_SAMPLES) == (1,) else 2)


def _folders(image: TiffImageFile) -> dict[int, dict[int, Any]]:
    """The EXIF and GPS directories, as far as they can be read."""
    found = {}
    for tag in (_EXIF, _GPS):
        try:
            found[tag] = image.getexif().get_ifd(tag)
        except _BROKEN:
            continue
    return {tag: folder for tag, folder in found.items() if folder}


def _encoded(
    gray: Image.Image,
    kept: dict[int, tuple[Any, int]],
    folders: dict[int, dict[int, Any]],
    **options: Any,
) -> bytes:
    """A TIFF file of one page; what cannot be written with it (odd tags, a codec) is left out."""
    needed = {tag: kept[tag] for tag in _NEEDED_TAGS if tag in kept}
    deflated = {**options, "compression": "tiff_adobe_deflate"}
    for tags, below, how in (
        (kept, folders, options),
        (kept, {}, options),
        (needed, {}, options),
        (kept, folders, deflated),
    ):
        try:
            return _with_folders(_saved(gray, {**tags, **dict.fromkeys(below, (8, 4))}, how), below)
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
    return _saved(gray, needed, deflated).getvalue()


def _saved(
    gray: Image.Image, tags: dict[int, tuple[Any, int]], options: dict[str, Any]
) -> io.BytesIO:
    directory = ImageFileDirectory_v2()
    for tag, (value, kind) in tags.items():
        directory[tag] = value
        directory.tagtype[tag] = kind
    quality = {"quality": _JPEG_QUALITY} if options["compression"] == "jpeg" else {}
    file = io.BytesIO()
    gray.save(file, "TIFF", tiffinfo=directory, **quality, **options)
    return file


def _with_folders(file: io.BytesIO, folders: dict[int, dict[int, Any]]) -> bytes:
    """Appends the directories and points their tags to them, which libtiff does not do."""
    data = bytearray(file.getvalue())
    for entry, tag in _entries(bytes(data) if folders else b""):
        folder = folders.get(tag)
        if folder:
            data += b"\0" * (len(data) % 2)
            directory = ImageFileDirectory_v2()
            directory.update(folder)
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, len(data))
            data += directory.tobytes(len(data))
    return bytes(data)


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """The tags of a file of one page, as Pillow writes it: where each one stands, its number."""
    start = int.from_bytes(data[4:8], "little")
    for number in range(int.from_bytes(data[start : start + 2], "little")):
        entry = start + 2 + 12 * number
        yield entry, int.from_bytes(data[entry : entry + 2], "little")


# ---- 16 bits a channel, which Pillow reads as 8


def _deep_page(image: TiffImageFile, twin: TiffImageFile) -> Image.Image:
    """Gray at 16 bits; with an alpha channel as four channels of bytes, for `_as_deep_alpha`.

    Colours that are multiplied by their alpha give a gray that is.
    """

    def read(page: TiffImageFile, low: bool) -> Image.Image:
        args = _deep_args(page, low=low)
        page.tile = [tile._replace(args=args) for tile in page.tile]
        page.load()
        return page

    high, low, *alpha = deep_gray(lambda: read(image, False), lambda: read(twin, True))
    if alpha:
        return Image.merge("RGBA", (low, high, alpha[1], alpha[0]))
    return Image.frombytes("I;16", high.size, Image.merge("LA", (low, high)).tobytes())


def _is_deep_gray(image: TiffImageFile) -> bool:
    """Whether it is gray with alpha at 16 bits, which only looks like colours."""
    return image.tag_v2.get(_BITS) == (16, 16)


def _deep_args(image: TiffImageFile, *, low: bool) -> tuple[Any, ...] | None:
    """How to read the page's high (or low) bytes; None if it has no 16-bit colours."""
    args = image.tile[0].args
    if not isinstance(args, tuple) or not (found := _DEEP.fullmatch(args[0])):
        return None
    channels = found[1].replace("a", "A")  # as they are, not divided by alpha
    return (f"{channels};16{_OTHER_BYTE[found[2]] if low else found[2]}", *args[1:])


def _as_deep_alpha(data: bytes, meaning: int) -> bytes:
    """Makes of a TIFF file with red, green, blue and alpha at 8 bits one with gray and alpha at 16.

    The bytes of its pixels are the same. `meaning` is that of the alpha channel: 1 where the gray
    is multiplied by it, else 2.
    """
    two = struct.pack("<HH", 16, 16)
    changed = {
        _BITS: struct.pack("<HI", 3, 2) + two,
        _PHOTOMETRIC: struct.pack("<HII", 3, 1, 1),
        _SAMPLES: struct.pack("<HII", 3, 1, 2),
        _EXTRA_SAMPLES: struct.pack("<HII", 3, 1, meaning),
        _SAMPLE_FORMAT: struct.pack("<HIHH", 3, 2, 1, 1),
    }
    copy = bytearray(data)
    for entry, tag in _entries(data):
        if tag in changed:
            copy[entry + 2 : entry + 12] = changed[tag]
    return bytes(copy)

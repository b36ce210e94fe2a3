"""image → grayscale copy: which format a file has, whether it may be read, and what is wrong.

```
 process ─► is it what its suffix says? ─► the format's copy(source, target, pixels)
                                             │  survey (size, frames) before anything is decoded
                                             ▼
                                           colours ─► image_gray ─► the same container, in gray
                                           gray already ─► byte for byte
```
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image

from ...errors import FileFault
from .parts import Copied, WholeWrites

__all__ = ["SUFFIXES", "Copied", "process"]

# Sizes are checked per format before anything is decoded, against the configured limit.
Image.MAX_IMAGE_PIXELS = None

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".gif": "GIF",
    ".bmp": "BMP",
}
"""The suffixes that get a copy, in lower case, and the format that each promises."""

_HEAD = 32
_BEGINNINGS = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"MM\0+", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"%PDF", "a PDF document"),
    (b"%!", "a PostScript program"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"<", "a text in HTML, SVG or XML"),
)
_HEIF = (b"heic", b"heix", b"mif1", b"avif", b"avis", b"hevc")
_DAMAGE = (
    *(SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(EOFError, RuntimeError, OSError, struct.error, zlib.error),
)


def process(descriptor: int, target: BinaryIO, suffix: str, pixels: int) -> Copied:
    """Writes the gray copy of an image, in its own format, into an empty file.

    `descriptor` is the source, a regular file open for reading; it stays open. `target` is open
    for reading and writing. `pixels` is what one picture may hold. Names, times and durability
    are the caller's.

    Raises FileFault with a sentence without the path for what is wrong with the file for good;
    an OSError with an errno is the machine's, as is a MemoryError.
    """
    with open(descriptor, "rb", closefd=False) as source, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's are about metadata, which is copied as it is
        source.seek(0)
        kind = _checked_format(source.read(_HEAD), suffix)
        source.seek(0)
        try:
            return _copier(kind)(source, WholeWrites(target), pixels)
        except _DAMAGE as error:
            # Pillow's own complaints have no errno, those of the system do.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise FileFault(_sentence(error)) from error


def _copier(kind: str) -> Callable[[BinaryIO, WholeWrites, int], Copied]:
    """The format's own function. Imported with its first file: codecs are slow to start."""
    match kind:
        case "JPEG":
            from .jpeg import copy
        case "PNG":
            from .png import copy
        case "TIFF":
            from .tiff import copy
        case "WebP":
            from .webp import copy
        case "GIF":
            from .gif import copy
        case "BMP":
            from .bmp import copy
        case _:
            raise AssertionError(kind)
    return copy


def _checked_format(head: bytes, suffix: str) -> str:
    """The format that both the suffix and the first bytes say; raises FileFault otherwise."""
    promised = SUFFIXES.get(suffix.lower())
    if promised is None:
        raise FileFault(f"no copy can be made of {suffix or 'a file without a suffix'}")
    if not head.strip(b"\0"):
        raise FileFault("nothing but zeros where an image should begin" if head else "empty")
    found = _look(head)
    if found is None:
        raise FileFault(f"no {promised} image, though its suffix is {suffix}")
    if found.split()[1] != promised:
        raise FileFault(f"{found}, though its suffix is {suffix}: rename it")
    return promised


def _look(head: bytes) -> str | None:
    """What a file that begins so is, as far as is known here."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        return "a HEIC or AVIF image"
    return next((what for start, what in _BEGINNINGS if head.startswith(start)), None)


def _sentence(error: Exception) -> str:
    text = str(error).lower()
    if "truncated" in text or isinstance(error, EOFError):
        return "truncated: it ends in the middle of the image"
    return f"damaged or of an unknown kind: {error or type(error).__name__}"

"""BMP: eight bits with a gray table; with an alpha channel, the same layout as before in gray."""

from __future__ import annotations

from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile

from .gray import to_gray
from .parts import Copied, WholeWrites, check_size, copy_bytes

_DEFAULT_DPI = (96, 96)


def copy(source: BinaryIO, target: WholeWrites, pixels: int) -> Copied:
    """Writes the gray copy; of a source that is gray already, and whole, the very bytes."""
    image = BmpImageFile(source)
    check_size([image.size], pixels)
    tile = image.tile[0]
    image.load()
    if image.mode in ("1", "L"):
        copy_bytes(source, target)
        return Copied(*image.size)
    alpha = image.mode == "RGBA"
    gray = to_gray(image, None, alpha=alpha)
    if alpha:  # Pillow writes no header that says where the alpha is: the source's is kept
        assert isinstance(tile.args, tuple)
        copy_bytes(source, target)
        target.seek(tile.offset)
        target.write(gray.convert("RGBA").tobytes("raw", *tile.args))
    else:
        gray.save(target.as_file(), "BMP", dpi=image.info.get("dpi", _DEFAULT_DPI))
    return Copied(*image.size)

"""All that processing may need, imported: a worker that is shut in can import nothing more.

Imported once by the process that workers are forked from, so it costs each of them nothing.
"""

from __future__ import annotations

import contextlib
import encodings
import importlib
import pkgutil

import charset_normalizer as charset_normalizer
from PIL import Image
from PIL import ImageCms as ImageCms
from PIL import ImageColor as ImageColor
from PIL import ImageFilter as ImageFilter
from PIL import ImagePalette as ImagePalette

from .image import bmp as bmp
from .image import gif as gif
from .image import jpeg as jpeg
from .image import png as png
from .image import tiff as tiff
from .image import turbojpeg
from .image import webp as webp

Image.preinit()  # what `save` imports
turbojpeg.library()
for _codec in pkgutil.iter_modules(encodings.__path__):
    with contextlib.suppress(ImportError):  # some are for Windows
        importlib.import_module(f"encodings.{_codec.name}")

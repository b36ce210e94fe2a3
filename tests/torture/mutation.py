"""Bad files by the thousand: whole images and texts, broken where their formats are weak."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL import Image

from .audit import EVERY

Mutate = Callable[[random.Random, bytes], bytes]


class Mutant(NamedTuple):
    """A file to be dropped."""

    name: str
    content: bytes


class _Base(NamedTuple):
    """A good file."""

    suffix: str
    content: bytes


def mutants(chance: random.Random, count: int) -> Iterator[Mutant]:
    """As many of them, no two of one name; one in twelve is left as it is."""
    bases = [*_images(chance), *_texts(chance)]
    suffixes = sorted({base.suffix for base in bases} | {".log", ".tiff", ".jpeg"})
    for number in range(count):
        if number % 10 == 9:
            suffix, content, kind = _made_bad(chance)
        else:
            base = chance.choice(bases)
            kind = chance.choice([*_MUTATIONS, "whole"])
            suffix, content = base.suffix, _MUTATIONS.get(kind, _whole)(chance, base.content)
            if kind == "suffix":
                suffix = chance.choice(suffixes)
        yield Mutant(f"m{number}-{kind}{suffix}", content)


# ---- good files ------------------------------------------------------------------------------


def _images(chance: random.Random) -> list[_Base]:
    noise = Image.effect_noise((64, 48), 60)
    colours = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    palette = colours.quantize(16)
    return [
        _saved(".jpg", colours, "JPEG", quality=80),
        _saved(".jpg", colours, "JPEG", quality=80, progressive=True),
        _saved(".jpg", noise, "JPEG"),
        _saved(".jpg", colours.convert("CMYK"), "JPEG"),
        _saved(".png", colours, "PNG"),
        _saved(".png", palette, "PNG", transparency=0),
        _saved(".png", colours.convert("RGBA"), "PNG"),
        _saved(".png", noise.convert("I;16"), "PNG"),
        _saved(".png", colours, "PNG", save_all=True, append_images=[colours.rotate(9)]),
        _saved(".gif", palette, "GIF"),
        _saved(".gif", palette, "GIF", save_all=True, append_images=[palette.rotate(90)] * 3),
        _saved(".tif", colours, "TIFF"),
        _saved(".tif", colours, "TIFF", compression="tiff_lzw"),
        _saved(".tif", colours, "TIFF", compression="jpeg"),
        _saved(".tif", colours, "TIFF", save_all=True, append_images=[noise.copy()]),
        _saved(".webp", colours, "WEBP"),
        _saved(".webp", colours, "WEBP", lossless=True),
        _saved(".webp", colours, "WEBP", save_all=True, append_images=[colours.rotate(9)]),
        _saved(".bmp", colours, "BMP"),
        _saved(".bmp", palette, "BMP"),
    ]


def _saved(suffix: str, image: Image.Image, format: str, **options: object) -> _Base:
    target = io.BytesIO()
    image = image.copy()  # what one format's encoder left there confuses another
    image.save(target, format, **options)
    return _Base(suffix, target.getvalue())


def _texts(chance: random.Random) -> list[_Base]:
    plain = "".join(f"{EVERY} {number} of some text\n" for number in range(60))
    odd = plain.replace("some", "größerem Übermaß, naïve café").replace("text", "текст 文書")
    return [
        _Base(".txt", plain.encode()),
        _Base(".txt", odd.encode()),
        _Base(".txt", plain.replace("\n", "\r\n").encode()),
        _Base(".txt", odd.encode("utf-8-sig")),
        _Base(".txt", odd.encode("utf-16")),
        _Base(".txt", odd.encode("utf-16-be")),
        _Base(".txt", odd.encode("utf-32")),
        _Base(".txt", plain.replace("some", "größerem").encode("latin-1")),
        _Base(".txt", (plain + "привет, как дела\n" * 30).encode("cp1251")),
        _Base(".txt", (plain + "これは日本語の文書です\n" * 30).encode("shift-jis")),
        _Base(".md", (plain * 200).encode()),
    ]


# ---- ways to break them ----------------------------------------------------------------------


def _whole(chance: random.Random, content: bytes) -> bytes:
    return content


def _truncated(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content))]


def _flipped(chance: random.Random, content: bytes) -> bytes:
    broken = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 10, 100])):
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def _flipped_head(chance: random.Random, content: bytes) -> bytes:
    """Where formats keep sizes, offsets and kinds."""
    broken = bytearray(content)
    for _ in range(chance.choice([1, 2, 5])):
        place = chance.randrange(2, min(64, len(broken)))
        broken[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    return bytes(broken)


def _spliced(chance: random.Random, content: bytes) -> bytes:
    """A piece twice, left out, or in place of another."""
    first, second = sorted(chance.randrange(len(content)) for _ in range(2))
    piece = content[first:second]
    at = chance.randrange(len(content))
    kept = content[:at] + piece + content[at:]
    return chance.choice([kept, content[:first] + content[second:], piece + content])


def _filled(chance: random.Random, content: bytes) -> bytes:
    """A piece overwritten with one byte."""
    first, second = sorted(chance.randrange(len(content)) for _ in range(2))
    filling = chance.choice([b"\0", b"\xff", b"\n", b"A"]) * (second - first)
    return content[:first] + filling + content[second:]


def _numbers(chance: random.Random, content: bytes) -> bytes:
    """A length, a size or an offset becomes another: of 16 or 32 bits, in either order."""
    broken = bytearray(content)
    for _ in range(chance.choice([1, 1, 2])):
        form = chance.choice([">H", "<H", ">I", "<I"])
        most = (1 << 8 * struct.calcsize(form)) - 1
        value = chance.choice([0, 1, most, most // 2, most // 2 + 1, 65_000 % (most + 1)])
        place = chance.randrange(min(len(broken) - 4, 400))
        struct.pack_into(form, broken, place, value)
    return _with_right_sums(bytes(broken))


def _with_right_sums(content: bytes) -> bytes:
    """A PNG's checks made good again, so that what was changed is believed."""
    if not content.startswith(b"\x89PNG"):
        return content
    fixed, place = bytearray(content), 8
    while place + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, place)
        end = place + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(bytes(fixed[place + 4 : end])))
        place = end + 4
    return bytes(fixed)


_MUTATIONS: dict[str, Mutate] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "head": _flipped_head,
    "spliced": _spliced,
    "filled": _filled,
    "numbers": _numbers,
    "suffix": _whole,
}


# ---- bad from the beginning ------------------------------------------------------------------


def _made_bad(chance: random.Random) -> tuple[str, bytes, str]:
    return chance.choice(_MADE_BAD)(chance)


def _png(width: int, height: int, data: bytes, bits: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(
            ">I", zlib.crc32(kind + content)
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    )


def _bomb(chance: random.Random) -> tuple[str, bytes, str]:
    width, height = chance.choice([(30_000, 30_000), (1 << 31, 1), (65_535, 65_535), (0, 5)])
    return ".png", _png(width, height, zlib.compress(bytes(1 << 20))), "bomb"


def _inflating(chance: random.Random) -> tuple[str, bytes, str]:
    """A small image whose data unpacks to very much more than it needs."""
    return ".png", _png(8, 8, zlib.compress(bytes(64 << 20), 9)), "inflating"


def _gif_bomb(chance: random.Random) -> tuple[str, bytes, str]:
    head = b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0) + b"\x02\x01\x44\x00"
    return ".gif", head + frame * chance.choice([1, 200]) + b"\x3b", "bomb"


def _tiff_loop(chance: random.Random) -> tuple[str, bytes, str]:
    """Its only directory says that it follows itself."""
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (273, 4, 1, 200), (279, 4, 1, 64)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return ".tif", b"II*\0" + struct.pack("<IH", 8, 5) + packed + struct.pack("<I", 8) + bytes(
        400
    ), "loop"  # fmt: skip


def _bmp_bomb(chance: random.Random) -> tuple[str, bytes, str]:
    sides = chance.choice([(60_000, 60_000), (-5, 5), (5, -(1 << 31)), (1 << 30, 1)])
    info = struct.pack("<IiiHHIIiiII", 40, *sides, 1, 24, 0, 0, 0, 0, 0, 0)
    return ".bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(64), "bomb"


def _empty(chance: random.Random) -> tuple[str, bytes, str]:
    return chance.choice([".txt", ".png", ".jpg", ".gif", ".tif", ".webp", ".bmp"]), b"", "empty"


def _endless(chance: random.Random) -> tuple[str, bytes, str]:
    """One line of a megabyte, with words or without."""
    word = chance.choice([b"x", b"word ", "ß".encode(), b"a,b;", b"\xff\xfe"])
    return ".txt", (word * (1 << 20))[: 1 << 20], "endless"


def _random(chance: random.Random) -> tuple[str, bytes, str]:
    suffix = chance.choice([".txt", ".log", ".jpg", ".png", ".webp"])
    return suffix, chance.randbytes(chance.choice([1, 2, 3, 100, 70_000])), "random"


def _odd_text(chance: random.Random) -> tuple[str, bytes, str]:
    """Half marks, lone surrogates, overlong forms, all control characters, lone returns."""
    odd = [b"\xff\xfe", b"\xef\xbb", b"\xed\xa0\x80", b"\xc0\xaf", bytes(range(1, 32)), b"\r" * 99]
    odd += [b"\xff\xfe\x00\xd8", b"\0\0\xfe\xff\0\x11\0\0", b"+ADw-", b"\x1b$B%F%9%H"]
    return ".txt", chance.choice(odd) + f"{EVERY} words\n".encode() * chance.randrange(5), "odd"


_MADE_BAD = (
    *(_bomb, _inflating, _gif_bomb, _tiff_loop, _bmp_bomb, _empty, _endless, _random),
    *(_odd_text, _odd_text),
)

"""Gray copies of images that Pillow, or a few bytes put together by hand, make on the spot."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import (
    GifImagePlugin,
    Image,
    ImageChops,
    ImageCms,
    ImageStat,
    PngImagePlugin,
    TiffImagePlugin,
)

from dropmill.errors import FileFault
from dropmill.processors.image import SUFFIXES, Copied, jpeg, process, turbojpeg

LIMIT = 100_000_000
SIZE = (96, 64)


@functools.cache
def photograph(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A colourful picture, smooth like a photograph."""
    ramps = Image.linear_gradient("L"), Image.radial_gradient("L")
    bands = [ramps[0], ramps[1], ramps[0].rotate(90)]
    picture = Image.merge("RGB", bands).resize(size, Image.Resampling.BICUBIC)
    if mode == "RGBA":
        picture.putalpha(ramps[0].resize(size))
    return picture if picture.mode == mode else picture.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def copied(data: bytes, suffix: str, pixels: int = LIMIT) -> bytes:
    """What `process` makes of a real file with this content."""
    return copied_with_size(data, suffix, pixels)[0]


def copied_with_size(data: bytes, suffix: str, pixels: int = LIMIT) -> tuple[bytes, Copied]:
    descriptor = os.memfd_create("source")
    try:
        os.write(descriptor, data)
        with os.fdopen(os.memfd_create("target"), "w+b", buffering=0) as target:
            size = process(descriptor, target, suffix, pixels)
            os.fstat(descriptor)  # still open
            target.seek(0)
            return target.read(), size
    finally:
        os.close(descriptor)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = ImageStat.Stat(ImageChops.difference(one.convert("L"), other.convert("L"))).rms[0]
    return math.inf if error == 0 else 20 * math.log10(255 / error)


def is_colourless(image: Image.Image) -> bool:
    red, green, blue = image.convert("RGB").split()
    furthest = ImageChops.lighter(
        ImageChops.difference(red, green), ImageChops.difference(green, blue)
    )
    return furthest.getextrema()[1] <= 1  # type: ignore[operator]


FORMATS: dict[str, Callable[[], bytes]] = {
    ".jpg": lambda: saved(photograph(), "JPEG"),
    ".jpeg": lambda: saved(photograph(), "JPEG", progressive=True),
    ".png": lambda: saved(photograph(), "PNG"),
    ".tif": lambda: saved(photograph(), "TIFF"),
    ".tiff": lambda: saved(photograph(), "TIFF", compression="tiff_lzw"),
    ".webp": lambda: saved(photograph(), "WEBP"),
    ".gif": lambda: saved(photograph(), "GIF"),
    ".bmp": lambda: saved(photograph(), "BMP"),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_copy_is_gray_and_has_the_format_and_size_of_its_source(suffix: str) -> None:
    source = FORMATS[suffix]()
    copy, size = copied_with_size(source, suffix)
    image = opened(copy)
    assert image.format == opened(source).format
    assert image.size == size == SIZE
    assert is_colourless(image)
    assert psnr(image, opened(source)) > 38


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_image_is_refused_wherever_it_ends(suffix: str) -> None:
    source = FORMATS[suffix]()
    ends = sorted({*range(0, 64, 5), *range(0, len(source), len(source) // 24), len(source) - 1})
    for end in ends:
        with pytest.raises(FileFault):
            copied(source[:end], suffix)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_bit_flipped_in_the_header_ends_in_a_copy_or_a_sentence(suffix: str) -> None:
    source = FORMATS[suffix]()
    for position in range(0, min(len(source), 200)):
        flipped = bytearray(source)
        flipped[position] ^= 1 << position % 8
        try:
            copied(bytes(flipped), suffix)
        except FileFault as fault:
            assert str(fault)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_file_and_one_of_zeros_are_refused(suffix: str) -> None:
    with pytest.raises(FileFault, match="empty"):
        copied(b"", suffix)
    with pytest.raises(FileFault, match="zeros"):
        copied(bytes(5000), suffix)


def test_a_wrong_suffix_is_refused_by_name() -> None:
    with pytest.raises(FileFault, match=r"a PNG image, though its suffix is \.jpg"):
        copied(FORMATS[".png"](), ".jpg")


@pytest.mark.parametrize(
    ("start", "what"),
    [(b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"), (b"%PDF-1.7\n", "PDF"), (b"hello", "no PNG")],
)
def test_what_is_no_image_is_refused_and_never_interpreted(start: bytes, what: str) -> None:
    with pytest.raises(FileFault, match=what):
        copied(start + b"showpage\n" * 50, ".png")


def test_a_suffix_in_capitals_is_known() -> None:
    assert opened(copied(FORMATS[".jpg"](), ".JPG")).mode == "L"
    assert set(FORMATS) <= set(SUFFIXES)


# ---- too large


def png_chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    chunks = (png_chunk(b"IHDR", header), *more, pixels, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(FileFault) as caught:
        copied(png(60_000, 60_000, 8, 2, b"\0" * 1000), ".png")
    assert str(caught.value) == "3,600 megapixels, above limits.pixels (100M)"


def test_a_picture_of_absurd_width_is_the_files_fault_not_the_memorys() -> None:
    source = bytearray(deep_tiff("<", 8))
    width = source.index(struct.pack("<HHII", 256, 4, 1, len(DEEP)))
    source[width + 8 : width + 12] = struct.pack("<I", 50_000_000)
    with pytest.raises(FileFault, match="50,000,000 pixels wide"):
        copied(bytes(source), ".tif")


def test_libtiffs_own_complaints_do_not_reach_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    source = bytearray(saved(photograph("1"), "TIFF", compression="group4"))
    source[8:40] = b"\xff" * 32
    with contextlib.suppress(FileFault):
        copied(bytes(source), ".tif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_keeps_the_limit(suffix: str) -> None:
    with pytest.raises(FileFault, match=r"0\.1 megapixels, above limits\.pixels \(5k\)"):
        copied(FORMATS[suffix](), suffix, pixels=5000)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".gif", "GIF"), (".tif", "TIFF"), (".webp", "WEBP"), (".png", "PNG")]
)
def test_a_bomb_of_many_frames_is_refused(suffix: str, kind: str) -> None:
    frames = [photograph().rotate(angle) for angle in range(20)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=20)
    with pytest.raises(FileFault, match=r"frames of together .* 16 times limits\.pixels"):
        copied(data, suffix, pixels=SIZE[0] * SIZE[1])


# ---- JPEG


@pytest.fixture(params=["transformed", "decoded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a colour JPEG gets its copy: by libturbojpeg, or where there is none, by Pillow."""
    if request.param == "decoded":
        monkeypatch.setattr(turbojpeg, "library", lambda: None)
    elif turbojpeg.library() is None:
        pytest.skip("libturbojpeg (Debian: libturbojpeg0) is not installed")
    return str(request.param)


both_ways = pytest.mark.usefixtures("way")
needs_transform = pytest.mark.skipif(
    turbojpeg.library() is None, reason="libturbojpeg (Debian: libturbojpeg0) is not installed"
)


def decoded_luma(source: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(source))
    image.draft("L", image.size)
    image.load()
    return image


def checkerboard(size: tuple[int, int] = (200, 120)) -> Image.Image:
    """Nothing but hard edges between black and white, where coding overshoots."""
    picture = Image.new("RGB", size)
    picture.putdata([(255, 255, 255) if (x // 3 + y // 5) % 2 else (0, 0, 0)
                     for y in range(size[1]) for x in range(size[0])])  # fmt: skip
    return picture


LOSSLESS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "coarse": {"quality": 5},
    "with restarts": {"restart_marker_blocks": 3},
    "tables of its own": {"optimize": True},
}


@needs_transform
@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("size", [(96, 64), (211, 133), (17, 9), (1, 1)])
def test_a_transformed_jpeg_has_its_sources_luma_to_the_last_bit(
    name: str, size: tuple[int, int]
) -> None:
    for picture in (photograph(size=size), checkerboard(size)):
        source = saved(picture, "JPEG", **LOSSLESS[name])
        copy, reported = copied_with_size(source, ".jpg")
        image = opened(copy)
        assert (image.mode, image.size, reported) == ("L", size, size)
        assert image.tobytes() == decoded_luma(source).tobytes()
        assert b"\xff\xc0" in copy  # baseline, whatever the source is


@needs_transform
def test_where_nothing_was_coarse_both_ways_make_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif, "comment": b"a comment", "xmp": b"<x:xmpmeta/>"}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = saved(
        Image.new("RGB", SIZE, (200, 90, 30)), "JPEG", dpi=(300, 72), icc_profile=profile, **options
    )
    transformed = copied(source, ".jpg")
    monkeypatch.setattr(turbojpeg, "library", lambda: None)
    assert transformed == copied(source, ".jpg")


@needs_transform
def test_a_jpeg_that_would_take_much_memory_is_not_transformed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = saved(photograph(), "JPEG")
    tried: list[bytes] = []
    monkeypatch.setattr(turbojpeg, "luma", tried.append)
    copied(source, ".jpg")
    assert tried == [source]
    monkeypatch.setattr(jpeg, "_TRANSFORM_MAX", len(source) + SIZE[0] * SIZE[1] * 3 - 1)
    assert opened(copied(source, ".jpg")).mode == "L"
    assert tried == [source]


@needs_transform
def test_a_quarter_of_a_workers_memory_is_the_most_that_a_transform_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64 << 20, resource.RLIM_INFINITY))
    tried: list[bytes] = []
    monkeypatch.setattr(turbojpeg, "luma", tried.append)
    copied(saved(Image.new("RGB", (2400, 2400)), "JPEG"), ".jpg")  # 16.5 MiB of coefficients
    assert not tried
    copied(saved(Image.new("RGB", (2300, 2300)), "JPEG"), ".jpg")
    assert tried


def mutated(source: bytes, other: bytes, chance: random.Random) -> bytes:
    """The source with bits flipped, cut, or with a piece of the other spliced in."""
    data = bytearray(source)
    match chance.randrange(5):
        case 0 | 1:
            for _ in range(chance.choice((1, 2, 5, 30))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 2:
            del data[chance.randrange(len(data)) :]
            data += chance.choice((b"", b"\xff\xd9", bytes(50), b"\xff\xd9 and more"))
        case 3:
            at = chance.randrange(len(data))
            del data[at : at + chance.choice((1, 2, 10, 100))]
        case _:
            at, start = chance.randrange(len(data)), chance.randrange(len(other))
            size = chance.choice((2, 20, 200))
            data[at : at + chance.choice((0, size))] = other[start : start + size]
    return bytes(data)


@needs_transform
def test_a_damaged_jpeg_gets_the_same_verdict_with_and_without_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = turbojpeg.library()
    sources = [saved(photograph(size=(80, 56)), "JPEG", **LOSSLESS[name]) for name in LOSSLESS]
    sources += [saved(photograph(), "JPEG", keep_rgb=True), saved(photograph("CMYK"), "JPEG")]
    for seed in range(600):
        chance = random.Random(seed)
        source = mutated(chance.choice(sources), chance.choice(sources), chance)
        verdicts = []
        for library in (found, None):
            monkeypatch.setattr(turbojpeg, "library", lambda library=library: library)
            verdicts.append(verdict(source))
        assert verdicts[0] == verdicts[1], seed


def verdict(source: bytes) -> tuple[int, int] | str:
    """The size and kind of the copy, or the sentence that says why there is none."""
    try:
        copy, size = copied_with_size(source, ".jpg", pixels=1_000_000)
    except FileFault as fault:
        return str(fault)
    image = Image.open(io.BytesIO(copy))
    assert (image.mode, image.size) == ("L", size)
    return size


@both_ways
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 75, "progressive": True}])
def test_a_jpeg_loses_nothing_to_a_lossless_one(options: dict[str, Any], tmp_path: Path) -> None:
    if not shutil.which("jpegtran"):
        pytest.skip("jpegtran (Debian: libjpeg-turbo-progs) is not installed")
    source = tmp_path / "a.jpg"
    source.write_bytes(saved(photograph(size=(1200, 800)), "JPEG", **options))
    lossless = subprocess.run(
        ["jpegtran", "-grayscale", source], capture_output=True, check=True
    ).stdout
    assert psnr(opened(copied(source.read_bytes(), ".jpg")), opened(lossless)) >= 60


@both_ways
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpegs_copy_is_its_luma(options: dict[str, Any]) -> None:
    source = saved(photograph(size=(600, 400)), "JPEG", quality=90, **options)
    copy = opened(copied(source, ".jpg"))
    assert copy.mode == "L"
    assert psnr(copy, decoded_luma(source)) >= 60


@both_ways
def test_a_jpeg_marked_as_rgb_is_weighed_as_rgb() -> None:
    for options in ({}, {"progressive": True}):
        source = saved(photograph(), "JPEG", quality=95, keep_rgb=True, **options)
        assert psnr(opened(copied(source, ".jpg")), photograph("L")) > 38


@both_ways
def test_a_jpeg_keeps_exif_orientation_xmp_comment_and_density() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    source = saved(
        *(photograph(), "JPEG"),
        exif=exif,
        comment=b"a comment",
        xmp=b"<x:xmpmeta/>",
        dpi=(300, 300),
    )
    copy, size = copied_with_size(source, ".jpg")
    image = opened(copy)
    assert (image.size, size) == (SIZE, SIZE)
    assert image.getexif()[0x0112] == 6
    assert image.info["exif"] == opened(source).info["exif"]
    assert image.info["comment"] == b"a comment"
    assert image.info["xmp"] == b"<x:xmpmeta/>"
    assert image.info["dpi"] == (300, 300)


def test_broken_exif_harms_nothing_and_stays_as_it_is() -> None:
    broken = b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"
    for kind, suffix in (("JPEG", ".jpg"), ("WEBP", ".webp"), ("PNG", ".png")):
        copy = copied(saved(photograph(), kind, exif=broken), suffix)
        assert broken[6:] in copy


@both_ways
def test_a_density_in_dots_per_centimetre_stays_one() -> None:
    source = bytearray(FORMATS[".jpg"]())
    source[13:18] = struct.pack(">BHH", 2, 118, 119)
    assert copied(bytes(source), ".jpg")[13:18] == source[13:18]


@both_ways
def test_a_jpeg_with_a_tail_of_zeros_is_truncated() -> None:
    source = saved(photograph(size=(800, 600)), "JPEG")
    half = len(source) // 2
    with pytest.raises(FileFault, match="truncated"):
        copied(source[:half] + bytes(half), ".jpg")


@both_ways
def test_a_cmyk_jpeg_comes_out_gray() -> None:
    source = saved(photograph("CMYK"), "JPEG", quality=95)
    assert psnr(opened(copied(source, ".jpg")), photograph("L")) > 35


# ---- gray sources


GRAY_SOURCES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg": (".jpg", lambda: saved(photograph("L"), "JPEG")),
    "png": (".png", lambda: saved(photograph("L"), "PNG")),
    "png 1 bit": (".png", lambda: saved(photograph("1"), "PNG")),
    "png 16 bit": (".png", lambda: saved(photograph("L").convert("I;16"), "PNG")),
    "png alpha": (".png", lambda: saved(photograph("RGBA").convert("LA"), "PNG")),
    "tiff": (".tif", lambda: saved(photograph("L"), "TIFF")),
    "tiff 1 bit": (".tif", lambda: saved(photograph("1"), "TIFF", compression="group4")),
    "tiff 16 bit": (".tif", lambda: saved(photograph("L").convert("I;16"), "TIFF")),
    "tiff 16 bit alpha": (".tif", lambda: deep_tiff(">", 8, 2, gray=True)),
    "tiff float": (".tif", lambda: saved(photograph("L").convert("F"), "TIFF")),
    "bmp": (".bmp", lambda: saved(photograph("L"), "BMP")),
    "gif": (".gif", lambda: saved(photograph("L"), "GIF")),
    "webp": (".webp", lambda: saved(photograph("L"), "WEBP")),
    "webp lossless": (".webp", lambda: saved(photograph("L"), "WEBP", lossless=True)),
}


@pytest.mark.parametrize("name", GRAY_SOURCES)
def test_a_gray_source_is_copied_byte_for_byte(name: str) -> None:
    suffix, make = GRAY_SOURCES[name]
    assert copied(make(), suffix) == make()
    with pytest.raises(FileFault):
        copied(make()[:-20], suffix)


# ---- alpha and depth


def test_alpha_survives() -> None:
    for kind, suffix, options in (
        ("PNG", ".png", {}),
        ("TIFF", ".tif", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", ".webp", {"lossless": True}),
        ("WEBP", ".webp", {"quality": 90}),
    ):
        source = photograph("RGBA")
        copy = opened(copied(saved(source, kind, **options), suffix)).convert("RGBA")
        assert is_colourless(copy)
        assert psnr(copy.getchannel("A"), source.getchannel("A")) > 60


def test_a_transparent_colour_becomes_alpha() -> None:
    picture = Image.new("RGB", (8, 8), (200, 10, 10))
    picture.putpixel((3, 3), (1, 2, 3))
    for data in (
        saved(picture, "PNG", transparency=(1, 2, 3)),
        saved(picture.quantize(4), "PNG", transparency=opened_index(picture)),
    ):
        copy = opened(copied(data, ".png"))
        assert copy.mode == "LA"
        assert copy.getpixel((3, 3))[1] == 0  # type: ignore[index]
        assert copy.getpixel((0, 0))[1] == 255  # type: ignore[index]


def opened_index(picture: Image.Image) -> int:
    index = picture.quantize(4).getpixel((3, 3))
    assert isinstance(index, int)
    return index


def test_a_bmp_with_alpha_keeps_it() -> None:
    picture = photograph("RGBA")
    header = struct.pack("<IiiHHIIiiII", 108, *SIZE, 1, 32, 3, 0, 2835, 2835, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    pixels = picture.tobytes("raw", "BGRA", 0, -1)
    source = b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header + pixels
    copy = opened(copied(source, ".bmp"))
    assert copy.mode == "RGBA"
    assert is_colourless(copy)
    assert copy.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


DEEP = [(0x1234, 0x5678, 0x9ABC), (0xFFFF, 0xFFFF, 0xFFFF), (0, 0, 0), (0x0001, 0xFF00, 0x00FF)]


def deep_luma(colour: tuple[int, int, int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def test_16_bit_colours_become_16_bit_gray_in_png() -> None:
    rows = b"\0" + b"".join(struct.pack(">3H", *colour) for colour in DEEP)
    copy = opened(copied(png(len(DEEP), 1, 16, 2, rows), ".png"))
    assert copy.mode == "I;16"
    for x, colour in enumerate(DEEP):
        assert abs(copy.getpixel((x, 0)) - deep_luma(colour)) <= 1  # type: ignore[operator]


def test_16_bit_colours_with_alpha_stay_at_16_bits_in_png() -> None:
    rows = b"\0" + b"".join(struct.pack(">4H", *colour, 0xABCD) for colour in DEEP)
    copy = copied(png(len(DEEP), 1, 16, 6, rows), ".png")
    assert copy[24:26] == bytes([16, 4])
    start = copy.index(b"IDAT")
    size = int.from_bytes(copy[start - 4 : start], "big")
    row = zlib.decompress(copy[start + 4 : start + 4 + size])
    assert len(row) == 1 + 4 * len(DEEP)
    assert opened(copy).getchannel("A").getextrema() == (0xAB, 0xAB)


def test_a_16_bit_colour_key_becomes_alpha() -> None:
    rows = b"\0" + b"".join(struct.pack(">3H", *colour) for colour in DEEP)
    key = png_chunk(b"tRNS", struct.pack(">3H", *DEEP[0]))
    alpha = opened(copied(png(len(DEEP), 1, 16, 2, rows, key), ".png")).getchannel("A")
    assert alpha.tobytes() == bytes([0, 255, 255, 255])


def deep_tiff(
    order: str, compression: int, alpha: int | None = None, *, gray: bool = False
) -> bytes:
    """A TIFF with one strip of DEEP's colours in the byte order `<` or `>`.

    With an alpha channel of that meaning (1: the colours are multiplied by it, 2: they are not).
    """
    samples = [colour[:1] if gray else colour for colour in DEEP]
    if alpha:
        samples = [(*colour, 0xABCD) for colour in samples]
    count = len(samples[0])
    pixels = b"".join(struct.pack(f"{order}{count}H", *sample) for sample in samples)
    strip = pixels if compression == 1 else zlib.compress(pixels)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    depths = struct.pack(f"{order}{count}H", *[16] * count)
    body = depths + strip
    tags = [(256, len(DEEP)), (257, 1), (259, compression), (262, 1 if gray else 2)]
    tags += [(273, 8 + len(depths)), (277, count), (278, 1), (279, len(strip))]
    if alpha:
        tags.append((338, alpha))
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags]
    where = struct.pack(f"{order}I", 8) if count > 2 else depths
    entries.insert(2, struct.pack(f"{order}HHI", 258, 3, count) + where)
    start = struct.pack(f"{order}I", 8 + len(body))
    return (
        mark + start + body + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_16_bit_colours_become_16_bit_gray_in_tiff(order: str, compression: int) -> None:
    copy = opened(copied(deep_tiff(order, compression), ".tif"))
    assert copy.mode == "I;16"
    for x, colour in enumerate(DEEP):
        assert abs(copy.getpixel((x, 0)) - deep_luma(colour)) <= 1  # type: ignore[operator]


@pytest.mark.parametrize("alpha", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_16_bit_colours_with_alpha_stay_at_16_bits_in_tiff(
    order: str, compression: int, alpha: int
) -> None:
    data = copied(deep_tiff(order, compression, alpha), ".tif")
    tags = opened(data).tag_v2  # type: ignore[attr-defined]
    assert (tags[258], tags[262], tags[277], tags[338]) == ((16, 16), 1, 2, (alpha,))
    (start,), (size,) = tags[273], tags[279]
    strip = data[start : start + size]
    pixels = strip if compression == 1 else zlib.decompress(strip)
    found = struct.unpack(f"<{2 * len(DEEP)}H", pixels)
    assert found[1::2] == (0xABCD,) * len(DEEP)
    for gray, colour in zip(found[::2], DEEP, strict=True):
        assert abs(gray - deep_luma(colour)) <= 1
    assert copied(data, ".tif") == data, "and is gray, when it is a source"


# ---- frames


def rotations() -> list[Image.Image]:
    """Frames, of which two are the same."""
    return [photograph().rotate(angle) for angle in (0, 40, 40, 90)]


def frames_of(data: bytes) -> list[tuple[Image.Image, Any]]:
    image = Image.open(io.BytesIO(data))
    found = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        found.append((image.convert("RGBA"), image.info.get("duration")))
    return found


def animated(kind: str, **options: Any) -> bytes:
    first, *others = rotations()
    durations = [100, 200, 300, 400]
    return saved(
        *(first, kind), save_all=True, append_images=others, duration=durations, loop=3, **options
    )


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".gif", {"disposal": 2}),
        (".png", {"disposal": PngImagePlugin.Disposal.OP_PREVIOUS}),
        (".webp", {"quality": 90}),
        (".webp", {"lossless": True}),
    ],
)
def test_an_animation_keeps_all_frames_durations_and_its_loop(
    suffix: str, options: dict[str, Any]
) -> None:
    kind = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}[suffix]
    source = animated(kind, **options)
    copy = copied(source, suffix)
    before, after = frames_of(source), frames_of(copy)
    assert [duration for _, duration in after] == [duration for _, duration in before]
    assert Image.open(io.BytesIO(copy)).info["loop"] == 3
    for (one, _), (other, _) in zip(before, after, strict=True):
        assert is_colourless(other)
        assert psnr(one, other) > 35


def test_a_gif_keeps_disposal_places_and_data_of_its_frames() -> None:
    source = animated("GIF", disposal=2)
    copy = copied(source, ".gif")
    assert len(copy) == len(source)
    methods: list[list[tuple[Any, ...]]] = []
    for data in (source, copy):
        image = Image.open(io.BytesIO(data))
        assert isinstance(image, GifImagePlugin.GifImageFile)
        methods.append([])
        for number in range(image.n_frames):
            image.seek(number)
            methods[-1].append((image.disposal_method, image.tile, image.dispose_extent))
    assert methods[0] == methods[1]


def test_frames_that_only_differed_in_colour_stay_frames() -> None:
    red, green = Image.new("RGB", (8, 8), (100, 0, 0)), Image.new("RGB", (8, 8), (0, 51, 0))
    for kind, suffix in (("GIF", ".gif"), ("PNG", ".png"), ("WEBP", ".webp")):
        options = {"lossless": True} if kind == "WEBP" else {}
        source = saved(red, kind, save_all=True, append_images=[green], duration=50, **options)
        assert len(frames_of(copied(source, suffix))) == 2


def test_a_tiff_keeps_its_pages_compression_resolution_and_tags() -> None:
    pages = [photograph(), photograph("L"), photograph("RGBA"), photograph("1")]
    tags = {270: "a page", 305: "scanner"}
    source = saved(
        *(pages[0], "TIFF"),
        save_all=True,
        append_images=pages[1:],
        compression="tiff_lzw",
        dpi=(300, 150),
        tiffinfo=tags,
    )
    image = Image.open(io.BytesIO(copied(source, ".tif")))
    assert image.n_frames == 4  # type: ignore[attr-defined]
    for number, (page, mode) in enumerate(zip(pages, ("L", "L", "LA", "1"), strict=True)):
        image.seek(number)
        image.load()
        assert image.mode == mode
        assert image.info["compression"] == "tiff_lzw"
        assert image.info["dpi"] == (300, 150)
        assert image.tag_v2[270] == "a page"  # type: ignore[attr-defined]
        assert psnr(image, page) > 50


def tiff_with_exif(compression: str | None, exif: dict[int, Any], orientation: int) -> bytes:
    """Pillow writes no EXIF into compressed TIFF: it is appended, and the tag pointed to it."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.update(exif)
    tags = {274: orientation, 34665: 8}
    data = bytearray(saved(photograph(), "TIFF", compression=compression, tiffinfo=tags))
    data += bytes(len(data) % 2)
    start = int.from_bytes(data[4:8], "little")
    entry = data.index(struct.pack("<H", 34665), start)
    data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, len(data))
    return bytes(data) + directory.tobytes(len(data))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_keeps_orientation_and_exif(compression: str | None, orientation: int) -> None:
    source = tiff_with_exif(compression, {0x9003: "2020:01:01 00:00:00"}, orientation)
    assert Image.open(io.BytesIO(source)).getexif().get_ifd(0x8769)
    copy, size = copied_with_size(source, ".tif")
    image = Image.open(io.BytesIO(copy))
    assert size == SIZE
    assert image.info["compression"] == (compression or "raw")
    assert image.getexif()[0x0112] == orientation
    assert image.getexif().get_ifd(0x8769) == {0x9003: "2020:01:01 00:00:00"}
    image.load()
    upright = opened(source)
    assert image.size == upright.size
    assert psnr(image, upright) > 35


# ---- colour profiles


def rotated_profile() -> bytes:
    """sRGB's profile with its red, green and blue exchanged: no reader can miss it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"@@@@").replace(b"gXYZ", b"rXYZ").replace(b"bXYZ", b"gXYZ")
    return swapped.replace(b"@@@@", b"bXYZ")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROFILED = [("JPEG", ".jpg", {"quality": 95}), ("PNG", ".png", {}), ("TIFF", ".tif", {})]


@pytest.mark.parametrize(("kind", "suffix", "options"), PROFILED)
def test_a_profile_is_honoured_and_replaced_by_one_for_gray(
    kind: str, suffix: str, options: dict[str, Any]
) -> None:
    profile = rotated_profile()
    expected = ImageCms.profileToProfile(
        photograph(), io.BytesIO(profile), ImageCms.createProfile("sRGB")
    )
    assert expected is not None
    copy = opened(copied(saved(photograph(), kind, icc_profile=profile, **options), suffix))
    assert psnr(copy, expected) > 38
    assert psnr(copy, photograph()) < 30
    assert_is_gray_profile(copy.info["icc_profile"])


@pytest.mark.parametrize(("kind", "suffix", "options"), PROFILED)
def test_plain_srgb_changes_nothing_but_the_profile(
    kind: str, suffix: str, options: dict[str, Any]
) -> None:
    with_profile = opened(copied(saved(photograph(), kind, icc_profile=SRGB, **options), suffix))
    without = opened(copied(saved(photograph(), kind, **options), suffix))
    assert with_profile.tobytes() == without.tobytes()
    assert_is_gray_profile(with_profile.info["icc_profile"])
    assert "icc_profile" not in without.info


def assert_is_gray_profile(profile: bytes) -> None:
    """It is one, Little CMS can use it, and its values mean what they mean in sRGB."""
    parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    assert parsed.profile.xcolor_space.strip() == "GRAY"
    ramp = Image.linear_gradient("L")
    transform = ImageCms.buildTransform(parsed, ImageCms.createProfile("sRGB"), "L", "RGB")
    assert psnr(transform.apply(ramp), ramp) > 50


def test_a_webp_under_a_profile_is_brought_into_srgb() -> None:
    source = saved(photograph(), "WEBP", lossless=True, icc_profile=rotated_profile())
    copy = opened(copied(source, ".webp"))
    assert "icc_profile" not in copy.info
    assert psnr(copy, photograph()) < 30


def test_a_broken_profile_counts_as_none() -> None:
    for kind, suffix, options in PROFILED:
        source = saved(photograph(), kind, icc_profile=b"no profile" * 30, **options)
        assert psnr(opened(copied(source, suffix)), photograph()) > 38


# ---- modes


@pytest.mark.parametrize("mode", ["P", "CMYK", "LAB", "YCbCr", "RGBX"])
def test_a_tiff_of_any_colours_comes_out_gray(mode: str) -> None:
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        source = ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(photograph())
    else:
        source = photograph(mode)
    copy = opened(copied(saved(source, "TIFF"), ".tif"))
    assert copy.mode == "L"
    assert psnr(copy, photograph("P").convert("RGB") if mode == "P" else photograph()) > 30


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("BMP", ".bmp")])
def test_a_palette_comes_out_gray(kind: str, suffix: str) -> None:
    copy = opened(copied(saved(photograph("P"), kind), suffix))
    assert copy.mode == "L"
    assert psnr(copy, photograph("P").convert("RGB")) > 50


def test_a_png_keeps_its_texts_and_resolution() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "someone", zip=True)
    info.add_itxt("Title", "Ünïcode")
    exif = Image.Exif()
    exif[0x0112] = 8
    copy = opened(copied(saved(photograph(), "PNG", pnginfo=info, exif=exif, dpi=(72, 72)), ".png"))
    assert copy.info["Author"] == "someone"
    assert copy.info["Title"] == "Ünïcode"
    assert copy.info["dpi"] == pytest.approx((72, 72), abs=0.02)
    assert copy.getexif()[0x0112] == 8


def test_a_lossless_webp_stays_lossless() -> None:
    copy = copied(saved(photograph(), "WEBP", lossless=True), ".webp")
    assert copy[12:16] == b"VP8L"
    assert opened(copy).getchannel("R").tobytes() == photograph("L").tobytes()


# ---- the machine


class FullDisk(io.RawIOBase):
    """A target that takes so many bytes, and of the last block only a part, as a disk would."""

    def __init__(self, room: int) -> None:
        self._room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        taken = min(len(data), self._room)
        self._room -= taken
        return taken


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_never_the_files_fault(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(FORMATS[suffix]())
    needed = len(copied(path.read_bytes(), suffix))
    with path.open("rb") as source:
        for room in (0, needed // 2, needed - 1):
            target: BinaryIO = FullDisk(room)  # type: ignore[assignment]
            with pytest.raises(OSError) as caught:
                process(source.fileno(), target, suffix, LIMIT)
            assert caught.value.errno == 28


def test_a_large_jpeg_needs_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "large.jpg"
    Image.new("RGB", (10_000, 8_000), (10, 200, 90)).save(source)
    program = rf"""
import os, pathlib, re
from dropmill.processors.image import process
with open({str(tmp_path / "copy.jpg")!r}, "w+b") as target:
    process(os.open({str(source)!r}, os.O_RDONLY), target, ".jpg", 100_000_000)
print(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert int(result.stdout) < 250_000  # KiB
    assert result.stderr == ""

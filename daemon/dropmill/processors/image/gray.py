"""Colour into gray: through the colour profile, with the alpha channel, at 8 or 16 bits.

Gray is the luma of ITU-R BT.601 (299, 587 and 114 thousandths of red, green and blue), as JPEG
has it. Colours under a profile that is not sRGB in effect are brought into sRGB first.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterator

from PIL import Image, ImageChops, ImageMath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from PIL import ImageCms

_COLOURS = {b"RGB ": "RGB", b"CMYK": "CMYK"}
_STRIP_PIXELS = 1 << 19
_INVISIBLE = 2  # levels of 255
_D50 = (63190, 65536, 54061)  # the profile connection space's white, in 65536ths


def to_gray(image: Image.Image, profile: bytes | None, *, alpha: bool) -> Image.Image:
    """An image of mode L, or LA where `alpha` is set. A large `image` may be used up on the way.

    A profile that does not fit the image's colours, or cannot be read, counts as none.
    """
    if image.mode in ("CMYK", "LAB"):
        image = _to_srgb(image, profile)
        profile = None
    elif image.mode not in ("L", "LA"):
        mode = "RGBA" if alpha else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        transform = _transform(profile, mode) if profile else None
        if transform:
            image = transform.apply_in_place(image)
    if image.mode == ("LA" if alpha else "L"):
        return image
    if not alpha:
        return image.convert("L")
    bands = image.convert("L"), image.getchannel("A")
    del image  # RGBA and LA take four bytes a pixel each: never hold both
    return Image.merge("LA", bands)


def is_visible(profile: bytes | None) -> bool:
    """Whether an RGB picture's gray depends on its profile (plain sRGB makes no difference)."""
    return profile is not None and _transform(profile, "RGB") is not None


def gray_profile(profile: bytes | None, *, tone_of_source: bool = False) -> bytes | None:
    """The profile for the gray copy of a picture that had `profile`; None if it had none.

    Its tone curve is sRGB's, or the source's own where its values were not brought into sRGB.
    """
    if not profile:
        return None
    curve = _tag(profile, b"rTRC") if tone_of_source or not is_visible(profile) else None
    return _gray_profile_with(curve or _srgb_curve())


# ---- 8 bits: Pillow's binding of Little CMS


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings `mode` under this profile into sRGB; None if that changes no gray visibly."""
    from PIL import ImageCms

    colours = mode.removesuffix("A")
    if _COLOURS.get(profile[16:20]) != colours:
        return None
    target = ImageCms.createProfile("sRGB")
    out = mode if colours == "RGB" else "RGB"
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), target, mode, out)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return transform if colours == "CMYK" or _changes_gray(transform, mode) else None


def _changes_gray(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = (0, 36, 73, 109, 146, 182, 219, 255)
    colours = bytes(part for r in steps for g in steps for b in steps for part in (r, g, b))
    before = Image.frombytes("RGB", (512, 1), colours).convert(mode)
    after = transform.apply(before).convert("L")
    change = ImageChops.difference(before.convert("L"), after).getextrema()
    return change[1] > _INVISIBLE  # type: ignore[operator] # mode L has one pair


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    from PIL import ImageCms

    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    transform = _transform(profile, "CMYK") if profile else None
    return transform.apply(image) if transform else image.convert("RGB")


# ---- 16 bits: Pillow has no such colour mode, so a picture comes as two of 8 bits


def deep_gray(high: Callable[[], Image.Image], low: Callable[[], Image.Image]) -> list[Image.Image]:
    """The gray of a picture with 16 bits a channel: its high and its low bytes, mode L each.

    `high` and `low` give the picture's own high and low bytes, as RGB or RGBA; they are asked
    one after the other, so that never both are held. The alpha channel's bytes follow the gray's.
    """
    picture = high()
    gray = [Image.new("L", picture.size), Image.new("L", picture.size)]
    for box, weighed in _luma_strips(picture):
        _put(gray, box, ImageMath.lambda_eval(lambda _: (_["w"] * 256 + 500) / 1000, w=weighed))
    alpha = [picture.getchannel("A")] if picture.mode == "RGBA" else []
    del picture
    picture = low()
    for box, weighed in _luma_strips(picture):
        upper, lower = (plane.crop(box) for plane in gray)
        _put(gray, box, _sum(upper, lower, weighed))
    return gray + alpha + ([picture.getchannel("A")] if alpha else [])


def _luma_strips(picture: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Strips of the picture's luma, times 1,000, in mode I: four bytes a pixel are too many."""
    width, height = picture.size
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        red, green, blue = picture.crop(box).split()[:3]
        yield (
            box,
            ImageMath.lambda_eval(
                lambda _: _["r"] * 299 + _["g"] * 587 + _["b"] * 114, r=red, g=green, b=blue
            ),
        )


def _sum(upper: Image.Image, lower: Image.Image, weighed: Image.Image) -> Image.Image:
    value: Image.Image = ImageMath.lambda_eval(
        lambda _: _["u"] * 256 + _["l"] + (_["w"] + 500) / 1000, u=upper, l=lower, w=weighed
    )
    return value


def _put(planes: list[Image.Image], box: tuple[int, int, int, int], value: Image.Image) -> None:
    upper = ImageMath.lambda_eval(lambda _: _["v"] / 256, v=value)
    lower = ImageMath.lambda_eval(lambda _: _["v"] % 256, v=value)
    planes[0].paste(upper.convert("L"), box)
    planes[1].paste(lower.convert("L"), box)


# ---- Profiles, as bytes (ICC.1:2010)


def _gray_profile_with(curve: bytes) -> bytes:
    """A version 4 profile for gray data with this tone curve (a `curv` or `para` element)."""
    elements = {
        b"desc": _text("Gray"),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", *_D50),
        b"kTRC": curve + b"\0" * (-len(curve) % 4),
    }
    offset = 128 + 4 + 12 * len(elements)
    table, body = struct.pack(">I", len(elements)), b""
    for name, element in elements.items():
        table += name + struct.pack(">II", offset + len(body), len(element))
        body += element
    head = struct.pack(
        ">I4sI4s4s4s12s4sI4s4sIQI3i4s44x",
        *(offset + len(body), b"\0\0\0\0", 0x04200000, b"mntr", b"GRAY", b"XYZ "),
        *(struct.pack(">6H", 2000, 1, 1, 0, 0, 0), b"acsp", 0, b"\0" * 4, b"\0" * 4, 0, 0, 0),
        *_D50,
        b"\0" * 4,
    )
    return head + table + body


def _text(text: str) -> bytes:
    words = text.encode("utf-16-be")
    element = b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(words), 28) + words
    return element + b"\0" * (-len(element) % 4)


def _tag(profile: bytes, name: bytes) -> bytes | None:
    """One element of a profile, None if it has none or is cut short."""
    count = int.from_bytes(profile[128:132], "big")
    for at in range(132, min(132 + 12 * count, len(profile) - 11), 12):
        if profile[at : at + 4] == name:
            start, size = struct.unpack(">II", profile[at + 4 : at + 12])
            element = profile[start : start + size]
            is_curve = element[:4] in (b"curv", b"para")
            return element if len(element) == size and is_curve else None
    return None


@functools.cache
def _srgb_curve() -> bytes:
    """sRGB's tone curve (IEC 61966-2-1) as a parametric element of type 3."""
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + struct.pack(">IHH5i", 0, 3, 0, *(round(n * 65536) for n in numbers))

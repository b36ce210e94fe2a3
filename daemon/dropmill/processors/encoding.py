"""Which encoding a text is in, and whether it is a text at all."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from ..errors import NotOurs

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_BEGIN_MARKS = tuple(mark for mark, _ in _MARKS)
_NUL_WINDOW = 64 * 1024  # as far as rg looks
_SAMPLE = 16 * 1024
_NON_ASCII_LINE = re.compile(rb"[^\n]*[\x80-\xff][^\n]*\n?")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b\x1a\x16")) + b"\x7f"
# A line break is no b"\n" in these, or a lone run of their bytes says nothing.
_NOT_TRIED = [
    "cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140", "utf_7", "utf_16",
    "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "hz", "iso2022_jp",
    "iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_3", "iso2022_jp_ext",
    "iso2022_kr",
]  # fmt: skip


@functools.cache
def line_break(encoding: str) -> bytes:
    """The bytes of a line feed; as long as one unit of the encoding."""
    return "\n".encode(encoding) if encoding.startswith(("utf-16", "utf-32")) else b"\n"


def detect(sample: bytes, *, whole: bool) -> str:
    """A text's encoding, from its beginning (`whole`: all of it), by Python's codec name.

    A byte-order mark decides, else UTF-8 where it is valid, else what charset-normalizer finds.
    Raises NotOurs with the reason where the content is binary.
    """
    if sample.startswith(_BEGIN_MARKS):
        return next(encoding for mark, encoding in _MARKS if sample.startswith(mark))
    if sample.find(0, 0, _NUL_WINDOW) >= 0:
        return _utf16_without_mark(sample[:_NUL_WINDOW])
    if sample.isascii() or _is_utf8(sample, whole=whole):
        return "utf-8"
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if controls * 50 > len(sample):
        raise NotOurs(f"binary content ({controls} control characters in {len(sample)} bytes)")
    return _mostly_utf8(sample) or _guess(sample)


def _utf16_without_mark(sample: bytes) -> str:
    """Text of mostly ASCII in UTF-16 has a NUL in every second place, and hardly elsewhere."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if half >= 2 and odd > 0.4 * half and even < 0.02 * half:
        return "utf-16-le"
    if half >= 2 and even > 0.4 * half and odd < 0.02 * half:
        return "utf-16-be"
    raise NotOurs(f"binary content (a NUL byte at {sample.index(0)})")


def _is_utf8(sample: bytes, *, whole: bool) -> bool:
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        cut_short = error.reason == "unexpected end of data" and error.start > len(sample) - 4
        return cut_short and not whole
    return True


def _mostly_utf8(sample: bytes) -> str | None:
    """UTF-8 with a few stray bytes (a log that gathers from many hands) is still UTF-8."""
    text = sample.decode("utf-8", "replace")
    stray = text.count("\ufffd")
    others = sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text)))
    return "utf-8" if stray * 4 <= others else None


def _most_used(matches: list[CharsetMatch]) -> str:
    """The best match, or the encoding of most old Western text where that is as likely.

    On little text its neighbours (cp1250, iso8859-3, ...) fit equally well.
    """
    best = matches[0]
    for match in matches:
        as_likely = match.chaos <= best.chaos + 0.05 and match.coherence >= best.coherence - 0.05
        if as_likely and "cp1252" in match.could_be_from_charset:
            return "cp1252"
    return best.encoding


def _guess(sample: bytes) -> str:
    # Imported for the few files that need it: it costs 20 ms.
    from charset_normalizer import from_bytes

    telling = b"".join(_NON_ASCII_LINE.findall(sample))[:_SAMPLE]
    matches = list(from_bytes(telling, cp_exclusion=_NOT_TRIED))
    if matches:
        return _most_used(matches).replace("_", "-")
    strange = len(re.findall(rb"[\x80-\xff]", sample))
    if strange * 3 > len(sample):
        raise NotOurs("binary content (no known encoding fits)")
    return "cp1252"

"""Where a text may be cut: after a line; in an endless one between two words.

A cut never lies inside a character, whatever the encoding and however damaged the text: both sides
decoded are what all of it decoded is. Only a word longer than WINDOW is cut.
"""

from __future__ import annotations

import bisect
import codecs
import re
from typing import NamedTuple

from ..index import tokenize

WINDOW = 4096  # bytes looked at on either side of a cut in an endless line
# Here a byte may be a character or the second half of one; only these are always alone.
_TANGLED = ("big5", "cp932", "cp949", "cp950", "euc", "gb", "johab", "shift-jis")
_ALONE = re.compile(rb"[\x00-\x2f]")


def after_line(content: bytes, line_feed: bytes) -> int | None:
    """The place after the first line break that starts at a whole unit."""
    place = content.find(line_feed)
    while place >= 0 and place % len(line_feed):
        place = content.find(line_feed, place + 1)
    return place + len(line_feed) if place >= 0 else None


def after_last_line(content: bytes, line_feed: bytes) -> int | None:
    """The place after the last line break that starts at a whole unit."""
    place = content.rfind(line_feed)
    while place >= 0 and place % len(line_feed):
        place = content.rfind(line_feed, 0, place + len(line_feed) - 1)
    return place + len(line_feed) if place >= 0 else None


def between_words(content: bytes, place: int, encoding: str) -> int | None:
    """The first place at or after `place` of an endless line where it may be cut.

    Depends on the content from WINDOW before `place` on alone. None where that does not tell where
    characters begin.
    """
    first = _first_character(content, max(0, place - WINDOW), encoding)
    if first is None:
        return None
    place = max(place, first)
    piece = _decoded(content[first : place + WINDOW], encoding)
    characters = len(piece.content[: place - first].decode(encoding, "replace"))
    place_in_utf8 = len(_utf8(piece.text[:characters]))
    utf8 = _utf8(piece.text)
    for begin, end, _ in tokenize(utf8):
        if begin < place_in_utf8 < end:
            characters = len(utf8[:end].decode())
    return first + _place(piece, characters, encoding)


def before_last_word(content: bytes, encoding: str) -> int:
    """Where content, which begins with a whole character and goes on after its end, may be cut.

    Before the word at its end, which may go on too; else after its last whole character.
    """
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    behind = content[: max(0, len(content) - WINDOW)]
    decoder.decode(behind)
    first = len(behind) - len(decoder.getstate()[0])
    piece = _decoded(content[first:], encoding)
    utf8 = _utf8(piece.text)
    words = tokenize(utf8)
    if not words or words[-1][1] < len(utf8) or words[-1][0] == 0:
        return (first + len(piece.content)) or len(content)
    return first + _place(piece, len(utf8[: words[-1][0]].decode()), encoding)


class _Piece(NamedTuple):
    """Whole characters: as bytes, and as text."""

    content: bytes
    text: str


def _decoded(content: bytes, encoding: str) -> _Piece:
    """The whole characters of content that begins with one."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    text = decoder.decode(content)
    return _Piece(content[: len(content) - len(decoder.getstate()[0])], text)


def _place(piece: _Piece, characters: int, encoding: str) -> int:
    """How many bytes a piece's first characters are.

    Encoding them again tells the wrong number where some of the bytes fit no character.
    """

    def count(place: int) -> int:
        return len(piece.content[:place].decode(encoding, "replace"))

    about = bisect.bisect_left(range(len(piece.content)), characters, key=count)
    near = range(max(0, about - 4), min(len(piece.content), about + 4) + 1)
    for place in sorted(near, key=lambda place: abs(place - about)):
        before = piece.content[:place].decode(encoding, "replace")
        if before == piece.text[:characters]:
            behind = piece.content[place:].decode(encoding, "replace")
            if behind == piece.text[characters:]:
                return place
    return about


def _first_character(content: bytes, start: int, encoding: str) -> int | None:
    """Where the first character begins that does so at or after `start`, as far as can be told."""
    if encoding == "utf-8":
        inside = content[start : start + 3]
        return start + len(inside) - len(inside.lstrip(bytes(range(0x80, 0xC0))))
    if encoding.startswith("utf-16"):
        unit = int.from_bytes(
            content[start : start + 2], "big" if encoding.endswith("be") else "little"
        )
        return start + 2 if 0xDC00 <= unit <= 0xDFFF else start
    if encoding.startswith(_TANGLED):
        found = _ALONE.search(content, start)
        return found.start() if found else None
    return start


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")

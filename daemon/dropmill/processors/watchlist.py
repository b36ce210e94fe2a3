"""The watch list `text.keywords`: search terms that are looked for as files arrive.

One Aho-Corasick automaton finds all of them in one pass, however many there are, over the text as
the index folds it: lower case, no accents, every other character a space. A word is a pattern with
a space at both ends. (12.7 ms/MB for 10,000 keywords, where indexing takes 30 and a regular
expression 31,000.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..index import tokenize

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

RECORDED = 1_000  # line numbers kept of one keyword in one take


class _Keyword(NamedTuple):
    written: str
    phrase: re.Pattern[bytes] | None  # None: the pattern alone decides


class WatchList:
    """The keywords of the configuration, ready to be looked for."""

    def __init__(self, keywords: Sequence[str]) -> None:
        self._keywords: list[_Keyword] = []
        self._automaton: BytesAhoCorasick | None = None
        # A letter that the index's tokenizer does not know is no word, so nothing to look for.
        patterns = [self._pattern(keyword) for keyword in keywords if tokenize(_utf8(keyword))]
        if patterns:
            # Only where there is a watch list: the import costs memory in every worker.
            from ahocorasick_rs import BytesAhoCorasick, Implementation

            self._automaton = BytesAhoCorasick(patterns, implementation=Implementation.DFA)

    def _pattern(self, keyword: str) -> bytes:
        """The bytes that the automaton looks for; a phrase is confirmed where they are found."""
        prefix = keyword.rstrip().endswith("*")
        words = [word.encode() for _, _, word in tokenize(_utf8(keyword))]
        closed = b"" if prefix else b" "
        if len(words) == 1:
            self._keywords.append(_Keyword(keyword, None))
            return b" " + words[0] + closed
        phrase = b" " + b" +".join(map(re.escape, words)) + closed
        self._keywords.append(_Keyword(keyword, re.compile(b"(?=" + phrase + b")")))
        return b" " + max(words[:-1], key=len) + b" "

    def look(
        self, content: bytes, text: str, overlap: str, newlines: int, found: dict[str, list[int]]
    ) -> None:
        """Adds to `found` the lines of a block's hits; those that start in `overlap` are not its.

        The block is given as its bytes and as its text; `newlines` is how many line breaks lie
        between the take's start and the block's.
        """
        if self._automaton is None:
            return
        if content.isascii() and len(content) == len(text):
            own, breaks = content.translate(_ASCII), content
        else:
            breaks = text.translate(_FOLDED).encode("utf-8", "replace")
            own = breaks.translate(_BREAKS)
        folded = b" " + own + overlap.translate(_FOLDED).encode("utf-8", "replace") + b" "
        folded = folded.replace(b"\n", b" ")
        hits = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        lines = _Lines(breaks, newlines + 1)
        phrases: set[int] = set()
        for index, start, _ in hits:
            keyword = self._keywords[index]
            if keyword.phrase is not None:
                phrases.add(index)
            elif start < len(own):
                _add(found, keyword.written, lines.at(start))
        for index in sorted(phrases):
            self._confirm(self._keywords[index], folded, len(own), breaks, newlines, found)

    @staticmethod
    def _confirm(
        keyword: _Keyword,
        folded: bytes,
        length: int,
        breaks: bytes,
        newlines: int,
        found: dict[str, list[int]],
    ) -> None:
        """A word of the phrase is there: is all of it?"""
        assert keyword.phrase is not None
        lines = _Lines(breaks, newlines + 1)
        for match in keyword.phrase.finditer(folded):
            if match.start() < length:
                _add(found, keyword.written, lines.at(match.start()))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class _Lines:
    """Line numbers of ascending places, counting each line break once."""

    def __init__(self, breaks: bytes, first: int) -> None:
        self._breaks = breaks
        self._place = 0
        self._line = first

    def at(self, place: int) -> int:
        if place > self._place:
            self._line += self._breaks.count(b"\n", self._place, place)
            self._place = place
        return self._line


def _add(found: dict[str, list[int]], keyword: str, line: int) -> None:
    """Each line once, in order, and no more than are recorded."""
    lines = found.setdefault(keyword, [])
    if len(lines) < RECORDED and (not lines or lines[-1] != line):
        lines.append(line)


class _Folding(dict[int, str]):
    """Each character as the index sees it, asked of its tokenizer once."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = self._fold(chr(code))
        return folded

    @staticmethod
    def _fold(character: str) -> str:
        if character == "\n":
            return "\n"
        alone = tokenize(character.encode("utf-8", "replace"))
        if alone:
            return alone[0][2]
        between = tokenize(f"a{character}b".encode("utf-8", "replace"))
        return "" if len(between) == 1 else " "  # a combining mark belongs to its word


_FOLDED = _Folding()
_ASCII = bytes(
    ord(_FOLDED[code]) if code < 128 and code != ord("\n") else ord(" ") for code in range(256)
)
_BREAKS = bytes(ord(" ") if code == ord("\n") else code for code in range(256))

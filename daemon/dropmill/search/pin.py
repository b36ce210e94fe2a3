"""Pinning: where in a text the words of a query stand, exactly as the index would find them.

A block's text is folded once (lower case, no accents, every other character in its place), with
offsets that lead back; then finding a word is finding a substring that has no word character at
either side. What is a word character, and what it folds to, is asked of the index's own tokenizer,
once a character, so that no second opinion on Unicode can differ from it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import UsageError
from ..index import tokenize

_SEPARATORS = frozenset(chr(c) for c in range(128) if not chr(c).isalnum() and chr(c) != "_")
_GAP = r"[\0-/:-@\[-^`{-\x7f]+"  # the same as a pattern; in a folded text all others are ASCII
_WORD_END = r"(?![^\0-/:-@\[-^`{-\x7f])"
_REST_OF_WORD = re.compile(r"[^\0-/:-@\[-^`{-\x7f]*")
_NOT_ASCII = re.compile(r"[^\0-\x7f]+")
_MARK = "\x01"  # stands for a combining mark, which is part of a word but not of its spelling
_STEP = 1_024
_LONE_MARKS = re.compile(r"(?:\A|(?<=[\0\x02-/:-@\[-^`{-\x7f]))\x01+")  # no part of a word


class Term(NamedTuple):
    """One argument of a query: a word, a prefix, or a phrase whose last word may be a prefix."""

    words: tuple[str, ...]  # folded
    prefix: bool
    pattern: re.Pattern[str] | None  # of a phrase: its first word, the rest looked ahead

    @property
    def fts(self) -> str:
        """The FTS5 query. Folded words hold nothing that would need quoting."""
        return '"' + " ".join(self.words) + '"' + (" *" if self.prefix else "")


class Occurrence(NamedTuple):
    """A term in a text: characters `start` to `end` of it. A prefix's reaches to the word's end."""

    start: int
    end: int
    term: int


class Match(NamedTuple):
    """An occurrence by lines, the text's first being 0.

    `start` and `end` are characters from the start of that line; a phrase that goes on in the next
    line ends beyond its own.
    """

    line: int
    start: int
    end: int
    term: int


def compile_term(argument: str) -> Term:
    """A query's argument, understood. Raises UsageError when there is no word in it."""
    raw = argument.encode("utf-8", "replace")
    tokens = tokenize(raw)
    if not tokens:
        raise UsageError(
            f'"{argument}": no word in it; a word is made of letters, digits and underscores'
            if argument.strip()
            else "an empty search term: name a word to look for"
        )
    words = tuple(word for _, _, word in tokens)
    end = tokens[-1][1]
    prefix = raw[end : end + 1] == b"*"
    pattern = None
    if len(words) > 1:
        rest = "".join(_GAP + re.escape(word) for word in words[1:])
        tail = _REST_OF_WORD.pattern if prefix else _WORD_END
        pattern = re.compile(f"{re.escape(words[0])}(?=({rest}{tail}))")
    return Term(words, prefix, pattern)


def occurrences(text: str, terms: Sequence[Term]) -> list[Occurrence]:
    """Where the terms stand in a text, in order. Phrases may cross line breaks."""
    folded, marks = _fold(text)
    found: list[Occurrence] = []
    for number, term in enumerate(terms):
        for start, end in _phrases(folded, term) if term.pattern else _words(folded, term):
            found.append(Occurrence(start, end, number))
    if marks:
        found = [
            Occurrence(start + bisect_right(marks, start), end + bisect_right(marks, end), number)
            for start, end, number in found
        ]
    found.sort()
    return found


def matches(text: str, terms: Sequence[Term]) -> list[Match]:
    """The same by lines. Lines end with a line feed, as `grep -n` counts."""
    found: list[Match] = []
    line = line_start = 0
    for start, end, number in occurrences(text, terms):
        breaks = text.count("\n", line_start, start)
        if breaks:
            line += breaks
            line_start = text.rfind("\n", line_start, start) + 1
        found.append(Match(line, start - line_start, end - line_start, number))
    return found


def parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A span of a text, cut where lines end; a part begins and ends with something to be seen."""
    while start < end:
        line_break = text.find("\n", start, end)
        stop = end if line_break < 0 else line_break
        piece = text[start:stop]
        visible = piece.strip()
        if visible:
            left = start + len(piece) - len(piece.lstrip())
            yield left, left + len(visible)
        start = stop + 1


def _words(folded: str, term: Term) -> Iterator[tuple[int, int]]:
    word, prefix = term.words[0], term.prefix
    find, length, last = folded.find, len(word), len(folded)
    start = find(word)
    while start >= 0:
        end = start + length
        if start == 0 or folded[start - 1] in _SEPARATORS:
            if prefix:
                end = _end_of_word(folded, end)
                yield start, end
            elif end == last or folded[end] in _SEPARATORS:
                yield start, end
        start = find(word, end)


def _phrases(folded: str, term: Term) -> Iterator[tuple[int, int]]:
    assert term.pattern is not None
    # Looking for the rarest word costs far less than trying the pattern at every first one.
    if not all(word in folded for word in term.words):
        return
    for match in term.pattern.finditer(folded):
        start = match.start()
        if start == 0 or folded[start - 1] in _SEPARATORS:
            yield start, match.end(1)


def _end_of_word(folded: str, start: int) -> int:
    match = _REST_OF_WORD.match(folded, start)
    return match.end() if match else start


def _fold(text: str) -> tuple[str, list[int]]:
    """A text as the index spells it, and where in that a combining mark was left out.

    Without the marks every character stands where it stood.
    """
    if text.isascii():
        return text.lower(), []
    # In steps, because looking for what is not ASCII costs ten times more than to see it is absent.
    text = text.replace(_MARK, " ")
    pieces = [text[start : start + _STEP] for start in range(0, len(text), _STEP)]
    folded = "".join(
        piece if piece.isascii() else _NOT_ASCII.sub(_fold_run, piece) for piece in pieces
    )
    # Of bytes, `lower` touches ASCII letters alone: all others are folded already.
    folded = folded.encode().lower().decode()
    return _without_marks(folded) if _MARK in folded else (folded, [])


def _without_marks(folded: str) -> tuple[str, list[int]]:
    folded = _LONE_MARKS.sub(lambda run: " " * len(run.group()), folded)
    marks = [match.start() - number for number, match in enumerate(re.finditer(_MARK, folded))]
    return folded.replace(_MARK, ""), marks


def _fold_run(run: re.Match[str]) -> str:
    return run.group().translate(_FOLDS)


class _Folds(dict[int, str]):
    """What each character beyond ASCII folds to: asked once, then remembered."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        words = [word for _, _, word in tokenize(f"a{character}b".encode("utf-8", "replace"))]
        # "a" and "b" apart: a separator. Together: a mark. Else what stands between them.
        folded = " " if len(words) != 1 else words[0][1:-1] or _MARK
        self[code] = folded
        return folded


_FOLDS = _Folds()

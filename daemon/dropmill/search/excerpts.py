"""Reading a hit again: the lines of one file that hold the words, as they are to be shown.

The index knows blocks, the source has the lines. Only the blocks that hold a term are read, as the
caller: whoever may not open the source sees its path alone. A source that is no longer what was
indexed is shown as far as it still holds the words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..index import Block
from ..source import NotRegular, opened
from ..store.lookup import LiveTake, Source
from .pin import Occurrence, Term, occurrences, parts

_WHOLE = 4 << 20  # a changed source up to this size is read whole: its blocks may have moved
_BESIDE = 4096  # bytes after a block that were indexed with it, and before it in an endless line
_AROUND = 64 * 1024  # the same where lines of context are asked for
_LONG = 1_000  # characters; a longer line is shown around its hit
_MARGIN = 200
_CHUNK = 1 << 20
_CONTINUATION = bytes(range(0x80, 0xC0))

Span = tuple[int, int]


class Line(NamedTuple):
    """A line to be shown; `spans` are characters of `text`. A line of context has none."""

    number: int
    text: str
    spans: tuple[Span, ...]


class FileHits(NamedTuple):
    """A file that answers a query. Its lines are None where the caller may not read it."""

    path: bytes
    lines: list[Line] | None


class Candidate(NamedTuple):
    """A file that answers a query by the index: its live takes, and which blocks hold a term."""

    source: Source
    takes: list[LiveTake]
    blocks: list[Block]


class Wanted(NamedTuple):
    """What is looked for in a file."""

    terms: tuple[Term, ...]
    excluded: tuple[Term, ...]
    any_term: bool
    context: int


class _Piece(NamedTuple):
    """Bytes `first` to `end` of a source; `line` is the number of the line that `first` is in."""

    first: int
    end: int
    line: int


class _Fragment(NamedTuple):
    """A line's text, or as much of an endless one as was read."""

    text: str
    begins: bool  # at the line's start
    ends: bool


class _Pinned:
    """The lines of one file that hold something, and those around them."""

    def __init__(self) -> None:
        self.hits: dict[int, _Fragment] = {}
        self.spans: dict[int, list[Span]] = {}
        self.around: dict[int, _Fragment] = {}

    def add(self, number: int, fragment: _Fragment, span: Span) -> None:
        """A hit. Of a line that was read in several pieces, the first is shown."""
        known = self.hits.get(number)
        if known is None:
            self.hits[number] = fragment
        elif not (known.begins and fragment.begins):
            if known is not fragment:
                return
        elif len(fragment.text) > len(known.text):
            self.hits[number] = fragment
        self.spans.setdefault(number, []).append(span)

    def lines(self) -> list[Line]:
        fragments = self.around | self.hits
        return [
            _shown(number, fragments[number], _merged(self.spans.get(number, [])))
            for number in sorted(fragments)
        ]


def unchanged(source: Source, status: os.stat_result) -> bool:
    """Whether a source is what was indexed."""
    return source.done and (
        (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        == (source.inode, source.size, source.mtime_ns, source.ctime_ns)
    )


def excerpt(candidate: Candidate, wanted: Wanted) -> FileHits | None:
    """The file's lines; None where it does not answer the query (any more)."""
    source = candidate.source
    try:
        with opened(source.folder, source.name) as descriptor:
            lines = _Reading(descriptor, candidate, wanted).lines()
    except (FileNotFoundError, NotADirectoryError, NotRegular):
        return None
    except OSError:
        return FileHits(source.path, None)
    return FileHits(source.path, lines) if lines else None


class _Reading:
    """One open source."""

    def __init__(self, descriptor: int, candidate: Candidate, wanted: Wanted) -> None:
        status = os.fstat(descriptor)
        self._descriptor = descriptor
        self._candidate = candidate
        self._wanted = wanted
        self._encoding = _known_encoding(candidate.source.encoding)
        self._size = status.st_size
        # Without a live block the file was taken in anew since the question was asked.
        self._as_indexed = unchanged(candidate.source, status) and bool(candidate.blocks)
        self._whole = not self._as_indexed and self._size <= _WHOLE
        self._reach = _AROUND if wanted.context else _BESIDE
        self._pinned = _Pinned()
        self._terms: set[int] = set()

    def lines(self) -> list[Line]:
        """The lines to be shown, in order; none where the query is not answered."""
        for piece in self._pieces():
            self._pin(piece)
        return self._pinned.lines() if self._as_indexed or self._still_answers() else []

    def _still_answers(self) -> bool:
        """The query decided again, on what a changed source was found to hold."""
        wanted, found = self._wanted, self._terms
        if any(number >= len(wanted.terms) for number in found):
            return False
        return bool(found) and (wanted.any_term or len(found) == len(wanted.terms))

    # ---- which bytes ---------------------------------------------------------------------------

    def _pieces(self) -> Iterator[_Piece]:
        if self._whole:
            yield _Piece(0, self._size, 1)
            return
        lines = self._first_lines()
        for block in sorted(self._candidate.blocks, key=lambda block: block.first):
            if block.first < self._size and block.take in lines:
                line = lines[block.take] + block.newlines
                yield _Piece(block.first, min(block.end, self._size), line)

    def _first_lines(self) -> dict[int, int]:
        """The number of each take's first line. Of a large text, some ranges may not be there."""
        lines: dict[int, int] = {}
        needed = {block.take for block in self._candidate.blocks}
        line, end = 1, 0
        for take in self._candidate.takes:
            if len(lines) == len(needed):
                break
            if take.first > end:
                line += self._breaks(end, take.first)
            if take.id in needed:
                lines[take.id] = line
            line, end = line + take.newlines, take.end
        return lines

    def _breaks(self, first: int, end: int) -> int:
        """Line breaks in a range that the index does not hold."""
        return sum(
            self._decode(os.pread(self._descriptor, min(_CHUNK, end - start), start)).count("\n")
            for start in range(first, end, _CHUNK)
        )

    def _decode(self, content: bytes) -> str:
        return content.decode(self._encoding, "replace")

    # ---- its lines -----------------------------------------------------------------------------

    def _pin(self, piece: _Piece) -> None:
        body = self._decode(os.pread(self._descriptor, piece.end - piece.first, piece.first))
        if piece.first == 0:
            body = body.removeprefix("\ufeff")
        after = self._after(piece.end)
        terms = self._wanted.terms + (self._wanted.excluded if self._whole else ())
        found = [hit for hit in occurrences(body + after, terms) if hit.start < len(body)]
        if not found:
            return
        self._terms.update(hit.term for hit in found)
        before = self._before(piece.first)
        window = _Window(
            before + body + after,
            len(before),
            piece.line,
            from_start=piece.first <= self._reach,
            to_end=piece.end + self._reach >= self._size,
        )
        window.pin(found, self._wanted.context, self._pinned)

    def _before(self, first: int) -> str:
        """What stands before a block, as far as the line that it begins in is to be shown."""
        size = min(first, self._reach)
        content = os.pread(self._descriptor, size, first - size)
        if self._encoding == "utf-8" and size < first:
            content = content.lstrip(_CONTINUATION)
        text = self._decode(content)
        return text.removeprefix("\ufeff") if size == first else text

    def _after(self, end: int) -> str:
        """The rest of the line that begins where a block ends, and the lines of context."""
        text = self._decode(os.pread(self._descriptor, self._reach, end))
        stop = 0
        for _ in range(self._wanted.context + 1):
            stop = text.find("\n", stop) + 1
            if not stop:
                return text
        return text[:stop]


class _Window:
    """A piece of a text with what stands before and after it, from which lines are taken."""

    def __init__(
        self, text: str, origin: int, line: int, *, from_start: bool, to_end: bool
    ) -> None:
        """`line` is the number of the line that character `origin` is in."""
        self._text = text
        self._origin = origin
        self._line = line
        self._from_start = from_start  # of the file
        self._to_end = to_end
        self._left, self._right = 0, -1  # of the line looked at last
        self._fragment = _Fragment("", False, False)

    def pin(self, found: Sequence[Occurrence], context: int, pinned: _Pinned) -> None:
        """Adds the lines of hits; those are given by characters after `origin`."""
        number, position = self._line, self._origin
        for hit in found:
            for start, end in parts(self._text, hit.start + self._origin, hit.end + self._origin):
                # A part of a phrase may stand further down than the next hit.
                number += self._text.count("\n", position, start)
                number -= self._text.count("\n", start, position)
                position = start
                if not self._left <= start <= self._right:
                    self._move_to(start)
                    self._add_around(number, context, pinned)
                pinned.add(number, self._fragment, (start - self._left, end - self._left))

    def _move_to(self, place: int) -> None:
        self._left = self._text.rfind("\n", 0, place) + 1
        stop = self._text.find("\n", place)
        self._right = len(self._text) if stop < 0 else stop
        self._fragment = self._line_at(self._left, self._right)

    def _line_at(self, left: int, right: int) -> _Fragment:
        text = self._text[left:right].removesuffix("\r")
        return _Fragment(
            text, left > 0 or self._from_start, right < len(self._text) or self._to_end
        )

    def _add_around(self, number: int, context: int, pinned: _Pinned) -> None:
        left, right = self._left, self._right
        for above in range(number - 1, number - 1 - context, -1):
            if left == 0:
                break
            left, stop = self._text.rfind("\n", 0, left - 1) + 1, left - 1
            fragment = self._line_at(left, stop)
            if fragment.begins:
                pinned.around[above] = fragment
        for below in range(number + 1, number + 1 + context):
            start = right + 1
            if start >= len(self._text):
                break
            stop = self._text.find("\n", start)
            right = len(self._text) if stop < 0 else stop
            pinned.around.setdefault(below, self._line_at(start, right))


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        return "utf-8"  # of a codec that this Python lacks; what is not ASCII is shown as U+FFFD
    return name


def _merged(spans: list[Span]) -> list[Span]:
    """Spans in order, those that touch or overlap as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _shown(number: int, fragment: _Fragment, spans: list[Span]) -> Line:
    """A line as it is shown: whole, or where it is too long as much as is near its first hit."""
    text = fragment.text
    left, right = 0, len(text)
    if right > _LONG:
        start, end = spans[0] if spans else (0, 0)
        left = max(0, start - _MARGIN)
        for _, later in spans:
            if later <= left + _LONG - _MARGIN:
                end = later
        right = min(right, end + _MARGIN, left + _LONG)
    before = "" if left == 0 and fragment.begins else "…"
    after = "" if right == len(text) and fragment.ends else "…"
    shift = len(before) - left
    shown = tuple((start + shift, min(end, right) + shift) for start, end in spans if start < right)
    return Line(number, before + text[left:right] + after, shown)

"""A table as a file holds it: its format, its header, and where its records begin and end."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..errors import FileFault
from .rule import suffix_of

LONGEST_RECORD = 16 * 1024 * 1024  # bytes; a longer one is a quotation mark that is never closed
csv.field_size_limit(LONGEST_RECORD)  # Python's own is 128 KiB
_LONGEST_HEADER = 1024 * 1024
_STEP = 1024 * 1024
_QUOTE = b'"'
_BOM = b"\xef\xbb\xbf"
_BLANK_LINES = re.compile(rb"(?<=\n)(?:\r?\n)+")
_BLANK_BEGINNING = re.compile(rb"\A(?:\r?\n)+")
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_NDJSON = (".ndjson", ".jsonl", ".json")
_TWO_BYTES = ("utf-16", "utf-32")
NUMBERS_COLUMN = "value"

Read = Callable[[int, int], bytes]  # (first, end) → these bytes of the file, fewer at its end


class Format(NamedTuple):
    """How records are written down."""

    name: str  # csv, tsv, ndjson or numbers
    separator: str | None = None  # of cells; None: one cell a line, or JSON

    @property
    def is_quoted(self) -> bool:
        """Whether a line break may lie within quotation marks, and so within a record."""
        return self.separator is not None


def format_of(name: str) -> Format:
    """A file's format, by its suffix: CSV, TSV, JSON lines, else a number a line."""
    suffix = suffix_of(name)
    if suffix in _NDJSON:
        return Format("ndjson")
    separator = _SEPARATORS.get(suffix)
    if separator is None:
        return Format("numbers")
    return Format("csv" if separator == "," else "tsv", separator)


class Table(NamedTuple):
    """One file's format and header."""

    format: Format
    encoding: str
    names: tuple[str, ...]  # of its columns; none are known of JSON lines
    body: int  # where its first record begins

    def need(self, columns: Iterable[str]) -> None:
        """Raises FileFault for a column that the table has not, or has twice."""
        if self.format.name == "ndjson":
            return
        for column in columns:
            count = self.names.count(column)
            if count == 1:
                continue
            if count:
                raise FileFault(f'line 1: there are {count} columns named "{column}"')
            near = difflib.get_close_matches(column, self.names, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            there = ", ".join(self.names[:20])
            raise FileFault(f'line 1: no column "{column}" (there are: {there}{guess})')

    def as_utf8(self, content: bytes) -> bytes:
        if self.encoding == "utf-8":
            return content
        return content.decode(self.encoding, "replace").encode()

    def without_blank_lines(self, content: bytes) -> bytes:
        """A piece, in UTF-8, without the lines that hold nothing and are no record."""
        if not self.format.is_quoted or _QUOTE not in content:
            return _BLANK_LINES.sub(b"", _BLANK_BEGINNING.sub(b"", content))
        # Every second part lies between quotation marks, and there blank lines are content.
        parts = content.split(_QUOTE)
        parts[::2] = (_BLANK_LINES.sub(b"", part) for part in parts[::2])
        parts[0] = _BLANK_BEGINNING.sub(b"", parts[0])
        return _QUOTE.join(parts)

    def need_whole_quotes(self, content: bytes) -> None:
        """Raises BadRecord where a quotation mark, in UTF-8, neither begins nor ends a cell.

        Whoever reads the file would end its records in another place.
        """
        if not self.format.is_quoted or _QUOTE not in content:
            return
        parts = content.split(_QUOTE)
        outside, inside = parts[::2], parts[1::2]
        separator = str(self.format.separator).encode()
        may_precede, may_follow = (b"", separator, b"\n"), (b"", separator, b"\n", b"\r")
        before, after = (
            (part[-1:] for part in outside[: len(inside)]),
            (part[:1] for part in outside[1:]),
        )
        if {*before}.issubset(may_precede) and {*after}.issubset(may_follow):
            return
        lines = 0
        for number, part in enumerate(outside):
            if number:
                lines += inside[number - 1].count(b"\n")
                if part[:1] not in may_follow:
                    raise BadRecord(lines + 1, "a quotation mark within a cell: write it twice")
            lines += part.count(b"\n")
            if number < len(inside) and part[-1:] not in may_precede:
                raise BadRecord(
                    lines + 1, "a quotation mark within a cell that does not begin with one"
                )

    def records(self, content: bytes) -> Iterator[tuple[int, list[str]]]:
        """The records of a piece, slowly: (line of the piece, the first being 1; cells).

        Raises BadRecord for what is none.
        """
        text = content.decode(self.encoding, "replace")
        if self.format.separator is None:
            for number, only in enumerate(text.split("\n"), 1):
                if only.strip():
                    yield number, [only.removesuffix("\r")]
            return
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=self.format.separator, strict=True
        )
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise BadRecord(line, str(error)) from None


class BadRecord(Exception):  # noqa: N818 - a verdict on a file
    """A record that cannot be read; `line` is that of the piece, the first being 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


class Endless(Exception):  # noqa: N818 - a verdict on a file
    """A record of more than LONGEST_RECORD bytes."""

    def __init__(self, begin: int, *, is_quoted: bool) -> None:
        super().__init__(f"a record of more than {LONGEST_RECORD >> 20} MiB")
        self.begin = begin  # byte of the file
        self.is_quoted = is_quoted


def open_table(name: str, size: int, encoding: str, read: Read) -> Table:
    """A file's header. Raises FileFault where there is none that can be read."""
    found = format_of(name)
    if encoding.startswith(_TWO_BYTES):
        raise FileFault(f"a table in {encoding.upper()}: save it as UTF-8")
    body = len(_BOM) if read(0, len(_BOM)) == _BOM else 0
    if found.name == "ndjson":
        return Table(found, encoding, (), body)
    if found.separator is None:
        return Table(found, encoding, (NUMBERS_COLUMN,), body)
    head = read(body, body + _LONGEST_HEADER)
    blank = _BLANK_BEGINNING.match(head)
    first = blank.end() if blank else 0
    end = _record_end(head, first)
    if end is None:
        if body + len(head) < size:
            raise FileFault("line 1: a header of more than 1 MiB: is a quotation mark not closed?")
        end = len(head)
    header = head[first:end].decode(encoding, "replace")
    try:
        names = next(
            csv.reader([header.rstrip("\r\n")], delimiter=found.separator, strict=True), []
        )
    except csv.Error as error:
        raise FileFault(f"line 1: no header that can be read: {error}") from None
    return Table(found, encoding, tuple(names), body + end)


def _record_end(content: bytes, first: int) -> int | None:
    """The place after the first line break that lies outside quotation marks."""
    quotes, begin = 0, first
    while (end := content.find(b"\n", begin) + 1) > 0:
        quotes += content.count(_QUOTE, begin, end)
        if quotes % 2 == 0:
            return end
        begin = end
    return None


class Borders:
    """Where records begin, in one file: known by what lies before, and remembered on the way.

    A line break within quotation marks ends no record, and what lies within is told by nothing
    but the number of quotation marks from the beginning on. They are counted once, as far as is
    asked: to count those of 1 GB takes a fifth of a second.
    """

    def __init__(self, format_: Format, read: Read) -> None:
        self._is_quoted = format_.is_quoted
        self.read = read
        self._counted = 0  # bytes
        self._is_within = False  # quotation marks, there

    def is_within(self, position: int) -> bool:
        """Whether a position lies within quotation marks."""
        if not self._is_quoted:
            return False
        if position < self._counted:
            self._counted, self._is_within = 0, False
        while self._counted < position:
            content = self.read(self._counted, min(position, self._counted + _STEP))
            if not content:
                break
            if _QUOTE in content:
                self._is_within ^= content.count(_QUOTE) % 2 == 1
            self._counted += len(content)
        return self._is_within

    def before(self, position: int) -> int:
        """Where the record begins that a position lies in; reads all that lies before."""
        found = at = 0
        within = False
        while at < position:
            content = self.read(at, min(position, at + _STEP))
            if not content:
                break
            place = at
            for part in content.split(_QUOTE) if self._is_quoted else [content]:
                if not within and (end := part.rfind(b"\n")) >= 0:
                    found = place + end + 1
                within = not within
                place += len(part) + 1
            within = not within  # the last part ended no quotation
            if not self._is_quoted:
                within = False
            at += len(content)
        return found

    def after(self, position: int, size: int) -> int:
        """The first beginning of a record at or after a position; `size` where there is none.

        Raises Endless for a record without end.
        """
        if position <= 0:
            return 0
        position -= 1  # a record begins here where the byte before ends one
        within, at = self.is_within(position), position
        while at < size:
            content = self.read(at, min(size, at + _STEP))
            if not content:
                break
            place = 0
            while True:
                end = content.find(b"\n", place)
                upto = len(content) if end < 0 else end
                if self._is_quoted and content.count(_QUOTE, place, upto) % 2:
                    within = not within
                if end < 0:
                    break
                place = end + 1
                if not within:
                    return at + place
            at += len(content)
            if at - position > LONGEST_RECORD:
                raise Endless(self.before(position), is_quoted=within)
        return size


def json_names(column: str) -> tuple[bytes, bytes]:
    """A column's name as JSON lines may have it."""
    return json.dumps(column).encode(), json.dumps(column, ensure_ascii=False).encode()

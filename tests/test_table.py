"""Tables: their header and format, and that no cut goes through a record."""

from __future__ import annotations

import csv
import io
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dropmill.datasets import table as table_module
from dropmill.datasets.table import (
    BadRecord,
    Borders,
    Endless,
    Format,
    Table,
    format_of,
    open_table,
)
from dropmill.errors import FileFault

CSV = Format("csv", ",")
_CELL = st.text(st.sampled_from('ab1 ,"\n\r\té字'), max_size=6)


def opened(content: bytes, name: str = "a.csv", encoding: str = "utf-8") -> Table:
    return open_table(name, len(content), encoding, lambda first, end: content[first:end])


def borders(content: bytes, form: Format = CSV) -> Borders:
    return Borders(form, lambda first, end: content[first:end])


def written(rows: list[list[str]], line_break: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_break).writerows(rows)
    return text.getvalue().encode()


def read(content: bytes) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(content.decode(), newline="")) if row]


_ROWS = st.lists(st.lists(_CELL, min_size=1, max_size=4), max_size=8)


@given(
    _ROWS,
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 400), max_size=6),
    st.integers(1, 64),
)
@example([['a\n"b', "c"], ["1\r\n", ""]], "\r\n", [3], 1)
def test_no_cut_goes_through_a_record_and_nothing_is_lost(
    rows: list[list[str]], line_break: str, cuts: list[int], step: int
) -> None:
    content = written(rows, line_break)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_STEP", step)
        found = borders(content)
        places = [
            0,
            len(content),
            *(found.after(min(cut, len(content)), len(content)) for cut in cuts),
        ]
    places.sort()
    pieces = [content[one:other] for one, other in itertools.pairwise(places)]
    assert b"".join(pieces) == content
    assert [row for piece in pieces for row in read(piece)] == read(content)


@given(_ROWS, st.sampled_from(["\n", "\r\n"]), st.integers(0, 400), st.integers(1, 64))
def test_a_cut_depends_on_the_content_alone(
    rows: list[list[str]], line_break: str, position: int, step: int
) -> None:
    """Whoever asks, and whatever was asked before: neighbours must agree."""
    content = written(rows, line_break)
    position = min(position, len(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_STEP", step)
        asked = borders(content)
        for before in range(0, len(content), 7):
            asked.after(before, len(content))
        place = asked.after(position, len(content))
        assert place == borders(content).after(position, len(content))
        assert place == len(content) or place >= position
        begin = borders(content).before(place)
        assert begin <= place
        assert borders(content).after(place, len(content)) == place


def test_where_a_record_begins_is_found_from_any_place_in_it() -> None:
    content = b'a,b\n1,"x\ny"\n2,z\n'
    begins = [0] * 4 + [4] * 8 + [12] * 4
    with pytest.MonkeyPatch.context() as patch:
        for step in (1, 3, 100):
            patch.setattr(table_module, "_STEP", step)
            assert [borders(content).before(at) for at in range(16)] == begins


def test_a_record_without_end_is_told_with_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "LONGEST_RECORD", 100)
    monkeypatch.setattr(table_module, "_STEP", 16)
    content = b"a,b\n1,2\n" + b'3,"' + b"x\n" * 200
    with pytest.raises(Endless) as wrong:
        borders(content).after(50, len(content))
    assert (wrong.value.begin, wrong.value.is_quoted) == (8, True)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", ("csv", ",")),
        ("A.CSV", ("csv", ",")),
        ("a.tsv", ("tsv", "\t")),
        ("a.ndjson", ("ndjson", None)),
        ("a.jsonl", ("ndjson", None)),
        ("a.txt", ("numbers", None)),
        ("a", ("numbers", None)),
    ],
)
def test_the_suffix_tells_the_format(name: str, form: tuple[str, str | None]) -> None:
    assert format_of(name) == form


@pytest.mark.parametrize(
    ("content", "names", "body"),
    [
        (b"a,b\n1,2\n", ("a", "b"), 4),
        (b"\xef\xbb\xbfa,b\n", ("a", "b"), 7),
        (b"a,b\r\n1,2\r\n", ("a", "b"), 5),
        (b'"a\nb",c\n1,2\n', ("a\nb", "c"), 8),
        (b'"a ""x""",c', ('a "x"', "c"), 11),
        (b"\n\r\na,b\n", ("a", "b"), 7),
        (b"", (), 0),
        (b"\n\n", (), 2),
    ],
)
def test_the_header_is_found(content: bytes, names: tuple[str, ...], body: int) -> None:
    found = opened(content)
    assert (found.names, found.body) == (names, body)


def test_a_header_in_another_encoding_is_understood() -> None:
    assert opened("größe,n\n1,2\n".encode("latin-1"), encoding="cp1252").names == ("größe", "n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'"a,b\n' + b"x\n" * 600_000, "1 MiB"),
        (b'"a,b\n1,2\n', "line 1"),
        (b"a\rb\rc\r", "line 1"),
        (b'"a"b,c\n', "line 1"),
    ],
)
def test_a_header_that_is_none_is_the_files_fault(content: bytes, text: str) -> None:
    with pytest.raises(FileFault, match=text):
        opened(content)


def test_a_table_of_two_bytes_a_character_is_refused_with_the_mend() -> None:
    with pytest.raises(FileFault, match="save it as UTF-8"):
        opened("a,b\n".encode("utf-16"), encoding="utf-16-le")


def test_a_column_that_is_missing_or_there_twice_is_told() -> None:
    with pytest.raises(FileFault, match=r'line 1: no column "amont" .*did you mean amount'):
        opened(b"amount,n\n").need(["amont"])
    with pytest.raises(FileFault, match=r'line 1: there are 2 columns named "n"'):
        opened(b"n,n,m\n").need(["n"])
    opened(b"n,n,m\n").need(["m"])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'1,"a"\n5" pipe,2\n', 2),
        (b'1,"a\nb"\n2,5"\n', 3),
        (b'1,"a"b\n', 1),
        (b'1, "a"\n', 1),
        (b'1,"a" ,2\n', 1),
    ],
)
def test_a_quotation_mark_within_a_cell_is_told_with_its_line(content: bytes, line: int) -> None:
    with pytest.raises(BadRecord) as wrong:
        opened(b"x,y\n").need_whole_quotes(content)
    assert wrong.value.line == line


@given(_ROWS, st.sampled_from(["\n", "\r\n"]))
def test_what_is_quoted_as_it_should_be_is_no_fault(rows: list[list[str]], ends: str) -> None:
    opened(b"x\n").need_whole_quotes(written(rows, ends))


@given(_ROWS)
def test_blank_lines_are_no_records_but_within_quotes(rows: list[list[str]]) -> None:
    content = b"\n\n" + written(rows, "\n").replace(b"\n", b"\n\n")
    without = opened(b"x\n").without_blank_lines(content)
    assert read(without) == read(content)

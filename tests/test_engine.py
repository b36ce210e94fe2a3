"""The engine against plain Python: whatever the table and wherever it is cut."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from dropmill.datasets.engine import BadCell, Engine, Piece, load
from dropmill.datasets.expression import aggregate, column_sql, condition
from dropmill.datasets.partial import BeyondFloat, Partial, answer, combine, packed, unpacked
from dropmill.datasets.rule import Rule
from dropmill.datasets.table import BadRecord, Borders, Table, open_table
from dropmill.errors import FileFault

load()

Number = int | float | None
Row = dict[str, Any]
Values = dict[tuple[str | None, ...], tuple[Number, ...]]


def rule(
    *aggregates: str, where: str | None = None, group_by: tuple[str, ...] = (), skips: bool = False
) -> Rule:
    of = tuple((f"r{place}", aggregate(each)) for place, each in enumerate(aggregates))
    return Rule("r", "*", condition(where) if where else None, group_by, of, skips, None)


def opened(content: bytes, name: str = "a.csv", encoding: str = "utf-8") -> Table:
    return open_table(name, len(content), encoding, lambda first, end: content[first:end])


def pieces(table: Table, content: bytes, cuts: list[int]) -> list[tuple[int, Piece]]:
    """A table in pieces, cut at the records at or after these places: (first byte, piece)."""
    borders = Borders(table.format, lambda first, end: content[first:end])
    size = len(content)
    places = {borders.after(min(cut, size), size) for cut in cuts}
    inner = sorted(place for place in places if table.body < place < size)
    ends = itertools.pairwise([table.body, *inner, size])
    return [(first, Piece(table, content[first:end], first == table.body)) for first, end in ends]


def taken(
    by: Rule,
    content: bytes,
    cuts: list[int] | None = None,
    name: str = "a.csv",
    encoding: str = "utf-8",
) -> Partial:
    """What a table comes to, each second piece by another worker, and written down in between."""
    table = opened(content, name, encoding)
    engines = [Engine(), Engine()]
    partials = [
        engines[number % 2].partial(by, piece, "one file")
        for number, (_, piece) in enumerate(pieces(table, content, cuts or []))
    ]
    return combine(by.shape, [unpacked(packed({"r": each}))["r"] for each in partials])


def values(partial: Partial) -> Values:
    return {group.key: group.values for group in answer(partial)}


def only(partial: Partial) -> tuple[Number, ...]:
    """The values of the only group."""
    ((_, found),) = values(partial).items()
    return found


# ---- against plain Python ------------------------------------------------------------------------


def _both(one: Number, other: Number, of: Callable[[Any, Any], Any]) -> Any:
    return None if one is None or other is None else of(one, other)


def remainder(one: int | float, other: int) -> int | float:
    """As in SQL: of the sign of what is divided."""
    return one % other if one >= 0 else -(-one % other)


WHERE: dict[str | None, Callable[[Row], bool | None]] = {
    None: lambda row: True,
    "a % 2 = 0": lambda row: _both(row["a"], 2, lambda x, y: x % y == 0),
    "a > b": lambda row: _both(row["a"], row["b"], lambda x, y: x > y),
    "NOT a > b": lambda row: _both(row["a"], row["b"], lambda x, y: not x > y),
    "g = 'x' OR a IS NULL": lambda row: row["a"] is None or (row["g"] == "x"),
    "a BETWEEN -9 AND 9": lambda row: _both(row["a"], 0, lambda x, _: -9 <= x <= 9),
    "b IN (1, 2, 3) AND b + 1 > 2": lambda row: _both(row["b"], 0, lambda x, _: x in (2, 3)),
}
OF: dict[str, Callable[[Row], Any]] = {
    "a": lambda row: row["a"],
    "b": lambda row: row["b"],
    "a * b": lambda row: _both(row["a"], row["b"], lambda x, y: x * y),
    "a - 2 * b": lambda row: _both(row["a"], row["b"], lambda x, y: x - 2 * y),
    "-abs(a)": lambda row: _both(row["a"], 0, lambda x, _: -abs(x)),
    "b % 7": lambda row: _both(row["b"], 7, remainder),
    "3": lambda row: 3,
}
FUNCTIONS = ("sum", "mean", "min", "max", "count")


def plain(function: str, cells: list[Any]) -> tuple[Number, float]:
    """An aggregate in plain Python, and how far off one of fractions may be."""
    there = [cell for cell in cells if cell is not None]
    if function == "count":
        return len(there), 0
    if function in ("min", "max"):
        pick = min if function == "min" else max
        return (pick(there) if there else None), 0
    is_float = any(isinstance(cell, float) for cell in there)
    total = math.fsum(there) if is_float else sum(there)
    most = 1e-12 * math.fsum(map(abs, there)) if is_float else 0
    if function == "sum":
        return total, most
    return (total / len(there), most / len(there)) if there else (None, 0)


def cell(text: str) -> Number:
    if not text.strip():
        return None
    return float(text) if set(text) & set(".eE") else int(text)


_SMALL = st.integers(-20, 20)
_WHOLE = _SMALL | st.integers(-(2**31), 2**31) | st.integers(-(2**63), 2**64)
_HUGE = _WHOLE | st.integers(-(2**126), 2**126)
_EMPTY = st.just("")
_FRACTION = st.floats(-1e30, 1e30).map(repr) | _SMALL.map(str) | st.floats(-9, 9).map(repr)
_COLUMN = st.sampled_from([_SMALL.map(str), _WHOLE.map(str), _HUGE.map(str), _FRACTION]).flatmap(
    lambda cells: st.lists(cells | _EMPTY, min_size=25, max_size=25)
)
_GROUPS = st.lists(
    st.sampled_from(["x", "y", "", 'a"b', "line\nbreak", "é,ü"]), min_size=25, max_size=25
)


# To make a table of 75 cells smaller takes minutes.
@settings(max_examples=400, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    columns=st.tuples(_COLUMN, _COLUMN, _GROUPS),
    height=st.integers(0, 25),
    where=st.sampled_from(list(WHERE)),
    of=st.lists(st.sampled_from(list(OF)), min_size=1, max_size=3),
    function=st.sampled_from(FUNCTIONS),
    group_by=st.sampled_from([(), ("g",), ("g", "a")]),
    line_break=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(0, 1500), max_size=5),
    tail=st.booleans(),
)
def test_it_comes_to_what_plain_python_makes_of_it(
    columns: tuple[list[str], list[str], list[str]],
    height: int,
    where: str | None,
    of: list[str],
    function: str,
    group_by: tuple[str, ...],
    line_break: str,
    cuts: list[int],
    tail: bool,
) -> None:
    rows = list(zip(*columns, strict=True))[:height]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_break).writerows([("a", "b", "g"), *rows])
    content = text.getvalue().encode()
    if tail and rows:
        content = content.removesuffix(line_break.encode())
    by = rule(*(f"{function}({each})" for each in of), where=where, group_by=group_by)
    # A column with one fraction is one of fractions: there whole numbers are no larger than 2^53.
    is_float = [
        any(isinstance(cell(text), float) for text in column[:height]) for column in columns[:2]
    ]
    cells: list[Row] = []
    for one, other, group in rows:
        numbers = {
            name: float(value) if value is not None and floats else value
            for name, value, floats in zip("ab", (cell(one), cell(other)), is_float, strict=True)
        }
        cells.append({**numbers, "g": group, "key": {"g": group or None, "a": one or None}})
    expected: dict[tuple[str | None, ...], list[Row]] = {} if group_by else {(): []}
    for each_row in cells:
        if WHERE[where](each_row):
            key = tuple(each_row["key"][name] for name in group_by)
            expected.setdefault(key, []).append(each_row)
    try:
        found = taken(by, content, cuts)
    except (FileFault, BeyondFloat) as fault:
        largest = max((abs(row[name] or 0) for row in cells for name in "ab"), default=0)
        assert largest > 2**30, f"nothing is beyond anything here: {fault}"
        return
    assert (found.rows, found.bad) == (height, 0)
    assert found.kept == sum(map(len, expected.values()))
    got = values(found)
    assert got.keys() == expected.keys()
    for key, members in expected.items():
        for each, value in zip(of, got[key], strict=True):
            wanted, most = plain(function, [OF[each](row) for row in members])
            if wanted is None or value is None:
                assert value is None and wanted is None
            elif most or isinstance(wanted, float):
                assert abs(value - wanted) <= max(most, 1e-12 * abs(wanted))
            else:
                assert value == wanted
                assert isinstance(value, int) or any(is_float) or function == "mean"


@given(st.lists(_HUGE, min_size=1, max_size=30), st.lists(st.integers(0, 500), max_size=4))
@example([3 * 2**62], [])
@example([2**62] * 3, [])
@example([2**126] * 30, [])
def test_a_sum_of_whole_numbers_is_exact_or_an_error(numbers: list[int], cuts: list[int]) -> None:
    content = "\n".join(["value", *map(str, numbers)]).encode()
    try:
        (total, mean) = only(taken(rule("sum(value)", "mean(value)"), content, cuts))
    except FileFault as fault:
        assert "128 bits" in str(fault)
        assert sum(map(abs, numbers)) > 2**118
        return
    assert total == sum(numbers)
    assert mean == sum(numbers) / len(numbers)


@pytest.mark.parametrize(
    ("of", "cells"),
    [
        ("a * a", (2**62, 2**63, 2**100)),
        ("a * a * a", (2**40, 2**50, 2**90)),
        ("a + a", (2**62, 2**63 - 1, 2**126)),
        ("-a", (-(2**63), -(2**127))),
        ("abs(a)", (-(2**63), -(2**127))),
        ("a - 9223372036854775807", (-(2**63), -2)),
        ("a * 9223372036854775807", (3, 2**62, 2**64)),
        ("9223372036854775807 + 9223372036854775807 + a", (1,)),
    ],
)
def test_no_arithmetic_wraps_around(of: str, cells: tuple[int, ...]) -> None:
    for value in cells:
        try:
            (found,) = only(taken(rule(f"max({of})"), b"a\n%d\n" % value))
        except FileFault as fault:
            assert "128 bits" in str(fault)
            assert abs(value) >= 2**43
            continue
        assert found == eval(of, {"a": value, "abs": abs})


@pytest.mark.parametrize("content", [b"a\n1e308\n1e308\n", b"a\n-1e308\n-1e308\n1e308\n1e308\n"])
@pytest.mark.parametrize("cuts", [[], [3], [3, 9], [3, 9, 16]])
def test_a_sum_beyond_any_fraction_is_an_error_or_right(content: bytes, cuts: list[int]) -> None:
    by = rule("sum(a)", "mean(a)")
    try:
        found = only(taken(by, content, cuts))
    except BeyondFloat:
        return
    assert found == (0.0, 0.0)


# ---- what a file may be like ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,x\n2,y\n",
        b"a,b\r\n1,x\r\n2,y\r\n",
        b"\xef\xbb\xbfa,b\n1,x\n2,y",
        b"\n\na,b\n\n1,x\n\n\r\n2,y\n\n",
        b'"a","b"\n"1","x"\n"2","y"\n',
        b"b,a\nx,1\ny,2\n",
        b"a,b,c\n1,x\n2\n",
        b"a\n1\n\n2\n\n",
        b"a,b\n+1, x\n 2 ,\n",
    ],
)
@pytest.mark.parametrize("cuts", [[], [5], [8, 10], list(range(30))])
def test_a_table_is_read_whatever_it_is_written_like(content: bytes, cuts: list[int]) -> None:
    found = taken(rule("sum(a)", "count()"), content, cuts)
    assert (only(found), found.rows) == ((3, 2), 2)


def test_other_formats_and_encodings() -> None:
    by = rule("sum(value)", "count()")
    lines = b'{"value": 1, "b": "x\\ny"}\n\n{"b": [1], "value": 2}\n{"value": null}\n{"c": 1}'
    for name, content in (
        ("a.ndjson", lines),
        ("a.tsv", b"b\tvalue\nx\t1\ny\t2\nz\t\nz\t\n"),
        ("a.txt", b"1\n2\n"),
        ("a.txt", b"1\r\n\r\n2"),
    ):
        for cuts in ([], [10], [5, 27]):
            total, count = only(taken(by, content, cuts, name=name))
            assert (total, count) == (3, 2 if name == "a.txt" else 4)
    by = rule("sum(größe)", group_by=("stadt",))
    found = taken(by, "größe,stadt\n1,Köln\n2,Köln\n".encode("latin-1"), [14], encoding="cp1252")
    assert values(found) == {("Köln",): (3,)}


@pytest.mark.parametrize("cuts", [[], [10]])
def test_a_stray_byte_is_no_reason_to_refuse_a_table(cuts: list[int]) -> None:
    found = taken(rule("sum(a)", group_by=("g",)), b"g,a\nx,1\ny,1\n\xff,2\n", cuts)
    assert values(found) == {("x",): (1,), ("y",): (1,), ("\ufffd",): (2,)}
    lines = b'{"g": "x", "a": 1}\n{"g": "\xff", "a": 2}\n{"g": "\\ud800", "a": 3}\n'
    try:
        found = taken(rule("sum(a)", group_by=("g",)), lines, name="a.ndjson")
    except BadRecord:
        return
    assert sum(int(each[0] or 0) for each in values(found).values()) == 6


@given(st.lists(_HUGE | st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_json_numbers_are_those_of_the_file(numbers: list[int | float]) -> None:
    content = "".join(f'{{"value": {each!r}}}\n' for each in numbers).encode()
    is_float = any(isinstance(each, float) for each in numbers)
    try:
        low, high = only(taken(rule("min(value)", "max(value)"), content, name="a.ndjson"))
    except FileFault as fault:
        assert "128 bits" in str(fault)
        return
    kind = float if is_float else int
    assert (low, high) == (kind(min(numbers)), kind(max(numbers)))


@pytest.mark.parametrize("content", [b"", b"a", b"a\n", b"\n\n", b"a\n\n\n", b"a,a2\r\n"])
def test_a_table_without_records_comes_to_nothing(content: bytes) -> None:
    found = taken(rule("sum(a)", "count()", "min(a)"), content)
    assert only(found) == (0, 0, None)
    assert found.rows == 0


@pytest.mark.parametrize(
    "name",
    ["*", "^a.*$", "^.*$", "a b", "a.b", "é", "select", 'q"q', "=x", "c0", "0", "len", "\0x"],
)
def test_a_column_may_be_called_anything(name: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([(name, "c1", "a1"), (3, 4, 9), (5, 6, 9)])
    content = text.getvalue().encode()
    sql = column_sql(name) if name[0] not in "*^=" else '"' + name + '"'
    by = rule(f"sum({sql})", "sum(c1)", where=f"{sql} > 3")
    assert only(taken(by, content)) == (5, 6)
    assert values(taken(rule("sum(c1)", group_by=(name,)), content)) == {("3",): (4,), ("5",): (6,)}
    lines = f'{{{_json(name)}: 3, "c1": 4}}\n'.encode()
    assert only(taken(rule(f"sum({sql})", "sum(c1)"), lines, name="a.ndjson")) == (3, 4)


def _json(name: str) -> str:
    import json

    return json.dumps(name)


@pytest.mark.parametrize("key", ["\0", "a\0b", "x" * 1_000_000, "\u202e", "\U0001f600", "'", '"'])
def test_a_group_may_be_called_anything(key: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("g", "a"), (key, 3), (key, 4), ("y", 5)])
    found = taken(rule("sum(a)", group_by=("g",)), text.getvalue().encode(), [1_000])
    assert values(found) == {(key,): (7,), ("y",): (5,)}


# ---- what is wrong with a file -------------------------------------------------------------------


def line_of(content: bytes, by: Rule, cuts: list[int], name: str = "a.csv") -> tuple[int, str]:
    """The line of the file that is told for the first fault, and what is told."""
    table = opened(content, name)
    for first, piece in pieces(table, content, cuts):
        before = content[:first].count(b"\n")
        try:
            Engine().partial(by, piece, 1)
        except BadCell as bad:
            for record, (line, _) in enumerate(table.records(piece.content)):
                if record == bad.record:
                    return before + line, str(bad)
            raise AssertionError("no such record") from bad
        except BadRecord as bad:
            return before + bad.line, bad.text
    raise AssertionError("nothing is wrong")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a,b\n1,2\nx,3\n4,5\n", 3),
        (b"a,b\n1,2\n\n\n3,3\n\nx,5\n", 7),
        (b'a,b\n1,"2\n3"\n3,"4\n\n5"\nx,3\n', 7),
        (b"\n\n\na,b\n1,2\n\n\nx,3\n", 8),
        (b"a,b\r\n1,2\r\n\r\nx,3\r\n", 4),
        (b"a,b\n,\n,\nx,3\n", 4),
        (b"a\n1\n\n\nx\n", 5),
        (b'a,b\n1,2\n"x\ny",3\n', 3),
    ],
)
@pytest.mark.parametrize("cuts", [[], [8], [12], [5, 13], list(range(40))])
def test_a_cell_that_is_no_number_is_told_with_its_line(
    content: bytes, line: int, cuts: list[int]
) -> None:
    found, text = line_of(content, rule("sum(a)"), cuts)
    assert (found, text[:10]) == (line, "column a: ")
    skipped = taken(rule("sum(a)", skips=True), content, cuts)
    assert skipped.bad == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1_000", "is no number"),
        ("0x10", "is no number"),
        ("NaN", "is no number"),
        ("inf", "is no number"),
        ("١", "is no number"),
        ("1e400", "beyond 1.8e308"),
        ("9" * 60, "beyond 128 bits"),
        ("1 000", "is no number"),
        ("true", "is no number"),
        ("-", "is no number"),
        (".", "is no number"),
        ("e5", "is no number"),
    ],
)
@pytest.mark.parametrize("form", ["a.csv", "a.txt", "a.ndjson"])
def test_what_is_no_number_is_none_whatever_the_format(text: str, why: str, form: str) -> None:
    before, cells = {
        "a.csv": (b"value,b\n", ["1,2", f"{text},2"]),
        "a.txt": (b"", ["1", text]),
        "a.ndjson": (b"", ['{"value": 1}', f'{{"value": "{text}"}}']),
    }[form]
    content = before + "\n".join(cells).encode()
    line, told = line_of(content, rule("sum(value)"), [], form)
    assert line == 2 + before.count(b"\n")
    assert why in told and "column value: " in told
    assert only(taken(rule("sum(value)", skips=True), content, name=form)) == (1,)


def test_a_row_with_too_many_cells_is_told_with_its_line() -> None:
    for cuts in ([], [6], [10]):
        line, text = line_of(b'a,b\n1,"x\ny"\n1,2\n1,2,3\n', rule("sum(a)"), cuts)
        assert (line, text) == (5, "3 cells, under a header of 2")


@pytest.mark.parametrize(
    ("bad", "why"), [("{", "no JSON"), ("[1]", "no JSON object"), ("7", "no JSON object")]
)
def test_a_line_that_is_no_json_object_is_told(bad: str, why: str) -> None:
    content = f'{{"a": 1}}\n{{"a": 2}}\n{bad}\n{{"a": 3}}\n'.encode()
    for cuts in ([], [12]):
        line, text = line_of(content, rule("sum(a)"), cuts, "a.ndjson")
        assert line == 3
        assert why in text


@pytest.mark.parametrize("of", ["a / b", "a % b", "a / (b * 2)", "a % (b - b)"])
@pytest.mark.parametrize("cells", [b"a,b\n1,2\n1,0\n", b"a,b\n1.5,2\n1.5,0\n"])
def test_a_division_by_zero_is_told_or_counted(of: str, cells: bytes) -> None:
    with pytest.raises(FileFault, match=r"r0: divided by zero in [12] of [12] records"):
        taken(rule(f"sum({of})"), cells)
    found = taken(rule(f"count({of})", skips=True), cells)
    assert only(found)[0] == 2 - found.bad
    assert found.bad == (2 if "b - b" in of else 1)
    if "b - b" not in of:
        assert only(taken(rule(f"count({of})", where="b != 0"), cells)) == (1,)

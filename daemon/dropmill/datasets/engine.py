"""The engine: one piece of a table and one rule → a partial result, by Polars.

Whole numbers stay whole: what may leave 64 bits is computed in 128, and what may leave those is
an error, told before it could happen. (A library's sum wraps around silently: 3 times 2^62 gave
-4611686018427387904.) A column that holds any other number is one of floating-point numbers.

Only here is Polars imported, and only by workers that have rules: it takes 0.2 s, starts threads
(so it cannot be had by forking) and 40 MB. The pool is the parallelism: one thread each.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DropmillError, FileFault
from .expression import Expression, inner_name
from .partial import MOST_GROUPS, BeyondFloat, Key, Partial, TooManyGroups, Value, nothing
from .rule import Rule
from .table import BadRecord, Table, json_names

if TYPE_CHECKING:
    import polars as pl

MISSING = "`datasets:` needs Polars: pip install polars, or dropmill with its extra, datasets"
_INT64, _INT128 = 1 << 63, 1 << 127
_WHOLE = r"^[+-]?[0-9]+$"
_ANY_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_SHOWN_CELL = 40
_BEGINNING = 4096


class BadCell(Exception):  # noqa: N818 - a verdict on a file
    """A cell that is no number."""

    def __init__(self, record: int, text: str) -> None:
        super().__init__(text)
        self.record = record  # of the piece, from 0
        self.text = text


def load() -> None:
    """Imports Polars, and has it start what it will need: for a process that is to be shut in.

    Raises DropmillError where it is not installed.
    """
    os.environ["POLARS_MAX_THREADS"] = "1"
    try:
        import polars as pl
    except ImportError:
        raise DropmillError(MISSING) from None
    frame = pl.read_csv(b'a,b\n1,x\n2,"y"\n', schema_overrides={"a": pl.Int64})
    frame.filter(pl.sql_expr("a > 0")).group_by("b").agg(pl.col("a").sum()).rows()
    pl.read_ndjson(io.BytesIO(b'{"a": 1}\n'), schema={"a": pl.String})


class Piece(NamedTuple):
    """A piece of a table, from the beginning of a record to the end of one."""

    table: Table
    content: bytes
    is_first: bool  # nothing but the header lies before it


class Engine:
    """Computes partial results. Remembers of the last table which columns hold fractions."""

    def __init__(self) -> None:
        self._remembered: object = None
        self._fractions: set[str] = set()

    def partial(self, rule: Rule, piece: Piece, file: object) -> Partial:
        """What a piece comes to. `file` is another one for another content.

        Raises FileFault: BadCell and BadRecord tell its place in the piece.
        """
        if file != self._remembered:
            self._remembered, self._fractions = file, set()
        content = piece.table.as_utf8(piece.content)
        is_blank = not content[:_BEGINNING].strip() and not content.strip()
        if piece.table.names or not is_blank:
            piece.table.need(rule.columns)
        if is_blank:
            return nothing(rule.shape)
        piece.table.need_whole_quotes(content)
        if piece.is_first and piece.table.format.name == "ndjson":
            _need_in_json(rule.columns, content)
        try:
            frame, bad = self._frame(rule, piece, content)
            has_blank_lines = _may_have_blank_lines(frame)
        except BadCell:
            has_blank_lines = True  # perhaps: they would be counted as records
        if has_blank_lines:
            frame, bad = self._frame(rule, piece, piece.table.without_blank_lines(content))
        return _Aggregation(rule, frame, bad).partial()

    # ---- reading -----------------------------------------------------------------------------

    def _frame(self, rule: Rule, piece: Piece, content: bytes) -> tuple[pl.DataFrame, int]:
        """The columns that a rule uses; those of numbers as such. How many cells were none."""
        import polars as pl

        numbers = rule.numbers
        # What is used as it stands too is read as that.
        typed = numbers.difference(rule.group_by)
        if piece.table.format.name != "ndjson" and typed:
            whole, fraction = pl.Int64(), pl.Float64()
            types: dict[str, Any] = {
                name: fraction if name in self._fractions else whole for name in typed
            }
            try:
                frame = _read(piece.table, content, rule.columns, types)
            except pl.exceptions.ComputeError:
                pass  # some cell is neither, or the piece is no table: looked at closely
            else:
                if numbers == typed and _all_finite(frame):
                    return frame, 0
        frame = _read_texts(piece, content, rule.columns)
        bad = 0
        for name in sorted(numbers):
            frame, found = self._as_number(frame, name, rule)
            bad += found
        return frame, bad

    def _as_number(self, frame: pl.DataFrame, name: str, rule: Rule) -> tuple[pl.DataFrame, int]:
        """A frame with a column's texts as numbers, and how many cells of it were none.

        They are whole numbers where all cells are.
        """
        import polars as pl

        inner = inner_name(name)
        stripped = frame[inner].str.strip_chars()
        texts = stripped.set(stripped == "", None)
        wrong = (~texts.str.contains(_ANY_NUMBER)).fill_null(False)
        what = "is no number"
        good = texts.set(wrong, None)
        if bool(good.str.contains(_WHOLE).all()):
            number = good.cast(pl.Int64, strict=False)
            if number.null_count() > good.null_count():
                number = good.cast(pl.Int128, strict=False)
                beyond = number.is_null() & good.is_not_null()
                wrong, what = wrong | beyond, what if wrong.any() else "is beyond 128 bits"
        else:
            self._fractions.add(name)
            number = good.cast(pl.Float64)
            beyond = number.is_infinite().fill_null(False)
            number = number.set(beyond, None)
            wrong, what = wrong | beyond, what if wrong.any() else "is beyond 1.8e308"
        bad = int(wrong.sum())
        if bad and not rule.skips_bad_cells:
            first = int(wrong.arg_true()[0])
            raise BadCell(first, f'column {name}: "{_short(str(texts[first]))}" {what}')
        if name in rule.group_by:
            frame = frame.with_columns(frame[inner].alias(_key(name)))
        return frame.with_columns(number.alias(inner)), bad


def _short(cell: str) -> str:
    return cell if len(cell) <= _SHOWN_CELL else cell[: _SHOWN_CELL - 1] + "…"


def _read(
    table: Table, content: bytes, columns: Iterable[str], types: dict[str, Any]
) -> pl.DataFrame:
    """The cells of some columns, as texts unless `types` says otherwise."""
    import polars as pl

    if table.format.separator is None:
        # A surplus cell in a line is told by Polars itself, where all columns are read.
        (name,) = table.names
        return pl.read_csv(
            content,
            has_header=False,
            separator="\x1f",
            quote_char=None,
            schema={name: types.get(name, pl.String())},
        )
    places = {name: f"c{table.names.index(name)}" for name in columns}
    separator = table.format.separator or "\x1f"
    # One column more than there are: what is in it is one cell too many.
    surplus = f"c{len(table.names)}"
    header = separator.join(f"c{place}" for place in range(len(table.names) + 1))
    text = pl.String()
    frame = pl.read_csv(
        b"".join((header.encode(), b"\n", content)),
        separator=separator,
        quote_char='"' if table.format.is_quoted else None,
        columns=[*(list(places.values()) or ["c0"]), surplus],
        schema_overrides={place: types.get(name, text) for name, place in places.items()},
        infer_schema=False,
    )
    if frame[surplus].null_count() < frame.height:
        raise pl.exceptions.ComputeError("more cells than the header has")
    return frame.drop(surplus).rename({place: inner_name(name) for name, place in places.items()})


def _may_have_blank_lines(frame: pl.DataFrame) -> bool:
    """Whether any record is empty in all columns that are read."""
    import polars as pl

    if not frame.width or not all(column.null_count() for column in frame.get_columns()):
        return False
    return bool(frame.select(pl.all_horizontal(pl.all().is_null()).any()).item())


def _read_texts(piece: Piece, content: bytes, columns: list[str]) -> pl.DataFrame:
    import polars as pl

    try:
        if piece.table.format.name == "ndjson":
            schema = dict.fromkeys(columns, pl.String()) or {"": pl.String()}
            frame = pl.read_ndjson(io.BytesIO(content), schema=schema)
            return frame.rename({name: inner_name(name) for name in columns})
        return _read(piece.table, content, columns, {})
    except pl.exceptions.PolarsError as error:
        whole = content.decode("utf-8", "replace").encode()
        if whole != content:  # stray bytes, as texts may have them
            return _read_texts(piece, whole, columns)
        _look_closely(piece)
        text = str(error).splitlines()[0]
        raise BadRecord(1, f"somewhere from here on: {text}") from None


def _look_closely(piece: Piece) -> None:
    """Raises BadRecord for the first record of a piece that is none."""
    import json

    names = piece.table.names
    for line, cells in piece.table.records(piece.content):
        if piece.table.format.name == "ndjson":
            try:
                found = json.loads(cells[0])
            except ValueError as error:
                raise BadRecord(line, f"no JSON: {error}") from None
            if not isinstance(found, dict):
                raise BadRecord(line, 'no JSON object ({"name": value, ...})')
        elif len(cells) > len(names):
            raise BadRecord(line, f"{len(cells)} cells, under a header of {len(names)}")


def _need_in_json(columns: Iterable[str], content: bytes) -> None:
    for column in columns:
        if not any(name in content for name in json_names(column)):
            raise FileFault(f'line 1: no "{column}" in the first records')


def _all_finite(frame: pl.DataFrame) -> bool:
    return all(
        bool(column.is_finite().all()) for column in frame.get_columns() if column.dtype.is_float()
    )


def _key(name: str) -> str:
    """The column that holds a group's cells as they stand in the file."""
    return f"\0{name}"


class _Aggregation:
    """One rule over one frame."""

    def __init__(self, rule: Rule, frame: pl.DataFrame, bad: int) -> None:
        self._rule = rule
        self._frame = frame
        self._bad = bad
        self._rows = frame.height

    def partial(self) -> Partial:
        import polars as pl

        self._widen()
        if self._rule.where is not None:
            self._frame = self._frame.filter(pl.sql_expr(self._rule.where.sql))
        values = self._values()
        found = self._aggregated(values)
        shape = self._rule.shape
        is_float = tuple(
            aggregate.function != "count"
            and aggregate.of is not None
            and values[str(place)].dtype.is_float()
            for place, (_, aggregate) in enumerate(self._rule.aggregates)
        )
        start = nothing(shape).groups
        return Partial(shape, self._rows, self._frame.height, self._bad, is_float, start | found)

    def _widen(self) -> None:
        """To 128 bits, where arithmetic might leave 64. Raises FileFault where it might leave 128.

        What an expression comes to, and all on the way, is at most so many products added up, of
        at most so many of its numbers each.
        """
        import polars as pl

        numbers = map(inner_name, self._rule.numbers)
        whole = [name for name in numbers if self._frame[name].dtype.is_integer()]
        largest = max((_largest(self._frame[name]) for name in whole), default=0)
        bounds = [(_bound(each, largest), each) for each in self._rule.expressions]
        bound = max((bound for bound, _ in bounds), default=0)
        if bound >= _INT128:
            worst = max(bounds, key=lambda each: each[0])[1]
            raise FileFault(
                f"{worst.sql} may leave 128 bits, where a cell is {largest:,}: multiply by 1e0 for"
                " floating-point numbers"
            )
        if bound >= _INT64:
            self._frame = self._frame.with_columns(pl.col(whole).cast(pl.Int128))

    def _values(self) -> pl.DataFrame:
        """What is aggregated: a column an aggregate, named by its number, beside the keys."""
        import polars as pl

        numbers = self._rule.numbers
        keys = [
            pl.col(_key(name) if name in numbers else inner_name(name)).alias(_key(name))
            for name in self._rule.group_by
        ]
        columns = []
        for place, (_, aggregate) in enumerate(self._rule.aggregates):
            of = aggregate.of
            columns.append(
                pl.lit(1, dtype=pl.Int8).alias(str(place))
                if of is None
                else pl.sql_expr(of.sql).alias(str(place))
            )
        found = self._frame.select(keys + columns)
        if found.height != self._frame.height:  # nothing but literals: one row
            found = self._frame.select(pl.int_range(pl.len()).alias("\0"), *keys, *columns).drop(
                "\0"
            )
        return self._without_infinities(found)

    def _without_infinities(self, values: pl.DataFrame) -> pl.DataFrame:
        """What is divided by zero, or beyond any number, is none: as a cell may be none."""

        for place, (name, aggregate) in enumerate(self._rule.aggregates):
            if aggregate.of is None:
                continue
            column = values[str(place)]
            wrong, why = self._divided_by_zero(aggregate.of), "divided by zero"
            if wrong is None and column.dtype.is_float():
                wrong, why = (~column.is_finite()).fill_null(False), "beyond 1.8e308"
            count = 0 if wrong is None else int(wrong.sum())
            if wrong is None or not count:
                continue
            if not self._rule.skips_bad_cells:
                raise FileFault(
                    f"{name}: {why} in {count:,} of {values.height:,} records that match"
                )
            self._bad += count
            values = values.with_columns(column.set(wrong, None).alias(str(place)))
        return values

    def _divided_by_zero(self, expression: Expression) -> pl.Series | None:
        """In which records; None: in none."""
        import polars as pl

        if not expression.divisors:
            return None
        is_zero = [pl.sql_expr(divisor) == 0 for divisor in expression.divisors]
        found = self._frame.select(
            pl.int_range(pl.len()).alias("\0"), pl.any_horizontal(is_zero).alias("zero")
        )["zero"].fill_null(False)
        return found if found.any() else None

    def _aggregated(self, values: pl.DataFrame) -> dict[Key, tuple[Value, ...]]:
        wanted = [
            expression
            for place, (_, aggregate) in enumerate(self._rule.aggregates)
            for expression in _expressions(str(place), aggregate.function, values)
        ]
        keys = [_key(name) for name in self._rule.group_by]
        found = values.group_by(keys).agg(wanted) if keys else values.select(wanted)
        if found.height > MOST_GROUPS:
            raise TooManyGroups
        if not _all_finite(found):
            raise BeyondFloat
        width = len(keys)
        return {row[:width]: self._folded(row[width:]) for row in found.rows()}

    def _folded(self, cells: tuple[Any, ...]) -> tuple[Value, ...]:
        rest = iter(cells)
        return tuple(
            (next(rest) or 0, next(rest)) if aggregate.function == "mean" else next(rest)
            for _, aggregate in self._rule.aggregates
        )


def _expressions(place: str, function: str, values: pl.DataFrame) -> list[pl.Expr]:
    """The columns that one aggregate takes."""
    import polars as pl

    column, of = pl.col(place), values[place]
    match function:
        case "count":
            return [column.count().alias(place)]
        case "min":
            return [column.min().alias(place)]
        case "max":
            return [column.max().alias(place)]
    if of.dtype.is_integer():
        bound = _largest(of) * max(of.len(), 1)
        if bound >= _INT128:
            raise FileFault("a sum may leave 128 bits: multiply by 1e0 for floating-point numbers")
        column = column.cast(pl.Int128 if bound >= _INT64 else pl.Int64)
    total = column.sum().alias(place)
    return [total, pl.col(place).count().alias(f"{place}n")] if function == "mean" else [total]


def _largest(column: pl.Series) -> int:
    """The largest absolute value of a column of whole numbers."""
    low: Any = column.min()
    high: Any = column.max()
    return 0 if low is None else max(abs(int(low)), abs(int(high)))


def _bound(expression: Expression, largest: int) -> int:
    """What the absolute value of an expression of whole numbers, and of all in it, may reach."""
    base = max(largest, expression.largest, 1)
    return int(expression.terms * base**expression.factors)

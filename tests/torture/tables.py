"""The audit of data sets: what rules must come to, computed from the files on disk.

In plain Python: the csv module, whole numbers without bound and fractions, nothing of dropmill. The
tables hold such fractions only as a floating-point sum keeps exactly (quarters), so that all is
compared to the last digit: a record counted twice or lost is a difference.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from ..dropmill_process import Place

Number = int | Fraction
Record = dict[str, str | None]
Key = tuple[str | None, ...]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_WHOLE = re.compile(r"[+-]?[0-9]+")
_EXACT = 2**53


class Aggregate(NamedTuple):
    """One line under `aggregate:`, and what it takes of a record (None: the record itself)."""

    function: str
    sql: str
    of: Callable[[dict[str, Number | None]], Number | None] | None = None
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.function}({self.sql})"


class Rule(NamedTuple):
    """One entry of `datasets:`, and the same in Python."""

    name: str
    suffixes: tuple[str, ...]
    match: str
    aggregates: dict[str, Aggregate]
    numbers: tuple[str, ...]  # the columns that hold numbers
    group_by: tuple[str, ...] = ()
    where: str = ""
    keeps: Callable[[Record, dict[str, Number | None]], bool] = lambda record, numbers: True
    output: str = ""
    skips_bad_cells: bool = False

    @property
    def yaml(self) -> str:
        lines = [f"name: {self.name}", f'match: "{self.match}"']
        lines += [f"where: {json.dumps(self.where)}"] if self.where else []
        lines += [f"group_by: [{', '.join(self.group_by)}]"] if self.group_by else []
        aggregates = ", ".join(f"{name}: {each}" for name, each in self.aggregates.items())
        lines += [f"aggregate: {{{aggregates}}}"]
        lines += [f"output: {self.output}"] if self.output else []
        lines += ["on_bad_cell: skip"] if self.skips_bad_cells else []
        return "  - " + "\n    ".join(lines) + "\n"


class Total(NamedTuple):
    """What some records come to."""

    records: int
    matched: int
    bad: int
    has_fractions: tuple[bool, ...]  # of each aggregate's columns
    groups: dict[Key, list[tuple[int, Number, Number, Number] | None]]  # count, sum, min, max

    def plus(self, other: Total) -> Total:
        groups = {key: list(values) for key, values in self.groups.items()}
        for key, values in other.groups.items():
            mine = groups.setdefault(key, [None] * len(values))
            groups[key] = [_joined(one, two) for one, two in zip(mine, values, strict=True)]
        fractions = map(max, self.has_fractions, other.has_fractions)
        counts = (self.records + other.records, self.matched + other.matched, self.bad + other.bad)
        return Total(*counts, tuple(fractions), groups)


def _joined(
    one: tuple[int, Number, Number, Number] | None, two: tuple[int, Number, Number, Number] | None
) -> tuple[int, Number, Number, Number] | None:
    if one is None or two is None:
        return one or two
    return one[0] + two[0], one[1] + two[1], min(one[2], two[2]), max(one[3], two[3])


def nothing(rule: Rule) -> Total:
    width = len(rule.aggregates)
    groups: dict[Key, Any] = {} if rule.group_by else {(): [None] * width}
    return Total(0, 0, 0, (False,) * width, groups)


# ---- from the bytes ------------------------------------------------------------------------------


def _records(path: Path, content: bytes) -> Iterator[Record]:
    text = content.decode()
    separator = _SEPARATORS.get(path.suffix)
    if separator is None:
        for line in text.split("\n"):
            if line.strip():
                yield {"value": line.strip()}
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names = next(reader)
    for cells in reader:
        if cells:
            yield dict(zip(names, (cell or None for cell in cells), strict=True))


def _computed(path: Path, content: bytes, rule: Rule) -> Total:
    records = matched = bad = 0
    fractions: set[str] = set()
    groups: dict[Key, Any] = nothing(rule).groups
    for record in _records(path, content):
        records += 1
        numbers: dict[str, Number | None] = {}
        for name in rule.numbers:
            numbers[name], is_bad, is_fraction = _number(record[name])
            bad += is_bad
            fractions |= {name} if is_fraction else set()
        if not rule.keeps(record, numbers):
            continue
        matched += 1
        key = tuple(record[name] for name in rule.group_by)
        values = groups.setdefault(key, [None] * len(rule.aggregates))
        for place, aggregate in enumerate(rule.aggregates.values()):
            value = 1 if aggregate.of is None else aggregate.of(numbers)
            if value is not None:
                values[place] = _joined(values[place], (1, value, value, value))
    has_fractions = tuple(bool(fractions & {*each.columns}) for each in rule.aggregates.values())
    return Total(records, matched, bad, has_fractions, groups)


def _number(cell: str | None) -> tuple[Number | None, bool, bool]:
    """A cell's number, whether it is none, and whether it is written as a fraction."""
    if cell is None:
        return None, False, False
    if _WHOLE.fullmatch(cell):
        return int(cell), False, False
    try:
        return Fraction(Decimal(cell)), False, True
    except ArithmeticError:
        return None, True, False


# ---- what must be said ---------------------------------------------------------------------------


def _answer(rule: Rule, total: Total) -> list[dict[str, Any]]:
    """The groups in their order, as JSON must have them."""
    keys = sorted(total.groups, key=lambda key: [(cell is not None, cell) for cell in key])
    return [
        dict(zip(rule.group_by, key, strict=True))
        | {
            name: _final(aggregate.function, values, is_float)
            for (name, aggregate), values, is_float in zip(
                rule.aggregates.items(), total.groups[key], total.has_fractions, strict=True
            )
        }
        for key in keys
    ]


def _final(
    function: str, values: tuple[int, Number, Number, Number] | None, is_float: bool
) -> int | float | None:
    if values is None:
        return {"count": 0, "sum": 0.0 if is_float else 0}.get(function)
    count, total, least, most = values
    if function == "count":
        return count
    assert not is_float or Fraction(total * 4).denominator == 1, "the bench drops quarters only"
    if function == "mean":
        return float(Fraction(total) / count)
    found: Number = {"sum": total, "min": least, "max": most}[function]
    assert not is_float or -_EXACT < total * 4 < _EXACT, "the bench's own sums are to be exact"
    return float(found) if is_float else int(found)


def _object(rule: Rule, total: Total) -> dict[str, Any]:
    return {
        "records": total.records,
        "matched": total.matched,
        "bad_cells": total.bad,
        "groups": _answer(rule, total),
    }


def _csv(rule: Rule, total: Total) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*rule.group_by, *rule.aggregates])
    for group in _answer(rule, total):
        writer.writerow("" if cell is None else cell for cell in group.values())
    return text.getvalue()


# ---- the audit -----------------------------------------------------------------------------------


class Auditor:
    """Remembers what each content comes to, so that large files are computed once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[tuple[bytes, str, str], Total] = {}

    def differences(self, rules: list[Rule]) -> list[str]:
        """What is not as the files on disk have it. The work must be over."""
        problems: list[str] = []
        by_path: dict[str, dict[str, Total]] = {}
        contents: dict[str, bytes] = {}
        for path in sorted(self._place.inbox.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                content = path.read_bytes()
                name = str(path.relative_to(self._place.inbox))
                contents[name] = content
                by_path[name] = {
                    rule.name: self._total(path, content, rule)
                    for rule in rules
                    if path.suffix in rule.suffixes
                }
        problems += self._results(rules, by_path, contents)
        for rule in rules:
            problems += self._aggregated(rule, by_path)
            problems += self._outputs(rule, by_path)
        folders = sorted({name.rpartition("/")[0] for name in by_path} - {""})
        if folders:
            problems += self._aggregated(rules[0], by_path, folders[0])
        return problems

    def _total(self, path: Path, content: bytes, rule: Rule) -> Total:
        key = (hashlib.sha256(content).digest(), path.suffix, rule.yaml)
        if key not in self._known:
            self._known[key] = _computed(path, content, rule)
        return self._known[key]

    def _results(
        self,
        rules: list[Rule],
        by_path: dict[str, dict[str, Total]],
        contents: dict[str, bytes],
    ) -> list[str]:
        by_name = {rule.name: rule for rule in rules}
        rows = self._place.results("--kind", "dataset")
        problems = [f"a result without a file: {path}" for path in rows.keys() - by_path.keys()]
        for path, totals in by_path.items():
            row = rows.get(path)
            if row is None or row["state"] != "done" or row["attempts"]:
                problems.append(f"{path}: {row}")
                continue
            content = contents[path]
            lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
            wanted = {name: _object(by_name[name], total) for name, total in totals.items()}
            problems += _unequal(f"{path}, lines", row.get("lines"), lines)
            problems += _unequal(f"{path}, results", row.get("datasets"), wanted)
        return problems

    def _aggregated(
        self, rule: Rule, by_path: dict[str, dict[str, Total]], folder: str = ""
    ) -> list[str]:
        total, files = nothing(rule), 0
        for path, totals in by_path.items():
            if rule.name in totals and (not folder or path.startswith(f"{folder}/")):
                total, files = total.plus(totals[rule.name]), files + 1
        under = ["--under", str(self._place.inbox / folder)] if folder else []
        found = self._place.run("aggregate", rule.name, "--json", *under)
        what = f"aggregate {rule.name} of {folder or 'all'}"
        if found.returncode != (0 if files else 1) or found.stderr:
            return [f"{what}: {found.returncode}, {found.stderr}"]
        wanted = {"rule": rule.name, "files": files} | _object(rule, total)
        return _unequal(what, json.loads(found.stdout), wanted)

    def _outputs(self, rule: Rule, by_path: dict[str, dict[str, Total]]) -> list[str]:
        if not rule.output:
            return []
        problems = []
        for path, totals in by_path.items():
            if rule.name in totals:
                file = self._place.folder / rule.output / "inbox" / f"{path}.aggregates.csv"
                is_ = file.read_bytes().decode() if file.exists() else None
                problems += _unequal(f"{file.name}", is_, _csv(rule, totals[rule.name]))
        return problems


def _unequal(what: str, found: Any, wanted: Any) -> list[str]:
    """A difference, told where it begins; 1 and 1.0 are two things here."""
    one, other = (json.dumps(each, sort_keys=True) for each in (found, wanted))
    if one == other:
        return []
    place = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    first = max(0, place - 60)
    return [f"{what}: …{one[first : place + 60]}… is said, …{other[first : place + 60]}… is right"]

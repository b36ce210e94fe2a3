"""A data set: a table that is cut between its records, each take of it aggregated by its rules.

The takes are those of a text (see `text`): what the ledger knows of them, how they are verified and
which of them are live holds for what they come to as well. So nothing is counted twice, whoever is
killed when; and a table that only grew is aggregated from its last block on.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..datasets.engine import BadCell, Engine, Piece
from ..datasets.partial import BeyondFloat, TooManyGroups, packed
from ..datasets.rule import Rule, RuleSet
from ..datasets.table import BadRecord, Borders, Endless, Table, open_table
from ..errors import FileFault
from ..job import Job, Kind
from .text import RANGE as TEXT_RANGE

# Of one that is no text: with 4 MiB, syncing takes a third of the time, with 32 a worker 150 MB.
RANGE = 16 * 1024 * 1024
_STEP = 1024 * 1024


def stride(rules: RuleSet, name: bytes, kind: Kind) -> int:
    """Bytes of a range of a text or a data set, by its name."""
    is_text = kind is not Kind.DATASET or rules.is_text(os.fsdecode(name))
    return TEXT_RANGE if is_text else RANGE


class DataSets:
    """What a worker keeps from job to job: the engine, and how far a file's quotes are counted."""

    def __init__(self) -> None:
        self._engine = Engine()
        self._file: object = None
        self._borders: Borders | None = None

    def of(self, job: Job, rules: RuleSet) -> _DataSet:
        """The records of one job's file, by those of the rules that it falls under."""
        return _DataSet(self, job, rules)

    def borders(
        self, file: object, table: Table, size: int, read: Callable[[int, int], bytes]
    ) -> Borders:
        """Where the records of a file begin, with what was found out for the job before.

        Small ones, which overtake a large one, have it not forgotten.
        """
        if size <= RANGE:
            return Borders(table.format, read)
        if self._borders is None or file != self._file:
            self._borders = Borders(table.format, read)
            self._file = file
        self._borders.read = read
        return self._borders

    @property
    def engine(self) -> Engine:
        return self._engine


class _DataSet:
    """The `text.Records` of one job."""

    def __init__(self, kept: DataSets, job: Job, rules: RuleSet) -> None:
        self._kept = kept
        self._name = os.fsdecode(os.path.basename(job.path))
        self._file = (job.file, job.seq, job.fingerprint)
        self._rules = rules.of(self._name)
        self.rules = rules.digest(self._name) or b""
        self.is_indexed = rules.is_text(self._name)

    def begin(self, read: Callable[[int, int], bytes], size: int, encoding: str) -> None:
        self._read, self._size = read, size
        self._table = open_table(self._name, size, encoding, read)
        self._borders = self._kept.borders((self._file, size), self._table, size, read)

    def after(self, position: int) -> int:
        try:
            return self._borders.after(position, self._size)
        except Endless as record:
            guess = ": is a quotation mark never closed?" if record.is_quoted else ""
            raise FileFault(f"line {self._line(record.begin)}: {record}{guess}") from None

    def partial(self, first: int, end: int) -> str:
        """Raises FileFault with the line of the file."""
        start = min(max(first, self._table.body), end)
        content = self._read(start, end)
        if end == self._size and self._borders.is_within(end):
            line = self._line(self._borders.before(end))
            raise FileFault(f"line {line}: a quotation mark is never closed in this record")
        piece = Piece(self._table, content, start == self._table.body)
        found = {}
        for rule in self._rules:
            try:
                found[rule.name] = self._kept.engine.partial(rule, piece, self._file)
            except BadCell as bad:
                line = self._line(start) + self._line_of_record(content, bad.record) - 1
                raise FileFault(f"line {line}, {bad.text}{self._by(rule)}") from None
            except BadRecord as bad:
                line = self._line(start) + bad.line - 1
                raise FileFault(f"line {line}: {bad.text}{self._by(rule)}") from None
            except (TooManyGroups, BeyondFloat) as fault:
                raise FileFault(f"{fault}{self._by(rule)}") from None
        return packed(found)

    def _by(self, rule: Rule) -> str:
        return f" (by the rule {rule.name})"

    def _line(self, position: int) -> int:
        """The number of the line that a position lies in."""
        starts = range(0, position, _STEP)
        return 1 + sum(
            self._read(start, min(position, start + _STEP)).count(b"\n") for start in starts
        )

    def _line_of_record(self, content: bytes, number: int) -> int:
        for at, (line, _) in enumerate(self._table.records(content)):
            if at == number:
                return line
        return 1

"""What data sets come to: a row a file and rule, written with the `done` that it belongs to.

Each take of a data set holds its partial result. When the last of them is there they are combined,
in the transaction that makes the file `done`; so a result never speaks of takes that are not live.
"""

from __future__ import annotations

import csv
import errno
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import apsw

from ..datasets.partial import (
    BeyondFloat,
    Partial,
    TooManyGroups,
    answer,
    combine,
    packed,
    unpacked,
)
from ..datasets.rule import Rule
from ..durable import make_folder, sync
from ..errors import MachineFault
from ..job import Job, Outcome

# Of the file's own place, not of the disk or of whoever may write to it.
_OF_THE_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP)
_TEMPORARY = b".dropmill-results"  # one, as the Lock is held while it is written
# Bytes of partial results that a file's takes keep for when it grows; with more, all of it is
# aggregated anew then. 1 GB by 100,000 groups would keep a quarter of that in the ledger.
_MOST_KEPT = 4 * 1024 * 1024

PlaceOf = Callable[[Job, Rule], bytes]  # where the CSV file of one source and rule lies


class CannotBePut(Exception):  # noqa: N818 - a verdict on a file
    """A CSV file of results cannot be put in its place; may pass."""


class _Prepared(NamedTuple):
    """What some takes come to together."""

    takes: set[int]
    found: dict[str, Partial]


_NOTHING = _Prepared(set(), {})
_WORTHWHILE = 4  # takes


class Aggregates:
    """The part of completion that knows of data sets. Within its transactions."""

    def __init__(
        self, connection: apsw.Connection, rules: Mapping[str, Rule], place_of: PlaceOf
    ) -> None:
        """`rules` are all that are in force, by name."""
        self._connection = connection
        self._rules = rules
        self._place_of = place_of
        self._prepared: dict[int, _Prepared] = {}  # by file

    def prepare(self, outcome: Outcome) -> None:
        """Combines beforehand what is there by now, where little else is to come.

        So it takes no time while others wait for the Lock: of 100,000 groups a take costs a second.
        """
        self._prepared.pop(outcome.job.file, None)
        size = (outcome.fingerprint or outcome.job.fingerprint).size
        own = sum(take.end - take.first for take in outcome.takes)
        # What will be live: of a file in parts that `COVERED` tells, else what is kept.
        there: list[Any] = self._connection.execute(
            "SELECT t.id, t.end - t.first FROM takes t JOIN files f ON f.id = t.file"
            " WHERE f.id = ? AND t.rules = ? AND (t.state = 2 OR t.state = 1 AND t.end <="
            " CASE WHEN f.in_parts THEN ifnull(f.kept_to, t.end) ELSE ? END)",
            (outcome.job.file, outcome.rules, outcome.keep_to),
        ).fetchall()
        missing = size - own - sum(length for _, length in there)
        if len(there) < _WORTHWHILE or missing > 2 * own:
            return
        numbers = [number for number, _ in there]
        texts: list[str | None] = [take.partial for take in outcome.takes]
        try:
            found = self._combined(itertools.chain(texts, map(self._partial_of, numbers)))
        except (TooManyGroups, BeyondFloat):
            return  # is found again, when it is told
        ids = {*numbers, *(take.id for take in outcome.takes)}
        self._prepared[outcome.job.file] = _Prepared(ids, found)

    def _partial_of(self, take: int) -> str | None:
        row = self._connection.execute("SELECT partial FROM takes WHERE id = ?", (take,)).fetchone()
        return row[0] if row else None

    @staticmethod
    def _combined(
        texts: Iterable[str | None], start: Mapping[str, Partial] = MappingProxyType({})
    ) -> dict[str, Partial]:
        """What packed partial results come to, by the rules' names; few are in memory at once."""
        found = dict(start)
        rest = iter(texts)
        while some := [unpacked(text or "{}") for text in itertools.islice(rest, _WORTHWHILE)]:
            for name in dict.fromkeys(name for each in some for name in each):
                partials = [each[name] for each in (found, *some) if name in each]
                found[name] = combine(partials[0].shape, partials)
        return found

    def replace(self, outcome: Outcome) -> bool:
        """Combines what the file's live takes come to; False where they are of other rules.

        Raises TooManyGroups, BeyondFloat and CannotBePut.
        """
        job = outcome.job
        takes: list[Any] = self._connection.execute(
            "SELECT id, rules, coalesce(length(partial), 0) FROM takes"
            " WHERE file = ? AND state = 1 ORDER BY first, id",
            (job.file,),
        ).fetchall()
        if any(digest != outcome.rules for _, digest, _ in takes):
            return False
        live = [number for number, _, _ in takes]
        prepared = self._prepared.pop(job.file, _NOTHING)
        if not prepared.takes.issubset(live):
            prepared = _NOTHING  # some of them are dead by now
        rest = (self._partial_of(take) for take in live if take not in prepared.takes)
        self.forget(job.file)
        for name, total in self._combined(rest, prepared.found).items():
            self._write(job, job.file, self._rules[name], total)
        if sum(length for _, _, length in takes) > _MOST_KEPT:
            self._connection.execute(
                "UPDATE takes SET rules = NULL, partial = NULL WHERE file = ? AND state = 1",
                (job.file,),
            )
        return True

    def _write(self, job: Job, file: int, rule: Rule, total: Partial) -> None:
        output = None
        if rule.output is not None:
            output = self._place_of(job, rule)
            _write_durably(output, as_csv(total))
        self._connection.execute(
            "INSERT OR REPLACE INTO aggregates(file, rule, content, output) VALUES(?, ?, ?, ?)",
            (file, rule.name, packed({rule.name: total}), output),
        )

    def renamed(self, outcome: Outcome, file: int) -> None:
        """The file's row has another path now: so have its CSV files. Raises CannotBePut."""
        rows: list[Any] = self._connection.execute(
            "SELECT rule, content, output FROM aggregates WHERE file = ? AND output IS NOT NULL",
            (file,),
        ).fetchall()
        for name, content, output in rows:
            rule = self._rules.get(name)
            if rule is not None and rule.output is not None:
                self._write(outcome.job, file, rule, unpacked(content)[name])
                with suppress(OSError):
                    os.unlink(output)

    def forget(self, file: int) -> None:
        self._connection.execute("DELETE FROM aggregates WHERE file = ?", (file,))


def as_csv(total: Partial) -> bytes:
    """Results as a CSV file: a line a group, with a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*total.shape.group_by, *total.shape.names])
    for group in answer(total):
        cells = (*group.key, *group.values)
        writer.writerow("" if cell is None else cell for cell in cells)
    return text.getvalue().encode("utf-8", "replace")


def _write_durably(path: bytes, content: bytes) -> None:
    """Puts a file in place, whole or not at all. Raises MachineFault, CannotBePut."""
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, _TEMPORARY)
    try:
        make_folder(folder)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        sync(folder)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        shown = os.fsdecode(path)
        if error.errno in _OF_THE_PLACE:
            raise CannotBePut(f"{shown}: cannot be put in place: {error.strerror}") from None
        raise MachineFault(f"{shown}: {error.strerror}") from None

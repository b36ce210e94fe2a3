"""What data sets come to: a row a file and rule, written with the `done` that it belongs to.

Each take of a data set holds its partial result. When the last of them is there they are combined,
in the transaction that makes the file `done`; so a result never speaks of takes that are not live.
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import apsw

from ..datasets.partial import Partial, answer, combine, packed, unpacked
from ..datasets.rule import Rule
from ..durable import make_folder, sync
from ..errors import MachineFault
from ..job import Job, Outcome

# Of the file's own place, not of the disk or of whoever may write to it.
_OF_THE_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP)
_TEMPORARY = b".dropmill-"

PlaceOf = Callable[[Job, Rule], bytes]  # where the CSV file of one source and rule lies


class CannotBePut(Exception):  # noqa: N818 - a verdict on a file
    """A CSV file of results cannot be put in its place; may pass."""


class Aggregates:
    """The part of completion that knows of data sets. Within its transactions."""

    def __init__(
        self, connection: apsw.Connection, rules: Mapping[str, Rule], place_of: PlaceOf
    ) -> None:
        """`rules` are all that are in force, by name."""
        self._connection = connection
        self._rules = rules
        self._place_of = place_of

    def replace(self, outcome: Outcome) -> bool:
        """Combines what the file's live takes come to; False where they are of other rules.

        Raises TooManyGroups, BeyondFloat and CannotBePut.
        """
        job = outcome.job
        takes: list[Any] = self._connection.execute(
            "SELECT rules, partial FROM takes WHERE file = ? AND state = 1 ORDER BY first, id",
            (job.file,),
        ).fetchall()
        if any(digest != outcome.rules for digest, _ in takes):
            return False
        by_rule: dict[str, list[Partial]] = {}
        for _, partials in takes:
            for name, partial in unpacked(partials).items():
                by_rule.setdefault(name, []).append(partial)
        self.forget(job.file)
        for name, partials in by_rule.items():
            total = combine(partials[0].shape, partials)
            self._write(job, job.file, self._rules[name], total)
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
    temporary = os.path.join(folder, _TEMPORARY + str(os.getpid()).encode())
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

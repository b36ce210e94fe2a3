"""Small texts of which the index holds nothing, many at once: by far the commonest outcome.

What is asked, and written, of all of a message's at once takes half the time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import apsw

from ..job import Kind, Outcome, Verdict
from .questions import compare_at, is_whole_text, of_takes
from .schema import TakeState
from .takes import Takes

_FINISH = (
    "UPDATE files SET state = 2, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?, alone = 0,"
    " moved_from = NULL, reason = NULL, started_ns = ?, finished_ns = ?, compare_ns = ?,"
    " encoding = ?, digest = NULL, output = NULL, width = NULL, height = NULL, lines = ?,"
    " keyworded = ?, rules = NULL, version = version + 1 WHERE id = ?"
)


class NewTexts:
    """Within the transactions of completion."""

    def __init__(self, connection: apsw.Connection, takes: Takes) -> None:
        self._connection = connection
        self._takes = takes

    def among(self, outcomes: Iterable[Outcome]) -> set[int]:
        """Those of the files that are such texts."""
        found = {
            outcome.job.file: outcome.job.seq
            for outcome in outcomes
            if outcome.verdict is Verdict.DONE
            and outcome.job.kind is Kind.TEXT
            and not (outcome.keep_to or outcome.job.known or outcome.job.comparing)
            and is_whole_text(outcome)
        }
        # CROSS JOIN: or SQLite walks all files, and looks for each among those asked for.
        rows: list[Any] = self._connection.execute(
            "SELECT f.id, f.seq FROM json_each(?) asked CROSS JOIN files f ON f.id = asked.value"
            " WHERE f.state = 1 AND NOT f.in_parts"
            " AND NOT EXISTS(SELECT 1 FROM takes WHERE file = f.id)",
            (f"[{','.join(map(str, found))}]",),
        ).fetchall()
        return {file for file, seq in rows if found[file] == seq}

    def finish(self, outcomes: Iterable[Outcome], now: int) -> None:
        """They are done, and in search."""
        takes: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        for outcome in outcomes:
            job = outcome.job
            takes += map(
                functools.partial(self._takes.row, job.file, TakeState.LIVE), outcome.takes
            )
            inode, size, mtime_ns, ctime_ns, _ = outcome.fingerprint or job.fingerprint
            lines, keyworded = of_takes(outcome.takes)
            found = (outcome.started_ns, now, compare_at(outcome, now), outcome.encoding)
            rows.append((inode, size, mtime_ns, ctime_ns, *found, lines, keyworded, job.file))
        self._takes.insert_rows(takes)
        self._connection.executemany(_FINISH, rows)

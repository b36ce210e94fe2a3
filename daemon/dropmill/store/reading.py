"""What status, results and explain ask of `results.db`; needs no running daemon.

Every question is a short read transaction: a long one would keep the write-ahead log from being
shortened for as long as somebody reads. Long answers are read page by page.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apsw

from ..datasets.partial import Partial, unpacked
from ..errors import DropmillError
from ..job import Kind, State
from .schema import open_for_reading

_PAGE = 1_000
_OVERLAP_NS = 2 * 10**9

OUTCOMES = (State.DONE, State.RETRY, State.QUARANTINED, State.SKIPPED)


class Result(NamedTuple):
    """One file of the ledger; what does not apply to it is None. Times: ns since the epoch."""

    id: int
    path: bytes
    kind: Kind
    state: State
    version: int  # contents taken in so far
    size: int
    attempts: int
    queued_ns: int | None
    started_ns: int | None
    finished_ns: int | None
    retry_ns: int | None
    reason: str | None
    encoding: str | None
    lines: int | None
    output: bytes | None
    width: int | None
    height: int | None
    keyworded: bool
    in_parts: bool  # a large text, some of whose ranges are there already
    alone: bool  # its next attempt runs alone in a fresh worker


class Held(NamedTuple):
    """What the index holds of one file."""

    takes: int
    size: int
    shards: list[int]


class Which(NamedTuple):
    """Which results: of these states, at or below a folder, of one kind."""

    states: tuple[State, ...] = OUTCOMES
    under: bytes | None = None
    kind: Kind | None = None


class _Place(NamedTuple):
    """Where a page ended, in the order of results."""

    finished_ns: int | None
    id: int


_START = _Place(None, 0)
ALL_OUTCOMES = Which()

_COLUMNS = """SELECT f.id, d.path, f.name, f.kind, f.state, f.version, f.size, f.attempts,
    f.queued_ns, f.started_ns, f.finished_ns, f.retry_ns, f.reason, f.encoding, f.lines, f.output,
    f.width, f.height, f.keyworded, f.in_parts, f.alone
    FROM files f JOIN folders d ON d.id = f.folder """


def _result(values: Sequence[Any]) -> Result:
    file, folder, name, kind, state, *middle, keyworded, in_parts, alone = values
    path = os.path.join(folder, name)
    flags = (bool(keyworded), bool(in_parts), bool(alone))
    return Result._make((file, path, Kind(kind), State(state), *middle, *flags))


def _age(result: Result) -> tuple[int, int]:
    return (result.finished_ns or 0, result.id)


class Reader:
    """Questions to `results.db`, on a connection that cannot write."""

    def __init__(self, state_folder: bytes) -> None:
        """Raises DropmillError when there is no `results.db`, or it may not be read."""
        self._name = os.fsdecode(os.path.join(state_folder, b"results.db"))
        with self._understood():
            self._connection = open_for_reading(state_folder)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def counts(self) -> dict[State, int]:
        """How many files there are in each state; every state is there."""
        found = dict(self._rows("SELECT state, count(*) FROM files GROUP BY state"))
        return {state: int(found.get(int(state), 0)) for state in State}

    # ---- results -----------------------------------------------------------------------------

    def results(self, which: Which = ALL_OUTCOMES, after: _Place | None = None) -> Iterator[Result]:
        """Results by the time they were finished, newest last; memory does not grow with them.

        A file that is done again while they are read may be given twice.
        """
        start = after or _START
        streams = (self._stream(state, which, start) for state in which.states)
        return heapq.merge(*streams, key=_age)

    def newest(self, count: int, which: Which = ALL_OUTCOMES) -> list[Result]:
        """The last few of `results`, newest last."""
        found = itertools.chain.from_iterable(
            self._results(
                *_where(state, which),
                "AND f.finished_ns IS NOT NULL ORDER BY f.finished_ns DESC, f.id DESC LIMIT ?",
                (count,),
            )
            for state in which.states
        )
        return heapq.nlargest(count, found, key=_age)[::-1]

    def _stream(self, state: State, which: Which, start: _Place) -> Iterator[Result]:
        place = start
        while True:
            page = self._page(state, which, place)
            yield from page
            if len(page) == _PAGE:
                place = _Place(page[-1].finished_ns, page[-1].id)
            elif place.finished_ns is None:
                place = _Place(0, 0)  # on from those never finished to the others
            else:
                return

    def _page(self, state: State, which: Which, after: _Place) -> list[Result]:
        if after.finished_ns is None:
            beyond = "AND f.finished_ns IS NULL AND f.id > ? ORDER BY f.id LIMIT ?"
            values: tuple[Any, ...] = (after.id, _PAGE)
        else:
            beyond = (
                "AND (f.finished_ns, f.id) > (?, ?) AND f.finished_ns IS NOT NULL"
                " ORDER BY f.finished_ns, f.id LIMIT ?"
            )
            values = (*after, _PAGE)
        return self._results(*_where(state, which), beyond, values)

    def _results(
        self, condition: str, given: tuple[Any, ...], rest: str, values: tuple[Any, ...]
    ) -> list[Result]:
        return [
            _result(each)
            for each in self._rows(f"{_COLUMNS} {condition} {rest}", (*given, *values))
        ]

    # ---- one file ----------------------------------------------------------------------------

    def file(self, path: bytes) -> Result | None:
        """What the ledger knows of an absolute path."""
        folder, name = os.path.split(path)
        found = self._rows(_COLUMNS + "WHERE d.path = ? AND f.name = ?", (folder, name))
        return _result(found[0]) if found else None

    def source_of(self, copy: bytes) -> bytes | None:
        """The file whose grayscale copy a path is. Looks at every row."""
        found = self._rows(_COLUMNS + "WHERE f.output = ? LIMIT 1", (copy,))
        return _result(found[0]).path if found else None

    def held(self, file: int) -> Held:
        rows = self._rows(
            "SELECT shard, count(*), sum(end - first) FROM takes WHERE file = ? AND state = 1"
            " GROUP BY shard ORDER BY shard",
            (file,),
        )
        shards, takes, sizes = ([row[at] for row in rows] for at in range(3))
        return Held(sum(takes), sum(sizes), shards)

    def keywords(self, file: int) -> dict[str, list[int]]:
        """Watch-list terms found in a file, each with its line numbers in the file, in order."""
        found: dict[str, set[int]] = {}
        before = 0
        for newlines, terms in self._rows(
            "SELECT newlines, keywords FROM takes WHERE file = ? AND state = 1 ORDER BY first, id",
            (file,),
        ):
            for term, lines in (json.loads(terms) if terms else {}).items():
                found.setdefault(term, set()).update(before + line for line in lines)
            before += newlines
        return {term: sorted(lines) for term, lines in found.items()}

    # ---- data sets ---------------------------------------------------------------------------

    def datasets(self, file: int) -> dict[str, Partial]:
        """What a file comes to, by the rules' names."""
        found: dict[str, Partial] = {}
        for (content,) in self._rows(
            "SELECT content FROM aggregates WHERE file = ? ORDER BY rowid", (file,)
        ):
            found |= unpacked(content)
        return found

    def outputs(self, file: int) -> list[bytes]:
        """The CSV files of what a data set comes to."""
        sql = "SELECT output FROM aggregates WHERE file = ? AND output IS NOT NULL ORDER BY rowid"
        return [output for (output,) in self._rows(sql, (file,))]

    def aggregated(self, rule: str, under: bytes | None) -> list[tuple[bytes, bytes, Partial]]:
        """Of all files that a rule of that name holds results of: (path, digest of the rules that
        it was taken in by, what it comes to)."""
        condition, values = _below(under)
        rows = self._rows(
            "SELECT d.path, f.name, f.rules, a.content FROM aggregates a"
            " JOIN files f ON f.id = a.file JOIN folders d ON d.id = f.folder"
            f" WHERE a.rule = ? AND f.state != 6{condition}",
            (rule, *values),
        )
        return [
            (os.path.join(folder, name), digest, unpacked(content)[rule])
            for folder, name, digest, content in rows
        ]

    def datasets_to_come(self, under: bytes | None) -> int:
        """How many data sets are queued, or tried again, and hold no results yet."""
        condition, values = _below(under)
        rows = self._rows(
            "SELECT count(*) FROM files f JOIN folders d ON d.id = f.folder"
            " WHERE f.kind = ? AND f.state IN (1, 3)"
            f" AND NOT EXISTS(SELECT 1 FROM aggregates WHERE file = f.id){condition}",
            (int(Kind.DATASET), *values),
        )
        return int(rows[0][0])

    def changed(self) -> int:
        """A number that differs from that of the last call when somebody committed meanwhile."""
        return int(self._rows("PRAGMA data_version")[0][0])

    # ---- SQLite ------------------------------------------------------------------------------

    def _rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._understood():
            return self._connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError):
            raise DropmillError(
                f"{self._name}: damaged: the next start of the daemon moves it aside and takes"
                " everything in again"
            ) from None
        except apsw.Error as error:
            raise DropmillError(f"{self._name}: cannot be read: {error}") from None


def _where(state: State, which: Which) -> tuple[str, tuple[Any, ...]]:
    condition, values = "WHERE f.state = ?", [int(state)]  # type: tuple[str, list[Any]]
    if which.kind is not None:
        condition += " AND f.kind = ?"
        values.append(int(which.kind))
    below, places = _below(which.under)
    return condition + below, (*values, *places)


def _below(folder: bytes | None) -> tuple[str, tuple[bytes, ...]]:
    """The condition that a file lies at or below a folder, and its values."""
    if folder is None or folder == b"/":
        return "", ()
    # "0" comes after "/"
    return " AND (d.path = ? OR d.path > ? AND d.path < ?)", (folder, folder + b"/", folder + b"0")


class Follower:
    """The outcomes that are new since the last look, each once, also of a file done again."""

    def __init__(self, reader: Reader, which: Which = ALL_OUTCOMES) -> None:
        self._reader = reader
        self._which = which
        self._changed: int | None = None
        self._latest_ns = 0
        self._seen: set[tuple[int, int]] = set()  # (finished_ns, id) of the last few seconds

    def first(self, count: int) -> list[Result]:
        """The last few outcomes up to now; `new` goes on from there."""
        # Asked before anything is read: what is committed meanwhile is looked at by `new`.
        self._changed = self._reader.changed()
        newest = self._reader.newest(1, self._which)
        self._latest_ns = (newest[0].finished_ns or 0) if newest else 0
        self._note(self._recent())
        last = self._reader.newest(count, self._which)
        self._note(last)
        return last

    def new(self) -> Iterator[Result]:
        """What was finished since; costs one pragma when nobody wrote anything."""
        changed = self._reader.changed()
        if changed == self._changed:
            return
        self._changed = changed
        yield from self._note(self._recent())

    def _recent(self) -> Iterable[Result]:
        # Outcomes are not always seen in the order of their times: two clocks, two writers.
        since = _Place(max(0, self._latest_ns - _OVERLAP_NS), 0)
        return self._reader.results(self._which, since)

    def _note(self, results: Iterable[Result]) -> list[Result]:
        unseen = []
        for result in results:
            if _age(result) not in self._seen:
                self._seen.add(_age(result))
                unseen.append(result)
                self._latest_ns = max(self._latest_ns, result.finished_ns or 0)
        self._seen = {each for each in self._seen if each[0] >= self._latest_ns - _OVERLAP_NS}
        return unseen

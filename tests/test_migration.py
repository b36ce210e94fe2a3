"""A `results.db` of any older version is brought up to this one, with all that it holds."""

from __future__ import annotations

import os

import apsw
import pytest

from dropmill.errors import DropmillError
from dropmill.job import Lane, State
from dropmill.store import schema
from dropmill.store.ledger import Ledger
from dropmill.store.migration import STEPS
from dropmill.store.schema import FILE_NAME, VERSION, open_for_reading, open_for_writing

from .ledgers import MadeState

VERSION_1 = """
CREATE TABLE folders(id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);

CREATE TABLE files(
    id INTEGER PRIMARY KEY,
    folder INTEGER NOT NULL,
    name BLOB NOT NULL,
    state INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    device INTEGER NOT NULL,
    version INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    spared INTEGER NOT NULL,
    alone INTEGER NOT NULL,
    unhurried INTEGER NOT NULL,
    part INTEGER,
    moved_from INTEGER,
    retry_ns INTEGER,
    queued_ns INTEGER,
    started_ns INTEGER,
    finished_ns INTEGER,
    reason TEXT,
    encoding TEXT,
    lines INTEGER,
    digest BLOB,
    output BLOB,
    width INTEGER,
    height INTEGER,
    keyworded INTEGER
);
CREATE UNIQUE INDEX files_by_path ON files(folder, name);
CREATE INDEX files_queued ON files(lane, seq) WHERE state = 1;
CREATE INDEX files_by_state ON files(state, finished_ns);
CREATE INDEX files_by_mtime ON files(mtime_ns) WHERE state IN (2, 6);

CREATE TABLE takes(
    id INTEGER PRIMARY KEY,
    file INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    state INTEGER NOT NULL,
    first INTEGER NOT NULL,
    end INTEGER NOT NULL,
    newlines INTEGER NOT NULL,
    unterminated INTEGER NOT NULL,
    digest BLOB NOT NULL,
    keywords TEXT,
    died_ns INTEGER
);
CREATE INDEX takes_by_file ON takes(file);
CREATE INDEX takes_dead ON takes(shard) WHERE state >= 3;

CREATE TABLE roots(path BLOB PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL);

CREATE TABLE shards(number INTEGER PRIMARY KEY, identity BLOB NOT NULL);
"""

FILE_1 = (1, 1, b"a", 2, 1, 0, 4, 11, 12, 13, 14, 0, 3, 0, 0, 0, 1, None, None, None, 5, 6, 7, None,
          "utf-8", 9, None, None, None, None, 1)  # fmt: skip
KEPT, NEW = (2, b"kept", 5, 1_000), (3, b"new", 6, -1)  # in parts: id, name, seq, part


def made_by_version_1(folder: bytes) -> None:
    """What the first dropmill left behind: a done text, and two that it was in the middle of."""
    connection = apsw.Connection(os.fsdecode(os.path.join(folder, FILE_NAME)))
    connection.execute("PRAGMA journal_mode = wal").fetchall()
    connection.execute(VERSION_1)
    connection.execute("PRAGMA user_version = 1")
    connection.execute("INSERT INTO folders VALUES(1, ?)", (b"/inbox",))
    columns = ", ".join("?" * len(FILE_1))
    connection.execute(f"INSERT INTO files VALUES({columns})", FILE_1)
    for file, name, seq, part in (KEPT, NEW):
        row = [*FILE_1]
        row[0], row[2], row[3], row[6], row[17] = file, name, 1, seq, part
        connection.execute(f"INSERT INTO files VALUES({columns})", row)
    connection.execute(
        "INSERT INTO takes VALUES(77, 1, 0, 1, 0, 12, 9, 0, ?, NULL, NULL)", (b"d" * 16,)
    )
    # Of a row that was forgotten: its number is taken all the same.
    connection.execute("INSERT INTO takes VALUES(78, 40, 0, 4, 0, 5, 1, 0, ?, NULL, 8)", (b"e",))
    connection.close()


def structure(folder: bytes) -> dict[str, object]:
    connection = open_for_reading(folder)
    names = [
        (kind, name)
        for kind, name in connection.execute("SELECT type, name FROM sqlite_schema ORDER BY name")
    ]
    found: dict[str, object] = {
        name: connection.execute(
            f"SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo('{name}')"
        ).fetchall()
        for kind, name in names
        if kind == "table"
    }
    found["indices"] = connection.execute(
        "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' ORDER BY name"
    ).fetchall()
    found["numbers"] = connection.execute(
        "SELECT name, sql LIKE '%AUTOINCREMENT%' FROM sqlite_schema ORDER BY name"
    ).fetchall()
    connection.close()
    return found


def test_a_migrated_ledger_has_the_tables_of_a_new_one(folder: bytes) -> None:
    old, new = folder + b"/old", folder + b"/new"
    for place in (old, new):
        os.mkdir(place)
    made_by_version_1(old)
    for place in (old, new):
        open_for_writing(place, synchronous="FULL").close()
    assert structure(old) == structure(new)


def test_what_a_migrated_ledger_held_is_there(folder: bytes) -> None:
    made_by_version_1(folder)
    ledger = Ledger(folder)
    assert ledger.counts() == {State.DONE: 1, State.QUEUED: 2}
    assert ledger.path_of(1) == b"/inbox/a"
    done = ledger.row(1)
    assert done is not None
    assert (done.version, done.fingerprint, done.encoding) == (3, (11, 12, 13, 14, 0), "utf-8")
    assert [(each.id, each.end) for each in ledger.takes(1)] == [(77, 12)]
    rows = ledger.queued(Lane.FRESH, 0, 10, 10, newest_first=False)
    assert [(row.id, row.in_parts, row.kept_to) for row in rows] == [
        (2, True, 1_000),
        (3, True, None),
    ]
    assert ledger.seq == 6
    ledger.close()


def test_a_migrated_ledger_gives_no_file_a_number_that_was_used(
    folder: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made_by_version_1(folder)
    state = MadeState(folder)
    path = os.fsencode(tmp_path_factory.mktemp("inbox") / "new")
    state.done(path)
    assert state.ledger.find(path) == 41
    state.close()


def test_a_migration_that_is_cut_short_changes_nothing(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by_version_1(folder)
    last = {VERSION - 1: STEPS[VERSION - 1] + "; SELECT no_such_column FROM files"}
    with monkeypatch.context() as broken:
        broken.setattr(schema, "STEPS", STEPS | last)
        with pytest.raises(apsw.SQLError):
            open_for_writing(folder, synchronous="FULL")
    with pytest.raises(DropmillError, match="schema version 1"):
        open_for_reading(folder)
    ledger = Ledger(folder)
    assert ledger.counts() == {State.DONE: 1, State.QUEUED: 2}
    ledger.close()


def test_there_is_a_step_from_every_older_version() -> None:
    assert sorted(STEPS) == [*range(1, VERSION)]


def test_a_reader_says_what_brings_an_older_ledger_up_to_date(folder: bytes) -> None:
    made_by_version_1(folder)
    with pytest.raises(DropmillError, match="start the service"):
        open_for_reading(folder)

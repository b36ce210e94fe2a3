"""Opening `results.db`: its tables, its version, its settings; what is done when it is broken."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import time
from collections.abc import Callable, Iterator

import apsw

from ..errors import DropmillError, MachineFault
from .migration import STEPS

VERSION = 6
FILE_NAME = b"results.db"
BUSY_MS = 15_000
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
BROKEN = (apsw.CorruptError, apsw.NotADBError)

_SUSPECT = b"suspect"  # a mark in the state folder: something in it was found broken
_STEPS = 10_000  # of SQLite's machine, between two calls back
_QUICKLY_CHECKED = 64 << 20  # bytes; takes a fraction of a second

_TABLES = """
CREATE TABLE folders(id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);

CREATE TABLE files(
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: takes may outlive their file's row
    folder INTEGER NOT NULL,          -- folders.id
    name BLOB NOT NULL,
    state INTEGER NOT NULL,           -- job.State
    kind INTEGER NOT NULL,            -- job.Kind
    lane INTEGER NOT NULL,            -- job.Lane
    seq INTEGER NOT NULL,             -- number of this admission; grows, never used again
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,        -- -1: let go of; equal to no fingerprint
    device INTEGER NOT NULL,          -- 0: that of its root
    version INTEGER NOT NULL,         -- contents taken in so far
    attempts INTEGER NOT NULL,        -- charged
    spared INTEGER NOT NULL,          -- workers that died with it in hand, charged to nobody
    alone INTEGER NOT NULL,           -- 1: its next attempt runs alone in a fresh worker
    unhurried INTEGER NOT NULL,       -- 0: taken although it was never quiet
    in_parts INTEGER NOT NULL DEFAULT 0,  -- 1: a large text, some of whose ranges are there
    kept_to INTEGER,                  -- of one in parts: so far its old content stays in search
                                      -- until all parts are there; NULL: there was none, so
                                      -- that each part is in search at once
    moved_from INTEGER,               -- files.id it may be a rename of
    retry_ns INTEGER,
    queued_ns INTEGER,
    started_ns INTEGER,
    finished_ns INTEGER,
    reason TEXT,
    encoding TEXT,
    lines INTEGER,
    digest BLOB,                      -- of an image's content
    output BLOB,
    width INTEGER,
    height INTEGER,
    keyworded INTEGER,                -- 1: one of its takes holds watch-list terms
    compare_ns INTEGER,               -- finished, but its content is to be compared once more then
    rules BLOB                        -- of a data set: a digest of those that it was looked at by
);
CREATE UNIQUE INDEX files_by_path ON files(folder, name);
CREATE INDEX files_queued ON files(lane, seq) WHERE state = 1;
CREATE INDEX files_by_state ON files(state, finished_ns);
CREATE INDEX files_to_compare ON files(compare_ns) WHERE compare_ns IS NOT NULL;
CREATE INDEX files_datasets ON files(id) WHERE kind = 3;
CREATE INDEX files_by_mtime ON files(mtime_ns, size) WHERE state IN (2, 6);

CREATE TABLE takes(
    id INTEGER PRIMARY KEY,
    file INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    state INTEGER NOT NULL,           -- TakeState
    first INTEGER NOT NULL,
    end INTEGER NOT NULL,
    newlines INTEGER NOT NULL,
    unterminated INTEGER NOT NULL,
    digest BLOB NOT NULL,
    keywords TEXT,                    -- JSON: term → lines, the take's first being 1
    died_ns INTEGER,
    rules BLOB,                       -- of a data set: a digest of those of `partial`
    partial TEXT                      -- what these bytes come to by each rule (datasets.partial)
);
CREATE INDEX takes_by_file ON takes(file);
CREATE INDEX takes_dead ON takes(shard) WHERE state >= 3;

CREATE TABLE aggregates(
    file INTEGER NOT NULL,
    rule TEXT NOT NULL,               -- its name
    content TEXT NOT NULL,            -- what the file comes to by it (datasets.partial)
    output BLOB,                      -- its CSV file
    PRIMARY KEY(file, rule)
);
CREATE INDEX aggregates_by_rule ON aggregates(rule);

CREATE TABLE roots(path BLOB PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL);

CREATE TABLE rules(digest BLOB NOT NULL);  -- of those that every file's row was held against last

CREATE TABLE shards(number INTEGER PRIMARY KEY, identity BLOB NOT NULL);
"""

# The byte ranges of a text in parts that are there: (files.id, kept_to, kept_to) → (first, end).
COVERED = """SELECT first, end FROM takes WHERE file = ?
    AND (state = 2 OR state = 1 AND (? IS NULL OR end <= ?)) ORDER BY first"""

# What a worker may have in hand: what is queued, and what is compared once more.
IN_HAND = "(state = 1 OR state IN (2, 4, 5) AND compare_ns IS NOT NULL)"


class TakeState(enum.IntEnum):
    """A block is live if and only if its take is."""

    LIVE = 1
    PENDING = 2  # of a large text's new content, until all of it is there
    GONE = 3  # its file went away; revived when the file turns out to be renamed
    DEAD = 4


def configure(connection: apsw.Connection, **pragmas: str | int) -> None:
    """Sets pragmas one a call and checks that each took effect.

    `execute` of several stops at the first that returns a row, silently.
    """
    for name, wanted in pragmas.items():
        connection.execute(f"PRAGMA {name} = {wanted}").fetchall()
        (now,) = connection.execute(f"PRAGMA {name}").fetchone() or (None,)
        if str(now).lower() != str(wanted).lower():
            raise DropmillError(f"SQLite refused {name} = {wanted} (it is {now})")


def keep_wal(connection: apsw.Connection) -> None:
    """Leaves the -wal file when the last connection closes.

    A reader without write permission can open a WAL database only while -wal and -shm exist. It is
    left empty: one of 20 MB would be recovered by every later reader (37 ms instead of 3).
    """
    import ctypes  # 3 ms that search does without

    configure(connection, journal_size_limit=0)
    flag = ctypes.c_int(1)
    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(flag))


def open_for_writing(state_folder: bytes, *, synchronous: str) -> apsw.Connection:
    """A connection that may write, with the tables in place.

    `synchronous` is FULL for workers: a `done` must not outlive the rows it speaks of, nor they
    it. It may be NORMAL for the parent: an admission that a power cut takes back is found again
    by the scan at the next start.
    """
    connection = apsw.Connection(os.fsdecode(os.path.join(state_folder, FILE_NAME)))
    connection.set_busy_timeout(BUSY_MS)
    _plan_once(connection)
    configure(connection, journal_mode="wal", cache_size=-16_000)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    keep_wal(connection)
    _ensure_tables(connection)
    return connection


def _plan_once(connection: apsw.Connection) -> None:
    """Has SQLite plan a statement without looking at what is bound to it.

    Else each time that a parameter is bound which a partial index is about (`kind = ?`), it plans
    the statement anew, in case this value allows that index: 15 µs.
    """
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _ensure_tables(connection: apsw.Connection) -> None:
    """Makes the tables, or brings those of an older version up to this one."""
    found = _version(connection)
    if found == VERSION:
        return
    if found > VERSION:
        raise DropmillError(
            f"results.db has schema version {found}, this dropmill knows {VERSION}: "
            "run the newer dropmill that wrote it, or give it another state folder"
        )
    with transaction(connection):
        found = _version(connection)  # somebody else may have done it meanwhile
        if found == 0:
            connection.execute(_TABLES)
        for version in range(found or VERSION, VERSION):
            connection.execute(STEPS[version])
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _version(connection: apsw.Connection) -> int:
    row = connection.execute("PRAGMA user_version").fetchone()
    return int(row[0]) if row else 0


def open_for_reading(state_folder: bytes) -> apsw.Connection:
    """A connection that cannot write; needs no running daemon.

    Raises DropmillError when there is no `results.db`, or it may not be read.
    """
    path = os.path.join(state_folder, FILE_NAME)
    shown = os.fsdecode(path)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        raise DropmillError(f"{shown}: not there yet: `dropmill run` makes it") from None
    except PermissionError:
        raise DropmillError(
            f"{shown}: you may not read it: join the group that owns it, or ask its owner"
        ) from None
    connection = apsw.Connection(shown, flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(BUSY_MS)
    try:
        found = _version(connection)
    except apsw.CantOpenError:
        # Without a -wal and a -shm, and without the right to make them, nobody writes either.
        connection = apsw.Connection(
            f"file:{_uri(shown)}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        found = _version(connection)
    if found != VERSION:
        mend = "start the service, which brings it up to date" if found < VERSION else "update it"
        raise DropmillError(
            f"{shown}: schema version {found}, this dropmill knows {VERSION}: {mend}"
        )
    return connection


def _uri(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All of it or nothing; takes the write lock at once, so that it cannot fail half-way."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def machine_faults(what: str) -> Iterator[None]:
    """Turns what SQLite says of the machine (disk full, I/O error, busy) into MachineFault."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        fault = machine_fault(what, error)
        if fault is None:
            raise
        raise fault from None


def machine_fault(what: str, error: apsw.Error | OSError) -> MachineFault | None:
    """What an error says of the machine; None where it is not its fault."""
    match error:
        case apsw.FullError():
            return MachineFault(f"{what}: the disk is full")
        case apsw.IOError() | apsw.BusyError() | apsw.LockedError() | apsw.CantOpenError():
            return MachineFault(f"{what}: {error}")
        case apsw.ReadOnlyError():
            return MachineFault(f"{what}: read-only ({error})")
        case OSError(errno=int(number)) if number in _OF_THE_MACHINE:
            return MachineFault(f"{what}: {os.strerror(number)}")
    return None


def mark_suspect(state_folder: bytes) -> None:
    """Has the next start read every database from end to end."""
    with contextlib.suppress(OSError):
        os.close(os.open(os.path.join(state_folder, _SUSPECT), os.O_WRONLY | os.O_CREAT, 0o640))


def is_suspect(state_folder: bytes) -> bool:
    return os.path.exists(os.path.join(state_folder, _SUSPECT))


def clear_suspect(state_folder: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state_folder, _SUSPECT))


def _going_on(meanwhile: Callable[[], None]) -> Callable[[], bool]:
    def go_on() -> bool:
        meanwhile()
        return False  # or SQLite would stop

    return go_on


def move_aside_if_broken(
    path: bytes, *, suspect: bool = False, meanwhile: Callable[[], None] = lambda: None
) -> bytes | None:
    """Where a database that SQLite cannot read was moved to; None when it is whole or absent.

    Calls `meanwhile` again and again while it is being read.

    Sources are the truth: what it held is worked on again. A large one is read from end to end
    only where it is `suspect`.
    """
    if not os.path.exists(path):
        return None
    try:
        connection = apsw.Connection(os.fsdecode(path))
        connection.set_busy_timeout(BUSY_MS)  # `status` may be recovering it just now
        connection.set_progress_handler(_going_on(meanwhile), _STEPS)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            tables = connection.execute(
                "SELECT name FROM sqlite_schema WHERE name IN ('files', 'takes', 'blocks')"
            ).fetchall()
            for (name,) in tables:
                for edge in ("max", "min"):  # both at once would read every row
                    connection.execute(f"SELECT {edge}(rowid) FROM {name}").fetchall()
            if suspect or os.path.getsize(path) <= _QUICKLY_CHECKED:
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone() or ("",)
                if verdict != "ok":
                    raise apsw.CorruptError(verdict)
        finally:
            connection.close()
    except (*BROKEN, apsw.SQLError):
        aside = path + b".broken-" + str(time.time_ns()).encode()
        for suffix in (b"", b"-wal", b"-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + suffix, aside + suffix)
        return aside
    return None

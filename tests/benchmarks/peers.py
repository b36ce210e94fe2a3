"""The peers that dropmill is measured against, as plain programs; nothing of dropmill is in them.

    python peers.py NAME ARGUMENT...

Each runs as a process of its own, so that the interpreter's start counts for both sides alike.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from multiprocessing import Pool, Process
from pathlib import Path

import apsw

BLOCK = 256 * 1024
FILES_A_COMMIT = 64
BLOCKS_A_COMMIT = 64
TUNED = {"hashsize": 8 << 20, "automerge": 64, "crisismerge": 256}
TUNED_FILES_A_COMMIT = 512
NUMBERS_A_CHUNK = 10_000
TABLE = """
CREATE VIRTUAL TABLE words USING fts5(
    text, content='', contentless_delete=1,
    tokenize="unicode61 remove_diacritics 2 tokenchars '_'"
)
"""


# ---- images: the plain pool program --------------------------------------------------------------


def gray(path: Path, target: str) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.convert("L").save(Path(target, path.name))


def plain_pool(source: str, target: str) -> None:
    """Two processes, each image decoded, converted and saved; nothing is synced."""
    with Pool(2) as pool:
        pool.map(partial(gray, target=target), sorted(Path(source).iterdir()))


def durable_gray(path: Path, target: str) -> None:
    gray(path, target)
    for what in (Path(target, path.name), Path(target)):
        descriptor = os.open(what, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def durable_pool(source: str, target: str) -> None:
    """The same, and each copy and its folder are synced before the next image."""
    with Pool(2) as pool:
        pool.map(partial(durable_gray, target=target), sorted(Path(source).iterdir()))


# ---- text: the bare loop -------------------------------------------------------------------------


def open_index(path: Path) -> apsw.Connection:
    """FTS5 with its own defaults, in a database with SQLite's, but for the write-ahead log."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = wal").fetchall()
    connection.execute(TABLE)
    return connection


def blocks(content: bytes) -> Iterator[str]:
    """Pieces of about 256 KiB, cut at line ends."""
    first = 0
    while first < len(content):
        end = len(content)
        if end - first > BLOCK:
            end = content.rfind(b"\n", first, first + BLOCK) + 1 or first + BLOCK
        yield content[first:end].decode("utf-8", "replace")
        first = end


def index_files(paths: list[str], database: Path) -> None:
    connection = open_index(database)
    for position in range(0, len(paths), FILES_A_COMMIT):
        with connection:
            for path in paths[position : position + FILES_A_COMMIT]:
                with open(path, "rb") as file:
                    for text in blocks(file.read()):
                        connection.execute("INSERT INTO words(text) VALUES(?)", (text,))


def bare_loop(listing: str, state: str, processes: str = "2") -> None:
    """Each process takes every n-th file of a listing and inserts it into a table of its own."""
    loop_over(listing, state, int(processes), index_files)


def loop_over(
    listing: str, state: str, count: int, index: Callable[[list[str], Path], None]
) -> None:
    paths = Path(listing).read_text(errors="surrogateescape").split("\0")
    run_all([
        Process(target=index, args=(paths[number::count], Path(state, f"{number}.db")))
        for number in range(count)
    ])  # fmt: skip


def index_files_tuned(paths: list[str], database: Path) -> None:
    connection = open_index(database)
    for setting in ("cache_size = -16000", "wal_autocheckpoint = 4000", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    for name, value in TUNED.items():
        connection.execute("INSERT INTO words(words, rank) VALUES(?, ?)", (name, value))
    for position in range(0, len(paths), TUNED_FILES_A_COMMIT):
        with connection:
            for path in paths[position : position + TUNED_FILES_A_COMMIT]:
                with open(path, "rb") as file:
                    content = file.read()
                hashlib.blake2b(content, digest_size=16).digest()
                content.count(b"\n")
                for text in blocks(content):
                    connection.execute("INSERT INTO words(text) VALUES(?)", (text,))


def tuned_loop(listing: str, state: str) -> None:
    """No peer but the floor: dropmill's settings, each file hashed and its lines counted; nothing
    is looked for, opened with care, written to a ledger, or charged to whom it kills."""
    loop_over(listing, state, 2, index_files_tuned)


def index_part(path: str, first: int, end: int, database: Path) -> None:
    """The lines of one file that begin in its bytes `first` to `end`."""
    connection = open_index(database)
    with open(path, "rb") as file:
        if first:
            file.seek(first - 1)
            file.readline()
        while file.tell() < end:
            with connection:
                for _ in range(BLOCKS_A_COMMIT):
                    size = min(BLOCK, end - file.tell())
                    content = file.read(size) + file.readline() if size > 0 else b""
                    if not content:
                        break
                    text = content.decode("utf-8", "replace")
                    connection.execute("INSERT INTO words(text) VALUES(?)", (text,))


def one_text(path: str, state: str, processes: str) -> None:
    """One large file; each process takes its share of it."""
    size, count = os.path.getsize(path), int(processes)
    borders = [size * number // count for number in range(count + 1)]
    run_all([
        Process(
            target=index_part,
            args=(path, borders[number], borders[number + 1], Path(state, f"{number}.db")),
        )
        for number in range(count)
    ])  # fmt: skip


def run_all(started: list[Process]) -> None:
    for process in started:
        process.start()
    for process in started:
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def single_loop(source: str, state: str) -> None:
    """One process: open, insert, a ledger row, a commit for every 64 files."""
    connection = open_index(Path(state, "index.db"))
    connection.execute("CREATE TABLE ledger(path BLOB PRIMARY KEY, words INTEGER, state TEXT)")
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names]
    for position in range(0, len(paths), FILES_A_COMMIT):
        with connection:
            for path in paths[position : position + FILES_A_COMMIT]:
                with open(path, "rb") as file:
                    text = file.read().decode("utf-8", "replace")
                connection.execute("INSERT INTO words(text) VALUES(?)", (text,))
                row = (os.fsencode(path), connection.last_insert_rowid())
                connection.execute("INSERT INTO ledger VALUES(?, ?, 'done')", row)


# ---- data sets -----------------------------------------------------------------------------------


def sum_of_even(numbers: list[int]) -> int:
    return sum(number for number in numbers if number % 2 == 0)


def pool_of_numbers(path: str) -> None:
    """Four processes, each given lists of ten thousand integers; tells the sum of the even ones."""
    with open(path) as file, Pool(4) as pool:
        chunks = iter(lambda: [int(line) for line in islice(file, NUMBERS_A_CHUNK)], [])
        print(sum(pool.imap_unordered(sum_of_even, chunks)))


def duckdb(path: str, threads: int) -> list[str]:
    """The command that groups a table by DuckDB; its answer is JSON."""
    query = """
        SELECT region, sum(quantity)::BIGINT AS units, count(*) AS orders, avg(price) AS price,
            min(price) AS cheapest, max(price) AS dearest
        FROM read_csv(?) GROUP BY region ORDER BY region
    """.replace("?", "'" + path.replace("'", "''") + "'")
    return ["duckdb", "-json", "-c", f"SET threads = {threads}", "-c", query]


# ---- the rest ------------------------------------------------------------------------------------


def read_again(path: str) -> None:
    """Reads all of a file, and does nothing with it."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def stock_watchdog(folder: str, seconds: str) -> None:
    """A stock recursive observer with a handler that does nothing; tells its processor time."""
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    observer = Observer()
    observer.schedule(FileSystemEventHandler(), folder, recursive=True)
    observer.start()
    time.sleep(2)
    before = time.process_time()
    time.sleep(float(seconds))
    print(time.process_time() - before, flush=True)
    os._exit(0)


PROGRAMS = {
    program.__name__: program
    for program in (
        plain_pool, durable_pool, bare_loop, tuned_loop, one_text, single_loop, pool_of_numbers,
        read_again, stock_watchdog,
    )
}  # fmt: skip

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])

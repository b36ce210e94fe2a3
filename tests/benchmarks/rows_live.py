"""A running service: bursts, a log that grows, and how long it takes until a file is found."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dropmill import search as engine

from . import peers
from .bench import Bench, files_below, total_size
from .frame import Goal, Line, Row, at_least, at_most, percentile
from .service import Service

SETTLE_MS = 500  # what users have by default
REST = 0.05  # seconds between two files, so that the service is idle when one comes


# ---- bursts --------------------------------------------------------------------------------------


Drop = Callable[["Staged", Service], object]


def burst(bench: Bench) -> Iterator[Line]:
    source = bench.inputs.texts(bench.any_text, bench.size(20_000, 2_000))
    count = len(files_below(source))
    ways: tuple[tuple[str, Drop, float], ...] = (
        ("moved in as a folder", _move_folder, 6_000),
        ("renamed in, one by one", _rename_each, 4_000),
        ("written in, one by one", _write_each, 4_000),
    )

    def bare(folder: Path) -> float:
        return bench.peer(peers.single_loop, source, folder)

    def side(seconds: Callable[[Path], float], used: Path) -> Callable[[], float]:
        return lambda: count / seconds(Path(tempfile.mkdtemp(dir=used)))

    # What was used is removed when all is over: for minutes ext4 gives no inode to a new file that
    # was another's, and looks at each of them again for the next (0.3 ms where 20,000 are gone).
    with bench.fresh() as used:
        sides = {
            what: side(partial(_until_done, bench, source, count, drop), used)
            for what, drop, _ in ways
        }
        sides["bare loop"] = side(bare, used)
        turns = bench.take_turns(sides, warm=[source])
    found = turns.medians()
    for what, _, goal in ways:
        yield Line(
            f"{count:,} texts of 1 KB {what}, until all are done",
            found[what],
            "files/s",
            found["bare loop"],
            "the bare loop, one process",
            found[what] / found["bare loop"],
            (at_least(goal, "ours"),),
            turns={what: turns.figures[what], "bare loop": turns.figures["bare loop"]},
        )


class Staged(NamedTuple):
    """Texts that lie beside the inbox, on its disk; what is dropped is known beforehand."""

    folder: Path
    paths: list[bytes]
    names: list[bytes]
    contents: list[bytes]


def _until_done(bench: Bench, source: Path, count: int, drop: Drop, folder: Path) -> float:
    shutil.copytree(source, folder / "staged")
    paths = files_below(folder / "staged")
    staged = Staged(
        folder / "staged",
        [os.fsencode(path) for path in paths],
        [os.fsencode(folder / "inbox" / path.name) for path in paths],
        [path.read_bytes() for path in paths],
    )
    os.sync()
    with bench.service(Service(folder)) as service:
        began = time.monotonic()
        drop(staged, service)
        service.wait_for(count)
        return time.monotonic() - began


def _move_folder(staged: Staged, service: Service) -> None:
    staged.folder.rename(service.inbox / "all")


def _rename_each(staged: Staged, service: Service) -> None:
    for path, name in zip(staged.paths, staged.names, strict=True):
        os.rename(path, name)


def _write_each(staged: Staged, service: Service) -> None:
    for name, content in zip(staged.names, staged.contents, strict=True):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, content)
        os.close(descriptor)


# ---- a log ---------------------------------------------------------------------------------------


def append(bench: Bench) -> Iterator[Line]:
    source = bench.inputs.large_text(bench.any_text, bench.size(1 << 30, 32 << 20))
    times = bench.size(100, 5)
    with bench.fresh() as folder:
        service = Service(folder)
        log = service.inbox / "service.log"
        shutil.copyfile(source / "large.txt", log)
        with log.open("ab") as file:
            file.write(b"\n")
        with bench.service(service):
            service.wait_for(1)
            time.sleep(bench.size(10, 2))  # what merges when idle has done so
            before = service.processor_time()
            for number in range(times):
                _append_and_find(service, log, number)
            each = 1000 * (service.processor_time() - before) / times
        again = 1000 * _processor_time_of(bench, log)
    yield Line(
        f"1 KB appended to a log of {total_size(source) / 1e6:,.0f} MB, {times} times: processor"
        " time each",
        each,
        "ms",
        again,
        "reading it all again",
        again / each,
        (at_most(20),),
        "Each was searchable; between them settle passes, and all that time counts.",
    )


def _append_and_find(service: Service, log: Path, number: int) -> None:
    word = f"appended{number}line"
    with log.open("ab") as file:
        file.write((f"{word} " + "of what a log says " * 60)[:1023].encode() + b"\n")
    wait_until_found(service, word)


def _processor_time_of(bench: Bench, log: Path) -> float:
    before = os.times()
    bench.peer(peers.read_again, log)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


# ---- latency -------------------------------------------------------------------------------------


def latency(bench: Bench) -> Iterator[Line]:
    renamed = bench.size(200, 20)
    written = bench.size(100, 3)
    with bench.fresh() as folder, bench.service(Service(folder)) as service:
        by_rename = [_dropped(service, number, _rename_in) for number in range(renamed)]
        in_place = [_dropped(service, renamed + number, _write) for number in range(written)]
    work = f"a file renamed in until it is done and found, {renamed} times"
    figures: tuple[tuple[str, list[float], float, Goal], ...] = (
        (f"{work}: p50", by_rename, 50, at_most(10)),
        (f"{work}: p99", by_rename, 99, at_most(50)),
    )
    for what, values, percent, goal in figures:
        yield Line(what, percentile(values, percent), "ms", goals=(goal,), turns={"ms": values})
    yield Line(
        f"a file written in place and closed, {written} times: p50 beyond settle",
        percentile(in_place, 50) - SETTLE_MS,
        "ms",
        SETTLE_MS,
        "settle",
        goals=(at_most(15),),
        note=f"p99 beyond settle: {percentile(in_place, 99) - SETTLE_MS:.1f} ms",
        turns={"ms": in_place},
    )


def _dropped(service: Service, number: int, drop: Callable[[Service, str, str], None]) -> float:
    """Milliseconds until the file is done and a search finds it."""
    time.sleep(REST)
    name, word = f"note{number}.txt", f"word{number}ofnote"
    done = service.count()
    drop(service, name, f"{word} in a note\n" * 3)
    began = time.monotonic()
    service.wait_for(done + 1, every=0.0002)
    wait_until_found(service, word)
    return 1000 * (time.monotonic() - began)


def _rename_in(service: Service, name: str, content: str) -> None:
    staged = service.folder / name
    staged.write_text(content)
    staged.rename(service.inbox / name)


def _write(service: Service, name: str, content: str) -> None:
    (service.inbox / name).write_text(content)


def wait_until_found(service: Service, word: str) -> None:
    """By the search itself, without a command's start."""
    deadline = time.monotonic() + 120
    while not any(engine.search(service.state_folder, engine.Query((word,)))):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{word!r} is not found within 2 minutes")
        time.sleep(0.01)


ROWS = (
    Row("burst", "20,000 texts of 1 KB dropped at once, against the bare loop", burst),
    Row("append", "1 KB appended to a log of 1 GB, against reading it all again", append),
    Row("latency", "from a file's arrival until it is done and found", latency),
)

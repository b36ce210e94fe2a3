"""`dropmill bench`: the same files one after another and by the pool, as a table."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from .. import bench as engine
from .. import config, log
from ..bench import Lap, sample
from ..config.settings import Config, Root
from ..config.values import keyword as checked_keyword
from ..errors import DropmillError, UsageError
from ..store.ledger import Admission
from ..watch.roots import filesystem_of
from .bench_table import Asked, Report, print_report
from .printing import has_colour, shown, size, write_json
from .run import Progress, bar

_SHOWN = 20  # files that the index is asked for, as `dropmill search` does
_IN_MEMORY = (b"tmpfs", b"ramfs")
_DRAWN_EVERY = 0.1
_SHORT = 2.0  # seconds


class Options(NamedTuple):
    """The command line."""

    folder: str
    workers: int | None
    keyword: str | None
    seconds: float
    scratch: str | None
    as_json: bool


def bench(config_path: Path | None, options: Options) -> int:
    """Prints it; gives 0 when all runs gave the same, else 1. Raises DropmillError."""
    folder = _folder(options.folder)
    base = config.load(config_path) if config_path else None
    for number in engine.STOPPING:
        signal.signal(number, _end)
    log.configure("warning", "plain")
    with engine.scratch(options.scratch, folder) as scratch:
        configured = _configured(base, folder, scratch, options.keyword)
        with _progress() as progress:
            report = _measure(configured, options, progress)
    if options.as_json:
        write_json(report.as_object(), flush=True)
    else:
        print_report(report)
    return 0 if report.identical else 1


def _end(number: int, frame: FrameType | None) -> None:
    """Once: what was begun is undone on the way out, and that is not to be interrupted."""
    for each in engine.STOPPING:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _folder(written: str) -> Path:
    path = Path(os.path.realpath(written))
    name = shown(os.fsencode(written))
    try:
        with os.scandir(path):
            return path
    except NotADirectoryError:
        raise UsageError(f"{name}: is no folder: name the one that holds your files") from None
    except FileNotFoundError:
        raise UsageError(f"{name}: there is no such folder") from None
    except OSError as error:
        raise DropmillError(f"{name}: cannot be read: {error.strerror}") from None


def _configured(base: Config | None, folder: Path, scratch: Path, keyword: str | None) -> Config:
    """The given configuration's rules and limits, or the defaults, for this folder alone."""
    found = base or Config.model_validate({"watch": [{"path": folder}]})
    root = next((root for root in found.watch if root.path == folder), Root(path=folder))
    keywords = found.text.keywords
    if keyword is not None:
        try:
            keywords = tuple(dict.fromkeys((*keywords, checked_keyword(keyword))))
        except ValueError as error:
            raise UsageError(f"--keyword: {error}") from None
    return found.model_copy(
        update={
            "state": scratch / "state",
            "watch": (root,),
            "text": found.text.model_copy(update={"keywords": keywords}),
            "images": found.images.model_copy(update={"output": scratch / "copies"}),
            "datasets": tuple(each.model_copy(update={"output": None}) for each in found.datasets),
            "log": found.log.model_copy(update={"level": "warning", "format": "plain"}),
        }
    )


# ---- what is measured ----------------------------------------------------------------------------


def _measure(configured: Config, options: Options, progress: Progress) -> Report:
    root = os.fsencode(configured.watch[0].path)
    load = os.getloadavg()[0]
    found = sample.find(configured, progress)
    chosen = sample.choose(found.files, options.seconds)
    read = sample.read_once(root, chosen, progress)
    unreadable = [*found.unreadable, *read.unreadable]
    if not read.files:
        raise DropmillError(_nothing(root, unreadable))
    counts = engine.worker_counts(options.workers or len(os.sched_getaffinity(0)))
    _check_room(configured.state.parent, read.files, counts[-1])
    asked: list[Asked] = []
    laps: list[Lap] = []
    ask = _asker(configured.state, options.keyword, counts[-1], asked)
    laps.extend(engine.laps(configured, read.files, counts, progress, ask))
    return Report(
        root,
        found.files,
        read.files,
        unreadable,
        laps,
        engine.differences(read.files, laps),
        len(os.sched_getaffinity(0)),
        options.keyword,
        asked[0] if asked else None,
        list(_doubts(load, laps[0].seconds)),
        list(_notes(configured.state.parent, read.files)),
    )


def _nothing(root: bytes, unreadable: Sequence[tuple[bytes, str]]) -> str:
    if unreadable:
        path, reason = unreadable[0]
        return f"{shown(root)}: nothing in it can be read: {shown(path)}: {reason}"
    return f"{shown(root)}: holds no file that would be taken in: choose a folder with files"


def _check_room(scratch: Path, files: Sequence[Admission], workers: int) -> None:
    needed, free = sample.room(files, workers), shutil.disk_usage(scratch).free
    if needed > free:
        raise DropmillError(
            f"{scratch.parent}: {size(free)} free, and up to {size(needed)} may be needed for"
            " a while: name a roomier --scratch DIR, or take fewer files by --seconds"
        )


def _asker(
    state: Path, keyword: str | None, workers: int, asked: list[Asked]
) -> Callable[[Lap], None]:
    """After the last lap, asks its index for the keyword as `dropmill search` would."""
    from .. import search

    def ask(lap: Lap) -> None:
        if keyword is None or lap.workers != workers:
            return
        began = time.perf_counter()
        found = search.search(os.fsencode(state), search.Query((keyword,)), at_most=_SHOWN)
        files = sum(1 for _ in found)
        seconds = time.perf_counter() - began
        asked.append(Asked(seconds, files, None if found.more is None else files + found.more))

    return ask


def _doubts(load: float, seconds: float) -> Iterator[str]:
    """Why the next run may give quite other figures."""
    processors = len(os.sched_getaffinity(0))
    if load > 0.75 * processors:
        yield (
            f"other programs were busy ({load:.1f} at a time on {processors} processors): measure"
            " again when they are not"
        )
    if seconds < _SHORT:
        yield "the runs were short: more files give steadier figures"


def _notes(scratch: Path, files: Sequence[Admission]) -> Iterator[str]:
    """What the figures hold for."""
    if filesystem_of(os.fsencode(scratch)) in _IN_MEMORY:
        yield (
            f"{scratch.parent} is memory, where nothing has to be synced: --scratch DIR on the disk"
            " of your state folder shows what the service would do"
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sample.total(files) > memory / 2:
        yield "the files are more than memory keeps at hand: every run read from the disk"


# ---- meanwhile -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, drawn ten times a second; nothing elsewhere."""
    if not has_colour(sys.stderr):
        yield lambda done, total, what: None
        return
    drawn: list[Any] = [0.0, ""]
    with bar() as show:

        def sometimes(done: int, total: int, what: str) -> None:
            now = time.monotonic()
            if what != drawn[1] or now - drawn[0] >= _DRAWN_EVERY:
                drawn[:] = now, what
                show(done, total, what)

        yield sometimes

"""Texts: a real tree against the bare loop and recollindex; a large file by one worker and two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import peers
from .bench import Bench, files_below, total_size
from .frame import Line, Row, at_least, at_most
from .service import Service, peak, processes

MB = 1e6
KERNEL = ("drivers/net", "Documentation", "kernel", "fs")


def roots(bench: Bench) -> list[Path]:
    """Of a kernel tree the four folders, of any other all of it; in the quick form a sample."""
    if bench.quick:
        return [bench.inputs.sample(bench.text, 12_000_000)]
    kernel = [bench.text / name for name in KERNEL]
    return kernel if all(folder.is_dir() for folder in kernel) else [bench.text]


class Sizes(NamedTuple):
    """Bytes on disk: as `run --once` leaves it, and merged by an idle service."""

    fresh: int  # the index alone
    with_ledger: int
    merged: int
    merged_with_ledger: int


class Tree:
    """What is taken in, its size, and the list of files that the bare loop is given."""

    def __init__(self, bench: Bench, folders: list[Path]) -> None:
        self.bench = bench
        self.folders = folders
        self.paths = [path for folder in folders for path in files_below(folder)]
        self.bytes = sum(path.stat().st_size for path in self.paths)

    @property
    def work(self) -> str:
        return f"{self.bytes / MB:,.0f} MB of text, {len(self.paths):,} files"

    def ours(self) -> float:
        """MB a second of `run --once`."""
        with self.bench.fresh() as folder:
            service = Service(folder, self.folders)
            seconds = service.once()
            count = service.count()
            if count < 0.99 * len(self.paths):
                raise RuntimeError(f"{count} of {len(self.paths)} files were taken in")
            service.close()
        return self.bytes / MB / seconds

    def sizes(self) -> Sizes:
        with self.bench.fresh() as folder:
            service = Service(folder, self.folders)
            service.once()
            fresh = service.index_size(), service.state_size()
            with self.bench.service(service):
                service.wait_until_merged()
                return Sizes(*fresh, service.index_size(), service.state_size())

    def loop(self, program: Callable[..., object]) -> float:
        with self.bench.fresh() as folder:
            listing = folder / "listing"
            listing.write_text("\0".join(map(str, self.paths)), errors="surrogateescape")
            return self.bytes / MB / self.bench.peer(program, listing, folder)

    def recoll(self, sizes: list[int]) -> float:
        with self.bench.fresh() as folder:
            names = " ".join(f'"{path}"' for path in self.folders)
            (folder / "recoll.conf").write_text(f"topdirs = {names}\nskippedNames =\n")
            command = ["recollindex", "-c", str(folder), "-z"]
            seconds = self.bench.seconds(command, may_fail=True)
            sizes.append(total_size(folder / "xapiandb"))
        return self.bytes / MB / seconds


def text(bench: Bench) -> Iterator[Line]:
    tree = Tree(bench, roots(bench))
    turns = bench.take_turns(
        {
            "dropmill": tree.ours,
            "bare loop": lambda: tree.loop(peers.bare_loop),
            "tuned loop": lambda: tree.loop(peers.tuned_loop),
        },
        warm=tree.folders,
    )
    found = turns.medians()
    ours, bare = found["dropmill"], found["bare loop"]
    yield Line(
        tree.work,
        ours,
        "MB/s",
        bare,
        "the bare loop, two processes",
        ours / bare,
        (at_least(1.2),),
        f"The floor, bare loops with our settings that hash and count lines:"
        f" {found['tuned loop']:.1f} MB/s, {found['tuned loop'] / bare:.2f} ×"
        + ("" if bare >= 34 else "; the bare loop gives 34 MB/s or more on a quiet machine."),
        turns.figures,
        turns.processor,
    )


def recoll(bench: Bench) -> Iterator[Line]:
    bench.need("recollindex")
    folders = roots(bench)
    if bench.quick:
        folders = [bench.inputs.sample(bench.text, 3_000_000)]
    tree = Tree(bench, folders)
    other: list[int] = []
    turns = bench.take_turns(
        {"dropmill": tree.ours, "recollindex": lambda: tree.recoll(other)},
        warm=folders,
    )
    found = turns.medians()
    ratio = found["dropmill"] / found["recollindex"]
    name, goal = "recollindex", (at_least(20),)
    yield Line(
        tree.work,
        found["dropmill"],
        "MB/s",
        found[name],
        name,
        ratio,
        goal,
        turns=turns.figures,
        processor=turns.processor,
    )
    fresh, with_ledger, merged, merged_with_ledger = (
        100 * size / tree.bytes for size in tree.sizes()
    )
    theirs, limit = 100 * max(other) / tree.bytes, (at_most(28),)
    what = "the same: the index, of the text,"
    yield Line(
        f"{what} as the run leaves it",
        fresh,
        "%",
        theirs,
        name,
        None,
        limit,
        f"With the ledger: {with_ledger:.1f} %.",
    )
    yield Line(
        f"{what} merged by an idle service",
        merged,
        "%",
        theirs,
        name,
        None,
        limit,
        f"With the ledger: {merged_with_ledger:.1f} %.",
    )


# ---- one large file ------------------------------------------------------------------------------


def large(bench: Bench) -> Iterator[Line]:
    source = bench.inputs.large_text(bench.any_text, bench.size(1 << 30, 64 << 20))
    size = total_size(source)
    peaks: dict[int, int] = {}

    def ours(workers: int) -> Callable[[], float]:
        def measure() -> float:
            with bench.fresh() as folder:
                service = Service(folder, [source], workers=workers)
                return size / MB / service.once(lambda pid: _note_peaks(pid, peaks))

        return measure

    def bare(workers: int) -> Callable[[], float]:
        def measure() -> float:
            with bench.fresh() as folder:
                path = source / "large.txt"
                return size / MB / bench.peer(peers.one_text, path, folder, workers)

        return measure

    turns = bench.take_turns(
        {"ours, 2": ours(2), "bare, 2": bare(2), "ours, 1": ours(1), "bare, 1": bare(1)},
        warm=[source],
    )
    found = turns.medians()
    mine = found["ours, 2"] / found["ours, 1"]
    limit = found["bare, 2"] / found["bare, 1"]
    yield Line(
        f"one text of {size / MB:,.0f} MB: 2 workers against 1",
        mine,
        "× as fast",
        limit,
        "bare loop, 2 against 1",
        mine / limit,
        (at_least(0.9),),
        ", ".join(f"{name}: {value:.1f} MB/s" for name, value in found.items()),
        turns.figures,
        turns.processor,
    )
    yield Line(
        "the same: the most memory of a worker",
        max(peaks.values()) / MB,
        "MB",
        goals=(at_most(300),),
    )


def _note_peaks(parent: int, peaks: dict[int, int]) -> None:
    for pid in processes(parent)[1:]:
        peaks[pid] = max(peaks.get(pid, 0), peak(pid))


ROWS = (
    Row("text", "a real tree of texts, against the bare loop of two processes", text),
    Row("recoll", "the same, against recollindex; the index's size", recoll),
    Row("large-text", "one text of 1 GB, 2 workers against 1; a worker's memory", large),
)

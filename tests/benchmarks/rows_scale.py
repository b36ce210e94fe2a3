"""Very many files: a restart, idleness, the queue, and what one more file costs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..polling import eventually
from . import peers
from .bench import Bench, files_below
from .frame import Line, Row, at_most, medians
from .plot import Point, cost_plot
from .service import DONE, QUEUED, Service, peak, resident

MB = 1e6
LISTING = "%s %T@\n"


def _many(bench: Bench) -> list[Path]:
    """Trees of 1,000, 10,000, 100,000 and 500,000 texts of 1 KB, each within the next."""
    full = [1_000, 10_000, 100_000, 500_000]
    return bench.inputs.nested_texts(bench.any_text, [300, 3_000] if bench.quick else full)


# ---- restart -------------------------------------------------------------------------------------


def restart(bench: Bench) -> Iterator[Line]:
    bench.need("find")
    tree = _many(bench)[-1]
    count = len(files_below(tree))

    def find() -> float:
        return bench.seconds(["find", str(tree), "-type", "f", "-printf", LISTING])

    with bench.fresh() as folder:
        Service(folder, [tree]).once()

        def ours() -> float:
            service = Service(folder, [tree])
            began = time.monotonic()
            with bench.service(service):
                seconds = time.monotonic() - began
                if service.count(DONE) != count or service.count(QUEUED):
                    raise RuntimeError(f"not all of the {count} files were done")
            return seconds

        find()  # the names in the kernel's cache, for both
        turns = bench.take_turns({"dropmill": ours, "find": find})
    found = turns.medians()
    yield Line(
        f"restart over {count:,} unchanged files until ready",
        found["dropmill"],
        "s",
        found["find"],
        r"find -type f -printf '%s %T@\n'",
        found["dropmill"] / found["find"],
        (at_most(4, "ratio"),),
        turns=turns.figures,
    )


# ---- idle ----------------------------------------------------------------------------------------


def idle(bench: Bench) -> Iterator[Line]:
    folders = bench.size(8_000, 500)
    seconds = bench.size(120, 6)
    tree = bench.inputs.made(f"folders-{folders}", lambda to: _make_folders(to, folders))
    more = f"reconcile_every: {seconds * 3 // 4}s"
    with bench.fresh() as place, bench.service(Service(place, [tree], more=more)) as service:
        service.wait_for(folders)
        time.sleep(bench.size(15, 2))  # what merges when idle has done so
        first = _share_of_a_core(service, seconds)
        scanned = _last_scan(service)
        # Asking makes a service work, too.
        eventually(lambda: _last_scan(service) != scanned, seconds=seconds, every=1)
        ours = _share_of_a_core(service, seconds)
        memory = service.memory() / MB
    watched = float(bench.peer_output(peers.stock_watchdog, tree, bench.size(30, 3)))
    theirs = 100 * watched / bench.size(30, 3)
    yield Line(
        f"idle for {seconds} s, {folders:,} watched folders, a reconcile included: of a core",
        ours,
        "%",
        theirs,
        "stock watchdog",
        theirs / ours if ours else None,
        (at_most(0.2),),
        note=f"in the first {seconds} s, with the first reconcile after all came: {first:.3f} %",
    )
    yield Line("the same: memory of all processes (PSS)", memory, "MB", goals=(at_most(100),))


def _make_folders(to: Path, count: int) -> None:
    for number in range(count):
        folder = to / f"{number // 100:03}" / f"{number % 100:02}"
        folder.mkdir(parents=True)
        (folder / "note.txt").write_text(f"a note in folder {number}\n")


def _share_of_a_core(service: Service, seconds: float) -> float:
    """Percent; in that time there must be a reconcile."""
    before, scanned = service.processor_time(), _last_scan(service)
    time.sleep(seconds)
    used = service.processor_time() - before
    if _last_scan(service) == scanned:
        raise RuntimeError("no reconcile happened")
    return 100 * used / seconds


def _last_scan(service: Service) -> object:
    return [root["last_scan"] for root in service.ask("status")["roots"]]


# ---- the queue -----------------------------------------------------------------------------------


def queued(bench: Bench) -> Iterator[Line]:
    tree = _many(bench)[-1]
    count = len(files_below(tree))
    with _staged(bench, tree) as (service, staged):
        service.ask("pause")
        before = resident(service.pid)
        staged.rename(service.inbox / "all")
        service.wait_for(count, QUEUED, every=0.2)
        time.sleep(2)
        after, most = resident(service.pid), peak(service.pid)
    yield Line(
        f"{count:,} files queued: the parent grows by",
        (after - before) / MB,
        "MB",
        goals=(at_most(60),),
        note=f"from {before / MB:.1f} MB to {after / MB:.1f}, at most {most / MB:.1f}",
    )


@contextlib.contextmanager
def _staged(bench: Bench, tree: Path) -> Iterator[tuple[Service, Path]]:
    """A service without files that is ready, and a tree to be moved into its inbox.

    The tree is one of hard links: what is made once stays where it is.
    """
    with bench.fresh() as folder:
        staged = folder / "staged"
        bench.run(["cp", "-al", str(tree), str(staged)])
        os.sync()
        with bench.service(Service(folder)) as service:
            yield service, staged


# ---- cost per file -------------------------------------------------------------------------------


def cost(bench: Bench) -> Iterator[Line]:
    trees = {len(files_below(tree)): tree for tree in _many(bench)}
    processor: dict[str, list[float]] = {}

    def measured(count: int) -> float:
        wall, used = _cost(bench, trees[count], count)
        processor.setdefault(str(count), []).append(used)
        return wall

    clock = bench.take_turns({str(count): partial(measured, count) for count in trees}).medians()
    used = medians(processor)
    for count in trees:
        yield Line(
            f"{count:,} texts of 1 KB moved in: time a file",
            clock[str(count)],
            "µs",
            note=f"{used[str(count)]:.0f} µs of processor time, of all processes",
        )
    where = bench.scratch / "cost-per-file.svg"
    where.write_text(
        cost_plot([Point(count, used[str(count)], clock[str(count)]) for count in trees])
    )
    first, last = str(min(trees)), str(max(trees))
    for what, values in (("processor time", used), ("time", clock)):
        yield Line(
            f"from {min(trees):,} to {max(trees):,} files: {what} a file grows by",
            values[last],
            "µs",
            values[first],
            f"at {min(trees):,}",
            values[last] / values[first],
            (at_most(1.3, "ratio"),),
            f"plotted in {where}" if what == "time" else "",
        )


def _cost(bench: Bench, tree: Path, count: int) -> tuple[float, float]:
    """Microseconds a file, by the clock and of processor time, of a service that is ready."""
    with _staged(bench, tree) as (service, staged):
        before, began = service.processor_time(), time.monotonic()
        staged.rename(service.inbox / "all")
        service.wait_for(count, every=0.01)
        seconds, used = time.monotonic() - began, service.processor_time() - before
    return 1e6 * seconds / count, 1e6 * used / count


ROWS = (
    Row("restart", "over 500,000 unchanged files until ready, against find", restart),
    Row("idle", "8,000 watched folders, a reconcile included, against stock watchdog", idle),
    Row("queued", "the parent's growth with 500,000 files queued", queued),
    Row("cost", "cost per file at 1k, 10k, 100k and 500k files", cost),
)

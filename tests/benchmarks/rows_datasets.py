"""Data sets: a list of numbers against a plain pool, a table of 1 GB against DuckDB."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import peers
from .bench import Bench, total_size
from .frame import Line, Row, at_least, at_most
from .service import Service, peak, processes

WORKERS = 2
MB = 1e6
RULES = """\
text: {suffixes: [.txt]}
datasets:
  - name: even
    match: "*.numbers"
    where: value % 2 = 0
    aggregate: {total: sum(value)}
  - name: by_region
    match: "*.csv"
    group_by: [region]
    aggregate:
      units: sum(quantity)
      orders: count()
      price: mean(price)
      cheapest: min(price)
      dearest: max(price)
"""
_REST = 1.0  # seconds, until a service that has worked is idle
_LOOK = 0.002
_CLOSE = 1e-9  # of floating-point sums that were added up in another order

Groups = list[dict[str, Any]]
Watch = Callable[[int], object]


# ---- ours ----------------------------------------------------------------------------------------


def dropped(
    bench: Bench, source: Path, rule: str, small: str, watch: Watch | None = None
) -> tuple[float, Groups]:
    """Seconds from a file's arrival at an idle service until it is done; what it comes to.

    `small` is a file's content of that kind: one that was taken in before. `watch` is called with
    the service's process id meanwhile.
    """
    with bench.fresh() as folder:
        staged = folder / source.name
        shutil.copyfile(source, staged)
        with bench.service(Service(folder, workers=WORKERS, more=RULES)) as service:
            (service.inbox / f"small{source.suffix}").write_text(small)
            service.wait_for(1)
            time.sleep(_REST)
            began = time.monotonic()
            staged.rename(service.inbox / source.name)
            service.wait_for(2, every=_LOOK, watch=watch)
            seconds = time.monotonic() - began
            return seconds, results(service, rule, source.name)


def once(bench: Bench, source: Path) -> float:
    """Seconds of `run --once`, its start and end included."""
    with bench.fresh() as folder:
        service = Service(folder, [source.parent], workers=WORKERS, more=RULES)
        return service.once()


def results(service: Service, rule: str, name: str) -> Groups:
    """What a file comes to, by the command that users have."""
    found: Groups = service.results("--kind", "dataset")[name]["datasets"][rule]["groups"]
    return found


def check(ours: Groups, theirs: Groups) -> None:
    """Raises RuntimeError unless both are the same, but for the last digits of fractions."""
    if len(ours) != len(theirs) or not all(map(_is_same, ours, theirs)):
        raise RuntimeError(f"the results differ: {ours[:3]} is ours, {theirs[:3]} the peer's")


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        math.isclose(value, other[name], rel_tol=_CLOSE)
        if isinstance(value, float)
        else value == other[name]
        for name, value in one.items()
    )


# ---- numbers -------------------------------------------------------------------------------------


def numbers(bench: Bench) -> Iterator[Line]:
    bench.need_polars()
    count = bench.size(10_000_000, 200_000)
    source = bench.inputs.numbers(count) / "all.numbers"
    wanted: list[int] = []

    def plain() -> float:
        began = time.monotonic()
        wanted.append(int(bench.peer_output(peers.pool_of_numbers, source)))
        return time.monotonic() - began

    def ours() -> float:
        seconds, found = dropped(bench, source, "even", "2\n")
        check(found, [{"total": wanted[-1]}])
        return seconds

    sides = {"plain pool": plain, "dropmill": ours, "run --once": lambda: once(bench, source)}
    turns = bench.take_turns(sides, warm=[source.parent])
    found = turns.medians()
    yield Line(
        f"{count:,} numbers, one a line: the sum of the even ones",
        found["dropmill"],
        "s",
        found["plain pool"],
        "a plain pool of four processes",
        found["plain pool"] / found["dropmill"],
        (at_least(10),),
        f"`run --once`, with its start and its end, takes {found['run --once']:.2f} s",
        turns.figures,
        turns.processor,
    )


# ---- a table -------------------------------------------------------------------------------------


def table(bench: Bench) -> Iterator[Line]:
    bench.need_polars()
    bench.need("duckdb")
    size = bench.size(10**9, 24 * 10**6)
    source = bench.inputs.table(size) / "orders.csv"
    wanted: list[Groups] = []
    peaks: dict[int, int] = {}

    def note_peaks(parent: int) -> None:
        for pid in processes(parent)[1:]:
            peaks[pid] = max(peaks.get(pid, 0), peak(pid))

    def theirs() -> float:
        began = time.monotonic()
        wanted.append(json.loads(bench.run(peers.duckdb(str(source), WORKERS))))
        return time.monotonic() - began

    def ours() -> float:
        small = source.open().readline() + "north,1,1.5,2020-01-01,item-1,1\n"
        seconds, found = dropped(bench, source, "by_region", small, note_peaks)
        check(found, wanted[-1])
        return seconds

    turns = bench.take_turns({"DuckDB": theirs, "dropmill": ours}, warm=[source.parent])
    found = turns.medians()
    bytes_ = total_size(source)
    yield Line(
        f"a CSV file of {bytes_ / MB:,.0f} MB, grouped by one of its columns",
        found["dropmill"],
        "s",
        found["DuckDB"],
        "DuckDB, as many threads",
        found["dropmill"] / found["DuckDB"],
        (at_most(2, "ratio"),),
        ", ".join(f"{name}: {bytes_ / MB / value:,.0f} MB/s" for name, value in found.items()),
        turns.figures,
        turns.processor,
    )
    yield Line(
        "the same: the most memory of a worker",
        max(peaks.values()) / MB,
        "MB",
        goals=(at_most(300),),
    )


ROWS = (
    Row("numbers", "10 million numbers filtered and summed, against a plain pool", numbers),
    Row("table", "a CSV file of 1 GB grouped, against DuckDB; a worker's memory", table),
)

"""Searches without pause during rewrites and compaction: what is always there is always found.

Every version of every file holds one word; each file is replaced at once by its next version. So
each search must give all files, whatever is taken in, dies or is compacted meanwhile. The short
form has compaction come after seconds; the long one leaves it at a minute.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..dropmill_process import Place
from . import saboteur
from .bench import Bench, Findings, version_word

FILES = 150
SEARCHERS = 2
LONG = 240.0


def run(bench: Bench) -> Findings:
    place = bench.place()
    folder = place.folder / "torture"
    hasty = bench.seconds < LONG
    place.start(saboteur.MODULE, **saboteur.variables(folder, "hasty" if hasty else "counting"))
    paths = [place.inbox / f"f{number}.txt" for number in range(FILES)]
    for path in paths:
        bench.text(path, version=1)
    bench.settle(place)
    stopped = threading.Event()
    with ThreadPoolExecutor(SEARCHERS) as threads:
        searchers = [
            threads.submit(search, place, paths, stopped, by_paths=bool(number % 2))
            for number in range(SEARCHERS)
        ]
        versions = rewrite(bench, paths)
        stopped.set()
        outcomes = [searcher.result() for searcher in searchers]
    stale = [version_word(path, version) for path in paths for version in range(1, versions[path])]
    problems = [problem for _, found in outcomes for problem in found]
    faults = {
        "searches": sum(count for count, _ in outcomes),
        "rewrites": versions.total(),
        **compactions(folder),
    }
    return Findings(faults, problems + bench.audit(place, stale_words=stale))


def rewrite(bench: Bench, paths: list[Path]) -> Counter[Path]:
    """Bursts, and pauses long enough to be idle in; gives the versions."""
    versions = Counter(dict.fromkeys(paths, 1))
    while bench.time_is_left():
        burst = time.monotonic() + bench.seconds / 3
        while time.monotonic() < burst and bench.time_is_left():
            path = bench.chance.choice(paths)
            versions[path] += 1
            bench.text(path, versions[path])
            time.sleep(0.002)
        time.sleep(4.0 if bench.seconds >= LONG else 1.5)  # more than a worker's patience
    return versions


def search(
    place: Place, paths: list[Path], stopped: threading.Event, *, by_paths: bool
) -> tuple[int, list[str]]:
    """How many searches were made, and what they missed."""
    count, problems = 0, []
    wanted = set(map(str, paths))
    while not stopped.is_set():
        count += 1
        if by_paths:
            answer = place.run("search", "-m", "0", "-l", "everyline")
            found = set(answer.stdout.splitlines())
        else:
            answer = place.run("search", "-m", "0", "everyline")
            found = {line.split(":", 1)[0] for line in answer.stdout.splitlines()}
        if found != wanted:
            missing = sorted(wanted - found)
            problems.append(f"search {count}: {len(missing)} not found: {missing[:3]}")
    return count, problems


def compactions(folder: Path) -> dict[str, int]:
    """Steps that deleted something, idle and under load."""
    lines = (folder / "journal").read_text().splitlines()
    how = Counter(line.split()[1] for line in lines)
    return {"compactions when idle": how["idle"], "compactions under load": how["loaded"]}

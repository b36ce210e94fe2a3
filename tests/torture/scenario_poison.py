"""Files that kill who works on them: quarantined with the true reason, all others untouched.

First all kinds in the middle of two batches; then one on which the service itself dies each time.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..dropmill_process import Place
from ..polling import eventually
from . import saboteur
from .bench import Bench, Findings
from .inside import Inside, Row

QUARANTINED = 4
OTHERS = 200
MOST_RESTARTS = 30
REASONS = {
    "segfault": "its worker was killed by SIGSEGV",
    "abort": "its worker was killed by SIGABRT",
    "hang": "took longer than limits.timeout (5 s)",
    "memory": "needs more memory than limits.memory (256MiB)",
    "shared": "needs more memory than limits.memory (256MiB)",
    "exit": "its worker ended with exit status 7",
    "success": "its worker ended with exit status 0",
    "leave": "its worker ended with exit status 0",
}


def run(bench: Bench) -> Findings:
    with ThreadPoolExecutor(3) as threads:  # most of it is waiting for limits to be reached
        batches, singles = threads.submit(in_batches, bench), threads.submit(alone, bench)
        restarts, problems = at_every_start(bench)
        problems += batches.result() + singles.result()
    return Findings({"poisoned files": 2 * len(REASONS), "services killed": restarts}, problems)


def in_batches(bench: Bench) -> list[str]:
    """All kinds at once, each in the middle of a message with a hundred others."""
    place = make(bench, "batches", "5s")
    inside = Inside(place)

    def drop() -> None:
        for number in range(OTHERS):
            bench.text(place.inbox / f"f{number:03}.txt", lines=3)
        for number, kind in enumerate(REASONS):
            bench.text(place.inbox / f"f{number * 20 + 10:03}-poison-{kind}.txt", lines=3)

    wanted = OTHERS + len(REASONS)
    inside.while_paused(drop, lambda: inside.queued() == wanted)
    problems = judge(bench, place, inside, wanted)
    inside.close()
    return problems


def alone(bench: Bench) -> list[str]:
    """One after the other, with nothing else to do; images this time where it can be told."""
    place = make(bench, "alone", "5s")
    inside = Inside(place)
    for kind in REASONS:
        bench.image(place.inbox / f"poison-{kind}.png")
    problems = judge(bench, place, inside, len(REASONS))
    inside.close()
    return problems


def make(bench: Bench, name: str, timeout: str) -> Place:
    place = bench.place(name=name)
    limits = f"limits: {{free: 0, timeout: {timeout}, memory: 256MiB}}"
    written = place.configuration.read_text()
    place.configuration.write_text(written.replace("limits: {free: 0}", limits))
    start(place)
    return place


def start(place: Place) -> None:
    place.start(saboteur.MODULE, **saboteur.variables(place.folder / "torture", "poison"))


def judge(bench: Bench, place: Place, inside: Inside, wanted: int) -> list[str]:
    eventually(lambda: is_over(inside, wanted), seconds=120, what="all done or quarantined")
    problems = [
        problem for path, row in inside.rows().items() for problem in wrong(path, row)
    ] + attempts(place)
    code = place.stop()
    return problems + ([f"the service ended with {code}"] if code else [])


def is_over(inside: Inside, wanted: int) -> bool:
    rows = inside.rows()
    return len(rows) == wanted and all(row.state not in (1, 3) for row in rows.values())


def wrong(path: str, row: Row) -> list[str]:
    kind = Path(path).stem.partition("poison-")[2]
    if not kind:
        return [] if row == Row(2, 0, None) else [f"{path} is no poison, yet {row}"]
    right = Row(QUARANTINED, 2, REASONS[kind])
    return [] if row == right else [f"{path}: {row}, not {right}"]


def attempts(place: Place) -> list[str]:
    """That the second was the last, and ran alone in a fresh worker."""
    worked_on: dict[str, list[str]] = defaultdict(list)  # pid → paths
    count: Counter[str] = Counter()
    problems = []
    for line in (place.folder / "torture" / "journal").read_text().splitlines():
        pid, _, _, path = line.split(" ", 3)
        if "poison" in path:
            count[path] += 1
            if count[path] == 2 and worked_on[pid]:
                problems.append(f"{path} was tried again after {len(worked_on[pid])} others")
        worked_on[pid].append(path)
    return problems + [
        f"{path} was tried {times} times" for path, times in count.items() if times != 2
    ]


def at_every_start(bench: Bench) -> tuple[int, list[str]]:
    """The service is killed whenever it has the file in hand: in the end it leaves it alone."""
    place = make(bench, "restarts", "1m")
    inside = Inside(place)
    poison = place.inbox / "poison-hang.txt"
    bench.text(poison)
    for number in range(20):
        bench.text(place.inbox / f"f{number}.txt")
    restarts = 0
    while restarts < MOST_RESTARTS and kill_with_it_in_hand(place, inside, poison):
        restarts += 1
        start(place)
    rows = inside.rows()
    row = rows.pop(poison.name)
    problems = [f"{path}: {other}" for path, other in rows.items() if other != Row(2, 0, None)]
    if row.state != QUARANTINED or "the service" not in (row.reason or ""):
        problems.append(f"{poison.name} after {restarts} restarts: {row}")
    inside.close()
    place.stop()
    return restarts, problems


def kill_with_it_in_hand(place: Place, inside: Inside, poison: Path) -> bool:
    """False once the service is up and leaves the file alone."""

    def seen() -> str:
        if any(path == poison for _, _, path in inside.in_hand()):
            return "in hand"
        row = inside.rows().get(poison.name)
        return "left alone" if row is not None and row.state == QUARANTINED else ""

    if eventually(seen, seconds=20, what="the poison is taken, or left alone") == "left alone":
        return False
    place.stop(signal.SIGKILL)
    return True

"""Power cuts after any system call: what is called done is there, a copy is whole or absent.

The calls of real runs are recorded with strace: a service that is fed in bursts and killed once,
then `run --once` over changed sources. Each moment is replayed as a power cut may leave it, with
the least, the most and a random part of what no sync covered, and audited before the service is
started again; for a sample of them it is started again, over the sources as they were. The sources
are only added to while a run is recorded, so they may lie there with every state of it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import apsw

from ..dropmill_process import Place, environment
from ..polling import eventually
from . import audit, recording
from .bench import Bench, Findings, version_word
from .lossy_disk import LossyDisk, Tree, found, put
from .replayed import OUTPUT, PARTS, Audit, Wanted

NAMES = {"create", "mkdir", "rename", "unlink", "rmdir", "resize"}
WRITES = 0.1  # of the writes are followed by a cut
SEVERAL_BLOCKS = 10_000  # lines
MOST_UNREADABLE = 3
RESTARTS = 2  # a recording, beside the last


def run(bench: Bench) -> Findings:
    why = recording.why_not()
    if why:
        return Findings({}, [], skipped=why)
    faults: Counter[str] = Counter({"cuts": 0, "restarts": 0})
    problems: list[str] = []
    calls = unreadable = rounds = 0
    began = time.monotonic()
    while not calls or (not problems and is_time_for_more(bench, began, rounds)):
        place = bench.place(name=f"place-{rounds}")
        rounds += 1
        try:
            for record in (fed, changed):
                cuts = Cuts(bench, place, record)
                found_out = cuts.audit(faults, RESTARTS)
                problems += [f"{record.__name__}: {each}" for each in found_out]
                calls += len(cuts.operations)
        except recording.UnreadableError:
            # Of a process that is killed within a call, nobody knows whether the call was made.
            unreadable += 1
            if unreadable > MOST_UNREADABLE:
                raise
    return Findings(dict(faults), problems, f"{calls} calls replayed")


def is_time_for_more(bench: Bench, began: float, rounds: int) -> bool:
    taken = time.monotonic() - began
    return taken + taken / rounds < bench.seconds


Record = Callable[[Bench, "Recorded"], None]

# ---- what is recorded ----------------------------------------------------------------------------


class Recorded:
    """The service, with all that it and its workers do to files written to `trace`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.trace = place.folder / "trace"
        self.trace.unlink(missing_ok=True)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.place.log.open("ab") as log:
            return subprocess.Popen(
                [*recording.command(self.trace), sys.executable, "-m", "dropmill", *arguments],
                cwd=self.place.folder, env=environment(), stderr=log,
            )  # fmt: skip


def fed(bench: Bench, recorded: Recorded) -> None:
    """A service that gets texts and images in bursts, and is killed once in the middle."""
    inbox = recorded.place.inbox
    service = recorded.start("run")
    fatal = bench.chance.randint(2, 5)
    try:
        for number in range(7):
            drop(bench, inbox, number)
            if number == fatal:
                time.sleep(bench.chance.uniform(0.1, 0.3))
                stop(recorded, service, signal.SIGKILL)
                service = recorded.start("run")
            eventually(lambda: all_done(recorded.place), seconds=60, what=f"burst {number} done")
        assert stop(recorded, service, signal.SIGTERM) == 0
    finally:
        if service.poll() is None:
            stop(recorded, service, signal.SIGKILL)


def drop(bench: Bench, inbox: Path, burst: int) -> None:
    """Some texts, a large one among them, and up to six images, in folders old and new."""
    folder = inbox / f"{burst}" / "deep" if burst % 2 else inbox
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(bench.chance.choice([1, 3, 8])):
        lines = SEVERAL_BLOCKS if burst == 3 and not number else bench.chance.choice([1, 20, 200])
        bench.text(folder / f"t{burst}_{number}.txt", lines=lines)
    for number in range((2, 2, 1, 6, 0, 3, 5)[burst]):
        bench.image(folder / f"i{burst}_{number}{'.png' if number % 2 else '.jpg'}")


def stop(recorded: Recorded, service: subprocess.Popen[bytes], number: int) -> int:
    """Signals the recorded program, not strace; gives the exit code that strace passes on."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    for child in children[:1]:
        os.kill(int(child), number)
    return service.wait(30)


def all_done(place: Place) -> bool:
    """Whether every source is done as it is, asked of the ledger without writing to it."""
    path = place.folder / "state" / "results.db"
    if not path.exists():
        return False
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as ledger:
        ledger.set_busy_timeout(5_000)
        try:
            done = set(ledger.execute("SELECT name, mtime_ns FROM files WHERE state = 2"))
        except apsw.SQLError:
            return False
    return all(
        (os.fsencode(each.name), each.stat().st_mtime_ns) in done
        for each in [*audit.texts(place), *audit.images(place)]
    )


def changed(bench: Bench, recorded: Recorded) -> None:
    """One run over sources of which some were rewritten, grown, renamed, touched, deleted."""
    place = recorded.place
    texts, images = sorted(audit.texts(place)), sorted(audit.images(place))
    bench.chance.shuffle(texts)
    bench.chance.shuffle(images)
    for path in texts[:3]:
        bench.text(path, version=2)
    for path in texts[3:6]:
        with path.open("a") as file:
            file.write(f"{audit.EVERY} added {version_word(path, 2)}\n" * 3)
    elsewhere = place.inbox / "elsewhere"
    elsewhere.mkdir()
    texts[6].rename(elsewhere / texts[6].name)
    texts[7].unlink()
    bench.image(images[0])
    images[1].rename(elsewhere / images[1].name)
    images[2].rename(images[2].with_name(f"renamed{images[2].suffix}"))
    images[3].unlink()
    os.utime(images[4], ns=(0, 10**18))
    (place.inbox / "new").mkdir()
    bench.image(place.inbox / "new" / "late.png")
    assert recorded.start("run", "--once").wait(60) == 0


# ---- what is replayed ----------------------------------------------------------------------------


class Cuts:
    """Every moment of one recording at which the power may go."""

    def __init__(self, bench: Bench, place: Place, record: Record) -> None:
        self._bench = bench
        self._place = place
        self._folder = os.fsencode(place.folder)
        self._before = found(self._folder, PARTS)
        words = dict(words_of(place))
        recorded = Recorded(place)
        record(bench, recorded)
        self._after = found(self._folder, PARTS)
        new_words = dict(words_of(place))
        self._stale = sorted({*chain(*words.values())} - {*chain(*new_words.values())})
        self._disk = LossyDisk(self._folder, self._before)
        self.operations = recording.read(recorded.trace, self._folder, PARTS)
        images = {os.fsencode(each): each.stat().st_mtime_ns for each in audit.images(place)}
        wanted = Wanted(
            copies(self._before, self._after),
            words | new_words,
            images,
            moved(self._before, self._after),
        )
        self._audit = Audit(self._folder, bench.folder, wanted)

    def audit(self, faults: Counter[str], restarts: int) -> list[str]:
        """Cuts the power everywhere; starts again after some cuts, and after the last."""
        problems: list[str] = []
        sample: list[tuple[str, Tree]] = []
        worth = 0
        for moment, tree in self._moments():
            faults["cuts"] += 1
            problems += [f"{moment}: {each}" for each in self._audit.problems(tree)]
            if any(path.startswith(OUTPUT) for path in tree):
                worth += 1
                at = len(sample) if worth <= restarts else self._bench.chance.randrange(worth)
                sample[at : at + 1] = [(moment, tree)] if at < restarts else sample[at : at + 1]
        problems += self._recording_is_whole()
        last = self._disk.least()
        problems += self._lost_at_the_end(last)
        for moment, tree in [*sample, ("at the end", last)] if not problems else []:
            faults["restarts"] += 1
            problems += [f"started again, {moment}: {each}" for each in self._restart(tree)]
        return problems

    def _moments(self) -> Iterator[tuple[str, Tree]]:
        """What a cut leaves, just before and after each sync, after each change of a name, and
        after some of the writes."""
        disk, chance = self._disk, self._bench.chance
        for number, operation in enumerate(self.operations):
            shown = os.path.relpath(operation.path or self._folder, self._folder)
            moment = f"call {number}, {operation.kind} {os.fsdecode(shown)}"
            if operation.kind == "synced":
                yield f"some left before {moment}", disk.some(chance)
            disk.apply(operation)
            if operation.kind == "synced":
                yield f"least left after {moment}", disk.least()
            elif operation.kind in NAMES or chance.random() < WRITES:
                yield f"all left after {moment}", disk.most()
                yield f"some left after {moment}", disk.some(chance)

    def _recording_is_whole(self) -> list[str]:
        replayed = contents(self._disk.most())
        real = contents(self._after)
        return [
            f"{path!r} is not as it was recorded"
            for path in replayed.keys() | real.keys()
            if replayed.get(path, b"absent") != real.get(path, b"absent")
        ]

    def _lost_at_the_end(self, tree: Tree) -> list[str]:
        sources = {os.fsencode(path) for path in [*audit.texts(self._place), *audit.images(self._place)]}  # fmt: skip  # noqa: E501
        return [f"{path!r} was done, and is lost" for path in sources - self._audit.done(tree)]

    # ---- the service on what is left ---------------------------------------------------------

    def _restart(self, tree: Tree) -> list[str]:
        kept = self._bench.folder / "kept"
        kept.mkdir()
        self._move(self._place.folder, kept)
        try:
            put(tree, self._folder)
            return self._started_again()
        finally:
            for part in PARTS:
                shutil.rmtree(os.path.join(self._folder, part), ignore_errors=True)
            self._move(kept, self._place.folder)
            kept.rmdir()

    def _move(self, source: Path, target: Path) -> None:
        for part in map(os.fsdecode, PARTS):
            (source / part).rename(target / part)

    def _started_again(self) -> list[str]:
        answer = self._place.run("run", "--once")
        problems = [line for line in answer.stderr.splitlines() if "broken" in line]
        if answer.returncode:
            problems.append(f"it ended with {answer.returncode}: {answer.stderr[-1000:]}")
        rows = self._place.results()
        problems += [
            f"{path} is {row['state']} after {row['attempts']} attempts"
            for path, row in rows.items()
            if row["state"] != "done" or row["attempts"]
        ]
        stale = self._bench.chance.sample(self._stale, min(2, len(self._stale)))
        return problems + audit.differences(self._place, stale_words=stale)


def words_of(place: Place) -> Iterator[tuple[tuple[bytes, int], list[str]]]:
    for path in audit.texts(place):
        words = sorted(set(re.findall(r"\bv\d_\w+", path.read_text())))
        yield (os.fsencode(path), path.stat().st_mtime_ns), words


def copies(before: Tree, after: Tree) -> dict[bytes, set[bytes]]:
    """What may lie in each copy's place: what was there first or what is in the end."""
    wanted: dict[bytes, set[bytes]] = {}
    for path, left in chain(before.items(), after.items()):
        if left is not None and path.startswith(OUTPUT + b"/"):
            wanted.setdefault(path, set()).add(left.content)
    return wanted


def moved(before: Tree, after: Tree) -> dict[bytes, bytes]:
    """New places of copies → their old ones, which nothing is in any more."""
    left = {
        found.content: path
        for path in before.keys() - after.keys()
        if (found := before[path]) is not None
    }
    return {
        path: left[each.content] for path, each in after.items() if each and each.content in left
    }


def contents(tree: Tree) -> dict[bytes, bytes | None]:
    return {path: left and left.content for path, left in tree.items()}

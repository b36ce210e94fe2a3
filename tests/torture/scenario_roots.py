"""Roots go away, come back as others, or hang: offline, nothing forgotten or done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dropmill import asking

from ..dropmill_process import Place
from ..polling import eventually
from .bench import Bench, Findings
from .isolated import isolated, mount, own_mounts, unmount

FILES = 12
LONG = 200_000  # lines: some 10 MB, which take a while
WATCH = """\
watch:
  - {path: ./inbox, settle: 100ms}
  - {path: ./disk, settle: 100ms}
  - {path: ./plain, settle: 100ms}
  - {path: ./below, settle: 100ms}
"""
HANGING = "  - {path: ./remote, settle: 100ms, poll_every: 1s}\n"


def run(bench: Bench) -> Findings:
    return isolated(bench, away, own_mounts)


def away(bench: Bench) -> Findings:
    place = bench.place()
    has_fuse = shutil.which("bindfs") is not None and Path("/dev/fuse").exists()
    watched(place, WATCH + (HANGING if has_fuse else ""))
    disk = Disk(place)
    disk.mount()
    mount("tmpfs", "none", place.folder / "below" / "mounted")
    expected: dict[str, int] = {}
    for name in ("disk", "plain", "below", "below/mounted"):
        expected |= drop(bench, place.folder / name)
    place.start()
    eventually(lambda: versions(place) == expected, seconds=20, what="all is taken in")
    faults: dict[str, int] = {}
    problems: list[str] = []
    steps: dict[str, Callable[[], Iterator[None]]] = {
        "unmounted, mounted elsewhere": lambda: remounted(disk),
        "removed": lambda: removed(place, None),
        "replaced by an empty one": lambda: removed(place, place.folder / "plain"),
        "mount below gone": lambda: below_gone(place),
        "gone while stopped": lambda: gone_while_stopped(place, disk),
    }
    while not faults or (bench.time_is_left() and bench.seconds > 60):
        for name in steps if bench.seconds > 60 else bench.chance.sample(list(steps), 3):
            problems += [f"{name}: {each}" for each in endure(bench, place, expected, steps[name])]
            faults[name] = faults.get(name, 0) + 1
    note = "bindfs is not installed: no root was made to hang"
    if has_fuse:
        problems += [f"hanging: {each}" for each in hanging(bench, place, faults)]
        note = "" if bench.seconds > 60 else "workers at a hanging root: in the long form"
    place.stop()
    return Findings(faults, problems, note)


def watched(place: Place, wanted: str) -> None:
    text = place.configuration.read_text()
    start, end = text.index("watch:"), text.index("images:")
    place.configuration.write_text(text[:start] + wanted + text[end:])
    for name in ("disk", "plain", "below", "remote"):
        (place.folder / name).mkdir()


def drop(bench: Bench, folder: Path) -> dict[str, int]:
    """Files for a folder, and what `results` has to say of their versions for ever."""
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        bench.text(folder / "deep" / f"{folder.name}{number}.txt")
    return {str(folder / "deep" / f"{folder.name}{number}.txt"): 1 for number in range(FILES)}


def versions(place: Place) -> dict[str, int]:
    return {
        path: row["version"]
        for path, row in place.results().items()
        if path.startswith("/") and row["state"] == "done" and "remote" not in path
    }


def root(place: Place, name: str) -> dict[str, object]:
    wanted = str(place.folder / name)
    told = asking.ask(os.fsencode(place.folder / "state"), "status", {}, timeout=30)
    return next(row for row in told["roots"] if row["path"] == wanted)


# ---- going and coming back -----------------------------------------------------------------------


def endure(
    bench: Bench, place: Place, expected: dict[str, int], step: Callable[[], Iterator[None]]
) -> list[str]:
    """One fault: while it lasts the others go on, and nothing is forgotten; nor afterwards."""
    problems = []
    with contextmanager(step)():
        word = f"meanwhile{time.monotonic_ns()}"
        (place.inbox / f"{word}.txt").write_text(f"{word}\n")
        found = eventually(lambda: place.search(word), seconds=10, what="the others go on")
        assert found
        assert place.run("scan", seconds=60).returncode == 0
        problems += unlike(versions(place), expected, "while it was away")
    assert place.run("scan", seconds=60).returncode == 0
    eventually(place.is_settled, seconds=20, what="it is picked up again")
    for name in ("disk", "plain", "below", "below/mounted"):
        path = place.folder / name / "deep" / f"back{time.monotonic_ns()}.txt"
        bench.text(path)
        expected[str(path)] = 1
    eventually(lambda: set(expected) <= set(versions(place)), seconds=20, what="new files are seen")
    for name in ("disk", "plain", "below"):
        eventually(
            lambda name=name: root(place, name)["state"] == "watching",  # type: ignore[misc]
            what=f"{name} is watched again",
        )
    return problems + unlike(versions(place), expected, "when it was back")


def unlike(found: dict[str, int], expected: dict[str, int], when: str) -> list[str]:
    forgotten = sorted(set(expected) - set(found))
    redone = sorted(path for path in found if found[path] != expected.get(path, 1))
    problems = [f"{len(forgotten)} forgotten {when}: {forgotten[0]}"] if forgotten else []
    return problems + ([f"{len(redone)} done again {when}: {redone[0]}"] if redone else [])


def is_offline(place: Place, name: str) -> None:
    def named() -> bool:
        return root(place, name)["state"] == "offline" and bool(root(place, name)["reason"])

    eventually(named, seconds=15, what=f"{name} is called offline, with a reason")


class Disk:
    """An overlay: inodes stay the same from mount to mount, the device number does not."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._parts = [place.folder / name for name in ("lower", "upper", "work")]
        for part in self._parts:
            part.mkdir()
        self._mounts = 0

    @property
    def folder(self) -> Path:
        return self.place.folder / "disk"

    def mount(self) -> None:
        # Another file system takes the device number that was free.
        self._mounts += 1
        mount("tmpfs", "none", self.place.folder / f"taken{self._mounts}")
        lower, upper, work = self._parts
        mount("overlay", "none", self.folder, f"lowerdir={lower},upperdir={upper},workdir={work}")


def remounted(disk: Disk) -> Iterator[None]:
    device = os.stat(disk.folder).st_dev
    unmount(disk.folder)
    is_offline(disk.place, "disk")
    yield
    disk.mount()
    assert os.stat(disk.folder).st_dev != device


def removed(place: Place, replacement: Path | None) -> Iterator[None]:
    """A folder is moved away; perhaps an empty one is in its place, as a bare mount point is."""
    folder, elsewhere = place.folder / "plain", place.folder / "elsewhere"
    folder.rename(elsewhere)
    if replacement is not None:
        replacement.mkdir()
    is_offline(place, "plain")
    yield
    if replacement is not None:
        replacement.rmdir()
    elsewhere.rename(folder)


def below_gone(place: Place) -> Iterator[None]:
    """A disk below a root is unmounted: bound elsewhere meanwhile, to be the same afterwards."""
    mounted, kept = place.folder / "below" / "mounted", place.folder / "kept"
    kept.mkdir(exist_ok=True)
    subprocess.run(["mount", "--move", mounted, kept], check=True)
    yield
    subprocess.run(["mount", "--move", kept, mounted], check=True)


def gone_while_stopped(place: Place, disk: Disk) -> Iterator[None]:
    """The service starts while a root is a bare mount point, and stops before it is back."""
    place.stop()
    unmount(disk.folder)
    place.start()
    is_offline(place, "disk")
    yield
    place.stop()
    disk.mount()
    place.start()


# ---- hanging -------------------------------------------------------------------------------------


def hanging(bench: Bench, place: Place, faults: dict[str, int]) -> list[str]:
    """A FUSE root whose server is stopped: the others go on, commands answer, nobody is charged."""
    backing, remote = place.folder / "backing", place.folder / "remote"
    backing.mkdir()
    server = subprocess.Popen(["bindfs", "-f", backing, remote], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: os.path.ismount(remote), what="it is mounted")
        eventually(lambda: root(place, "remote")["state"] == "polling", what="it is polled")
        server.send_signal(signal.SIGSTOP)
        for number in range(50):
            bench.text(backing / f"r{number}.txt")
        faults["hanging"] = 1
        problems = others_go_on(place, 2 if bench.seconds <= 60 else 40)
        if bench.seconds > 60:
            is_offline(place, "remote")
        server.send_signal(signal.SIGCONT)
        eventually(lambda: len(remote_files(place)) == 50, seconds=30, what="it is picked up again")
        if bench.seconds <= 60:
            return problems
        # Once more, with its files in the workers' hands.
        apart = place.folder / "apart"
        apart.mkdir()
        for number in range(50, 62):
            bench.text(apart / f"r{number}.txt", lines=LONG)
        for path in apart.iterdir():  # all at once, however long they took to write
            path.rename(backing / path.name)
        eventually(lambda: stuck(place), what="work on it began")
        server.send_signal(signal.SIGSTOP)
        eventually(lambda: stuck(place, 1.0), what="a worker hangs")
        faults["hanging in hand"] = 1
        problems += others_go_on(place, 150, first=40)
        server.send_signal(signal.SIGCONT)
        eventually(lambda: len(remote_files(place)) == 62, seconds=100, what="all of it is in")
        charged = [p for p, row in place.results().items() if row.get("attempts")]
        return problems + [f"charged: {path}" for path in charged]
    finally:
        server.send_signal(signal.SIGCONT)
        unmount(remote)
        server.terminate()
        server.wait(10)


def stuck(place: Place, seconds: float = 0.0) -> int:
    """How many workers have been at a file of the root that hangs for so long."""
    told = asking.ask(os.fsencode(place.folder / "state"), "status", {}, timeout=30)
    longest = time.time_ns() - int(seconds * 1e9)
    return sum(
        "/remote/" in (worker["doing"] or "") and worker["since"] < longest
        for worker in told["workers"]
    )


def remote_files(place: Place) -> list[str]:
    found = place.results("--under", str(place.folder / "backing" / ".." / "remote")).items()
    return [path for path, row in found if row["state"] == "done"]


def others_go_on(place: Place, seconds: float, first: float = 5) -> list[str]:
    """For so long; `first` is what may pass until it is known that a root hangs."""
    problems = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        word = f"beside{time.monotonic_ns()}"
        (place.inbox / f"{word}.txt").write_text(f"{word}\n")
        began = time.monotonic()
        try:
            eventually(lambda word=word: place.search(word), seconds=60, what="found")  # type: ignore[misc]
        except AssertionError:
            problems.append("a note elsewhere is not found within 60 s")
        if time.monotonic() - began > first:
            problems.append(f"a note elsewhere took {time.monotonic() - began:.1f} s")
        first = 5
    return problems

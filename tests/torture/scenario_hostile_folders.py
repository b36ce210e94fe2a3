"""Links, devices, odd names: nothing outside is read, nothing blocks, every reason is told."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import threading
from pathlib import Path

from ..dropmill_process import COMMAND, Place, environment
from ..polling import eventually
from .audit import EVERY
from .bench import Bench, Findings
from .isolated import isolated, obeying_permissions

SECRET = "extremelysecretword"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
NAMES = [
    b"new\nline.txt", b"escape\x1b[31m\x1b]0;title\x07.txt", b"-rf", b"--json", b"a b\t.txt",
    b"x" * 251 + b".txt", b"\xff\xfe\x80.txt", b"\xc3\x28.txt", b"%s%n.txt", b"*?[a].txt",
    "\u202egpj.txt".encode(), b"'\";$(reboot)`.txt", b"\x9b31m.txt", b"\x01\x02\x7f.txt",
    b"back\\slash.txt",
]  # fmt: skip


def run(bench: Bench) -> Findings:
    return isolated(bench, hostile, obeying_permissions)


def hostile(bench: Bench) -> Findings:
    place = bench.place()
    outside = bench.folder / "outside"
    faults = plant(place, outside)
    place.start()
    problems = names(place, faults)
    problems += told(place)
    swap = Swapper(place.inbox / "swapped", outside)
    swap.start()
    opened = 0
    while opened < 5 or bench.time_is_left():
        bench.text(place.inbox / f"between{opened}.txt")
        assert place.run("scan", seconds=30).returncode == 0, "a scan does not end"
        problems += leaks(place)
        opened += 1
    swap.end()
    faults["swaps"] = swap.count
    bench.settle(place, 60)
    problems += leaks(place) + escapes(place)
    place.stop()
    return Findings(faults, sorted(set(problems)), f"{opened} scans meanwhile")


# ---- what is planted -----------------------------------------------------------------------------


def plant(place: Place, outside: Path) -> dict[str, int]:
    (outside / "deep").mkdir(parents=True)
    for path in (outside / "a.txt", outside / "deep" / "b.txt", outside / "file0.txt"):
        path.write_text(f"{EVERY} {SECRET}\n")
    inbox = place.inbox
    links(inbox, outside)
    sockets_and_devices(inbox)
    (inbox / "folder.txt").mkdir()
    (inbox / "folder.txt" / "inside.txt").write_text(f"{EVERY} insidefolder\n")
    (inbox / "locked.txt").write_text(f"{EVERY} locked\n")
    (inbox / "locked.txt").chmod(0)
    (inbox / "locked").mkdir()
    (inbox / "locked" / "c.txt").write_text(f"{EVERY} lockedfolder\n")
    (inbox / "locked").chmod(0)
    for number, name in enumerate(NAMES):
        with open(os.path.join(os.fsencode(inbox), name), "w") as file:
            file.write(f"{EVERY} hostilename{number}\n")
    return {"links": 6, "pipes, sockets, devices": 5, "names": len(NAMES), "locked": 2}


def links(inbox: Path, outside: Path) -> None:
    (inbox / "link.txt").symlink_to(outside / "a.txt")
    (inbox / "linked").symlink_to(outside)
    (inbox / "relative.txt").symlink_to("../../outside/a.txt")
    (inbox / "loop").symlink_to("loop")
    (inbox / "around").mkdir()
    (inbox / "around" / "again").symlink_to("..")
    (inbox / "dangling.txt").symlink_to("nowhere")


def sockets_and_devices(inbox: Path) -> None:
    os.mkfifo(inbox / "pipe.txt")
    os.mkfifo(inbox / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(inbox / "s.txt"))
    os.mknod(inbox / "zero.txt", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(inbox / "disk.txt", 0o666 | stat.S_IFBLK, os.makedev(7, 0))


class Swapper(threading.Thread):
    """Swaps a folder for a link to one outside that holds the same names, and back, for ever."""

    def __init__(self, folder: Path, outside: Path) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self._folder, self._outside = folder, outside
        self._away = folder.parent / ".away"
        self._should_end = threading.Event()
        folder.mkdir()
        (folder / "deep").mkdir()

    def run(self) -> None:
        while not self._should_end.is_set():
            # Something new each time, so that there is always something to be opened.
            for name in ("a.txt", "deep/b.txt", "file0.txt"):
                (self._folder / name).write_text(f"{EVERY} harmless{self.count}\n")
            self._should_end.wait(0.002 * (self.count % 100))
            self._folder.rename(self._away)
            self._folder.symlink_to(self._outside)
            self._should_end.wait(0.001 * (self.count % 37))
            self._folder.unlink()
            self._away.rename(self._folder)
            self.count += 1

    def end(self) -> None:
        self._should_end.set()
        self.join()


# ---- what must hold ------------------------------------------------------------------------------


def leaks(place: Place) -> list[str]:
    found = place.run("search", "-m", "0", SECRET)
    return [f"outside was read: {found.stdout}"] if SECRET in found.stdout else []


def names(place: Place, faults: dict[str, int]) -> list[str]:
    """Each file is found by its word, whatever it is called; the commands take their names."""
    eventually(lambda: len(done(place)) >= len(NAMES) + 1, seconds=20, what="names are taken in")
    problems = []
    for number, name in enumerate(NAMES):
        found = place.run("search", f"hostilename{number}")
        if found.returncode:
            problems.append(f"{name!r} is not found")
        told = place.run("explain", f"{place.inbox}/{os.fsdecode(name)}")
        if told.returncode or not told.stdout.strip():
            problems.append(f"explain does not know {name!r}: {told.stderr}")
        problems += [f"{name!r}: {each}" for each in raw(told.stdout)]
    if place.run("search", "insidefolder").returncode:
        problems.append("a folder called folder.txt is not entered")
    return problems


def done(place: Place) -> list[str]:
    return [path for path, row in place.results().items() if row["state"] == "done"]


def told(place: Place) -> list[str]:
    """What could not be read is told, with its reason."""
    problems = []
    row = eventually(
        lambda: place.results().get("locked.txt", {}), what="the locked file has an outcome"
    )
    if row["state"] != "quarantined" or "permission" not in row["reason"]:
        problems.append(f"a file without permission: {row}")
    (root,) = place.status()["roots"]
    if root["state"] != "degraded" or "locked" not in (root["reason"] or ""):
        problems.append(f"a folder without permission: {root}")
    for odd in ("link.txt", "linked", "pipe.txt", "s.txt", "zero.txt", "disk.txt", "loop"):
        answer = place.run("explain", str(place.inbox / odd))
        if not re.search(
            r"link|regular|pipe|fifo|socket|device", answer.stdout + answer.stderr, re.I
        ):
            problems.append(f"explain {odd} gives no reason: {answer.stdout}{answer.stderr}")
    return problems


def escapes(place: Place) -> list[str]:
    """No command and no log line lets a name's bytes act on a terminal."""
    problems = []
    for command in (["search", "-m", "0", EVERY], ["results"], ["status"], ["search", "-l", EVERY]):
        problems += [f"{' '.join(command)}: {each}" for each in raw(on_terminal(place, command))]
    return problems + [f"log: {each}" for each in raw(place.log.read_text(errors="replace"))]


def on_terminal(place: Place, command: list[str]) -> str:
    """What a person sees of a command: into a pipe `search` gives names as they are."""
    ours, theirs = os.openpty()
    started = subprocess.Popen(
        [*COMMAND, *command], cwd=place.folder, env=environment(), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := os.read(ours, 65536):
            printed += piece
    os.close(ours)
    assert started.wait(30) == 0, printed
    return printed.decode("utf-8", "replace").replace("\r\n", "\n")


def raw(output: str) -> list[str]:
    return [f"control characters: {line!r}" for line in output.split("\n") if CONTROL.search(line)]

"""State broken, removed or read-only: rebuilt, or a clear stop; the sources are untouched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..dropmill_process import COMMAND, Place, environment
from ..polling import eventually
from .bench import Bench, Findings
from .isolated import isolated, mount, own_mounts

FILES = 60
Break = Callable[[Bench, Place], None]


def run(bench: Bench) -> Findings:
    return isolated(bench, spoiled, own_mounts)


def spoiled(bench: Bench) -> Findings:
    faults: Counter[str] = Counter()
    problems: list[str] = []
    while not faults or (bench.time_is_left() and bench.seconds > 60):
        number = len(faults)
        names = list(BREAKS) if bench.seconds > 60 else bench.chance.sample(list(BREAKS), 3)
        place = filled(bench, f"stopped{number}")
        for name in names:
            problems += [f"{name}: {each}" for each in stopped(bench, place, BREAKS[name])]
            faults[name] += 1
        for name, happen in LIVE.items():
            problems += [f"{name}: {each}" for each in happen(bench, f"{name}{number}")]
            faults[name] += 1
    return Findings(dict(faults), problems)


# ---- broken while the service was stopped --------------------------------------------------------


def scribble(bench: Bench, path: Path, start: int = 0) -> None:
    """Overwrites a fifth of a file with noise."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(max(1, size // 5 // 512)):
            file.seek(bench.chance.randrange(start, max(start + 1, size - 512)))
            file.write(bench.chance.randbytes(512))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def ledger(place: Place) -> Path:
    return place.folder / "state" / "results.db"


def shard(place: Place) -> Path:
    shards = (place.folder / "state" / "index").glob("shard-*.db")
    return max(shards, key=lambda path: path.stat().st_size)


BREAKS: dict[str, Break] = {
    "ledger header": lambda bench, place: overwrite(ledger(place), 0, b"not a database\0" * 8),
    "ledger scribbled": lambda bench, place: scribble(bench, ledger(place)),
    "ledger pages": lambda bench, place: scribble(bench, ledger(place), 4096),
    "ledger cut": lambda bench, place: cut(ledger(place)),
    "ledger empty": lambda bench, place: os.truncate(ledger(place), 0),
    "shard scribbled": lambda bench, place: scribble(bench, shard(place)),
    "shard pages": lambda bench, place: scribble(bench, shard(place), 4096),
    "shard cut": lambda bench, place: cut(shard(place)),
    "shard empty": lambda bench, place: os.truncate(shard(place), 0),
    "shard gone": lambda bench, place: shard(place).unlink(),
    "slots noise": lambda bench, place: scribble(bench, place.folder / "state" / "slots"),
}


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def stopped(bench: Bench, place: Place, spoil: Break) -> list[str]:
    """Spoils the state of a service that is stopped, and starts it; leaves it stopped."""
    before = sources(place)
    spoil(bench, place)
    place.start()
    problems = bench.audit(place)
    return problems + ([] if sources(place) == before else ["the sources were touched"])


def filled(bench: Bench, name: str) -> Place:
    """A place whose files are all taken in; its service is stopped."""
    place = bench.place(name=name)
    bench.mixed(place, FILES)
    assert place.run("run", "--once").returncode == 0
    return place


def sources(place: Place) -> dict[str, tuple[int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in place.inbox.rglob("*")
        if path.is_file()
    }


# ---- under a running service ---------------------------------------------------------------------


def removed(bench: Bench, name: str) -> list[str]:
    """The state folder goes away under the service: it stops and says why; then all is rebuilt."""
    place = filled(bench, name)
    before = sources(place)
    place.start()
    shutil.rmtree(place.folder / "state", ignore_errors=True)
    bench.text(place.inbox / "late.txt")
    problems = clear_stop(place)
    (place.inbox / "late.txt").unlink()
    place.start()
    problems += bench.audit(place)
    return problems + ([] if sources(place) == before else ["the sources were touched"])


def scribbled(bench: Bench, name: str) -> list[str]:
    """Both databases turn to noise while work goes on: a clear stop at the worst, then rebuilt."""
    place = filled(bench, name)
    place.start()
    bench.mixed(place, FILES, prefix="g")
    scribble(bench, shard(place), 4096)
    scribble(bench, ledger(place), 4096)
    bench.mixed(place, FILES, prefix="h")
    service = place.service
    assert service is not None
    with contextlib.suppress(AssertionError):
        eventually(lambda: service.poll() is not None, seconds=3, what="it noticed")
    noticed = service.poll() is not None
    problems = clear_stop(place) if noticed else []
    if not noticed:
        place.stop(signal.SIGKILL)
    place.start()
    return problems + bench.audit(place)


def clear_stop(place: Place) -> list[str]:
    service = place.service
    assert service is not None
    eventually(lambda: service.poll() is not None, seconds=30, what="the service has stopped")
    place.service = None
    code, said = service.returncode, place.log.read_text()
    problems = [] if code in (1, 2) else [f"it ended with {code}"]
    if "Traceback" in said:
        problems.append(f"a traceback in place of a sentence: {said[-1500:]}")
    if str(place.folder / "state") not in said.splitlines()[-1]:
        problems.append(f"its last line names no state folder: {said.splitlines()[-1]}")
    return problems


def read_only(bench: Bench, name: str) -> list[str]:
    """It does not start, and says why; searches go on; once it may write it is well again."""
    place = filled(bench, name)
    state = place.folder / "state"
    mount_read_only(state)
    problems = refuses_to_start(place)
    if len(place.search("everyline")) < FILES:
        problems.append("nothing is found while the state is read-only")
    subprocess.run(["umount", "-l", state], check=True)
    place.start()
    return problems + bench.audit(place)


def mount_read_only(folder: Path) -> None:
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)


def full(bench: Bench, name: str) -> list[str]:
    """No room for any state: a clear stop."""
    place = bench.place(name=name)
    bench.mixed(place, FILES)
    state = place.folder / "state"
    mount("tmpfs", "none", state, f"size={bench.chance.choice([8, 32, 64])}k")
    problems = refuses_to_start(place)
    subprocess.run(["umount", "-l", state], check=True)
    place.start()
    return problems + bench.audit(place)


LIVE: dict[str, Callable[[Bench, str], list[str]]] = {
    "removed": removed,
    "scribbled": scribbled,
    "read-only": read_only,
    "full": full,
}


def refuses_to_start(place: Place) -> list[str]:
    began = time.monotonic()
    tried = subprocess.run(
        [*COMMAND, "run"], cwd=place.folder, env=environment(), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    problems = []
    if tried.returncode not in (1, 2):
        problems.append(f"it ended with {tried.returncode}")
    if "Traceback" in tried.stderr:
        problems.append(f"a traceback in place of a sentence: {tried.stderr[-1500:]}")
    if str(place.folder / "state") not in tried.stderr:
        problems.append(f"the state folder is not named: {tried.stderr[-500:]}")
    if time.monotonic() - began > 20:
        problems.append("it took more than 20 s to say so")
    return problems

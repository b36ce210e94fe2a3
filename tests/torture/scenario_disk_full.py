"""Full disks: paused with the reason, on again by itself once there is room, nobody charged."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from ..dropmill_process import Place
from ..polling import eventually
from .audit import EVERY
from .bench import Bench, Findings
from .isolated import isolated, mount, own_mounts, resize

LIMIT = "{free: 0}"


def run(bench: Bench) -> Findings:
    return isolated(bench, crowded, own_mounts)


def crowded(bench: Bench) -> Findings:
    faults = {"outputs full": 0, "state full": 0, "below limits.free": 0}
    problems: list[str] = []
    rounds = 0
    while not rounds or (bench.time_is_left() and bench.seconds > 60):
        problems += outputs_full(bench, faults, rounds)
        problems += state_full(bench, faults, rounds)
        problems += below_the_limit(bench, faults, rounds)
        rounds += 1
    return Findings(faults, problems, f"{rounds} rounds")


def outputs_full(bench: Bench, faults: dict[str, int], number: int) -> list[str]:
    place = bench.place(name=f"outputs{number}")
    disk = place.folder / "grayscale"
    mount("tmpfs", "none", disk, "size=1m")
    place.start()
    for image in range(20):
        photograph(bench, place.inbox / f"p{image}.png")
    problems = is_paused(place, "No space left")
    faults["outputs full"] += 1
    resize(disk, "100m")
    goes_on(place, 20)
    return problems + bench.audit(place)


def state_full(bench: Bench, faults: dict[str, int], number: int) -> list[str]:
    place = bench.place(name=f"state{number}")
    disk = place.folder / "state"
    mount("tmpfs", "none", disk, "size=3m")
    place.start()
    for text in range(300):
        (place.inbox / f"t{text}.txt").write_text(words(bench, text))
    problems = is_paused(place, "full")
    faults["state full"] += 1
    for text in range(10):
        (place.inbox / f"t{text}.txt").unlink()
    (place.inbox / "late.txt").write_text(f"{EVERY} late\n")
    resize(disk, "300m")
    goes_on(place, 291)
    return problems + bench.audit(place)


def below_the_limit(bench: Bench, faults: dict[str, int], number: int) -> list[str]:
    """The pool stops while there is still room, which another program took."""
    place = bench.place(name=f"limit{number}")
    wanted = place.configuration.read_text().replace(LIMIT, "{free: 20MiB}")
    place.configuration.write_text(wanted)
    disk = place.folder / "grayscale"
    mount("tmpfs", "none", disk, "size=40m")
    place.start()
    hog = disk / "hog"
    with hog.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 30 << 20)
    problems = is_paused(place, "limits.free")
    for image in range(5):
        photograph(bench, place.inbox / f"p{image}.png")
    bench.mixed(place, 50)
    faults["below limits.free"] += 1
    hog.unlink()
    goes_on(place, 55)
    return problems + bench.audit(place)


def goes_on(place: Place, files: int) -> None:
    """By itself: without being asked for a scan."""
    eventually(
        lambda: place.status()["files"]["done"] == files, seconds=100, what="it went on by itself"
    )


def is_paused(place: Place, why: str) -> list[str]:
    """Waits for a pause for that reason, and sees that commands still answer, uncharged."""
    reason = eventually(lambda: place.status()["paused"], seconds=20, what="it is paused")
    charged = [path for path, row in place.results().items() if row.get("attempts")]
    problems = [f"charged while the disk is full: {path}" for path in charged]
    if why not in reason:
        problems.append(f"the reason is not named: {reason}")
    return problems


def photograph(bench: Bench, path: Path) -> None:
    """Some 100 KB."""
    noise = Image.effect_noise((400, 300), bench.chance.uniform(40, 90))
    part = path.with_name(f".{path.name}.part")
    Image.merge("RGB", (noise, noise, noise)).save(part, "PNG", compress_level=1)
    part.rename(path)


def words(bench: Bench, number: int) -> str:
    """Some 40 KB of words that no other file has, so that the index grows."""
    rows = [f"{EVERY} t{number}"]
    rows += [" ".join(f"{bench.chance.getrandbits(40):x}" for _ in range(8)) for _ in range(450)]
    return "\n".join(rows) + "\n"

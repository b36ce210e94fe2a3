"""More folders than watches: degraded, the sysctl line named, polled; well again with more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dropmill_process import Place
from ..polling import eventually
from .bench import Bench, Findings, version_word
from .isolated import isolated, own_limits

LIMIT = Path("/proc/sys/user/max_inotify_watches")  # a user namespace has its own
SYSCTL = "user.max_inotify_watches"
FEW, ENOUGH = 300, 100_000


def run(bench: Bench) -> Findings:
    return isolated(bench, starved, own_limits)


def starved(bench: Bench) -> Findings:
    place = bench.place()
    wanted = place.configuration.read_text()
    place.configuration.write_text(
        wanted.replace("settle_max: 2s", "settle_max: 2s\n    poll_every: 1s")
    )
    folders = 1_000 if bench.seconds <= 60 else 5_000
    for number in range(folders):
        (place.inbox / f"{number}").mkdir()
    LIMIT.write_text(str(FEW))
    place.start()
    root = eventually(lambda: in_state(place, "degraded"), what="the root is degraded")
    named = f"sysctl -w {SYSCTL}=" in root["reason"]
    problems = [] if named else [f"the sysctl is not named: {root['reason']}"]
    stale = change(bench, place, folders)
    LIMIT.write_text(str(ENOUGH))
    eventually(lambda: in_state(place, "watching"), seconds=70, what="the root is watched again")
    seen = unpolled(bench, place, folders)
    if seen:
        problems.append(seen)
    problems += bench.audit(place, stale_words=stale)
    return Findings({"degraded": 1, "raised": 1}, problems, f"{folders} folders, {FEW} watches")


def in_state(place: Place, state: str) -> dict[str, Any]:
    root: dict[str, Any] = place.status()["roots"][0]
    return root if root["state"] == state else {}


def change(bench: Bench, place: Place, folders: int) -> list[str]:
    """Files come, change and go everywhere, with nobody watching; gives words that are gone."""
    chosen = bench.chance.sample(range(folders), 60)
    paths = [place.inbox / f"{number}" / f"f{number}.txt" for number in chosen]
    for path in paths:
        bench.text(path)
    eventually(lambda: len(place.results()) == 60, seconds=30, what="polled: all taken in")
    for path in paths[:20]:
        bench.text(path, 2)
    for path in paths[20:40]:
        path.unlink()
    words = [version_word(path, 1) for path in (paths[0], paths[20])]
    eventually(
        lambda: not any(place.search(word) for word in words), seconds=30, what="polled: changes"
    )
    return words


def unpolled(bench: Bench, place: Place, folders: int) -> str | None:
    """Whether events come from every corner again; what is wrong if they do not."""
    for number in bench.chance.sample(range(folders), 30):
        path = place.inbox / f"{number}" / f"late{number}.txt"
        bench.text(path)
        found = place.run("search", "--sync", version_word(path, 1))
        if found.returncode:
            return f"{path.name} is not found with --sync: {found.stderr}"
    return None

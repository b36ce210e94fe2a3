"""What every scenario of the torture bench is given: a place, chance, files to drop, a deadline.

A scenario is a module `scenario_<name>.py` with a docstring of one line (what must hold) and

    def run(bench: Bench) -> Findings

It drives the real command, makes its fault as often as it can, lets the work end, audits, and says
how often the fault really happened. A scenario that did not make its fault has failed.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..dropmill_process import Place
from ..polling import eventually
from .audit import EVERY, differences, processes_left


class Findings(NamedTuple):
    """What came of a scenario."""

    faults: dict[str, int]  # kind of fault → how often it really happened
    problems: list[str]  # the audit's differences; none: it holds
    note: str = ""
    skipped: str = ""  # why it cannot run here


class Bench:
    """One scenario's surroundings."""

    def __init__(self, scratch: Path, seed: int, seconds: float) -> None:
        """`seconds` is about how long the scenario may make faults."""
        self.chance = random.Random(seed)
        self.seed = seed
        self.seconds = seconds
        self.folder = Path(tempfile.mkdtemp(prefix="torture-", dir=scratch))
        self._places: list[Place] = []
        self._until = time.monotonic() + seconds

    def place(self, *, workers: int = 2, more: str = "", name: str = "place") -> Place:
        made = Place(self.folder / name, workers=workers, more=more)
        self._places.append(made)
        return made

    def time_is_left(self) -> bool:
        return time.monotonic() < self._until

    # ---- files -------------------------------------------------------------------------------

    def text(self, path: Path, version: int = 1, lines: int = 20) -> None:
        """Drops a text by rename; its lines are of the audit's kind."""
        content = "".join(
            f"{EVERY} {number} of {path.stem} {version_word(path, version)}\n"
            for number in range(lines)
        )
        self._drop(path, content.encode())

    def image(self, path: Path) -> None:
        """Drops a small photograph by rename."""
        picture = Image.effect_noise((64, 48), self.chance.uniform(10, 90))
        colours = Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180)))
        part = path.with_name(f".{path.name}.part")
        colours.resize((96, 64)).save(part, "PNG" if path.suffix == ".png" else "JPEG", quality=90)
        part.rename(path)

    def mixed(self, place: Place, count: int, prefix: str = "f") -> None:
        """Drops that many files: texts small and larger, and an image in ten."""
        for number in range(count):
            folder = place.inbox / f"{number // 500}"
            folder.mkdir(exist_ok=True)
            if number % 10 == 9:
                suffix = self.chance.choice([".jpg", ".png"])
                self.image(folder / f"{prefix}{number}{suffix}")
            else:
                lines = self.chance.choice([1, 5, 20, 20, 200])
                self.text(folder / f"{prefix}{number}.txt", lines=lines)

    def _drop(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.rename(path)

    # ---- the end -----------------------------------------------------------------------------

    def settle(self, place: Place, seconds: float = 300) -> None:
        """Waits until the service has nothing left to do."""
        assert place.run("scan", seconds=seconds).returncode == 0
        eventually(place.is_settled, seconds=seconds, what="everything is taken in")

    def audit(self, place: Place, *, stale_words: list[str] | None = None) -> list[str]:
        """Settles, stops the service and audits."""
        self.settle(place)
        problems = [
            f"charged: {path} has {row['attempts']} attempts"
            for path, row in place.results().items()
            if row["attempts"]
        ]
        code = place.stop()
        if code:
            problems.append(f"the service ended with {code}")
        return problems + processes_left(place) + differences(place, stale_words=stale_words)

    def close(self) -> None:
        for place in self._places:
            place.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def version_word(path: Path, version: int) -> str:
    """A word that only this version of this file holds."""
    return f"v{version}_{path.stem}"


def kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True

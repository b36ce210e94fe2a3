"""What every row is given: input, a folder of its own, the peers, and how long it may take."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from . import frame, peers
from .inputs import Inputs
from .service import Service

PACKAGES = {  # program → the Debian package that has it
    "mogrify": "imagemagick",
    "vips": "libvips-tools",
    "recollindex": "recollcmd",
    "rg": "ripgrep",
    "jpegtran": "libjpeg-turbo-progs",
    "find": "findutils",
}
WHEELS = {"duckdb": "duckdb-cli"}  # program → the package of PyPI that has it
_LATE = 5.0  # seconds


class Options(NamedTuple):
    """The command line."""

    scratch: Path
    text: Path | None = None
    images: Path | None = None
    quick: bool = False
    turns: int = 3


class MissingError(Exception):
    """A row cannot be measured here; says why, and what to do."""


class Bench:
    """One run's surroundings."""

    def __init__(self, options: Options) -> None:
        self.quick = options.quick
        self.turns = 1 if options.quick else options.turns
        self._given_text, self._given_images = options.text, options.images
        self.scratch = options.scratch
        self.inputs = Inputs(options.scratch / "inputs")
        (self.scratch / "runs").mkdir(parents=True, exist_ok=True)

    def size(self, full: int, quick: int) -> int:
        """How much work: less in the quick form."""
        return quick if self.quick else full

    # ---- input -------------------------------------------------------------------------------

    @property
    def text(self) -> Path:
        if self._given_text is None:
            raise MissingError("needs --text DIR, a tree of texts")
        return self._given_text

    @property
    def any_text(self) -> Path | None:
        """For texts that are cut out of it; made words will do where there is none."""
        return self._given_text

    @property
    def images(self) -> Path:
        if self._given_images is None:
            raise MissingError("needs --images DIR, a folder of large photographs")
        return self._given_images

    # ---- measuring ---------------------------------------------------------------------------

    def take_turns(
        self,
        sides: Mapping[str, Callable[[], float]],
        warm: Iterable[Path] = (),
        turns: int | None = None,
    ) -> frame.Turns:
        """Every measurement begins with its input in the page cache and nothing to be written."""
        folders = list(warm)

        def prepare() -> None:
            for folder in folders:
                read_through(folder)
            os.sync()

        return frame.take_turns(sides, turns or self.turns, prepare, processor_clock)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """An empty folder, gone afterwards."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch / "runs"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def service(self, service: Service) -> Iterator[Service]:
        """A started service; ended afterwards."""
        try:
            service.begin()
            yield service
        finally:
            service.close()

    # ---- peers -------------------------------------------------------------------------------

    def peer(self, program: Callable[..., object], *arguments: object) -> float:
        """Seconds that one of `peers` takes, with its interpreter's start."""
        began = time.monotonic()
        self.peer_output(program, *arguments)
        return time.monotonic() - began

    def peer_output(self, program: Callable[..., object], *arguments: object) -> str:
        return self.run([sys.executable, peers.__file__, program.__name__, *map(str, arguments)])

    def need(self, program: str) -> None:
        """Raises MissingError unless a program is installed."""
        if shutil.which(program) is None:
            wheel = WHEELS.get(program)
            how = f"apt install {PACKAGES[program]}" if wheel is None else f"pip install {wheel}"
            raise MissingError(f"{program} is missing: {how}")

    def need_polars(self) -> None:
        """Raises MissingError unless data sets can be taken in."""
        if importlib.util.find_spec("polars") is None:
            raise MissingError("Polars is missing: pip install '.[datasets]'")

    def run(
        self,
        command: list[str],
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        *,
        may_fail: bool = False,
    ) -> str:
        """What a command writes to stdout; `variables` are all of its environment."""
        found = subprocess.run(command, cwd=folder, env=variables, capture_output=True, check=False)
        if found.returncode and not may_fail:
            message = os.fsdecode(found.stderr)[-1000:]
            raise RuntimeError(f"{' '.join(command)[:200]} failed: {message}")
        return os.fsdecode(found.stdout)

    def seconds(
        self,
        command: list[str],
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        *,
        may_fail: bool = False,
    ) -> float:
        began = time.monotonic()
        self.run(command, folder, variables, may_fail=may_fail)
        return time.monotonic() - began


def adopt_orphans() -> None:
    """Makes whoever loses its parent below this process a child of it (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def processor_clock() -> float:
    """Seconds of processor time that all that was started, and has ended by now, took.

    What ends a moment later than its parent (the service's forkserver, with the workers' time) is
    waited for.
    """
    deadline = time.monotonic() + _LATE
    with contextlib.suppress(ChildProcessError):  # there is none left
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.002)
    spent = os.times()
    return spent.children_user + spent.children_system


def files_below(folder: Path) -> list[Path]:
    """Regular files, in order; a file stands for itself."""
    if folder.is_file():
        return [folder]
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if not Path(parent, name).is_symlink()
    )


def total_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_below(folder))


def read_through(folder: Path) -> None:
    """Brings all files below a folder into the page cache."""
    buffer = bytearray(1 << 20)
    for path in files_below(folder):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

"""The configuration file while the service runs: when it was saved, and what to make of it.

Editors save in many ways: they write in place, piece by piece, or write another file and rename it,
and in between there may be half a file, an empty one, or none. So a saved file is read when two
looks a second apart have seen the same and nobody has it open for writing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import DropmillError, UsageError
from ..source import has_writer
from . import load
from .settings import Config

APART = 0.9  # seconds between two looks; whoever looks does so about once a second
PATIENCE = 15.0  # seconds that a file is waited for which somebody keeps open for writing

_Stamp = tuple[int, int, int, int]


class Following:
    """One configuration file, and the configuration of it that is in force."""

    def __init__(
        self, path: Path, config: Config, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.refused: str | None = None  # why the file as it stands is not in force
        self._path = path
        self._clock = clock
        self._read = self._seen = _stamp(path)
        self._seen_at = clock()

    def is_saved(self) -> bool:
        """Whether the file was saved since it was read last, and is whole as far as can be told."""
        now, stamp = self._clock(), _stamp(self._path)
        if stamp != self._seen:
            self._seen, self._seen_at = stamp, now
            return False
        if stamp is None or stamp == self._read or now - self._seen_at < APART:
            return False
        return now - self._seen_at > PATIENCE or not _is_being_written(self._path)

    def read(self) -> Config | None:
        """What the file says now, where that is another configuration than the one in force.

        None too where it is wrong: then `refused` says why, with every error in its place, until
        it is mended.
        """
        self._read = self._seen = _stamp(self._path)
        try:
            config = load(self._path)
            if config.state != self.config.state:
                raise UsageError(
                    f"{self._path}: state: takes a restart to change: now it is {self.config.state}"
                )
        except DropmillError as error:
            self.refused = str(error)
            return None
        self.refused = None
        return None if config == self.config else config


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_being_written(path: Path) -> bool:
    """As far as we may ask: it takes the file's owner or CAP_LEASE."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return has_writer(descriptor) is True
    finally:
        os.close(descriptor)

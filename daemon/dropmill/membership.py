"""Membership: what a worker holds as long as it lives, so that others know of it and its shard.

Both are locks on one file of the state folder, which the kernel takes back whatever ends a worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

FILE_NAME = b"workers.lock"


class Membership:
    """One worker's: of the living, and of its shard, which nobody else may write to."""

    def __init__(self, state_folder: bytes, number: int) -> None:
        """Waits for whoever is about to finish with that shard."""
        self._number = number
        self._file = os.open(
            os.path.join(state_folder, FILE_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
        # The next daemon waits until no worker holds it.
        fcntl.flock(self._file, fcntl.LOCK_SH)
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, number)

    @contextlib.contextmanager
    def alone_with(self, shard: int) -> Iterator[bool]:
        """Whether nobody else writes to a shard meanwhile; a worker that comes for it waits."""
        if shard == self._number:
            yield True
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, shard)

    def close(self) -> None:
        os.close(self._file)

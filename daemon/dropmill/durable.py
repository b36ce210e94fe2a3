"""Folders that a power cut does not take away again, with all that was put into them."""

from __future__ import annotations

import contextlib
import errno
import os

_CANNOT = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def make_folder(path: bytes, mode: int = 0o777) -> None:
    """Makes a folder, those above it too, and has each on disk before anything is made in it.

    So a folder with something in it is safe. The last one may not be although it is there: who
    made it may have died since, or be about to sync it.
    """
    above = os.path.dirname(path)
    if not os.path.isdir(path):
        make_folder(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
    try:
        sync(above)
    except OSError as error:
        if error.errno not in _CANNOT:  # not ours to read, or not asked for by its file system
            raise


def sync(path: bytes) -> None:
    """Returns when a file's content, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Copies on their way: made in a folder of their own, then put in place, whole or not at all.

Order, so that a power cut shows a copy whole or not: data synced, renamed, folder synced. One
`syncfs` for many small copies costs less than an fsync each.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import BinaryIO, NamedTuple

from . import durable
from .errors import MachineFault

FOLDER = b".dropmill-staging"
_MANY = 4  # from here on one syncfs is cheaper
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE}


class _Kept(NamedTuple):
    staged: bytes
    place: bytes


class Staging:
    """The copies of one message of one worker."""

    def __init__(self, output: bytes) -> None:
        self._folder = os.path.join(output, FOLDER)
        self._open: dict[int, tuple[bytes, BinaryIO]] = {}
        self._kept: list[_Kept] = []
        self._failed: dict[bytes, str] = {}
        self._safe: dict[bytes, tuple[int, int]] = {}  # folder → which one, on disk for good

    def new(self, take: int) -> BinaryIO:
        """An empty file for a take's copy. Raises MachineFault where none can be made."""
        path = _place(self._folder, take)
        try:
            if not os.path.isdir(self._folder):
                durable.make_folder(self._folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise MachineFault(f"{os.fsdecode(self._folder)}: {error.strerror}") from None
        file = open(descriptor, "w+b")  # noqa: SIM115 - closed when kept or discarded
        self._open[take] = (path, file)
        return file

    def keep(self, take: int, place: bytes, mtime_ns: int) -> None:
        """The take's copy is good: `publish` will put it there."""
        path, file = self._open[take]
        with _machine_faults(path):
            file.close()
            os.utime(path, ns=(mtime_ns, mtime_ns))
        del self._open[take]
        self._kept.append(_Kept(path, place))

    def discard(self, take: int) -> None:
        if take in self._open:
            path, file = self._open.pop(take)
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def move(self, old: bytes, place: bytes, mtime_ns: int) -> None:
        """A copy that is there already gets another place, or another time."""
        try:
            with _machine_faults(place):
                os.utime(old, ns=(mtime_ns, mtime_ns))
        except OSError as error:
            self._failed[place] = f"{os.fsdecode(old)}: {error.strerror}"
            return
        self._kept.append(_Kept(old, place))

    def publish(self) -> dict[bytes, str]:
        """Puts all kept copies in place, durably; gives those that cannot be, with the reason.

        Raises MachineFault.
        """
        failed, self._failed = self._failed, {}
        if not self._kept:
            return failed
        with _machine_faults(self._folder):
            self._sync([kept.staged for kept in self._kept])
            changed: set[bytes] = set()
            for kept in self._kept:
                try:
                    changed |= self._put_in_place(kept)
                except OSError as error:
                    if error.errno in _OURS:
                        raise
                    failed[kept.place] = f"{os.fsdecode(kept.place)}: {error.strerror}"
                    self._unlink(kept)
            for folder in changed:
                durable.sync(folder)
        self._kept.clear()
        return failed

    def _put_in_place(self, kept: _Kept) -> set[bytes]:
        """Gives the folders whose entries changed."""
        folder = os.path.dirname(kept.place)
        self._make_safe(folder)
        os.rename(kept.staged, kept.place)
        # A name that came back to the staging folder does no harm: a start empties it.
        return {folder, os.path.dirname(kept.staged)} - {self._folder}

    def _make_safe(self, folder: bytes) -> None:
        """Once for each folder: that it is there does not say that it is on disk."""
        with contextlib.suppress(OSError):
            if self._safe.get(folder) == _identity(folder):
                return
        durable.make_folder(folder)
        if len(self._safe) > 10_000:
            self._safe.clear()
        self._safe[folder] = _identity(folder)

    def _sync(self, paths: list[bytes]) -> None:
        if len(paths) < _MANY:
            for path in paths:
                durable.sync(path)
            return
        descriptor = os.open(paths[0], os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Throws away what was not published."""
        for take in list(self._open):
            self.discard(take)
        for kept in self._kept:
            self._unlink(kept)
        self._kept.clear()
        self._failed.clear()

    def _unlink(self, kept: _Kept) -> None:
        if os.path.dirname(kept.staged) == self._folder:
            with contextlib.suppress(OSError):
                os.unlink(kept.staged)


def forget(output: bytes, take: int) -> None:
    """Removes the copy that a dead worker was making of a take, if there is one."""
    with contextlib.suppress(OSError):
        os.unlink(_place(os.path.join(output, FOLDER), take))


def empty(output: bytes) -> None:
    """Removes what a daemon that died left in the staging folder; no worker may be alive."""
    folder = os.path.join(output, FOLDER)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _place(folder: bytes, take: int) -> bytes:
    return os.path.join(folder, b"%016x" % take)


def _identity(folder: bytes) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _machine_faults(path: bytes):  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError as error:
        if error.errno in _OURS:
            raise MachineFault(f"{os.fsdecode(path)}: {error.strerror}") from None
        raise

"""A source file: opened once, beneath its root, and asked who it is and whether anyone writes it.

No component of a path below the root may be a symbolic link, and nothing that blocks or acts
when it is opened (a FIFO, a device) is ever opened for reading.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from .fingerprint import Fingerprint

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY


def fingerprint(status: os.stat_result) -> Fingerprint:
    return Fingerprint(
        status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev
    )


class NotRegular(OSError):  # noqa: N818 - a verdict, not an error
    """A folder, a link, a FIFO, a socket or a device stands where a file was expected."""


def look(path: bytes) -> Fingerprint | None:
    """The fingerprint of the regular file at an absolute path; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return fingerprint(status) if stat.S_ISREG(status.st_mode) else None


class Beneath:
    """Opens files beneath one root by descriptors, keeping the last folder open.

    Messages to a worker are sorted by folder, so most opens cost one system call.
    """

    def __init__(self, root: bytes) -> None:
        """Raises OSError when the root cannot be opened."""
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folder_name = b""
        self._folder = self._root

    def open(self, relative: bytes) -> int:
        """A descriptor for reading the regular file at `relative`.

        Raises NotRegular where it is no regular file or a component is a symbolic link, else
        what the system says (FileNotFoundError, PermissionError, ...).
        """
        folder_name, _, name = relative.rpartition(b"/")
        if folder_name != self._folder_name:
            self._enter(folder_name)
        try:
            # Asked before it is opened: opening a device or a FIFO may act or wait.
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise NotRegular(errno.EINVAL, "not a regular file")
            descriptor = os.open(name, _READ, dir_fd=self._folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise NotRegular(error.errno, "not a regular file") from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotRegular(errno.EINVAL, "not a regular file")
        return descriptor

    def is_absent(self, relative: bytes) -> bool:
        """Whether there is no regular file at `relative`, as far as that can be told."""
        folder_name, _, name = relative.rpartition(b"/")
        try:
            if folder_name != self._folder_name:
                self._enter(folder_name)
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except NotRegular:
            return True
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENOTDIR)
        return not stat.S_ISREG(status.st_mode)

    def _enter(self, folder_name: bytes) -> None:
        self._leave()
        if not folder_name:
            return
        folder = self._root
        try:
            for part in folder_name.split(b"/") if folder_name else ():
                below = os.open(part, _FOLDER, dir_fd=folder)
                if folder != self._root:
                    os.close(folder)
                folder = below
        except OSError as error:
            if folder != self._root:
                os.close(folder)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NotRegular(error.errno, "a folder on its path is a symbolic link") from None
            raise
        self._folder, self._folder_name = folder, folder_name

    def _leave(self) -> None:
        if self._folder != self._root:
            os.close(self._folder)
        self._folder, self._folder_name = self._root, b""

    def close(self) -> None:
        self._leave()
        os.close(self._root)


@contextlib.contextmanager
def opened(root: bytes, relative: bytes) -> Iterator[int]:
    """One file, opened beneath its root for the length of a `with`."""
    beneath = Beneath(root)
    try:
        descriptor = beneath.open(relative)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        beneath.close()


def is_absent(root: bytes, relative: bytes) -> bool:
    """Whether the root is there and holds no regular file at `relative`."""
    try:
        beneath = Beneath(root)
    except OSError:
        return False
    try:
        return beneath.is_absent(relative)
    finally:
        beneath.close()


def has_writer(descriptor: int) -> bool | None:
    """Whether anyone has the file open for writing, or mapped so; None where we may not ask.

    A read lease cannot be had while there is a writer (fcntl(2), F_SETLEASE). It takes the file's
    owner or CAP_LEASE, and is given back at once. SIGIO must be ignored: a writer that comes in
    between breaks the lease with it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False

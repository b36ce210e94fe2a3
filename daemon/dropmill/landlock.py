"""The kernel's Landlock: a process gives up for good what it will not need.

libc has no functions for its three system calls. Rights that are handled and not allowed are
refused; which can be handled depends on the version that the kernel speaks.
Source: landlock(7), https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import enum
import os

OLDEST = 2  # Linux 5.19; version 1 lets nobody rename from folder to folder

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1


class Access(enum.IntFlag):
    """What may be done with a file, or in a folder and all below it."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # rename or link from one folder to another
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15
    RESOLVE_UNIX = 1 << 16  # connect to a socket's path

    @classmethod
    def handled(cls, version: int) -> Access:
        """All that a version knows."""
        since = {cls.REFER: 2, cls.TRUNCATE: 3, cls.IOCTL_DEV: 5, cls.RESOLVE_UNIX: 9}
        known = cls(0)
        for each in cls:
            if version >= since.get(each, 1):
                known |= each
        return known


_TCP, _UDP = 0b0011, 0b1100  # bind and connect; since versions 4 and 10
_SCOPES = 0b11  # abstract sockets and signals, of and to processes outside; since version 6


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # what _pack_ means, said aloud for Python 3.14
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The version that the kernel speaks.

    Raises OSError: ENOSYS where the kernel was built without, EOPNOTSUPP where it was started
    without, EPERM where a filter of system calls forbids to ask.
    """
    return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)


class Ruleset:
    """What a process keeps; all else that the kernel can refuse, it will."""

    def __init__(self) -> None:
        """Raises OSError as `version` does."""
        spoken = version()
        self._handled = Access.handled(spoken)
        attributes = _RulesetAttributes(
            self._handled,
            (_TCP if spoken >= 4 else 0) | (_UDP if spoken >= 10 else 0),
            _SCOPES if spoken >= 6 else 0,
        )
        size = ctypes.sizeof(attributes)
        self._descriptor = _call(_CREATE_RULESET, ctypes.byref(attributes), size, 0)

    def allow(self, folder: int, access: Access) -> None:
        """Keeps `access` to an open folder (O_PATH will do) and all below it.

        Bound is the folder itself, not its name: one that takes its place is another.
        """
        rule = _PathBeneath(access & self._handled, folder)
        _call(_ADD_RULE, self._descriptor, _PATH_BENEATH, ctypes.byref(rule), 0)

    def enforce(self) -> None:
        """Gives up all else, for this thread and those that it starts, without return.

        Files that are open stay so. Takes PR_SET_NO_NEW_PRIVS. Uses the ruleset up.
        """
        _call(_RESTRICT_SELF, self._descriptor, 0)
        os.close(self._descriptor)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *whole))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

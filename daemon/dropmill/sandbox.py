"""What a worker gives up before it opens a stranger's file.

Afterwards it can read the roots, write copies and the index, and use what it has open: nothing else
can be opened, executed, connected to or signalled, and it can start no process. So all that it
may need must be open and imported before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from . import durable, landlock
from .landlock import Access as Access

OUT_OF_MEMORY_SCORE = 500  # the kernel kills a worker rather than the service
DESCRIPTORS = 2_048  # a message has at most 256 files, all open at once

LIST = Access.READ_DIR
READ = LIST | Access.READ_FILE
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.MAKE_REG
    | Access.MAKE_DIR
    | Access.REMOVE_FILE
    | Access.REMOVE_DIR  # or a rename onto a folder is refused for another reason than it has
    | Access.REFER
)
_ANSWERS_WITHIN = 2.0  # seconds; a folder that does not (a dead network mount) is left out
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


class Weakness(NamedTuple):
    """Why workers are less shut in than they could be, and what would mend it."""

    what: str
    mend: str


def weakness() -> Weakness | None:
    """What keeps this machine's workers from being shut in, if anything does."""
    what = "workers can open whatever the service can: "
    try:
        if landlock.version() >= landlock.OLDEST:
            return None
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            mend = "add landlock to lsm= on the kernel's command line, and start it again"
            return Weakness(f"{what}Landlock is turned off in this kernel", mend)
        if error.errno != errno.ENOSYS:
            mend = "allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
            return Weakness(
                f"{what}a filter of system calls forbids Landlock ({error.strerror})",
                f"{mend} (SystemCallFilter= in the unit)",
            )
        return Weakness(f"{what}this kernel has no Landlock", "run Linux 5.19 or newer")
    return Weakness(f"{what}this kernel's Landlock is too old", "run Linux 5.19 or newer")


def lower_limits(memory: int) -> None:
    """Leaves no core, cannot have more than `memory` bytes of data, and is the first to be killed
    when the machine runs out of memory.

    Not limited: the size of a file (a shard grows without bound) and the address space (the
    parent looks at what is resident).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjust:
        adjust.write(str(OUT_OF_MEMORY_SCORE))


class Sandbox:
    """Shuts this process in, and knows which folders it was left with."""

    def __init__(self, kept: Mapping[bytes, Access]) -> None:
        """`kept` says of each folder that stays open what may be done in it."""
        self._kept = kept
        self._open: dict[bytes, bool] = {}  # folder → whether it could be listed
        self._is_shut = False

    def enter(self) -> None:
        """From here on the folders that are kept are all that this process can open.

        Those it may write are made where they are missing. One that is missing, or does not
        answer, is left out. Where the kernel has no Landlock all stays open; `weakness` tells.
        """
        _control_process(_PR_SET_NO_NEW_PRIVS, 1)
        if weakness() is None:
            self._shut()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

    def _shut(self) -> None:
        rules = landlock.Ruleset()
        to_make = [folder for folder, access in self._kept.items() if access == WRITE]
        for folder, (descriptor, listable) in _answering(list(self._kept), to_make).items():
            rules.allow(descriptor, self._kept[folder])
            os.close(descriptor)
            self._open[folder] = listable
        nowhere = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)  # for what a library complains of
        rules.allow(nowhere, Access.WRITE_FILE)
        os.close(nowhere)
        rules.enforce()
        self._is_shut = True

    def was_left(self, folder: bytes) -> bool:
        """Whether the folder stayed open to this process when it was shut in."""
        return not self._is_shut or folder in self._open

    def has_lost(self, folder: bytes) -> bool:
        """Whether a folder that stayed open is no longer the one at its place.

        It was replaced, removed or mounted again, and only a fresh process can open what is
        there now.
        """
        if not self._open.get(folder):
            return False
        try:
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            return error.errno in (errno.EACCES, errno.ENOENT, errno.ENOTDIR)
        return False


# ---- folders that may not answer -----------------------------------------------------------------


def _answering(folders: Sequence[bytes], to_make: Sequence[bytes]) -> dict[bytes, tuple[int, bool]]:
    """Descriptors (O_PATH) of the folders that can be opened, and whether each can be listed.

    Those `to_make` are made where they are missing. A child opens them and hands them over:
    whoever opens a folder that hangs can only be killed.
    """
    found: dict[bytes, tuple[int, bool]] = {}
    left = list(folders)
    while left:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if not child:
            _hand_over(left, theirs, to_make)
        theirs.close()
        ours.settimeout(_ANSWERS_WITHIN)
        with ours:
            has_answered = _take_over(left, ours, found)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0 if has_answered else os.WNOHANG)
    return found


def _take_over(
    left: list[bytes], ours: socket.socket, found: dict[bytes, tuple[int, bool]]
) -> bool:
    """Moves folders from `left` to `found` as the child answers; False when it stops to."""
    while left:
        try:
            said, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        except TimeoutError:
            said = b""
        folder = left.pop(0)
        if not said:
            return False
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            found[folder] = (descriptors[0], said == b"+")
    return True


def _hand_over(
    folders: Sequence[bytes], theirs: socket.socket, to_make: Sequence[bytes]
) -> NoReturn:
    try:
        _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for folder in folders:
            if folder in to_make:
                with contextlib.suppress(OSError):
                    durable.make_folder(folder)
            _hand_over_one(folder, theirs)
    finally:
        os._exit(0)


def _hand_over_one(folder: bytes, theirs: socket.socket) -> None:
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        theirs.send(b"-")
        return
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        is_listable = True
    except OSError:
        is_listable = False
    socket.send_fds(theirs, [b"+" if is_listable else b"-"], [descriptor])
    os.close(descriptor)


def _control_process(what: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    rest = [ctypes.c_ulong(each) for each in (value, 0, 0, 0)]
    if libc.prctl(what, *rest):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

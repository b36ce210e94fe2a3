"""What folders held when they were listed last: what did not change need not be listed again.

A folder whose entries change gets another ctime, which nobody can set. So the same inode with the
same ctime holds the same names; what the files are must be looked at in any case. This is true of
file systems of this machine alone, and only of a ctime that was not the clock's own time when the
folder was listed: a second change within the same tick leaves no trace.

To list a folder of one file takes 8 µs, to remember it 0.3 kB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

_TRUE_TO_IT = frozenset(b"bcachefs btrfs ext2 ext3 ext4 f2fs overlay tmpfs xfs zfs".split())
_QUIET_NS = 10 * 10**9  # more than any clock's tick, and than most of its corrections
_MOST_NAMES = 100  # of a folder; what is in a larger one takes far longer than to list it
_HEAD = struct.Struct("=QqQ")  # inode, ctime_ns, device
_HEAD_SIZE = _HEAD.size
_head = _HEAD.pack

Names = tuple[list[bytes], list[bytes]]  # of files, of subfolders; without those left out


def can_remember(filesystem: bytes) -> bool:
    """Whether a folder's ctime tells, on such a file system, that its entries did not change."""
    return filesystem in _TRUE_TO_IT


class Remembered:
    """Of the folders below one root, by relative path. For one thread."""

    def __init__(self) -> None:
        # Bytes: as tuples of numbers and names these would take three times the room.
        self._folders: dict[bytes, bytes] = {}
        self._met: dict[bytes, bytes] = {}  # in the walk that is under way

    def names_in(self, folder: bytes, now: os.stat_result) -> Names | None:
        """What the folder, whose status was taken just now, held and holds; None: list it."""
        found = self._folders.get(folder)
        if found is None or not found.startswith(_head(now.st_ino, now.st_ctime_ns, now.st_dev)):
            return None
        self._met[folder] = found
        files, _, subfolders = found[_HEAD_SIZE:].partition(b"//")
        return files.split(b"/") if files else [], subfolders.split(b"/") if subfolders else []

    def keep(
        self,
        folder: bytes,
        before: os.stat_result,
        now_ns: int,
        files: Sequence[bytes],
        subfolders: Sequence[bytes],
    ) -> None:
        """What it holds; `before` is its status from before it was listed, at `now_ns`."""
        is_quiet = before.st_ctime_ns + _QUIET_NS < now_ns
        if is_quiet and len(files) + len(subfolders) <= _MOST_NAMES:
            names = b"/".join(files) + b"//" + b"/".join(subfolders)
            self._met[folder] = _head(before.st_ino, before.st_ctime_ns, before.st_dev) + names
        else:
            self._folders.pop(folder, None)

    def walked(self, *, whole: bool) -> None:
        """A walk came to its end; one of the `whole` root met every folder that there is."""
        if whole:
            self._folders = self._met
        else:
            self._folders.update(self._met)
        self._met = {}

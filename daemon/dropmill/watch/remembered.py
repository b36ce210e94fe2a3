"""What folders held when they were walked last: what did not change need not be listed again, nor
compared.

A folder whose entries change gets another ctime, which nobody can set. So the same inode with the
same ctime holds the same names; what the files are must be looked at in any case. This is true of
file systems of this machine alone, and only of a ctime that was not the clock's own time when the
folder was listed: a second change within the same tick leaves no trace.

Where the files look the same as well, and nothing was written to what they were compared with,
comparing them again would show what it showed then.

To list a folder of one file takes 8 µs, to compare it 6, to remember it 0.3 kB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

_TRUE_TO_IT = frozenset(b"bcachefs btrfs ext2 ext3 ext4 f2fs overlay tmpfs xfs zfs".split())
_QUIET_NS = 10 * 10**9  # more than any clock's tick, and than most of its corrections
_MOST_NAMES = 100  # of a folder; what is in a larger one takes far longer than to list it
_HEAD = struct.Struct("=QqQ")  # inode, ctime_ns, device
_COMPARED = struct.Struct("=qq")  # same, seen
_HEAD_SIZE, _NAMES_AT = _HEAD.size, _HEAD.size + _COMPARED.size
_head, _compared_at = _HEAD.pack, _COMPARED.unpack_from
_TO_COMPARE = -1  # in place of `same`
_NOT_COMPARED = _COMPARED.pack(_TO_COMPARE, 0)


class Held(NamedTuple):
    """What a folder holds, but for what is left out."""

    files: list[bytes]  # names
    subfolders: list[bytes]  # names
    same: int | None = None  # if its files are what they were: see `scan.Compared`
    seen: int = 0  # the hash of what they were


_made = tuple.__new__  # in half the time of a call


def hash_of(marks: Iterable[Hashable]) -> int:
    """A hash of 64 bits of what a folder's files looked like, in the order of its names."""
    return hash(tuple(marks))


def can_remember(filesystem: bytes) -> bool:
    """Whether a folder's ctime tells, on such a file system, that its entries did not change."""
    return filesystem in _TRUE_TO_IT


class Remembered:
    """Of the folders below one root, by relative path. For one thread."""

    def __init__(self) -> None:
        # Bytes: as tuples of numbers and names these would take three times the room.
        self._folders: dict[bytes, bytes] = {}
        self._met: dict[bytes, bytes] = {}  # in the walk that is under way
        self._revision: object = None  # of what all of them were compared with
        self._is_current = False  # it is the same still

    def compared_with(self, revision: object) -> None:
        """A walk begins, and what it compares with has this revision."""
        self._is_current = self._revision is not None and revision == self._revision

    def recall(self, folder: bytes, now: os.stat_result) -> Held | None:
        """What the folder, whose status was taken just now, held and holds; None: list it."""
        found = self._folders.get(folder)
        if found is None or not found.startswith(_head(now.st_ino, now.st_ctime_ns, now.st_dev)):
            return None
        same: int | None
        same, seen_then = _compared_at(found, _HEAD_SIZE)
        if same == _TO_COMPARE:
            same = None
        elif not self._is_current:
            same, found = None, found[:_HEAD_SIZE] + _NOT_COMPARED + found[_NAMES_AT:]
        self._met[folder] = found
        files, _, subfolders = found[_NAMES_AT:].partition(b"//")
        return _made(
            Held,
            (
                files.split(b"/") if files else [],
                subfolders.split(b"/") if subfolders else [],
                same,
                seen_then,
            ),
        )

    def keep(self, folder: bytes, before: os.stat_result, now_ns: int, held: Held) -> None:
        """What it holds; `before` is its status from before it was listed, at `now_ns`."""
        files, subfolders = held.files, held.subfolders
        is_quiet = before.st_ctime_ns + _QUIET_NS < now_ns
        if is_quiet and len(files) + len(subfolders) <= _MOST_NAMES:
            head = _head(before.st_ino, before.st_ctime_ns, before.st_dev)
            self._met[folder] = head + _NOT_COMPARED + _joined(files, subfolders)
        else:
            self._folders.pop(folder, None)

    def compared(self, folder: bytes, same: int, marks: Iterable[Hashable]) -> None:
        """Its files were compared in this walk, and nothing was to be done: see `scan.Compared`."""
        found = self._met.get(folder)
        if found is not None:
            compared = _COMPARED.pack(same, hash_of(marks))
            self._met[folder] = found[:_HEAD_SIZE] + compared + found[_NAMES_AT:]

    def walked(self, *, whole: bool, revision: object = None) -> None:
        """A walk came to its end; one of the `whole` root met every folder that there is.

        `revision` is that of what it compared with, from before it began.
        """
        if whole:
            self._folders, self._revision = self._met, revision
        else:
            # The others were compared with another revision: of that nothing is known to be the
            # same until all were compared with one.
            self._folders.update(self._met)
        self._met = {}


def _joined(files: Sequence[bytes], subfolders: Sequence[bytes]) -> bytes:
    return b"/".join(files) + b"//" + b"/".join(subfolders)

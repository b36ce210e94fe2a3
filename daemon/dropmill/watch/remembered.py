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
from array import array
from collections.abc import Hashable, Iterable
from typing import NamedTuple

_TRUE_TO_IT = frozenset(b"bcachefs btrfs ext2 ext3 ext4 f2fs overlay tmpfs xfs zfs".split())
_QUIET_NS = 10 * 10**9  # more than any clock's tick, and than most of its corrections
_MOST_NAMES = 100  # of a folder; what is in a larger one takes far longer than to list it
_MOST_UNUSED = 10_000  # places
_HEAD = struct.Struct("=QqQ")  # inode, ctime_ns, device
_PLACE = struct.Struct("=I")
_HEAD_SIZE, _NAMES_AT = _HEAD.size, _HEAD.size + _PLACE.size
_head, _place_at = _HEAD.pack, _PLACE.unpack_from
TO_COMPARE = -1  # in place of what it is the same as
made = tuple.__new__  # of a named tuple's class and its fields: in half the time of a call


class Held(NamedTuple):
    """What a folder holds, but for what is left out."""

    files: list[bytes]  # names
    subfolders: list[bytes]  # names
    place: int = -1  # where it is remembered how it compared; -1: nowhere
    same: int = TO_COMPARE  # what `compared` was told of it
    seen: int = 0  # what `look_of` gave of its files then


def look_of(marks: Iterable[Hashable]) -> int:
    """A hash of 64 bits of what a folder's files look like, in the order of their names."""
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
        self._same = array("q")  # by place: see `listing.Compared`
        self._seen = array("q")  # by place: what its files looked like then
        self._revision: object = None  # of what they were compared with, where they were

    def begin(self, revision: object) -> None:
        """A walk begins, and what it compares with has this revision; None: nobody knows it."""
        if revision is None or revision != self._revision:
            self._revision = revision
            self._same = array("q", [TO_COMPARE]) * len(self._same)

    def recall(self, folder: bytes, now: os.stat_result) -> Held | None:
        """What the folder, whose status was taken just now, held and holds; None: list it."""
        found = self._folders.get(folder)
        if found is None or not found.startswith(_head(now.st_ino, now.st_ctime_ns, now.st_dev)):
            return None
        self._met[folder] = found
        (place,) = _place_at(found, _HEAD_SIZE)
        files, _, subfolders = found[_NAMES_AT:].partition(b"//")
        return made(
            Held,
            (
                files.split(b"/") if files else [],
                subfolders.split(b"/") if subfolders else [],
                place,
                self._same[place],
                self._seen[place],
            ),
        )

    def keep(self, folder: bytes, before: os.stat_result, now_ns: int, held: Held) -> Held:
        """What it holds; `before` is its status from before it was listed, at `now_ns`."""
        known = self._folders.pop(folder, None) or self._met.get(folder)
        is_quiet = before.st_ctime_ns + _QUIET_NS < now_ns
        if not is_quiet or len(held.files) + len(held.subfolders) > _MOST_NAMES:
            return held
        if known is None:
            place = len(self._same)
            self._same.append(TO_COMPARE)
            self._seen.append(0)
        else:
            (place,) = _place_at(known, _HEAD_SIZE)
            self._same[place] = TO_COMPARE
        self._met[folder] = b"".join(
            (
                _head(before.st_ino, before.st_ctime_ns, before.st_dev),
                _PLACE.pack(place),
                b"/".join(held.files),
                b"//",
                b"/".join(held.subfolders),
            )
        )
        return held._replace(place=place)

    def compared(self, place: int, same: int, marks: Iterable[Hashable]) -> None:
        """Its files were compared in this walk; nothing was to be done: see `listing.Compared`."""
        self._same[place] = same
        self._seen[place] = look_of(marks)

    def walked(self, *, whole: bool) -> None:
        """A walk came to its end; one of the `whole` root met every folder that there is."""
        if whole:
            self._folders = self._met
        else:
            self._folders.update(self._met)
        self._met = {}
        if len(self._same) > 2 * len(self._folders) + _MOST_UNUSED:
            self._folders, self._same, self._seen = {}, array("q"), array("q")

"""What is watched, what a look at one of its folders shows, and what that is compared with.

The words that a walk, the observers and whoever compares have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Identity = tuple[int, int]  # device, inode
# Inode, size, mtime_ns, ctime_ns, device: as the ledger keeps it, the device is 0 where it is
# that of a root which is who was known. A plain tuple: a named one takes 0.4 µs a file to make.
Mark = tuple[int, int, int, int, int]


def _is_to_be_asked(name: str) -> bool:
    return True


@dataclass(frozen=True, eq=False)
class WatchedRoot:
    """One watched folder, as the configuration gives it."""

    path: bytes  # absolute; may be a symbolic link
    recursive: bool
    # (path relative to the root, is it a folder) → is it left out, by its own name: the folders
    # above were asked about before. Asked in several threads.
    excludes: Callable[[bytes, bool], bool]
    observer: str = "auto"  # auto, native or polling
    poll_every: float = 10.0
    known: Identity | None = None  # who it was when its files were taken in, if that is known
    # A quick look at a name alone: what it gives is false for one that `excludes` lets pass in
    # any folder. It saves asking for nearly all names of a scan. None: nothing is left out.
    may_exclude: Callable[[str], object] | None = _is_to_be_asked


class Listing(NamedTuple):
    """What one folder holds: all of it, or a portion of a very large one."""

    root: bytes
    folder: bytes  # absolute, below `root` as configured
    files: Mapping[bytes, Mark]  # by name: regular files not left out
    subfolders: list[bytes] | None  # names, those that are offline too; None: said before
    complete: bool  # False: what is not listed may exist nevertheless
    after: bytes | None  # the portion holds all names > `after`,
    upto: bytes | None  # and <= `upto`; None: no such bound
    stranger: bool  # who stands here is not who was known
    device: int  # of the root
    walk: int = 0  # the number of the walk; 0: of none


class Compared(NamedTuple):
    """What came of comparing a listing."""

    any_known: bool  # any of its files was known before; where a stranger stands: before that came
    # Where nothing is to be done about it: what the reference is to be told when the folder is met
    # again and neither its files nor the reference have changed. None: it must be compared again.
    same: int | None = None


class Reference(NamedTuple):
    """What the disk is compared with: how to ask it. Asked in the root's thread."""

    compare: Callable[[Listing], Compared]  # may raise
    # A walk of that number came to folders that are the same: see `Compared`.
    met: Callable[[Iterable[int], int], None] = lambda same, walk: None
    # Gives another revision than the last if what is compared with may have changed meanwhile;
    # None: that cannot be told.
    revision: Callable[[], object] = lambda: None


def below(folder: bytes, name: bytes) -> bytes:
    """The relative path of `name` in `folder`, itself relative (empty: the root)."""
    return folder + b"/" + name if folder else name

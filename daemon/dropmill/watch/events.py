"""What is said: by observers to the main loop, and by the watch to whoever drains it."""

from __future__ import annotations

from typing import NamedTuple

from .listing import Identity, WatchedRoot

# By observers, in their threads


class Hint(NamedTuple):
    """The kernel said something of a name in a folder."""

    root: WatchedRoot | None
    relative: bytes  # of the file or folder
    is_folder: bool
    moved: bool  # renamed into place
    gone: bool
    moved_from: tuple[WatchedRoot, bytes] | None = None


class Suspect(NamedTuple):
    """Something happened after which an observer cannot be believed to see everything."""

    generation: int
    root: WatchedRoot | None
    why: str
    overflow: bool = False


class RootDeleted(NamedTuple):
    """A root's folder was deleted; another may be in its place already."""

    generation: int
    root: WatchedRoot


# By the watch


class Noticed(NamedTuple):
    """A file that may have changed."""

    root: bytes
    path: bytes  # absolute, below the root as configured
    moved: bool  # renamed into place: may be taken at once
    gone: bool  # it may be gone: believe it after an lstat


class FolderNoticed(NamedTuple):
    """A folder came, or may be gone. A scan of one that came is under way already."""

    root: bytes
    path: bytes
    moved_from: bytes | None  # where it was before, if it was watched there
    gone: bool  # check what was known below it


class Echo(NamedTuple):
    """A file was made in the cookie folder: all earlier events were given before this."""

    name: bytes


class Suspicion(NamedTuple):
    """Events may have been missed; a new observer and a scan are under way."""

    root: bytes | None  # None: any
    why: str


class RootStatus(NamedTuple):
    path: bytes
    state: str  # watching, polling, offline, degraded
    directories: int  # watched, or walked by the last whole scan
    reason: str | None
    last_scan: float | None  # of the whole root: seconds since the epoch
    last_scan_seconds: float
    overflows: int  # times that the kernel's queue overflowed; of all roots together
    identity: Identity | None  # to be given as `WatchedRoot.known` next time

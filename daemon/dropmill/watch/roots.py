"""One root's thread: scans it on request, and sees every second whether it is still the same.

request ──► RootThread ──► Walk ──► compare(Listing), once a folder ──► ScanDone
                │ every second
                └─ is it still there, and the same folder? ──► RootLost, RootReturned
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from .listing import Compared, Identity, Listing, Reference, WatchedRoot
from .remembered import Remembered, can_remember
from .scan import Walk

log = logging.getLogger(__name__)

_STALL = 2.0  # seconds without an answer that are no work, but waiting
_MOST_WAITING = 1_000  # folders; beyond, one scan of the whole root is cheaper
_REMOTE = frozenset(
    b"nfs nfs4 cifs smb3 smbfs 9p ceph afs kafs coda ncpfs glusterfs lustre gpfs beegfs fhgfs"
    b" ocfs2 gfs2 orangefs pvfs2 virtiofs vboxsf vmhgfs prl_fs davfs drvfs".split()
)


class ScanDone(NamedTuple):
    """A scan came to its end."""

    root: bytes
    folder: bytes  # absolute
    requests: tuple[int, ...]  # the ids that `Watch.scan` gave
    complete: bool  # everything below `folder` was read and compared
    vanished: bool  # the root is there, but no such folder (any more)
    unreadable: tuple[bytes, ...]  # folders, absolute
    offline: tuple[bytes, ...]  # the root, or mount points below it, that are not there now
    mounts: tuple[bytes, ...]  # the others; relative
    folders: int
    files: int
    seconds: float
    walk: int = 0  # its number, as the listings give it


class RootLost(NamedTuple):
    """The root cannot be reached: its files are neither there nor gone."""

    root: bytes
    why: str


class RootReturned(NamedTuple):
    """The root, or a mount point below it, is there (again)."""

    root: bytes
    changed: bool  # the root is another folder than it was
    first: bool  # seen for the first time


def filesystem_of(real: bytes) -> bytes:
    """The type of the file system that a path without symbolic links lies on (`ext4`, `nfs4`)."""
    best, found = -1, b""
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            mounted, _, source = line.partition(b" - ")
            point = re.sub(
                rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), mounted.split(b" ")[4]
            ).rstrip(b"/")
            # Of several on one another, the last is on top.
            if len(point) >= best and (real + b"/").startswith(point + b"/"):
                best, found = len(point), source.split(b" ")[0]
    return found


def makes_no_events(filesystem: bytes) -> bool:
    """Whether changes on such a file system may be made elsewhere, unseen by this kernel."""
    return filesystem in _REMOTE or filesystem.startswith(b"fuse")


class RootThread(threading.Thread):
    """It alone touches the root's file system, so it alone can hang with it.

    What it finds goes to `report`: RootLost, RootReturned, ScanDone.
    """

    def __init__(
        self, root: WatchedRoot, reference: Reference, report: Callable[[NamedTuple], None]
    ) -> None:
        super().__init__(name=f"scan {os.fsdecode(root.path)}", daemon=True)
        self.root = root
        self.real = root.path  # with symbolic links resolved, as of the last return
        self.filesystem = b""
        self.identity: Identity | None = None  # None: offline
        self.why_offline = "not looked at yet"
        self.surveyed = threading.Event()
        self._last_identity = root.known
        self._identities: dict[bytes, Identity] = {} if root.known is None else {b"": root.known}
        self._mounted: dict[bytes, int] = {}  # relative → device, as last seen
        self._reference = reference._replace(compare=self._compare, revision=self._revision)
        self._compare_with, self._revision_of = reference.compare, reference.revision
        self._report = report
        self._waiting: dict[bytes, list[int]] = {}
        self._routine: set[int] = set()  # of those that wait
        self._remembered = Remembered()
        self._changed = threading.Condition()
        self._should_stop = False
        self._doubted = False
        self._checked = float("-inf")
        self._busy_from: float | None = None
        self._stalled = 0.0  # seconds, all in all

    def request(self, folder: bytes, request: int, *, routine: bool = False) -> None:
        """Asks for a scan of `folder` (relative), unless one that waits already covers it.

        A `routine` one does not list again a folder that did not change since it was listed, nor
        compare it where its files and the reference are as they were.
        """
        with self._changed:
            if routine:
                self._routine.add(request)
            covering = folder
            while covering and covering not in self._waiting:
                covering = covering.rpartition(b"/")[0]
            if not covering and b"" not in self._waiting and len(self._waiting) < _MOST_WAITING:
                covering = folder
            if not covering:
                waiting = self._waiting.values()
                self._waiting = {b"": [number for numbers in waiting for number in numbers]}
            self._waiting.setdefault(covering, []).append(request)
            self._changed.notify()

    def look_again(self) -> None:
        """Has it reported again whether it is there, now: it was deleted a moment ago."""
        with self._changed:
            self._doubted = True
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread at the next folder; does not wait for it."""
        with self._changed:
            self._should_stop = True
            self._changed.notify()

    def silent_for(self, now: float) -> float:
        """Seconds (of time.monotonic) that its root has not answered for; 0 while not asked."""
        busy_from = self._busy_from
        return 0.0 if busy_from is None else now - busy_from

    def run(self) -> None:
        self._carry_on()
        self.surveyed.set()
        while True:
            with self._changed:
                if not self._waiting and not self._should_stop:
                    self._busy_from = None
                    self._changed.wait(1.0)
                if self._should_stop:
                    return
                folder = next(iter(self._waiting), None)
                requests = self._waiting.pop(folder) if folder is not None else []
            self._carry_on()
            if folder is not None:
                self._scan(folder, requests)

    def _carry_on(self) -> bool:
        now = self._answered()
        if now - self._checked >= 1.0 or self._doubted:
            self._checked = now
            self._check()
        return not self._should_stop

    def _answered(self) -> float:
        """The root's file system got somewhere just now, which is given."""
        now, busy_from = time.monotonic(), self._busy_from
        if busy_from is not None and now - busy_from > _STALL:
            self._stalled += now - busy_from
        self._busy_from = now
        return now

    def _check(self) -> None:
        identity = None
        doubted, self._doubted = self._doubted, False
        try:
            status = os.stat(self.root.path)
            if stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
            self.why_offline = "it is no folder"
        except OSError as error:
            self.why_offline = error.strerror or str(error)
        if identity != self.identity or doubted or not self.surveyed.is_set():
            self._became(identity)
        elif identity is not None:
            self._check_mounts()

    def _became(self, identity: Identity | None) -> None:
        if identity is None:
            self.identity = None
            self._report(RootLost(self.root.path, self.why_offline))
            return
        self.real = os.path.realpath(self.root.path)
        self.filesystem = filesystem_of(self.real)
        self.identity = identity
        changed = self._last_identity not in (None, identity)
        self._last_identity = identity
        self._report(RootReturned(self.root.path, changed, not self.surveyed.is_set()))

    def _check_mounts(self) -> None:
        for relative, (known, _) in list(self._identities.items()):
            if not relative:
                continue
            device = -1
            with contextlib.suppress(OSError):
                device = os.lstat(self.root.path + b"/" + relative).st_dev
            if device != self._mounted.get(relative, known):
                self._report(RootReturned(self.root.path, changed=False, first=False))
            self._mounted[relative] = device

    # However long the reference takes to answer, it is not the root that does not. That has
    # answered just before: a walk says so at each listing.

    def _compare(self, listing: Listing) -> Compared:
        self._busy_from = None
        try:
            return self._compare_with(listing)
        finally:
            self._busy_from = time.monotonic()

    def _revision(self) -> object:
        self._busy_from = None
        try:
            return self._revision_of()
        finally:
            self._busy_from = time.monotonic()

    def _scan(self, folder: bytes, requests: list[int]) -> None:
        started, stalled = time.monotonic(), self._stalled
        thorough = not self._routine.issuperset(requests)
        self._routine.difference_update(requests)
        remembered = self._remembered if can_remember(self.filesystem) else None
        walk = Walk(
            self.root,
            self._identities,
            self._reference,
            self._carry_on,
            remembered,
            thorough=thorough,
        )
        try:
            walk.run(folder)
        except Exception:
            walk.complete = False
            log.exception("scanning %r failed", walk.absolute(folder))
        self._remembered.walked(whole=walk.complete and not folder)
        # A root that hung has not kept its disk busy.
        seconds = self._answered() - started - (self._stalled - stalled)
        self._mounted.update(walk.offline)
        self._report(
            ScanDone(
                self.root.path,
                walk.absolute(folder),
                tuple(requests),
                walk.complete,
                walk.vanished,
                tuple(walk.unreadable),
                tuple(map(walk.absolute, walk.offline)),
                tuple(walk.mounts),
                walk.folders,
                walk.files,
                seconds,
                walk.number,
            )
        )

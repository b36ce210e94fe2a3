"""Watch: everything that notices. Events are hints, the disk is the truth.

    kernel ──► observers.Observer (its reader thread) ──┐
                                                        ├──► one queue ──► drain(): main loop
    disk ────► roots.RootThread (a thread a root) ──────┘
                  └──► compare(Listing), folder by folder, in that thread

Threads only put into the queue and wake the main loop, which drains it, and calls `tick` about
once a second: there the keeper replaces an observer that cannot be believed, and scans that are
due are asked for.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .events import (
    Echo,
    FolderNoticed,
    Hint,
    Noticed,
    RootDeleted,
    RootStatus,
    Suspect,
    Suspicion,
)
from .keeper import Built, Keeper, reason_to_poll, watches_limit
from .listing import Compared, Listing, Reference, WatchedRoot
from .roots import RootLost, RootReturned, RootThread, ScanDone

__all__ = [
    "Compared",
    "Echo",
    "FolderNoticed",
    "Listing",
    "Noticed",
    "Reference",
    "RootLost",
    "RootReturned",
    "RootStatus",
    "ScanDone",
    "Suspicion",
    "Watch",
    "WatchedRoot",
]

log = logging.getLogger(__name__)

_MOST_QUEUED = 200_000  # hints, about 50 MB; what does not fit is found by a scan
_HANGS = 5.0  # seconds without an answer after which nobody else is to wait for a root
_SILENT = 30.0  # seconds after which a root that does not answer is called offline
_MOST_APART = 100  # unreadable folders that are tried one by one


Event = Noticed | FolderNoticed | Echo | Suspicion | ScanDone | RootLost | RootReturned


class _Root:
    """What the main loop knows of one root."""

    def __init__(self, root: WatchedRoot, thread: RootThread) -> None:
        self.root = root
        self.thread = thread
        self.next_poll = float("inf")  # monotonic
        self.next_reconcile = float("inf")
        self.next_doubt = 0.0
        self.doubtful = False
        self.last_scan: float | None = None  # wall clock
        self.last_scan_seconds = 0.0
        self.folders = 0
        self.unreadable: tuple[bytes, ...] = ()
        self.offline: tuple[bytes, ...] = ()  # the root, or mount points below it
        self.mounts: frozenset[bytes] = frozenset()  # those that are watched, as far as we know

    def scanned(self, done: ScanDone) -> None:
        if done.folder == self.root.path:
            self.last_scan, self.last_scan_seconds = time.time(), done.seconds
            self.folders = done.folders
            self.unreadable, self.offline = done.unreadable, done.offline
        else:
            self.unreadable = _merged(self.unreadable, done.unreadable, done.folder)
            self.offline = _merged(self.offline, done.offline, done.folder)


def _merged(before: tuple[bytes, ...], now: tuple[bytes, ...], folder: bytes) -> tuple[bytes, ...]:
    """What is known after a scan of `folder`, of which `now` tells."""
    inside = folder + b"/"
    others = {path for path in before if path != folder and not path.startswith(inside)}
    return tuple(sorted(others.union(now)))


class Watch:
    """Notices what happens in the roots. All methods are for the main loop's thread."""

    def __init__(
        self,
        roots: Sequence[WatchedRoot],
        reference: Reference,
        wake: Callable[[], None],
        cookies: bytes | None = None,
        reconcile_every: float = 900.0,
    ) -> None:
        """`reference` gets each folder's listing, in the root's scan thread; `wake` is called in
        any thread when `drain` has something to give; `cookies` is a folder of ours whose new
        files give an Echo."""
        self._wake = wake
        self._reconcile_every = reconcile_every
        self._queue: deque[NamedTuple] = deque()
        self._awake = False
        self._lost = False
        self._roots = {
            root.path: _Root(root, RootThread(root, reference, self._put)) for root in roots
        }
        self._requests = 0
        self._outstanding: set[int] = set()
        threads = [known.thread for known in self._roots.values()]
        self._keeper = Keeper(threads, cookies, self._put)

    # What the main loop calls

    def start(self) -> None:
        """Observers first, then a first scan of every root; returns at once."""
        for known in self._roots.values():
            known.thread.start()
        self._keeper.build(time.monotonic())

    def drain(self, limit: int = 5_000) -> list[Event]:
        """What was noticed since, at most `limit` notices of it; never waits.

        Of several notices of a file the last is given, in the place of the first.
        """
        self._awake = False
        found: dict[object, Event] = {}
        queue = self._queue
        for _ in range(min(limit, len(queue))):
            item = queue.popleft()
            if isinstance(item, Hint):
                self._take_hint(item, found)
            else:
                for event in self._take(item):
                    found[id(event)] = event
        if self._lost:
            self._lost = False
            self._scan_all()
        if queue:
            self._call()
        return list(found.values())

    def tick(self, now: float) -> None:
        """About once a second. `now` is time.monotonic()."""
        for known in self._roots.values():
            self._scan_what_is_due(known, now)
        self._keeper.tick(now)

    def scan(self, root: bytes, folder: bytes | None = None, *, routine: bool = False) -> int:
        """Asks for a scan of a root, or of `folder` (absolute) and all below it.

        A `routine` one looks at every file that was there, but lists again only the folders that
        changed, and compares only those whose files did, or all where the reference has. Gives an
        id that comes back in a ScanDone, perhaps with others: requests that wait are merged.
        """
        self._requests += 1
        self._outstanding.add(self._requests)
        relative = b"" if folder is None else folder[len(root) + 1 :]
        self._roots[root].thread.request(relative, self._requests, routine=routine)
        return self._requests

    def outstanding(self) -> frozenset[int]:
        """The scans asked for, by whomever, that are not done: with an Echo, wait for these too."""
        return frozenset(self._outstanding)

    def has_looked(self) -> bool:
        """Whether every root was looked for once: before that all of them are called offline."""
        now = time.monotonic()
        threads = [known.thread for known in self._roots.values()]
        return all(each.surveyed.is_set() or each.silent_for(now) > _SILENT for each in threads)

    def is_settled(self) -> bool:
        """Whether every root was looked for, and what can be watched is."""
        return self.has_looked() and not self._keeper.is_building()

    def suspect(self, root: bytes, why: str) -> None:
        """Says that something was missed: a reconcile found what an event should have told."""
        observer = self._keeper.observer
        if observer is not None:
            self._put(Suspect(observer.generation, self._roots[root].root, why))

    def status(self) -> list[RootStatus]:
        observer = self._keeper.observer
        counts = observer.counts() if observer is not None else {}
        return [self._status(known, counts.get(path, 0)) for path, known in self._roots.items()]

    def hanging(self) -> frozenset[bytes]:
        """The roots that do not answer: who touches them waits, perhaps for ever."""
        now = time.monotonic()
        threads = [(path, known.thread) for path, known in self._roots.items()]
        return frozenset(path for path, thread in threads if thread.silent_for(now) > _HANGS)

    def watches_used(self) -> int:
        """Of the kernel's limit for this user, by us."""
        observer = self._keeper.observer
        return observer.counts().total() if observer is not None else 0

    @staticmethod
    def watches_limit() -> int:
        """The number of watches that the kernel grants this user."""
        return watches_limit()

    def stop(self, timeout: float = 5.0) -> None:
        """Stops all threads, and waits for them; a root that hangs is left behind."""
        deadline = time.monotonic() + timeout
        for known in self._roots.values():
            known.thread.stop()
        self._keeper.stop(deadline)
        for known in self._roots.values():
            if known.thread.ident is not None:
                known.thread.join(max(0.0, deadline - time.monotonic()))
        for item in self._queue:
            if isinstance(item, Built) and item.observer is not None:
                item.observer.retire(max(0.0, deadline - time.monotonic()))

    # What the threads call

    def _put(self, item: NamedTuple) -> None:
        if len(self._queue) >= _MOST_QUEUED and isinstance(item, Hint):
            self._lost = True
        else:
            self._queue.append(item)
        self._call()

    def _call(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake()

    # What is taken from the queue

    def _take_hint(self, hint: Hint, found: dict[object, Event]) -> None:
        root = hint.root
        if root is None:
            if not hint.gone and not hint.is_folder:
                found[b"echo:", hint.relative] = Echo(hint.relative)
            return
        path = root.path + b"/" + hint.relative
        if path not in found and root.excludes(hint.relative, hint.is_folder):
            return
        if not hint.is_folder:
            found[path] = Noticed(root.path, path, hint.moved, hint.gone)
            return
        source = None
        if hint.moved_from is not None:
            source = hint.moved_from[0].path + b"/" + hint.moved_from[1]
        if not hint.gone:
            self.scan(root.path, path)
        found[path, hint.gone] = FolderNoticed(root.path, path, source, hint.gone)

    def _take(self, item: NamedTuple) -> list[Event]:
        if isinstance(item, ScanDone):
            self._scanned(item)
            return [item]
        if isinstance(item, RootReturned):
            return self._returned(item)
        if isinstance(item, RootLost):
            return [item]
        if isinstance(item, Suspect):
            return self._doubt(item)
        if isinstance(item, RootDeleted):
            self._roots[item.root.path].thread.look_again()
        if isinstance(item, Built):
            is_new = self._keeper.swap(item)
            for known in self._roots.values():
                if known.thread.identity is not None and (is_new or known.last_scan is None):
                    known.doubtful = False
                    self.scan(known.root.path)
        return []

    def _returned(self, returned: RootReturned) -> list[Event]:
        if reason_to_poll(self._roots[returned.root].thread) is not None:
            self.scan(returned.root)
        elif not returned.first:
            self._keeper.want(forced=True)
        return [returned]

    def _doubt(self, suspect: Suspect) -> list[Event]:
        if not self._keeper.doubt(suspect):
            return []
        for known in self._roots.values():
            known.doubtful = True
            self._scan_what_is_due(known, time.monotonic())
        log.info("events may have been missed: %s", suspect.why)
        return [Suspicion(suspect.root.path if suspect.root else None, suspect.why)]

    # Scans

    def _scanned(self, done: ScanDone) -> None:
        self._outstanding.difference_update(done.requests)
        known = self._roots[done.root]
        first = known.last_scan is None
        known.scanned(done)
        if done.folder == done.root:
            now = time.monotonic()
            known.next_reconcile = now + self._reconcile_every * random.uniform(0.9, 1.0)
            # A scan that takes long leaves the disk alone for four times as long.
            known.next_poll = now + max(known.root.poll_every, 4 * done.seconds)
            known.next_doubt = now + max(1.0, 4 * done.seconds)
        if not known.mounts.issuperset(done.mounts):
            known.mounts = known.mounts.union(done.mounts)
            if not first:  # it was mounted while we watched the folder that it hides
                self._keeper.want(forced=True)

    def _scan_all(self) -> None:
        for known in self._roots.values():
            if known.thread.identity is not None:
                self.scan(known.root.path)

    def _scan_what_is_due(self, known: _Root, now: float) -> None:
        if known.thread.identity is None:
            return
        if now >= known.next_reconcile or (known.doubtful and now >= known.next_doubt):
            routine = not known.doubtful
            known.doubtful, known.next_reconcile = False, float("inf")
            known.next_doubt = float("inf")
            self.scan(known.root.path, routine=routine)
        trouble = self._keeper.trouble(known.thread, known.unreadable)
        if trouble is not None and trouble.curable:
            self._keeper.want(forced=trouble.missing is not None)
        if now < known.next_poll:
            return
        if reason_to_poll(known.thread) is not None:
            missing = None
        elif trouble is not None:
            missing = trouble.missing
        else:
            return
        if missing is None or len(missing) > _MOST_APART or known.root.path in missing:
            known.next_poll = float("inf")
            self.scan(known.root.path)
            return
        known.next_poll = now + known.root.poll_every
        for folder in missing:
            self.scan(known.root.path, folder)

    # Status

    def _status(self, known: _Root, watched: int) -> RootStatus:
        thread = known.thread
        state, reason = self._state(known)
        return RootStatus(
            known.root.path,
            state,
            watched or known.folders,
            reason,
            known.last_scan,
            known.last_scan_seconds,
            self._keeper.overflows,
            thread.identity,
        )

    def _state(self, known: _Root) -> tuple[str, str | None]:
        silent = known.thread.silent_for(time.monotonic())
        if silent > _SILENT:
            return "offline", f"it has not answered for {silent:.0f} s"
        if known.thread.identity is None:
            return "offline", known.thread.why_offline
        if known.root.path in known.offline:
            return "offline", "another folder is in its place, which holds none of its files"
        trouble = self._keeper.trouble(known.thread, known.unreadable)
        polls = reason_to_poll(known.thread)
        if trouble is not None:
            every = f"; scanned every {known.root.poll_every:g} s meanwhile"
            return "degraded", trouble.reason + ("" if polls else every)
        if known.offline:
            return "degraded", f"{os.fsdecode(known.offline[0])}: what is mounted there is away"
        return ("watching", None) if polls is None else ("polling", polls)

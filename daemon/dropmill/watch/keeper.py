"""The keeper: sees to it that one observer is there that can be believed.

    suspect, or something is not watched ──► want ──► (back-off) ──► build, in a thread
                                                                        └─► Built ──► swap

A new observer is built before the old one is retired: setting watches anew in a living one floods
it with the kernel's farewells to the old ones. What an older generation still says is ignored.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .events import Hint, RootDeleted, Suspect
from .listing import WatchedRoot
from .observers import Observer
from .roots import RootThread, makes_no_events
from .scan import count_folders

log = logging.getLogger(__name__)

_SURVEY = 2.0  # seconds that a root may take to answer before the others go on without it
_ROOM = 0.9  # of the kernel's limit of watches: other programs of this user need some
_LONGEST_DELAY = 60.0
_LIMITS = ("fs.inotify.max_user_watches", "user.max_inotify_watches")
_ANY_GENERATION = 2**62


class Trouble(NamedTuple):
    """Why a root is not watched as it should be."""

    reason: str
    missing: frozenset[bytes] | None  # the unreadable folders, absolute; None: scan all of it
    curable: bool  # a new observer might do better


class Built(NamedTuple):
    """What came of building an observer."""

    observer: Observer | None
    too_many: dict[bytes, int]  # roots left out → the number of watches they would need
    error: Exception | None


def watches_limit() -> int:
    """The number of watches that the kernel grants this user."""
    return _narrowest()[0]


def _narrowest() -> tuple[int, str]:
    """The limit of watches, and the sysctl that sets it.

    A user namespace (a container) may have a lower one of its own, beside everybody's.
    """
    return min((int(limit), name) for name in _LIMITS if (limit := _sysctl(name)))


def _sysctl(name: str) -> bytes:
    with contextlib.suppress(OSError), open(f"/proc/sys/{name.replace('.', '/')}", "rb") as file:
        return file.read()
    return b""


def reason_to_poll(thread: RootThread) -> str | None:
    """Why a root is to be polled whatever the kernel can do; None: it is to be watched."""
    if thread.root.observer == "polling":
        return "as configured"
    if thread.root.observer == "auto" and makes_no_events(thread.filesystem):
        return f"{os.fsdecode(thread.filesystem)}: changes made elsewhere make no events here"
    return None


class Keeper:
    """For the main loop's thread, but for what `put` takes from others."""

    def __init__(
        self,
        threads: Sequence[RootThread],
        cookies: bytes | None,
        put: Callable[[Hint | Suspect | RootDeleted | Built], None],
    ) -> None:
        self.observer: Observer | None = None
        self.overflows = 0
        self._threads = threads
        self._cookies = cookies
        self._put = put
        self._generation = 0
        self._builder: threading.Thread | None = None
        self._retiring: list[threading.Thread] = []
        self._too_many: dict[bytes, int] = {}
        self._error: Exception | None = None
        self._wanted = False
        self._doubted = -1  # the youngest generation that is not to be believed
        self._last_build = float("-inf")
        self._delay = 1.0

    def is_building(self) -> bool:
        """Whether an observer is being built just now."""
        return self._builder is not None

    def want(self, forced: bool = False) -> None:
        """A new observer is wanted; unless `forced`, only if it would be another one."""
        self._wanted = True
        if forced:
            self._doubted = _ANY_GENERATION

    def doubt(self, suspect: Suspect) -> bool:
        """Whether it has to be believed: an older generation does not count."""
        current = self.observer.generation if self.observer is not None else 0
        if suspect.generation < current:
            return False
        self.overflows += suspect.overflow
        self._doubted = max(self._doubted, suspect.generation)
        self._wanted = True
        return True

    def tick(self, now: float) -> None:
        """Checks the observer's health, and builds a new one if it is wanted and due."""
        observer = self.observer
        if observer is not None and not observer.healthy():
            self._put(Suspect(observer.generation, None, "a thread of it died"))
        if observer is not None:
            observer.look_for_strays()
        if (
            observer is not None
            and b"" in observer.problems
            and os.path.isdir(self._cookies or b"")
        ):
            self.want()
        if self._wanted and self._builder is None and now >= self._last_build + self._delay:
            self.build(now)
        self._retiring = [thread for thread in self._retiring if thread.is_alive()]

    def build(self, now: float) -> None:
        """Begins to build an observer; a Built is put when that is done."""
        calm = now - self._last_build > 4 * self._delay
        self._delay = 1.0 if calm else min(_LONGEST_DELAY, 2 * self._delay)
        self._delay *= random.uniform(0.8, 1.0)
        self._last_build = now
        self._generation += 1
        forced, self._wanted = self._doubted >= 0, False
        if self._doubted == _ANY_GENERATION:
            self._doubted = self._generation - 1
        self._builder = threading.Thread(
            target=self._build, args=(forced, now + _SURVEY), name="observer builder", daemon=True
        )
        self._builder.start()

    def swap(self, built: Built) -> bool:
        """Takes the new observer, if it is one; then everything has to be scanned."""
        self._builder = None
        self._too_many, self._error = built.too_many, built.error
        if built.error is not None:
            log.warning("folders cannot be watched, so they are scanned: %s", built.error)
            self._wanted = True
        if built.observer is None:
            return False
        old, self.observer = self.observer, built.observer
        if self._doubted < built.observer.generation:
            self._doubted, self._wanted = -1, False
        if old is not None:
            self._retire(old)
        return True

    def trouble(self, thread: RootThread, unreadable: Sequence[bytes]) -> Trouble | None:
        """What is wrong with how a root that is there is watched. `unreadable`: as last scanned."""
        root, observer = thread.root, self.observer
        if reason_to_poll(thread) is None:
            if root.path in self._too_many:
                return self._limit(self._too_many[root.path], curable=True)
            if observer is None or (thread.real, root) not in observer.roots:
                return self._not_watched(observer is None)
            problem = observer.problems.get(root.path)
            codes = dict(observer.unwatched.get(root.path, {}))
            if problem is not None and problem.errno != errno.EACCES:
                codes[b""] = problem.errno or errno.EIO
            others = {code for code in codes.values() if code != errno.EACCES}
            if errno.ENOSPC in others:
                return self._limit(observer.counts().total() + len(codes), curable=True)
            if others:
                return Trouble(f"not watched: {os.strerror(min(others))}", None, True)
            missing = {_absolute(root, relative) for relative in codes}
            if missing and not missing <= set(unreadable):
                return _unreadable(missing | set(unreadable), curable=True)
        return _unreadable(set(unreadable), curable=False) if unreadable else None

    def stop(self, deadline: float) -> None:
        """Retires everything; waits until `deadline` (time.monotonic) at most."""
        if self._builder is not None:
            self._builder.join(max(0.0, deadline - time.monotonic()))
        if self.observer is not None:
            self._retire(self.observer)
            self.observer = None
        for thread in self._retiring:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _not_watched(self, none_is: bool) -> Trouble:
        if isinstance(self._error, OSError) and self._error.errno == errno.EMFILE:
            return Trouble(
                "too many inotify instances: sysctl -w fs.inotify.max_user_instances=1024",
                None,
                True,
            )
        if none_is and self._error is not None:
            return Trouble(f"not watched: {self._error}", None, True)
        return Trouble("its watches are being set", None, self._builder is None)

    def _limit(self, needed: int, curable: bool) -> Trouble:
        limit, name = _narrowest()
        enough = 1 << max(19, (2 * max(needed, limit)).bit_length())
        return Trouble(
            f"{needed:,} folders need a watch each, {name} is {limit:,}: sysctl -w {name}={enough}",
            None,
            curable,
        )

    def _build(self, forced: bool, deadline: float) -> None:
        try:
            self._put(self._make(self._generation, self.observer, forced, deadline))
        except Exception as error:
            log.debug("building an observer failed", exc_info=True)
            self._put(Built(None, {}, error))

    def _make(self, generation: int, old: Observer | None, forced: bool, deadline: float) -> Built:
        room = int(watches_limit() * _ROOM)
        wanted, too_many, total = self._plan(room, deadline)
        if old is not None:
            failed = _failed(old)
            if not forced and not failed and old.roots == tuple(wanted):
                return Built(None, too_many, None)
            if failed or total + old.counts().total() > room:
                # No room for both. What happens in between is found by the scan.
                old.retire()
        return Built(Observer(generation, wanted, self._cookies, self._put), too_many, None)

    def _plan(
        self, room: int, deadline: float
    ) -> tuple[list[tuple[bytes, WatchedRoot]], dict[bytes, int], int]:
        wanted, too_many, total = [], {}, 0
        for thread in self._threads:
            thread.surveyed.wait(max(0.0, deadline - time.monotonic()))
            hangs = thread.silent_for(time.monotonic()) > _SURVEY
            if thread.identity is None or hangs or reason_to_poll(thread) is not None:
                continue
            folders = count_folders(thread.real, thread.root, room)
            if total + folders > room:
                too_many[thread.root.path] = folders
            else:
                total += folders
                wanted.append((thread.real, thread.root))
        return wanted, too_many, total

    def _retire(self, observer: Observer) -> None:
        observer.silence()
        thread = threading.Thread(target=observer.retire, name="observer retiring", daemon=True)
        thread.start()
        self._retiring.append(thread)


def _failed(observer: Observer) -> bool:
    """Whether watches are missing for another reason than that folders cannot be read."""
    codes = {error.errno for error in observer.problems.values()}
    for failures in observer.unwatched.values():
        codes.update(failures.copy().values())
    return bool(codes - {errno.EACCES})


def _absolute(root: WatchedRoot, relative: bytes) -> bytes:
    return root.path + b"/" + relative if relative else root.path


def _unreadable(folders: set[bytes], curable: bool) -> Trouble:
    one = os.fsdecode(min(folders))
    what = one if len(folders) == 1 else f"{len(folders):,} folders, {one} for one,"
    return Trouble(
        f"cannot read {what}: let the service's user read it (chmod o+rx, or setfacl)",
        frozenset(folders),
        curable,
    )

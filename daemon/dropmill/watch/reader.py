"""The reader: what the kernel says of its watches, taken at the one place where all of it passes.

It keeps a table of its own, watch → place, in the kernel's order; each trap of watchdog met here is
described in the design notes.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from .events import Hint, RootDeleted, Suspect
from .listing import WatchedRoot, below

log = logging.getLogger(__name__)

_NOT_PLAIN = (
    InotifyConstants.IN_ISDIR
    | InotifyConstants.IN_Q_OVERFLOW
    | InotifyConstants.IN_UNMOUNT
    | InotifyConstants.IN_IGNORED
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
)
_GONE = InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM
_ARRIVED = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
_MOVED_TO = InotifyConstants.IN_MOVED_TO
_MOST_LIFTED = 64
_MOST_FAILURES = 1_000


class WatchPlace(NamedTuple):
    """A folder that is watched. `root` is None for the cookie folder."""

    root: WatchedRoot | None
    relative: bytes
    excluded: bool  # it was moved to a name that is left out


class _RefusedError(PermissionError):
    """Raised to watchdog in place of watching an excluded folder: it takes it for unreadable."""


class Reader(InotifyFD):
    """watchdog's reader thread. Keeps a table of its own, watch → place, by public names alone."""

    def __init__(
        self,
        generation: int,
        places: Sequence[tuple[bytes, WatchedRoot | None]],
        say: Callable[[Hint | Suspect | RootDeleted], None],
    ) -> None:
        """`places`: real path → root. Raises OSError (EMFILE: too many inotify instances)."""
        super().__init__()
        self.retired = False
        self.groups: dict[CallbackId, WatchCallback] = {}
        self.unwatched: dict[bytes, dict[bytes, int]] = {}  # root → relative → errno
        self._generation = generation
        self._tops = sorted(places, key=lambda place: -len(place[0]))
        self._say = say
        self._places: dict[int, WatchPlace] = {}
        self._lifted: dict[int, tuple[WatchPlace, dict[int, WatchPlace]]] = {}  # by cookie
        self._strays: dict[int, float] = {}  # cookie of a rename → when its folder first spoke
        self._table = threading.Lock()

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            log.debug("watchdog's reader died", exc_info=True)
            self.suspect(None, f"its reader died: {error!r}")
        else:
            if self.should_keep_running():
                self.suspect(None, "its reader ended")

    def suspect(self, root: WatchedRoot | None, why: str, overflow: bool = False) -> None:
        if not self.retired:
            self._say(Suspect(self._generation, root, why, overflow))

    def handle_event(self, event: InotifyEvent) -> None:
        if self.retired:
            return
        mask = event.mask
        if mask & _NOT_PLAIN:
            try:
                self._handle_special(event)
            except Exception as error:
                # A reader that dies leaves everything "alive" and silent.
                log.debug("watchdog stumbled over %r", event, exc_info=True)
                self.suspect(None, f"its reader stumbled: {error!r}")
            return
        place = self._places.get(event.wd)
        if place is None:
            self._stray(event.wd)
        elif not place.excluded:
            if place.root is None:  # a cookie: who asks for its echo wants to miss nothing
                self.look_for_strays()
            relative = place.relative
            name = relative + b"/" + event.name if relative else event.name
            self._say(Hint(place.root, name, False, mask & _MOVED_TO != 0, mask & _GONE != 0))

    def look_for_strays(self, older_than: float = 0.0) -> None:
        """Says so where something happened in a folder whose rename led nowhere that we watch.

        It was moved out, and a new observer lets go of it; or to where a watch came too late.
        """
        long_ago = time.monotonic() - older_than
        with self._table:
            strays = [cookie for cookie, when in self._strays.items() if when <= long_ago]
            for cookie in strays:
                del self._strays[cookie]
        if strays:
            self.suspect(None, "a folder was renamed to where it is not watched")

    def _stray(self, descriptor: int) -> None:
        with self._table:
            if descriptor in self._places:  # it was being added
                return
            cookies = [each for each, (_, lifted) in self._lifted.items() if descriptor in lifted]
            # Of a rename, the other half may be the very next record.
            self._strays.setdefault(cookies[-1] if cookies else 0, time.monotonic())

    def add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        """Watches a folder, unless it is left out; remembers those it could not watch."""
        root, relative = self._locate(path)
        if root is not None and _is_excluded(root, relative):
            raise _RefusedError(errno.EPERM, "left out by the configuration")
        try:
            with self._table:
                # Under the lock, so that a rename is read either before the watch is set (then
                # the path is no longer there) or after it is in the table.
                descriptor = super().add_callback(path, mask, callback, id_)
                if descriptor == -1:  # how watchdog says EACCES
                    super().remove_callbacks([(descriptor, id_)])
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                # Of one that is known elsewhere, the rename that explains it is still to be read.
                self._places.setdefault(descriptor, WatchPlace(root, relative, False))
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            self._could_not_watch(root, relative, error)
            raise
        self.groups[id_] = callback
        if root is not None and root.path in self.unwatched:
            self.unwatched[root.path].pop(relative, None)
        return descriptor

    def counts(self) -> Counter[bytes]:
        """Watched folders by root path."""
        with self._table:
            return Counter(
                place.root.path if place.root else b"" for place in self._places.values()
            )

    def _locate(self, path: bytes) -> tuple[WatchedRoot | None, bytes]:
        for top, root in self._tops:
            if path == top:
                return root, b""
            if root is not None and path.startswith(top + b"/"):
                return root, path[len(top) + 1 :]
        raise _RefusedError(errno.EPERM, "not below any root")

    def _could_not_watch(self, root: WatchedRoot | None, relative: bytes, error: OSError) -> None:
        failures = self.unwatched.setdefault(root.path if root else b"", {})
        first = not failures
        if len(failures) < _MOST_FAILURES:
            failures[relative] = error.errno or errno.EIO
        if first:
            log.debug("cannot watch %r below %r: %s", relative, root and root.path, error)

    def _handle_special(self, event: InotifyEvent) -> None:
        mask = event.mask
        if event.is_queue_overflow:
            # watchdog would set all watches anew, which overflows the queue again, for ever.
            self.suspect(None, "the kernel's queue overflowed", overflow=True)
            return
        place = self._places.get(event.wd)
        root = place.root if place is not None else None
        if mask & InotifyConstants.IN_UNMOUNT:
            self.suspect(root, "a file system was unmounted")
        moved_from = None
        if place is not None and mask & InotifyConstants.IN_MOVED_FROM:
            self._lift(place, event)
        super().handle_event(event)
        if mask & InotifyConstants.IN_IGNORED:
            with self._table:
                self._places.pop(event.wd, None)
        elif place is None:
            if mask & (_GONE | _ARRIVED):
                self._stray(event.wd)
            return
        elif mask & InotifyConstants.IN_DELETE_SELF:
            if root is not None and not place.relative:
                self._say(RootDeleted(self._generation, root))
        elif mask & InotifyConstants.IN_MOVED_TO:
            moved_from = self._land(place, event)
            if moved_from is not None:
                self._watch_what_is_new_in(event)
        if place is not None and mask & (_GONE | _ARRIVED):
            self._say_folder(place, event, moved_from)

    def _say_folder(
        self, place: WatchPlace, event: InotifyEvent, moved_from: WatchPlace | None
    ) -> None:
        if place.root is None or place.excluded or not place.root.recursive:
            return
        source = None
        if moved_from is not None and moved_from.root is not None and not moved_from.excluded:
            source = (moved_from.root, moved_from.relative)
        relative = below(place.relative, event.name)
        moved, gone = event.is_moved_to, event.mask & _GONE != 0
        self._say(Hint(place.root, relative, True, moved, gone, source))

    def _watch_what_is_new_in(self, event: InotifyEvent) -> None:
        """A folder made in it just before it was renamed was gone when it should be watched."""
        mask = Mask(InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_ISDIR)
        super().handle_event(InotifyEvent(event.wd, mask, 0, event.name))

    def _lift(self, place: WatchPlace, event: InotifyEvent) -> None:
        """A folder is renamed: its watches have no place until the other half is read."""
        old = WatchPlace(place.root, below(place.relative, event.name), place.excluded)
        inside = old.relative + b"/"
        with self._table:
            lifted = {
                descriptor: found
                for descriptor, found in self._places.items()
                if found.root is old.root
                and (found.relative == old.relative or found.relative.startswith(inside))
            }
            for descriptor in lifted:
                del self._places[descriptor]
            self._lifted[event.cookie] = (old, lifted)
            if len(self._lifted) > _MOST_LIFTED:  # those were moved out of all roots
                del self._lifted[next(iter(self._lifted))]

    def _land(self, place: WatchPlace, event: InotifyEvent) -> WatchPlace | None:
        """The other half: gives where the folder came from, if that was watched."""
        with self._table:
            old, lifted = self._lifted.pop(event.cookie, (None, {}))
            self._strays.pop(event.cookie, None)
            if old is None or place.root is None:
                return None
            new, unveiled = below(place.relative, event.name), False
            for descriptor, found in lifted.items():
                relative = new + found.relative[len(old.relative) :]
                excluded = _is_excluded(place.root, relative)
                self._places.setdefault(descriptor, WatchPlace(place.root, relative, excluded))
                unveiled |= found.excluded and not excluded
        if unveiled:  # what was made inside it meanwhile has no watch
            self.suspect(place.root, "a folder that was left out was renamed")
        return old


def _is_excluded(root: WatchedRoot, relative: bytes) -> bool:
    end = 0
    while end != len(relative):
        end = relative.find(b"/", end + 1)
        end = len(relative) if end < 0 else end
        if root.excludes(relative[:end], True):
            return True
    return False

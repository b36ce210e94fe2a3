"""Observers: watchdog, and what keeps its traps away.

watchdog 7.1 sets the kernel's watches and follows folders as they come, move and go. What the
kernel says is taken at the one place where every record passes, `handle_event` of the reader
thread (`reader`), in the kernel's order, and goes no further: not through watchdog's emitters and
its dispatcher, which cost ten times as much, wait half a second behind a rename out of the tree,
and keep no order between two roots. No other module but `reader` imports watchdog.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver, EventQueue, ObservedWatch
from watchdog.observers.inotify import InotifyFullEmitter, InotifyWatchGroup
from watchdog.observers.inotify_c import WatchCallback

from .events import Hint, RootDeleted, Suspect
from .listing import WatchedRoot
from .reader import Reader

# One list for all roots: it becomes the kernel's mask, of which the last one set would win. It
# leaves out opening and reading, or our own work would make events.
_FILTER: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
_OTHER_HALF = 0.5  # seconds within which both halves of a rename are read


class _Emitter(InotifyFullEmitter):
    """Only needed for the watches it sets: all was said by the reader."""

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        inotify_fd: Reader,
        event_filter: list[type[FileSystemEvent]] | None = None,
        **others: float,
    ) -> None:
        super().__init__(
            event_queue, watch, inotify_fd=inotify_fd, event_filter=event_filter, **others
        )
        self._groups = inotify_fd.groups

    def run(self) -> None:
        """Empties the queue in which its watch group pairs the halves of renames.

        watchdog's own loop logs an error when it is stopped between two looks at whether it is,
        and spins while its group is closed and it is not.
        """
        path = os.fsencode(self.watch.path)
        for group in list(self._groups.values()):
            if isinstance(group, InotifyWatchGroup) and group.path == path:
                while group.read_event() is not None:  # None: closed
                    pass


class Observer(BaseObserver):
    """One inotify instance for all roots and the cookie folder, so that the kernel keeps order."""

    def __init__(
        self,
        generation: int,
        roots: Sequence[tuple[bytes, WatchedRoot]],
        cookies: bytes | None,
        say: Callable[[Hint | Suspect | RootDeleted], None],
    ) -> None:
        """`roots`: real path → root. `say` is called in the reader thread and must not raise.

        Raises OSError when there are too many inotify instances.
        """
        # Copies in progress make watchdog set a watch twice; where warnings are errors, telling
        # so would kill its reader.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        logging.getLogger("watchdog").setLevel(logging.WARNING)
        places: list[tuple[bytes, WatchedRoot | None]] = [*roots]
        if cookies is not None:
            places.append((os.path.realpath(cookies), None))
        self.generation = generation
        self.roots = tuple(roots)
        self.problems: dict[bytes, OSError] = {}  # roots (b"": the cookies) not watched at all
        self._reader = Reader(generation, places, say)
        super().__init__(_Emitter, inotify_fd=self._reader)
        self._reader.start()
        self.start()
        for real, root in reversed(places):
            self._watch(real, root)

    def _watch(self, real: bytes, root: WatchedRoot | None) -> None:
        try:
            self.schedule(
                FileSystemEventHandler(),
                os.fsdecode(real),
                recursive=root is not None and root.recursive,
                event_filter=_FILTER,
            )
        except OSError as error:
            self.problems[root.path if root else b""] = error

    @property
    def unwatched(self) -> dict[bytes, dict[bytes, int]]:
        """The folders that could not be watched: root path → relative path → errno."""
        return self._reader.unwatched

    def counts(self) -> Counter[bytes]:
        """Watched folders by root path; b"" counts the cookie folder."""
        return self._reader.counts()

    def healthy(self) -> bool:
        """Whether every thread lives that has to: `is_alive` of an observer tells of one."""
        return (
            self.is_alive()
            and self._reader.is_alive()
            and all(emitter.is_alive() for emitter in self.emitters.copy())
        )

    def look_for_strays(self) -> None:
        """To be called now and then: a stray folder is a Suspect."""
        self._reader.look_for_strays(older_than=_OTHER_HALF)

    def silence(self) -> None:
        """From now on it says nothing; its watches stay."""
        self._reader.retired = True

    def retire(self, timeout: float = 30.0) -> None:
        """Silences it, and gives its watches and threads back."""
        self.silence()
        for group in list(self._reader.groups.values()):
            _deactivate(group)
        with contextlib.suppress(KeyError):
            self.stop()
        self._reader.stop()
        for thread in (self, self._reader):
            thread.join(timeout)


def _deactivate(group: WatchCallback) -> None:
    # Where watchdog lost track of a renamed folder it gives up with a KeyError and forgets that
    # folder; so it is asked until it has none left, or its emitter would wait for ever.
    while isinstance(group, InotifyWatchGroup):
        try:
            group.deactivate()
        except KeyError:
            continue
        return

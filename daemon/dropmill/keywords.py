"""Keywords that are new to the watch list: looked up in the index for what is there already.

The index knows which blocks hold a term; only those are read again, for the lines, and looked at
in the very way in which they would have been had the keyword been there when they came. Which
keywords are looked up stands in a file of the state folder, so that a change is made good that was
made while the service was down, and a look-up goes on after a kill.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from .index import Block, tokenize
from .index.reading import ShardSearch, open_shards
from .processors.text import look_again
from .processors.watchlist import RECORDED, WatchList
from .search.pin import compile_term
from .source import opened
from .store.keywording import Keywording, Piece

logger = logging.getLogger("dropmill")

FILE_NAME = b"keywords.json"
_TERMS = 64  # asked of a shard in one question
_BLOCKS = 256  # read between two writes
_AGAIN = 30.0  # seconds after a fault of the machine

Lock = Callable[[], AbstractContextManager[object]]
RootOf = Callable[[bytes], bytes | None]


class Keywords:
    """Keeps what is recorded of the files that are there in step with the watch list."""

    def __init__(self, state_folder: bytes, lock: Lock, root_of: RootOf) -> None:
        """`lock` gives the Lock that the workers share, `root_of` the root of a folder."""
        self._path = os.path.join(state_folder, FILE_NAME)
        self._state_folder = state_folder
        self._lock = lock
        self._root_of = root_of
        self._wanted: tuple[str, ...] = ()
        self._done: tuple[str, ...] = ()
        self._look_up: _LookUp | None = None
        self._begin_at = 0.0

    def want(self, keywords: Sequence[str]) -> None:
        """The watch list as it is from now on. What was recorded of dropped ones stays."""
        self.stop()
        before = self._done or _read(self._path)
        self._wanted = tuple(keywords)
        self._done = tuple(each for each in keywords if each in before)
        if self._done != before:
            # At once: what comes from now on is not looked through for those that were dropped.
            self._write()

    def is_busy(self) -> bool:
        """Whether some are not looked up yet."""
        return self._done != self._wanted

    def tick(self, now: float, *, may_begin: bool) -> None:
        """About once a second. It may begin when no worker with an older watch list is left."""
        if self._look_up is None:
            if self.is_busy() and may_begin and now >= self._begin_at:
                fresh = [each for each in self._wanted if each not in self._done]
                self._look_up = _LookUp(self._state_folder, fresh, self._lock, self._root_of)
                self._look_up.start()
        elif not self._look_up.is_alive():
            self._end(self._look_up, now)
            self._look_up = None

    def _end(self, look_up: _LookUp, now: float) -> None:
        if look_up.fault is not None:
            logger.warning("looking up new keywords: %s; it is tried again", look_up.fault)
            self._begin_at = now + _AGAIN
            return
        self._done = self._wanted
        self._write()
        if look_up.files:
            logger.info(
                "new keywords were looked up in what is here already: found in %s",
                "1 file" if len(look_up.files) == 1 else f"{len(look_up.files):,} files",
            )

    def stop(self) -> None:
        """Stops a look-up; it begins anew at the next start."""
        if self._look_up is not None:
            self._look_up.stop()
            self._look_up = None

    def _write(self) -> None:
        # Whatever does not get there is looked up once more.
        with contextlib.suppress(OSError):
            new = self._path + b".new"
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
                json.dump(self._done, file)
            os.replace(new, self._path)


def _read(path: bytes) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            return tuple(str(each) for each in json.load(file))
    except (OSError, ValueError, TypeError):
        return ()


class _LookUp(threading.Thread):
    """One look-up of some keywords, in a thread that leaves half of its processor to others."""

    def __init__(
        self, state_folder: bytes, keywords: Sequence[str], lock: Lock, root_of: RootOf
    ) -> None:
        super().__init__(name="dropmill-keywords", daemon=True)
        self.files: set[int] = set()  # those that hold one
        self.fault: str | None = None
        self._state_folder = state_folder
        self._keywords = keywords
        self._lock = lock
        self._root_of = root_of
        self._should_stop = threading.Event()

    def stop(self) -> None:
        self._should_stop.set()
        self.join(2.0)  # it may wait for a disk that hangs

    def run(self) -> None:
        try:
            ledger = Keywording(self._state_folder, self._lock, RECORDED)
            try:
                self._look(ledger)
            finally:
                ledger.close()
        except Exception as fault:  # whatever it was, it was no end
            self.fault = str(fault) or type(fault).__name__

    def _look(self, ledger: Keywording) -> None:
        watch_list = WatchList(self._keywords)
        with contextlib.ExitStack() as stack:
            shards = open_shards(self._state_folder)
            for shard in shards:
                stack.callback(shard.close)
            holding = [self._holding(shard) for shard in shards]
            for shard in shards:
                shard.release()  # it may take long, and the write-ahead log is to be shortened
            for shard, numbers in zip(shards, holding, strict=True):
                for some in _batches(numbers):
                    if self._should_stop.is_set():
                        return
                    began = time.monotonic()
                    self._record(ledger, watch_list, shard.blocks(some))
                    self._should_stop.wait(time.monotonic() - began)

    def _holding(self, shard: ShardSearch) -> list[int]:
        """The numbers of the blocks that hold a keyword."""
        # A letter that the index does not know is no word, so nothing to look for.
        terms = [
            compile_term(each).fts
            for each in self._keywords
            if tokenize(each.encode("utf-8", "replace"))
        ]
        found: set[int] = set()
        for first in range(0, len(terms), _TERMS):
            found.update(shard.holders(" OR ".join(terms[first : first + _TERMS])).blocks)
        return sorted(found)

    def _record(self, ledger: Keywording, watch_list: WatchList, blocks: list[Block]) -> None:
        by_take: dict[int, list[Block]] = {}
        for block in blocks:
            by_take.setdefault(block.take, []).append(block)
        found: dict[int, dict[str, list[int]]] = {}
        for piece in ledger.pieces(by_take):
            if self._should_stop.is_set():
                return
            with contextlib.suppress(OSError):  # it went away, or may not be read any more
                found[piece.take] = self._lines(piece, by_take[piece.take], watch_list)
        self.files |= ledger.add(found)

    def _lines(
        self, piece: Piece, blocks: list[Block], watch_list: WatchList
    ) -> dict[str, list[int]]:
        root = self._root_of(piece.folder)
        if root is None:
            return {}
        with opened(root, piece.path[len(root) + 1 :]) as descriptor:
            status = os.fstat(descriptor)
            now = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            verify = None if now == piece.fingerprint else (piece.first, piece.end, piece.digest)
            return look_again(
                descriptor, status.st_size, piece.encoding, blocks, watch_list, verify
            )


def _batches(numbers: list[int]) -> Iterator[Iterable[int]]:
    for first in range(0, len(numbers), _BLOCKS):
        yield numbers[first : first + _BLOCKS]

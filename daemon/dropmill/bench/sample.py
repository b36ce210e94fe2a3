"""Which files the bench takes: those of the folder that the service would take, or some of them."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import NamedTuple

from ..config.settings import Config
from ..job import Fingerprint, Kind, Lane
from ..processors.text import RANGE
from ..rules import Rules
from ..source import Beneath
from ..store.ledger import Admission
from ..watch.listing import Compared, Listing, Reference, WatchedRoot
from ..watch.scan import Walk
from .lap import Progress

# What one process takes in, roughly, on a machine of these years: only to choose how many files.
_FILE_SECONDS = 0.0002
_BYTES_A_SECOND = 25_000_000
_SEED = 4  # any: the same files every time
_CHUNK = 1 << 20
_SHARD_ROOM = 64 << 20  # write-ahead logs and merging, for each worker
_TEXT_ROOM = 0.6  # index, while it is built, for each byte of text
_COPY_ROOM = 1.2


class Found(NamedTuple):
    """What the folder holds."""

    files: list[Admission]
    unreadable: list[tuple[bytes, str]]  # folders, then files: path and reason


def find(config: Config, progress: Progress) -> Found:
    """All files below the configuration's (only) root that its rules take; folders in order."""
    root = config.watch[0]
    rules = Rules(config)
    path = os.fsencode(root.path)
    files: list[Admission] = []

    def gather(listing: Listing) -> Compared:
        for name, mark in listing.files.items():
            kind = rules.kind(name)
            if kind is not None:
                files.append(_admission(listing.folder, name, Fingerprint(*mark), kind))
        progress(len(files), 0, "looking for files")
        return Compared(any_known=True)

    def excludes(relative: bytes, is_folder: bool) -> bool:
        return root.excludes_name(os.fsdecode(relative), is_folder) is not None

    watched = WatchedRoot(path, root.recursive, excludes)
    walk = Walk(watched, {}, Reference(gather), lambda: True)
    walk.run(b"")
    return Found(files, [(folder, "cannot be listed") for folder in walk.unreadable])


def _admission(folder: bytes, name: bytes, mark: Fingerprint, kind: Kind) -> Admission:
    lane = Lane.LARGE if kind is not Kind.IMAGE and mark.size > RANGE else Lane.BACKLOG
    return Admission(folder, name, mark, kind, lane)


def choose(files: Sequence[Admission], seconds: float) -> list[Admission]:
    """All, or as many as one process takes in in about so many seconds: some at random.

    A file that alone is too much is left out; where all are, the smallest is taken.
    """
    if not seconds or sum(map(_seconds, files)) <= seconds:
        return list(files)
    order = list(range(len(files)))
    random.Random(_SEED).shuffle(order)
    chosen: list[int] = []
    for at in order:
        cost = _seconds(files[at])
        if cost <= seconds:
            seconds -= cost
            chosen.append(at)
    smallest = min(files, key=_seconds)
    return [files[at] for at in sorted(chosen)] or [smallest]


def _seconds(file: Admission) -> float:
    return _FILE_SECONDS + file.fingerprint.size / _BYTES_A_SECOND


def read_once(root: bytes, files: Sequence[Admission], progress: Progress) -> Found:
    """Has every file in the page cache; gives those that can be read, and the others."""
    readable: list[Admission] = []
    unreadable: list[tuple[bytes, str]] = []
    beneath = Beneath(root)
    try:
        for count, file in enumerate(files):
            path = os.path.join(file.folder, file.name)
            try:
                _read(beneath.open(path[len(root) + 1 :]))
                readable.append(file)
            except OSError as error:
                unreadable.append((path, error.strerror or str(error)))
            progress(count, len(files), "reading once")
    finally:
        beneath.close()
    return Found(readable, unreadable)


def _read(descriptor: int) -> None:
    try:
        buffer = bytearray(_CHUNK)
        while os.readv(descriptor, [buffer]):
            pass
    finally:
        os.close(descriptor)


def total(files: Sequence[Admission], kind: Kind | None = None) -> int:
    """Bytes of the files, or of those of a kind."""
    return sum(file.fingerprint.size for file in files if kind in (None, file.kind))


def room(files: Sequence[Admission], workers: int) -> int:
    """Bytes that the largest lap may need on the scratch folder's disk; more than it will."""
    text = total(files, Kind.TEXT) + total(files, Kind.DATASET)
    images = total(files, Kind.IMAGE)
    return round(_TEXT_ROOM * text + _COPY_ROOM * images) + _SHARD_ROOM * (workers + 1)

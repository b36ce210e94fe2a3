"""From notices to the ledger: what was seen to change is settled, sorted by kind and admitted.

events ──► noticed ──► settle ──► admit          folder by folder, in the scan threads:
scans  ──► compare with the ledger ──► settled long ago: admit; else settle; absent: gone
"""

from __future__ import annotations

import math
import os
import queue
import stat
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .job import Fingerprint, Kind, Lane
from .processors.text import RANGE
from .rules import Rules
from .settle import Gone, Look, Ready, Settle
from .source import Beneath, NotRegular, fingerprint, has_writer, is_absent, look
from .store.folders import FolderReader
from .store.ledger import Admission, Ledger
from .store.schema import open_for_reading
from .watch.listing import Compared, Listing

_BATCH = 2_000  # admissions a transaction
_NO_DEVICE = -1  # of any file
_FINDINGS = 64  # listings that wait; beyond, the scan threads wait


class _Finding(NamedTuple):
    """What one listing shows to differ from the ledger."""

    root: bytes
    settled: list[Admission]
    unsettled: list[tuple[bytes, Fingerprint]]
    gone: list[bytes]


class Intake:
    """Everything between a notice and a ledger row."""

    def __init__(
        self, state_folder: bytes, rules: Rules, ledger: Ledger, wake: Callable[[], None]
    ) -> None:
        self._state_folder = state_folder
        self._rules = rules
        self._ledger = ledger
        self._wake = wake
        self._settle = Settle(time.monotonic, self._look)
        self._findings: queue.Queue[_Finding] = queue.Queue(_FINDINGS)
        self._readers = threading.local()
        self._opened: list[FolderReader] = []
        self._met = array("Q")  # folder → the walk that came to it last
        self._ready: list[Admission] = []
        self._absent: list[bytes] = []
        self._beneath: dict[bytes, Beneath] = {}  # roots that are open while files are looked at
        self._rescans: dict[tuple[bytes, bytes], float] = {}  # (root, folder) → when
        self.admitted = 0

    # ---- what was noticed --------------------------------------------------------------------

    def noticed(self, root: bytes, path: bytes, *, moved: bool, gone: bool) -> None:
        """A file was seen to change, to be renamed into place, or to go away."""
        if gone:
            if is_absent(root, path[len(root) + 1 :]):
                self.gone(path)
            return
        kind = self._rules.kind(os.path.basename(path))
        if kind is None or self._rules.excluded(root, path):
            return
        self.settle(root, path, kind, moved=moved)

    def settle(
        self,
        root: bytes,
        path: bytes,
        kind: Kind,
        *,
        moved: bool = False,
        seen: Fingerprint | None = None,
    ) -> None:
        """Waits until the file is quiet."""
        settings = self._rules[root]
        self._settle.notice(
            path, settings.settle, settings.settle_max, moved, kind is Kind.TEXT, seen
        )

    def look_again(self, path: bytes) -> None:
        """The file was not what was admitted, or may have changed since: back to settle."""
        root = self._rules.of(path)
        kind = self._rules.kind(os.path.basename(path))
        if root is None or kind is None or self._rules.excluded(root, path):
            return
        if self._rules.is_polled(root):
            self._look_again_at(root, {os.path.dirname(path)})
        else:
            self.settle(root, path, kind)

    def _look_again_at(self, root: bytes, folders: set[bytes]) -> None:
        when = time.monotonic() + self._rules[root].settle
        for folder in folders:
            self._rescans.setdefault((root, folder), when)

    def rescans_due(self, now: float) -> list[tuple[bytes, bytes]]:
        """The (root, folder)s that are to be scanned again by now."""
        due = [place for place, when in self._rescans.items() if when <= now]
        for place in due:
            del self._rescans[place]
        return due

    def rules_changed(self) -> None:
        """What waits to be quiet waits as long as the rules say now, if it is wanted still."""
        self._settle.retime(self._times)

    def _times(self, path: bytes) -> tuple[float, float] | None:
        root = self._rules.of(path)
        if root is None or self._is_left_out(root, path):
            return None
        return self._rules[root].settle, self._rules[root].settle_max

    def _is_left_out(self, root: bytes, path: bytes) -> bool:
        kind = self._rules.kind(os.path.basename(path))
        return kind is None or self._rules.excluded(root, path)

    def gone(self, path: bytes) -> None:
        self._settle.forget(path)
        self._absent.append(path)

    def folder_gone(self, folder: bytes) -> None:
        """A folder is not there any more: nor is what the ledger knows below it.

        What lay on a mount is, where that is away.
        """
        root = self._rules.of(folder)
        reader = self._reader()
        for _, below in reader.folders_below(folder):
            known = reader.known(below)
            keeps = any(map(_device, known.values()))
            is_away = keeps and root is not None and _is_on_the_root(root, below)
            for name, mark in known.items():
                if not (_device(mark) and is_away):
                    self.gone(os.path.join(below, name))

    def check_folders_below(self, top: bytes, walk: int = 0) -> None:
        """After a complete scan: folders that the ledger knows and the walk did not meet."""
        root = self._rules.of(top)
        if root is None or (walk and self._met_all_below(top, walk)):
            return
        for number, folder in self._reader().folders_below(top):
            if not (walk and self._was_met(number, walk)) and not _is_real_folder(root, folder):
                self.folder_gone(folder)

    def _met_all_below(self, top: bytes, walk: int) -> bool:
        """Whether the walk of `top` met every folder: 1 ms of 8,000, asking of each takes 9."""
        unknown = self._was_met(0, walk)
        return self._met.count(walk) - unknown == self._reader().count_below(top)

    def _was_met(self, folder: int, walk: int) -> bool:
        return folder < len(self._met) and self._met[folder] == walk

    # ---- scans (in their threads) ------------------------------------------------------------

    def compare(self, listing: Listing) -> Compared:
        """Compares a folder with the ledger.

        Waits while the main loop has many findings to work off.
        """
        stranger, files = listing.stranger, listing.files
        number, known = self._known(listing)
        if files == known and not stranger:
            return Compared(bool(files) or self._is_unknown_root(listing), number)
        settled: list[Admission] = []
        unsettled: list[tuple[bytes, Fingerprint]] = []
        found, any_known = 0, False
        for name, seen in files.items():
            mark = known.get(name)
            if mark is not None:
                found += 1
                any_known = any_known or not stranger or _device(mark) != _device(seen)
                if mark == seen:
                    continue
            self._differs(listing, name, Fingerprint(*seen), settled, unsettled)
        gone = self._gone(listing, known) if listing.complete and found < len(known) else []
        if settled or unsettled or gone:
            self._findings.put(_Finding(listing.root, settled, unsettled, gone))
            self._wake()
            number = None
        return Compared(any_known or self._is_unknown_root(listing), number)

    def _known(self, listing: Listing) -> tuple[int | None, dict[bytes, tuple[int, ...]]]:
        """What the ledger knows of a listed folder, and its number there; or of the portion that
        is listed of it."""
        _, folder, _, _, _, after, upto, _, _, walk = listing
        reader = self._reader()
        if after is not None or upto is not None:
            return None, reader.known(folder, after or b"", upto)
        number, files = reader.met(folder, walk)
        try:
            self._met[number] = walk
        except IndexError:
            self.met((number,), walk)
        return number, files

    def met(self, folders: Iterable[int], walk: int) -> None:
        """A walk came to the folders of these numbers in the ledger."""
        for number in folders:
            if number >= len(self._met):
                self._met.frombytes(bytes(self._met.itemsize * (number + 1_000)))
            self._met[number] = walk

    def revision(self) -> int:
        """Another one than the last if anyone wrote to the ledger meanwhile."""
        return self._reader().revision()

    def _differs(
        self,
        listing: Listing,
        name: bytes,
        seen: Fingerprint,
        settled: list[Admission],
        unsettled: list[tuple[bytes, Fingerprint]],
    ) -> None:
        """A file is not what the ledger knows: to be admitted, at once or when it is quiet."""
        kind = self._rules.kind(name)
        if kind is None:
            return
        age = time.time() - seen.mtime_ns / 1e9
        if age <= self._rules[listing.root].settle:  # or the mtime lies in the future
            whole = seen._replace(device=seen.device or listing.device)
            unsettled.append((os.path.join(listing.folder, name), whole))
        else:
            lane = _lane(kind, seen.size, Lane.BACKLOG)
            settled.append(Admission(listing.folder, name, seen, kind, lane))

    @staticmethod
    def _gone(listing: Listing, known: dict[bytes, tuple[int, ...]]) -> list[bytes]:
        """What a complete listing lacks, but for what lay on a mount that is away."""
        lacking = [name for name in known if name not in listing.files]
        away = {name for name in lacking if _device(known[name])}
        if away and os.stat(listing.folder).st_dev == listing.device:
            lacking = [name for name in lacking if name not in away]
        return [os.path.join(listing.folder, name) for name in lacking]

    def _is_unknown_root(self, listing: Listing) -> bool:
        """Whether nothing is known below a root but what came with whoever is there now.

        Then nothing is forgotten when that is taken for the root.
        """
        if listing.complete or listing.folder != listing.root:
            return False
        reader = self._reader()
        folders = (reader.known(folder) for _, folder in reader.folders_below(listing.root))
        return all(_device(mark) == listing.device for each in folders for mark in each.values())

    def _reader(self) -> FolderReader:
        try:
            reader: FolderReader = self._readers.reader
        except AttributeError:
            reader = self._readers.reader = FolderReader(open_for_reading(self._state_folder))
            self._opened.append(reader)
        return reader

    def close(self) -> None:
        """To be called when the scan threads have ended."""
        for reader in self._opened:
            reader.close()

    # ---- to the ledger -----------------------------------------------------------------------

    def admit(self) -> None:
        """Works off findings and what has settled, in one transaction each of a bounded size.

        Raises MachineFault, and then does at the next call what it could not do at this one.
        """
        for _ in range(self._findings.qsize()):
            self._take_finding(self._findings.get_nowait())
            if len(self._ready) >= _BATCH:
                break
        self._take_settled()
        if self._absent:
            self._ledger.absence.mark_gone([path for path in self._absent if self.is_gone(path)])
            self._absent = []
        if self._ready:
            must_wait = self._ledger.admit(self._ready)
            self.admitted += len(self._ready)
            self._ready = []
            for waiting in must_wait:
                path = os.path.join(waiting.folder, waiting.name)
                root = self._rules.of(path)
                if root is not None:
                    self.settle(root, path, waiting.kind)

    def _take_settled(self) -> None:
        try:
            settled = self._settle.ready(_BATCH)
        finally:
            for beneath in self._beneath.values():
                beneath.close()
            self._beneath.clear()
        devices: dict[bytes, int | None] = {}
        for found in settled:
            if isinstance(found, Gone):
                self.gone(found.path)
            else:
                self._take_ready(found, devices)

    def is_gone(self, path: bytes) -> bool:
        """Not there, though its root is, and the mount below that it lay on: a disk that is
        missing is not a mass delete."""
        root = self._rules.of(path)
        return (
            root is not None
            and self._rules.is_present(root)
            and is_absent(root, path[len(root) + 1 :])
            and not (self._ledger.absence.was_on_a_mount(path) and _is_on_the_root(root, path))
        )

    def _take_finding(self, finding: _Finding) -> None:
        self._ready += finding.settled
        if finding.unsettled and self._rules.is_polled(finding.root):
            # Only its own thread touches a root that may hang: it looks again.
            self._look_again_at(
                finding.root, {os.path.dirname(path) for path, _ in finding.unsettled}
            )
        else:
            for path, seen in finding.unsettled:
                kind = self._rules.kind(os.path.basename(path))
                if kind is not None and path not in self._settle.pending:
                    self.settle(finding.root, path, kind, seen=seen)
        for path in finding.gone:
            self.gone(path)

    def _take_ready(self, ready: Ready, devices: dict[bytes, int | None]) -> None:
        """`devices`: root → its device, as found so far; None: the root is away."""
        root = self._rules.of(ready.path)
        folder, name = os.path.split(ready.path)
        kind = self._rules.kind(name)
        if root is None or kind is None:
            return
        if root not in devices:
            devices[root] = self._device_of(root)
        device = devices[root]
        if device is None:
            return  # the root went away; a scan finds the file when it is back
        seen = _mark(ready.fingerprint, device)
        lane = _lane(kind, seen.size, Lane.FRESH)
        self._ready.append(Admission(folder, name, seen, kind, lane, ready.unhurried))

    def _device_of(self, root: bytes) -> int | None:
        """A root's device; that of nobody where another folder stands in its place."""
        try:
            device = os.stat(root).st_dev
        except OSError:
            return None
        return device if self._rules.is_present(root) else _NO_DEVICE

    def _look(self, path: bytes) -> Look:
        root = self._rules.of(path)
        if root is None:
            return Look(None, None, None)
        try:
            if root not in self._beneath:
                self._beneath[root] = Beneath(root)
            descriptor = self._beneath[root].open(path[len(root) + 1 :])
            try:
                status = os.fstat(descriptor)
                writing = has_writer(descriptor)
            finally:
                os.close(descriptor)
            return Look(fingerprint(status), writing, time.time() - status.st_mtime)
        except (FileNotFoundError, NotADirectoryError, NotRegular):
            return Look(None, None, None)
        except OSError:
            # It is there and may not be read: the worker will say so.
            return Look(look(path), None, None)

    # ---- how things stand --------------------------------------------------------------------

    def due(self) -> float | None:
        """When there is next something to admit, by the monotonic clock; 0: now."""
        if self._findings.qsize() or self._absent or self._ready:
            return 0.0
        return min((*self._rescans.values(), self._settle.due() or math.inf), default=None)

    def waiting(self) -> int:
        """Files that are noticed and not yet admitted, or gone and not yet marked so."""
        found = len(self._ready) + len(self._absent) + self._findings.qsize()
        return len(self._settle) + len(self._rescans) + found

    def held_up(self, seconds: float) -> list[bytes]:
        """Files that have been waited for longer than that: somebody keeps writing them."""
        before = time.monotonic() - seconds
        return [path for path in self._settle.pending if (self._settle.since(path) or 0) < before]

    def waiting_since(self, before: float) -> bool:
        """Whether a file noticed before that time is not admitted yet."""
        since = (self._settle.since(path) for path in list(self._settle.pending))
        return bool(self._findings.qsize() or self._ready or self._rescans) or any(
            first is not None and first <= before for first in since
        )


def _mark(seen: Fingerprint, root_device: int) -> Fingerprint:
    """A fingerprint as the ledger keeps it: the device only where it is not the root's.

    Device numbers change from mount to mount. What came while another folder was in the root's
    place keeps it too: it does not show later that this is the root.
    """
    return Fingerprint(*seen[:4], 0) if seen.device == root_device else seen


def _lane(kind: Kind, size: int, usual: Lane) -> Lane:
    return Lane.LARGE if kind is not Kind.IMAGE and size > RANGE else usual


def _device(mark: tuple[int, ...]) -> int:
    """The device of a ledger's fingerprint: 0 for that of its root."""
    return mark[-1]


def _is_on_the_root(root: bytes, path: bytes) -> bool:
    """Whether what is left of a path's folders lies on the root's own file system."""
    while True:
        try:
            return os.lstat(path).st_dev == os.stat(root).st_dev
        except OSError:
            if path == root:
                return True
            path = os.path.dirname(path)


def _is_real_folder(root: bytes, folder: bytes) -> bool:
    """Whether it is a folder, and no component below the root is a symbolic link."""
    path = folder
    while path != root:
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                return False
        except OSError:
            return False
        path = os.path.dirname(path)
    return True

"""Scan: walk a root folder by folder and hand each folder's listing to `compare`.

A missing root is not a mass delete, nor is a disk that is not mounted below it. So every root and
every mount point below it has an identity, (device, inode). Where another one stands there than
was known, its listings are not trusted until one of its files is known to `compare`; then the new
identity is adopted and that tree is walked once more. Descriptors lead from folder to
folder, so nothing outside the root is ever listed, whoever swaps a folder for a link meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable

from .listing import Identity, Listing, Mark, Reference, WatchedRoot, below
from .remembered import TO_COMPARE, Held, Remembered, look_of, made

log = logging.getLogger(__name__)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_BENEATH = _FOLDER | os.O_NOFOLLOW
_NOT_A_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PORTION = 5_000  # files a listing: a stat result takes about 1 kB
_NO_DEVICE = -1  # of any file
_BREATH = 100  # files between two signs of life
_NO_SUBFOLDERS = 2  # links: its name, and the dot in it
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_walks = itertools.count(1)


class _Tree:
    """The root or a mount point below it, while it is walked."""

    def __init__(self, relative: bytes, identity: Identity, known: Identity | None) -> None:
        self.relative = relative
        self.identity = identity
        self.trusted = identity == known
        self.is_stranger = known is not None and not self.trusted
        self.holds_known = False


class _Level:
    """A folder that is open while what lies below it is walked."""

    __slots__ = ("descriptor", "device", "relative", "status", "subfolders", "tree")

    def __init__(
        self, descriptor: int, relative: bytes, status: os.stat_result, tree: _Tree
    ) -> None:
        self.descriptor = descriptor
        self.relative = relative
        self.status = status
        self.device = status.st_dev
        self.tree = tree
        self.subfolders: list[bytes] = []  # those to be walked yet, the last one first


class Walk:
    """One walk of a root or of a folder below it. Never follows a symbolic link."""

    def __init__(
        self,
        root: WatchedRoot,
        identities: dict[bytes, Identity],
        reference: Reference,
        carry_on: Callable[[], bool],
        remembered: Remembered | None = None,
        *,
        thorough: bool = True,
    ) -> None:
        """`identities`: relative path → who the root and its mount points are; kept up to date.
        `carry_on` is told now and then that the file system answers, just before comparing too,
        and asked at every folder. What folders hold is `remembered`, and where the walk is not
        `thorough` those that did not change are neither listed nor compared again."""
        self._remembered = remembered
        self._recalled = None if thorough else remembered
        self._began_ns = time.time_ns()
        self._root = root
        self._identities = identities
        self._reference = reference
        self._carry_on = carry_on
        self._device = 0  # the root's
        self.number = next(_walks)
        self._trees: list[_Tree] = []
        self._same: list[int] = []  # of the folders that need not be compared
        self._looks = 0  # at what is in them, since the last sign of life
        self._is_stopped = False
        self.complete = True
        self.vanished = False
        self.unreadable: list[bytes] = []
        self.offline: dict[bytes, int] = {}  # relative → the device that is there instead
        self.mounts: list[bytes] = []  # relative
        self.folders = 0
        self.files = 0

    def run(self, folder: bytes) -> None:
        """Walks all below `folder` (relative). What it finds out adds up in the attributes."""
        if self._remembered is not None:
            self._remembered.begin(self._revision())
        self._walk(folder)
        for tree in [tree for tree in self._trees if not tree.trusted]:
            if tree.holds_known:
                log.info(
                    "%s is another folder than it was, and holds known files: adopted",
                    os.fsdecode(self.absolute(tree.relative)),
                )
                self._identities[tree.relative] = tree.identity
                self._walk(tree.relative)
            elif tree.relative in self._identities:
                self._is_offline(tree.relative, tree.identity[0])

    def _revision(self) -> object:
        try:
            return self._reference.revision()
        except Exception:
            log.exception("comparing all of %r: it is not known what was", self._root.path)
            return None

    def _walk(self, folder: bytes) -> None:
        levels: list[_Level] = []
        self._trees = []
        try:
            self._go(folder, levels)
        finally:
            for level in levels:
                os.close(level.descriptor)
            self._reference.met(self._same, self.number)
            self._same.clear()

    def absolute(self, relative: bytes) -> bytes:
        return self._root.path + b"/" + relative if relative else self._root.path

    def _go(self, folder: bytes, levels: list[_Level]) -> None:
        top = self._open_root()
        if top is None:
            return
        levels.append(top)
        for name in folder.split(b"/") if folder else ():
            deeper = self._open(levels[-1], name)
            if deeper is None:
                self.vanished = not (self.unreadable or self.offline)
                return
            levels.append(deeper)
        top_level = len(levels)
        self._list(levels[-1])
        while len(levels) >= top_level and not self._is_stopped:
            level = levels[-1]
            if not level.subfolders:
                os.close(levels.pop().descriptor)
                continue
            name = level.subfolders.pop()
            if self._recalled is not None and self._look_into(level, name):
                continue
            deeper = self._open(level, name)
            if deeper is not None:
                levels.append(deeper)
                self._list(deeper)
            elif not self._carry_on():
                self._stop()

    def _stop(self) -> None:
        self._is_stopped, self.complete = True, False

    def _open_root(self) -> _Level | None:
        try:
            descriptor = os.open(self._root.path, _FOLDER)
        except OSError as error:
            if error.errno in _NOT_A_FOLDER:
                self._is_offline(b"")
            else:
                self._is_unreadable(b"", error)
            return None
        status = os.fstat(descriptor)
        self._device = status.st_dev
        known = self._identities.setdefault(b"", (status.st_dev, status.st_ino))
        return _Level(descriptor, b"", status, self._plant(b"", status, known))

    def _open(self, parent: _Level, name: bytes) -> _Level | None:
        relative = parent.relative + b"/" + name if parent.relative else name
        try:
            descriptor = os.open(name, _FOLDER_BENEATH, dir_fd=parent.descriptor)
        except OSError as error:
            if error.errno not in _NOT_A_FOLDER:
                self._is_unreadable(relative, error)
            elif relative in self._identities:
                self._is_offline(relative)
            return None
        status = os.fstat(descriptor)
        tree, device = parent.tree, status.st_dev
        if device != parent.device:
            known = self._identities.get(relative)
            self.mounts.append(relative)
            tree = self._plant(relative, status, known)
        elif relative in self._identities:
            # The bare mount point: what was mounted here is away.
            os.close(descriptor)
            self._is_offline(relative, device)
            return None
        return _Level(descriptor, relative, status, tree)

    def _plant(self, relative: bytes, status: os.stat_result, known: Identity | None) -> _Tree:
        identity = (status.st_dev, status.st_ino)
        tree = _Tree(relative, identity, known)
        self._trees.append(tree)
        return tree

    # What follows is done for every folder or every file of a scan over what did not change: so
    # it makes few calls and few objects, at the price of long functions.

    def _look_into(self, parent: _Level, name: bytes) -> bool:
        """Compares a folder that did not change and holds no other, without opening it.

        False: it is another one. Should it be swapped for a link meanwhile, what is seen there
        differs from what is known, and whoever takes that in opens it beneath the root.
        """
        assert self._recalled is not None
        relative = parent.relative + b"/" + name if parent.relative else name
        try:
            status = os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)
        except OSError:
            return False
        found = self._recalled.recall(relative, status)
        if (
            found is None
            or found.subfolders
            or status.st_dev != parent.device
            or len(self._identities) > 1
        ):
            return False
        self.folders += 1
        inside = name + b"/"
        if found.same == TO_COMPARE or not self._is_same(parent, found, inside):
            self._compare_one(
                parent, found.files, [], relative=relative, inside=inside, place=found.place
            )
        return True

    def _is_same(self, level: _Level, held: Held, inside: bytes = b"") -> bool:
        """Whether a folder's files need not be compared: they are what they were, and so is what
        they were compared with. `inside` leads to it from the open one."""
        names, _, _, same, seen_then = held
        if not level.tree.trusted:
            return False
        folder, own, stat = level.descriptor, self._device, os.stat
        marks: list[Mark] = []
        try:
            for name in names:
                status = stat(inside + name, dir_fd=folder, follow_symlinks=False)
                device = status.st_dev
                marks.append(
                    (
                        status.st_ino,
                        status.st_size,
                        status.st_mtime_ns,
                        status.st_ctime_ns,
                        0 if device == own else device,
                    )
                )
        except OSError:
            return False
        if look_of(marks) != seen_then:
            return False
        self.files += len(marks)
        self._same.append(same)
        self._looks += 1 + len(marks)
        if self._looks >= _BREATH:
            self._looks = 0
            if not self._carry_on():
                self._stop()
        return True

    def _list(self, level: _Level) -> None:
        """Compares one folder, and leaves its subfolders in `level`."""
        found, is_of_the_root = None, level.device == self._device  # of a mount we know nothing
        if self._recalled is not None and is_of_the_root:
            found = self._recalled.recall(level.relative, level.status)
        if found is None:
            found = self._listed(level)
            if found is None:
                return
            if self._remembered is not None and is_of_the_root:
                found = self._remembered.keep(level.relative, level.status, self._began_ns, found)
        names, subfolders, place = found[:3]
        self.folders += 1
        if subfolders:  # to be walked in the order of names
            level.subfolders = sorted(subfolders, reverse=True)
        if len(self._identities) > 1:  # the root's
            subfolders += self._absent_mounts(level)
        if found.same != TO_COMPARE and self._is_same(level, found):
            return
        if len(names) <= _PORTION:
            self._compare_one(level, names, subfolders, place=place)
        else:
            self._compare_in_portions(level, names, subfolders)

    def _listed(self, level: _Level) -> Held | None:
        """What a folder holds, but for what is left out; None: it cannot be read."""
        names: list[bytes] = []
        subfolders: list[bytes] = []
        may_exclude, recursive = self._root.may_exclude, self._root.recursive
        try:
            # It closes itself at its end, and in 1 µs less than by `with`.
            entries = os.scandir(level.descriptor)
            while some := list(itertools.islice(entries, _BREATH)):
                if len(some) == _BREATH:
                    self._carry_on()
                for entry in some:
                    try:
                        is_file = entry.is_file(follow_symlinks=False)
                        if not (is_file or (recursive and entry.is_dir(follow_symlinks=False))):
                            continue
                    except FileNotFoundError:
                        continue
                    shown = entry.name
                    name = shown.encode(_ENCODING, _ERRORS)
                    if (
                        may_exclude is not None
                        and may_exclude(shown)
                        and self._root.excludes(below(level.relative, name), not is_file)
                    ):
                        continue
                    (names if is_file else subfolders).append(name)
        except OSError as error:
            self._is_unreadable(level.relative, error)
            return None
        return Held(names, subfolders)

    def _compare_in_portions(
        self, level: _Level, names: list[bytes], subfolders: list[bytes] | None
    ) -> None:
        names.sort()
        after: bytes | None = None
        for start in range(0, len(names), _PORTION):
            end = start + _PORTION
            upto = None if end >= len(names) else names[end - 1]
            self._compare_one(level, names[start:end], subfolders, after=after, upto=upto)
            after, subfolders = upto, None
            if self._is_stopped:
                break

    def _compare_one(
        self,
        level: _Level,
        names: list[bytes],
        subfolders: list[bytes] | None,
        *,
        after: bytes | None = None,
        upto: bytes | None = None,
        relative: bytes | None = None,
        inside: bytes = b"",
        place: int = -1,
    ) -> None:
        """Looks at a folder's files and compares them: all of them, or a portion.

        `relative` is the folder where that is one in the open one, to which `inside` leads; how
        it compares is remembered in a `place`.
        """
        tree, folder = level.tree, level.descriptor
        if relative is None:
            relative = level.relative
        root = self._root.path
        own = _NO_DEVICE if tree.is_stranger else self._device
        files: dict[bytes, Mark] = {}
        complete, stat = tree.trusted, os.stat
        for start in range(0, len(names), _BREATH):
            if start:
                self._carry_on()
            for name in names[start : start + _BREATH]:
                try:
                    # Not with DirEntry.stat: an entry keeps its result, which for half a million
                    # files in one folder comes to 400 MB.
                    seen = stat(inside + name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    complete = self.complete = False
                    shown = self.absolute(below(relative, name))
                    log.warning("cannot look at %r: %s", shown, error)
                    continue
                device = seen.st_dev
                files[name] = (
                    seen.st_ino,
                    seen.st_size,
                    seen.st_mtime_ns,
                    seen.st_ctime_ns,
                    0 if device == own else device,
                )
        self.files += len(files)
        if not self._carry_on():
            self._stop()
            return
        listing = made(
            Listing,
            (
                root,
                root + b"/" + relative if relative else root,
                files,
                subfolders,
                complete,
                after,
                upto,
                tree.is_stranger,
                self._device,
                self.number,
            ),
        )
        try:
            compared = self._reference.compare(listing)
            if compared.any_known:
                tree.holds_known = True
            if (
                place >= 0
                and complete
                and self._remembered is not None
                and compared.same is not None
            ):
                self._remembered.compared(place, compared.same, files.values())
        except Exception:
            self.complete = False
            log.exception("comparing %r failed; it is scanned again later", listing.folder)

    def _absent_mounts(self, level: _Level) -> list[bytes]:
        absent: list[bytes] = []
        for relative in self._identities:
            parent, _, name = relative.rpartition(b"/")
            if name and parent == level.relative and name not in level.subfolders:
                self._is_offline(relative)
                absent.append(name)
        return absent

    def _is_offline(self, relative: bytes, device: int = -1) -> None:
        self.complete = False
        self.offline[relative] = device

    def _is_unreadable(self, relative: bytes, error: OSError) -> None:
        if error.errno in _NOT_A_FOLDER:
            return
        self.complete = False
        self.unreadable.append(self.absolute(relative))
        log.debug("cannot read %r: %s", self.absolute(relative), error)


def count_folders(top: bytes, root: WatchedRoot, at_most: int) -> int:
    """How many folders would be watched, counted no further than just above `at_most`."""
    count, waiting = 1, [b""]
    while waiting and root.recursive and count <= at_most:
        relative = waiting.pop()
        with contextlib.suppress(OSError):
            for name in _subfolders(below(top, relative) if relative else top):
                inside = below(relative, name)
                if not root.excludes(inside, True):
                    count += 1
                    waiting.append(inside)
    return count


def _subfolders(path: bytes) -> list[bytes]:
    # Each subfolder is a link to its parent, where links to folders are counted at all. To read
    # a folder for nothing takes 0.4 µs a file.
    if os.lstat(path).st_nlink == _NO_SUBFOLDERS:
        return []
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

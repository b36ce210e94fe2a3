"""A disk that loses power: after each recorded operation, what a power cut would leave of it.

The strictest reading of what Linux promises is the least that may be left: a file's content is
what its last fsync, fdatasync or syncfs covered, a folder's entries likewise; a new name is not
safe because the file is. What a sync covers is what had been done when it began. At most
everything is left. In between, names follow the journal's order (all changes up to some moment,
not before the last sync of a folder), and of each file any of the writes that no sync covered.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .recording import UNRECORDED, Operation, UnreadableError

Tree = dict[bytes, "Left | None"]  # path → a file; None: a folder, before what is in it


class Left(NamedTuple):
    """A file as it was left."""

    content: bytes
    mtime_ns: int | None  # None: never set


class _File:
    def __init__(self, content: bytes = b"", mtime_ns: int | None = None) -> None:
        self.now = bytearray(content)
        self.durable = bytearray(content)
        self.mtime_now = self.mtime_durable = mtime_ns
        self.pending: list[Operation] = []  # writes and resizes that no sync covered
        self.timed = 0  # the sync that the durable time is from


class _Folder:
    def __init__(self) -> None:
        self.now: dict[bytes, _Node] = {}
        self.durable: dict[bytes, _Node] = {}
        self.synced = 0  # the sync that they are from


_Node = _File | _Folder
_Entries = Callable[[_Folder], dict[bytes, _Node]]
_Content = Callable[[_File], Left]


class _Change(NamedTuple):
    """A change of names, to be taken back."""

    folder: _Folder
    before: dict[bytes, _Node]


class _Covered(NamedTuple):
    """What a sync that has begun will have made durable."""

    files: list[tuple[_File, list[Operation], int | None]]
    folders: list[tuple[_Folder, dict[bytes, _Node]]]
    changes: int  # all there had been when it began


class LossyDisk:
    """What is below a folder, all of it durable at first."""

    def __init__(self, folder: bytes, tree: Tree) -> None:
        """`tree` is what is in `folder` at first."""
        self._top = folder
        self._root = _Folder()
        self._changes: list[_Change] = []
        self._changed = 0  # changes of names ever, also those that the list has lost
        self._syncs: dict[int, _Covered] = {}
        for path, left in tree.items():
            parent, name = self._folder_of(os.path.join(folder, path))
            node = _Folder() if left is None else _File(*left)
            parent.now = parent.durable = {**parent.now, name: node}

    # ---- operations --------------------------------------------------------------------------

    def apply(self, operation: Operation) -> None:
        """Raises UnreadableError where the operation cannot have happened on this disk."""
        if operation.kind == "sync":
            self._syncs[operation.number] = self._covered(operation)
        elif operation.kind == "synced":
            self._synced(operation.number, operation.other)
        elif operation.kind in ("write", "resize", "extend", "times"):
            self._on_file(operation)
        else:
            self._on_names(operation)

    def _on_file(self, operation: Operation) -> None:
        file = self._node(operation.path)
        if operation.kind == "times":
            if isinstance(file, _File):
                file.mtime_now = operation.number
            return
        if not isinstance(file, _File):
            raise UnreadableError(f"{operation.kind} of {operation.path!r}, which is no file")
        if operation.number < 0:  # appended
            operation = operation._replace(number=len(file.now))
        _write(file.now, operation)
        file.pending.append(operation)

    def _on_names(self, operation: Operation) -> None:
        folder, name = self._folder_of(operation.path)
        if operation.kind == "create" and name in folder.now:
            return
        if operation.kind in ("create", "mkdir"):
            made = _File() if operation.kind == "create" else _Folder()
            self._change(folder, {**folder.now, name: made})
            return
        rest = dict(folder.now)
        node = rest.pop(name, None)
        if node is None:  # a socket
            return
        if operation.kind == "rename":
            target, new = self._folder_of(operation.other)
            if target is folder:
                rest[new] = node
            else:
                self._change(target, {**target.now, new: node})
        self._change(folder, rest)

    def _change(self, folder: _Folder, entries: dict[bytes, _Node]) -> None:
        self._changes.append(_Change(folder, folder.now))
        self._changed += 1
        folder.now = entries

    def _covered(self, operation: Operation) -> _Covered:
        nodes = [self._node(operation.path)] if operation.path else list(_below(self._root))
        files = [node for node in nodes if isinstance(node, _File)]
        folders = [node for node in nodes if isinstance(node, _Folder)]
        return _Covered(
            [(file, list(file.pending), file.mtime_now) for file in files],
            [(folder, folder.now) for folder in folders],
            self._changed,
        )

    def _synced(self, number: int, how: bytes) -> None:
        """Of two at the same time, the one that began later may end first."""
        covered = self._syncs.pop(number)
        for file, operations, mtime_ns in covered.files:
            for operation in operations:
                if file.pending and file.pending[0] is operation:
                    _write(file.durable, file.pending.pop(0))
            if how != b"data" and file.timed < number:
                file.mtime_durable, file.timed = mtime_ns, number
        for folder, entries in covered.folders:
            if folder.synced < number:
                folder.durable, folder.synced = entries, number
        if covered.folders:
            lost = len(self._changes) - (self._changed - covered.changes)
            del self._changes[: max(0, lost)]

    # ---- what is left ------------------------------------------------------------------------

    def least(self) -> Tree:
        """What was made durable, and nothing else."""
        return self._tree(
            lambda folder: folder.durable,
            lambda file: Left(bytes(file.durable), file.mtime_durable),
        )

    def most(self) -> Tree:
        """Everything."""
        return self._tree(
            lambda folder: folder.now, lambda file: Left(bytes(file.now), file.mtime_now)
        )

    def some(self, chance: random.Random) -> Tree:
        """A random part of what no sync covered."""
        entries = self._entries_before(chance.randint(0, len(self._changes)))
        probability = chance.random()

        def content(file: _File) -> Left:
            left = bytearray(file.durable)
            for operation in file.pending:
                if chance.random() < probability:
                    _write(left, operation)
            times = file.mtime_durable, file.mtime_now
            return Left(bytes(left), times[chance.random() < probability])

        return self._tree(lambda folder: entries.get(folder, folder.now), content)

    def _entries_before(self, change: int) -> dict[_Folder, dict[bytes, _Node]]:
        """Folders' entries as they were before that change of names."""
        entries: dict[_Folder, dict[bytes, _Node]] = {}
        for each in reversed(self._changes[change:]):
            entries[each.folder] = each.before
        return entries

    def _tree(self, entries: _Entries, content: _Content) -> Tree:
        tree: Tree = {}

        def walk(folder: _Folder, path: bytes) -> None:
            for name, node in entries(folder).items():
                below = os.path.join(path, name)
                if isinstance(node, _Folder):
                    tree[below] = None
                    walk(node, below)
                else:
                    tree[below] = content(node)

        walk(self._root, b"")
        return tree

    # ---- nodes -------------------------------------------------------------------------------

    def _node(self, path: bytes) -> _Node:
        if path == self._top:
            return self._root
        folder, name = self._folder_of(path)
        try:
            return folder.now[name]
        except KeyError:
            raise UnreadableError(f"{path!r} is not there") from None

    def _folder_of(self, path: bytes) -> tuple[_Folder, bytes]:
        folder, name = os.path.split(path)
        node = self._node(folder)
        if not isinstance(node, _Folder):
            raise UnreadableError(f"{folder!r} is no folder")
        return node, name


def _write(content: bytearray, operation: Operation) -> None:
    at = operation.number
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    if operation.kind == "resize":
        del content[at:]
    elif operation.kind == "write":
        content[at : at + len(operation.data)] = operation.data


def _below(folder: _Folder) -> Iterator[_Node]:
    yield folder
    for node in folder.now.values():
        if isinstance(node, _Folder):
            yield from _below(node)
        else:
            yield node


def found(folder: bytes, parts: tuple[bytes, ...]) -> Tree:
    """What is on the real disk, as far as it is recorded."""
    tree: Tree = {}
    for part in parts:
        _find(folder, part, tree)
    return tree


def _find(folder: bytes, path: bytes, tree: Tree) -> None:
    place = os.path.join(folder, path)
    if os.path.isdir(place):
        tree[path] = None
        for name in os.listdir(place):
            _find(folder, os.path.join(path, name), tree)
    elif os.path.isfile(place) and not path.endswith(UNRECORDED):
        with open(place, "rb") as file:
            tree[path] = Left(file.read(), os.fstat(file.fileno()).st_mtime_ns)


def put(tree: Tree, folder: bytes) -> None:
    """Makes the tree below a folder that is there."""
    for path, left in tree.items():
        place = os.path.join(folder, path)
        if left is None:
            os.mkdir(place)
            continue
        with open(place, "wb") as file:
            file.write(left.content)
        if left.mtime_ns is not None:
            os.utime(place, ns=(left.mtime_ns, left.mtime_ns))

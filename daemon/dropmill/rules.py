"""The rules of the configuration for paths: which root one lies in, and what it is taken as."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from .config.settings import Config, Root
from .datasets.rule import RuleSet
from .job import Kind
from .processors.dataset import stride
from .watch.roots import filesystem_of, makes_no_events

_SLASH = ord("/")


def rule_set(config: Config) -> RuleSet:
    """The rules for data sets of a configuration."""
    if not config.datasets:
        return RuleSet()  # whatever is a text: workers need not know
    texts = config.text.suffixes
    return RuleSet(
        tuple(each.rule for each in config.datasets),
        None if texts is None else frozenset(texts),
        frozenset(config.images.suffixes),
    )


class Rules:
    """The watched folders, and what is asked about them for every file."""

    def __init__(self, config: Config) -> None:
        self.change(config)
        self._identities: dict[bytes, tuple[int, int]] = {}
        self._polled: set[bytes] = set()

    def change(self, config: Config) -> None:
        """Another configuration; what was found out about the roots stays."""
        self._roots = {os.fsencode(root.path): root for root in config.watch}
        self._suffixes = config.text.suffixes
        self._images = frozenset(config.images.suffixes)
        self._datasets = rule_set(config)

    @property
    def roots(self) -> list[bytes]:
        return list(self._roots)

    def __getitem__(self, root: bytes) -> Root:
        return self._roots[root]

    def of(self, path: bytes) -> bytes | None:
        """The root that a folder or file lies in."""
        for root in self._roots:  # a generator would cost ten times as much, for every file
            if path.startswith(root) and (path == root or path[len(root)] == _SLASH):
                return root
        return None

    def kind(self, name: bytes) -> Kind | None:
        """What a file is taken as, by its name; None: it is none of ours."""
        if self._datasets.of(os.fsdecode(name)):
            return Kind.DATASET
        suffix = os.fsdecode(os.path.splitext(name)[1]).lower()
        if suffix in self._images:
            return Kind.IMAGE
        if self._suffixes is None or suffix in self._suffixes:
            return Kind.TEXT
        return None

    def digest_of(self, name: bytes) -> bytes | None:
        """Of the rules that a file is a data set by, by its name; None: it is none."""
        return self._datasets.digest(os.fsdecode(name))

    def stride(self, name: bytes, kind: Kind) -> int:
        """Bytes of a range, of a file that is taken as that kind."""
        return stride(self._datasets, name, kind)

    def excluded(self, root: bytes, path: bytes) -> bool:
        """Whether a file is left out by a pattern, or lies too deep."""
        relative = path[len(root) + 1 :]
        if b"/" in relative and not self._roots[root].recursive:
            return True
        return self._roots[root].excluded(os.fsdecode(relative), False) is not None

    def ours_in(self, folder: bytes) -> Callable[[bytes, Kind, bytes | None], bool]:
        """Asks of the files in a folder, by name, whether they would be taken, as that kind, and
        by those rules for data sets, where it is known by which they were."""
        root = self.of(folder)
        if root is None or self._leaves_out(root, folder):
            return lambda name, kind, by: False
        settings = self._roots[root]
        inside = os.fsdecode(folder[len(root) + 1 :])
        prefix = f"{inside}/" if inside else ""

        def is_ours(name: bytes, kind: Kind, by: bytes | None) -> bool:
            if self.kind(name) is not kind:
                return False
            if by is not None and by != self._datasets.digest(os.fsdecode(name)):
                return False
            return settings.excludes_name(prefix + os.fsdecode(name), False) is None

        return is_ours

    def _leaves_out(self, root: bytes, folder: bytes) -> bool:
        """Whether all that is in a folder is left out."""
        relative = os.fsdecode(folder[len(root) + 1 :])
        if not relative:
            return False
        settings = self._roots[root]
        return not settings.recursive or settings.excluded(relative, True) is not None

    @property
    def digest(self) -> bytes:
        """Another one whenever another file may be ours, or of another kind."""
        roots = [(path, root.recursive, root.exclude) for path, root in self._roots.items()]
        told = repr((sorted(roots), self._suffixes, sorted(self._images), self._datasets.told))
        return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    # ---- who a root is -----------------------------------------------------------------------

    def root_is(self, root: bytes, identity: tuple[int, int]) -> None:
        """The folder (device, inode) whose absent files are gone, and not just away."""
        self._identities[root] = identity

    def is_present(self, root: bytes) -> bool:
        """Whether the root is there, and the folder that its files were taken in from."""
        try:
            status = os.stat(root)
        except OSError:
            return False
        return self._identities.get(root) == (status.st_dev, status.st_ino)

    def root_returned(self, root: bytes) -> None:
        """To be told when a root is there (again): finds out how it is watched."""
        observer = self._roots[root].observer
        is_polled = observer == "polling" or (
            observer == "auto" and makes_no_events(filesystem_of(os.path.realpath(root)))
        )
        (self._polled.add if is_polled else self._polled.discard)(root)

    def is_polled(self, root: bytes) -> bool:
        """Whether only scans tell of changes; such a root may hang, so only its thread looks."""
        return root in self._polled

"""Files changed in every way while they are being worked on: the last version wins, once.

Workers take their time, and the file that is changed is mostly one that a worker has in hand. Every
version holds a word of its own.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from . import saboteur
from .audit import EVERY
from .bench import Bench, Findings, version_word
from .inside import Inside

FILES = 24
LARGE = 12_000  # lines: several blocks, so that a part of it can stay


def run(bench: Bench) -> Findings:
    place = bench.place()
    place.start(saboteur.MODULE, **saboteur.variables(place.folder / "torture", "dawdle"))
    inside = Inside(place)
    changes = Changes(bench, place.inbox)
    faults: Counter[str] = Counter()
    while bench.time_is_left():
        held = [each for each in inside.in_hand() if each[2] in changes.versions]
        pid_take_path = bench.chance.choice(held) if held else None
        path = pid_take_path[2] if pid_take_path else bench.chance.choice([*changes.versions])
        kind = changes.change(path)
        # In hand before and after: it was changed while it was being worked on.
        if pid_take_path and inside.has_in_hand(pid_take_path[1]):
            faults[kind] += 1
        time.sleep(bench.chance.uniform(0.0, 0.03))
    inside.close()
    changes.bring_back()
    problems = bench.audit(place, stale_words=changes.stale())
    missing = dict.fromkeys(changes.kinds, 0) | dict(faults)
    return Findings(missing, problems, f"{sum(changes.versions.values())} versions in all")


class Changes:
    """Files with versions, and the ways they change."""

    def __init__(self, bench: Bench, inbox: Path) -> None:
        self._bench = bench
        self.versions = {inbox / f"f{number}.txt": 0 for number in range(FILES)}
        self._alive: dict[Path, set[int]] = {}  # path → the versions whose words it holds
        self.kinds: dict[str, Callable[[Path], None]] = {
            "rewritten": self._rewrite,
            "appended to": self._append,
            "truncated": self._truncate,
            "replaced": self._replace,
            "deleted": self._delete,
            "edited": self._edit,
        }
        for path in self.versions:
            self._replace(path)

    def change(self, path: Path) -> str:
        """Changes a file in one of the ways; gives which."""
        if not path.exists():
            self._rewrite(path)  # it is made again
            return "rewritten"
        kind = self._bench.chance.choice([*self.kinds])
        self.kinds[kind](path)
        return kind

    def bring_back(self) -> None:
        """Half of those that are away at the end come back once more."""
        for number, path in enumerate(self.versions):
            if not path.exists() and number % 2:
                self._replace(path)

    def stale(self) -> list[str]:
        """The words of all versions that are nowhere any more."""
        return [
            version_word(path, version)
            for path, count in self.versions.items()
            for version in range(1, count + 1)
            if version not in self._alive[path]
        ]

    def _content(self, path: Path) -> bytes:
        """A new version; versions alive are counted anew by the caller."""
        self.versions[path] += 1
        version = self.versions[path]
        lines = LARGE if self._bench.chance.random() < 0.1 else self._bench.chance.randint(1, 40)
        word = version_word(path, version)
        return b"".join(f"{EVERY} {number} {word}\n".encode() for number in range(lines))

    def _rewrite(self, path: Path) -> None:
        content = self._content(path)
        with path.open("wb", buffering=0) as file:
            middle = len(content) // 2
            file.write(content[:middle])
            if self._bench.chance.random() < 0.3:
                time.sleep(0.01)
            file.write(content[middle:])
        self._alive[path] = {self.versions[path]}

    def _replace(self, path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(self._content(path))
        part.rename(path)
        self._alive[path] = {self.versions[path]}

    def _append(self, path: Path) -> None:
        content = self._content(path)
        with path.open("ab", buffering=0) as file:
            file.write(content)
        self._alive[path].add(self.versions[path])

    def _truncate(self, path: Path) -> None:
        """Cut to its first line: what that says is left."""
        with path.open("rb") as file:
            first = file.readline()
        os.truncate(path, len(first))
        self._alive[path] = {int(first.split()[2][1:].partition(b"_")[0])} if first else set()

    def _delete(self, path: Path) -> None:
        path.unlink()
        self._alive[path] = set()

    def _edit(self, path: Path) -> None:
        """The first line's word is overwritten in place, the size stays."""
        with path.open("r+b", buffering=0) as file:
            line = file.readline()
            file.seek(0)
            file.write(line.replace(b" v", b" x", 1))
            rest = file.read()
        held = {word[1:].partition(b"_")[0] for word in rest.split() if word[:1] == b"v"}
        self._alive[path] = {int(version) for version in held}

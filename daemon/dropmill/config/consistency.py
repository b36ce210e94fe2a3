"""What several keys of a configuration must agree on.

Every rule takes a whole `Config` and yields its conflicts. Each names the keys it rests on, so
that one that rests on a value that is wrong by itself can be left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .settings import Config, Root
from .values import quoted

Where = tuple[str | int, ...]


class Conflict(NamedTuple):
    where: Where
    text: str
    rests_on: tuple[Where, ...]


def conflicts(config: Config) -> Iterator[Conflict]:
    """Everything that does not go together, in the order of the rules."""
    yield from _settle_times(config)
    yield from _whole_file_systems(config)
    yield from _own_folders_watched(config)
    yield from _roots_in_own_folders(config)
    yield from _overlapping_roots(config)
    yield from _colliding_copies(config)
    yield from _text_and_image(config)
    yield from _missing_engine(config)
    yield from _rules_of_one_name(config)
    yield from _rules_of_one_output(config)
    yield from _columns_of_two_sorts(config)
    yield from _names_twice(config)


def _settle_times(config: Config) -> Iterator[Conflict]:
    for at, root in enumerate(config.watch):
        if root.settle <= root.settle_max:
            continue
        settle, most = ("watch", at, "settle"), ("watch", at, "settle_max")
        if "settle_max" in root.model_fields_set:
            yield Conflict(most, "must not be shorter than settle", (settle, most))
        else:
            text = "must not be longer than settle_max (10s unless given: give a longer one)"
            yield Conflict(settle, text, (settle, most))


def _whole_file_systems(config: Config) -> Iterator[Conflict]:
    for at, root in enumerate(config.watch):
        if not root.name:
            where = ("watch", at, "path")
            yield Conflict(where, "/ cannot be watched whole: name a folder in it", (where,))


def _own_folders_watched(config: Config) -> Iterator[Conflict]:
    for where, what, folder in _own_folders(config):
        for at, root in enumerate(config.watch):
            if not _takes_in(root, folder):
                continue
            place = _relation(folder, root.path)
            mend = "move it out"
            if folder != root.path:
                mend += f", or exclude it there ({_pattern(folder.relative_to(root.path))})"
            text = f"the {what} folder {place} {_named(root, at)}, which is watched: {mend}"
            parts = (("watch", at, key) for key in ("path", "recursive", "exclude"))
            yield Conflict(where, text, (where, *parts))


def _takes_in(root: Root, folder: Path) -> bool:
    """Whether what is written into `folder` would be taken for something dropped into `root`."""
    if folder == root.path:
        return True
    if not root.recursive or not folder.is_relative_to(root.path):
        return False
    return root.excluded(str(folder.relative_to(root.path)), True) is None


def _roots_in_own_folders(config: Config) -> Iterator[Conflict]:
    for where, what, folder in _own_folders(config):
        for at, root in enumerate(config.watch):
            if root.path != folder and root.path.is_relative_to(folder):
                path = ("watch", at, "path")
                text = f"lies in the {what} folder {quoted(str(folder))}: watch a folder outside it"
                yield Conflict(path, text, (where, path))


def _own_folders(config: Config) -> Iterator[tuple[Where, str, Path]]:
    yield ("state",), "state", config.state
    # A copies' folder below the state folder is at fault only where that is.
    if config.images.suffixes and not config.images.output.is_relative_to(config.state):
        yield ("images", "output"), "output", config.images.output
    for at, each in enumerate(config.datasets):
        if each.output is not None and not each.output.is_relative_to(config.state):
            yield ("datasets", at, "output"), "output", each.output


def _overlapping_roots(config: Config) -> Iterator[Conflict]:
    for at, root in enumerate(config.watch):
        for earlier, other in enumerate(config.watch[:at]):
            if not _overlap(root.path, other.path):
                continue
            if root.path.is_relative_to(other.path) or not other.path.is_relative_to(root.path):
                place = _relation(root.path, other.path)
            else:
                place = "contains"
            mend = "watch the outer one alone" if place != "is" else "remove one"
            text = f"{quoted(str(root.path))} {place} {_named(other, earlier)}: {mend}"
            where = ("watch", at, "path")
            yield Conflict(where, text, (where, ("watch", earlier, "path")))


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one) or _same_folder(one, other)


def _same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder in a way that resolving links does not show."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _colliding_copies(config: Config) -> Iterator[Conflict]:
    first: dict[str, int] = {}
    for at, root in enumerate(config.watch):
        earlier = first.setdefault(root.name, at)
        if earlier == at or not config.images.suffixes:
            continue
        other = config.watch[earlier]
        if _overlap(root.path, other.path):
            continue
        copies = quoted(str(config.images.output / root.name))
        text = (
            f"would write the same copies as {_named(other, earlier)}, both to {copies}: rename"
            " one of the two folders, or watch the folder above it"
        )
        where = ("watch", at, "path")
        yield Conflict(where, text, (where, ("watch", earlier, "path"), ("images", "suffixes")))


def _text_and_image(config: Config) -> Iterator[Conflict]:
    for at, suffix in enumerate(config.text.suffixes or ()):
        if suffix in config.images.suffixes:
            where = ("text", "suffixes", at)
            text = f"{suffix} is in images.suffixes too: remove it from one of the two"
            yield Conflict(where, text, (("text", "suffixes"), ("images", "suffixes")))


def _missing_engine(config: Config) -> Iterator[Conflict]:
    if config.datasets and importlib.util.find_spec("polars") is None:
        mend = "pip install '.[datasets]' in the folder that dropmill was installed from"
        text = f"needs Polars, which is not installed: {mend}"
        yield Conflict(("datasets",), text, ())


def _rules_of_one_name(config: Config) -> Iterator[Conflict]:
    first: dict[str, int] = {}
    for at, each in enumerate(config.datasets):
        earlier = first.setdefault(each.rule.name, at)
        if earlier != at:
            key = "name" if each.name is not None else "match"
            where = ("datasets", at, key)
            text = (
                f"datasets[{earlier}] is called {quoted(each.rule.name)} too: give one of the two"
                " another name"
            )
            yield Conflict(where, text, (("datasets", at), ("datasets", earlier)))


def _rules_of_one_output(config: Config) -> Iterator[Conflict]:
    first: dict[Path, int] = {}
    for at, each in enumerate(config.datasets):
        if each.output is None:
            continue
        earlier = first.setdefault(each.output, at)
        if earlier != at:
            where = ("datasets", at, "output")
            text = f"datasets[{earlier}] writes there too: give each rule a folder of its own"
            yield Conflict(where, text, (where, ("datasets", earlier)))


def _columns_of_two_sorts(config: Config) -> Iterator[Conflict]:
    for at, each in enumerate(config.datasets):
        texts = {name for one in each.rule.expressions for name in one.texts}
        for name in sorted(each.rule.numbers & texts):
            text = f"{name} is used as a number and as a text"
            yield Conflict(("datasets", at), text, (("datasets", at),))


def _names_twice(config: Config) -> Iterator[Conflict]:
    for at, each in enumerate(config.datasets):
        for name in each.aggregate:
            if name in each.group_by:
                where = ("datasets", at, "aggregate", name)
                text = "is a column of group_by too: give it another name"
                yield Conflict(where, text, (("datasets", at),))


def _relation(folder: Path, outer: Path) -> str:
    return "lies in" if folder != outer and folder.is_relative_to(outer) else "is"


def _named(root: Root, at: int) -> str:
    return f"{quoted(str(root.path))} (watch[{at}])"


def _pattern(path: Path) -> str:
    """A relative folder as the gitignore pattern that matches it alone."""
    escaped = "".join(f"\\{c}" if c in "\\*?[" else c for c in f"/{path}/")
    return escaped if escaped.isprintable() else quoted(escaped)

"""What differs between two configurations, as a sentence for the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .settings import Config, Root

_FROM_NOW_ON = " (for what comes from now on)"
_NAMED = 5  # keywords that are named; of more the number is given


def sentence(old: Config, new: Config) -> str:
    """All that differs, in one line, without a full stop."""
    return "; ".join(_changes(old, new)) or "nothing that matters"


def _changes(old: Config, new: Config) -> Iterator[str]:
    before = {root.path: root for root in old.watch}
    after = {root.path: root for root in new.watch}
    if added := [str(path) for path in after if path not in before]:
        yield f"watching {', '.join(added)} too"
    if removed := [str(path) for path in before if path not in after]:
        yield f"no longer watching {', '.join(removed)}"
    for path in (path for path in after if path in before):
        if fields := list(_fields(before[path], after[path], Root.model_fields)):
            yield f"{path}: {', '.join(fields)}"
    yield from _fields(old, new, ("workers", "reconcile_every"))
    yield from _keywords(old.text.keywords, new.text.keywords)
    yield from _section("text", old.text, new.text, ("suffixes",))
    yield from _section("images", old.images, new.images, ("suffixes",))
    yield from _section("images", old.images, new.images, ("output", "name"), _FROM_NOW_ON)
    yield from _datasets(old, new)
    yield from _section("limits", old.limits, new.limits, type(new.limits).model_fields)
    yield from _section("log", old.log, new.log, type(new.log).model_fields)


def _section(name: str, old: Any, new: Any, fields: Iterable[str], more: str = "") -> Iterator[str]:
    for changed in _fields(old, new, fields):
        yield f"{name}.{changed}{more}"


def _fields(old: Any, new: Any, fields: Iterable[str]) -> Iterator[str]:
    for name in fields:
        was, now = getattr(old, name), getattr(new, name)
        if was == now:
            continue
        is_short = all(isinstance(value, (int, float, str, bool)) for value in (was, now))
        yield f"{name} {was} → {now}" if is_short else name


def _datasets(old: Config, new: Config) -> Iterator[str]:
    before = {each.rule.name: each for each in old.datasets}
    after = {each.rule.name: each for each in new.datasets}
    for word, found in (
        ("new", [name for name in after if name not in before]),
        ("dropped", [name for name in before if name not in after]),
        ("changed", [name for name in after if before.get(name, after[name]) != after[name]]),
    ):
        if found:
            yield f"datasets: {word}: {', '.join(found)}"


def _keywords(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    for word, found in (
        ("new", [each for each in new if each not in old]),
        ("dropped", [each for each in old if each not in new]),
    ):
        if found:
            names = ", ".join(f'"{each}"' for each in found[:_NAMED])
            more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
            yield f"text.keywords: {word}: {names}{more}"

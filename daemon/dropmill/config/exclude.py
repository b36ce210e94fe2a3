"""What is left out of a watched folder: gitignore patterns, fast enough for every file of a scan.

pathspec translates each pattern; what is added here is git's way of asking: folder by folder from
the root down, each pattern about that one path, the last one that applies decides, and what lies
in an excluded folder cannot be had back. Names may hold surrogate escapes and line ends.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .values import show

_ANY_DEPTH = "^(?:.+/)?"
_FOLDERS_REMEMBERED = 4096


class _Rule(NamedTuple):
    written: str
    negated: bool
    folders_only: bool
    name_only: bool
    expression: str  # must match the whole path, or the whole last name where `name_only`
    regex: re.Pattern[str]


class Excludes:
    """The patterns of one root. Not shared between threads: it remembers folders."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError, with a sentence, for a pattern that can match nothing."""
        with warnings.catch_warnings():
            # Python muses about [[ and && in sets, which mean nothing special in gitignore.
            warnings.simplefilter("ignore", FutureWarning)
            self._rules = tuple(_rule(written) for written in patterns)
            positive = [rule for rule in self._rules if not rule.negated]
            names = [rule for rule in positive if rule.name_only]
            paths = [rule for rule in positive if not rule.name_only]
            self._file_names = _any_of(rule for rule in names if not rule.folders_only)
            self._folder_names = _any_of(names)
            self._paths = _any_of(paths)
            # A name with a line end in it is looked at more closely.
            self.may_apply = _anything if paths else _any_of(names, or_else=r"(?s:.*\n.*)")
        self._folders: dict[str, str | None] = {}

    def of_path(self, relative: str, is_folder: bool) -> str | None:
        """The pattern, as written, that leaves out this path or a folder it lies in."""
        parent = relative.rpartition("/")[0]
        if parent:
            pattern = self._of_folder(parent)
            if pattern is not None:
                return pattern
        return self.of_name(relative, is_folder)

    def of_name(self, relative: str, is_folder: bool) -> str | None:
        """The same for callers who know that the folders above are not left out."""
        if "\n" in relative:
            # `.` and `$` of the translated patterns treat line ends apart; no name holds NUL.
            relative = relative.replace("\n", "\0")
        names = self._folder_names if is_folder else self._file_names
        if names is not None and names(relative.rpartition("/")[2]) is not None:
            return self._last_to_apply(relative, is_folder)
        if self._paths is not None and self._paths(relative) is not None:
            return self._last_to_apply(relative, is_folder)
        return None

    def _last_to_apply(self, relative: str, is_folder: bool) -> str | None:
        name = relative.rpartition("/")[2]
        for rule in reversed(self._rules):
            if rule.folders_only and not is_folder:
                continue
            if rule.regex.fullmatch(name if rule.name_only else relative):
                return None if rule.negated else rule.written
        return None

    def _of_folder(self, folder: str) -> str | None:
        if folder in self._folders:
            return self._folders[folder]
        found, end = None, 0
        while found is None and end != len(folder):
            end = folder.find("/", end + 1)
            end = len(folder) if end < 0 else end
            found = self.of_name(folder[:end], True)
        if len(self._folders) >= _FOLDERS_REMEMBERED:
            self._folders.clear()
        self._folders[folder] = found
        return found


def _any_of(
    rules: Iterable[_Rule], or_else: str = ""
) -> Callable[[str], re.Match[str] | None] | None:
    alternatives = [f"(?:{rule.expression})" for rule in rules]
    if or_else and alternatives:
        alternatives.append(or_else)
    return re.compile("|".join(alternatives)).fullmatch if alternatives else None


def _anything(name: str) -> bool:
    return True


def _rule(written: str) -> _Rule:
    text = written if written.endswith("\\ ") else written.rstrip()
    if not text or "\n" in text or "\0" in text:
        raise ValueError("a pattern was expected, not an empty text or several lines")
    if text.startswith("#"):
        mend = show("\\" + text)
        raise ValueError(f"{show(written)} is a comment in gitignore: write {mend} for that name")
    if "[[:" in text:
        # pathspec would read [[:alpha:]] as a set of letters and brackets.
        raise ValueError(f"{show(written)}: a pattern takes ranges such as [a-z], no [:classes:]")
    negated = text.startswith("!")
    body = text[1:] if negated else text
    folders_only = body.endswith("/") and not body.endswith("\\/")
    body = body[:-1] if folders_only else body
    if negated and body.startswith(("!", "#")):
        body = "\\" + body
    expression = _expression(body)
    if expression is None:
        raise ValueError(f"{show(written)} is not a gitignore pattern: it can match nothing")
    name_only = "/" not in body
    if name_only:
        expression = expression.removeprefix(_ANY_DEPTH)
    return _Rule(written, negated, folders_only, name_only, expression, re.compile(expression))


def _expression(body: str) -> str | None:
    """pathspec's regular expression for one pattern, made to match that path and none below it."""
    import pathspec

    try:
        (pattern,) = pathspec.GitIgnoreSpec.from_lines([body]).patterns
    except (ValueError, re.error):
        return None
    if not isinstance(pattern, pathspec.RegexPattern) or not pattern.include:
        return None
    if pattern.regex is None:
        return None
    expression = str(pattern.regex.pattern).replace("(?P<ps_d>/)", "/")
    everything_below = expression == "." or body.endswith("/**")
    return expression + ".*" if everything_below else expression

"""`dropmill search`: its options, declared once for two readers.

Click prints the help, completes and explains what is wrong. But importing it costs as much as a
search, so a well-formed call is read by `parse`, from the same table.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import config
from ..errors import UsageError


class SearchOption(NamedTuple):
    """One option. `default` tells its kind: False a switch, () a repeatable word, else a value."""

    spellings: tuple[str, ...]
    name: str
    default: bool | int | str | tuple[str, ...] | None
    help: str
    metavar: str | None = None

    @property
    def is_number(self) -> bool:
        return isinstance(self.default, int) and not isinstance(self.default, bool)


OPTIONS = (
    SearchOption(("--any",), "any_term", False, "Files that hold any of the terms, not all."),
    SearchOption(
        ("--not",), "excluded", (), "Leaves out files that hold WORD. Repeatable.", "WORD"
    ),
    SearchOption(("-l", "--files-with-matches"), "paths_only", False, "Paths only."),
    SearchOption(("-c", "--count"), "count", False, "The number of matching lines per file."),
    SearchOption(("-m", "--max-files"), "at_most", 20, "At most N files; 0: all.", "N"),
    SearchOption(("-C", "--context"), "context", 0, "N lines of context around a hit.", "N"),
    SearchOption(("--under",), "under", None, "Only files below DIR.", "DIR"),
    SearchOption(
        ("--json",), "as_json", False, 'One object a line: {"path", "line", "text", "spans"}.'
    ),
    SearchOption(("--sync",), "sync", False, "First waits until all that was written is taken in."),
    SearchOption(("--config",), "config_file", None, "The configuration to use.", "FILE"),
)
_BY_SPELLING = {spelling: option for option in OPTIONS for spelling in option.spellings}

Arguments = dict[str, Any]


class _NotPlainError(Exception):
    """Something that click has to explain."""


def parse(words: list[str]) -> Arguments | None:
    """The command's arguments; None where click has to say what is wrong, or to help."""
    found: Arguments = {option.name: option.default for option in OPTIONS}
    terms: list[str] = []
    rest = iter(words)
    try:
        for word in rest:
            if word == "--":
                terms.extend(rest)
            elif word.startswith("--"):
                _long(word, rest, found)
            elif word.startswith("-") and word != "-":
                _short(word, rest, found)
            else:
                terms.append(word)
        _read_numbers(found)
    except _NotPlainError:
        return None
    return found | {"terms": tuple(terms)} if terms else None


def _long(word: str, rest: Iterator[str], found: Arguments) -> None:
    spelling, has_value, value = word.partition("=")
    option = _BY_SPELLING.get(spelling)
    if option is None or (option.default is False and has_value):
        raise _NotPlainError
    _set(option, value if has_value else None, rest, found)


def _short(word: str, rest: Iterator[str], found: Arguments) -> None:
    """`-l`, `-lc`, `-m 5`, `-m5`."""
    for at, letter in enumerate(word[1:], 2):
        option = _BY_SPELLING.get(f"-{letter}")
        if option is None:
            raise _NotPlainError
        if option.default is not False:
            _set(option, word[at:] or None, rest, found)
            return
        _set(option, None, rest, found)


def _set(option: SearchOption, value: str | None, rest: Iterator[str], found: Arguments) -> None:
    if option.default is False:
        found[option.name] = True
        return
    given = next(rest, None) if value is None else value
    if given is None:
        raise _NotPlainError
    if option.default == ():
        found[option.name] = (*found[option.name], given)
    else:
        found[option.name] = given


def _read_numbers(found: Arguments) -> None:
    for option in OPTIONS:
        given = found[option.name]
        if option.is_number and isinstance(given, str):
            if not (given.isdecimal() and given.isascii()):
                raise _NotPlainError
            found[option.name] = int(given)


# ---- what it does --------------------------------------------------------------------------------


def search(arguments: Arguments) -> int:
    """Prints the hits; gives 0 when there are any, else 1. Raises UsageError for a bad query."""
    style = _style(arguments)
    state_folder = os.fsencode(config.state_of(config.located(arguments["config_file"])))
    if arguments["sync"]:
        _sync(state_folder)
    from .. import search as engine
    from ..search import output as search_output

    under = arguments["under"]
    query = engine.Query(
        arguments["terms"],
        arguments["any_term"],
        arguments["excluded"],
        None if under is None else os.path.realpath(os.fsencode(under)),
    )
    results = engine.search(
        state_folder,
        query,
        at_most=arguments["at_most"],
        context=arguments["context"],
        paths_only=style == "paths",
    )
    found = search_output.write(results, style=style, color=_has_colour(), out=sys.stdout)
    further = search_output.more(results.more)
    if further and sys.stderr.isatty():
        sys.stdout.flush()
        print(further, file=sys.stderr)
    return 0 if found else 1


def _style(arguments: Arguments) -> str:
    """How hits are written; `search_output.write` says what each means."""
    wanted = {"paths_only": "paths", "count": "counts", "as_json": "json"}
    chosen = [style for name, style in wanted.items() if arguments[name]]
    if len(chosen) > 1:
        raise UsageError("search: only one of -l, -c and --json can be given")
    if chosen:
        return chosen[0]
    return "terminal" if sys.stdout.isatty() else "pipe"


def _sync(state_folder: bytes) -> None:
    from .. import asking

    try:
        asking.ask(state_folder, "sync", {})
    except asking.NotRunning as error:
        raise UsageError(f"--sync: {error}") from None


def _has_colour() -> bool:
    """As printing.has_colour, without what that imports."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )

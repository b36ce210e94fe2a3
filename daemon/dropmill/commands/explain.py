"""`dropmill explain PATH`: all that is known of one file, from disk, configuration and ledger."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import config
from ..errors import DropmillError
from ..job import Kind, State
from ..rules import rule_set
from ..store.reading import Reader, Result
from . import tables
from .printing import absolute, amount, as_command, local_time, printable, quoted, shown, size
from .results import line_numbers

if TYPE_CHECKING:
    from ..config.settings import Config, Root

_NEXT = {
    State.QUEUED: "it will be taken as soon as a worker is free (dropmill status)",
    State.RETRY: "it will be tried again at that time",
    State.QUARANTINED: "mend or replace the file, or try it again as it is: {retry} {path}",
    State.SKIPPED: "nothing: it is looked at again when it changes",
    State.DONE: "nothing: it is looked at again when it changes",
    State.GONE: "nothing: its row is kept for 30 days after it went",
}


class _Line(NamedTuple):
    title: str
    text: str


class _Facts(NamedTuple):
    """What bears on one path."""

    path: bytes
    status: os.stat_result | None
    config_path: Path
    config: Config
    root: Root | None
    result: Result | None


def explain(config_path: Path, given: str) -> int:
    """Prints it; gives 1 when the ledger does not know the file."""
    loaded = config.load(config_path)
    path = absolute(given)
    try:
        reader = Reader(os.fsencode(loaded.state))
    except DropmillError as error:
        if os.path.exists(loaded.state / "results.db"):
            raise
        facts = _Facts(path, _look(path), config_path, loaded, _root_of(loaded, path), None)
        _print([*_of_disk(facts), *_of_rules(facts), *_of_absence(facts, None, str(error))], path)
        return 1
    with reader:
        result = reader.file(path)
        facts = _Facts(path, _look(path), config_path, loaded, _root_of(loaded, path), result)
        lines = [*_of_disk(facts), *_of_rules(facts)]
        if result is None:
            lines += _of_absence(facts, reader.source_of(path), "")
        else:
            lines += [*_of_ledger(result), *_of_outcome(reader, result), _next_step(facts, result)]
    _print(lines, path)
    return 1 if result is None else 0


def _print(lines: list[_Line], path: bytes) -> None:
    print(shown(path))
    for title, text in lines:
        print(f"  {title:<13}{text}")


# ---- on disk -------------------------------------------------------------------------------------


def _look(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _of_disk(facts: _Facts) -> list[_Line]:
    status = facts.status
    if status is None:
        return [_Line("on disk", "not there (or in a folder that you may not look into)")]
    modified = local_time(status.st_mtime_ns)
    if stat.S_ISREG(status.st_mode):
        return [_Line("on disk", f"a file of {size(status.st_size)}, modified {modified}")]
    return [_Line("on disk", _what_it_is(status, facts.path))]


def _what_it_is(status: os.stat_result, path: bytes) -> str:
    if stat.S_ISLNK(status.st_mode):
        return f"a symbolic link to {shown(os.readlink(path))}; links are not followed"
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    return "no regular file (a FIFO, a socket or a device); only files are taken"


# ---- by the configuration ------------------------------------------------------------------------


def _root_of(loaded: Config, path: bytes) -> Root | None:
    decoded = Path(os.fsdecode(path))
    return next((root for root in loaded.watch if decoded.is_relative_to(root.path)), None)


def _of_rules(facts: _Facts) -> list[_Line]:
    if facts.root is None:
        return [_Line("watched", "no: it lies in none of the watched folders")]
    lines = [_Line("watched by", printable(str(facts.root.path)))]
    reason = _why_left_out(facts, facts.root)
    if reason:
        return [*lines, _Line("left out", reason)]
    if facts.status is not None and not stat.S_ISREG(facts.status.st_mode):
        return lines
    return [*lines, _Line("rule", _rule(facts.config, facts.path))]


def _why_left_out(facts: _Facts, root: Root) -> str | None:
    relative = os.path.relpath(os.fsdecode(facts.path), root.path)
    if relative == os.curdir:
        return None
    if not root.recursive and os.sep in relative:
        return "recursive is false: its subfolders are not watched"
    is_folder = facts.status is not None and stat.S_ISDIR(facts.status.st_mode)
    pattern = root.excluded(relative, is_folder)
    return None if pattern is None else f'by the pattern "{printable(pattern)}" of exclude'


def _rule(loaded: Config, path: bytes) -> str:
    name = os.fsdecode(os.path.basename(path))
    rules = rule_set(loaded)
    if by := rules.of(name):
        names = ", ".join(printable(rule.name) for rule in by)
        also = ", and indexed as text too" if rules.is_text(name) else ""
        return f"a data set: by {names} of datasets{also}"
    suffix = os.path.splitext(name)[1].lower()
    if suffix and suffix in loaded.images.suffixes:
        return f"an image: images.suffixes has {printable(suffix)}"
    if loaded.text.suffixes is None:
        return "a text, if it reads as one: text.suffixes is auto, and it is no image"
    if suffix in loaded.text.suffixes:
        return f"a text: text.suffixes has {printable(suffix)}"
    return f"none: neither text.suffixes nor images.suffixes has {printable(suffix) or 'its name'}"


# ---- in the ledger -------------------------------------------------------------------------------


def _of_ledger(result: Result) -> list[_Line]:
    lines = [_Line("state", result.state.label)]
    if result.in_parts and result.state is State.QUEUED:
        lines = [_Line("state", "queued; parts of it are there already")]
    if result.reason:
        lines.append(_Line("reason", printable(result.reason)))
    lines.append(_Line("kind", result.kind.label))
    lines.append(_Line("version", f"{result.version} (contents taken in so far)"))
    if result.attempts:
        alone = ", the next one alone in a fresh worker" if result.alone else ""
        lines.append(_Line("attempts", f"{result.attempts}{alone}"))
    times = (
        ("queued", result.queued_ns),
        ("started", result.started_ns),
        ("finished", result.finished_ns),
        ("next attempt", result.retry_ns),
    )
    lines += [_Line(title, local_time(when)) for title, when in times if when is not None]
    return lines


def _of_outcome(reader: Reader, result: Result) -> list[_Line]:
    lines = []
    if result.encoding:
        lines.append(_Line("encoding", result.encoding))
    if result.lines is not None:
        lines.append(_Line("lines", f"{result.lines:,}"))
    held = reader.held(result.id)
    if held.takes:
        shards = ", ".join(map(str, held.shards))
        pieces = f"{size(held.size)} in {amount(held.takes, 'take')}"
        what = "known" if result.kind is Kind.DATASET else "searchable"
        lines.append(_Line(what, f"{pieces} (index shard {shards})"))
    for term, numbers in reader.keywords(result.id).items():
        lines.append(_Line("keyword", f"{printable(term)}: {line_numbers(numbers)}"))
    if result.width and result.height:
        lines.append(_Line("dimensions", f"{result.width} x {result.height}"))
    if result.output is not None:
        there = "" if os.path.lexists(result.output) else " (not there any more)"
        lines.append(_Line("copy", shown(result.output) + there))
    for name, partial in reader.datasets(result.id).items():
        lines.append(_Line("came to", f"{printable(name)}: {tables.summary(partial)}"))
    for output in reader.outputs(result.id):
        there = "" if os.path.lexists(output) else " (not there any more)"
        lines.append(_Line("written to", shown(output) + there))
    return lines


def _next_step(facts: _Facts, result: Result) -> _Line:
    path = quoted(facts.path)
    is_done = result.state is State.DONE and facts.status is not None
    if is_done and result.output is not None and not os.path.lexists(result.output):
        return _Line("next", f"to have its copy made again: touch {path}")
    if result.state is State.GONE and facts.status is not None and _is_left_out(facts):
        return _Line("next", "change that in the configuration, if it is to be taken")
    retry = as_command("retry", facts.config_path)
    return _Line("next", _NEXT[result.state].format(path=path, retry=retry))


def _is_left_out(facts: _Facts) -> bool:
    if facts.root is None or _why_left_out(facts, facts.root):
        return True
    return _rule(facts.config, facts.path).startswith("none")


# ---- not in the ledger ---------------------------------------------------------------------------


def _of_absence(facts: _Facts, source: bytes | None, reason: str) -> list[_Line]:
    if source is not None:
        text = f"it is the grayscale copy of {shown(source)}; a copy is never taken"
        return [_Line("state", "unknown"), _Line("why", text)]
    lines = [_Line("state", "unknown: it is not in the ledger")]
    if reason:
        lines.append(_Line("why", printable(reason)))
    return [*lines, _Line("next", _how_to_have_it_taken(facts))]


def _how_to_have_it_taken(facts: _Facts) -> str:
    if facts.root is None:
        return "put it into a watched folder, or watch its folder (dropmill check)"
    if _why_left_out(facts, facts.root):
        return "change that in the configuration, if it is to be taken"
    if facts.status is None:
        return "nothing: there is no such file"
    if stat.S_ISDIR(facts.status.st_mode):
        results = as_command("results", facts.config_path, "--under", quoted(facts.path))
        return f"ask about a file in it, or: {results}"
    if not stat.S_ISREG(facts.status.st_mode):
        return "put a regular file in its place"
    if _rule(facts.config, facts.path).startswith("none"):
        return "add its suffix to the configuration, if it is to be taken"
    scan, run = (as_command(name, facts.config_path) for name in ("scan", "run"))
    return f"it was not noticed yet: {scan} (or start the daemon: {run})"

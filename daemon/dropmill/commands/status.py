"""`dropmill status`: what runs, how far it is, what is wrong and how to mend it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from .. import __version__, asking, config
from ..errors import DropmillError
from ..job import State
from ..store.reading import OUTCOMES, Reader
from .printing import (
    amount,
    as_command,
    duration,
    has_colour,
    json_path,
    local_time,
    printable,
    rfc3339,
    shown,
    size,
    write_json,
)

_PATIENCE_SECONDS = 5.0
_EVERY_SECONDS = 1.0
_COUNTED = (State.QUEUED, *OUTCOMES)
_ROOT_COLOURS = {"watching": "green", "polling": "green", "degraded": "yellow", "offline": "red"}

Status = dict[str, Any]


def status(config_path: Path, *, as_json: bool, watch: bool) -> int:
    """Prints it, once or every second; gives 0 when the daemon runs, else 1."""
    state_folder = os.fsencode(config.state_folder(config_path))
    if watch:
        _watch(config_path, state_folder, as_json)
    found = gather(config_path, state_folder)
    _print(found, as_json)
    return 0 if found["running"] else 1


def _watch(config_path: Path, state_folder: bytes, as_json: bool) -> NoReturn:
    """Until Ctrl-C."""
    if as_json or not sys.stdout.isatty():
        while True:
            _print(gather(config_path, state_folder), as_json)
            time.sleep(_EVERY_SECONDS)
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            lines = "\n".join(_lines(gather(config_path, state_folder)))
            live.update(Text.from_ansi(lines), refresh=True)
            time.sleep(_EVERY_SECONDS)


def _print(found: Status, as_json: bool) -> None:
    if as_json:
        write_json(_as_json(found), flush=True)
        return
    text = "\n".join(_lines(found))
    print(text if has_colour(sys.stdout) else click.unstyle(text), flush=True)


# ---- what there is to say ------------------------------------------------------------------------


def gather(config_path: Path, state_folder: bytes) -> Status:
    """The promised names, and what else a running daemon tells of itself.

    Paths in it are as `os.fsdecode` gives them, times in ns since the epoch.
    """
    found: Status = {
        "running": False,
        "version": __version__,
        "files": {state.label: 0 for state in _COUNTED},
        "workers": [],
        "roots": [],
        "problems": [],
    }
    _add_counts(found, config_path, state_folder)
    try:
        live = asking.ask(state_folder, "status", {}, _PATIENCE_SECONDS)
        known = asking.address(state_folder)
        found |= {"pid": known.get("pid"), "since": known.get("started")}
        found["problems"] += live.pop("problems", [])
        found |= {"running": True, "version": known.get("version", __version__)} | live
    except asking.NotRunning:
        mend = f"{as_command('run', config_path)}, or systemctl start dropmill"
        found["problems"].insert(0, {"what": "no daemon is running", "mend": mend})
        _add_configured_roots(found, config_path)
    except DropmillError as error:  # there is one, and it does not tell
        found["running"] = True
        found["problems"].insert(0, {"what": str(error), "mend": "journalctl -u dropmill"})
    return found


def _add_counts(found: Status, config_path: Path, state_folder: bytes) -> None:
    if not os.path.exists(os.path.join(state_folder, b"results.db")):
        return  # nothing was taken in yet
    try:
        with Reader(state_folder) as reader:
            counts = reader.counts()
    except DropmillError as error:
        found["problems"].append({"what": str(error), "mend": as_command("run", config_path)})
        return
    found["files"] = {state.label: counts[state] for state in _COUNTED}
    if counts[State.QUARANTINED]:
        what = f"{amount(counts[State.QUARANTINED], 'file')} in quarantine"
        results = as_command("results", config_path, "--state", "quarantined")
        mend = f"{results} says why; {as_command('retry', config_path, '--all')} tries them again"
        found["problems"].append({"what": what, "mend": mend})


def _add_configured_roots(found: Status, config_path: Path) -> None:
    try:
        roots = config.load(config_path).watch
    except DropmillError as error:
        what = str(error).splitlines()[0]
        found["problems"].append({"what": what, "mend": as_command("check", config_path)})
        return
    for root in roots:
        reason = "not running" if root.path.is_dir() else "no such folder"
        entry = {"path": str(root.path), "state": "offline", "directories": 0, "reason": reason}
        found["roots"].append(entry)


# ---- JSON ----------------------------------------------------------------------------------------


def _as_json(found: Status) -> Status:
    shaped = dict(found)
    shaped["workers"] = [
        {**each, "doing": _json_name(each.get("doing")), "since": _json_time(each.get("since"))}
        for each in found["workers"]
    ]
    shaped["roots"] = [{**each, "path": _json_name(each["path"])} for each in found["roots"]]
    if "since" in shaped:
        shaped["since"] = _json_time(shaped["since"])
    return shaped


def _json_name(path: str | None) -> object:
    return None if path is None else json_path(os.fsencode(path))


def _json_time(when: object) -> object:
    """As RFC 3339, of nanoseconds or (a float) seconds since the epoch."""
    if isinstance(when, float):
        when = int(when * 1e9)
    return rfc3339(when) if isinstance(when, int) else when


def _local(when: str) -> str:
    """The local time of a time as JSON has it."""
    return local_time(int(datetime.fromisoformat(when).timestamp() * 1e9))


# ---- for people ----------------------------------------------------------------------------------


def _lines(found: Status) -> list[str]:
    parts = (
        ("files", _file_lines(found)),
        ("throughput", _throughput_lines(found.get("throughput"))),
        ("workers", _worker_lines(found["workers"])),
        ("roots", _root_lines(found["roots"])),
        ("watches", _watch_lines(found)),
        ("problems", _problem_lines(found["problems"])),
    )
    lines = [_headline(found)]
    for title, below in parts:
        for number, line in enumerate(below):
            lines.append(f"{'' if number else title:<12}{line}")
    return lines


def _headline(found: Status) -> str:
    name = f"dropmill {found['version']}: "
    if not found["running"]:
        return name + click.style("not running", fg="red")
    line = name + click.style("running", fg="green")
    if found.get("pid"):
        line += f", process {found['pid']}"
    if isinstance(found.get("since"), int):
        line += f", since {local_time(found['since'])}"
    if found.get("paused"):
        line += click.style(f", paused: {printable(str(found['paused']))}", fg="yellow")
    return line


def _file_lines(found: Status) -> list[str]:
    return [", ".join(f"{count:,} {state}" for state, count in found["files"].items())]


def _throughput_lines(throughput: dict[str, Any] | None) -> list[str]:
    if not throughput:
        return []
    files = float(throughput.get("files_per_second") or 0)
    amount_read = float(throughput.get("bytes_per_second") or 0)
    return [f"{files:,.1f} files/s, {size(amount_read)}/s"]


def _worker_lines(workers: list[dict[str, Any]]) -> list[str]:
    lines = []
    for worker in workers:
        line = f"{worker['pid']:>7}  idle"
        if worker.get("doing"):
            line = f"{worker['pid']:>7}  {shown(os.fsencode(worker['doing']))}"
            line += _for_how_long(worker.get("since"))
        lines.append(line)
    return lines


def _for_how_long(since: object) -> str:
    if isinstance(since, int):
        since /= 1e9
    return f", for {duration(max(0.0, time.time() - since))}" if isinstance(since, float) else ""


def _root_lines(roots: list[dict[str, Any]]) -> list[str]:
    lines = []
    for root in roots:
        state = click.style(root["state"], fg=_ROOT_COLOURS.get(root["state"]))
        line = f"{shown(os.fsencode(root['path']))}  {state}"
        if root.get("directories"):
            line += f", {amount(root['directories'], 'folder')}"
        if root.get("last_scan"):
            line += f", scanned {_local(str(root['last_scan']))}"
        lines.append(line + (f" ({printable(root['reason'])})" if root.get("reason") else ""))
    return lines


def _watch_lines(found: Status) -> list[str]:
    watches = found.get("watches")
    if not watches:
        return []
    line = f"{watches['used']:,} of {watches['limit']:,}"
    overflows = found.get("overflows")
    return [line + (f", {amount(overflows, 'overflow')}" if overflows else "")]


def _problem_lines(problems: list[dict[str, Any]]) -> Iterator[str]:
    for problem in problems:
        for line in problem["what"].splitlines():
            yield click.style(printable(line), fg="yellow")
        if problem.get("mend"):
            yield f"  mend: {printable(problem['mend'])}"

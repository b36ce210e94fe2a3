"""`dropmill run`: the service in the foreground, or once over all that is there."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import config, fork_server, log, tally
from ..errors import DropmillError
from ..job import State
from ..notify import Notify
from ..store.reading import OUTCOMES, Reader, Which
from .printing import amount, as_command, duration, has_colour, printable, shown

_NAMED = 10
_COLLECT_EVERY = 20_000  # new objects; there are no cycles among what a file makes

Progress = Callable[[int, int, str], None]


def run(config_path: Path, *, once: bool) -> int:
    """Runs it; gives its exit code. Raises UsageError for a wrong configuration."""
    notify = Notify.from_environment()  # first: what is started from here on inherits the rest
    fork_server.begin()  # it imports while we do
    gc.disable()
    loaded = config.load(config_path)
    began = time.monotonic()
    # The bar takes stderr over, so that log lines appear above it: the log is set up within.
    with bar() if once and has_colour(sys.stderr) else contextlib.nullcontext() as progress:
        log.configure(loaded.log.level, loaded.log.format)
        if progress and loaded.log.level != "debug":
            tally.say_only_what_went_wrong()
        from ..supervisor import Supervisor

        _collect_seldom()
        supervisor = Supervisor(config_path, loaded, notify, once=once, progress=progress)
        code = int(supervisor.run())
    if once:
        _sum_up(config_path, os.fsencode(loaded.state), time.monotonic() - began)
    return code


def _collect_seldom() -> None:
    """What is imported by now is for good: the garbage collector need not look at it again."""
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
    gc.enable()


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """A progress bar on stderr, drawn when it is told of progress."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.fields[what]}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[count]}", markup=False),
        bars.TimeRemainingColumn(compact=True),
    )
    # A line of the log is the terminal's to wrap: broken by us, it could not be copied as one.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with bars.Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("", total=None, what="looking", count="")

        def show(done: int, total: int, what: str) -> None:
            count = f"{done:,} of {total:,}" if total else ""
            bar.update(task, completed=done, total=total or None, what=printable(what), count=count)
            bar.refresh()

        yield show


def _sum_up(config_path: Path, state_folder: bytes, seconds: float) -> None:
    """One line of what there is now, and the first of the files in quarantine, on stderr."""
    try:
        with Reader(state_folder) as reader:
            counts = reader.counts()
            found = (state for state in (*OUTCOMES, State.QUEUED) if counts[state])
            by_state = ", ".join(f"{counts[state]:,} {state.label}" for state in found)
            print(f"{by_state or 'no files'} in {duration(seconds)}", file=sys.stderr)
            quarantined = Which((State.QUARANTINED,))
            for result in reader.newest(_NAMED, quarantined):
                reason = printable(result.reason or "no reason is known")
                print(f"  {shown(result.path)}: {reason}", file=sys.stderr)
    except DropmillError:
        return  # it stopped before there was anything to read
    if counts[State.QUARANTINED] > _NAMED:
        more = amount(counts[State.QUARANTINED] - _NAMED, "more", "more")
        command = as_command("results", config_path, "--state", "quarantined")
        print(f"  and {more}: {command}", file=sys.stderr)

"""`dropmill init` and `dropmill check`: a configuration that works, and whether one does."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import config
from ..config.examine import Finding, examine
from ..errors import DropmillError
from ..watch.roots import filesystem_of, makes_no_events
from .printing import duration, has_colour, printable

if TYPE_CHECKING:
    from ..config.settings import Root


def init(folder: str) -> int:
    """Writes a configuration and makes the folders that it watches; never overwrites."""
    target = Path(folder, config.NAME)
    text = (resources.files("dropmill") / "quickstart.yaml").read_bytes()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            file.write(text)
    except FileExistsError:
        raise DropmillError(f"{target}: there already; it was left as it is") from None
    except OSError as error:
        raise DropmillError(f"{target}: cannot be written: {error.strerror}") from None
    roots = [root.path for root in config.load(target).watch]
    for root in roots:
        root.mkdir(parents=True, exist_ok=True)
    print("\n".join(_welcome(target, roots)))
    return 0


def _welcome(target: Path, roots: list[Path]) -> list[str]:
    is_elsewhere = target.parent.resolve() != Path.cwd()
    option = f" --config {shlex.quote(str(target))}" if is_elsewhere else ""
    command = shlex.quote(_as_called())
    inboxes = ", ".join(shlex.quote(os.path.relpath(root)) for root in roots)
    return [
        f"wrote {target}; files go into {inboxes}",
        "",
        f"  {command} run{option}            # starts it; Ctrl-C stops it",
        f"  {command} search{option} WORD    # finds the lines that hold it",
        f"  {command} status{option}         # what it does, and what is wrong",
    ]


def _as_called() -> str:
    """How to call dropmill again: by its name, or by the path that it was called by."""
    called = sys.argv[0]
    is_on_path = shutil.which("dropmill") is not None
    return "dropmill" if is_on_path or Path(called).name != "dropmill" else called


def check(config_path: Path) -> int:
    """Prints what would be watched; gives 1 when something could not be."""
    loaded = config.load(config_path)
    print(f"{config_path}: valid")
    how = {root.path: _how(root) for root in loaded.watch}
    findings = examine(loaded)
    text = "\n".join(_line(finding, how.get(finding.path, "")) for finding in findings)
    print(text if has_colour(sys.stdout) else click.unstyle(text))
    return 0 if all(finding.ok for finding in findings) else 1


def _how(root: Root) -> str:
    polled = root.observer == "polling"
    if root.observer == "auto":
        polled = makes_no_events(filesystem_of(os.fsencode(root.path)))
    how = f"looked at every {duration(root.poll_every)}" if polled else "by the kernel's events"
    return f"{how}; a file is taken when it was quiet for {duration(root.settle)}"


def _line(finding: Finding, how: str) -> str:
    verdict = click.style("ok ", fg="green") if finding.ok else click.style("not", fg="red")
    line = f"  {verdict}  {printable(str(finding.path))}: {printable(finding.text)}"
    if finding.ok and how:
        line += f", {how}"
    return line + (f"\n       mend: {printable(finding.mend)}" if finding.mend else "")

"""What stands in the way of a valid configuration on this machine, for `dropmill check`.

Looks at the folders as the caller, changes nothing, and is about now: a folder that is missing
today may be mounted tomorrow, so none of this keeps the service from starting.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .settings import Config, Root


class Finding(NamedTuple):
    """One folder: what would be done with it, or why that cannot be and how to mend it."""

    path: Path
    ok: bool
    text: str
    mend: str = ""


def examine(config: Config) -> list[Finding]:
    """A finding for each watched folder, the state folder and each that copies and
    results go to."""
    findings = [_root(root) for root in config.watch]
    findings.append(_written_to(config.state, "results and index are kept here"))
    if config.images.suffixes:
        findings.append(_written_to(config.images.output, "copies are written here"))
    for each in config.datasets:
        if each.output is not None:
            purpose = f"results of {each.rule.name} are written here"
            findings.append(_written_to(each.output, purpose))
    return findings


def _root(root: Root) -> Finding:
    path = root.path
    try:
        is_folder = path.is_dir()
        missing = not is_folder and not os.path.lexists(path)
    except OSError as error:
        return Finding(path, False, f"cannot be looked at: {error.strerror}", "mend its disk")
    if missing:
        outer = _blocked_above(path)
        if outer is not None:
            return Finding(
                path, False, f"{_user()} may not look into {outer}", f"chmod a+x {outer}"
            )
        return Finding(path, False, "does not exist", f"mkdir -p {path}, or mount what it is on")
    if not is_folder:
        return Finding(path, False, "is not a folder", "name the folder that it lies in")
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        mend = f"give {_user()} the right to read it (setfacl -m u:{_user()}:rX {path})"
        return Finding(path, False, f"cannot be read by {_user()}", mend)
    below = "with its subfolders" if root.recursive else "without its subfolders"
    return Finding(path, True, f"would be watched, {below}")


def _written_to(path: Path, purpose: str) -> Finding:
    """About a folder that exists and can be written to, or can be made."""
    existing = path
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return Finding(path, False, f"{existing} is not a folder", "name another folder")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        verb = "be written to" if existing == path else f"be made: {existing} cannot be written to"
        owner = f"chown {_user()} {path}"
        mend = owner if existing == path else f"mkdir -p {path} && {owner}, as root"
        return Finding(path, False, f"cannot {verb} by {_user()}", mend)
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        return Finding(path, False, "lies on a disk mounted read-only", "name another folder")
    return Finding(path, True, purpose if existing == path else f"{purpose}; it will be made")


def _blocked_above(path: Path) -> Path | None:
    """The folder above `path` that keeps it from being seen at all."""
    for outer in reversed(path.parents):
        if outer.is_dir() and not os.access(outer, os.X_OK, effective_ids=True):
            return outer
    return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"

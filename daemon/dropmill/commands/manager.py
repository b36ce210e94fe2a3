"""A service manager: where its files lie, what is asked of it, and what others did to our files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ..errors import DropmillError, UsageError
from . import unit
from .printing import printable

UNIT = "dropmill.service"
USER = "dropmill"
_SECONDS = 120.0


class Manager(NamedTuple):
    """The system's service manager, or the caller's own; and where it looks for units."""

    is_users: bool
    units: Path

    @property
    def unit_file(self) -> Path:
        return self.units / UNIT

    @property
    def drop_in(self) -> Path:
        return self.units / f"{UNIT}.d" / "10-install.conf"

    @property
    def sysusers(self) -> Path:
        """Where the user that the system's service runs as is declared."""
        return Path("/etc/sysusers.d/dropmill.conf")

    @property
    def shipped(self) -> dict[Path, bytes]:
        """What is put in place as it is."""
        packaged = resources.files("dropmill") / "units"
        template = "dropmill-user.service" if self.is_users else UNIT
        files = {self.unit_file: (packaged / template).read_bytes()}
        if not self.is_users:
            files[self.sysusers] = (packaged / "dropmill.sysusers").read_bytes()
        return files

    def command(self, program: str, *words: str) -> list[str]:
        """`systemctl --user ...` or `systemctl ...`, and the like."""
        return [program, *(["--user"] if self.is_users else []), *words]

    def answers(self) -> bool:
        """Whether it runs, and can be asked from here."""
        if not self.is_users and not os.path.isdir("/run/systemd/system"):
            return False
        return called(self.command("systemctl", "show", "--property=Version")).returncode == 0

    def recorded(self) -> unit.Recorded | None:
        """What the drop-in says was installed; None where there is none, or not ours."""
        content = _content(self.drop_in)
        return None if content is None else unit.recorded(content)


def of(*, user: bool) -> Manager:
    """Nothing is looked at or asked yet."""
    if not user:
        return Manager(False, Path("/etc/systemd/system"))
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Manager(True, Path(home, "systemd", "user"))


class Step(NamedTuple):
    """Something to be done, and what is said of it before."""

    sentence: str
    do: Callable[[], None]


def require_its_user(manager: Manager, dry_run: bool) -> None:
    """Raises UsageError where the caller may not change the system's units."""
    if not (manager.is_users or dry_run) and os.geteuid():
        raise UsageError(
            "the system's services are root's to change: run it by sudo, or with --user for a"
            " service of your own"
        )


def require_systemd() -> None:
    """Raises DropmillError where there is none."""
    if not shutil.which("systemctl"):
        raise DropmillError(
            "there is no systemd here: have whatever starts services run `dropmill run`"
        )


# ---- asking --------------------------------------------------------------------------------------


def called(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A command to its end, with its output; 127 when it is not there."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, f"{command[0]}: {error.strerror}")


def order(command: list[str]) -> None:
    """A command that is to succeed. Raises DropmillError with what it says."""
    ended = called(command)
    if ended.returncode:
        raise DropmillError(f"{' '.join(command)}: {_last_line(ended)}")


def attempt(command: list[str]) -> None:
    """A command whose failure is told, and no reason to stop."""
    ended = called(command)
    if ended.returncode:
        print(f"dropmill: {' '.join(command)}: {_last_line(ended)}", file=sys.stderr)


def _last_line(ended: subprocess.CompletedProcess[str]) -> str:
    lines = ended.stdout.strip().splitlines()
    return printable(lines[-1]) if lines else f"exit code {ended.returncode}"


def systemd_version() -> int:
    """0 where there is none."""
    found = re.match(r"systemd (\d+)", called(["systemctl", "--version"]).stdout)
    return int(found[1]) if found else 0


def gives_sandboxes(manager: Manager) -> bool:
    """Whether a user's own services can be kept apart by namespaces here; found out by one."""
    if not (manager.is_users and manager.answers()):
        return True
    properties = ("PrivateUsers=yes", "ProtectSystem=strict", "PrivateTmp=yes")
    options = [f"--property={each}" for each in properties]
    tried = manager.command("systemd-run", "--wait", "--quiet", "--collect", *options, "true")
    return called(tried).returncode == 0


def verify(manager: Manager, files: dict[Path, bytes]) -> None:
    """Has systemd read the unit with its drop-in, before they are put in place.

    Raises DropmillError with what it objects to.
    """
    if not shutil.which("systemd-analyze"):
        print("dropmill: there is no systemd-analyze: the unit was not checked", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="dropmill-") as folder:
        for path, content in files.items():
            if path.is_relative_to(manager.units):
                copy = Path(folder, path.relative_to(manager.units))
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(content)
        words = ("verify", "--man=no", "--recursive-errors=no", str(Path(folder, UNIT)))
        ended = called(manager.command("systemd-analyze", *words))
    said = printable(ended.stdout.strip().replace(f"{folder}/", ""))
    if ended.returncode:
        raise DropmillError(f"nothing was written: systemd-analyze verify says: {said}")
    if said:
        print(f"dropmill: systemd-analyze verify says: {said}", file=sys.stderr)


# ---- files ---------------------------------------------------------------------------------------


def refuse_changed(manager: Manager, files: Iterable[Path]) -> None:
    """Raises DropmillError where one of the files is there and not as we left it."""
    changed = [path for path in files if _is_changed(manager, path)]
    if changed:
        names = ", ".join(map(str, changed))
        verb = "were" if len(changed) > 1 else "was"
        raise DropmillError(
            f"{names}: {verb} changed, or not written by `dropmill service install`: nothing was"
            f" done; `{' '.join(manager.command('systemctl', 'edit', 'dropmill'))}` keeps changes"
            " in a file of its own, --force has them lost"
        )


def _is_changed(manager: Manager, path: Path) -> bool:
    content = _content(path)
    if content is None or content == manager.shipped.get(path):
        return False
    recorded = manager.recorded()
    if recorded is None:
        return True
    if path == manager.drop_in:
        return recorded.is_changed
    return recorded.hashes.get(path) != unit.digest(content)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DropmillError(f"{path}: cannot be read: {error.strerror}") from None


def put(path: Path, content: bytes) -> None:
    """A file whole or not at all, for everybody to read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partly = path.with_name(f".{path.name}.new")
        partly.write_bytes(content)
        partly.chmod(0o644)
        partly.replace(path)
    except OSError as error:
        raise DropmillError(f"{path}: cannot be written: {error.strerror}") from None

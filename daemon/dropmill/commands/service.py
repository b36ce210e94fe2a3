"""`dropmill service install` and `uninstall`: systemd is told of this installation, or no more."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..errors import DropmillError, UsageError
from . import manager as managers
from . import unit
from .manager import UNIT, USER, Manager, Step
from .printing import printable

if TYPE_CHECKING:
    from ..config.settings import Config

_SECONDS = 60.0


# ---- install -------------------------------------------------------------------------------------


def install(config_path: Path, *, user: bool, dry_run: bool, force: bool) -> int:
    """Puts the unit in place, for this interpreter and configuration; says each step before.

    With `dry_run`, that is all, and what would be written is printed. Raises UsageError for a wrong
    configuration or the wrong user, DropmillError where somebody else changed the files (unless
    `force`), where systemd objects to the unit, or where the service's user could not run it.
    """
    manager = managers.of(user=user)
    managers.require_its_user(manager, dry_run)
    managers.require_systemd()
    loaded = config.load(config_path)
    config_path = Path(os.path.abspath(config_path))
    files = _files(manager, config_path, loaded)
    if not force:
        managers.refuse_changed(manager, files)
    steps = list(_installing(manager, config_path, loaded, files))
    _announce(steps, dry_run)
    if dry_run:
        for path, content in files.items():
            print(f"\n---- {path}\n\n{content.decode()}", end="")
        return 0
    for step in steps:
        step.do()
    print("\n".join(_what_next(manager, config_path)))
    return 0


def _files(manager: Manager, config_path: Path, loaded: Config) -> dict[Path, bytes]:
    """What is to be written, and where; the drop-in last."""
    about = (config_path, loaded, unit.this_interpreter(), managers.systemd_version())
    if manager.is_users:
        has_sandbox = managers.gives_sandboxes(manager)
        settings = unit.settings_for_user(*about, has_sandbox=has_sandbox)
    else:
        settings = unit.settings_for_system(*about)
    shipped = manager.shipped
    drop_in = unit.drop_in(settings, config_path, shipped, user=manager.is_users)
    return {**shipped, manager.drop_in: drop_in}


def _installing(
    manager: Manager, config_path: Path, loaded: Config, files: dict[Path, bytes]
) -> Iterator[Step]:
    yield Step("have systemd-analyze verify the unit", partial(managers.verify, manager, files))
    if not manager.is_users:
        declared = manager.sysusers
        yield Step(f"write {declared}", partial(managers.put, declared, files[declared]))
        make_user = ["systemd-sysusers", str(declared)]
        yield Step(f"make the user and group {USER}", partial(managers.order, make_user))
    owner = None if manager.is_users else USER
    for folder in unit.outputs(loaded):
        if not os.path.isdir(folder):
            whose = f" for the user {owner}" if owner else ""
            yield Step(f"make the folder {folder}{whose}", partial(_make_folder, folder, owner))
    who = f"the user {owner}" if owner else "the service"
    yield Step(f"see whether {who} could run it", partial(_try_out, config_path, owner))
    for path, content in files.items():
        if path.is_relative_to(manager.units):
            yield Step(f"write {path}", partial(managers.put, path, content))
    yield Step("have systemd read its units again", partial(_read_again, manager))


def _announce(steps: list[Step], dry_run: bool) -> None:
    print("this would be done:" if dry_run else "this is done now:")
    for step in steps:
        print(f"  {printable(step.sentence)}")
    sys.stdout.flush()


def _make_folder(folder: Path, owner: str | None) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o750)
        if owner is not None:
            account = pwd.getpwnam(owner)
            os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)
    except OSError as error:
        raise DropmillError(f"{folder}: cannot be made: {error.strerror}") from None


def _read_again(manager: Manager) -> None:
    if manager.answers():
        managers.order(manager.command("systemctl", "daemon-reload"))
    else:
        print("dropmill: systemd does not answer here: it learns of it later", file=sys.stderr)


def _try_out(config_path: Path, owner: str | None) -> None:
    """Runs `check` as the service's user, by its interpreter; tells what does not work yet.

    Raises DropmillError when that user cannot even run it or read the configuration.
    """
    program = unit.this_interpreter().program
    command = [str(program), "-P", "-m", "dropmill"]
    who = f"the user {owner}" if owner else "the service"
    ended = _run_as(owner, [*command, "--version"])
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["it does not start"])[-1]
        raise DropmillError(
            f"{who} cannot run {program}: {printable(reason)}: install dropmill where it can, such"
            " as in /opt/dropmill"
        )
    ended = _run_as(owner, [*command, "--config", str(config_path), "check"])
    if ended.returncode == 2:
        raise UsageError(f"{who} cannot use the configuration: {ended.stderr.strip()}")
    if ended.returncode:
        _, _, found = ended.stdout.partition("\n")
        print(f"dropmill: this does not work yet for {who}:\n{found.rstrip()}", file=sys.stderr)


def _run_as(owner: str | None, command: list[str]) -> subprocess.CompletedProcess[str]:
    """As systemd would: with that user's groups, and nothing of the caller's environment."""
    become: dict[str, object] = {}
    if owner is not None:
        account = pwd.getpwnam(owner)
        groups = os.getgrouplist(owner, account.pw_gid)
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": os.path.expanduser(f"~{owner or ''}"),
    }
    try:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            **become,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", error.strerror or str(error))


def _what_next(manager: Manager, config_path: Path) -> Iterator[str]:
    def said(*words: str) -> str:
        return " ".join(manager.command("systemctl", *words))

    is_active = managers.called(manager.command("systemctl", "is-active", UNIT)).returncode == 0
    yield "done; what comes next:"
    if is_active:
        yield f"  {said('restart', 'dropmill')}"
    else:
        yield f"  {said('enable', '--now', 'dropmill')}"
    yield f"  {said('status', 'dropmill')}"
    if manager.is_users:
        yield "  loginctl enable-linger    # to have it run from boot on, not from your login"
        return
    yield "  usermod -aG dropmill NAME    # lets NAME search, and command the service"
    option = shlex.quote(str(config_path))
    if config_path != Path("/etc/dropmill") / config.NAME:
        yield f"  dropmill --config {option} status"


# ---- uninstall -----------------------------------------------------------------------------------


def uninstall(*, user: bool, dry_run: bool, force: bool) -> int:
    """Takes away what `install` put in place, and says what it leaves and where.

    Raises UsageError for the wrong user, DropmillError where nothing is installed, or where
    somebody else changed the files (unless `force`).
    """
    manager = managers.of(user=user)
    managers.require_its_user(manager, dry_run)
    files = [*manager.shipped, manager.drop_in]
    there = [path for path in files if path.exists()]
    if not there:
        raise DropmillError(f"not installed: there is no {manager.unit_file}")
    if not force:
        managers.refuse_changed(manager, there)
    left = list(_what_is_left(manager, manager.recorded()))
    steps = list(_uninstalling(manager, there))
    _announce(steps, dry_run)
    if not dry_run:
        for step in steps:
            step.do()
    print("\n".join(["this is left as it is:", *(f"  {printable(line)}" for line in left)]))
    return 0


def _uninstalling(manager: Manager, files: list[Path]) -> Iterator[Step]:
    stop = manager.command("systemctl", "disable", "--now", UNIT)
    yield Step("stop and disable the service", partial(managers.attempt, stop))
    for path in files:
        yield Step(f"remove {path}", partial(_remove, path))
    yield Step("have systemd read its units again", partial(_read_again, manager))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DropmillError(f"{path}: cannot be removed: {error.strerror}") from None
    if path.parent.name == f"{UNIT}.d":
        with contextlib.suppress(OSError):  # somebody else's drop-ins are in it
            path.parent.rmdir()


def _what_is_left(manager: Manager, recorded: unit.Recorded | None) -> Iterator[str]:
    if recorded is not None:
        yield f"{recorded.configuration}: the configuration"
        yield from _of_configuration(recorded.configuration)
    for path in sorted(manager.drop_in.parent.glob("*.conf")):
        if path != manager.drop_in:
            yield f"{path}: a drop-in that is not ours"
    if not manager.is_users:
        yield f"the user and group {USER}, whose these files are: `userdel {USER}` removes them"


def _of_configuration(path: Path) -> Iterator[str]:
    try:
        loaded = config.load(path)
    except DropmillError:
        yield f"{unit.STATE}: what is known of the files, unless the configuration said otherwise"
        return
    folders = unit.outputs(loaded)
    yield f"{folders[0]}: what is known of the files; it can be built anew from them"
    for folder in folders[1:]:
        yield f"{folder}: the grayscale copies"

"""What systemd is told of this installation: a drop-in beside the unit, which stays as shipped.

The drop-in's head names the configuration and keeps a hash of every file that was put in place,
its own included: so that what somebody changed since is known, and left alone.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__
from ..errors import UsageError
from .printing import printable

if TYPE_CHECKING:
    from ..config.settings import Config

STATE = Path("/var/lib/dropmill")  # the unit's StateDirectory
_GROWING_DELAYS = 254  # the systemd that knows of them
# What ProtectHome= and PrivateTmp= hide, and what lies in it is hidden with it.
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_HIDDEN = (*_HOMES, Path("/tmp"), Path("/var/tmp"))
# What the units let be executed as they are.
_EXECUTABLE = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64")
# Without a user namespace a user cannot even give up capabilities, as each of these does.
WITHOUT_NAMESPACES = (
    "PrivateUsers=no",
    "CapabilityBoundingSet=~",
    "PrivateDevices=no",
    "ProtectClock=no",
    "ProtectKernelLogs=no",
    "ProtectKernelModules=no",
)

_HEAD = """\
# Written by `dropmill service install`, version {version}. Leave it as it is: `{edit}`
# opens a file of your own for what you want otherwise, and `install` replaces no changed file.
# configuration: {config}
{hashes}# sha256 of what follows: {own}
"""
_CONFIGURATION = re.compile(r"^# configuration: (.+)$", re.MULTILINE)
_HASH = re.compile(r"^# sha256 of (/.+): ([0-9a-f]{64})$", re.MULTILINE)
_OWN_HASH = re.compile(r"^# sha256 of what follows: ([0-9a-f]{64})\n", re.MULTILINE)


class Interpreter(NamedTuple):
    """What runs dropmill: a program, and the folders that it needs to be shown and executed."""

    program: Path
    folders: tuple[Path, ...]


def this_interpreter() -> Interpreter:
    """The one that runs now, with its environment and the package's own folder."""
    program = Path(sys.executable)
    package = Path(__file__).resolve().parent.parent
    folders = (Path(sys.prefix), Path(sys.base_prefix), program.resolve().parent.parent, package)
    return Interpreter(program, tuple(dict.fromkeys(each for each in folders if each.name)))


class Recorded(NamedTuple):
    """What the head of a drop-in says was put in place."""

    configuration: Path
    hashes: dict[Path, str]
    is_changed: bool  # the drop-in itself, since


# ---- the file ------------------------------------------------------------------------------------


def drop_in(settings: str, config_path: Path, beside: dict[Path, bytes], *, user: bool) -> bytes:
    """The whole file: its head and `settings`; `beside` are the files installed with it."""
    return (
        _HEAD.format(
            version=__version__,
            edit="systemctl --user edit dropmill" if user else "systemctl edit dropmill",
            config=_plain(config_path),
            hashes="".join(
                f"# sha256 of {path}: {digest(content)}\n" for path, content in beside.items()
            ),
            own=digest(settings.encode()),
        )
        + settings
    ).encode()


def recorded(content: bytes) -> Recorded | None:
    """What a drop-in says; None if it is none of ours."""
    text = content.decode(errors="replace")
    own, configuration = _OWN_HASH.search(text), _CONFIGURATION.search(text)
    if own is None or configuration is None:
        return None
    hashes = {Path(path): value for path, value in _HASH.findall(text[: own.start()])}
    is_changed = digest(text[own.end() :].encode()) != own[1]
    return Recorded(Path(configuration[1]), hashes, is_changed)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- what stands in it ---------------------------------------------------------------------------


def settings_for_system(
    config_path: Path, config: Config, interpreter: Interpreter, systemd: int
) -> str:
    """For the system's unit: what it must run, and which folders it must see and write to."""
    written = list(_outermost(each for each in outputs(config) if not _is_in(each, (STATE,))))
    seen = [config_path.parent, *interpreter.folders, *(_around(r.path) for r in config.watch)]
    shown = [each for each in _outermost(seen) if _is_in(each, _HIDDEN)]
    bound = [each for each in written if _is_in(each, _HIDDEN)]
    lines = ["[Unit]", _listed("RequiresMountsFor", [config_path.parent, config.state]), ""]
    lines += ["[Service]", *_command(config_path, interpreter), *_restarting(systemd)]
    if any(_is_in(each, _HOMES) for each in (*shown, *bound)):
        lines += ["# Homes stay hidden, but for what is named here.", "ProtectHome=tmpfs"]
    lines += [_listed("BindReadOnlyPaths", [each], "-") for each in shown]
    lines += [_listed("BindPaths", [each], "-") for each in bound]
    lines += [_listed("ReadWritePaths", [each], "-") for each in written if each not in bound]
    return "\n".join(lines) + "\n"


def settings_for_user(
    config_path: Path, config: Config, interpreter: Interpreter, systemd: int, *, has_sandbox: bool
) -> str:
    """For a user's own unit; `has_sandbox` is whether the kernel lets users have namespaces."""
    lines = ["[Service]", *_command(config_path, interpreter), *_restarting(systemd)]
    lines += [_listed("ReadWritePaths", [each], "-") for each in _outermost(outputs(config))]
    hidden = (Path("/tmp"), Path("/var/tmp"))
    seen = [config_path.parent, *interpreter.folders, *(_around(r.path) for r in config.watch)]
    lines += [
        _listed("BindReadOnlyPaths", [each], "-")
        for each in _outermost(seen)
        if _is_in(each, hidden)
    ]
    if not has_sandbox:
        lines += ["# This machine refuses users the namespaces that a sandbox is made of."]
        lines += [*WITHOUT_NAMESPACES]
    return "\n".join(lines) + "\n"


def outputs(config: Config) -> list[Path]:
    """The folders that dropmill writes to."""
    copies = [config.images.output] if config.images.suffixes else []
    results = [each.output for each in config.datasets if each.output is not None]
    return [config.state, *copies, *results]


def _command(config_path: Path, interpreter: Interpreter) -> Iterator[str]:
    words = (interpreter.program, "-P", "-m", "dropmill", "--config", config_path, "run")
    yield "ExecStart="
    yield "ExecStart=" + " ".join(_quoted(word).replace("$", "$$") for word in words)
    places = [each for each in interpreter.folders if not _is_in(each, map(Path, _EXECUTABLE))]
    # Of a whole file system such as /usr, no more than the interpreter and its libraries.
    narrow = [each for each in places if each not in (Path("/usr"), Path("/usr/local"))]
    yield _listed("ExecPaths", [*_outermost(narrow), interpreter.program.resolve()], "-")


def _restarting(systemd: int) -> Iterator[str]:
    if systemd >= _GROWING_DELAYS:
        yield "RestartSteps=8"
        yield "RestartMaxDelaySec=5min"


def _around(root: Path) -> Path:
    """What to show of a root that is hidden: the folder above, where only that is hidden too.

    A root shown by itself would be the folder that it was at the start for ever, even after
    another one took its place.
    """
    above = root.parent
    return above if any(above != each and _is_in(above, (each,)) for each in _HIDDEN) else root


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _outermost(folders: Iterable[Path]) -> Iterator[Path]:
    """Without those that lie in another of them, and each once."""
    each_once = list(dict.fromkeys(folders))
    for folder in each_once:
        if not any(folder != other and folder.is_relative_to(other) for other in each_once):
            yield folder


# ---- how systemd reads ---------------------------------------------------------------------------


def _listed(key: str, paths: Iterable[Path], mark: str = "") -> str:
    return f"{key}=" + " ".join(_quoted(f"{mark}{_plain(path)}") for path in paths)


def _quoted(word: str | Path) -> str:
    """One word of a setting, whatever is in it."""
    text = _plain(word).replace("%", "%%")
    if re.fullmatch(r"[\w./%+@,=-]+", text, re.ASCII):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _plain(word: str | Path) -> str:
    """Raises UsageError for a name that a unit cannot hold."""
    text = str(word)
    if not text.isprintable():
        raise UsageError(f"{printable(text)}: a unit cannot name it: rename it")
    return text

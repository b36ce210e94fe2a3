"""How commands write times, sizes, paths and JSON: the same everywhere."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from .. import config
from ..errors import DropmillError
from ..log import printable, rfc3339, shown

__all__ = ["printable", "rfc3339", "shown"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def quoted(path: bytes) -> str:
    """A path as a word for a shell, to be pasted into one; unprintable bytes as bash escapes."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        text = "\n"
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_shell_escape(byte) for byte in path) + "'"


def _shell_escape(byte: int) -> str:
    if byte in b"\\'":
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


def as_command(name: str, config_path: Path, *arguments: str) -> str:
    """A command about the same configuration, to be pasted into a shell."""
    found = None
    with contextlib.suppress(DropmillError):
        found = config.find(None)
    option = () if found == config_path else ("--config", quoted(os.fsencode(config_path)))
    return " ".join(("dropmill", name, *option, *arguments))


def json_path(path: bytes) -> str | dict[str, str]:
    """A path as JSON gives it: a string, or `{"bytes": base64}` where it is not UTF-8."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        import base64

        return {"bytes": base64.b64encode(path).decode("ascii")}


def write_json(value: dict[str, Any], *, flush: bool = False) -> None:
    """One object on a line of stdout, in UTF-8 whatever the locale says."""
    line = json.dumps(value, ensure_ascii=False) + "\n"
    # A lone surrogate becomes the JSON escape for itself.
    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace"))
    if flush:
        sys.stdout.buffer.flush()


def local_time(time_ns: int) -> str:
    return _local(time_ns // 10**9)


@functools.lru_cache(maxsize=8)  # a listing names the same second many times
def _local(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def amount(count: int, one: str, many: str | None = None) -> str:
    """`1 file`, `1,234 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Bytes as people read them, by powers of 1000: `812 bytes`, `4.2 MB`."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // below} {below_name}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def absolute(path: str) -> bytes:
    """A path as the ledger has it: absolute, its folder's links resolved, its own left."""
    folder, name = os.path.split(os.path.abspath(os.fsencode(path)))
    return os.path.join(os.path.realpath(folder), name)


def has_colour(stream: Any) -> bool:
    """Colour only on a terminal that has it, and never with NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

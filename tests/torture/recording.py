"""What programs do to the files below a folder, recorded with strace, as a list of operations.

Who replays it compares the end with the disk itself, so a call that is not understood here does
not go unseen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CALLS = (
    "open openat openat2 creat write writev pwrite64 pwritev pwritev2 lseek ftruncate truncate"
    " fallocate fsync fdatasync syncfs sync rename renameat renameat2 unlink unlinkat rmdir mkdir"
    " mkdirat link linkat symlink symlinkat utimensat copy_file_range sendfile"
)
UNRECORDED = (b"-shm", b"/slots")  # written through memory maps, and not made to last
_UNREADABLE = {
    "truncate", "pwritev", "pwritev2", "link", "linkat", "symlink", "symlinkat",
    "copy_file_range", "sendfile", "openat2", "creat",
}  # fmt: skip
_PLACE = r"(?:AT_FDCWD|\d+)<([^>]*)>(\(deleted\))?"
_FIRST_PLACE = re.compile(r"(\w+)\((AT_FDCWD|\d+)<([^>]*)>(\(deleted\))?")
_FOLDER_OF_NAME = re.compile(_PLACE + r", $")
_RESULT = re.compile(r" = (-?\d+)(?:<[^>]*>)?(?: .*)?$")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_TIME = re.compile(r"\{tv_sec=(-?\d+), tv_nsec=(\d+)\}")
_UNFINISHED = " <unfinished ...>"


class Operation(NamedTuple):
    """One step that a disk sees. A sync is two: it covers what was there when it began."""

    kind: str  # create write resize extend times mkdir rename unlink rmdir sync synced
    path: bytes = b""
    other: bytes = b""  # rename: the new path
    number: int = 0  # write: offset; resize, extend: size; times: mtime_ns; sync, synced: which
    data: bytes = b""


class UnreadableError(Exception):
    """The recording holds what cannot be replayed."""


def why_not() -> str:
    """Why nothing can be recorded here; empty where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed: apt-get install strace"
    tried = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "-e", "trace=close", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


def command(output: Path) -> list[str]:
    """What to put before a command to have its calls, and its children's, added to `output`."""
    calls = ",".join(f"?{name}" for name in _CALLS.split())
    return [
        "strace", "-f", "--seccomp-bpf", "-A", "-q", "-y", "-xx", "-s", str(1 << 28),
        "-e", f"trace={calls}", "-e", "signal=none", "-o", str(output),
    ]  # fmt: skip


def read(
    output: Path, folder: bytes, parts: tuple[bytes, ...], seconds: float = 10
) -> list[Operation]:
    """The operations on `parts` of `folder`, which was the programs' current one, in their order.

    Waits until strace has written the last of them. Raises UnreadableError.
    """
    deadline = time.monotonic() + seconds
    while _is_open(output) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(_Reader(folder, parts).operations(output))


def _is_open(path: Path) -> bool:
    found = subprocess.run(
        ["sh", "-c", 'ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q -F -e "-> $1"', "sh", str(path)],
        check=False,
    )
    return found.returncode == 0


class _Reader:
    def __init__(self, folder: bytes, parts: tuple[bytes, ...]) -> None:
        self._folder = folder
        self._parts = tuple(os.path.join(folder, part, b"") for part in parts)
        self._positions: dict[tuple[str, str], int | None] = {}  # None: at the end, always
        self._begun: dict[str, tuple[str, Operation | None]] = {}
        self._syncs = 0

    def operations(self, output: Path) -> Iterator[Operation]:
        with output.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                process, _, rest = line.rstrip("\n").partition(" ")
                rest = rest.lstrip()
                if rest.startswith(("+++", "---")):
                    continue
                if rest.endswith(_UNFINISHED):
                    rest = rest.removesuffix(_UNFINISHED)
                    sync = self._sync(rest)
                    self._begun[process] = rest, sync
                    if sync is not None:
                        yield sync
                    continue
                resumed = _RESUMED.match(rest)
                if resumed:
                    start, sync = self._begun.pop(process)
                    rest = start + rest[resumed.end() :]
                else:
                    sync = self._sync(rest)
                    if sync is not None:
                        yield sync
                yield from self._finished(process, rest, sync)

    def _sync(self, call: str) -> Operation | None:
        name = call.partition("(")[0]
        if name == "sync":
            path: bytes | None = b""
        elif name in ("fsync", "fdatasync", "syncfs"):
            path = self._of_descriptor(call)
        else:
            return None
        if path is None:
            return None
        self._syncs += 1
        everything = name in ("sync", "syncfs")
        how = {"fsync": b"", "fdatasync": b"data"}.get(name, b"all")
        return Operation("sync", b"" if everything else path, how, self._syncs)

    def _finished(self, process: str, call: str, sync: Operation | None) -> Iterator[Operation]:
        parts = call.split('"')  # what is quoted is in hexadecimal
        result = _RESULT.search(parts[-1])
        value = int(result[1]) if result else -1
        if value < 0:
            return
        name = call.partition("(")[0]
        if sync is not None:
            yield sync._replace(kind="synced")
        elif name in ("open", "openat"):
            yield from self._opened(process, parts, str(value))
        elif name in ("write", "writev", "pwrite64", "ftruncate", "fallocate", "lseek"):
            yield from self._on_descriptor(process, name, call, parts, value)
        elif name in _UNREADABLE:
            if any(self._is_ours(path) for path in self._paths(parts)) or self._of_descriptor(call):
                raise UnreadableError(call[:300])
        elif name not in ("fsync", "fdatasync", "syncfs"):
            yield from self._on_names(name, parts)

    # ---- descriptors -------------------------------------------------------------------------

    def _of_descriptor(self, call: str) -> bytes | None:
        """The path of the call's first descriptor, if it is ours and still there."""
        found = _FIRST_PLACE.match(call)
        if found is None or found[4]:
            return None
        path = _unhex(found[3])
        return path if self._is_ours(path) else None

    def _opened(self, process: str, parts: list[str], descriptor: str) -> Iterator[Operation]:
        (path,) = self._paths(parts)
        if not self._is_ours(path):
            return
        flags = parts[2]
        self._positions[process, descriptor] = None if "O_APPEND" in flags else 0
        if "O_CREAT" in flags:
            yield Operation("create", path)
        if "O_TRUNC" in flags:
            yield Operation("resize", path)

    def _on_descriptor(
        self, process: str, name: str, call: str, parts: list[str], value: int
    ) -> Iterator[Operation]:
        path = self._of_descriptor(call)
        if path is None:
            return
        found = _FIRST_PLACE.match(call)
        key = process, found[2] if found else ""
        after = parts[-1].partition(")")[0].split(",")  # the arguments behind the data
        if name == "lseek":
            self._positions[key] = value
        elif name == "ftruncate":
            yield Operation("resize", path, number=int(call.rpartition(")")[0].split(", ")[1]))
        elif name == "fallocate":
            mode, offset, length = call.rpartition(")")[0].split(", ")[1:]
            if mode != "0":
                raise UnreadableError(call[:300])
            yield Operation("extend", path, number=int(offset) + int(length))
        else:
            data = b"".join(map(_unhex, parts[1::2]))[:value]
            if name == "pwrite64":
                yield Operation("write", path, number=int(after[-1]), data=data)
                return
            if key not in self._positions:
                raise UnreadableError(f"the position is not known: {call[:200]}")
            at = self._positions[key]
            yield Operation("write", path, number=-1 if at is None else at, data=data)
            if at is not None:
                self._positions[key] = at + value

    # ---- names -------------------------------------------------------------------------------

    def _on_names(self, name: str, parts: list[str]) -> Iterator[Operation]:
        paths = self._paths(parts)
        if not any(map(self._is_ours, paths)):
            return
        if name.startswith("rename"):
            yield Operation("rename", paths[0], paths[1])
        elif name.startswith("unlink"):
            yield Operation("rmdir" if "AT_REMOVEDIR" in parts[-1] else "unlink", paths[0])
        elif name == "rmdir":
            yield Operation("rmdir", paths[0])
        elif name.startswith("mkdir"):
            yield Operation("mkdir", paths[0])
        elif name == "utimensat":
            times = _TIME.findall(parts[-1])
            if len(times) != 2:
                raise UnreadableError(f"utimensat{parts[-1]}")
            yield Operation("times", paths[0], number=int(times[1][0]) * 10**9 + int(times[1][1]))

    def _paths(self, parts: list[str]) -> list[bytes]:
        """The paths that a call names, absolute."""
        found = []
        for before, quoted in zip(parts[0::2], parts[1::2], strict=False):
            folder = _FOLDER_OF_NAME.search(before)
            base = _unhex(folder[1]) if folder else self._folder
            found.append(os.path.normpath(os.path.join(base, _unhex(quoted))))
        return found

    def _is_ours(self, path: bytes) -> bool:
        is_below = (path + b"/").startswith(self._parts)
        return path == self._folder or (is_below and not path.endswith(UNRECORDED))


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))

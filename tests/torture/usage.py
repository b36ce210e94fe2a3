"""What a service and its children use: memory, threads, descriptors."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY = 48 << 20  # caches are filled up to what they may hold
FEW = 4


class Usage(NamedTuple):
    """Of all processes together."""

    processes: int
    memory: int  # resident, bytes
    threads: int
    descriptors: int


def usage(pid: int) -> Usage:
    total = Usage(0, 0, 0, 0)
    for process in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            folder = Path("/proc", str(process))
            one = Usage(
                1,
                int((folder / "statm").read_text().split()[1]) * _PAGE,
                len(os.listdir(folder / "task")),
                len(os.listdir(folder / "fd")),
            )
            total = Usage(*map(sum, zip(total, one, strict=True)))
    return total


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def growth(before: Usage, after: Usage) -> list[str]:
    """What has grown by more than chance."""
    most = Usage(0, MEMORY, FEW, FEW)
    return [
        f"{name} grew from {old} to {new}"
        for name, old, new, allowed in zip(Usage._fields, before, after, most, strict=True)
        if new - old > allowed
    ]

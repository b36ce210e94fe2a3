"""What figures depend on: the machine, and the versions of everything that was measured."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

import dropmill

_TOOLS = {
    "mogrify": ["mogrify", "-version"],
    "vips": ["vips", "--version"],
    "recollindex": ["dpkg-query", "-W", "-f", "${Version}", "recollcmd"],
    "rg": ["rg", "--version"],
    "jpegtran": ["jpegtran", "-version"],
    "find": ["find", "--version"],
    "duckdb": ["duckdb", "--version"],
}
_MISSING = "not installed"


def about() -> dict[str, str]:
    """Name → value, in the order to be shown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dropmill": dropmill.__version__,
        "kernel": platform.release(),
        "processor": f"{len(os.sched_getaffinity(0))} × {_processor()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "load": load(),
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "Pillow": version("pillow"),
        "watchdog": version("watchdog"),
        "Polars": _version_of_package("polars"),
        **{name: _version_of(command) for name, command in _TOOLS.items()},
    }


def load() -> str:
    """The load averages of 1, 5 and 15 minutes: figures of a busy machine say little."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _version_of_package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _MISSING


def _version_of(command: list[str]) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return _MISSING
    lines = (found.stdout or found.stderr).strip().splitlines()
    return lines[0].removeprefix("Version: ")[:60] if lines and not found.returncode else _MISSING

"""Namespaces of a scenario's own: what it mounts or limits there is undone when it ends.

The scenario runs in a child process, since a process cannot leave a namespace again.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from .bench import Bench, Findings

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
_PR_CAPBSET_DROP = 24
_MS_REC_PRIVATE = 0x4000 | 1 << 18
_GRACE = 600.0  # beyond the seconds that faults are made

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """What is mounted from now on is seen by this process and its children alone."""
    _check(_libc.unshare(CLONE_NEWNS))
    _check(_libc.mount(None, b"/", None, _MS_REC_PRIVATE, None))


def own_limits() -> None:
    """A user namespace: `/proc/sys/user` is its own; `/proc/sys/fs` is everybody's still."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def obeying_permissions() -> None:
    """Root's children are refused what the permission bits refuse."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))


def isolated(
    bench: Bench, scenario: Callable[[Bench], Findings], *setups: Callable[[], None]
) -> Findings:
    """The scenario's findings; it runs in a child after the set-ups, skipped if they fail."""
    if os.geteuid():
        return Findings({}, [], skipped="needs root")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(bench, scenario, setups, theirs))
    child.start()
    theirs.close()
    try:
        if not ours.poll(bench.seconds + _GRACE):
            return Findings({}, [f"no findings within {bench.seconds + _GRACE:g} s"])
        findings: Findings = ours.recv()
        return findings
    except EOFError:
        return Findings({}, ["the scenario's process died"])
    finally:
        child.join(30)
        child.kill()
        child.join()
        child.close()


def _run(
    bench: Bench,
    scenario: Callable[[Bench], Findings],
    setups: tuple[Callable[[], None], ...],
    out: Connection,
) -> None:
    try:
        for setup in setups:
            setup()
    except OSError as error:
        out.send(Findings({}, [], skipped=f"no namespace to be had here: {error}"))
        return
    try:
        findings = scenario(bench)
    except Exception:
        logs = sorted(bench.folder.glob("*/log"), key=lambda path: path.stat().st_mtime)
        last = [path.read_text(errors="replace")[-2_000:] for path in logs[-1:]]
        findings = Findings({}, [traceback.format_exc(), *last])
    finally:
        bench.close()
    out.send(findings)


def mount(kind: str, source: Path | str, place: Path, options: str = "") -> None:
    """Raises CalledProcessError."""
    place.mkdir(parents=True, exist_ok=True)
    more = ["-o", options] if options else []
    _command("mount", "-t", kind, *more, str(source), str(place))


def resize(place: Path, size: str) -> None:
    """Gives a mounted tmpfs another size."""
    _command("mount", "-o", f"remount,size={size}", str(place))


def unmount(place: Path) -> None:
    """Lazily: what is open stays readable, the name is free at once."""
    _command("umount", "-l", str(place))


def _command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

"""What the command line asks of a running daemon, begun in the main loop and answered when due."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from . import __version__
from .control import Request
from .errors import MachineFault
from .log import rfc3339, shown
from .mill import Mill
from .sandbox import weakness
from .store.questions import COMPARE_RACY_NS
from .watch import RootStatus

Step = Callable[[], bool]  # True when the request is answered


class Requests:
    """Requests that are not answered yet."""

    def __init__(self, mill: Mill, cookies: bytes, refused: Callable[[], str | None]) -> None:
        """`refused` says why the configuration as it is saved is not in force."""
        self._refused = refused
        self._mill = mill
        self._cookies = cookies
        self._open: list[tuple[Request, Step]] = []

    def begin(self, request: Request) -> None:
        """Answers at once where it can be, else keeps the request for `go_on`."""
        handler = getattr(self, f"_{request.command}", None)
        if request.command not in _COMMANDS or handler is None:
            _refuse(request, f"unknown command {request.command!r}")
            return
        try:
            step = handler(request)
        except MachineFault as fault:
            _refuse(request, str(fault))
            return
        if step is not None and not step():
            self._open.append((request, step))

    def go_on(self) -> None:
        self._open = [(request, step) for request, step in self._open if not step()]

    def refuse_all(self, why: str) -> None:
        """What is open is not going to be answered by this mill."""
        for request, _ in self._open:
            _refuse(request, why)
        self._open.clear()

    # ---- at once -----------------------------------------------------------------------------

    def _status(self, request: Request) -> None:
        _grant(request, self.status())

    def status(self) -> dict[str, Any]:
        """The live part of `dropmill status`."""
        roots = self._mill.watch.status()
        return {
            "version": __version__,
            "workers": self._mill.workers(),
            "roots": [_root_json(root) for root in roots],
            "paused": self._mill.pauses.reason(),
            "settling": self._mill.intake.waiting(),
            "throughput": self._mill.tally.throughput(),
            "watches": {
                "used": self._mill.watch.watches_used(),
                "limit": self._mill.watch.watches_limit(),
            },
            "overflows": max(root.overflows for root in roots),
            "problems": self._problems(roots),
        }

    def _problems(self, roots: Iterable[RootStatus]) -> list[dict[str, str]]:
        problems = []
        refused = self._refused()
        if refused is not None:
            problems.append({
                "what": f"the configuration as saved is not in force: {refused}",
                "mend": "correct the file and save it",
            })  # fmt: skip
        reason = self._mill.pauses.reason()
        if reason:
            problems.append({"what": "paused", "mend": reason})
        weak = weakness()
        if weak is not None:
            problems.append(weak._asdict())
        problems += [_root_problem(root) for root in roots if root.state in ("offline", "degraded")]
        return problems

    def _pause(self, request: Request) -> None:
        self._mill.pauses.by_hand(True)
        _grant(request, {})

    def _resume(self, request: Request) -> None:
        self._mill.pauses.by_hand(False)
        _grant(request, {})

    def _retry(self, request: Request) -> None:
        paths = request.arguments.get("paths")
        ledger = self._mill.ledger
        if paths is None:
            _grant(request, {"count": ledger.faults.retry(ledger.faults.quarantined())})
            return
        files = [ledger.find(os.fsencode(path)) for path in paths]
        _grant(
            request, {"count": ledger.faults.retry([file for file in files if file is not None])}
        )

    # ---- later -------------------------------------------------------------------------------

    def _scan(self, request: Request) -> Step | None:
        path = request.arguments.get("path")
        started = time.monotonic()
        requests = self._mill.scan(None if path is None else os.fsencode(path))
        if not requests:
            _refuse(request, f"{path}: lies in no watched folder: `dropmill check` lists them")
            return None

        def step() -> bool:
            done = [self._mill.scanned[number] for number in requests]
            finished = [scan for scan in done if scan is not None]
            if len(finished) < len(requests):
                return False
            for number in requests:
                del self._mill.scanned[number]
            files = sum(scan.files for scan in finished)
            _grant(request, {"files": files, "seconds": time.monotonic() - started})
            return True

        return step

    def _sync(self, request: Request) -> Step:
        """Everything written before is taken in: a cookie's echo proves that every earlier event
        was read; then what was noticed must be admitted, and what was admitted be worked on."""
        cookie = secrets.token_hex(8).encode()
        path = os.path.join(self._cookies, cookie)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        scans = set(self._mill.scan_polled())
        state: dict[str, Any] = {"echoed_at": None, "up_to": None}

        def step() -> bool:
            reason = self._mill.pauses.reason()
            if reason:
                _refuse(request, f"not everything is taken in: {reason}")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                return True
            if state["echoed_at"] is None:
                if cookie not in self._mill.echoes:
                    return False
                self._mill.echoes.discard(cookie)
                os.unlink(path)
                state["echoed_at"] = time.monotonic()
                scans.update(self._mill.watch.outstanding())
            if scans & self._mill.watch.outstanding():
                return False
            if state["up_to"] is None:
                if self._mill.waiting_since(state["echoed_at"]):
                    return False
                state["compared"] = time.time_ns() + COMPARE_RACY_NS
                state["up_to"] = self._mill.ledger.seq
            if self._mill.ledger.has_queued(state["up_to"]):
                return False
            if not self._mill.is_compared(state["compared"]):
                return False
            _grant(request, {})
            return True

        return step


_COMMANDS = ("status", "pause", "resume", "retry", "scan", "sync")


def _root_json(root: RootStatus) -> dict[str, Any]:
    return {
        "path": os.fsdecode(root.path),
        "state": root.state,
        "directories": root.directories,
        "reason": root.reason,
        "last_scan": None if root.last_scan is None else rfc3339(int(root.last_scan * 1e9)),
        "last_scan_seconds": round(root.last_scan_seconds, 3),
    }


def _grant(request: Request, result: dict[str, Any]) -> None:
    request.reply({"ok": True, "result": result})


def _root_problem(root: RootStatus) -> dict[str, str]:
    what = f"{shown(root.path)} is {root.state}"
    if root.state == "degraded":  # its reason says what to do
        return {"what": what, "mend": root.reason or ""}
    mend = "bring it back, and it is picked up by itself; nothing of it is forgotten"
    return {"what": f"{what}: {root.reason}", "mend": mend}


def _refuse(request: Request, sentence: str) -> None:
    request.reply({"ok": False, "error": sentence})

"""The real command in a subprocess, for tests that drive dropmill from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from .polling import eventually

COMMAND = [sys.executable, "-m", "dropmill"]
CONFIGURATION = """\
state: ./state
workers: {workers}
watch:
  - path: ./inbox
    settle: 100ms
    settle_max: 2s
images:
  output: ./grayscale
limits: {{free: 0}}
{more}
"""


class Place:
    """A folder with a configuration, an inbox, and perhaps a running service."""

    def __init__(self, folder: Path, *, workers: int = 2, more: str = "") -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.copies = folder / "grayscale" / "inbox"
        self.configuration = folder / "dropmill.yaml"
        self.log = folder / "log"
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(CONFIGURATION.format(workers=workers, more=more))
        self.service: subprocess.Popen[bytes] | None = None

    # ---- commands ----------------------------------------------------------------------------

    def run(self, *arguments: str, seconds: float = 100) -> subprocess.CompletedProcess[str]:
        """One command, to its end; its output as text."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=seconds,
        )

    def search(self, *arguments: str) -> list[str]:
        """Hits as `path:line:text`, paths relative to the inbox."""
        found = self.run("search", "-m", "0", *arguments)
        assert found.returncode in (0, 1), found.stderr
        prefix = f"{self.inbox}/"
        return [line.removeprefix(prefix) for line in found.stdout.splitlines()]

    def status(self) -> dict[str, Any]:
        found = self.run("status", "--json")
        answer: dict[str, Any] = json.loads(found.stdout)
        return answer

    def results(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Outcomes by path relative to the inbox."""
        found = self.run("results", "--json", *arguments)
        assert found.returncode in (0, 1), found.stderr
        rows = [json.loads(line) for line in found.stdout.splitlines()]
        prefix = f"{self.inbox}/"
        return {str(row["path"]).removeprefix(prefix): row for row in rows}

    # ---- the service -------------------------------------------------------------------------

    def start(self, module: str = "dropmill", **variables: str) -> None:
        """Starts the service and waits until it answers.

        `module` may be another that runs it, with more variables in its environment.
        """
        with self.log.open("ab") as log:
            self.service = subprocess.Popen(
                [sys.executable, "-m", module, "run"],
                cwd=self.folder,
                env=environment() | variables,
                stderr=log,
            )
        eventually(self._is_up, seconds=30, what="the service is up")

    def _is_up(self) -> bool:
        assert self.service is not None
        assert self.service.poll() is None, self.log.read_text()
        return bool(self.run("status", "--json").returncode == 0)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 15) -> int:
        """Ends the service; gives its exit code."""
        assert self.service is not None
        with contextlib.suppress(ProcessLookupError):
            self.service.send_signal(number)
        code = self.service.wait(seconds)
        self.service = None
        return code

    def workers(self) -> list[int]:
        """Process ids of the pool."""
        return [worker["pid"] for worker in self.status()["workers"]]

    def is_settled(self) -> bool:
        """Whether nothing is left to be done."""
        status = self.status()
        return not (status["files"]["queued"] or status["files"]["retry"] or status["settling"])

    def close(self) -> None:
        if self.service is not None and self.service.poll() is None:
            self.stop(signal.SIGKILL)


def environment() -> dict[str, str]:
    source = str(Path(__file__).parent.parent / "daemon")
    return {
        **{name: value for name, value in os.environ.items() if name != "RUNTIME_DIRECTORY"},
        "PYTHONPATH": source,
        "NO_COLOR": "1",
    }

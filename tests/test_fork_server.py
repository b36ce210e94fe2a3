"""The fork server: begun before it is needed, and nobody notices that it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dropmill import fork_server


def test_beginning_it_leaves_the_warnings_of_others_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in ("error", None):
        if value is None:
            monkeypatch.delenv("PYTHONWARNINGS")
        else:
            monkeypatch.setenv("PYTHONWARNINGS", value)
        fork_server.begin()
        assert os.environ.get("PYTHONWARNINGS") == value


_INTERRUPTED = """
import os, signal
from multiprocessing import forkserver
from dropmill import fork_server

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: print("heard"))
    fork_server.begin()
    begun = forkserver._forkserver._forkserver_pid
    os.killpg(0, signal.SIGINT)
    process = fork_server.CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()
    print(process.exitcode, forkserver._forkserver._forkserver_pid == begun)
"""


def test_an_interrupt_while_it_starts_does_not_end_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_INTERRUPTED)
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        process_group=0,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("heard\n0 True\n", "")

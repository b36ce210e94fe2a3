"""Spawning: workers come from a fork server, and what fails is tried less and less often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dropmill.spawning import Spawner, delay
from dropmill.worker import WorkerSettings


def test_a_wait_grows_from_one_second_to_sixty_and_is_jittered() -> None:
    for times in range(20):
        delays = {delay(times) for _ in range(100)}
        assert min(60.0, 2.0**times) <= min(delays) <= max(delays) <= 60.0
        assert len(delays) > 1 or times > 5


def test_starting_leaves_the_warnings_of_others_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WorkerSettings(
        os.fsencode(tmp_path), 1, b"", "", {}, (), 3, 1 << 30, 1, "error", "plain"
    )
    for value in ("error", None):
        if value is None:
            monkeypatch.delenv("PYTHONWARNINGS")
        else:
            monkeypatch.setenv("PYTHONWARNINGS", value)
        Spawner(settings)
        assert os.environ.get("PYTHONWARNINGS") == value

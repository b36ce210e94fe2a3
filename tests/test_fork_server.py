"""The fork server: begun before it is needed, and nobody notices that it was."""

from __future__ import annotations

import os

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

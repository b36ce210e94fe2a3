"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A slow machine is no failure; how much is tried is said where a test is written.
settings.register_profile("dropmill", deadline=None)
settings.load_profile("dropmill")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A fresh folder, as bytes: paths are bytes everywhere inside."""
    return os.fsencode(tmp_path_factory.mktemp("folder"))

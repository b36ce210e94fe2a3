"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A slow machine is no failure; how much is tried is said where a test is written.
# In CI the same cases are tried each time: new ones are for whoever works on the code.
settings.register_profile("dropmill", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dropmill")

# In the background of a script Ctrl-C is ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A fresh folder, as bytes: paths are bytes everywhere inside."""
    return os.fsencode(tmp_path_factory.mktemp("folder"))

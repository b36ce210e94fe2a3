from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..dropmill_process import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place with its service not yet started."""
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture
def running(place: Place) -> Place:
    """A place whose service is up."""
    place.start()
    return place

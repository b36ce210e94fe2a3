"""The configuration file while the service runs: when it is read, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dropmill import config
from dropmill.config.following import APART, PATIENCE, Following
from dropmill.errors import UsageError

TEXT = "state: ./state\nwatch: [{path: ./inbox}]\n"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    path = tmp_path / "dropmill.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def following(path: Path, clock: Clock) -> Following:
    return Following(path, config.load(path), clock)


def looks(following: Following, clock: Clock, count: int) -> list[bool]:
    """What that many looks find, a second apart, until one finds it saved."""
    found = []
    for _ in range(count):
        clock.now += 1.0
        found.append(following.is_saved())
        if found[-1]:
            following.read()
    return found


def test_a_file_that_nobody_saved_is_not_read(following: Following, clock: Clock) -> None:
    assert looks(following, clock, 3) == [False, False, False]


def test_a_saved_file_is_read_once_when_two_looks_have_seen_the_same(
    following: Following, clock: Clock, path: Path
) -> None:
    path.write_text(TEXT + "workers: 3\n")
    assert looks(following, clock, 4) == [False, True, False, False]


def test_a_file_that_changes_from_look_to_look_is_waited_for(
    following: Following, clock: Clock, path: Path
) -> None:
    for number in range(1, 5):
        path.write_text(TEXT + f"workers: {number}\n" + number * "\n")
        assert looks(following, clock, 1) == [False]
    assert looks(following, clock, 1) == [True]


def test_looks_that_follow_closely_do_not_count(
    following: Following, clock: Clock, path: Path
) -> None:
    path.write_text(TEXT + "workers: 3\n")
    assert not following.is_saved()
    clock.now += APART / 2
    assert not following.is_saved()


def test_a_file_that_is_away_is_not_read_until_it_is_back(
    following: Following, clock: Clock, path: Path
) -> None:
    path.unlink()
    assert looks(following, clock, 3) == [False, False, False]
    path.write_text(TEXT + "workers: 3\n")
    assert looks(following, clock, 2) == [False, True]
    assert following.refused is None


def test_a_file_that_is_open_for_writing_is_waited_for_and_not_for_ever(
    following: Following, clock: Clock, path: Path
) -> None:
    with path.open("a") as file:
        file.write("workers: 3\n")
        file.flush()
        found = looks(following, clock, int(PATIENCE) + 3)
        assert found.index(True) >= PATIENCE
    path.write_text(TEXT)
    assert looks(following, clock, 2) == [False, True]


def test_reading_gives_another_configuration_and_none_where_it_is_the_same(
    following: Following, path: Path
) -> None:
    path.write_text(TEXT + "workers: 3\n")
    changed = following.read()
    assert changed is not None and changed.workers == 3
    path.write_text("# a comment\n" + TEXT)
    assert following.read() is None
    assert following.refused is None


def test_a_wrong_file_is_refused_with_every_error_until_it_is_mended(
    following: Following, path: Path
) -> None:
    path.write_text(TEXT + "wrong_key: 1\nworkers: many\n")
    assert following.read() is None
    assert following.refused is not None
    assert following.refused.splitlines() == _errors(path)
    assert len(following.refused.splitlines()) == 2
    path.write_text(TEXT)
    assert following.read() is None
    assert following.refused is None


def _errors(path: Path) -> list[str]:
    with pytest.raises(UsageError) as raised:
        config.load(path)
    return str(raised.value).splitlines()


def test_another_state_folder_takes_a_restart(following: Following, path: Path) -> None:
    path.write_text(TEXT.replace("./state", "./elsewhere"))
    assert following.read() is None
    assert "state: takes a restart to change: now it is" in (following.refused or "")

"""The bench's parts: which files, which laps, and what counts as the same outcome."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dropmill.bench import Difference, Lap, differences, laps, sample, scratch, worker_counts
from dropmill.bench.alone import one_after_another
from dropmill.bench.lap import prepare
from dropmill.bench.outcomes import Outcomes, gather
from dropmill.config.settings import Config
from dropmill.errors import DropmillError, UsageError
from dropmill.fitting import worker_settings
from dropmill.job import State
from dropmill.store.ledger import Admission


def unheard(done: int, total: int, what: str) -> None:
    """Progress that nobody follows."""


def configuration(folder: Path, **more: object) -> Config:
    own = folder / "own"
    own.mkdir(exist_ok=True)
    return Config.model_validate(
        {
            "watch": [{"path": folder / "inbox"}],
            "state": own / "state",
            "images": {"output": own / "copies"},
            "log": {"level": "warning"},
            **more,
        }
    )


def files_of(config: Config) -> list[Admission]:
    return sample.find(config, unheard).files


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Small texts in two folders, a binary file, a photograph, and a text of several ranges."""
    made = tmp_path / "inbox"
    (made / "sub").mkdir(parents=True)
    for number in range(30):
        (made / "sub" / f"{number}.txt").write_text(f"first\nword number{number}\n")
    (made / "binary").write_bytes(b"\0\1\2" * 50)
    picture = Image.linear_gradient("L").resize((320, 200))
    Image.merge("RGB", (picture, picture.rotate(180), picture)).save(made / "a.jpg")
    (made / "large.log").write_text("a line of a long log, again and again\n" * 300_000)
    return made


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (1, [1]),
        (2, [1, 2]),
        (4, [1, 2, 3, 4]),
        (6, [1, 2, 3, 4, 6]),
        (24, [1, 2, 3, 4, 8, 16, 24]),
    ],
)
def test_all_small_counts_of_workers_are_tried_and_the_most(most: int, counts: list[int]) -> None:
    assert worker_counts(most) == counts


# ---- which files ---------------------------------------------------------------------------------


def test_the_files_are_those_that_the_service_would_take(inbox: Path, tmp_path: Path) -> None:
    (inbox / "left.tmp").write_text("excluded\n")
    (inbox / "link").symlink_to(inbox / "binary")
    found = sample.find(configuration(tmp_path), unheard)
    names = {file.name for file in found.files}
    assert len(found.files) == 33
    assert {b"a.jpg", b"large.log", b"binary", b"0.txt"} <= names
    assert not names & {b"left.tmp", b"link"}


def test_a_folder_too_large_for_the_time_gives_the_same_sample_each_time(
    inbox: Path, tmp_path: Path
) -> None:
    files = files_of(configuration(tmp_path))
    some = sample.choose(files, 0.003)
    assert 0 < len(some) < 30
    assert some == sample.choose(files, 0.003)
    assert [file for file in files if file in some] == some
    assert sample.choose(files, 0) == files
    assert len(sample.choose(files, 1e-9)) == 1


def test_files_that_cannot_be_read_are_named_and_left_out(inbox: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    files = files_of(config)
    (inbox / "binary").unlink()
    read = sample.read_once(os.fsencode(inbox), files, unheard)
    assert len(read.files) == len(files) - 1
    assert read.unreadable == [(os.fsencode(inbox / "binary"), "No such file or directory")]


# ---- laps ----------------------------------------------------------------------------------------


def test_every_way_gives_the_same_outcomes(inbox: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path, text={"keywords": ["number7"]})
    files = files_of(config)
    done = list(laps(config, files, [1, 2], unheard))
    assert [lap.workers for lap in done] == [None, 1, 2]
    assert differences(files, done) == []
    for lap in done:
        assert lap.seconds > 0
        assert lap.outcomes.states == {State.DONE: 32, State.SKIPPED: 1}
        assert lap.outcomes.keywords == {os.fsencode(inbox / "sub" / "7.txt"): {"number7": [2]}}
        skipped = (inbox / "binary").stat().st_size
        assert lap.outcomes.done_bytes == sample.total(files) - skipped
    assert os.listdir(tmp_path / "own") == []


def test_a_copy_that_differs_by_one_byte_is_another_outcome(inbox: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    prepare(config, files_of(config))
    one_after_another(worker_settings(config), os.fsencode(inbox), unheard)
    before = gather(os.fsencode(config.state)).digests
    (copy,) = config.images.output.rglob("a_grayscale.jpg")
    content = bytearray(copy.read_bytes())
    content[-20] ^= 1
    copy.write_bytes(content)
    after = gather(os.fsencode(config.state)).digests
    assert [path for path in before if before[path] != after[path]] == [
        os.fsencode(inbox / "a.jpg")
    ]


def lap(digests: dict[bytes, bytes], *unsettled: bytes) -> Lap:
    return Lap(None, 1.0, frozenset(unsettled), Outcomes(digests, Counter(), 0, {}))


def test_a_difference_is_told_from_a_file_that_changed_meanwhile(
    inbox: Path, tmp_path: Path
) -> None:
    names = (b"binary", b"sub/0.txt", b"sub/1.txt", b"sub/2.txt")
    stood, changed, busy, _ = paths = [os.path.join(os.fsencode(inbox), name) for name in names]
    files = files_of(configuration(tmp_path))
    Path(os.fsdecode(changed)).write_text("another, longer content\n")
    first = lap(dict.fromkeys(paths, b"1"))
    other = lap({path: b"2" if path in (stood, changed) else b"1" for path in paths}, busy)
    found = differences(files, [first, other])
    assert found[0] == Difference(stood, False)
    assert set(found[1:]) == {Difference(changed, True), Difference(busy, True)}


def test_a_file_that_kills_its_worker_is_named(inbox: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9000, 9000)).save(inbox / "huge.png", compress_level=1)
    config = configuration(tmp_path, limits={"memory": "64MiB"})
    with pytest.raises(DropmillError, match=r"huge\.png: needs more memory than limits\.memory"):
        list(laps(config, files_of(config), [], unheard))


@pytest.mark.parametrize("counts", [[], [1]])
def test_a_place_that_cannot_be_written_to_is_told(
    inbox: Path, tmp_path: Path, counts: list[int]
) -> None:
    config = configuration(tmp_path)
    files = files_of(config)
    run = laps(config, files, counts, unheard)
    if counts:
        next(run)
    (tmp_path / "own" / "copies").write_text("where the copies should go\n")
    with pytest.raises(DropmillError, match=r"Not a directory: --scratch DIR"):
        next(run)


# ---- where ---------------------------------------------------------------------------------------


def test_the_scratch_folder_goes_whatever_happens_within(tmp_path: Path, inbox: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ZeroDivisionError), scratch(str(place), inbox) as made:
        (made / "deep" / "er").mkdir(parents=True)
        raise ZeroDivisionError
    assert os.listdir(place) == []
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_folder_is_only_read(inbox: Path) -> None:
    for place in (inbox, inbox / "sub"):
        with pytest.raises(UsageError, match="only read"), scratch(str(place), inbox):
            pass

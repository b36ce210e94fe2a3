"""Values as people write them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.config import values

DURATIONS = [
    ("500ms", 0.5),
    ("10s", 10),
    ("2m", 120),
    ("1h", 3600),
    ("1.5h", 5400),
    ("1d", 86400),
    ("2m30s", 150),
    ("1h 30 min", 5400),
    ("10 seconds", 10),
    (0, 0),
    ("0", 0),
    ("365d", 365 * 86400),
]
NO_DURATIONS = [
    "5 parsecs",
    "",
    " ",
    "-1s",
    "1m1m",
    "30s2m",
    "1e3s",
    "10S",
    "s",
    "1s2",
    "٣s",
    "1 s x",
]
SIZES = [
    ("1GiB", 2**30),
    ("1G", 2**30),
    ("64k", 65536),
    ("500 MB", 500_000_000),
    ("1kB", 1000),
    ("1.5KiB", 1536),
    ("512 B", 512),
    (4096, 4096),
    (0, 0),
    ("2TiB", 2**41),
]
NO_SIZES = ["", "GiB", "1i", "1iB", "-1", "1e9", "1GG", "1.5.5M", "lots", "1PB"]


@pytest.mark.parametrize(("written", "seconds"), DURATIONS)
def test_a_duration_is_read_as_people_write_it(written: object, seconds: float) -> None:
    assert values.duration(written) == seconds
    assert re.search(values.DURATION_PATTERN, str(written))


@pytest.mark.parametrize("written", [*NO_DURATIONS, True, [], {}, -5, None])
def test_what_is_no_duration_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        values.duration(written)
    if written in NO_DURATIONS and "m" not in str(written):
        assert not re.search(values.DURATION_PATTERN, str(written), re.ASCII)


@pytest.mark.parametrize("written", [15, 1.5, "15"])
def test_a_duration_without_a_unit_is_asked_for_it(written: object) -> None:
    with pytest.raises(ValueError, match="has no unit: is it"):
        values.duration(written)


def test_a_duration_beyond_a_year_is_refused_and_not_infinite() -> None:
    for written in ("366d", "9" * 400 + "d"):
        with pytest.raises(ValueError, match="longer than 365d"):
            values.duration(written)


@pytest.mark.parametrize(("written", "amount"), SIZES)
def test_a_size_is_read_as_people_write_it(written: object, amount: int) -> None:
    assert values.size(written) == amount
    assert re.search(values.SIZE_PATTERN, str(written))


@pytest.mark.parametrize("written", [*NO_SIZES, True, None, [], -1])
def test_what_is_no_size_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        values.size(written)
    assert not re.search(values.SIZE_PATTERN, str(written))


def test_pixels_are_counted_in_powers_of_a_thousand() -> None:
    assert values.count("100M") == 100_000_000
    assert values.count("300k") == 300_000
    assert values.count(25_000_000) == 25_000_000
    assert values.count("0.5 G") == 500_000_000
    with pytest.raises(ValueError, match="is not a number"):
        values.count("100Mi")
    with pytest.raises(ValueError, match="is too large"):
        values.count("9" * 400)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none()))
def test_any_value_is_taken_or_refused_with_a_sentence(written: object) -> None:
    for parse in (values.duration, values.size, values.count, values.workers):
        try:
            assert parse(written) is not None
        except ValueError as error:
            assert str(error)


@given(st.text())
def test_a_shown_text_is_one_short_line(text: str) -> None:
    shown = values.show(text)
    assert len(shown.splitlines()) == 1
    assert shown.isprintable()
    assert len(json.loads(shown)) <= 60


def test_a_folder_is_relative_to_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    base = str(tmp_path.resolve())
    assert values.folder("./a/../b", base) == Path(base, "b")
    assert values.folder("link/x", base) == Path(base, "real/x")
    assert values.folder("/abs", base) == Path("/abs")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert values.folder("~/x", "/") == Path(os.path.realpath(tmp_path), "x")
    assert values.folder("~root", "/") == Path(os.path.realpath(os.path.expanduser("~root")))
    with pytest.raises(ValueError, match="there is no user"):
        values.folder("~no-such-user/x", "/")


@pytest.mark.parametrize("written", ["", " ", "a\0b", "\ud800", None, 5, []])
def test_what_can_be_no_folder_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"folder|value"):
        values.folder(written, "/")


@pytest.mark.parametrize(
    "name",
    ["{stem}{suffix}", "{stem}_grayscale{suffix}", "{{{stem}}}{suffix}", "é {stem}.{suffix}"],
)
def test_a_copy_name_of_stem_and_suffix_is_taken(name: str) -> None:
    assert values.copy_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gray",
        "{stem}",
        "{suffix}{stem}",
        "{stem}{stem}{suffix}",
        "{stem}/{suffix}",
        "{stem",
        "{stem}{suffix}\0",
        "{stem!r}{suffix}",
        "{stem:>9}{suffix}",
        "{}{suffix}",
        "{stem.x}{suffix}",
    ],
)
def test_a_copy_name_that_could_collide_or_escape_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"stem|slash|brace"):
        values.copy_name(name)

"""Where copies lie and what they are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.copies import NAME_MAX, copy_path, split_suffix

TEMPLATE = "{stem}_grayscale{suffix}"
ODD_BYTES = st.sampled_from([b"a", b".", b"-", b"_", b"{stem}", b"\xff", "é".encode(), b"0" * 16])
NAMES = (
    st.one_of(st.binary(min_size=1, max_size=255), st.lists(ODD_BYTES, min_size=1).map(b"".join))
    .map(lambda name: name.replace(b"/", b"").replace(b"\0", b"")[:255])
    .filter(lambda name: name not in (b"", b".", b".."))
)


def place(relative: bytes, template: str = TEMPLATE) -> bytes:
    return copy_path(b"/out", b"inbox", relative, template)


def test_a_copy_lies_below_the_output_under_the_name_of_its_watched_folder() -> None:
    assert place(b"a.jpg") == b"/out/inbox/a_grayscale.jpg"
    assert place(b"2024/may/a.b.PNG") == b"/out/inbox/2024/may/a.b_grayscale.PNG"
    assert copy_path(b"/out", b"", b"a.jpg", TEMPLATE) == b"/out/a_grayscale.jpg"


def test_a_name_that_is_all_suffix_keeps_it() -> None:
    assert split_suffix(b".jpg") == (b"", b".jpg")
    assert place(b".jpg") == b"/out/inbox/_grayscale.jpg"


def test_a_name_that_reads_like_the_template_is_taken_as_it_is() -> None:
    assert place(b"{suffix}{stem}.jpg") == b"/out/inbox/{suffix}{stem}_grayscale.jpg"


def test_a_name_may_hold_any_bytes() -> None:
    assert place(b"d\xff/\xfe\n.jpg") == b"/out/inbox/d\xff/\xfe\n_grayscale.jpg"


def test_a_name_that_would_grow_too_long_is_shortened_with_a_hash() -> None:
    name = "é".encode() * 125 + b".jpg"
    copy = place(name).rpartition(b"/")[2]
    assert NAME_MAX - 4 < len(copy) <= NAME_MAX
    assert copy.decode().startswith("ééé")
    assert copy.endswith(b"_grayscale.jpg")
    assert copy != place("é".encode() * 124 + b"e.jpg").rpartition(b"/")[2]


def test_a_source_called_like_a_shortened_copy_does_not_meet_it() -> None:
    shortened = place(b"a" * 250 + b".jpg").rpartition(b"/")[2]
    lookalike = shortened.replace(b"_grayscale", b"")
    assert place(lookalike).rpartition(b"/")[2] != shortened


@pytest.mark.parametrize("relative", [b"../a.jpg", b"a/../../b.jpg", b"a/./b.jpg", b"a\0.jpg"])
def test_nothing_leads_out_of_the_output(relative: bytes) -> None:
    with pytest.raises(ValueError, match="outside"):
        place(relative)


@pytest.mark.parametrize("template", ["../{stem}{suffix}", "{stem}/{suffix}", "{stem}.."])
def test_a_template_does_not_lead_out_of_the_output(template: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        place(b".jpg", template)


@given(first=NAMES, second=NAMES)
def test_distinct_sources_have_distinct_copies(first: bytes, second: bytes) -> None:
    assert (place(first) == place(second)) == (first == second)


@given(name=NAMES)
def test_a_copys_name_always_fits_and_is_never_the_sources(name: bytes) -> None:
    copy = place(name).rpartition(b"/")[2]
    assert len(copy) <= NAME_MAX
    assert copy != name

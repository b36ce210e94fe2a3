"""Cuts: after a line, between two words, never inside a character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.index import tokenize
from dropmill.processors import cuts


def words(content: bytes, encoding: str) -> list[str]:
    text = content.decode(encoding, "replace")
    return [word for _, _, word in tokenize(text.encode("utf-8", "replace"))]


LINE = "zwei Wörter — 字漢 e\u0301te\u0301 \U00020000x, "


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "gb18030"])
def test_wherever_a_line_is_cut_both_sides_hold_the_words_of_the_whole(encoding: str) -> None:
    content = (LINE * 4).encode(encoding)
    unit = 1 if encoding in ("utf-8", "gb18030") else len("x".encode(encoding))
    for place in range(0, len(content), unit):
        cut = cuts.between_words(content, place, encoding)
        assert cut is not None
        assert cut >= place
        halves = words(content[:cut], encoding) + words(content[cut:], encoding)
        assert halves == words(content, encoding)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 299))
def test_a_cut_in_damaged_utf_8_changes_no_character(content: bytes, place: int) -> None:
    cut = cuts.between_words(content, min(place, len(content)), "utf-8")
    assert cut is not None
    halves = content[:cut].decode("utf-8", "replace") + content[cut:].decode("utf-8", "replace")
    assert halves.replace("\ufffd", "") == content.decode("utf-8", "replace").replace("\ufffd", "")


def test_what_is_cut_off_begins_with_the_last_word() -> None:
    for encoding in ("utf-8", "cp1252", "utf-16-be"):
        content = "Größe über all".encode(encoding)
        cut = cuts.before_last_word(content, encoding)
        assert content[cut:].decode(encoding) == "all"
        assert cuts.before_last_word("a b ".encode(encoding), encoding) == len(
            "a b ".encode(encoding)
        )


def test_half_a_character_at_the_end_is_left_to_what_follows() -> None:
    assert cuts.before_last_word("字 — ".encode("gb18030") + b"\xd7", "gb18030") == len(
        "字 — ".encode("gb18030")
    )
    assert cuts.before_last_word(b"\xe5\xad\x97\xe5\xad", "utf-8") == 3


def test_a_word_longer_than_what_is_looked_at_is_cut_between_characters() -> None:
    content = "é".encode() * cuts.WINDOW
    assert cuts.before_last_word(content + b"\xc3", "utf-8") == len(content)
    cut = cuts.between_words(content, 2 * cuts.WINDOW // 3 | 1, "utf-8")
    assert cut is not None
    assert cut % 2 == 0


def test_where_nothing_tells_where_characters_begin_it_is_said() -> None:
    assert cuts.between_words("漢字".encode("gbk") * 50, 31, "gbk") is None
    assert cuts.between_words("漢字".encode("gbk") * 50 + b" x", 31, "gbk") == 200


def test_a_line_break_counts_only_as_a_whole_unit() -> None:
    wide = "a\u0a00\u000ab".encode("utf-16-le")  # 61 00 00 0a 0a 00 62 00
    assert cuts.after_line(wide, b"\n\0") == 6
    assert cuts.after_last_line(wide, b"\n\0") == 6
    assert cuts.after_line(b"ab", b"\n") is None
    assert cuts.after_last_line("\u0a00\u0061".encode("utf-16-be"), b"\0\n") is None

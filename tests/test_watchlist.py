"""The watch list: what it finds is what a search would find."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dropmill.index import tokenize
from dropmill.processors.watchlist import RECORDED, WatchList


def words_of(text: str) -> list[tuple[int, str]]:
    """Each word with the line it begins in, counted as `grep -n` does."""
    content = text.encode("utf-8", "replace")
    return [(content.count(b"\n", 0, first) + 1, word) for first, _, word in tokenize(content)]


def searched(keyword: str, text: str, overlap: str) -> list[int]:
    """The lines in which a search for the keyword finds it, by trying every place."""
    own = len(words_of(text + "|"))
    words = words_of(text + overlap)
    wanted = [word for _, word in words_of(keyword)]
    is_prefix = keyword.rstrip().endswith("*")
    found = []
    for at in range(min(own, len(words))):
        here = [word for _, word in words[at : at + len(wanted)]]
        if len(here) < len(wanted) or here[:-1] != wanted[:-1]:
            continue
        if here[-1] == wanted[-1] or (is_prefix and here[-1].startswith(wanted[-1])):
            found.append(words[at][0])
    return sorted(set(found))


def looked(keywords: list[str], text: str, overlap: str = "", newlines: int = 0,
           encoding: str = "utf-8") -> dict[str, list[int]]:  # fmt: skip
    found: dict[str, list[int]] = {}
    content = text.encode(encoding)
    WatchList(keywords).look(content, text, overlap, newlines, found)
    return found


LETTERS = "aabbAB_1éÉeßſKİiñn\u0303o\u0308жЖ字漢กฺ\u0301\u0489ﬁ２²ªΣς\u200d"
WORD = st.text(LETTERS, min_size=1, max_size=3)
BETWEEN = st.sampled_from([" ", "\n", "\r\n", ", ", "-", "\t", "  ", "'", "—", "\u3000", "\0"])
TEXT = st.lists(st.tuples(WORD, BETWEEN), max_size=25).map(
    lambda pairs: "".join(word + between for word, between in pairs)
)
KEYWORD = (
    st.tuples(st.lists(WORD, min_size=1, max_size=3).map(" ".join), st.sampled_from(["", "", "*"]))
    .map("".join)
    .filter(lambda keyword: bool(words_of(keyword)))
)


@settings(max_examples=600)
@given(
    st.lists(KEYWORD, min_size=1, max_size=5, unique=True),
    TEXT,
    TEXT.map(lambda text: text.replace("\n", " ")),
    st.sampled_from(["utf-8", "utf-16-le"]),
)
@example(["a"], "a\n", "a", "utf-8")
@example(["a a"], "a a a\na a", "a", "utf-8")
@example(["cafe"], "cafe\u0301 CAFÉ\ncafé", "", "utf-8")
@example(["a b*"], "a\nbcd", "", "utf-8")
@example(["字"], "字漢 字\n字", "字", "utf-8")
def test_the_watch_list_finds_what_a_search_finds(
    keywords: list[str], text: str, overlap: str, encoding: str
) -> None:
    # A block ends between words, and only what begins in it is its own.
    text += "\n"
    expected = {keyword: searched(keyword, text, overlap) for keyword in keywords}
    assert looked(keywords, text, overlap, encoding=encoding) == {
        keyword: lines for keyword, lines in expected.items() if lines
    }


@settings(max_examples=300)
@given(st.lists(KEYWORD, min_size=1, max_size=4), st.characters(exclude_categories=["Cs"]), WORD)
def test_any_character_is_folded_as_the_index_folds_it(
    keywords: list[str], character: str, word: str
) -> None:
    text = f"{character}{word} {word}{character} {word}{character}{word}\n{character}\n"
    asked = [keyword for keyword in {word, character, word + character} if words_of(keyword)]
    expected = {keyword: searched(keyword, text, "") for keyword in asked}
    assert looked(asked, text) == {word: lines for word, lines in expected.items() if lines}


def test_a_hit_that_begins_in_the_overlap_is_the_next_blocks() -> None:
    assert looked(["fail", "disk fail"], "the disk\n", "fail") == {"disk fail": [1]}


def test_line_numbers_go_on_where_the_takes_earlier_blocks_ended() -> None:
    found: dict[str, list[int]] = {}
    watch_list = WatchList(["needle"])
    watch_list.look(b"a\nneedle\n", "a\nneedle\n", "", 0, found)
    watch_list.look(b"needle\nb\nneedle\n", "needle\nb\nneedle\n", "", 2, found)
    assert found == {"needle": [2, 3, 5]}


def test_a_line_is_named_once_however_often_it_holds_the_keyword() -> None:
    assert looked(["a"], "a a a\nb\na a\n") == {"a": [1, 3]}


def test_keywords_that_differ_only_in_case_are_each_recorded_as_written() -> None:
    assert looked(["Invoice", "invoice"], "INVOICE\n") == {"Invoice": [1], "invoice": [1]}


def test_one_keyword_may_be_part_of_another() -> None:
    keywords = ["pay", "payment", "payment due", "due", "pay*"]
    assert looked(keywords, "payment due\npay\n") == {
        "pay": [2], "payment": [1], "payment due": [1], "due": [1], "pay*": [1, 2],
    }  # fmt: skip


def test_no_more_lines_are_kept_of_a_keyword_than_a_row_can_hold() -> None:
    assert len(looked(["a"], "a\n" * (RECORDED + 50))["a"]) == RECORDED


def test_without_keywords_nothing_is_looked_for() -> None:
    assert looked([], "anything\n") == {}


@pytest.mark.parametrize("keyword", ["\u19b0", "\u1cf2"])
def test_a_letter_that_the_index_does_not_know_stops_no_worker(keyword: str) -> None:
    assert looked([keyword, "word"], "word\n") == {"word": [1]}

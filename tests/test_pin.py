"""Pinning finds words exactly where the index has them, and marks the right characters."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dropmill.errors import UsageError
from dropmill.index import TOKENIZER, tokenize
from dropmill.search.pin import compile_term, matches, occurrences, parts

# Letters with and without accents (composed and not), digits, scripts without case, Greek and
# Cyrillic, ligatures, separators of all kinds, marks that stand alone, characters beyond 16 bits.
ALPHABET = list(
    "abAB1_ -.\n\t\x00\x01"
    "éÉeE\u0301\u0327\u0331ñßẞ\u017f\u0131İµ\u03c3ςΣдД中文字ｶ한กิ\u0966٣①ﬁﷺ\u00b4\u00a0"
)
ALPHABET += ["\u0308", "\u034f", "\u200d", "\ufeff", "\ufffd", "\U0001f600", "\U00010400", "\ue000"]
TEXTS = st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"]), max_size=60)
QUERIES = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=6)


def words_of(text: str) -> list[tuple[str, str]]:
    raw = text.encode()
    return [(raw[start:end].decode(), word) for start, end, word in tokenize(raw)]


def naive(text: str, words: tuple[str, ...], prefix: bool) -> list[tuple[int, int]]:
    """Where a phrase stands by the tokenizer's own account, in characters."""
    raw = text.encode()
    tokens = tokenize(raw)
    found = []
    for at in range(len(tokens) - len(words) + 1):
        here = tokens[at : at + len(words)]
        same = [word for _, _, word in here[:-1]] == list(words[:-1])
        last = here[-1][2]
        if same and (last.startswith(words[-1]) if prefix else last == words[-1]):
            start, end = here[0][0], here[-1][1]
            found.append((len(raw[:start].decode()), len(raw[:end].decode())))
    return found


@given(text=TEXTS, query=QUERIES, prefix=st.booleans())
@example(text="e\u0301e \u0301e", query="ee", prefix=False)
@example(text="a\x01b", query="b", prefix=False)
@example(text="0\u032d\u032d1", query="01", prefix=False)
@example(text="\u0301", query="e", prefix=True)
@settings(max_examples=1_500, deadline=None)
def test_a_term_is_found_exactly_where_the_index_has_it(
    text: str, query: str, prefix: bool
) -> None:
    if not tokenize(query.encode()):
        return
    if prefix:
        query += "*"
    term = compile_term(query)
    found = [(hit.start, hit.end) for hit in occurrences(text, [term])]
    expected = naive(text, term.words, term.prefix)
    assert found == expected


@given(text=TEXTS, data=st.data())
@settings(max_examples=400, deadline=None)
def test_a_text_answers_a_term_if_and_only_if_fts5_says_so(text: str, data: st.DataObject) -> None:
    words = [written for written, _ in words_of(text)]
    query = data.draw(QUERIES | st.sampled_from(words)) if words else data.draw(QUERIES)
    query += data.draw(st.sampled_from(["", "*", " a", " " + query]))
    if not tokenize(query.encode()):
        return
    term = compile_term(query)
    connection = apsw.Connection(":memory:")
    name, arguments = TOKENIZER
    tokenizer = " ".join([name, *(f"'{argument}'" for argument in arguments)])
    connection.execute(f'CREATE VIRTUAL TABLE t USING fts5(text, tokenize="{tokenizer}")')
    connection.execute("INSERT INTO t VALUES(?)", (text,))
    found = connection.execute("SELECT 1 FROM t WHERE t MATCH ?", (term.fts,)).fetchall()
    assert bool(occurrences(text, [term])) == bool(found)


def test_case_and_accents_do_not_matter() -> None:
    for text in ("Crème", "CREME", "cre\u0300me", "crème"):
        assert occurrences(text, [compile_term("CRÈME")])


def test_a_span_covers_the_marks_that_belong_to_its_word() -> None:
    text = "x cafe\u0301 y"
    (hit,) = occurrences(text, [compile_term("café")])
    assert text[hit.start : hit.end] == "cafe\u0301"


def test_a_word_inside_another_is_no_hit() -> None:
    assert not occurrences("kmalloc_node mykmalloc kmalloc2", [compile_term("kmalloc")])
    assert occurrences("(kmalloc)", [compile_term("kmalloc")])


def test_a_prefix_marks_the_whole_word() -> None:
    text = "it failed, failure"
    found = occurrences(text, [compile_term("fail*")])
    assert [text[hit.start : hit.end] for hit in found] == ["failed", "failure"]


def test_punctuated_arguments_are_the_phrase_of_their_words() -> None:
    for argument in ("foo-bar", "foo/bar", "foo bar", "foo, bar", '"foo" bar'):
        term = compile_term(argument)
        assert term.words == ("foo", "bar")
        assert not term.prefix
        assert occurrences("a foo\n  bar", [term])
        assert not occurrences("a bar foo", [term])


def test_only_the_last_word_of_a_phrase_can_be_a_prefix() -> None:
    assert compile_term("disk fail*").prefix
    assert not compile_term("dis* failure").prefix
    assert not compile_term("disk *").prefix


@pytest.mark.parametrize("argument", ["", "  ", "++", "*", "-", "\u0301", "\udcff"])
def test_a_term_without_a_word_is_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        compile_term(argument)


def test_overlapping_phrases_are_all_found() -> None:
    found = occurrences("a a a", [compile_term("a a")])
    assert [(hit.start, hit.end) for hit in found] == [(0, 3), (2, 5)]


def test_matches_are_counted_in_lines_as_grep_does() -> None:
    text = "one two\r\n\r\ntwo\x0bone\nthree one"
    terms = [compile_term("one"), compile_term("two")]
    assert matches(text, terms) == [
        (0, 0, 3, 0),
        (0, 4, 7, 1),
        (2, 0, 3, 1),
        (2, 4, 7, 0),
        (3, 6, 9, 0),
    ]


def test_a_match_that_crosses_a_line_break_starts_on_its_first_line() -> None:
    text = "x\ndisk\n * failure"
    assert matches(text, [compile_term("disk failure")]) == [(1, 0, 15, 0)]


def test_parts_of_a_span_are_cut_at_line_breaks_and_hold_something() -> None:
    text = "disk\r\n\n  failure"
    assert [text[start:end] for start, end in parts(text, 0, len(text))] == ["disk", "failure"]

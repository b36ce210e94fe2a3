"""Expressions: what is offered is taken, and what is wrong is told by its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.datasets.engine import Engine, Piece, load
from dropmill.datasets.expression import WrongExpression, aggregate, condition
from dropmill.datasets.partial import answer
from dropmill.datasets.rule import Rule
from dropmill.datasets.table import open_table

load()


def counted(where: str, content: bytes = b"a,b,g\n7,2,x\n-7,2,y\n,0,\n5,0,xy\n") -> int:
    """How many of the records of a table match."""
    of = (("n", aggregate("count()")),)
    rule = Rule("r", "*", condition(where), (), of, False, None)
    table = open_table("a.csv", len(content), "utf-8", lambda first, end: content[first:end])
    partial = Engine().partial(rule, Piece(table, content[table.body :], True), 1)
    ((found,),) = [group.values for group in answer(partial)]
    assert found == partial.kept
    return partial.kept


@pytest.mark.parametrize(
    ("where", "matched"),
    [
        ("a = 7", 1),
        ("a != 7", 2),
        ("a <> 7", 2),
        ("NOT a = 7", 2),
        ("a IS NULL", 1),
        ("a is not null", 3),
        ("g LIKE 'x%'", 2),
        ("g NOT LIKE '_'", 1),
        ("g IN ('x', 'y')", 2),
        ("a NOT IN (7, -7)", 1),
        ("a BETWEEN -7 AND 5", 2),
        ("a NOT BETWEEN -7 AND 5", 1),
        ("a % 2 = 1 AND b = 0", 1),
        ("a = 7 OR b = 0 AND a = 5", 2),
        ("(a = 7 OR b = 0) AND a = 5", 1),
        ("-a = 7", 1),
        ("abs(a) = 7", 2),
        ("length(g) = 2", 1),
        ("upper(g) = 'XY'", 1),
        ("a / 2 = 3.5", 1),
        ('"a" = 7', 1),
        ("a = 5e0", 1),
        ("2 + 3 * 4 - 9 = a", 1),
    ],
)
def test_what_is_offered_means_what_it_means_in_sql(where: str, matched: int) -> None:
    assert counted(where) == matched


@pytest.mark.parametrize("where", ["a / b > 1", "a % b > 1", "a / (b - b) > 1", "0 / b > 1"])
def test_a_division_by_zero_is_larger_than_nothing(where: str) -> None:
    assert counted(f"b = 0 AND {where}") == 0


@pytest.mark.parametrize(
    ("written", "at", "text"),
    [
        ("a >", 3, "the end"),
        ("", 0, "expected"),
        ("a = 1 b", 6, "b was not expected"),
        ("a = 'x", 4, "never closed"),
        ("a ; b", 2, "; cannot stand here"),
        ("nosuch(a) = 1", 0, "no such function: nosuch"),
        ("sum(a) = 1", 0, "sum() cannot stand within"),
        ("1 + a", 0, "a condition was expected"),
        ("a", 0, "a condition was expected"),
        ("a = 1 AND a = 'x'", 10, "a is used as a number and as a text"),
        ("a LIKE b", 7, "single quotes"),
        ("a IN (b)", 6, "numbers or texts"),
        ("a IN ()", 6, "expected"),
        ("a = 99999999999999999999", 4, "64 bits"),
        ("a = 1e999", 4, "too large"),
        ("(a = 1", 6, ") was expected"),
        ("a NOT 1", 6, "LIKE, IN or BETWEEN"),
        ("__import__('os') = 1", 0, "no such function"),
        ("(" * 60 + "a = 1" + ")" * 60, 51, "deep"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(written: str, at: int, text: str) -> None:
    with pytest.raises(WrongExpression) as wrong:
        condition(written)
    assert text in wrong.value.text
    assert wrong.value.at == at


@pytest.mark.parametrize("written", ["a", "sum", "sum()", "sum(a) + 1", "median(a)", "sum(a = 1)"])
def test_an_aggregate_is_one_function_of_numbers(written: str) -> None:
    with pytest.raises(WrongExpression):
        aggregate(written)


def test_columns_and_their_sorts_are_known_from_their_use() -> None:
    found = condition("\"unit price\" * n > 5 AND region = 'north' AND x = y AND y = 1")
    assert set(found.columns) == {"unit price", "n", "region", "x", "y"}
    assert found.numbers == {"unit price", "n", "x", "y"}
    assert found.texts == {"region"}


@pytest.mark.parametrize("word", ["OR", "AND"])
def test_a_thousand_conditions_in_a_row_are_no_trouble(word: str) -> None:
    kept = counted(f" {word} ".join(["a = 7"] * 1_000))
    assert kept == 1


def test_a_hundred_numbers_may_be_added_up_and_no_more() -> None:
    assert counted(" + ".join(["a"] * 100) + " = 700") == 1
    with pytest.raises(WrongExpression, match="more than 100 in a row"):
        condition(" + ".join(["a"] * 101) + " = 700")


_NESTED = st.recursive(
    st.sampled_from(["a", "b", "3", "1.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", " * ", " / ", " % "]), inner).map(
            lambda three: f"({''.join(three)})"
        ),
        inner.map("-({})".format),
        inner.map("abs({})".format),
        inner.map("round({})".format),
        inner.map(lambda each: "(" * 10 + each + ")" * 10),
    ),
    max_leaves=40,
)


@given(_NESTED)
def test_what_passes_the_check_is_understood_by_the_engine(written: str) -> None:
    """Or a file would be told what is the configuration's fault."""
    where = f"{written} = 1 OR 1 = 1"
    try:
        condition(where)
    except WrongExpression as wrong:
        assert "deep" in wrong.text
        return
    assert counted(where, b"a,b\n1.5,2\n") == 1


@pytest.mark.parametrize("nesting", ["abs({})", "-({})", "(1 + {})", "length(lower({}))"])
def test_whatever_is_nested_too_deep_is_told_beforehand(nesting: str) -> None:
    start = "g" if "lower" in nesting else "a"
    deepest, written = 0, start
    for depth in range(1, 60):
        written = nesting.format(written) if "lower" not in nesting else f"lower({written})"
        try:
            condition(f"{written} = {written}")
        except WrongExpression:
            break
        deepest = depth
        assert counted(f"{written} = {written}", b"a,g\n1,x\n") == 1
    assert 10 <= deepest < 59

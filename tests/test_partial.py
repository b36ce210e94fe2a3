"""Partial results add up, in any order and any cut, and survive being written down."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.datasets import partial as partial_module
from dropmill.datasets.partial import (
    BeyondFloat,
    Partial,
    Shape,
    TooManyGroups,
    Value,
    answer,
    combine,
    nothing,
    packed,
    unpacked,
)

SHAPE = Shape(("g",), ("s", "n", "m", "lo", "hi"), ("sum", "count", "mean", "min", "max"))
_WHOLE = st.integers(-(2**127), 2**127)
_FRACTION = st.floats(-1e100, 1e100)


def of(rows: list[tuple[str | None, int | float]]) -> Partial:
    """What an engine would make of these groups and numbers."""
    groups: dict[str | None, list[int | float]] = {}
    for key, value in rows:
        groups.setdefault(key, []).append(value)
    is_float = any(isinstance(value, float) for _, value in rows)
    is_floats = (is_float, False, is_float, is_float, is_float)
    found: dict[tuple[str | None, ...], tuple[Value, ...]] = {}
    for key, values in groups.items():
        total = math.fsum(values) if is_float else sum(values)
        low, high = min(values), max(values)
        found[(key,)] = (total, len(values), (total, len(values)), low, high)
    return Partial(SHAPE, len(rows), len(rows), 0, is_floats, found)


_ROWS = st.lists(st.tuples(st.sampled_from([None, "", "x", "\0", "y,z"]), _WHOLE), max_size=30)


@given(_ROWS, st.randoms(use_true_random=False), st.integers(1, 6))
def test_whole_numbers_add_up_exactly_in_any_cut_and_order(
    rows: list[tuple[str | None, int | float]], chooser: random.Random, pieces: int
) -> None:
    whole = combine(SHAPE, [of(rows)])
    parts: list[list[tuple[str | None, int | float]]] = [[] for _ in range(pieces)]
    for row in rows:
        chooser.choice(parts).append(row)
    found = combine(SHAPE, [of(part) for part in parts])
    assert found == whole
    assert combine(SHAPE, [combine(SHAPE, map(of, parts[:2])), *map(of, parts[2:])]) == whole


@given(st.lists(st.tuples(st.just("x"), _FRACTION | st.integers(-(2**60), 2**60)), min_size=1))
def test_fractions_add_up_to_the_last_bits_in_any_cut(
    rows: list[tuple[str | None, int | float]],
) -> None:
    values = [value for _, value in rows]
    found = combine(SHAPE, [of([row]) for row in rows])
    ((total, count, _, low, high),) = found.groups.values()
    assert isinstance(total, int | float)
    assert abs(total - math.fsum(values)) <= 1e-12 * math.fsum(map(abs, values))
    kind = float if any(isinstance(value, float) for value in values) else int
    assert (count, low, high) == (len(values), kind(min(values)), kind(max(values)))


@given(_ROWS)
def test_what_was_written_down_is_what_it_was(rows: list[tuple[str | None, int | float]]) -> None:
    found = {"a": of(rows), "b": nothing(SHAPE)}
    assert unpacked(packed(found)) == found


@given(st.lists(st.tuples(st.just("x"), _FRACTION)))
def test_fractions_are_written_down_without_loss(
    rows: list[tuple[str | None, int | float]],
) -> None:
    assert unpacked(packed({"a": of(rows)})) == {"a": of(rows)}


def test_nothing_at_all_is_no_group_or_one_without_group_by() -> None:
    assert not list(answer(combine(SHAPE, [])))
    alone = SHAPE._replace(group_by=())
    ((key, values),) = answer(combine(alone, []))
    assert (key, values) == ((), (0, 0, None, None, None))


def test_groups_come_in_the_order_of_their_keys_what_is_empty_first() -> None:
    found = combine(SHAPE, [of([("b", 1), (None, 2), ("a", 3), ("", 4)])])
    assert [group.key for group in answer(found)] == [(None,), ("",), ("a",), ("b",)]


def test_a_mean_of_huge_numbers_is_rounded_once() -> None:
    found = combine(SHAPE, [of([("x", 2**120), ("x", 2**120 + 2)])])
    ((_, values),) = answer(found)
    assert values[2] == float(2**120)


@pytest.mark.parametrize("values", [(1e308, 1e308), (10**400, 0.5)])
def test_what_is_beyond_any_fraction_is_an_error(values: tuple[int | float, ...]) -> None:
    with pytest.raises((BeyondFloat, OverflowError)) as wrong:
        list(answer(combine(SHAPE, [of([("x", value)]) for value in values])))
    assert isinstance(wrong.value, BeyondFloat)


def test_more_groups_than_are_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "MOST_GROUPS", 3)
    three = [of([(str(number), 1)]) for number in range(3)]
    assert len(combine(SHAPE, three).groups) == 3
    with pytest.raises(TooManyGroups, match="more than 3 groups"):
        combine(SHAPE, [*three, of([("other", 1)])])

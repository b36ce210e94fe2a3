"""Waiting: whatever can be read is told, also after the ends have changed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from dropmill.waiting import Waiting

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Ends]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def test_what_can_be_read_is_told_until_it_was_read(pairs: list[Ends]) -> None:
    waiting = Waiting()
    ends = [near for near, _ in pairs]
    assert waiting.ready(ends, 0) == []
    pairs[1][1].send(b"!")
    assert waiting.ready(ends, 10) == waiting.ready(ends, 10) == [ends[1]]
    ends[1].recv(1)
    assert waiting.ready(ends, 0) == []


def test_a_hang_up_is_told(pairs: list[Ends]) -> None:
    pairs[0][1].close()
    assert Waiting().ready([pairs[0][0]], 10) == [pairs[0][0]]


def test_other_ends_are_waited_for_as_soon_as_they_are_given(pairs: list[Ends]) -> None:
    waiting = Waiting()
    first, second, third = (near for near, _ in pairs)
    assert waiting.ready([first, second.fileno()], 0) == []
    first.close()  # another may be given its number
    for _, far in pairs[1:]:
        far.send(b"!")
    assert waiting.ready([second.fileno(), third], 10) == [second.fileno(), third]
    assert waiting.ready([third], 10) == [third]


def test_an_end_that_was_given_the_number_of_another_is_told_of(pairs: list[Ends]) -> None:
    waiting = Waiting()
    old = pairs[0][0]
    assert waiting.ready([old], 0) == []
    number = old.fileno()
    old.close()
    reader, writer = os.pipe()
    assert reader == number
    with open(reader, "rb") as new, open(writer, "wb", buffering=0) as far:
        far.write(b"!")
        assert waiting.ready([new], 10) == [new]


def test_it_waits_no_longer_than_it_is_told(pairs: list[Ends]) -> None:
    began = time.monotonic()
    assert Waiting().ready([pairs[0][0]], 0.02) == []
    assert time.monotonic() - began >= 0.02

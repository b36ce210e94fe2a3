"""The sentence that `systemctl status` shows."""

from __future__ import annotations

import pytest

from dropmill.job import State
from dropmill.telling import status_sentence

MANY = {State.DONE: 1_204, State.QUEUED: 3, State.QUARANTINED: 1, State.GONE: 9, State.SKIPPED: 2}


@pytest.mark.parametrize(
    ("counts", "roots", "busy", "paused", "is_refused", "sentence"),
    [
        (
            MANY, ["watching", "watching"], [False, False], None, False,
            "1,204 files done, 3 queued, 1 quarantined; watching 2 folders; 2 workers idle",
        ),
        ({State.DONE: 1}, ["polling"], [True], None, False,
         "1 file done; polling 1 folder; 1 worker busy"),
        ({}, ["offline", "watching", "degraded"], [True, False], None, False,
         "0 files done; 1 offline, watching 1 folder, 1 degraded; 1 of 2 workers busy"),
        ({}, ["watching"], [False], "paused by `dropmill pause`", False,
         "paused by `dropmill pause`; 0 files done; watching 1 folder; 1 worker idle"),
        ({}, ["watching"], [], "/srv: 3 MiB free", True,
         "the configuration as saved is not in force; paused: /srv: 3 MiB free; 0 files done;"
         " watching 1 folder; 0 workers idle"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_is_wrong_and_then_how_it_stands(
    counts: dict[State, int],
    roots: list[str],
    busy: list[bool],
    paused: str | None,
    is_refused: bool,
    sentence: str,
) -> None:
    assert status_sentence(counts, roots, busy, paused, is_refused) == sentence

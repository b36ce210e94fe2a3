"""What changed in the configuration, as the log tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dropmill import config
from dropmill.config.changes import sentence

TEXT = "state: ./state\nwatch: [{path: ./a}]\n"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("state: ./state\nwatch: [{path: ./a}, {path: ./b}]\n", "watching {0}/b too"),
        ("state: ./state\nwatch: [{path: ./b}]\n", "watching {0}/b too; no longer watching {0}/a"),
        ("state: ./state\nwatch: [{path: ./a, settle: 2s}]\n", "{0}/a: settle 0.5 → 2.0"),
        ("state: ./state\nwatch: [{path: ./a, exclude: [x]}]\n", "{0}/a: exclude"),
        (TEXT + "workers: 3\n", "workers auto → 3"),
        (TEXT + "limits: {timeout: 5m}\n", "limits.timeout 120.0 → 300.0"),
        (TEXT + "log: {level: debug}\n", "log.level info → debug"),
        (
            TEXT + "text: {keywords: [one, two words]}\n",
            'text.keywords: new: "one", "two words"',
        ),
        (
            TEXT + "text: {keywords: [a, b, c, d, e, f, g]}\n",
            'text.keywords: new: "a", "b", "c", "d", "e" and 2 more',
        ),
        (
            TEXT + "images: {output: ./gray}\n",
            "images.output (for what comes from now on)",
        ),
    ],
)
def test_a_change_is_told_in_one_sentence(tmp_path: Path, new: str, told: str) -> None:
    path = tmp_path / "dropmill.yaml"
    path.write_text(TEXT)
    before = config.load(path)
    path.write_text(new)
    assert sentence(before, config.load(path)) == told.format(tmp_path)


def test_several_changes_are_told_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "dropmill.yaml"
    path.write_text(TEXT + "text: {keywords: [one]}\n")
    before = config.load(path)
    path.write_text(TEXT + "workers: 3\n")
    told = sentence(before, config.load(path))
    assert told == 'workers auto → 3; text.keywords: dropped: "one"'

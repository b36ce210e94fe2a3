"""Exclude patterns mean what git makes of them."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.config.exclude import Excludes
from dropmill.config.settings import DEFAULT_EXCLUDE

# patterns, path, whether it is a folder, the pattern that leaves it out
CASES: list[tuple[list[str], str, bool, str | None]] = [
    (["*.part"], "a/b/x.part", False, "*.part"),
    (["*.part"], "a.part/x", False, "*.part"),
    (["*.part"], "x.part.txt", False, None),
    ([".*"], ".git/objects/ab", False, ".*"),
    ([".*"], "a/.hidden", False, ".*"),
    (["build/"], "build", False, None),
    (["build/"], "build", True, "build/"),
    (["build/"], "a/build/x", False, "build/"),
    (["/top"], "top", False, "/top"),
    (["/top"], "a/top", False, None),
    (["a/b"], "a/b", False, "a/b"),
    (["a/b"], "x/a/b", False, None),
    (["**/x/y"], "a/b/x/y", False, "**/x/y"),
    (["logs/**"], "logs", True, None),
    (["logs/**"], "logs/a/b", False, "logs/**"),
    (["a/**/z"], "a/z", False, "a/**/z"),
    (["a/**/z"], "a/b/c/z", False, "a/**/z"),
    (["*.log", "!keep.log"], "keep.log", False, None),
    (["*.log", "!keep.log"], "other.log", False, "*.log"),
    (["!keep.log", "*.log"], "keep.log", False, "*.log"),
    (["old", "!old/keep"], "old/keep", False, "old"),
    (["*", "!*/", "!*.txt"], "a/b/x.txt", False, None),
    (["*", "!*/", "!*.txt"], "a/b/x.png", False, "*"),
    (["[ab]?.txt"], "a1.txt", False, "[ab]?.txt"),
    (["[!a]x"], "bx", False, "[!a]x"),
    (["\\!odd"], "!odd", False, "\\!odd"),
    (["\\#odd"], "#odd", False, "\\#odd"),
    (["*.txt"], "", True, None),
]


@pytest.mark.parametrize(("patterns", "path", "is_folder", "expected"), CASES)
def test_a_path_is_left_out_by_the_pattern_that_decides(
    patterns: list[str], path: str, is_folder: bool, expected: str | None
) -> None:
    assert Excludes(patterns).of_path(path, is_folder) == expected


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git itself")
def test_git_decides_the_same(tmp_path: Path) -> None:
    for number, (patterns, path, is_folder, expected) in enumerate(CASES):
        if not path:
            continue
        repository = tmp_path / str(number)
        (repository / path).parent.mkdir(parents=True)
        (repository / path).mkdir() if is_folder else (repository / path).touch()
        subprocess.run(["git", "init", "-q", "--template=", repository], check=True)
        (repository / ".git" / "info").mkdir(exist_ok=True)
        if path.startswith(".git/"):
            continue
        (repository / ".git/info/exclude").write_text("\n".join(patterns) + "\n")
        asked = subprocess.run(
            ["git", "-C", repository, "check-ignore", "-q", "--no-index", path], check=False
        )
        assert (asked.returncode == 0) == (expected is not None), (patterns, path)


def test_callers_that_walk_from_the_root_down_may_ask_for_the_name_alone() -> None:
    excludes = Excludes(["old/", "*.tmp"])
    assert excludes.of_name("old", True) == "old/"
    assert excludes.of_name("old/x", False) is None
    assert excludes.of_name("a/x.tmp", False) == "*.tmp"


@given(
    st.lists(st.sampled_from([*DEFAULT_EXCLUDE, "**", "*", "a/", "/b", "a/*", "!*.x"]), max_size=4),
    st.text("ab.~x\n", min_size=1, max_size=4),
    st.booleans(),
)
def test_a_quick_look_at_a_name_lets_nothing_through(
    patterns: list[str], name: str, is_folder: bool
) -> None:
    excludes = Excludes(patterns)
    if excludes.may_apply is None or not excludes.may_apply(name):
        assert excludes.of_name(name, is_folder) is None
        assert excludes.of_name(f"a/{name}", is_folder) is None


def test_a_name_with_a_line_end_or_any_byte_is_matched_like_any_other() -> None:
    excludes = Excludes([*DEFAULT_EXCLUDE, "/deep/**/x?"])
    assert excludes.of_path("a\nb/x.part", False) == "*.part"
    assert excludes.of_path("x.part\n", False) is None
    assert excludes.of_path(os.fsdecode(b"\xff\xfe/~\xe9"), False) == "~*"
    assert excludes.of_path("deep/a\nb/x\n", False) == "/deep/**/x?"


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5), st.booleans())
def test_no_name_makes_it_raise(parts: list[bytes], is_folder: bool) -> None:
    names = [part.replace(b"/", b"-").replace(b"\0", b"-") for part in parts]
    path = os.fsdecode(b"/".join(names))
    hidden = next((n for n in names if n.startswith((b".", b"~")) or n.endswith(b".tmp")), None)
    found = Excludes([".*", "~*", "*.tmp"]).of_path(path, is_folder)
    assert (found is not None) == (hidden is not None)


def test_a_path_of_a_thousand_folders_is_no_recursion_error() -> None:
    assert Excludes(DEFAULT_EXCLUDE).of_path("a/" * 2000 + "x.part", False) == "*.part"


@pytest.mark.parametrize(
    "pattern", ["", "  ", "#note", "/", "!", "[a-", "[z-a]", "[[:alpha:]]", "a\nb", "a\0b"]
)
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|comment"):
        Excludes([pattern])


@given(st.one_of(st.text(max_size=30), st.text("[]!^-ab\\*?/{}()|&~#$+.: ", max_size=8)))
def test_any_pattern_is_taken_or_refused_with_a_sentence(pattern: str) -> None:
    try:
        excludes = Excludes([pattern])
    except ValueError as error:
        assert "pattern" in str(error) or "comment" in str(error)
    else:
        excludes.of_path("some/file.txt", False)


def test_excludes_go_to_another_process_as_they_are() -> None:
    excludes = pickle.loads(pickle.dumps(Excludes(DEFAULT_EXCLUDE)))
    assert excludes.of_path("a/.b/c", False) == ".*"

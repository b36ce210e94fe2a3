"""Hits are printed as rg prints them, and nothing that a file holds drives the terminal."""

from __future__ import annotations

import base64
import io
import json

import pytest

from dropmill.search import FileHits, Line
from dropmill.search.output import more, write

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"
HITS = [
    FileHits(b"/in/a.txt", [Line(3, "a disk failed", ((2, 6),)), Line(9, "disk", ((0, 4),))]),
    FileHits(b"/in/b.txt", [Line(1, "disk", ((0, 4),))]),
]
CONTEXT = [
    FileHits(
        b"/in/a.txt",
        [
            Line(2, "before", ()),
            Line(3, "a disk", ((2, 6),)),
            Line(8, "8", ()),
            Line(9, "disk", ((0, 4),)),
        ],
    ),
    FileHits(b"/in/b.txt", [Line(1, "disk", ((0, 4),))]),
]
UNREADABLE = [FileHits(b"/in/secret.txt", None)]


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def printed(results: list[FileHits], style: str, *, color: bool = False) -> str:
    out = io.BytesIO()
    assert write(results, style=style, color=color, out=out) is bool(results)
    return out.getvalue().decode("utf-8", "surrogateescape")


def test_a_terminal_gets_lines_grouped_under_their_file() -> None:
    assert printed(HITS, "terminal") == (
        "/in/a.txt\n3:a disk failed\n9:disk\n\n/in/b.txt\n1:disk\n"
    )


def test_hits_are_highlighted_where_colour_is_wanted() -> None:
    shown = printed(HITS, "terminal", color=True)
    assert f"a {RED}disk{PLAIN} failed" in shown
    assert "\x1b" not in printed(HITS, "terminal")


def test_a_pipe_gets_path_line_and_text() -> None:
    assert printed(HITS, "pipe", color=True) == (
        "/in/a.txt:3:a disk failed\n/in/a.txt:9:disk\n/in/b.txt:1:disk\n"
    )


def test_lines_of_context_and_groups_are_told_apart_as_rg_does() -> None:
    assert printed(CONTEXT, "pipe") == (
        "/in/a.txt-2-before\n/in/a.txt:3:a disk\n--\n/in/a.txt-8-8\n/in/a.txt:9:disk\n"
        "--\n/in/b.txt:1:disk\n"
    )
    assert printed(CONTEXT, "terminal") == (
        "/in/a.txt\n2-before\n3:a disk\n--\n8-8\n9:disk\n\n/in/b.txt\n1:disk\n"
    )


def test_paths_and_counts_are_one_line_a_file() -> None:
    assert printed(HITS, "paths") == "/in/a.txt\n/in/b.txt\n"
    assert printed(CONTEXT, "counts") == "/in/a.txt:2\n/in/b.txt:1\n"


def test_json_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in printed(HITS, "json").splitlines()]
    assert lines[0] == {"path": "/in/a.txt", "line": 3, "text": "a disk failed", "spans": [[2, 6]]}
    assert len(lines) == 3


def test_json_gives_a_path_that_is_not_utf_8_as_base64() -> None:
    (line,) = printed([FileHits(b"/in/caf\xe9", HITS[1].lines)], "json").splitlines()
    assert json.loads(line)["path"] == {"bytes": base64.b64encode(b"/in/caf\xe9").decode()}


@pytest.mark.parametrize("style", ["terminal", "pipe", "paths", "counts"])
def test_a_file_that_may_not_be_read_is_its_path_alone(style: str) -> None:
    assert printed(UNREADABLE, style) == "/in/secret.txt\n"


def test_a_file_that_may_not_be_read_is_its_path_alone_in_json() -> None:
    assert json.loads(printed(UNREADABLE, "json")) == {"path": "/in/secret.txt"}


def test_nothing_that_a_file_holds_or_is_called_drives_the_terminal() -> None:
    evil = "\x1b]0;gotcha\x07 disk \x9b31m \r\u202e\u2028end\tof"
    hits = [FileHits(b"/in/\x1b[2J\xff\n", [Line(1, evil, ((11, 16),))])]
    for style in ("terminal", "lines", "paths", "counts"):
        out = Terminal()
        write(hits, style=style, color=False, out=out)
        shown = out.getvalue().decode()
        assert not set("\x1b\x07\x9b\r\u202e\u2028") & set(shown), style
        assert shown.startswith("/in/\\x1b[2J\\xff\\x0a")
    out = Terminal()
    write(hits, style="terminal", color=True, out=out)
    assert f"\\x1b]0;gotcha\\x07{RED} disk{PLAIN}" in out.getvalue().decode()
    assert "\\u202e\\u2028end\tof" in out.getvalue().decode()


def test_a_pipe_gets_text_and_paths_as_they_are() -> None:
    hits = [FileHits(b"/in/caf\xe9", [Line(1, "\x1b[31m disk", ((6, 10),))])]
    out = io.BytesIO()
    write(hits, style="lines", color=False, out=out)
    assert out.getvalue() == b"/in/caf\xe9:1:\x1b[31m disk\n"


def test_text_streams_are_written_beneath_their_encoding() -> None:
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="ascii")
    write(HITS[1:], style="pipe", color=False, out=text)
    assert raw.getvalue() == b"/in/b.txt:1:disk\n"


def test_nothing_found_prints_nothing_and_says_so() -> None:
    for style in ("terminal", "pipe", "paths", "counts", "json"):
        assert printed([], style) == ""


def test_further_files_are_named_with_the_way_to_them() -> None:
    assert more(0) is None
    assert more(1) == "… and 1 more file: -m 0 shows all"
    assert more(1_312) == "… and 1,312 more files: -m 0 shows all"
    assert more(None) == "… and more files: -m 0 shows all"

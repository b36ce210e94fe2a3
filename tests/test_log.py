"""Logging: what is written, to whom, and how often."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.log import Repeats, printable, rfc3339, shown


def logged(format: str, code: str, **environment: str) -> list[str]:
    """The lines of stderr that a process of its own writes."""
    program = f"import logging, dropmill.log as l; l.configure('info', {format!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, **environment},
        check=True,
    )
    assert done.stdout == b""
    return done.stderr.decode().splitlines()


def to_dropmill(call: str) -> str:
    return f"logging.getLogger('dropmill.test').{call}"


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (b"/srv/inbox/a b.txt", "/srv/inbox/a b.txt"),
        ("/srv/\u00e9t\u00e9.txt".encode(), "/srv/\u00e9t\u00e9.txt"),
        (b"/a\xff", r"/a\xff"),
        (b"/a\x1b[2J", r"/a\x1b[2J"),
        (b"/a\nb", r"/a\nb"),
        ("/a\u202egpj.exe".encode(), r"/a\u202egpj.exe"),
        (b"/a\\nb", r"/a\\nb"),
    ],
)
def test_a_name_is_shown_so_that_it_cannot_move_the_cursor(path: bytes, seen: str) -> None:
    assert shown(path) == seen


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_no_two_names_are_shown_alike(one: bytes, other: bytes) -> None:
    assert shown(one).isprintable()
    assert (shown(one) == shown(other)) == (one == other)


@given(st.text())
def test_a_message_stays_on_one_line(text: str) -> None:
    assert printable(text).isprintable()


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123Z"


# ---- formats -------------------------------------------------------------------------------------


def test_plain_lines_begin_with_the_time_and_name_what_is_not_ordinary() -> None:
    info, warning = logged(
        "plain", to_dropmill("info('up')") + "; " + to_dropmill("warning('disk full')")
    )
    assert info[4] == "-" and info.endswith(" up") and "info" not in info
    assert warning.endswith(" warning: disk full")


def test_json_is_one_object_a_line_with_the_promised_names() -> None:
    (line,) = logged("json", to_dropmill("error('%s is broken', 'a\\nb')"))
    found = json.loads(line)
    assert set(found) == {"time", "level", "message", "logger", "pid"}
    assert found["level"] == "error"
    assert found["message"] == r"a\nb is broken"
    assert found["logger"] == "dropmill.test"
    assert found["time"].endswith("Z")


def test_a_traceback_is_kept_and_every_line_of_it_has_its_head(tmp_path: Path) -> None:
    code = "try: 1/0\nexcept ZeroDivisionError: " + to_dropmill("exception('failed')")
    lines = logged("journal", code)
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
    (line,) = logged("json", code)
    assert "ZeroDivisionError: division by zero" in json.loads(line)["traceback"][-1]


def test_the_journal_gets_levels_and_no_time(tmp_path: Path) -> None:
    target = tmp_path / "stderr"
    program = (
        "import os, logging, dropmill.log as l; s = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; l.configure('debug', 'auto')\n"
        "log = logging.getLogger('dropmill'); log.debug('d'); log.info('i'); log.warning('w')"
    )
    with open(target, "wb") as file:
        subprocess.run([sys.executable, "-c", program], stderr=file, check=True)
    assert target.read_text().splitlines() == ["<7>d", "<6>i", "<4>w"]


def to_a_journal(path: Path, *command: str) -> list[str]:
    """What a command writes to a stderr that systemd has connected to the journal."""
    with open(path, "wb") as file:
        status = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run(
            [sys.executable, *command], stderr=file, env=os.environ | stream, check=False
        )
    return path.read_text().splitlines()


def test_a_service_that_cannot_start_says_why_as_an_error(tmp_path: Path) -> None:
    config = tmp_path / "dropmill.yaml"
    config.write_text("wrong: 1\nwatch: [{path: ./no, settle: soon}]\n")
    lines = to_a_journal(
        tmp_path / "stderr", "-m", "dropmill", "--config", os.fspath(config), "run"
    )
    assert len(lines) == 2
    assert all(line.startswith("<3>") for line in lines)


def test_what_nobody_caught_has_a_level_on_every_line(tmp_path: Path) -> None:
    program = "import dropmill.log as l; l.configure('info', 'auto'); 1/0"
    lines = to_a_journal(tmp_path / "stderr", "-c", program)
    assert lines[0] == "<2>failed: division by zero"
    assert len(lines) > 3 and all(line.startswith("<2>") for line in lines)


def test_a_journal_that_stderr_is_not_connected_to_changes_nothing() -> None:
    (line,) = logged("auto", to_dropmill("info('up')"), JOURNAL_STREAM="1:1")
    assert not line.startswith("<")


def test_libraries_are_heard_only_when_something_is_wrong() -> None:
    lines = logged("plain", "l = logging.getLogger('PIL'); l.info('chunk'); l.warning('odd chunk')")
    assert len(lines) == 1 and lines[0].endswith("warning: odd chunk")


def test_setting_up_again_replaces_what_was() -> None:
    code = "l.configure('error', 'json')\n" + to_dropmill("info('no')") + "\n"
    (line,) = logged("plain", code + to_dropmill("error('once')"))
    assert json.loads(line)["message"] == "once"


# ---- repeats -------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("dropmill", logging.INFO, "", 0, message, arguments, None)


def test_the_same_message_comes_once_a_minute_with_a_count() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert repeats.filter(record("%s: full", "/srv"))
    assert not repeats.filter(record("%s: full", "/srv"))
    assert repeats.filter(record("%s: full", "/home"))
    clock.now = 59.9
    assert not repeats.filter(record("%s: full", "/srv"))
    clock.now = 60.0
    again = record("%s: full", "/srv")
    assert repeats.filter(again)
    assert again.getMessage() == "/srv: full (2 more like it)"
    clock.now = 120.0
    last = record("%s: full", "/srv")
    assert repeats.filter(last)
    assert last.getMessage() == "/srv: full"


def test_what_is_remembered_of_messages_is_bounded() -> None:
    repeats = Repeats(Clock())
    for number in range(5_000):
        assert repeats.filter(record("%d", number))
    assert len(repeats._said) <= 1_000
    assert not repeats.filter(record("%d", 4_999))

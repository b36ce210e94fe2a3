"""The command line, as a user meets it: a real process, its output and its exit code."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill import __version__
from dropmill.cli import cli
from dropmill.commands import search as search_command
from dropmill.control import Request, Server
from dropmill.job import Kind, State
from dropmill.store.reading import Reader

from .ledgers import MadeState, take
from .polling import eventually

COMMANDS = (
    "run",
    "check",
    "init",
    "bench",
    "search",
    "status",
    "results",
    "aggregate",
    "explain",
    "retry",
    "scan",
    "pause",
    "resume",
    "service",
    "schema",
)
_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("DROPMILL_CONFIG", "NO_COLOR", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")
} | {"LC_ALL": "C.UTF-8", "TERM": "xterm", "XDG_CONFIG_HOME": "/nonexistent"}


class Place:
    """A folder with a configuration, an inbox and a state folder; commands are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.state = folder / "state"
        self.config = folder / "dropmill.yaml"
        self.inbox.mkdir(parents=True)
        self.config.write_text(
            "state: ./state\nwatch:\n  - path: ./inbox\nimages:\n  output: ./gray\n"
        )

    def path(self, name: str | bytes) -> bytes:
        return os.path.join(os.fsencode(self.inbox), os.fsencode(name))

    @contextlib.contextmanager
    def made(self) -> Iterator[MadeState]:
        state = MadeState(os.fsencode(self.state))
        try:
            yield state
        finally:
            state.close()

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        environment = _ENVIRONMENT | options.pop("environment", {})
        return subprocess.Popen(
            [sys.executable, "-m", "dropmill", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            **options,
        )

    def run(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out.decode(), err.decode()

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        _, out, _ = self.run(*arguments, "--json")
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


class FakeDaemon:
    """Answers on a real control socket."""

    def __init__(self, place: Place, **answers: dict[str, Any]) -> None:
        place.state.mkdir(exist_ok=True)
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._server = Server(os.fsencode(place.state), self._answer)

    def _answer(self, request: Request) -> None:
        self.asked.append((request.command, request.arguments))
        result = self.answers.get(request.command, {})
        request.reply({"ok": True, "result": result})

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.close()


@pytest.fixture(autouse=True)
def no_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


# ---- as a whole ----------------------------------------------------------------------------------


def test_the_commands_are_those_that_are_promised() -> None:
    assert tuple(cli.commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(place: Place, command: str) -> None:
    code, out, err = place.run(command, "--help")
    assert (code, err) == (0, "")
    assert "--config FILE" in out
    assert "..." not in out.splitlines()[2]


def test_help_shows_examples_and_exit_codes(place: Place) -> None:
    code, out, _ = place.run("--help")
    assert code == 0
    assert 'dropmill search "disk failure"' in out
    assert "2 wrong use or configuration" in " ".join(out.split())
    assert not re.search(r"\w\.\.\.$", out, re.MULTILINE)  # no sentence is cut short


def test_the_version_is_told(place: Place) -> None:
    assert place.run("--version") == (0, f"dropmill {__version__}\n", "")


@pytest.mark.parametrize(
    "wrong",
    [["serch"], [], ["--bad"], ["status", "--bad"], ["search"], ["results", "--state", "x"]],
)
def test_wrong_use_ends_with_2_and_says_so_on_stderr(place: Place, wrong: list[str]) -> None:
    code, out, err = place.run(*wrong)
    assert (code, out) == (2, "")
    assert "Usage:" in err


def test_the_configuration_may_be_named_before_and_after_the_command(
    place: Place, tmp_path: Path
) -> None:
    elsewhere = Place(tmp_path / "elsewhere")
    for arguments in (
        ["--config", str(elsewhere.config), "status"],
        ["status", "--config", str(elsewhere.config)],
        ["--config", str(place.config), "status", f"--config={elsewhere.config}"],
    ):
        (found,) = place.json(*arguments)
        assert found["roots"][0]["path"] == str(elsewhere.inbox)
    for arguments in (
        ["--config", "none.yaml", "search", "x"],
        ["search", "x", "--config=none.yaml"],
    ):
        code, _, err = place.run(*arguments)
        assert code == 2
        assert "none.yaml: no such file" in err


def test_without_a_configuration_it_says_where_it_looked(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.config.unlink()
    code, out, err = place.run("status")
    assert (code, out) == (2, "")
    assert err.startswith("dropmill: no configuration")
    assert "dropmill init" in err


def test_every_error_of_a_configuration_is_listed_at_its_place(place: Place) -> None:
    place.config.write_text("watch:\n  - path: ./inbox\n    settle: 5 parsecs\n    recursve: no\n")
    for command in ("check", "run"):
        code, out, err = place.run(command)
        assert (code, out) == (2, "")
        places = [line.split(": ")[0] for line in err.splitlines()]
        assert places == ["dropmill.yaml:3:13", "dropmill.yaml:4:5"]


def test_shell_completion_is_clicks(place: Place) -> None:
    code, out, _ = place.run(environment={"_DROPMILL_COMPLETE": "bash_source"})
    assert code == 0
    assert "_DROPMILL_COMPLETE=bash_complete" in out


def test_an_interrupt_ends_with_130_and_without_a_word(place: Place) -> None:
    with place.made() as made:
        made.done(place.path("a.txt"))
    with place.start("results", "--follow") as process:
        assert process.stdout is not None and process.stderr is not None
        assert b"a.txt" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_has_seen_enough_is_no_error(place: Place) -> None:
    with place.made() as made:
        for number in range(400):
            made.done(place.path(f"{number:04d}" + "x" * 200))
    with place.start("results") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def on_a_terminal(place: Place, *arguments: str, **environment: str) -> str:
    """What a command prints to a terminal."""
    ours, theirs = pty.openpty()
    try:
        with place.start(*arguments, stdout=theirs, environment=environment) as process:
            process.wait(30)
            return os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("command", ["results", "status", "check"])
def test_colour_is_for_terminals_and_never_with_no_color(place: Place, command: str) -> None:
    with place.made() as made:
        made.done(place.path("a.txt"))
    assert "\x1b[" in on_a_terminal(place, command)
    assert "\x1b[" not in on_a_terminal(place, command, NO_COLOR="1")
    assert "\x1b[" not in place.run(command)[1]


# ---- init, check, schema -------------------------------------------------------------------------


def test_init_writes_what_works_as_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path)
    code, out, _ = place.run("init", "new")
    assert code == 0
    assert "dropmill run --config new/dropmill.yaml" in out
    assert (tmp_path / "new" / "inbox").is_dir()
    assert place.run("check", "--config", "new/dropmill.yaml")[0] == 0


def test_init_never_overwrites(place: Place) -> None:
    before = place.config.read_text()
    code, out, err = place.run("init")
    assert (code, out) == (1, "")
    assert err.startswith("dropmill: dropmill.yaml: there already")
    assert place.config.read_text() == before


def test_check_says_what_would_be_watched_and_what_could_not(place: Place) -> None:
    code, out, _ = place.run("check")
    assert code == 0
    assert f"ok   {place.inbox}" in out and "kernel's events" in out
    place.config.write_text("watch:\n  - {path: ./inbox, observer: polling, poll_every: 1m}\n")
    assert "looked at every 1 min 0 s" in place.run("check")[1]
    place.inbox.rmdir()
    code, out, _ = place.run("check")
    assert code == 1
    assert f"not  {place.inbox}: does not exist" in out
    assert "mend: mkdir" in out


def test_schema_prints_json(place: Place) -> None:
    code, out, err = place.run("schema")
    assert (code, err) == (0, "")
    assert "watch" in json.loads(out)["properties"]


# ---- status --------------------------------------------------------------------------------------


def test_status_without_a_daemon_tells_what_is_known_and_how_to_start(place: Place) -> None:
    with place.made() as made:
        made.done(place.path("a.txt"))
        made.failed(place.path("b.jpg"), "truncated")
    code, out, _ = place.run("status")
    assert code == 1
    assert "not running" in out and "dropmill run" in out
    assert "1 done" in out and "dropmill results --state quarantined" in out
    (found,) = place.json("status")
    assert found["running"] is False
    assert found["version"] == __version__
    assert found["files"] == {"queued": 0, "done": 1, "retry": 0, "quarantined": 1, "skipped": 0}
    assert found["workers"] == []
    assert found["roots"] == [
        {"path": str(place.inbox), "state": "offline", "directories": 0, "reason": "not running"}
    ]
    assert all(set(problem) == {"what", "mend"} for problem in found["problems"])


LIVE: dict[str, Any] = {
    "workers": [
        {"pid": 71, "doing": os.fsdecode(b"/srv/\xff"), "since": 1_700_000_000_000_000_000},
        {"pid": 72, "doing": None, "since": None},
    ],
    "roots": [
        {
            "path": "/srv",
            "state": "watching",
            "directories": 7,
            "reason": None,
            "last_scan": "2023-11-14T22:13:20.000Z",
        }
    ],
    "problems": [
        {"what": "the disk is full", "mend": "free some space"},
        {"what": "not in force: a.yaml:1:2: no\na.yaml:3:4: nor this", "mend": "correct it"},
    ],
    "paused": "disk full",
    "throughput": {"files_per_second": 2.5, "bytes_per_second": 1e6},
    "watches": {"used": 7, "limit": 65536},
    "overflows": 0,
}


def test_status_of_a_running_daemon_tells_what_it_does(place: Place) -> None:
    with FakeDaemon(place, status=LIVE):
        code, out, err = place.run("status", environment={"TZ": "UTC-2"})
        (found,) = place.json("status")
    assert (code, err) == (0, "")
    assert "scanned 2023-11-15 00:13:20" in out, "as all times for people: local"
    assert "a.yaml:1:2: no\n            a.yaml:3:4: nor this\n              mend: " in out
    assert f"process {os.getpid()}" in out
    for words in (r"/srv/\xff", "idle", "watching, 7 folders", "free some space", "2.5 files/s"):
        assert words in out
    assert "paused: disk full" in out
    assert found["running"] is True
    assert found["workers"][0] == {
        "pid": 71,
        "doing": {"bytes": base64.b64encode(b"/srv/\xff").decode()},
        "since": "2023-11-14T22:13:20.000Z",
    }
    assert found["problems"] == LIVE["problems"]


def test_status_needs_no_ledger_and_no_right_configuration(place: Place) -> None:
    place.config.write_text("state: ./state\nwatch: 3\n")
    code, out, _ = place.run("status")
    assert code == 1
    assert "dropmill check" in out


def test_watching_the_status_goes_on_until_interrupted(place: Place) -> None:
    with place.start("status", "--json", "--watch") as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["running"] is False
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


# ---- results -------------------------------------------------------------------------------------


def test_results_have_the_promised_names_and_only_those_that_apply(place: Place) -> None:
    content = b"a\ninvoice\n"
    with place.made() as made:
        made.done(place.path("a.txt"), content, takes=(take(content, keywords={"invoice": [2]}),))
        made.failed(place.path("b.jpg"), "truncated")
        place.inbox.joinpath("c.png").write_bytes(b"x")
        row = made.admit(place.path("c.png"), Kind.IMAGE)
        made.complete(row, output=b"/gray/c.png", width=4, height=3, digest=b"d" * 16)
    text, failed, image = place.json("results")
    when = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    for found in (text, failed, image):
        for name in ("queued_at", "started_at", "finished_at"):
            assert when.fullmatch(found.pop(name))
    path = str(place.inbox)
    assert text == {
        "path": f"{path}/a.txt",
        "kind": "text",
        "state": "done",
        "version": 1,
        "size": len(content),
        "attempts": 0,
        "lines": 2,
        "encoding": "utf-8",
        "keywords": {"invoice": [2]},
    }
    assert failed["reason"] == "truncated" and failed["state"] == "quarantined"
    assert "lines" not in failed and "output" not in failed
    assert (image["output"], image["width"], image["height"]) == ("/gray/c.png", 4, 3)


def test_results_are_filtered_and_1_says_that_there_are_none(place: Place) -> None:
    with place.made() as made:
        made.done(place.path("a.txt"))
        made.done(place.path("sub/b.txt"))
        made.failed(place.path("c.jpg"), "truncated")
    for arguments, wanted in (
        (["--state", "done"], ["a.txt", "b.txt"]),
        (["--under", "inbox/sub"], ["b.txt"]),
        (["--kind", "image"], ["c.jpg"]),
    ):
        found = place.json("results", *arguments)
        assert [os.path.basename(each["path"]) for each in found] == wanted
    assert place.run("results", "--state", "gone") == (1, "", "")


def test_a_name_that_is_not_utf_8_is_given_as_bytes_and_shown_escaped(place: Place) -> None:
    name = place.path(b"\xff\x1b[31m\n")
    with place.made() as made:
        made.done(name)
    (found,) = place.json("results")
    assert base64.b64decode(found["path"]["bytes"]) == name
    _, out, _ = place.run("results")
    assert out.count("\n") == 1
    assert r"\xff\x1b[31m\n" in out


def test_a_locale_without_unicode_is_no_reason_to_fail(place: Place) -> None:
    with place.made() as made:
        made.done(place.path("\u00fcber\u4e2d.txt"))
    options = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, out, _ = place.run("results", environment=options)
    assert code == 0
    assert r"\xfcber\u4e2d.txt" in out
    code, out, _ = place.run("results", "--json", environment=options)
    assert json.loads(out)["path"].endswith("\u00fcber\u4e2d.txt")


def test_following_prints_the_last_ten_then_what_is_new(place: Place) -> None:
    with place.made() as made:
        for number in range(12):
            made.done(place.path(f"{number:02d}"))
        with place.start("results", "--follow", "--json") as process:
            assert process.stdout is not None

            def next_name() -> str:
                assert process.stdout is not None
                return str(json.loads(process.stdout.readline())["path"]).rpartition("/")[2]

            assert [next_name() for _ in range(10)] == [f"{n:02d}" for n in range(2, 12)]
            made.done(place.path("new"))
            assert next_name() == "new"
            made.done(place.path("new"), b"once more\n")
            assert next_name() == "new"
            process.kill()


# ---- explain -------------------------------------------------------------------------------------


def test_explain_tells_all_about_a_text(place: Place) -> None:
    content = b"a\ninvoice\n"
    with place.made() as made:
        made.done(place.path("a.txt"), content, takes=(take(content, keywords={"invoice": [2]}),))
    code, out, err = place.run("explain", "inbox/a.txt")
    assert (code, err) == (0, "")
    facts = dict(line.strip().split("  ", 1) for line in out.splitlines()[1:])
    facts = {name: text.strip() for name, text in facts.items()}
    assert facts["watched by"] == str(place.inbox)
    assert facts["state"] == "done"
    assert facts["rule"].startswith("a text")
    assert facts["encoding"] == "utf-8"
    assert facts["lines"] == "2"
    assert facts["keyword"] == "invoice: line 2"
    assert facts["searchable"].startswith("10 bytes in 1 take")


def test_explain_tells_why_an_image_failed_and_what_to_do(place: Place) -> None:
    with place.made() as made:
        made.failed(place.path("b.jpg"), "only half of it is there")
    code, out, _ = place.run("explain", "inbox/b.jpg")
    assert code == 0
    assert "quarantined" in out and "only half of it is there" in out
    assert f"dropmill retry {place.inbox}/b.jpg" in out


def test_explain_gives_commands_that_a_shell_understands(place: Place) -> None:
    names = ("a b.jpg", "it's.jpg", "new\nline.jpg", "Größe.jpg")
    with place.made() as made:
        for name in names:
            made.failed(place.path(name), "only half of it is there")
    for name in names:
        _, out, _ = place.run("explain", f"inbox/{name}")
        command = out.partition("try it again as it is: dropmill retry ")[2].strip()
        words = subprocess.run(["bash", "-c", f"printf %s {command}"], capture_output=True)
        assert words.stdout == os.fsencode(place.inbox / name)
    (place.folder / "dropmill.yaml").rename(place.folder / "other.yaml")
    _, out, _ = place.run("explain", "--config", "other.yaml", "inbox/a b.jpg")
    assert "dropmill retry --config other.yaml '" in out


def test_explain_wants_a_missing_copy_made_again_only_of_a_source_that_is_there(
    place: Place,
) -> None:
    with place.made() as made:
        for name, outcome in (("done.jpg", None), ("gone.jpg", None)):
            path = place.path(name)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            row = made.admit(path, Kind.IMAGE)
            made.complete(row, reason=outcome, digest=b"d" * 16, output=path + b".missing")
        (place.inbox / "gone.jpg").unlink()
        made.ledger.absence.mark_gone([place.path("gone.jpg")])
    assert f"made again: touch {place.inbox}/done.jpg" in place.run("explain", "inbox/done.jpg")[1]
    assert "touch" not in place.run("explain", "inbox/gone.jpg")[1]


def test_explain_tells_why_a_file_is_not_known(place: Place) -> None:
    (place.inbox / "half.part").touch()
    (place.inbox / "new.txt").touch()
    (place.inbox / "link").symlink_to("new.txt")
    os.mkfifo(place.inbox / "fifo")
    with place.made():
        pass
    for name, words in (
        ("inbox/half.part", 'by the pattern "*.part"'),
        ("inbox/new.txt", "dropmill scan"),
        ("inbox/link", "a symbolic link to new.txt"),
        ("inbox/fifo", "no regular file"),
        ("inbox/none.txt", "there is no such file"),
        ("inbox", "dropmill results --under"),
        ("dropmill.yaml", "none of the watched folders"),
    ):
        code, out, _ = place.run("explain", name)
        assert code == 1
        assert words in out, name
        assert ("  rule " in out) == (name in ("inbox/new.txt", "inbox/none.txt")), name


def test_explain_knows_a_copy_for_what_it_is(place: Place) -> None:
    (place.inbox / "a.jpg").write_bytes(b"x")
    copy = place.folder / "gray" / "a_grayscale.jpg"
    with place.made() as made:
        row = made.admit(place.path("a.jpg"), Kind.IMAGE)
        made.complete(row, output=os.fsencode(copy), width=1, height=1, digest=b"d" * 16)
    code, out, _ = place.run("explain", str(copy))
    assert code == 1
    assert f"the grayscale copy of {place.inbox}/a.jpg" in out
    _, out, _ = place.run("explain", "inbox/a.jpg")
    assert "not there any more" in out


# ---- retry, scan, pause, resume ------------------------------------------------------------------


def states(place: Place) -> dict[str, str]:
    with Reader(os.fsencode(place.state)) as reader:
        every = [result for state in State for result in reader.results(_only(state))]
    return {os.path.basename(os.fsdecode(each.path)): each.state.label for each in every}


def _only(state: State) -> Any:
    from dropmill.store.reading import Which

    return Which((state,))


def test_retry_works_without_a_daemon(place: Place) -> None:
    with place.made() as made:
        for name in ("a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg"):
            made.failed(place.path(name), "truncated")
        made.done(place.path("e.txt"))
    assert place.run("retry", "inbox/a.jpg") == (0, "1 file put back into the queue\n", "")
    assert place.run("retry", "inbox/sub") == (0, "2 files put back into the queue\n", "")
    assert states(place) == {
        "a.jpg": "queued",
        "b.jpg": "quarantined",
        "c.jpg": "queued",
        "d.jpg": "queued",
        "e.txt": "done",
    }
    assert place.run("retry", "--all") == (0, "1 file put back into the queue\n", "")
    assert place.run("retry", "--all") == (1, "0 files put back into the queue\n", "")


def test_retry_says_of_each_path_why_it_is_none(place: Place) -> None:
    with place.made() as made:
        made.failed(place.path("a.jpg"), "truncated")
        made.done(place.path("e.txt"))
    code, out, err = place.run("retry", "inbox/e.txt", "inbox/none", "inbox/a.jpg")
    assert (code, out) == (1, "1 file put back into the queue\n")
    assert "e.txt: not in quarantine, it is done" in err
    assert "none: unknown" in err


def test_retry_asks_a_running_daemon(place: Place) -> None:
    with place.made() as made:
        made.failed(place.path(b"\xff.jpg"), "truncated")
    with FakeDaemon(place, retry={"count": 1}) as daemon:
        assert place.run("retry", "--all")[0] == 0
        with place.start("retry", "inbox") as process:
            assert process.wait(30) == 0
    assert daemon.asked == [
        ("retry", {"paths": None}),
        ("retry", {"paths": [os.fsdecode(place.path(b"\xff.jpg"))]}),
    ]
    assert list(states(place).values()) == ["quarantined"]


def test_retry_wants_to_know_what(place: Place) -> None:
    for arguments in ([], ["--all", "inbox/a"]):
        code, out, err = place.run("retry", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("dropmill: retry:")


@pytest.mark.parametrize("command", ["scan", "pause", "resume"])
def test_without_a_daemon_there_is_nobody_to_ask(place: Place, command: str) -> None:
    code, out, err = place.run(command)
    assert (code, out) == (1, "")
    assert err.startswith("dropmill: no daemon is running") and "dropmill run" in err


def test_a_scan_is_waited_for_and_summed_up(place: Place) -> None:
    with FakeDaemon(place, scan={"files": 1234, "seconds": 0.5}) as daemon:
        code, out, _ = place.run("scan", "inbox/sub")
        place.run("scan")
    assert (code, out) == (0, "looked at 1,234 files in 0.5 s\n")
    assert daemon.asked == [("scan", {"path": f"{place.inbox}/sub"}), ("scan", {"path": None})]


def test_pause_and_resume_reach_the_daemon(place: Place) -> None:
    with FakeDaemon(place) as daemon:
        assert place.run("pause")[:2] == (0, "")
        assert place.run("resume")[:2] == (0, "")
    assert [command for command, _ in daemon.asked] == ["pause", "resume"]


# ---- search --------------------------------------------------------------------------------------


def test_search_that_is_to_wait_for_a_daemon_needs_one(place: Place) -> None:
    with place.made():
        pass
    code, out, err = place.run("search", "--sync", "word")
    assert (code, out) == (2, "")
    assert "no daemon is running" in err


def test_search_has_only_one_way_of_printing(place: Place) -> None:
    code, _, err = place.run("search", "-l", "--json", "word")
    assert code == 2
    assert "only one of -l, -c and --json" in err


def test_search_prints_for_a_pipe_or_for_a_terminal(place: Place) -> None:
    for name in ("a.txt", "b.txt"):
        (place.inbox / name).write_text("x\nthe needle is here\n")
    assert place.run("run", "--once")[0] == 0
    path = f"{place.inbox}/a.txt"
    code, out, err = place.run("search", "needle", "-m", "1", "--not", "pin")
    assert (code, err) == (0, "")
    assert out in (f"{place.inbox}/{name}:2:the needle is here\n" for name in ("a.txt", "b.txt"))
    assert sorted(place.run("search", "needle", "-l")[1].split()) == [path, f"{place.inbox}/b.txt"]
    assert f"{path}:1\n" in place.run("search", "needle", "-c")[1]
    assert place.json("search", "needle")[0]["spans"] == [[4, 10]]
    assert place.run("search", "needle", "--under", str(place.folder / "gray"))[0] == 1
    seen = on_a_terminal(place, "search", "needle")
    assert "\x1b[" in seen
    assert seen.count(str(place.inbox)) == 2
    assert "\x1b[" not in on_a_terminal(place, "search", "needle", NO_COLOR="1")


def imported_by(place: Place, *arguments: str) -> set[str]:
    """The modules that a command loads."""
    program = (
        "import sys, atexit; sys.argv = ['dropmill', *sys.argv[1:]]\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from dropmill.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=place.folder,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("before", [(), ("--config", "dropmill.yaml")], ids=["found", "named"])
def test_search_loads_neither_click_nor_rich_nor_pydantic_nor_yaml(
    place: Place, before: tuple[str, ...]
) -> None:
    with place.made():
        pass
    loaded = imported_by(place, *before, "search", "word", "-m5", "--under", "inbox")
    assert "dropmill.search" in loaded
    assert not loaded & {"click", "rich", "pydantic", "yaml", "argparse", "watchdog", "PIL"}
    assert not loaded & {"pathlib", "json", "dropmill.job"}  # a third of its imports, once


def test_of_two_configurations_search_takes_the_one_given_last(place: Place) -> None:
    with place.made():
        pass
    right, wrong = str(place.config), str(place.folder / "none.yaml")
    assert place.run("--config", right, "search", "needle") == (1, "", "")
    assert place.run("--config", wrong, "search", "needle", "--config", right) == (1, "", "")
    assert "none.yaml: no such file" in place.run("--config", wrong, "search", "needle")[2]


def test_questions_load_neither_rich_nor_the_service(place: Place) -> None:
    with place.made() as made:
        made.done(place.path("a.txt"))
    for command in ("status", "results"):
        with FakeDaemon(place, status=LIVE):
            loaded = imported_by(place, command)
        assert "dropmill.store.reading" in loaded
        assert not loaded & {"rich", "pydantic", "yaml", "watchdog", "PIL", "multiprocessing"}


WORDS = st.sampled_from(
    """disk a\u00e9 a\\ - -- -l -c -lc -m -m5 -lm5 -C2 -C 3 0 x7 --any --not --not=b --under
    --under=/srv --json --sync --config=f --max-files=9 --context --count --bad -z
    --any=1""".split()  # noqa: SIM905
)


@given(st.lists(WORDS, max_size=7))
def test_both_readers_of_the_search_options_agree(words: list[str]) -> None:
    command = cli.commands["search"]
    plain = search_command.parse(words)
    try:
        clicks = command.make_context("search", list(words)).params
    except click.UsageError:
        assert plain is None
    else:
        assert plain in (clicks, None)


def test_the_ordinary_is_read_without_click() -> None:
    words = ["two words", "-lcm", "5", "-C2", "--not", "a", "--not=b", "--under", "d", "--", "-x"]
    assert search_command.parse(words) == {
        "terms": ("two words", "-x"),
        "any_term": False,
        "excluded": ("a", "b"),
        "paths_only": True,
        "count": True,
        "at_most": 5,
        "context": 2,
        "under": "d",
        "as_json": False,
        "sync": False,
        "config_file": None,
    }


def test_a_numeric_option_takes_numbers_alone(place: Place) -> None:
    for wrong in ("-1", "x", "1.5", ""):
        code, _, err = place.run("search", "word", "-m", wrong)
        assert code == 2
        assert "--max-files" in err


# ---- run -----------------------------------------------------------------------------------------


def test_run_once_takes_everything_in_and_sums_it_up(place: Place) -> None:
    (place.inbox / "a.txt").write_text("a line\n")
    (place.inbox / "b.jpg").write_text("no image")
    code, out, err = place.run("run", "--once")
    assert (code, out) == (1, "")
    assert "1 done, 1 quarantined in " in err
    assert f"  {place.inbox}/b.jpg: " in err
    assert place.run("search", "line")[0] == 0
    assert place.run("explain", "inbox/a.txt")[0] == 0
    (place.inbox / "b.jpg").unlink()
    code, _, err = place.run("run", "--once")
    assert code == 0
    assert "1 done in " in err


def test_on_a_terminal_run_once_shows_a_bar_and_what_went_wrong_and_nothing_else(
    place: Place,
) -> None:
    for number in range(50):
        (place.inbox / f"{number}.txt").write_text("a line\n")
    long = "long" * 30
    (place.inbox / f"{long}.jpg").write_text("no image")
    ours, theirs = pty.openpty()
    with place.start("run", "--once", stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # nobody has the terminal open any more
            while piece := os.read(ours, 1 << 16):
                shown += piece
    os.close(ours)
    assert process.returncode == 1
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert ".txt: text taken in" not in text
    assert re.search(rf"warning: {place.inbox}/{long}.jpg: image quarantined: no JPEG", text)
    assert "taking in" in text
    assert "50 done, 1 quarantined in " in text


def test_the_questions_are_answered_while_it_runs(place: Place) -> None:
    with place.start("run") as process:
        try:
            eventually(lambda: place.json("status")[0]["running"], seconds=60, what="running")
            (place.inbox / "a.txt").write_text("needle\n")
            assert place.run("search", "--sync", "needle")[0] == 0
            assert place.run("scan")[0] == 0
            (found,) = place.json("status")
            assert found["files"]["done"] == 1
            assert found["roots"][0]["state"] == "watching"
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


# ---- data sets -----------------------------------------------------------------------------------

RULES = """datasets:
  - match: "*.csv"
    name: sales
    where: "amount > 0"
    group_by: [region]
    aggregate: {total: sum(amount), mean: mean(amount)}
"""


@pytest.fixture
def tables(place: Place) -> Place:
    """A place with tables that were taken in."""
    place.config.write_text(place.config.read_text() + RULES)
    (place.inbox / "sub").mkdir()
    (place.inbox / "a.csv").write_text("region,amount\nnorth,1000\n,3\nsouth,-1\n")
    (place.inbox / "sub" / "b.csv").write_text(
        "region,amount\nnorth,2\nsouth,12345678901234567890\n"
    )
    code, _, err = place.run("run", "--once")
    assert code == 0, err
    return place


def test_results_of_data_sets_are_tables_for_people(tables: Place) -> None:
    code, out, _ = tables.run("results", "--kind", "dataset")
    assert code == 0
    lines = out.splitlines()
    assert any(line.endswith("sales: 3 records, 2 of them matched") for line in lines)
    at = lines.index("    region   total   mean")
    assert lines[at + 1 : at + 3] == ["    (empty)      3      3", "    north    1,000  1,000"]
    (row,) = [row for row in tables.json("results") if row["path"].endswith("/a.csv")]
    assert row["datasets"]["sales"]["groups"][0] == {"region": None, "total": 3, "mean": 3.0}


def test_aggregate_adds_up_all_files_of_a_rule(tables: Place) -> None:
    code, out, err = tables.run("aggregate", "sales")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "sales: 2 files, 5 records, 4 of them matched",
        "region                        total                  mean",
        "(empty)                           3                     3",
        "north                         1,002                   501",
        "south    12,345,678,901,234,567,890  1.23456789012346e+19",
    ]
    (found,) = tables.json("aggregate", "sales")
    assert (found["rule"], found["files"], found["records"]) == ("sales", 2, 5)
    assert found["groups"][2]["total"] == 12345678901234567890
    (found,) = tables.json("aggregate", "sales", "--under", "inbox/sub")
    assert [group["total"] for group in found["groups"]] == [2, 12345678901234567890]


def test_aggregate_knows_the_rules_and_1_says_that_nothing_is_there(tables: Place) -> None:
    code, _, err = tables.run("aggregate", "nosuch")
    assert (code, "there are: sales" in err) == (2, True)
    code, _, err = tables.run("aggregate", "sales", "--under", "inbox/nothing")
    assert code == 1
    text = tables.config.read_text()
    tables.config.write_text(text.replace("amount > 0", "amount > 1"))
    code, _, err = tables.run("aggregate", "sales")
    assert (code, "2 files not counted yet" in err) == (1, True)


@pytest.mark.parametrize(
    ("written", "line", "column"),
    [
        ("where: a >> 1", 8, 15),
        ("where: 'a >> 1'", 8, 16),
        ('where: "a >> 1"', 8, 16),
        ("aggregate: {n: nosuch(a)}", 8, 20),
        ("aggregate: {n: sum(nosuch(a))}", 8, 24),
        ("aggregate:\n      n: sum(a +)", 9, 17),
        ('aggregate:\n      n: "sum(a +)"', 9, 18),
        ("where: >\n      a = 1\n      AND b >> 1", 8, 12),
        ("where: a = 1\n      AND b >> 1", 8, 12),
        ("where: a = 1 AND a = 'x'", 8, 22),
    ],
)
def test_check_tells_where_an_expression_is_wrong(
    place: Place, written: str, line: int, column: int
) -> None:
    """Within a text on one line at the very character, else where the text begins."""
    rule = f"datasets:\n  - match: '*.csv'\n    {written}\n"
    if "aggregate" not in written:
        rule += "    aggregate: {n: count()}\n"
    place.config.write_text(place.config.read_text() + rule)
    code, out, err = place.run("check")
    assert code == 2
    assert f"dropmill.yaml:{line}:{column}: datasets[0]" in out + err

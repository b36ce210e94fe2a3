"""`dropmill bench`, as a user meets it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dropmill.bench import Difference, Lap
from dropmill.bench.outcomes import Outcomes
from dropmill.commands.bench_table import Report, print_report
from dropmill.job import Fingerprint, Kind, Lane, State
from dropmill.store.ledger import Admission

from .dropmill_process import COMMAND, environment
from .polling import eventually


class Place:
    """A folder of files, and one for what the bench needs meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.scratch = folder / "scratch"
        self.files.mkdir()
        self.scratch.mkdir()

    def fill(self, count: int, size: int = 100) -> None:
        for number in range(count):
            (self.files / f"{number:04}.txt").write_text(f"note {number}\n" + "words " * size)

    def arguments(self, *more: str) -> list[str]:
        return [*COMMAND, "bench", str(self.files), "--scratch", str(self.scratch), *more]

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(*more), env=environment(), capture_output=True, text=True, timeout=100
        )

    def json(self, *more: str) -> dict[str, Any]:
        found = self.run("--json", *more)
        assert (found.returncode, found.stderr) == (0, "")
        answer: dict[str, Any] = json.loads(found.stdout)
        return answer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def test_each_way_is_timed_and_nothing_is_left_behind(place: Place) -> None:
    place.fill(40)
    before = seen(place.files)
    found = place.json("--workers", "2")
    assert [(run["way"], run["workers"]) for run in found["runs"]] == [
        ("one after another", None),
        ("pool", 1),
        ("pool", 2),
    ]
    first, *pool = found["runs"]
    assert (first["speed_up"], first["efficiency"]) == (1.0, None)
    for run in pool:
        assert run["states"] == {"done": 40}
        assert run["speed_up"] == pytest.approx(first["seconds"] / run["seconds"], rel=0.01)
        assert run["efficiency"] == pytest.approx(run["speed_up"] / run["workers"], abs=0.001)
        assert run["files_per_second"] == pytest.approx(40 / run["seconds"], rel=0.01)
    assert found["identical"] is True
    assert (found["differing"], found["changed"], found["unreadable"]) == ([], [], [])
    assert seen(place.files) == before
    assert os.listdir(place.scratch) == []


def test_in_a_pipe_it_is_a_plain_table_with_a_bar_for_each(place: Place) -> None:
    place.fill(10)
    found = place.run("--workers", "1")
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0].startswith(f"{place.files}: 10 texts, ")
    assert lines[2].split() == ["time", "files/s", "MB/s", "speed-up", "efficiency"]
    assert lines[3].startswith("one after another ")
    assert lines[4].startswith("1 worker ")
    assert lines[3].endswith("#")
    assert lines[4].endswith("#")
    assert "identical: all 2 runs gave the same results (10 done)" in lines
    assert "\x1b" not in found.stdout


def test_on_a_terminal_it_draws(place: Place) -> None:
    place.fill(10)
    ours, theirs = pty.openpty()
    variables = {key: value for key, value in environment().items() if key != "NO_COLOR"}
    with subprocess.Popen(
        place.arguments("--workers", "1"),
        env=variables | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                text += chunk
    os.close(ours)
    assert process.returncode == 0
    assert "━" in text.decode()
    assert "one after another" in text.decode()


def test_a_keyword_is_found_with_files_and_lines_by_every_way(place: Place) -> None:
    place.fill(20)
    (place.files / "bill.txt").write_text("nothing\nan Invoice\n\nthe invoice again\n")
    keyword = place.json("--workers", "2", "--keyword", "invoice")["keyword"]
    assert keyword["hits"] == [{"path": str(place.files / "bill.txt"), "lines": [2, 4]}]
    assert keyword["index"]["files"] == 1
    out = place.run("--workers", "1", "--keyword", "invoice").stdout
    assert '"invoice": in 2 lines of 1 file, found in every run' in out
    assert "  bill.txt: lines 2, 4" in out


def test_of_a_large_folder_some_files_are_taken_and_it_says_so(place: Place) -> None:
    place.fill(200)
    found = place.run("--workers", "1", "--seconds", "0.01")
    assert found.returncode == 0
    assert "chosen at random of 200 files" in found.stdout
    assert place.json("--workers", "1", "--seconds", "0")["files"] == 200


def test_the_rules_of_a_configuration_apply(place: Place, tmp_path: Path) -> None:
    place.fill(5)
    (place.files / "other.log").write_text("a log\n")
    config = tmp_path / "dropmill.yaml"
    config.write_text(f"watch: [{{path: {place.files}}}]\ntext: {{suffixes: [.log]}}\n")
    assert place.json("--workers", "1", "--config", str(config))["files"] == 1
    assert not (tmp_path / "grayscale").exists()


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--keyword", "?!"], 2, "--keyword: "),
        (["--scratch", "/nonexistent/place"], 2, "nothing can be written there"),
        (["--workers", "0"], 2, "Usage:"),
        ([], 1, "holds no file that would be taken in"),
    ],
)
def test_what_cannot_be_measured_is_told(
    place: Place, more: list[str], code: int, sentence: str
) -> None:
    found = place.run(*more)
    assert (found.returncode, found.stdout) == (code, "")
    assert sentence in found.stderr
    assert os.listdir(place.scratch) == []


def test_a_folder_that_is_none_is_told(place: Place) -> None:
    place.files.rmdir()
    found = place.run()
    assert found.returncode == 2
    assert "there is no such folder" in found.stderr
    place.files.write_text("a file\n")
    assert "is no folder" in place.run().stderr


def report(*seconds: float, **more: Any) -> Report:
    """One after another, then 1, 2, ... workers took so long for one file."""
    outcomes = Outcomes({b"/f/a": b"1"}, Counter({State.DONE: 1}), 1_000_000, {})
    laps = [Lap(n or None, taken, frozenset(), outcomes) for n, taken in enumerate(seconds)]
    mark = Fingerprint(1, 1_000_000, 1, 1, 0)
    files = [Admission(b"/f", b"a", mark, Kind.TEXT, Lane.BACKLOG)]
    made = Report(b"/f", files, files, [], laps, [], 4, None, None, [], [])
    return made._replace(**more)


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [
        ((10, 10, 5, 4.9), "`workers: 2`: 2.00 times as fast as one after another"),
        ((10, 10, 5, 3), "`workers: 3`: 3.33 times as fast as one after another"),
        ((10, 10, 11, 12), "`workers: 1`: more are worth nothing for these files"),
    ],
)
def test_the_fewest_workers_that_are_as_fast_as_any_are_recommended(
    capsys: pytest.CaptureFixture[str], seconds: tuple[float, ...], advice: str
) -> None:
    print_report(report(*seconds))
    assert advice in capsys.readouterr().out
    print_report(report(*seconds, doubts=["other programs were busy"]))
    out = capsys.readouterr().out
    assert advice not in out
    assert "note: other programs were busy" in out


def test_runs_that_differ_are_told_with_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    made = report(2, 1, differences=[Difference(b"/f/a", False), Difference(b"/f/b", True)])
    print_report(made)
    lines = capsys.readouterr().out.splitlines()
    assert "NOT identical: the runs made something else of 1 file:" in lines
    assert "  /f/a" in lines
    assert "note: 1 file changed meanwhile, not compared: /f/b" in lines
    found = made.as_object()
    assert (found["identical"], found["differing"], found["changed"]) == (False, ["/f/a"], ["/f/b"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named_and_the_rest_is_measured(place: Place) -> None:
    place.fill(5)
    (place.files / "secret.txt").write_text("not for us\n")
    (place.files / "secret.txt").chmod(0)
    found = place.run("--workers", "1")
    assert found.returncode == 0
    denied = f"{place.files}/secret.txt (Permission denied)"
    assert f"note: 1 could not be read, left out: {denied}" in found.stdout.splitlines()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("shards", [1, 2])
def test_a_signal_leaves_nothing_behind(
    place: Place, number: signal.Signals, code: int, shards: int
) -> None:
    """While one process works (one shard is there), or the pool does."""
    place.fill(1500, size=5_000)
    with subprocess.Popen(
        place.arguments("--workers", "2", "--seconds", "0"),
        env=environment() | {"TMPDIR": str(place.scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        eventually(
            lambda: len(list(place.scratch.glob("*/state/index/*.db"))) >= shards,
            what="it is at it",
            seconds=60,
        )
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, b"")
    assert os.listdir(place.scratch) == []
    eventually(lambda: not session(process.pid), what="no process is left")


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, IndexError):
            stat = (Path("/proc") / entry / "stat").read_text()
            if entry.isdigit() and int(stat.rpartition(")")[2].split()[3]) == leader:
                found.append(int(entry))
    return found

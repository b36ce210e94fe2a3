"""The bench itself: its statistics, its table, and one row from end to end; no speed is tested."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks import frame, plot, rows_images
from tests.benchmarks.__main__ import ROWS
from tests.benchmarks.bench import Bench, Options, files_below
from tests.benchmarks.frame import Line, at_least, at_most

from .dropmill_process import environment

HERE = Path(__file__).parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=HERE,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


# ---- figures -------------------------------------------------------------------------------------


def test_sides_take_turns_and_each_begins_prepared() -> None:
    trace: list[str] = []

    def side(name: str, values: list[float]) -> float:
        trace.append(name)
        return values.pop(0)

    ours, theirs = [3.0, 1.0, 2.0], [30.0, 10.0, 50.0]
    clock = iter(range(100))
    turns = frame.take_turns(
        {"a": lambda: side("a", ours), "b": lambda: side("b", theirs)},
        3,
        lambda: trace.append("prepared"),
        lambda: float(next(clock)),
    )
    assert trace == ["prepared", "a", "prepared", "b"] * 3
    assert turns.figures == {"a": [3.0, 1.0, 2.0], "b": [30.0, 10.0, 50.0]}
    assert turns.processor == {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]}
    assert turns.medians() == {"a": 2.0, "b": 30.0}


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert frame.percentile(values, 50) == 100
    assert frame.percentile(values, 99) == 198
    assert frame.percentile([7.0], 99) == 7


@pytest.mark.parametrize(
    ("line", "reached"),
    [
        (Line("w", 9.0, ratio=1.2, goals=(at_least(1.2),)), True),
        (Line("w", 9.0, ratio=1.19, goals=(at_least(1.2),)), False),
        (Line("w", 90.0, ratio=6, goals=(at_most(100), at_least(5))), True),
        (Line("w", 90.0, ratio=4, goals=(at_most(100), at_least(5))), False),
        (Line("w", 3.0, ratio=3.9, goals=(at_most(4, "ratio"),)), True),
        (Line("w", 9.0), None),
        (Line("w", goals=(at_most(1),), note="rg is missing"), None),
    ],
)
def test_a_line_has_reached_its_target_when_all_of_it_is(line: Line, reached: bool | None) -> None:
    assert line.reached is reached


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.123"), (1.0, "1"), (1.239, "1.24"), (12.34, "12.3"), (250.0, "250"),
     (12345.6, "12,346"), (0.0, "0")],
)  # fmt: skip
def test_a_number_shows_the_digits_that_count(value: float, text: str) -> None:
    assert frame.number(value) == text


def test_a_line_of_the_table_shows_figure_peer_ratio_target_and_note() -> None:
    line = Line("search", 40.0, "ms", 400.0, "rg", 10.0, (at_most(100), at_least(5)), "warm")
    first, note = frame.shown(line).splitlines()
    assert first.split("  ") != [first]
    for part in ("search", "40 ms", "400 ms rg", "10 ×", "≤ 100 ms, ≥ 5 ×", "yes"):
        assert part in first
    assert note.strip() == "warm"


def test_a_plot_has_each_point_once_for_each_series() -> None:
    points = [plot.Point(1_000, 100, 120), plot.Point(500_000, 110, 125)]
    drawn = plot.cost_plot(points)
    assert drawn.count('r="3.5"') == 4
    assert "1,000" in drawn
    assert "500,000" in drawn


# ---- input ---------------------------------------------------------------------------------------


def test_texts_are_distinct_made_once_and_a_kilobyte_long(tmp_path: Path) -> None:
    inputs = Bench(Options(tmp_path)).inputs
    small, all_of_it = inputs.nested_texts(None, [30, 90])
    paths = files_below(all_of_it)
    assert len(files_below(small)) == 30
    assert len(paths) == 90
    assert set(files_below(small)) <= set(paths)
    assert {path.stat().st_size for path in paths} == {1_024}
    assert len({path.read_bytes() for path in paths}) == 90
    made_at = paths[0].stat().st_mtime_ns
    inputs.nested_texts(None, [30, 90])
    assert paths[0].stat().st_mtime_ns == made_at


def test_images_are_told_apart_by_their_noise(tmp_path: Path) -> None:
    gray = Image.linear_gradient("L")
    gray.save(tmp_path / "one.png")
    gray.point(lambda value: min(255, value + 1)).save(tmp_path / "other.png")
    assert rows_images.psnr(tmp_path / "one.png", tmp_path / "one.png") == 100
    assert 48 < rows_images.psnr(tmp_path / "one.png", tmp_path / "other.png") < 48.3


# ---- the command ---------------------------------------------------------------------------------


def test_the_list_names_every_row() -> None:
    listed = bench("--list")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == [row.name for row in ROWS]


def test_the_peers_are_shown_in_full() -> None:
    shown = bench("--show-peers").stdout
    assert shown == Path(HERE, "tests/benchmarks/peers.py").read_text()
    compile(shown, "peers.py", "exec")


def test_a_row_that_is_not_there_is_wrong_use() -> None:
    found = bench("no-such-row")
    assert found.returncode == 2
    assert "no-such-row" in found.stderr


def test_a_row_is_measured_end_to_end_and_one_without_its_input_says_so(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    scratch = tmp_path / "scratch"
    found = bench(
        "append", "photographs", "--quick", "--scratch", str(scratch), "--json", str(figures)
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "--images DIR" in found.stdout
    written = json.loads(figures.read_text())
    assert written["about"]["SQLite"]
    lines = written["lines"]
    assert [line["row"] for line in lines] == ["append", "photographs"]
    assert lines[0]["ours"] > 0
    assert lines[0]["peer"] > 0
    assert lines[1]["ours"] is None
    assert not (scratch / "runs").exists()


@pytest.mark.skipif(importlib.util.find_spec("polars") is None, reason="needs Polars")
def test_data_sets_come_to_what_their_peers_come_to(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    scratch = tmp_path / "scratch"
    found = bench("numbers", "table", "--quick", "--scratch", str(scratch), "--json", str(figures))
    assert found.returncode == 0, found.stdout + found.stderr
    numbers, *table = json.loads(figures.read_text())["lines"]
    assert numbers["ours"] > 0
    assert numbers["peer"] > 0
    if shutil.which("duckdb") is None:
        assert "pip install duckdb-cli" in table[0]["note"]
    else:
        assert [line["ours"] > 0 for line in table] == [True, True]

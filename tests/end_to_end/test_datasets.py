"""A dropped table becomes figures, whatever is done to it: the real command, from outside."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..dropmill_process import Place
from ..polling import eventually

RULES = """
datasets:
  - match: "sales-*.csv"
    name: sales
    where: "amount % 2 = 0"
    group_by: [region]
    aggregate: {total: sum(amount), orders: count()}
    output: ./aggregates
  - match: "*.num"
    aggregate: {total: sum(value)}
"""


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Place]:
    """A place with rules, its service not yet started."""
    made = Place(tmp_path, more=RULES)
    yield made
    made.close()


def total(place: Place, name: str = "sales") -> dict[str | None, int]:
    """What `dropmill aggregate` says of each region."""
    found = place.run("aggregate", name, "--json")
    assert found.returncode in (0, 1), found.stderr
    groups: list[dict[str, Any]] = json.loads(found.stdout)["groups"]
    return {group.get("region"): group["total"] for group in groups}


def await_total(place: Place, wanted: dict[str | None, int], name: str = "sales") -> None:
    eventually(lambda: total(place, name) == wanted, what=f"the total of {name} is {wanted}")


def test_tables_become_figures_and_follow_their_files(tables: Place) -> None:
    tables.start()
    first, second = (tables.inbox / f"sales-{name}.csv" for name in ("may", "june"))
    first.write_text("region,amount\nnorth,2\nsouth,4\nnorth,5\n")
    await_total(tables, {"north": 2, "south": 4})
    assert tables.search("south") == ["sales-may.csv:3:south,4"]
    row = tables.results("--kind", "dataset")["sales-may.csv"]
    assert (row["kind"], row["state"], row["lines"]) == ("dataset", "done", 4)
    assert row["datasets"]["sales"] == {
        "records": 3,
        "matched": 2,
        "bad_cells": 0,
        "groups": [
            {"region": "north", "total": 2, "orders": 1},
            {"region": "south", "total": 4, "orders": 1},
        ],
    }
    output = tables.folder / "aggregates" / "inbox" / "sales-may.csv.aggregates.csv"
    assert output.read_text() == "region,total,orders\nnorth,2,1\nsouth,4,1\n"
    second.write_text("amount,region\n10,north\n")
    await_total(tables, {"north": 12, "south": 4})
    with first.open("a") as file:
        file.write("east,100\n")
    await_total(tables, {"north": 12, "south": 4, "east": 100})
    second.unlink()
    await_total(tables, {"north": 2, "south": 4, "east": 100})
    first.rename(tables.inbox / "sales-april.csv")
    eventually(lambda: not output.exists(), what="the CSV file has moved")
    await_total(tables, {"north": 2, "south": 4, "east": 100})
    assert (output.parent / "sales-april.csv.aggregates.csv").exists()


def test_a_bad_cell_is_told_with_its_file_line_and_column(tables: Place) -> None:
    tables.start()
    path = tables.inbox / "sales-may.csv"
    path.write_text("region,amount\nnorth,2\n")
    await_total(tables, {"north": 2})
    path.write_text('region,amount\n"no\nrth",2\nsouth,many\n')
    eventually(lambda: tables.results("--state", "quarantined"), what="it is quarantined")
    reason = 'line 4, column amount: "many" is no number (by the rule sales)'
    assert tables.results()["sales-may.csv"]["reason"] == reason
    assert total(tables) == {}
    assert reason in tables.run("explain", str(path)).stdout
    assert reason in tables.log.read_text()
    path.write_text("region,amount\nsouth,8\n")
    await_total(tables, {"south": 8})


def test_an_edited_rule_takes_its_files_in_anew_while_it_runs(tables: Place) -> None:
    tables.start()
    (tables.inbox / "sales-may.csv").write_text("region,amount\nnorth,2\nnorth,3\n")
    await_total(tables, {"north": 2})
    text = tables.configuration.read_text()
    tables.configuration.write_text(text.replace("amount % 2 = 0", "amount % 2 = 1"))
    await_total(tables, {"north": 3})
    # No data set any more, and back again.
    tables.configuration.write_text(text[: text.index("datasets:")])
    eventually(
        lambda: tables.results().get("sales-may.csv", {}).get("kind") == "text",
        what="it is a text alone",
    )
    tables.configuration.write_text(text)
    await_total(tables, {"north": 2})


def test_workers_that_are_killed_and_a_service_that_is_count_no_row_twice(tables: Place) -> None:
    numbers = range(400_000)
    content = "\n".join(map(str, numbers)) + "\n"
    tables.start()
    for name in range(6):
        (tables.inbox / f"{name}.num").write_text(content)
    for _ in range(4):
        for worker in tables.workers():
            if worker:
                os.kill(worker, signal.SIGKILL)
    tables.stop(signal.SIGKILL)
    tables.start()
    await_total(tables, {None: 6 * sum(numbers)}, "*.num")
    eventually(tables.is_settled, what="nothing is left to be done")
    assert total(tables, "*.num") == {None: 6 * sum(numbers)}


def test_run_once_takes_tables_in_and_says_if_one_is_none(tables: Place) -> None:
    (tables.inbox / "sales-may.csv").write_text("region,amount\nnorth,2\n")
    (tables.inbox / "a.num").write_text("1\n2\n")
    assert tables.run("run", "--once").returncode == 0
    assert (total(tables), total(tables, "*.num")) == ({"north": 2}, {None: 3})
    (tables.inbox / "b.num").write_text("1\nx\n")
    found = tables.run("run", "--once")
    assert found.returncode == 1
    assert 'line 2, column value: "x" is no number' in found.stdout + found.stderr


def test_an_edited_rule_holds_for_the_files_in_hand_too(tables: Place) -> None:
    """A worker that began by the old rule brings its results when the new one is in force."""
    tables.start()
    content = "".join(f"{number}\n" for number in range(500_000))
    for number in range(6):
        staged = tables.folder / f"{number}"
        staged.write_text(content)
        staged.rename(tables.inbox / f"{number}.num")
    eventually(lambda: any(worker["doing"] for worker in tables.status()["workers"]))
    edited = tables.configuration.with_suffix(".new")
    changed = tables.configuration.read_text().replace("sum(value)", "sum(value * 2)")
    edited.write_text(changed)
    edited.rename(tables.configuration)
    await_total(tables, {None: 6 * 500_000 * 499_999}, "*.num")

"""The service keeps its promises when something dies, is full, or is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from ..dropmill_process import Place
from ..polling import eventually


def drop_many(place: Place, count: int) -> None:
    for number in range(count):
        (place.inbox / f"{number}.txt").write_text(f"word{number} common\n" * 50)


def all_found(place: Place, count: int) -> bool:
    return place.run("search", "-c", "-m", "0", "common").stdout.count(":50\n") == count


def test_a_killed_idle_worker_is_replaced(running: Place) -> None:
    before = running.workers()
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: before[0] not in running.workers(), what="another worker in its place")
    drop_many(running, 50)
    eventually(lambda: all_found(running, 50), what="all are found")
    assert {row["attempts"] for row in running.results().values()} == {0}


def test_a_killed_busy_worker_costs_nobody_an_attempt(running: Place) -> None:
    assert running.run("pause").returncode == 0
    drop_many(running, 3000)
    (running.inbox / "large.log").write_text("a large log to be busy with\n" * 4_000_000)
    eventually(lambda: running.status()["files"]["queued"] == 3001, what="all are queued")
    assert running.run("resume").returncode == 0
    kills = 0
    while running.status()["files"]["queued"]:
        busy = [each["pid"] for each in running.status()["workers"] if each["doing"]]
        if busy and kills < 3:
            os.kill(busy[0], signal.SIGKILL)
            kills += 1
    assert kills, "no worker was seen busy: drop more"
    eventually(lambda: all_found(running, 3000), seconds=60, what="all are found")
    assert {row["attempts"] for row in running.results().values()} == {0}


def below(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in below(int(child)))]


def test_a_killed_service_leaves_no_semaphore_and_no_warning_in_the_journal(
    running: Place,
) -> None:
    assert running.service is not None
    pid = running.service.pid
    mapped = set(re.findall(r"(\d+) +/dev/shm/sem\.", Path(f"/proc/{pid}/maps").read_text()))
    semaphores = [sem for sem in Path("/dev/shm").glob("sem.mp-*") if is_one_of(sem, mapped)]
    assert semaphores
    log, processes = running.log.read_text(), below(pid)
    running.stop(signal.SIGKILL)
    eventually(lambda: not any(map(alive, processes)), what="all of its processes have ended")
    assert running.log.read_text() == log
    assert not [path for path in semaphores if path.exists()]


def is_one_of(path: Path, inodes: set[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):  # another test's
        return str(path.stat().st_ino) in inodes
    return False


def test_a_killed_service_goes_on_where_it_was(place: Place) -> None:
    place.start()
    drop_many(place, 2000)
    eventually(lambda: place.status()["files"]["done"] > 0, what="some are done")
    place.stop(signal.SIGKILL)
    place.start()
    eventually(lambda: all_found(place, 2000), seconds=60, what="all are found")
    assert {row["version"] for row in place.results().values()} == {1}


def test_sigterm_in_mid_file_finishes_what_is_in_hand_and_loses_nothing(place: Place) -> None:
    place.start()
    drop_many(place, 4000)
    eventually(lambda: place.status()["files"]["done"] > 0, what="some are done")
    started = time.monotonic()
    assert place.stop() == 0
    assert time.monotonic() - started < 10
    rows = place.results()
    assert {row["attempts"] for row in rows.values()} == {0}
    place.start()
    eventually(lambda: all_found(place, 4000), seconds=60, what="all are found")


def test_more_files_than_the_queue_holds_wait_in_the_ledger(tmp_path: Path) -> None:
    place = Place(tmp_path, workers=1)
    drop_many(place, 5000)
    assert place.run("run", "--once").returncode == 0
    assert all_found(place, 5000)


def test_a_file_that_kills_its_worker_is_quarantined_and_the_others_are_not(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, more="")
    text = place.configuration.read_text().replace("{free: 0}", "{free: 0, memory: 128MiB}")
    place.configuration.write_text(text + "\n")
    Image.new("RGB", (9000, 9000), "red").save(place.inbox / "huge.png")
    drop_many(place, 200)
    assert place.run("run", "--once").returncode == 1
    rows = place.results()
    assert "memory" in rows["huge.png"]["reason"]
    assert rows["huge.png"]["state"] == "quarantined"
    assert {row["state"] for name, row in rows.items() if name != "huge.png"} == {"done"}
    assert {row["attempts"] for name, row in rows.items() if name != "huge.png"} == {0}


def test_a_second_service_on_the_same_state_is_refused(running: Place) -> None:
    second = running.run("run")
    assert second.returncode == 1
    assert "another dropmill" in second.stderr


def test_a_wrong_configuration_is_refused_whole_with_every_error(place: Place) -> None:
    place.configuration.write_text("watch:\n  - path: ./inbox\n    setle: 5s\nworkers: none\n")
    refused = place.run("run")
    assert refused.returncode == 2
    assert "dropmill.yaml:3:5" in refused.stderr
    assert "settle" in refused.stderr
    assert "dropmill.yaml:4:" in refused.stderr
    assert not (place.folder / "state").exists()


def test_no_process_outlives_a_killed_service(running: Place) -> None:
    workers = running.workers()
    running.stop(signal.SIGKILL)
    for worker in workers:
        eventually(lambda pid=worker: not alive(pid), what=f"worker {worker} is gone")  # type: ignore[misc]


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_when_idle(running: Place, number: int) -> None:
    started = time.monotonic()
    assert running.stop(number) == 0
    assert time.monotonic() - started < 5


def test_a_pause_outlives_an_edit_of_the_configuration(running: Place) -> None:
    assert running.run("pause").returncode == 0
    workers = running.workers()
    text = running.configuration.read_text()
    running.configuration.write_text(text.replace("workers: 2", "workers: 1"))
    eventually(lambda: len(running.workers()) == 1 != len(workers), what="the edit is in force")
    assert "resume" in running.status()["paused"]
    (running.inbox / "a.txt").write_text("patience\n")
    eventually(lambda: running.status()["files"]["queued"] == 1, what="it is noticed")
    assert running.search("patience") == []
    assert running.run("resume").returncode == 0
    eventually(lambda: running.search("patience") == ["a.txt:1:patience"], what="it goes on")

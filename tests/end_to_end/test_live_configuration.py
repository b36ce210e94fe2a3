"""A changed configuration, put in force while the service runs: each promise from outside."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ..dropmill_process import Place
from ..polling import eventually


@pytest.fixture(params=["saved", "renamed", "SIGHUP"])
def way(request: pytest.FixtureRequest) -> str:
    """How the changed file reaches the service."""
    return str(request.param)


def change(place: Place, old: str, new: str, way: str = "renamed") -> None:
    """Changes the file, and waits until the service says that it is in force."""
    before = said(place, "is in force")
    text = place.configuration.read_text()
    assert old in text
    save(place, text.replace(old, new), way)
    eventually(lambda: said(place, "is in force") > before, what="in force")


def save(place: Place, text: str, way: str = "renamed") -> None:
    if way == "renamed":
        partly = place.folder / "4913~"
        partly.write_text(text)
        partly.rename(place.configuration)
    else:
        place.configuration.write_text(text)
    if way == "SIGHUP":
        assert place.service is not None
        place.service.send_signal(signal.SIGHUP)


def said(place: Place, words: str) -> int:
    return place.log.read_text().count(words)


def found(place: Place, word: str) -> bool:
    return place.run("search", word).returncode == 0


def problems(place: Place) -> list[str]:
    return [each["what"] for each in place.status()["problems"]]


# ---- what is watched -----------------------------------------------------------------------------


def test_a_root_is_added_and_removed_however_the_file_is_saved(running: Place, way: str) -> None:
    (running.inbox / "a.txt").write_text("alpha\n")
    second = running.folder / "second"
    second.mkdir()
    (second / "b.txt").write_text("beta\n")
    eventually(lambda: found(running, "alpha"), what="alpha is found")
    change(running, "watch:\n", "watch:\n  - path: ./second\n", way)
    eventually(lambda: found(running, "beta"), what="beta is found")
    assert f"is in force: watching {second} too" in running.log.read_text()
    change(running, "  - path: ./second\n", "", way)
    eventually(lambda: not found(running, "beta"), what="beta is out of search")
    assert found(running, "alpha")
    (running.inbox / "c.txt").write_text("gamma\n")
    eventually(lambda: found(running, "gamma"), what="the other root is watched on")


def test_a_shorter_settle_is_in_force_for_a_file_that_waits_already(tmp_path: Path) -> None:
    place = Place(tmp_path)
    text = place.configuration.read_text()
    text = text.replace("settle: 100ms", "settle: 1h").replace("settle_max: 2s", "settle_max: 1h")
    place.configuration.write_text(text)
    try:
        place.start()
        workers = place.workers()
        (place.inbox / "a.txt").write_text("patience\n")
        eventually(lambda: place.status()["settling"], what="it waits")
        change(place, "settle: 1h", "settle: 100ms")
        eventually(lambda: found(place, "patience"), what="found")
        assert place.workers() == workers  # what needs no other workers starts none
        assert "settle 3600.0 → 0.1" in place.log.read_text()
    finally:
        place.close()


# ---- the pool ------------------------------------------------------------------------------------


def test_the_pool_grows_and_shrinks_and_what_it_took_in_stays(running: Place) -> None:
    def numbers() -> int:
        return len(running.workers())

    (running.inbox / "a.txt").write_text("alpha\n")
    eventually(lambda: found(running, "alpha"), what="found")
    for count, word in ((4, "four"), (1, "one")):
        change(running, f"workers: {len(running.workers())}", f"workers: {count}")
        eventually(lambda count=count: numbers() == count, what=f"{count} workers")  # type: ignore[misc]
        for number in range(40):
            (running.inbox / f"{word}{number}.txt").write_text(f"{word} {word}{number}\n")
        eventually(
            lambda word=word: len(running.search("-l", word)) == 40,  # type: ignore[misc]
            what=f"all of {word}",
        )
    assert found(running, "alpha")
    running.stop()
    running.start()
    assert found(running, "four7")
    assert said(running, "lost") == 0


def test_a_change_waits_for_no_file_in_hand_and_nobody_waits_for_the_change(
    running: Place,
) -> None:
    """Both workers are at an image for long; another root is added meanwhile."""
    make_slow_images(running, 2)
    eventually(lambda: all(each["doing"] for each in running.status()["workers"]), what="both busy")
    workers = running.workers()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # as long as we like
    second = running.folder / "second"
    second.mkdir()
    try:
        change(running, "watch:\n", "watch:\n  - path: ./second\n")
        eventually(lambda: len(running.status()["roots"]) == 2, seconds=5, what="watched")
        (second / "b.txt").write_text("beta\n")
        eventually(lambda: running.status()["files"]["queued"] == 3, seconds=5, what="noticed")
        assert running.workers() == workers
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
    eventually(lambda: found(running, "beta"), what="found")
    eventually(running.is_settled, seconds=60, what="all done")
    assert {each["attempts"] for each in running.results().values()} == {0}
    assert len(list(running.copies.iterdir())) == 2
    eventually(lambda: not set(running.workers()) & set(workers), what="the old workers left")


def make_slow_images(place: Place, count: int) -> None:
    """Each is at work for seconds."""
    whole = place.folder / "whole.webp"
    Image.effect_noise((5000, 5000), 90).convert("RGB").save(whole, quality=30, method=0)
    for number in range(count):
        shutil.copy(whole, place.folder / f"{number}.webp")
    for number in range(count):
        (place.folder / f"{number}.webp").rename(place.inbox / f"{number}.webp")


def test_other_image_options_hold_for_what_comes_from_then_on(running: Place) -> None:
    Image.new("RGB", (40, 30), "red").save(running.inbox / "a.png")
    eventually((running.copies / "a_grayscale.png").exists, what="the first copy")
    change(running, "  output: ./grayscale\n", '  output: ./gray\n  name: "g_{stem}{suffix}"\n')
    Image.new("RGB", (40, 30), "blue").save(running.inbox / "b.png")
    eventually((running.folder / "gray/inbox/g_b.png").exists, what="the second copy")
    assert not (running.folder / "gray/inbox/g_a.png").exists()
    assert (running.copies / "a_grayscale.png").exists()
    assert (
        "images.name {stem}_grayscale{suffix} → g_{stem}{suffix} (for what comes from now on)"
        in (running.log.read_text())
    )


def test_another_log_level_is_in_force(running: Place) -> None:
    change(running, "limits:", "log: {level: warning}\nlimits:")
    (running.inbox / "a.txt").write_text("alpha\n")
    eventually(lambda: found(running, "alpha"), what="found")
    assert said(running, "a.txt: text taken in") == 0


# ---- keywords ------------------------------------------------------------------------------------


def test_a_new_keyword_is_looked_up_in_what_is_here_already(running: Place) -> None:
    (running.inbox / "a.txt").write_text("one\nan Invoice here\n\nthree invoice\n")
    big = "".join(f"line {number}\n" for number in range(1, 60_000))
    (running.inbox / "big.log").write_text(big + "payment due\n")
    (running.inbox / "other.txt").write_text("nothing\n")
    eventually(lambda: found(running, "nothing") and found(running, "payment"), what="all found")
    assert "keywords" not in running.results()["a.txt"]
    change(running, "limits:", 'text: {keywords: [invoice, "payment due"]}\nlimits:')
    eventually(lambda: "keywords" in running.results()["big.log"], what="looked up")
    results = running.results()
    assert results["a.txt"]["keywords"] == {"invoice": [2, 4]}
    assert results["big.log"]["keywords"] == {"payment due": [60_000]}
    assert "keywords" not in results["other.txt"]
    eventually(lambda: said(running, "found in 2 files"), what="told")
    (running.inbox / "new.txt").write_text("invoice\n")
    eventually(
        lambda: running.results().get("new.txt", {}).get("keywords") == {"invoice": [1]},
        what="found in what comes too",
    )


def test_a_keyword_that_came_while_the_service_was_down_is_looked_up_too(place: Place) -> None:
    place.start()
    (place.inbox / "a.txt").write_text("invoice\n")
    eventually(lambda: found(place, "invoice"), what="found")
    place.stop()
    text = place.configuration.read_text()
    place.configuration.write_text(text + "text: {keywords: [invoice]}\n")
    place.start()
    eventually(lambda: "keywords" in place.results()["a.txt"], what="looked up")


# ---- wrong edits, half-saved files ---------------------------------------------------------------


def test_a_wrong_edit_is_refused_as_check_refuses_it_until_it_is_mended(
    running: Place, way: str
) -> None:
    text = running.configuration.read_text()
    save(running, text.replace("100ms", "5 parsecs") + "wrong_key: 1\n", way)
    eventually(lambda: len(problems(running)) == 1, what="status shows the refusal")
    for line in running.run("check").stderr.strip().splitlines():
        assert line in problems(running)[0]
        assert f"not in force: {line}" in running.log.read_text()
    (running.inbox / "a.txt").write_text("working\n")
    eventually(lambda: found(running, "working"), what="what runs goes on")
    save(running, text, way)
    eventually(lambda: not problems(running), what="mended")


def test_another_state_folder_is_refused_with_a_sentence(running: Place) -> None:
    text = running.configuration.read_text()
    save(running, text.replace("state: ./state", "state: ./elsewhere"))
    eventually(lambda: said(running, "state: takes a restart to change"), what="refused")
    save(running, text)
    eventually(lambda: said(running, "as it was before"), what="mended")
    assert not (running.folder / "elsewhere").exists()


@pytest.fixture
def slow_editor(running: Place) -> Iterator[tuple[Place, str]]:
    """A service, and a text that changes its settle time."""
    yield running, running.configuration.read_text().replace("100ms", "150ms")


def test_a_file_that_is_being_saved_is_neither_applied_nor_refused(
    slow_editor: tuple[Place, str],
) -> None:
    place, text = slow_editor
    ticks = 0.05
    with place.configuration.open("w") as file:  # empty for a while, then half, then whole
        for part in ("", text[: len(text) // 2], text[len(text) // 2 :]):
            file.write(part)
            file.flush()
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert said(place, "not in force") == 0
                assert said(place, "is in force") == 0
                time.sleep(ticks)
    eventually(lambda: said(place, "settle 0.1 → 0.15"), what="in force once it is closed")
    assert said(place, "not in force") == 0


def test_a_file_that_is_away_for_a_moment_changes_nothing(running: Place) -> None:
    text = running.configuration.read_text()
    running.configuration.rename(running.folder / "dropmill.yaml~")
    (running.inbox / "a.txt").write_text("working\n")
    eventually(lambda: running.service is not None and said(running, "taken in"), what="goes on")
    running.configuration.write_text(text.replace("100ms", "150ms"))
    eventually(lambda: said(running, "settle 0.1 → 0.15"), what="in force")
    assert said(running, "not in force") == 0

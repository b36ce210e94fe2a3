"""A dropped file becomes a search hit or a grayscale copy, whatever is done to it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from PIL import Image

from ..dropmill_process import Place
from ..polling import eventually


def photograph(path: Path, size: tuple[int, int] = (320, 200)) -> None:
    picture = Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (picture, picture.rotate(180), picture.rotate(90))).save(path, "JPEG")


def hits(place: Place, *query: str) -> list[str]:
    return sorted(place.search(*query))


def await_hits(place: Place, query: str, wanted: list[str]) -> None:
    eventually(
        lambda: hits(place, query) == sorted(wanted), what=f"the hits of {query} are {wanted}"
    )


def test_a_dropped_text_is_found_by_word_with_its_line(running: Place) -> None:
    (running.inbox / "note.txt").write_text("first line\nthe disk failure of monday\n")
    await_hits(running, "failure", ["note.txt:2:the disk failure of monday"])
    row = running.results()["note.txt"]
    assert (row["kind"], row["state"], row["lines"]) == ("text", "done", 2)
    assert row["encoding"] == "utf-8"


def test_a_dropped_photograph_gets_a_gray_copy(running: Place) -> None:
    photograph(running.inbox / "photo.jpg")
    copy = running.copies / "photo_grayscale.jpg"
    eventually(copy.exists, what="the copy is there")
    with Image.open(copy) as image:
        assert (image.mode, image.size) == ("L", (320, 200))
    source = (running.inbox / "photo.jpg").stat()
    assert copy.stat().st_mtime_ns == source.st_mtime_ns
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o666 & ~mask


def test_a_file_renamed_into_place_is_searchable_at_once(running: Place, tmp_path: Path) -> None:
    ready = tmp_path / "elsewhere.txt"
    ready.write_text("immediately\n")
    ready.rename(running.inbox / "ready.txt")
    await_hits(running, "immediately", ["ready.txt:1:immediately"])


def test_a_rewritten_file_is_indexed_anew_and_its_old_hits_are_gone(running: Place) -> None:
    path = running.inbox / "a.txt"
    path.write_text("before\n")
    await_hits(running, "before", ["a.txt:1:before"])
    path.write_text("something else\nafter\n")
    await_hits(running, "after", ["a.txt:2:after"])
    assert hits(running, "before") == []


def test_what_is_appended_is_found_with_its_line(running: Place) -> None:
    path = running.inbox / "app.log"
    path.write_text("one\ntwo\nthr")
    await_hits(running, "two", ["app.log:2:two"])
    with path.open("a") as log:
        log.write("ee\nfour\n")
    await_hits(running, "four", ["app.log:4:four"])
    assert hits(running, "three") == ["app.log:3:three"]
    assert hits(running, "thr") == []


def test_a_log_that_is_never_closed_is_searchable_within_settle_max(running: Place) -> None:
    with (running.inbox / "open.log").open("w") as log:
        for number in range(3):
            log.write(f"entry{number}\n")
            log.flush()
            await_hits(running, f"entry{number}", [f"open.log:{number + 1}:entry{number}"])


def test_a_renamed_file_keeps_its_results_and_its_copy(running: Place) -> None:
    (running.inbox / "old.txt").write_text("movable\n")
    photograph(running.inbox / "old.jpg")
    eventually(lambda: len(running.results("--state", "done")) == 2, what="both are done")
    finished = running.results()["old.txt"]["version"]
    (running.inbox / "old.txt").rename(running.inbox / "new.txt")
    (running.inbox / "old.jpg").rename(running.inbox / "new.jpg")
    await_hits(running, "movable", ["new.txt:1:movable"])
    assert running.results()["new.txt"]["version"] == finished
    eventually((running.copies / "new_grayscale.jpg").exists, what="the copy has its new name")
    eventually(
        lambda: not (running.copies / "old_grayscale.jpg").exists(), what="the old name is free"
    )


def test_a_renamed_folder_keeps_the_results_below_it(running: Place) -> None:
    folder = running.inbox / "before"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"inside {number}\n")
    eventually(lambda: len(hits(running, "inside")) == 20, what="all are found")
    folder.rename(running.inbox / "after")
    wanted = sorted(f"after/{number}.txt:1:inside {number}" for number in range(20))
    eventually(lambda: hits(running, "inside") == wanted, what="all are found at their new place")
    assert {row["version"] for row in running.results("--state", "done").values()} == {1}


def test_a_deleted_file_leaves_search_and_can_be_explained(running: Place) -> None:
    path = running.inbox / "short.txt"
    path.write_text("ephemeral\n")
    await_hits(running, "ephemeral", ["short.txt:1:ephemeral"])
    path.unlink()
    await_hits(running, "ephemeral", [])
    assert "gone" in running.run("explain", str(path)).stdout


def test_a_deleted_source_leaves_its_copy(running: Place) -> None:
    photograph(running.inbox / "a.png")
    shutil.move(running.inbox / "a.png", running.inbox / "b.jpg")
    copy = running.copies / "b_grayscale.jpg"
    eventually(copy.exists, what="the copy is there")
    (running.inbox / "b.jpg").unlink()
    eventually(lambda: running.results("--state", "gone"), what="the source is known to be gone")
    assert copy.exists()


def test_a_new_folder_with_files_in_it_is_taken_in(running: Place, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    for number in range(30):
        (tree / "deep" / "er" / f"{number}.txt").write_text("copied and moved\n")
    shutil.copytree(tree, running.inbox / "copied")
    tree.rename(running.inbox / "moved")
    eventually(lambda: len(hits(running, "copied and moved")) == 60, what="all 60 are found")


def test_both_names_of_a_hard_link_are_found(running: Place) -> None:
    (running.inbox / "one.txt").write_text("linked\n")
    (running.inbox / "two.txt").hardlink_to(running.inbox / "one.txt")
    await_hits(running, "linked", ["one.txt:1:linked", "two.txt:1:linked"])


def test_a_root_deleted_and_made_again_is_watched_again(running: Place) -> None:
    (running.inbox / "a.txt").write_text("survivor\n")
    await_hits(running, "survivor", ["a.txt:1:survivor"])
    aside = running.folder / "aside"
    running.inbox.rename(aside)
    eventually(lambda: running.status()["roots"][0]["state"] == "offline", what="offline")
    assert "a.txt" in running.results("--state", "done"), "a missing root is no mass delete"
    aside.rename(running.inbox)
    eventually(lambda: running.status()["roots"][0]["state"] == "watching", what="watched again")
    (running.inbox / "b.txt").write_text("newcomer\n")
    await_hits(running, "newcomer", ["b.txt:1:newcomer"])
    await_hits(running, "survivor", ["a.txt:1:survivor"])


def test_what_is_dropped_into_a_bare_mount_point_does_not_pass_for_what_was_mounted(
    running: Place,
) -> None:
    (running.inbox / "a.txt").write_text("survivor\n")
    await_hits(running, "survivor", ["a.txt:1:survivor"])
    mounted = running.folder / "mounted"
    running.inbox.rename(mounted)
    running.inbox.mkdir()
    (running.inbox / "b.txt").write_text("newcomer\n")
    await_hits(running, "newcomer", ["b.txt:1:newcomer"])
    for restart in (False, True):
        if restart:
            assert running.stop() == 0
            running.start()
        assert running.run("scan").returncode == 0
        eventually(lambda: running.status()["roots"][0]["state"] == "offline", what="offline")
        assert running.results()["a.txt"]["state"] == "done", "a missing root is no mass delete"
    (running.inbox / "b.txt").unlink()
    running.inbox.rmdir()
    mounted.rename(running.inbox)
    eventually(lambda: running.status()["roots"][0]["state"] == "watching", what="watched again")
    await_hits(running, "survivor", ["a.txt:1:survivor"])
    await_hits(running, "newcomer", [])
    assert running.results()["a.txt"]["version"] == 1, "nothing is done again"


def test_an_empty_root_made_anew_is_taken_for_the_root(running: Place) -> None:
    running.inbox.rmdir()
    running.inbox.mkdir()
    (running.inbox / "b.txt").write_text("newcomer\n")
    await_hits(running, "newcomer", ["b.txt:1:newcomer"])
    assert running.run("scan").returncode == 0
    eventually(lambda: running.status()["roots"][0]["state"] == "watching", what="watched")


def test_what_was_dropped_while_it_was_down_is_taken_in_at_the_start(place: Place) -> None:
    place.start()
    (place.inbox / "a.txt").write_text("early\n")
    await_hits(place, "early", ["a.txt:1:early"])
    assert place.stop() == 0
    (place.inbox / "b.txt").write_text("meanwhile\n")
    (place.inbox / "a.txt").unlink()
    assert hits(place, "meanwhile") == []
    place.start()
    await_hits(place, "meanwhile", ["b.txt:1:meanwhile"])
    await_hits(place, "early", [])


def test_a_second_run_does_nothing_twice(place: Place) -> None:
    for number in range(10):
        (place.inbox / f"{number}.txt").write_text(f"number {number}\n")
    assert place.run("run", "--once").returncode == 0
    first = place.results()
    assert place.run("run", "--once").returncode == 0
    assert place.results() == first
    assert len(first) == 10


def test_search_with_sync_sees_everything_written_before(running: Place) -> None:
    for number in range(5):
        (running.inbox / f"{number}.txt").write_text(f"synchronous{number}\n")
        found = running.search("--sync", f"synchronous{number}")
        assert found == [f"{number}.txt:1:synchronous{number}"]


def test_search_with_sync_needs_a_service(place: Place) -> None:
    assert place.run("run", "--once").returncode == 0
    found = place.run("search", "--sync", "word")
    assert found.returncode == 2
    assert "no daemon is running" in found.stderr


def test_binary_content_is_skipped_with_the_reason(running: Place) -> None:
    (running.inbox / "program.txt").write_bytes(b"\x7fELF\x00\x01\x02" * 100)
    eventually(lambda: running.results("--state", "skipped"), what="skipped")
    assert "binary" in running.results()["program.txt"]["reason"]


def test_a_broken_image_is_quarantined_with_a_sentence_and_can_be_retried(running: Place) -> None:
    photograph(running.inbox / "whole.jpg")
    broken = (running.inbox / "whole.jpg").read_bytes()[:2000]
    (running.inbox / "cut.jpg").write_bytes(broken)
    eventually(lambda: "cut.jpg" in running.results("--state", "quarantined"), what="quarantined")
    row = running.results()["cut.jpg"]
    assert row["reason"]
    assert not (running.copies / "cut_grayscale.jpg").exists()
    assert running.run("retry", str(running.inbox / "cut.jpg")).returncode == 0
    eventually(lambda: "cut.jpg" in running.results("--state", "quarantined"), what="as before")
    photograph(running.inbox / "cut.jpg")
    eventually((running.copies / "cut_grayscale.jpg").exists, what="mended, it gets its copy")


def test_the_watch_list_is_recorded_with_line_numbers(tmp_path: Path) -> None:
    place = Place(tmp_path, more="text: {keywords: [invoice, payment due]}")
    (place.inbox / "a.txt").write_text("x\nINVOICE 12\ny\nthe payment due: invoice\n")
    assert place.run("run", "--once").returncode == 0
    assert place.results()["a.txt"]["keywords"] == {"invoice": [2, 4], "payment due": [4]}


def test_pause_takes_nothing_new_and_resume_goes_on(running: Place) -> None:
    assert running.run("pause").returncode == 0
    (running.inbox / "a.txt").write_text("patient\n")
    eventually(lambda: running.status()["files"]["queued"] == 1, what="it is queued")
    assert hits(running, "patient") == []
    assert running.run("resume").returncode == 0
    await_hits(running, "patient", ["a.txt:1:patient"])


def test_scan_reconciles_and_waits(running: Place) -> None:
    done = running.run("scan")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [b"new\nline.txt", b"-rf", b"caf\xe9.txt", b"\x1b[31mred.txt"])
def test_any_name_can_be_dropped(running: Place, name: bytes) -> None:
    with open(os.path.join(os.fsencode(running.inbox), name), "w") as file:
        file.write("anyname\n")
    eventually(lambda: len(running.results("--state", "done")) == 1, what="done")
    eventually(lambda: running.run("search", "anyname").returncode == 0, what="found")


def test_excluded_names_and_links_are_left_alone(running: Place) -> None:
    (running.inbox / "secret").symlink_to("/etc/passwd")
    (running.inbox / "download.part").write_text("unfinished\n")
    os.mkfifo(running.inbox / "pipe.txt")
    (running.inbox / "marker.txt").write_text("marker\n")
    await_hits(running, "marker", ["marker.txt:1:marker"])
    assert list(running.results()) == ["marker.txt"]


def test_a_polled_folder_is_taken_in_too(tmp_path: Path) -> None:
    place = Place(tmp_path)
    text = place.configuration.read_text()
    polled = text.replace(
        "settle: 100ms", "settle: 100ms\n    observer: polling\n    poll_every: 1s"
    )
    place.configuration.write_text(polled)
    place.start()
    try:
        assert place.status()["roots"][0]["state"] == "polling"
        (place.inbox / "a.txt").write_text("polled\n")
        await_hits(place, "polled", ["a.txt:1:polled"])
        (place.inbox / "a.txt").rename(place.inbox / "b.txt")
        await_hits(place, "polled", ["b.txt:1:polled"])
        (place.inbox / "b.txt").unlink()
        await_hits(place, "polled", [])
        (place.inbox / "c.txt").write_text("at once\n")
        assert place.search("--sync", "once") == ["c.txt:1:at once"]
    finally:
        place.stop()


def test_a_folder_that_is_not_watched_any_more_leaves_search(tmp_path: Path) -> None:
    place = Place(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("formerly\n")
    (place.inbox / "b.txt").write_text("formerly\n")
    text = place.configuration.read_text()
    place.configuration.write_text(text.replace("watch:\n", "watch:\n  - path: ./other\n"))
    assert place.run("run", "--once").returncode == 0
    assert len(place.search("formerly")) == 2
    place.configuration.write_text(text)
    assert place.run("run", "--once").returncode == 0
    assert place.search("formerly") == ["b.txt:1:formerly"]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (("settle: 100ms", 'settle: 100ms\n    exclude: ["*.log"]'), 'by the pattern "*.log"'),
        (("settle: 100ms", "settle: 100ms\n    exclude: [deep/]"), 'by the pattern "deep/"'),
        (("settle: 100ms", "settle: 100ms\n    recursive: false"), "recursive is false"),
        (("images:", "text: {suffixes: [.txt]}\nimages:"), "text.suffixes"),
    ],
)
def test_what_an_edit_of_the_configuration_leaves_out_leaves_search_until_it_is_taken_back(
    running: Place, edit: tuple[str, str], told: str
) -> None:
    (running.inbox / "deep").mkdir()
    (running.inbox / "a.txt").write_text("everywhere\n")
    (running.inbox / "deep" / "b.log").write_text("everywhere\n")
    both = ["a.txt:1:everywhere", "deep/b.log:1:everywhere"]
    eventually(lambda: sorted(running.search("everywhere")) == both, what="both are found")
    workers = running.workers()
    text = running.configuration.read_text()
    running.configuration.write_text(text.replace(*edit))
    await_hits(running, "everywhere", both[:1])
    explained = running.run("explain", str(running.inbox / "deep" / "b.log")).stdout
    assert told in explained
    assert "change that in the configuration" in explained
    running.configuration.write_text(text)
    eventually(lambda: sorted(running.search("everywhere")) == both, what="both are found again")
    assert running.workers() == workers  # what needs no other workers starts none


def test_a_file_that_is_of_another_kind_by_an_edit_is_taken_in_as_that(place: Place) -> None:
    text = place.configuration.read_text()
    place.configuration.write_text(text.replace("images:", "images:\n  suffixes: [.jpg]"))
    Image.new("RGB", (8, 8), "red").save(place.inbox / "a.png")
    place.run("run", "--once")
    assert place.results()["a.png"]["state"] == "skipped"
    place.configuration.write_text(text)
    assert place.run("run", "--once").returncode == 0
    assert place.results()["a.png"]["kind"] == "image"

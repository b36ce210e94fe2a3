"""What watch promises: nothing that happens in a root goes unnoticed, whatever the kernel says.

Real folders, real observers. `Lab` stands for the main loop; what it has seen is the union of
notices and listings, because a path may come from either.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers.api import EventEmitter
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, Mask, WatchDescriptor

from dropmill import watch
from dropmill.watch import (
    Compared,
    Echo,
    FolderNoticed,
    Listing,
    Noticed,
    Reference,
    RootLost,
    RootReturned,
    RootStatus,
    ScanDone,
    Suspicion,
    Watch,
    WatchedRoot,
    keeper,
    observers,
    roots,
    scan,
)
from dropmill.watch.reader import Reader
from dropmill.watch.roots import filesystem_of, makes_no_events

from .polling import eventually

REPOSITORY = Path(__file__).parent.parent


def hidden(relative: bytes, _is_folder: bool) -> bool:
    return relative.rpartition(b"/")[2].startswith(b".")


class Lab:
    """A watch over some roots, and all that it said."""

    def __init__(self, *roots: WatchedRoot, cookies: bytes | None = None) -> None:
        self.events: list[watch.Event] = []
        self.listings: list[Listing] = []
        self.known: set[bytes] = set()
        self.compare: Callable[[Listing], None] = lambda listing: None
        self.ticked = 0.0
        self.revision: Callable[[], object] = lambda: None
        reference = Reference(self._compare, revision=lambda: self.revision())
        self.watch = Watch(roots, reference, lambda: None, cookies)

    def _compare(self, listing: Listing) -> Compared:
        self.listings.append(listing)
        self.compare(listing)
        known = any(listing.folder + b"/" + name in self.known for name in listing.files)
        return Compared(known)

    def pump(self) -> list[watch.Event]:
        new = self.watch.drain()
        self.events += new
        if time.monotonic() - self.ticked > 0.1:
            self.ticked = time.monotonic()
            self.watch.tick(self.ticked)
        return new

    def until(self, condition: Callable[[], object], what: str, seconds: float = 20) -> None:
        def pumped() -> bool:
            self.pump()
            return bool(condition())

        eventually(pumped, seconds=seconds, what=what)

    def start(self) -> Lab:
        self.watch.start()
        self.until(self.is_settled, "the first scans")
        self.clear()
        return self

    def is_settled(self) -> bool:
        states = {status.state for status in self.watch.status()}
        scanned = all(
            status.last_scan or status.state == "offline" for status in self.watch.status()
        )
        built = self.watch._keeper.observer is not None
        return built and scanned and states <= {"watching", "polling", "offline"} and self.is_idle()

    def is_idle(self) -> bool:
        return not self.watch.outstanding()

    def clear(self) -> None:
        self.events.clear()
        self.listings.clear()

    def of(self, *kinds: type) -> list[watch.Event]:
        return [event for event in self.events if isinstance(event, kinds)]

    def noticed(self) -> set[bytes]:
        return {event.path for event in self.events if isinstance(event, Noticed)}

    def seen(self) -> set[bytes]:
        listed = {
            listing.folder + b"/" + name for listing in self.listings for name in listing.files
        }
        return listed | self.noticed()

    def sees(self, *paths: bytes, seconds: float = 20) -> None:
        self.until(lambda: set(paths) <= self.seen(), f"seeing {paths[:3]}", seconds)

    def status(self) -> RootStatus:
        return self.watch.status()[0]

    def reader(self) -> Reader:
        observer = self.watch._keeper.observer
        assert observer is not None
        return observer._reader

    def generation(self) -> int:
        observer = self.watch._keeper.observer
        return -1 if observer is None else observer.generation


def write(path: bytes, text: str = "x") -> bytes:
    with open(path, "w") as file:
        file.write(text)
    return path


def files_below(top: bytes) -> set[bytes]:
    return {os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names}


def make_tree(top: bytes, folders: int = 30) -> None:
    for number in range(folders):
        inside = top + b"/a%d/b%d/c%d" % (number % 3, number % 6, number)
        os.makedirs(inside)
        for name in range(5):
            write(inside + b"/f%d" % name)


@pytest.fixture
def place(tmp_path: Path) -> bytes:
    os.makedirs(tmp_path / "root")
    os.makedirs(tmp_path / "out")
    return os.fsencode(tmp_path)


@pytest.fixture
def root(place: bytes) -> bytes:
    return place + b"/root"


@pytest.fixture
def watching() -> Iterator[Callable[..., Lab]]:
    """Starts a watch; at the end it is stopped and must leave no thread behind."""
    labs: list[Lab] = []

    def begin(*roots: WatchedRoot, cookies: bytes | None = None) -> Lab:
        labs.append(Lab(*roots, cookies=cookies))
        return labs[-1].start()

    before = set(threading.enumerate())
    yield begin
    for lab in labs:
        lab.watch.stop()
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left, left


@pytest.fixture
def lab(root: bytes, watching: Callable[..., Lab]) -> Lab:
    return watching(WatchedRoot(root, True, hidden))


# Files


def test_a_written_file_is_noticed(lab: Lab, root: bytes) -> None:
    path = write(root + b"/a")
    lab.until(lambda: path in lab.noticed(), "the notice")
    assert lab.of(Noticed) == [Noticed(root, path, False, False)]


def test_a_file_renamed_into_place_is_noticed_as_such(lab: Lab, root: bytes) -> None:
    write(root + b"/.hidden")
    os.rename(root + b"/.hidden", root + b"/a")
    lab.until(lambda: Noticed(root, root + b"/a", True, False) in lab.events, "the notice")
    assert root + b"/.hidden" not in lab.noticed()


def test_a_file_that_goes_away_is_noticed_as_gone(lab: Lab, root: bytes, place: bytes) -> None:
    for name in (b"a", b"b"):
        lab.sees(write(root + b"/" + name))
    os.unlink(root + b"/a")
    os.rename(root + b"/b", place + b"/out/b")
    for name in (b"/a", b"/b"):
        gone = Noticed(root, root + name, False, True)
        lab.until(lambda gone=gone: gone in lab.events, "the notice")  # type: ignore[misc]


def test_a_hard_link_is_noticed(lab: Lab, root: bytes, place: bytes) -> None:
    os.link(write(place + b"/out/f"), root + b"/linked")
    lab.sees(root + b"/linked")


def test_of_several_notices_of_a_file_the_last_counts(lab: Lab, root: bytes) -> None:
    for _ in range(50):
        write(root + b"/a")
    os.unlink(write(root + b"/b"))
    os.rename(write(root + b"/.c"), root + b"/c")
    time.sleep(0.2)  # the reader has no echo to wait for here
    lab.pump()
    assert lab.of(Noticed) == [
        Noticed(root, root + b"/a", False, False),
        Noticed(root, root + b"/b", False, True),
        Noticed(root, root + b"/c", True, False),
    ]


def test_names_of_any_bytes_come_through(lab: Lab, root: bytes) -> None:
    names = [b"caf\xe9", b"new\nline", b"\xff\xfe", "snow\u2603".encode(), b" ", b"a" * 255]
    paths = [write(root + b"/" + name) for name in names]
    lab.until(lambda: set(paths) <= lab.noticed(), "all names")
    folder = root + b"/d\xff\n"
    os.mkdir(folder)
    lab.sees(write(folder + b"/\xfe"))
    lab.watch.scan(root)
    lab.clear()
    lab.until(lambda: {*paths, folder + b"/\xfe"} <= lab.seen(), "all names in a scan")


def test_reading_makes_no_notices(root: bytes, watching: Callable[..., Lab]) -> None:
    write(root + b"/a")
    lab = watching(WatchedRoot(root, True, hidden))
    with open(root + b"/a", "rb") as file:
        file.read()
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone), "the scan")
    lab.sees(write(root + b"/b"))
    assert lab.noticed() == {root + b"/b"}


# Folders


def test_a_folder_made_with_files_in_it_is_seen_whole(lab: Lab, root: bytes) -> None:
    for number in range(20):
        make_tree(root + b"/tree%d" % number, folders=6)
    lab.sees(*files_below(root))
    late = [write(folder.encode() + b"/late") for folder, _, _ in os.walk(os.fsdecode(root))]
    lab.until(lambda: set(late) <= lab.noticed(), "files in all the new folders")


@pytest.mark.parametrize("command", ["mv", "cp -r", "cp -al"])
def test_a_tree_that_comes_in_is_seen_whole_and_watched(
    lab: Lab, root: bytes, place: bytes, command: str
) -> None:
    make_tree(place + b"/out/tree")
    subprocess.run([*command.split(), place + b"/out/tree", root + b"/tree"], check=True)
    lab.sees(*files_below(root))
    lab.until(lab.is_idle, "the scans")
    lab.clear()
    late = [os.path.join(os.fsencode(folder), b"late") for folder, _, _ in os.walk(root)]
    for path in late:
        write(path)
    lab.until(lambda: set(late) <= lab.noticed(), "files in all its folders")


def test_a_tree_renamed_inside_is_watched_under_its_new_name(lab: Lab, root: bytes) -> None:
    make_tree(root + b"/old")
    lab.until(lambda: lab.is_idle() and lab.status().directories == 41, "its watches")
    lab.clear()
    os.rename(root + b"/old", root + b"/new")
    moved = FolderNoticed(root, root + b"/new", root + b"/old", False)
    lab.until(lambda: moved in lab.events, "the rename")
    assert FolderNoticed(root, root + b"/old", None, True) in lab.events
    late = [write(os.path.join(folder, b"late")) for folder, _, _ in os.walk(root + b"/new")]
    lab.until(lambda: set(late) <= lab.noticed(), "files under the new name")
    assert not [path for path in lab.noticed() if path.startswith(root + b"/old/")]


def test_a_tree_renamed_from_one_root_to_another_is_watched_there(
    place: bytes, watching: Callable[..., Lab]
) -> None:
    one, two = place + b"/root", place + b"/out"
    lab = watching(WatchedRoot(one, True, hidden), WatchedRoot(two, True, hidden))
    make_tree(one + b"/tree")
    lab.until(lambda: lab.is_idle() and lab.status().directories == 41, "its watches")
    os.rename(one + b"/tree", two + b"/tree")
    moved = FolderNoticed(two, two + b"/tree", one + b"/tree", False)
    lab.until(lambda: moved in lab.events and lab.is_idle(), "the rename")
    lab.clear()
    late = [write(os.path.join(folder, b"late")) for folder, _, _ in os.walk(two)]
    lab.until(lambda: set(late) <= lab.noticed(), "files in the other root")


def test_nothing_waits_behind_a_rename_out_of_the_tree(lab: Lab, root: bytes, place: bytes) -> None:
    os.mkdir(root + b"/d")
    lab.until(lambda: lab.status().directories == 2 and lab.is_idle(), "its watch")
    os.rename(root + b"/d", place + b"/out/d")
    os.rename(write(root + b"/f"), place + b"/out/f")
    renamed = time.monotonic()
    path = write(root + b"/after")
    lab.until(lambda: path in lab.noticed(), "the file behind it")
    assert time.monotonic() - renamed < 0.3, "watchdog's own delay is 0.5 s"
    assert FolderNoticed(root, root + b"/d", None, True) in lab.events


def test_what_happens_in_a_folder_moved_out_is_not_told(
    lab: Lab, root: bytes, place: bytes
) -> None:
    os.mkdir(root + b"/d")
    lab.until(lambda: lab.status().directories == 2, "its watch")
    os.rename(root + b"/d", place + b"/out/d")
    write(place + b"/out/d/outside")
    lab.sees(write(root + b"/after"))
    assert lab.noticed() == {root + b"/after"}
    os.rename(place + b"/out/d", root + b"/back")
    lab.until(lambda: FolderNoticed(root, root + b"/back", None, False) in lab.events, "return")
    path = write(root + b"/back/inside")
    lab.until(lambda: path in lab.noticed(), "a file in it, under its new name")


def test_folders_moved_out_and_written_to_rebuild_observers_less_and_less_often(
    lab: Lab, root: bytes, place: bytes
) -> None:
    """Each is a suspicion. Afterwards there is peace, whoever writes to them still."""
    started, number = time.monotonic(), 0
    while time.monotonic() - started < 5:
        number += 1
        folder, outside = root + b"/d%d" % number, place + b"/out/d%d" % number
        os.mkdir(folder)
        write(folder + b"/f")
        lab.pump()
        os.rename(folder, outside)
        for path in files_below(place + b"/out"):
            write(path)
    assert number > 20
    assert 2 <= lab.generation() <= 5
    scans = [event for event in lab.of(ScanDone) if isinstance(event, ScanDone)]
    assert sum(done.folder == root for done in scans) <= 12
    lab.until(lambda: not lab.watch._keeper._wanted and lab.is_idle(), "an observer that knows")
    lab.until(lambda: lab.watch._keeper._builder is None, "no other is being built")
    lab.clear()
    before = lab.generation()
    for path in files_below(place + b"/out"):
        write(path)
    lab.sees(write(root + b"/after"))
    lab.watch._keeper.tick(time.monotonic() + observers._OTHER_HALF)
    lab.pump()
    assert (lab.of(Suspicion), lab.generation()) == ([], before)


def test_the_renames_that_kill_watchdogs_reader_do_not_kill_ours(
    lab: Lab, root: bytes, place: bytes
) -> None:
    def read_so_far() -> None:
        lab.sees(write(root + b"/mark%d" % time.monotonic_ns()))

    os.mkdir(root + b"/d")
    read_so_far()
    os.rename(root + b"/d", place + b"/out/d")
    read_so_far()
    os.mkdir(root + b"/d")
    read_so_far()
    os.rmdir(root + b"/d")
    read_so_far()
    os.rmdir(place + b"/out/d")
    lab.until(lambda: lab.of(Suspicion), "the suspicion")
    lab.until(lambda: lab.generation() > 1, "a new observer")
    lab.clear()
    path = write(root + b"/later")
    lab.until(lambda: path in lab.noticed(), "a later file")


def test_a_watch_can_be_stopped_in_the_middle_of_those_renames(
    lab: Lab, root: bytes, place: bytes
) -> None:
    os.mkdir(root + b"/d")
    lab.sees(write(root + b"/1"))
    os.rename(root + b"/d", place + b"/out/d")
    lab.sees(write(root + b"/2"))
    os.mkdir(root + b"/d")
    os.rmdir(root + b"/d")
    lab.sees(write(root + b"/3"))
    lab.watch.stop()


def test_a_root_that_is_not_recursive_shows_its_own_files_only(
    root: bytes, watching: Callable[..., Lab]
) -> None:
    make_tree(root + b"/tree")
    lab = watching(WatchedRoot(root, False, hidden))
    assert lab.watch.watches_used() == 1
    os.mkdir(root + b"/new")
    write(root + b"/new/f")
    lab.sees(write(root + b"/f"))
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone), "the scan")
    assert lab.seen() == {root + b"/f"}
    assert not lab.of(FolderNoticed)


# What is left out


def test_excluded_folders_cost_no_watch(root: bytes, watching: Callable[..., Lab]) -> None:
    for number in range(50):
        os.makedirs(root + b"/.git/objects/%02d" % number)
    os.mkdir(root + b"/kept")
    lab = watching(WatchedRoot(root, True, hidden))
    assert lab.watch.watches_used() == 2
    os.makedirs(root + b"/kept/.cache/deep/deeper")
    write(root + b"/kept/.cache/f")
    write(root + b"/.git/objects/00/f")
    lab.sees(write(root + b"/kept/g"))
    assert lab.watch.watches_used() == 2
    assert lab.seen() == {root + b"/kept/g"}


def test_a_folder_filled_under_an_excluded_name_and_renamed_is_seen(lab: Lab, root: bytes) -> None:
    make_tree(root + b"/.incoming")
    os.rename(root + b"/.incoming", root + b"/published")
    lab.sees(*files_below(root))
    late = write(root + b"/published/a0/late")
    lab.until(lambda: late in lab.noticed(), "a later file in it")


def test_a_folder_hidden_for_a_while_is_watched_again(lab: Lab, root: bytes) -> None:
    os.mkdir(root + b"/d")
    lab.until(lambda: lab.status().directories == 2, "its watch")
    os.rename(root + b"/d", root + b"/.d")
    os.mkdir(root + b"/.d/made-meanwhile")
    write(root + b"/.d/f")
    lab.sees(write(root + b"/mark"))
    assert root + b"/.d/f" not in lab.seen()
    os.rename(root + b"/.d", root + b"/d")
    lab.sees(root + b"/d/f")
    lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "a new observer")
    lab.clear()
    late = write(root + b"/d/made-meanwhile/late")
    lab.until(lambda: late in lab.noticed(), "a file in the folder made meanwhile")


# Observers that cannot be believed


def overflow(lab: Lab) -> None:
    mask = Mask(InotifyConstants.IN_Q_OVERFLOW)
    lab.reader().handle_event(InotifyEvent(WatchDescriptor(-1), mask, 0, b""))


def test_an_overflow_leads_to_a_scan_and_a_new_observer(lab: Lab, root: bytes) -> None:
    write(root + b"/lost")
    overflow(lab)
    lab.until(lambda: lab.generation() > 1, "a new observer")
    lab.sees(root + b"/lost")
    assert [event for event in lab.events if isinstance(event, Suspicion)]
    assert lab.status().overflows == 1
    lab.until(lab.is_idle, "the scans")
    lab.clear()
    path = write(root + b"/later")
    lab.until(lambda: path in lab.noticed(), "a later file")


def test_what_an_older_observer_still_says_is_ignored(lab: Lab, root: bytes) -> None:
    old = lab.reader()
    overflow(lab)
    lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "a new observer")
    lab.clear()
    old.retired = False
    old.suspect(None, "an old grudge")
    lab.sees(write(root + b"/f"))
    assert not lab.of(Suspicion)


def test_a_burst_of_sixty_thousand_files_loses_none(lab: Lab, root: bytes) -> None:
    program = "import os,sys\nfor n in range(60000):\n"
    program += " os.close(os.open(f'{sys.argv[1]}/f{n}', os.O_CREAT | os.O_WRONLY))"
    with subprocess.Popen([sys.executable, "-c", program, root]) as writer:
        lab.until(lambda: writer.poll() is not None, "the writer")
    want = {root + b"/f%d" % number for number in range(60_000)}
    lab.until(lambda: lab.is_idle() and want <= lab.seen(), "all of them", seconds=30)


def test_a_reader_that_dies_is_replaced(
    lab: Lab, root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_self: object, **_: object) -> list[InotifyEvent]:
        raise OSError(5, "invented")

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "read_events", die)
        write(root + b"/unread")
        lab.until(lambda: not lab.reader().is_alive(), "its death")
    lab.until(lambda: lab.generation() > 1, "a new observer")
    lab.sees(root + b"/unread")
    assert "died" in next(event.why for event in lab.events if isinstance(event, Suspicion))


def test_an_emitter_that_dies_is_noticed_by_the_tick(lab: Lab, root: bytes) -> None:
    observer = lab.watch._keeper.observer
    assert observer is not None
    next(iter(observer.emitters)).stop()
    lab.until(lambda: lab.generation() > 1, "a new observer")
    path = write(root + b"/f")
    lab.until(lambda: path in lab.noticed(), "a later file")


def test_replacing_and_stopping_observers_says_nothing_in_the_log(
    root: bytes, place: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """watchdog's emitter, stopped at the wrong moment, calls itself inactive, as an error."""
    slow = EventEmitter.should_keep_running

    def should_keep_running(thread: EventEmitter) -> bool:
        answer = slow(thread)
        time.sleep(0.05)  # time enough to be stopped in
        return answer

    monkeypatch.setattr(EventEmitter, "should_keep_running", should_keep_running)
    for generation in range(3):
        observer = observers.Observer(
            generation,
            [(root, WatchedRoot(root, True, hidden))],
            place + b"/out",
            lambda said: None,
        )
        os.mkdir(root + b"/d%d" % generation)  # something to read
        os.rename(root + b"/d%d" % generation, root + b"/e%d" % generation)
        observer.retire()
    assert not caplog.records


def test_a_rename_is_paired_though_nobody_reads_the_emitters(lab: Lab, root: bytes) -> None:
    os.mkdir(root + b"/d0")
    for number in range(50):
        os.rename(root + b"/d%d" % number, root + b"/d%d" % (number + 1))
    path = root + b"/d50/f"
    lab.until(lambda: lab.status().directories == 2 and lab.is_idle(), "its watch")
    lab.sees(write(path))


def test_suspicions_in_a_row_are_acted_on_less_and_less_often(lab: Lab) -> None:
    started = time.monotonic()
    while time.monotonic() - started < 4:
        overflow(lab)
        lab.pump()
        time.sleep(0.01)
    assert 1 < lab.generation() <= 4


def test_what_does_not_fit_into_the_queue_is_scanned(
    lab: Lab, root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MOST_QUEUED", 10)
    paths = [write(root + b"/f%d" % number) for number in range(500)]
    eventually(lambda: lab.watch._lost, what="more than fits")
    monkeypatch.undo()
    lab.sees(*paths)
    assert len(lab.noticed()) < 500


# Roots that come and go


def test_a_root_deleted_and_made_again_is_watched_again(lab: Lab, root: bytes) -> None:
    shutil.rmtree(root)
    lab.until(lambda: lab.of(RootLost), "its loss")
    assert lab.status().state == "offline"
    assert lab.status().reason == "No such file or directory"
    lab.until(lab.is_idle, "the scans")
    lab.clear()
    os.mkdir(root)
    lab.until(lambda: lab.of(RootReturned), "its return")
    lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "its watches")
    path = write(root + b"/new")
    lab.until(lambda: path in lab.noticed(), "a new file")


def test_a_root_deleted_and_made_again_at_once_is_watched_again(lab: Lab, root: bytes) -> None:
    for number in range(3):
        os.rmdir(root)
        os.mkdir(root)
        before = lab.generation()
        lab.until(lambda before=before: lab.generation() > before and lab.is_idle(), "observer")  # type: ignore[misc]
        path = write(root + b"/%d" % number)
        lab.until(lambda path=path: path in lab.noticed(), "a new file")  # type: ignore[misc]
        os.unlink(path)


def test_a_root_swapped_for_another_is_noticed(lab: Lab, root: bytes, place: bytes) -> None:
    os.rename(root, place + b"/away")
    os.mkdir(root)
    path = write(root + b"/new")
    returned = RootReturned(root, changed=True, first=False)
    lab.until(lambda: returned in lab.events, "the change")
    lab.sees(path)
    lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "a new observer")
    lab.clear()
    late = write(root + b"/late")
    lab.until(lambda: late in lab.noticed(), "a later file")


def test_a_missing_root_is_never_compared(lab: Lab, root: bytes, place: bytes) -> None:
    os.rename(root, place + b"/away")
    lab.until(lambda: lab.of(RootLost), "its loss")
    lab.until(lab.is_idle, "the scans")
    lab.clear()
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone), "the scan")
    (done,) = lab.of(ScanDone)
    assert isinstance(done, ScanDone)
    assert (done.complete, done.vanished, done.offline) == (False, False, (root,))
    assert not lab.listings


def test_a_root_missing_at_the_start_is_watched_when_it_appears(
    root: bytes, watching: Callable[..., Lab]
) -> None:
    os.rmdir(root)
    lab = watching(WatchedRoot(root, True, hidden))
    os.mkdir(root)
    write(root + b"/early")
    lab.until(lambda: lab.status().state == "watching", "its watches")
    lab.sees(root + b"/early")
    path = write(root + b"/late")
    lab.until(lambda: path in lab.noticed(), "a later file")


def test_a_root_that_was_not_looked_for_yet_is_waited_for(
    root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run --once` would end at once, taking it for a root that is away."""
    go_on = threading.Event()
    monkeypatch.setattr(roots, "filesystem_of", lambda real: go_on.wait(20) and filesystem_of(real))
    lab = Lab(WatchedRoot(root, True, hidden))
    lab.watch.start()
    assert lab.status().state == "offline"
    assert not lab.watch.has_looked()
    go_on.set()
    lab.until(lab.watch.has_looked, "it was looked for")
    assert lab.status().state != "offline"
    lab.watch.stop()


def test_another_folder_in_the_roots_place_deletes_nothing_until_it_holds_known_files(
    lab: Lab, root: bytes, place: bytes
) -> None:
    lab.known.add(root + b"/known")
    os.rename(root, place + b"/away")
    os.mkdir(root)
    lab.until(lambda: lab.listings, "the scan of the empty folder")
    lab.until(lab.is_idle, "the scans")
    assert not any(listing.complete for listing in lab.listings)
    lab.clear()
    write(root + b"/known")
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone) and lab.is_idle(), "the scan")
    assert [listing.complete for listing in lab.listings][:2] == [False, True]


def test_a_root_known_from_before_the_start_is_recognised(
    root: bytes, watching: Callable[..., Lab]
) -> None:
    status = os.stat(root)
    for known, trusted in (((status.st_dev, status.st_ino), True), ((1, 1), False)):
        lab = Lab(WatchedRoot(root, True, hidden, known=known))
        lab.watch.start()
        lab.until(lab.is_settled, "the first scan")
        assert {listing.complete for listing in lab.listings} == {trusted}
        assert lab.status().identity == (status.st_dev, status.st_ino)
        lab.watch.stop()


def test_a_root_that_is_a_link_is_watched_under_its_own_name(
    place: bytes, watching: Callable[..., Lab]
) -> None:
    link = place + b"/link"
    os.symlink(place + b"/root", link)
    lab = watching(WatchedRoot(link, True, hidden))
    os.mkdir(place + b"/root/sub")
    write(place + b"/root/f")
    lab.sees(link + b"/f")
    lab.sees(write(link + b"/sub/g"))
    os.unlink(link)
    os.symlink(place + b"/out", link)
    lab.until(lambda: RootReturned(link, True, False) in lab.events, "the new target")
    lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "a new observer")
    lab.clear()
    write(place + b"/out/h")
    lab.until(lambda: link + b"/h" in lab.noticed(), "a file in the new target")


def test_a_root_that_hangs_freezes_only_itself(
    place: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, fine = place + b"/root", place + b"/out"
    let_go = threading.Event()
    lab = Lab(WatchedRoot(hung, True, hidden), WatchedRoot(fine, True, hidden))
    lab.start()
    monkeypatch.setattr(watch, "_SILENT", 0.3)

    list_it = scan.Walk._list

    def hang(walk: scan.Walk, level: scan._Level) -> None:
        if walk.absolute(b"") == hung:
            let_go.wait(20)
        list_it(walk, level)

    monkeypatch.setattr(scan.Walk, "_list", hang)
    lab.watch.scan(hung)
    lab.until(lambda: lab.status().state == "offline", "it is called offline")
    assert "not answered" in (lab.status().reason or "")
    lab.watch.scan(fine)
    lab.until(lambda: any(isinstance(e, ScanDone) and e.root == fine for e in lab.events), "scan")
    assert lab.watch.status()[1].state == "watching"
    let_go.set()
    lab.until(lambda: lab.status().state == "watching", "it answers again")
    lab.watch.stop()


def test_a_root_that_hung_is_polled_again_as_soon_as_any_other(
    root: bytes, watching: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long scan leaves the disk alone for four times as long; a hang is no work."""
    monkeypatch.setattr(roots, "_STALL", 0.2)
    lab = watching(WatchedRoot(root, True, hidden, observer="polling", poll_every=0.2))
    list_it = scan.Walk._list
    hung: list[float] = []

    def hang(walk: scan.Walk, level: scan._Level) -> None:
        if not hung:
            hung.append(time.monotonic())
            threading.Event().wait(2)
        list_it(walk, level)

    monkeypatch.setattr(scan.Walk, "_list", hang)
    lab.until(lambda: hung and lab.is_idle(), "a scan that hung for 2 s")
    lab.clear()
    lab.until(lambda: lab.of(ScanDone), "the next", seconds=5)
    assert max(each.seconds for each in lab.events if isinstance(each, ScanDone)) < 1


@pytest.mark.parametrize("what", ["compare", "revision"])
def test_a_root_whose_comparison_takes_long_does_not_hang(
    lab: Lab, root: bytes, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The ledger's disk may be full, or the main loop busy."""
    monkeypatch.setattr(watch, "_HANGS", 0.2)
    comparing, let_go = threading.Event(), threading.Event()

    def wait() -> None:
        comparing.set()
        let_go.wait(20)

    setattr(lab, what, lambda *_: wait())
    lab.watch.scan(root)
    assert comparing.wait(20)
    began = time.monotonic()
    lab.until(lambda: time.monotonic() - began > 0.5, "a while")
    assert lab.watch.hanging() == frozenset()
    let_go.set()


def test_a_scan_of_a_large_folder_shows_signs_of_life(
    lab: Lab, root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly its file system answers, it does answer."""
    for number in range(500):
        write(root + b"/f%d" % number)
    signs = 0
    carry_on = roots.RootThread._carry_on

    def count(thread: roots.RootThread) -> bool:
        nonlocal signs
        signs += 1
        return carry_on(thread)

    monkeypatch.setattr(roots.RootThread, "_carry_on", count)
    lab.clear()
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone), "the scan")
    assert signs >= 10


# Scans


def test_a_listing_holds_regular_files_and_real_folders_only(lab: Lab, root: bytes) -> None:
    write(root + b"/file")
    os.mkdir(root + b"/folder")
    os.symlink(root + b"/folder", root + b"/link-to-folder")
    os.symlink(root + b"/file", root + b"/link-to-file")
    os.mkfifo(root + b"/fifo")
    write(root + b"/.hidden")
    lab.until(lambda: lab.is_idle() and lab.of(FolderNoticed), "the events")
    lab.clear()
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone), "the scan")
    top = lab.listings[0]
    status = os.stat(root + b"/file")
    assert top.files == {
        b"file": (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, 0)
    }
    assert top.subfolders == [b"folder"]
    assert [listing.folder for listing in lab.listings] == [root, root + b"/folder"]


def test_a_very_large_folder_comes_in_portions_that_leave_no_gap(
    lab: Lab, root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_PORTION", 10)
    names = sorted(b"%d" % number for number in range(95))
    for name in names:
        write(root + b"/" + name)
    os.mkdir(root + b"/sub")
    lab.watch.scan(root)
    lab.until(lab.is_idle, "the scan")
    lab.clear()
    lab.watch.scan(root)
    lab.until(lambda: lab.of(ScanDone), "the scan")
    portions = [listing for listing in lab.listings if listing.folder == root]
    assert [name for portion in portions for name in portion.files] == names
    assert [portion.after for portion in portions[1:]] == [
        portion.upto for portion in portions[:-1]
    ]
    assert (portions[0].after, portions[-1].upto) == (None, None)
    assert portions[0].subfolders == [b"sub"]
    assert {portion.subfolders is None for portion in portions[1:]} == {True}


def test_a_comparison_that_fails_leaves_the_scan_incomplete_but_alive(
    lab: Lab, root: bytes
) -> None:
    make_tree(root + b"/tree", folders=6)
    lab.until(lab.is_idle, "the scans")
    lab.clear()

    def fail(listing: Listing) -> None:
        if listing.folder == root:
            raise ValueError("invented")

    def answers() -> list[ScanDone]:
        scans = [event for event in lab.events if isinstance(event, ScanDone)]
        return [done for done in scans if asked in done.requests]

    lab.compare = fail
    asked = lab.watch.scan(root)
    lab.until(answers, "the scan")
    (done,) = answers()
    assert not done.complete
    assert done.folders > 6


def test_every_request_for_a_scan_is_answered_though_they_are_merged(lab: Lab, root: bytes) -> None:
    make_tree(root + b"/tree", folders=6)
    lab.until(lab.is_idle, "the scans")
    lab.clear()
    asked = {lab.watch.scan(root, root + b"/tree/a0") for _ in range(50)}
    asked |= {lab.watch.scan(root, root + b"/tree/a0/b0") for _ in range(50)}
    asked |= {lab.watch.scan(root) for _ in range(50)}
    assert asked <= lab.watch.outstanding()
    lab.until(lab.is_idle, "the scans")
    done = [event for event in lab.events if isinstance(event, ScanDone)]
    assert asked <= {request for event in done for request in event.requests}
    assert len(done) < 10


def test_a_scan_of_a_folder_that_is_not_there_says_so(lab: Lab, root: bytes) -> None:
    request = lab.watch.scan(root, root + b"/nowhere/deep")
    lab.until(lambda: lab.of(ScanDone), "the scan")
    (done,) = lab.of(ScanDone)
    assert isinstance(done, ScanDone)
    assert (done.requests, done.vanished, done.folders) == ((request,), True, 0)


def test_a_scan_does_not_go_through_a_link(lab: Lab, root: bytes, place: bytes) -> None:
    write(place + b"/out/secret")
    os.symlink(place + b"/out", root + b"/link")
    lab.watch.scan(root, root + b"/link")
    lab.until(lambda: lab.of(ScanDone), "the scan")
    assert not any(name == b"secret" for listing in lab.listings for name in listing.files)


def test_every_root_is_reconciled_now_and_then(root: bytes, watching: Callable[..., Lab]) -> None:
    lab = Lab()
    lab.watch = Watch(
        [WatchedRoot(root, True, hidden)],
        Reference(lab._compare),
        lambda: None,
        reconcile_every=0.3,
    )
    lab.start()
    lab.until(lambda: len(lab.of(ScanDone)) >= 3, "three scans")
    lab.watch.stop()


# Echoes


def test_an_echo_comes_after_everything_before_it(
    root: bytes, place: bytes, watching: Callable[..., Lab]
) -> None:
    cookies = place + b"/cookies"
    os.mkdir(cookies)
    lab = watching(WatchedRoot(root, True, hidden), cookies=cookies)
    for number in range(20):
        lab.clear()
        folder = root + b"/d%d" % number
        os.makedirs(folder + b"/deep")
        path = write(folder + b"/deep/f")
        os.rename(folder, place + b"/out/d%d" % number)
        os.rename(place + b"/out/d%d" % number, folder)
        cookie = b"c%d" % number
        write(cookies + b"/" + cookie)
        lab.until(lambda cookie=cookie: Echo(cookie) in lab.events, "echo")  # type: ignore[misc]
        waiting = lab.watch.outstanding()
        lab.until(lambda waiting=waiting: not waiting & lab.watch.outstanding(), "scans")  # type: ignore[misc]
        assert path in lab.seen()
    assert not [path for path in lab.noticed() if path.startswith(cookies)]


# Polling, and what cannot be watched


def test_a_polling_root_is_scanned_and_costs_no_watch(
    root: bytes, watching: Callable[..., Lab]
) -> None:
    make_tree(root + b"/tree")
    lab = watching(WatchedRoot(root, True, hidden, observer="polling", poll_every=0.2))
    assert (lab.status().state, lab.status().reason) == ("polling", "as configured")
    assert lab.watch.watches_used() == 0
    lab.sees(write(root + b"/tree/a0/f"))
    assert not lab.noticed()


def test_network_and_fuse_file_systems_are_polled() -> None:
    for name in (b"nfs4", b"cifs", b"fuse.sshfs", b"fuseblk", b"9p", b"ceph", b"vboxsf"):
        assert makes_no_events(name)
    for name in (b"ext4", b"xfs", b"btrfs", b"tmpfs", b"overlay", b"zfs"):
        assert not makes_no_events(name)
    assert filesystem_of(b"/proc/self") == b"proc"


def test_a_root_with_more_folders_than_the_kernel_allows_watches_is_polled(
    root: bytes, place: bytes, watching: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(root + b"/tree")
    monkeypatch.setattr(keeper, "watches_limit", lambda: 30)
    small = WatchedRoot(place + b"/out", True, hidden)
    lab = Lab(WatchedRoot(root, True, hidden, poll_every=0.2), small)
    lab.watch.start()
    lab.until(lambda: lab.status().state == "degraded" and lab.status().last_scan, "a scan")
    assert "sysctl -w fs.inotify.max_user_watches=524288" in (lab.status().reason or "")
    lab.until(lambda: lab.watch.status()[1].state == "watching", "the other root")
    assert lab.watch.watches_used() == 1
    lab.sees(write(root + b"/tree/a0/f"))
    monkeypatch.undo()
    lab.until(lambda: lab.status().state == "watching", "its recovery")
    assert lab.watch.watches_used() == 42
    lab.watch.stop()


def run_elsewhere(scenario: str, *wrapper: str) -> None:
    """Runs a function of this module in another process, under `wrapper` (unshare ...)."""
    program = f"from tests import test_watch; test_watch.{scenario}()"
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "daemon"), *filter(None, sys.path)])
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def needs(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"{' '.join(command)}: {tried.stderr.strip()}")


@contextlib.contextmanager
def elsewhere() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory(prefix="watch-") as place:
        os.mkdir(place + "/root")
        yield os.fsencode(place)


LIMIT = Path("/proc/sys/user/max_inotify_watches")


def scenario_watch_limit() -> None:
    with elsewhere() as place:
        root = place + b"/root"
        for number in range(50):
            os.mkdir(root + b"/d%d" % number)
        LIMIT.write_text("20")
        lab = Lab(WatchedRoot(root, True, hidden, poll_every=0.2))
        lab.watch.start()
        lab.until(lambda: lab.status().state == "degraded" and lab.status().last_scan, "a scan")
        assert "sysctl -w user.max_inotify_watches=" in (lab.status().reason or "")
        lab.sees(*(write(root + b"/d%d/f" % number) for number in range(50)))
        LIMIT.write_text("10000")
        lab.until(lambda: lab.status().state == "watching" and lab.is_idle(), "recovery")
        lab.clear()
        late = {write(root + b"/d%d/late" % number) for number in range(50)}
        lab.until(lambda: late <= lab.noticed(), "files in all folders")
        lab.watch.stop()


def test_at_the_kernels_limit_a_root_is_polled_and_recovers() -> None:
    needs("unshare", "-U", "-r")
    run_elsewhere("scenario_watch_limit", "unshare", "-U", "-r")


def scenario_unreadable() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    with elsewhere() as place:
        root = place + b"/root"
        os.makedirs(root + b"/closed/sub")
        write(root + b"/closed/f")
        os.chmod(root + b"/closed", 0)
        lab = Lab(WatchedRoot(root, True, hidden, poll_every=0.2))
        lab.watch.start()
        lab.until(lambda: lab.status().state == "degraded" and lab.status().last_scan, "a scan")
        lab.until(lambda: "cannot read" in (lab.status().reason or ""), "the reason")
        top = next(listing for listing in lab.listings if listing.folder == root)
        assert top.subfolders == [b"closed"], "what cannot be read is not gone"
        assert not any(listing.folder == root + b"/closed" for listing in lab.listings)
        lab.sees(write(root + b"/open"))
        os.chmod(root + b"/closed", 0o700)
        lab.sees(root + b"/closed/f")
        lab.until(lambda: lab.status().state == "watching" and lab.is_idle(), "recovery")
        lab.clear()
        late = write(root + b"/closed/sub/late")
        lab.until(lambda: late in lab.noticed(), "a file in it")
        lab.watch.stop()


def test_a_folder_that_cannot_be_read_is_reported_and_watched_once_it_can() -> None:
    run_elsewhere("scenario_unreadable")


def mount(*arguments: bytes) -> None:
    done = subprocess.run([b"mount", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        print(f"mount: {done.stderr.decode().strip()}")
        sys.exit(77)


def umount(point: bytes) -> None:
    subprocess.run(["umount", point], check=True)


def scenario_mount_below() -> None:
    with elsewhere() as place:
        root, disk = place + b"/root", place + b"/root/disk"
        os.makedirs(disk)
        mount(b"-t", b"tmpfs", b"none", disk)
        lab = Lab(WatchedRoot(root, True, hidden)).start()
        lab.known.add(write(disk + b"/known"))
        os.mkdir(disk + b"/sub")
        lab.until(lambda: lab.of(FolderNoticed), "the folder")
        lab.watch.scan(root)
        lab.until(lab.is_idle, "the scans")
        assert not any(listing.stranger for listing in lab.listings), "nobody else was known there"
        lab.clear()
        umount(disk)
        lab.until(lambda: lab.of(Suspicion, RootReturned), "the suspicion")
        lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "a new observer")
        lab.clear()
        lab.watch.scan(root)
        lab.until(lambda: lab.of(ScanDone), "the scan")
        (done,) = lab.of(ScanDone)
        assert isinstance(done, ScanDone)
        assert done.offline == (disk,)
        assert not done.complete
        assert [(listing.folder, listing.subfolders) for listing in lab.listings] == [
            (root, [b"disk"])
        ]
        os.rmdir(disk)
        os.mkdir(place + b"/other")  # takes the device number that became free
        mount(b"-t", b"tmpfs", b"none", place + b"/other")
        lab.clear()
        lab.watch.scan(root)
        lab.until(lambda: lab.of(ScanDone), "the scan")
        assert lab.listings[0].subfolders == [b"disk"], "an absent disk is not a deleted folder"
        lab.clear()
        before = lab.generation()
        os.mkdir(disk)
        mount(b"-t", b"tmpfs", b"none", disk)
        write(disk + b"/known")
        lab.until(lambda: lab.of(RootReturned), "its return")
        lab.sees(disk + b"/known")
        lab.until(lambda: lab.is_idle() and lab.generation() > before, "its watches")
        inside = [listing for listing in lab.listings if listing.folder == disk]
        assert (inside[0].complete, inside[0].stranger) == (False, True)
        assert (inside[-1].complete, inside[-1].stranger) == (True, False)
        late = write(disk + b"/late")
        lab.until(lambda: late in lab.noticed(), "a file on the disk")
        lab.watch.stop()
        umount(disk)
        umount(place + b"/other")


def test_a_disk_unmounted_below_a_root_is_offline_and_not_deleted() -> None:
    needs("unshare", "-U", "-r", "-m")
    run_elsewhere("scenario_mount_below", "unshare", "-U", "-r", "-m")


def scenario_mounted_over() -> None:
    with elsewhere() as place:
        root = place + b"/root"
        lab = Lab(WatchedRoot(root, True, hidden)).start()
        mount(b"-t", b"tmpfs", b"none", root)
        lab.until(lambda: RootReturned(root, True, False) in lab.events, "the new root")
        lab.until(lambda: lab.generation() > 1 and lab.is_idle(), "a new observer")
        lab.clear()
        path = write(root + b"/f")
        lab.until(lambda: path in lab.noticed(), "a file in it")
        umount(root)
        lab.until(lambda: lab.generation() > 2, "a new observer")
        lab.watch.stop()


def test_a_root_mounted_over_is_watched_as_the_new_one() -> None:
    needs("unshare", "-U", "-r", "-m")
    run_elsewhere("scenario_mounted_over", "unshare", "-U", "-r", "-m")


def test_warnings_as_errors_do_not_kill_the_reader() -> None:
    program = textwrap.dedent("""
        import os, subprocess
        from tests import test_watch as t
        with t.elsewhere() as place:
            lab = t.Lab(t.WatchedRoot(place + b"/root", True, t.hidden)).start()
            t.make_tree(place + b"/tree")
            for number in range(5):
                subprocess.run(["cp", "-r", place + b"/tree", place + b"/root/%d" % number])
            lab.sees(*t.files_below(place + b"/root"))
            assert not lab.of(t.Suspicion), lab.of(t.Suspicion)
            lab.watch.stop()
    """)
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "daemon"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr

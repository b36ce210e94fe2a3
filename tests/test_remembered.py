"""What a reconcile neither lists nor compares again: every change is seen that this would show."""

from __future__ import annotations

import os
import queue
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dropmill.watch import remembered
from dropmill.watch.listing import Compared, Listing, Reference, WatchedRoot
from dropmill.watch.remembered import TO_COMPARE, Held, Remembered, can_remember
from dropmill.watch.roots import RootThread, ScanDone, filesystem_of
from dropmill.watch.scan import Walk

from .polling import eventually

FOLDERS = 4  # that a scanner's root has, with itself
QUIET = 0.05  # seconds; more than the tick of a kernel's clock


@pytest.fixture(autouse=True)
def soon_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_QUIET_NS", int(QUIET * 1e9))


class Scanner:
    """Walks a root, and counts what is listed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = root
        self.listed = 0
        self._root = WatchedRoot(os.fsencode(root), True, lambda relative, is_folder: False)
        status = root.stat()
        self.identities = {b"": (status.st_dev, status.st_ino)}
        self._remembered = Remembered()
        scandir = os.scandir

        def counted(folder: int) -> object:
            self.listed += 1
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", counted)

    def seen(self, *, thorough: bool) -> dict[str, tuple[object, ...]]:
        """Relative path → mark of every file, and of each folder what it holds."""
        found: dict[str, tuple[object, ...]] = {}

        def gather(listing: Listing) -> Compared:
            folder = os.path.relpath(listing.folder, self._root.path)
            found[os.fsdecode(folder)] = tuple(sorted(listing.subfolders or ()))
            for name, mark in listing.files.items():
                found[os.path.join(os.fsdecode(folder), os.fsdecode(name))] = mark
            return Compared(any_known=True)

        kept = Remembered() if thorough else self._remembered
        self.walk(Reference(gather), kept, thorough=thorough)
        return found

    def walk(
        self,
        reference: Reference,
        kept: Remembered,
        *,
        thorough: bool,
        carry_on: Callable[[], bool] = lambda: True,
    ) -> None:
        walk = Walk(self._root, self.identities, reference, carry_on, kept, thorough=thorough)
        walk.run(b"")
        assert walk.complete
        kept.walked(whole=True)

    def learn(self) -> None:
        """Remembers all that is there, once it was quiet for long enough."""
        eventually(self._lists_nothing, seconds=10, what="every folder is remembered")

    def _lists_nothing(self) -> bool:
        self.listed = 0
        self.seen(thorough=False)
        return not self.listed


@pytest.fixture
def scanner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scanner:
    root = tmp_path / "root"
    for folder in ("", "a", "a/b", "c"):
        (root / folder).mkdir()
        (root / folder / "note.txt").write_text(folder)
    return Scanner(root, monkeypatch)


def swap_file_for_a_link(root: Path) -> None:
    (root / "c/note.txt").unlink()
    (root / "c/note.txt").symlink_to(root / "a/note.txt")


def swap_for_a_link(root: Path) -> None:
    (root / "c").rename(root.parent / "elsewhere")
    (root / "c").symlink_to(root.parent / "elsewhere")


def swap_for_another(root: Path) -> None:
    (root / "c").rename(root.parent / "elsewhere")
    shutil.copytree(root.parent / "elsewhere", root / "c")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file comes": lambda root: (root / "c/new.txt").write_text("new"),
    "a file goes": lambda root: (root / "c/note.txt").unlink(),
    "a file is renamed": lambda root: (root / "c/note.txt").rename(root / "c/other.txt"),
    "a file is replaced": lambda root: os.replace(root / "a/note.txt", root / "c/note.txt"),
    "a file is written in place": lambda root: (root / "c/note.txt").write_text("longer than it"),
    "a file becomes a link": swap_file_for_a_link,
    "a folder comes": lambda root: (root / "c/d").mkdir(),
    "a folder goes": lambda root: shutil.rmtree(root / "c"),
    "a folder is renamed": lambda root: (root / "a/b").rename(root / "c/b"),
    "a folder becomes a link": swap_for_a_link,
    "a folder becomes another": swap_for_another,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_without_listing_all_again(
    scanner: Scanner, change: Callable[[Path], object]
) -> None:
    scanner.learn()
    change(scanner.path)
    scanner.listed = 0
    assert scanner.seen(thorough=False) == scanner.seen(thorough=True)


def test_a_date_set_back_hides_nothing(scanner: Scanner) -> None:
    """As rsync and tar do, when they have put the last file into a folder."""
    scanner.learn()
    before = (scanner.path / "c").stat()
    (scanner.path / "c/new.txt").write_text("new")
    os.utime(scanner.path / "c", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "c/new.txt" in scanner.seen(thorough=False)


def test_what_just_changed_is_not_remembered(scanner: Scanner) -> None:
    """What comes in the same tick of the clock would leave no trace."""
    scanner.learn()
    status = (scanner.path / "c").stat()
    kept = Remembered()
    kept.keep(b"c", status, status.st_ctime_ns + 1, Held([b"note.txt"], []))
    kept.walked(whole=True)
    assert kept.recall(b"c", status) is None
    kept.keep(b"c", status, time.time_ns(), Held([b"note.txt"], []))
    kept.walked(whole=True)
    assert kept.recall(b"c", status) == Held([b"note.txt"], [], place=0)


def test_a_large_folder_is_listed_again(scanner: Scanner) -> None:
    scanner.learn()
    status = (scanner.path / "c").stat()
    kept = Remembered()
    kept.keep(b"c", status, time.time_ns(), Held([b"%d" % number for number in range(10_000)], []))
    kept.walked(whole=True)
    assert kept.recall(b"c", status) is None


def test_a_folder_that_is_gone_is_forgotten(scanner: Scanner) -> None:
    scanner.learn()
    status = (scanner.path / "c").stat()
    kept = Remembered()
    kept.keep(b"c", status, time.time_ns(), Held([], [b"sub"]))
    kept.walked(whole=True)
    kept.walked(whole=False)  # one that did not come by there
    assert kept.recall(b"c", status) == Held([], [b"sub"], place=0)
    kept.walked(whole=True)
    kept.walked(whole=True)
    assert kept.recall(b"c", status) is None


def test_a_folder_on_another_disk_is_listed_every_time(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mounted below a root may be no file system of this machine."""
    mounted, stat, fstat = (scanner.path / "c").stat().st_ino, os.stat, os.fstat

    def elsewhere(found: os.stat_result) -> os.stat_result:
        if found.st_ino != mounted:
            return found
        fields = list(found)
        fields[2] += 1  # st_dev
        return os.stat_result(fields, {"st_ctime_ns": found.st_ctime_ns})

    scanner.learn()
    monkeypatch.setattr(os, "stat", lambda *where, **how: elsewhere(stat(*where, **how)))
    monkeypatch.setattr(os, "fstat", lambda descriptor: elsewhere(fstat(descriptor)))
    for _ in range(3):
        scanner.listed = 0
        scanner.seen(thorough=False)
        assert scanner.listed


def change_anything(root: Path, chance: random.Random, turn: int) -> None:
    folders = [root, *(each for each in root.rglob("*") if each.is_dir())]
    folder = chance.choice(folders)
    inside = sorted(folder.iterdir())
    what = chance.randrange(4)
    if what == 0 or not inside:
        (folder / f"file-{turn}").write_text("x" * chance.randrange(9))
    elif what == 1:
        (folder / f"folder-{turn}").mkdir()
    elif what == 2 and len(folders) > 2:
        chosen = chance.choice(inside)
        shutil.rmtree(chosen) if chosen.is_dir() else chosen.unlink()
    else:
        chance.choice(inside).rename(root / f"moved-{turn}")


def test_any_changes_are_seen(scanner: Scanner) -> None:
    chance = random.Random(7)
    for turn in range(60):
        if not turn % 4:
            scanner.learn()
        change_anything(scanner.path, chance, turn)
        assert scanner.seen(thorough=False) == scanner.seen(thorough=True), f"turn {turn}"


def test_only_file_systems_of_this_machine_are_trusted() -> None:
    assert can_remember(b"ext4")
    assert not any(map(can_remember, (b"nfs4", b"fuse.sshfs", b"vfat", b"9p", b"")))


def test_only_a_routine_scan_trusts_what_it_remembers(scanner: Scanner) -> None:
    """One that is asked for, or waits together with one that is, lists everything."""
    done: queue.Queue[object] = queue.Queue()
    root = WatchedRoot(os.fsencode(scanner.path), True, lambda relative, is_folder: False)
    thread = RootThread(root, Reference(lambda listing: Compared(any_known=True)), done.put)
    if not can_remember(filesystem_of(os.path.realpath(root.path))):
        pytest.skip("the file system is none that is trusted")

    def listed(*, routine: bool) -> int:
        scanner.listed = 0
        thread.request(b"", 1, routine=routine)
        while not isinstance(done.get(timeout=20), ScanDone):
            pass
        return scanner.listed

    thread.start()
    try:
        eventually(lambda: listed(routine=True) == 0, seconds=10, what="all is remembered")
        assert listed(routine=False) == FOLDERS
        assert listed(routine=True) == 0
    finally:
        thread.stop()
        thread.join(20)
    thread.request(b"", 2, routine=True)
    thread.request(b"", 3)  # while that one waits
    thread._should_stop = False
    scanner.listed = 0
    thread._scan(b"", thread._waiting.pop(b""))
    assert scanner.listed == FOLDERS


class Books:
    """A reference in memory: what was last taken in of each folder, and who asked about it."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._kept = Remembered()
        self._numbers: dict[bytes, int] = {}
        self.files: dict[bytes, dict[bytes, object]] = {}
        self.written = 1

    def take_in(self) -> None:
        """Writes down all that is there."""
        found, _ = self.scan(Remembered(), thorough=True)
        self.files.update(found)
        self.written += 1

    def scan(
        self,
        kept: Remembered | None = None,
        *,
        thorough: bool = False,
        carry_on: Callable[[], bool] = lambda: True,
    ) -> tuple[dict[bytes, dict[bytes, object]], set[bytes]]:
        """Which folders differ from what is written, with their files; which were come to."""
        differing: dict[bytes, dict[bytes, object]] = {}
        met: set[int] = set()
        self.asked = 0

        def compare(listing: Listing) -> Compared:
            self.asked += 1
            number = self._numbers.setdefault(listing.folder, len(self._numbers))
            met.add(number)
            files: dict[bytes, object] = dict(listing.files)
            if files == self.files.get(listing.folder, {}):
                return Compared(bool(files), number)
            differing[listing.folder] = files
            return Compared(any_known=True)

        reference = Reference(compare, lambda same, walk: met.update(same), lambda: self.written)
        self._scanner.walk(reference, kept or self._kept, thorough=thorough, carry_on=carry_on)
        folders = list(self._numbers)
        return differing, {folders[number] for number in met}

    def learn(self) -> None:
        """Scans until nothing is compared any more."""

        def asks_nothing() -> bool:
            self.scan()
            return not self.asked

        eventually(asks_nothing, seconds=10, what="every folder is known to be the same")

    def shows_all(self) -> bool:
        """Whether a routine scan finds what a thorough one does."""
        return self.scan() == self.scan(Remembered(), thorough=True)


@pytest.fixture
def books(scanner: Scanner) -> Books:
    books = Books(scanner)
    books.take_in()
    return books


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_without_comparing_all_again(
    books: Books, scanner: Scanner, change: Callable[[Path], object]
) -> None:
    books.learn()
    change(scanner.path)
    assert books.shows_all()
    assert books.shows_all()  # the next time too


def test_any_changes_are_seen_without_comparing_all_again(books: Books, scanner: Scanner) -> None:
    """Whether or not they were taken in between."""
    chance = random.Random(11)
    for turn in range(60):
        if chance.randrange(3):
            books.take_in()
            if not chance.randrange(3):
                books.learn()
        change_anything(scanner.path, chance, turn)
        assert books.shows_all(), f"turn {turn}"


def test_all_is_compared_again_when_the_reference_was_written_to(books: Books) -> None:
    books.learn()
    folder = next(iter(books.files))
    del books.files[folder]
    books.written += 1
    differing, _ = books.scan()
    assert list(differing) == [folder]
    assert books.asked == FOLDERS
    differing, _ = books.scan()  # which differs still, and it alone is asked about
    assert list(differing) == [folder]
    assert books.asked == 1


def test_what_differed_is_not_taken_for_the_same_when_it_was_written_to(books: Books) -> None:
    """Not even where the files are what they once were when they were the same."""
    books.learn()
    folder, files = next(iter(books.files.items()))
    books.files[folder] = {}
    books.written += 1
    books.scan()
    books.scan()
    books.files[folder] = {b"another": 1}
    differing, _ = books.scan()
    assert list(differing) == [folder]
    books.files[folder] = files
    books.written += 1
    assert books.scan()[0] == {}


def test_a_scan_of_one_folder_says_nothing_of_the_others(scanner: Scanner) -> None:
    """What it compared was compared with what is written by now, the others were not."""
    status = {name: (scanner.path / name).stat() for name in ("a", "c")}
    kept = Remembered()
    kept.begin("first")
    places = {}
    for name, each in status.items():
        held = kept.keep(name.encode(), each, time.time_ns() + 10**9, Held([b"note.txt"], []))
        places[name] = held.place
        kept.compared(held.place, same=1, marks=())
    kept.walked(whole=True)

    def same_in(name: str, revision: str) -> int:
        kept.begin(revision)
        held = kept.recall(name.encode(), status[name])
        assert held is not None
        return held.same

    assert [same_in(name, "first") for name in ("a", "c")] == [1, 1]
    assert same_in("a", "second") == TO_COMPARE
    kept.compared(places["a"], same=1, marks=())
    kept.walked(whole=False)
    assert [same_in(name, "second") for name in ("a", "c")] == [1, TO_COMPARE]


def test_folders_that_come_and_go_take_no_more_and_more_room(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "_MOST_UNUSED", 100)
    status, kept = (scanner.path / "c").stat(), Remembered()
    places = []
    for number in range(1_000):
        name, now = b"%d" % number, time.time_ns() + 10**9
        places.append(kept.keep(name, status, now, Held([b"note.txt"], [])).place)
        kept.walked(whole=True)
    assert max(places) < 110
    assert kept.keep(b"999", status, now, Held([b"note.txt"], [])).place == places[-1]


def test_nothing_in_the_place_of_the_root_is_taken_for_the_same(
    books: Books, scanner: Scanner
) -> None:
    books.learn()
    device, inode = scanner.identities[b""]
    scanner.identities[b""] = device, inode + 1
    books.scan()
    assert books.asked == FOLDERS  # and once more, when it was adopted, nothing


def test_that_the_disk_answers_is_said_every_few_files(
    scanner: Scanner, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slow one would pass for one that hangs."""
    for folder in range(20):
        (scanner.path / f"{folder}").mkdir()
        for name in range(60):
            (scanner.path / f"{folder}/{name}").touch()
    books.take_in()
    books.learn()
    looks, most, stat = 0, 0, os.stat

    def counted(*where: Any, **how: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return stat(*where, **how)

    def carry_on() -> bool:
        nonlocal looks, most
        most, looks = max(most, looks), 0
        return True

    monkeypatch.setattr(os, "stat", counted)
    books.scan(carry_on=carry_on)
    assert books.asked == 0
    assert 0 < most < 200


def test_all_is_compared_where_it_is_not_known_what_was(scanner: Scanner) -> None:
    def fails() -> object:
        raise OSError("no more descriptors")

    listed: list[bytes] = []

    def compare(listing: Listing) -> Compared:
        listed.append(listing.folder)
        return Compared(any_known=True, same=1)

    scanner.learn()
    kept = Remembered()
    for _ in range(3):
        listed.clear()
        scanner.walk(Reference(compare, revision=fails), kept, thorough=False)
        assert len(listed) == FOLDERS

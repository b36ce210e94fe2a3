"""From a notice to a ledger row: nothing is lost on the way, and what is gone is gone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import apsw
import pytest

from dropmill.config.settings import Config
from dropmill.errors import MachineFault
from dropmill.intake import Intake, _mark
from dropmill.job import Kind, Lane, State
from dropmill.rules import Rules
from dropmill.source import fingerprint
from dropmill.store.schema import FILE_NAME
from dropmill.watch import remembered
from dropmill.watch.listing import Compared, Listing, Reference, WatchedRoot
from dropmill.watch.remembered import Remembered
from dropmill.watch.scan import Walk

from .ledgers import MadeState
from .polling import eventually


class Watched:
    """A watched folder with its intake."""

    def __init__(self, folder: bytes, **more: object) -> None:
        self.root = folder + b"/inbox"
        os.mkdir(self.root)
        self.state = MadeState(folder + b"/state")
        root = {"path": os.fsdecode(self.root), "settle": "20ms", "settle_max": "200ms", **more}
        config = Config.model_validate({"state": os.fsdecode(folder + b"/state"), "watch": [root]})
        self.rules = Rules(config)
        status = os.stat(self.root)
        self.rules.root_is(self.root, (status.st_dev, status.st_ino))
        self.woken = 0
        self.intake = Intake(self.state.folder, self.rules, self.state.ledger, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def close(self) -> None:
        self.intake.close()
        self.state.close()

    def write(self, name: bytes, content: bytes = b"words\n", age: float = 0) -> bytes:
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        if age:
            os.utime(path, (time.time() - age, time.time() - age))
        return path

    def notice(self, path: bytes, *, moved: bool = False, gone: bool = False) -> None:
        self.intake.noticed(self.root, path, moved=moved, gone=gone)

    def scan(self, folder: bytes | None = None, *, complete: bool = True, walk: int = 0) -> bool:
        """What the scan thread does with one folder."""
        folder = folder or self.root
        device = os.stat(self.root).st_dev
        with os.scandir(folder) as entries:
            files = {
                entry.name: _mark(fingerprint(entry.stat(follow_symlinks=False)), device)
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            }
        listing = Listing(self.root, folder, files, None, complete, None, None, False, device, walk)
        return self.intake.compare(listing).any_known

    def state_of(self, path: bytes) -> State | None:
        file = self.state.ledger.find(path)
        if file is None:
            return None
        return State(self.state.ledger.one("SELECT state FROM files WHERE id = ?", (file,))[0])

    def lane_of(self, path: bytes) -> Lane:
        row = self.state.ledger.row(self.state.ledger.find(path) or 0)
        assert row is not None
        return row.lane

    def becomes(self, path: bytes, state: State | None) -> None:
        def is_so() -> bool:
            self.intake.admit()
            return self.state_of(path) is state

        eventually(is_so, seconds=5, what=f"{path!r} {state}")

    def comes_to_rest(self) -> None:
        def is_at_rest() -> bool:
            self.intake.admit()
            return not self.intake.waiting()

        eventually(is_at_rest, seconds=5, what="rest")
        self.intake.admit()


@pytest.fixture
def watched(folder: bytes) -> Iterator[Watched]:
    made = Watched(folder)
    yield made
    made.close()


# ---- events ------------------------------------------------------------------------------------


def test_a_file_written_in_place_is_admitted_when_it_is_quiet(watched: Watched) -> None:
    path = watched.write(b"a.txt")
    watched.notice(path)
    watched.intake.admit()
    assert watched.state_of(path) is None
    watched.becomes(path, State.QUEUED)
    assert watched.lane_of(path) is Lane.FRESH


def test_a_file_renamed_into_place_is_admitted_at_once(watched: Watched) -> None:
    path = watched.write(b"a.txt")
    watched.notice(path, moved=True)
    watched.intake.admit()
    assert watched.state_of(path) is State.QUEUED


def test_what_the_rules_leave_out_is_not_admitted(watched: Watched) -> None:
    for name in (b"a.part", b".hidden", b"~lock"):
        watched.notice(watched.write(name), moved=True)
    watched.comes_to_rest()
    assert watched.state.ledger.counts() == {}


def test_a_file_that_goes_away_while_it_settles_is_no_row(watched: Watched) -> None:
    path = watched.write(b"a.txt")
    watched.notice(path)
    os.unlink(path)
    watched.comes_to_rest()
    assert watched.state_of(path) is None


def test_a_file_that_went_away_is_gone_and_one_that_is_back_is_not(watched: Watched) -> None:
    path = watched.root + b"/a.txt"
    watched.state.done(path)
    watched.notice(path, gone=True)  # an event that came late: it is there
    watched.intake.admit()
    assert watched.state_of(path) is State.DONE
    os.unlink(path)
    watched.notice(path, gone=True)
    watched.intake.admit()
    assert watched.state_of(path) is State.GONE


def test_images_and_texts_are_told_apart_by_their_names(watched: Watched) -> None:
    for name, kind in ((b"a.JPG", Kind.IMAGE), (b"README", Kind.TEXT), (b"app.log.1", Kind.TEXT)):
        path = watched.write(name)
        watched.notice(path, moved=True)
        watched.intake.admit()
        row = watched.state.ledger.row(watched.state.ledger.find(path) or 0)
        assert row is not None
        assert row.kind is kind


# ---- scans -------------------------------------------------------------------------------------


def test_a_scan_finds_what_no_event_told(watched: Watched) -> None:
    old, new = watched.write(b"old", age=60), watched.write(b"new")
    assert not watched.scan()
    watched.intake.admit()
    assert watched.state_of(old) is State.QUEUED
    assert watched.lane_of(old) is Lane.BACKLOG
    assert watched.state_of(new) is None
    watched.becomes(new, State.QUEUED)
    assert watched.woken


def test_a_scan_of_what_is_known_finds_nothing_to_do(watched: Watched) -> None:
    path = watched.write(b"a", age=60)
    watched.scan()
    watched.intake.admit()
    seq = watched.state.ledger.seq
    assert watched.scan()
    watched.comes_to_rest()
    assert watched.state.ledger.seq == seq
    assert watched.state_of(path) is State.QUEUED


def test_a_complete_scan_tells_what_is_gone_and_an_incomplete_one_does_not(
    watched: Watched,
) -> None:
    path = watched.root + b"/a"
    watched.state.done(path)
    os.unlink(path)
    watched.scan(complete=False)
    watched.intake.admit()
    assert watched.state_of(path) is State.DONE
    watched.scan()
    watched.intake.admit()
    assert watched.state_of(path) is State.GONE


def test_a_folder_that_went_away_takes_all_below_it_with_it(watched: Watched) -> None:
    paths = [watched.root + name for name in (b"/d/a", b"/d/e/b", b"/d-c", b"/de/c")]
    for path in paths:
        watched.state.done(path)
    shutil.rmtree(watched.root + b"/d")
    watched.intake.folder_gone(watched.root + b"/d")
    watched.intake.admit()
    states = [watched.state_of(path) for path in paths]
    assert states == [State.GONE, State.GONE, State.DONE, State.DONE]


def test_a_whole_scan_notices_folders_that_it_did_not_meet(watched: Watched) -> None:
    path = watched.root + b"/d/e/a"
    watched.state.done(path)
    shutil.rmtree(watched.root + b"/d")
    watched.intake.check_folders_below(watched.root)
    watched.intake.admit()
    assert watched.state_of(path) is State.GONE


def test_a_whole_scan_does_not_ask_again_for_folders_that_it_met(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"/d/a", b"/e/a"):
        watched.state.done(watched.root + name)
    asked: list[bytes] = []

    def is_real_folder(root: bytes, folder: bytes) -> bool:
        asked.append(folder)
        return True

    monkeypatch.setattr("dropmill.intake._is_real_folder", is_real_folder)
    watched.scan(watched.root + b"/d", walk=7)
    watched.intake.check_folders_below(watched.root, walk=7)
    assert asked == [watched.root + b"/e"]
    watched.intake.check_folders_below(watched.root, walk=8)
    assert asked[1:] == [watched.root + b"/d", watched.root + b"/e"]


class Reconciled:
    """A watched folder that is scanned as a routine, by walks that remember the last."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._kept = Remembered()
        self._compared: list[bytes] = []

    def scan(self) -> list[bytes]:
        """Which folders were compared with the ledger."""
        watched, intake = self._watched, self._watched.intake
        self._compared = []
        root = WatchedRoot(watched.root, True, lambda relative, is_folder: False)
        status = os.stat(watched.root)
        identities = {b"": (status.st_dev, status.st_ino)}
        reference = Reference(self._compare, intake.met, intake.revision)
        walk = Walk(root, identities, reference, lambda: True, self._kept, thorough=False)
        walk.run(b"")
        self._kept.walked(whole=walk.complete)
        intake.check_folders_below(watched.root, walk.number)
        intake.admit()
        return self._compared

    def _compare(self, listing: Listing) -> Compared:
        self._compared.append(listing.folder)
        return self._watched.intake.compare(listing)


@pytest.fixture
def reconciled(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> Reconciled:
    """All that is there is known to be the same."""
    monkeypatch.setattr(remembered, "_QUIET_NS", 50_000_000)
    for name in (b"a.txt", b"d/a.txt", b"e/a.txt", b"e/of-no-kind"):
        watched.write(name, age=60)
    reconciled = Reconciled(watched)
    eventually(lambda: not reconciled.scan(), seconds=10, what="all is known to be the same")
    return reconciled


def test_what_was_written_to_the_ledger_is_compared_again(
    watched: Watched, reconciled: Reconciled
) -> None:
    path = watched.root + b"/d/a.txt"
    assert watched.state_of(path) is State.QUEUED
    watched.state.ledger.absence.mark_gone([path])
    assert len(reconciled.scan()) == 3
    assert watched.state_of(path) is State.QUEUED
    reconciled.scan()
    assert reconciled.scan() == []


def test_a_change_is_compared_though_nothing_was_written(
    watched: Watched, reconciled: Reconciled
) -> None:
    path = watched.write(b"d/a.txt", b"more words\n", age=60)
    row = watched.state.ledger.row(watched.state.ledger.find(path) or 0)
    assert reconciled.scan() == [watched.root + b"/d"]
    again = watched.state.ledger.row(watched.state.ledger.find(path) or 0)
    assert row is not None and again is not None
    assert (row.fingerprint.size, again.fingerprint.size) == (6, 11)


def test_a_folder_that_goes_unnoticed_is_gone_where_the_others_are_the_same(
    watched: Watched, reconciled: Reconciled
) -> None:
    shutil.rmtree(watched.root + b"/d")
    assert reconciled.scan() == [watched.root]  # it holds a folder less
    states = [watched.state_of(watched.root + name) for name in (b"/d/a.txt", b"/e/a.txt")]
    assert states == [State.GONE, State.QUEUED]


# ---- links -------------------------------------------------------------------------------------


def swap_for_a_link(watched: Watched, folder: bytes) -> None:
    """A folder becomes a link to one outside that holds the same names."""
    outside = os.path.dirname(watched.root) + b"/outside"
    shutil.copytree(os.fsdecode(folder), os.fsdecode(outside))
    shutil.rmtree(folder)
    os.symlink(outside, folder)


def test_what_lies_behind_a_link_by_now_is_gone(watched: Watched) -> None:
    path = watched.root + b"/d/a"
    watched.state.done(path)
    swap_for_a_link(watched, watched.root + b"/d")
    watched.intake.check_folders_below(watched.root)
    watched.intake.admit()
    assert watched.state_of(path) is State.GONE


def test_a_queued_file_that_lies_behind_a_link_by_now_does_not_stay_queued(
    watched: Watched,
) -> None:
    """Its worker says that it vanished; `run --once` would wait for it for ever."""
    path = watched.write(b"d/a", age=60)
    watched.scan(watched.root + b"/d")
    watched.intake.admit()
    assert watched.state_of(path) is State.QUEUED
    swap_for_a_link(watched, watched.root + b"/d")
    watched.intake.look_again(path)
    watched.comes_to_rest()
    assert watched.state_of(path) is State.GONE


# ---- a root that is away -----------------------------------------------------------------------


@pytest.mark.parametrize("leaves_an_empty_one", [False, True])
def test_files_of_a_root_that_is_away_are_not_gone(
    watched: Watched, leaves_an_empty_one: bool
) -> None:
    done, settling = watched.root + b"/done", watched.write(b"settling")
    watched.state.done(done)
    watched.notice(settling)
    watched.notice(done)
    os.rename(watched.root, watched.root + b"-away")
    if leaves_an_empty_one:
        os.mkdir(watched.root)
    watched.intake.look_again(done)
    watched.comes_to_rest()
    assert watched.state_of(done) is State.DONE


# ---- a mount below a root that is away -----------------------------------------------------------


@pytest.fixture
def away(watched: Watched) -> bytes:
    """A file that was taken in from a mount below the root, which is not mounted now."""
    path = watched.root + b"/disk/d/a"
    watched.state.done(path)
    watched.state.ledger.connection.execute("UPDATE files SET device = 4711")
    shutil.rmtree(watched.root + b"/disk/d")
    return path


def test_a_settling_file_of_a_mount_that_is_away_is_not_gone(watched: Watched, away: bytes) -> None:
    watched.notice(away)
    watched.notice(away, gone=True)
    watched.intake.look_again(away)
    watched.comes_to_rest()
    assert watched.state_of(away) is State.DONE
    assert not watched.intake.is_gone(away)


@pytest.mark.parametrize("leaves_the_mount_point", [False, True])
def test_a_scan_forgets_nothing_of_a_mount_that_is_away(
    watched: Watched, away: bytes, leaves_the_mount_point: bool
) -> None:
    """Also one that it never saw mounted: the service was started without it."""
    top = watched.root + b"/disk/b"
    watched.state.done(top)
    watched.state.ledger.connection.execute("UPDATE files SET device = 4711")
    os.unlink(top)
    watched.scan(watched.root + b"/disk")
    if not leaves_the_mount_point:
        os.rmdir(watched.root + b"/disk")
    watched.intake.check_folders_below(watched.root)
    watched.intake.folder_gone(watched.root + b"/disk")
    watched.comes_to_rest()
    assert [watched.state_of(path) for path in (away, top)] == [State.DONE] * 2


def test_what_lay_on_the_root_itself_is_gone_beside_a_mount_that_is_away(
    watched: Watched, away: bytes
) -> None:
    beside = watched.root + b"/disk/beside"
    watched.state.done(beside)
    os.unlink(beside)
    watched.scan(watched.root + b"/disk")
    watched.comes_to_rest()
    assert watched.state_of(beside) is State.GONE
    assert watched.state_of(away) is State.DONE


# ---- when the machine fails --------------------------------------------------------------------


class locked:  # noqa: N801 - reads like a function where it is used
    """Somebody else holds results.db for longer than anyone waits."""

    def __init__(self, watched: Watched) -> None:
        watched.state.ledger.connection.set_busy_timeout(0)
        path = os.fsdecode(os.path.join(watched.state.folder, FILE_NAME))
        self._connection = apsw.Connection(path)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_files_that_could_not_be_admitted_for_now_are_admitted_later(watched: Watched) -> None:
    found, noticed = watched.write(b"found", age=60), watched.write(b"noticed")
    watched.scan()
    watched.notice(noticed, moved=True)
    with locked(watched), pytest.raises(MachineFault):
        watched.intake.admit()
    watched.becomes(found, State.QUEUED)
    watched.becomes(noticed, State.QUEUED)


def test_files_that_went_away_while_the_ledger_could_not_be_written_are_gone_later(
    watched: Watched,
) -> None:
    path = watched.root + b"/a"
    watched.state.done(path)
    os.unlink(path)
    watched.notice(path, gone=True)
    with locked(watched), pytest.raises(MachineFault):
        watched.intake.admit()
    watched.becomes(path, State.GONE)


# ---- how things stand --------------------------------------------------------------------------


def test_what_waits_is_counted_and_when_it_is_due_is_known(watched: Watched) -> None:
    assert watched.intake.waiting() == 0
    before = time.monotonic()
    path = watched.write(b"a")
    watched.notice(path)
    assert watched.intake.waiting() == 1
    assert watched.intake.waiting_since(time.monotonic())
    assert not watched.intake.waiting_since(before)
    due = watched.intake.due()
    assert due is not None
    assert before < due < before + 1
    watched.becomes(path, State.QUEUED)
    assert watched.intake.waiting() == 0
    watched.scan()
    watched.intake.admit()
    assert watched.intake.admitted == 1


def test_a_large_text_waits_for_itself_to_be_finished(watched: Watched) -> None:
    path = watched.write(b"a", b"x" * 100, age=60)
    row = watched.state.admit(path)
    watched.state.ledger.connection.execute("UPDATE files SET in_parts = 1 WHERE id = ?", (row.id,))
    with open(path, "ab") as file:
        file.write(b"more")
    watched.notice(path, moved=True)
    watched.intake.admit()
    assert watched.intake.waiting() == 1
    watched.state.ledger.connection.execute("UPDATE files SET in_parts = 0, state = 2")
    watched.becomes(path, State.QUEUED)

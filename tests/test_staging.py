"""A copy appears whole or not at all, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from dropmill import durable
from dropmill.errors import MachineFault
from dropmill.staging import FOLDER, Staging, empty


@pytest.fixture
def made(folder: bytes) -> Iterator[Staging]:
    made = Staging(folder)
    yield made
    made.clear()


def write(made: Staging, take: int, content: bytes = b"copy") -> None:
    made.new(take).write(content)


def read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write_file(path: bytes) -> None:
    with open(path, "wb") as file:
        file.write(b"copy")


def staged(folder: bytes) -> list[bytes]:
    path = os.path.join(folder, FOLDER)
    return os.listdir(path) if os.path.isdir(path) else []


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_copies_are_put_in_place_whole_with_their_sources_time(
    folder: bytes, made: Staging, count: int
) -> None:
    places = [os.path.join(folder, b"in", b"deep", b"%d" % take) for take in range(count)]
    for take, place in enumerate(places):
        write(made, take, b"%d" % take * 1000)
        made.keep(take, place, 10**18 + take)
        assert not os.path.exists(place)
    made.publish()
    for take, place in enumerate(places):
        assert read(place) == b"%d" % take * 1000
        assert os.stat(place).st_mtime_ns == 10**18 + take
    assert staged(folder) == []


def test_a_copy_replaces_the_one_before_it(folder: bytes, made: Staging) -> None:
    place = folder + b"/in/a"
    for take in range(2):
        write(made, take, b"%d" % take)
        made.keep(take, place, 0)
        made.publish()
    assert read(place) == b"1"


def test_a_copy_has_the_permission_bits_that_the_umask_leaves(folder: bytes, made: Staging) -> None:
    before = os.umask(0o027)
    try:
        write(made, 1)
        made.keep(1, folder + b"/a", 0)
        made.publish()
    finally:
        os.umask(before)
    assert os.stat(folder + b"/a").st_mode & 0o777 == 0o640


def test_what_is_discarded_or_cleared_leaves_nothing(folder: bytes, made: Staging) -> None:
    for take in range(3):
        write(made, take)
    made.discard(0)
    made.discard(7)
    made.keep(1, folder + b"/a", 0)
    made.clear()
    assert staged(folder) == []
    made.publish()
    assert not os.path.exists(folder + b"/a")


def test_a_copy_that_moves_keeps_its_content_and_one_in_its_place_only_its_time_changes(
    folder: bytes, made: Staging
) -> None:
    write(made, 1)
    made.keep(1, folder + b"/old", 0)
    made.publish()
    made.move(folder + b"/old", folder + b"/new/name", 5 * 10**9)
    made.publish()
    assert read(folder + b"/new/name") == b"copy"
    assert not os.path.exists(folder + b"/old")
    made.move(folder + b"/new/name", folder + b"/new/name", 7 * 10**9)
    made.publish()
    assert os.stat(folder + b"/new/name").st_mtime_ns == 7 * 10**9


def test_clearing_never_removes_a_copy_that_was_there_already(folder: bytes, made: Staging) -> None:
    write(made, 1)
    made.keep(1, folder + b"/old", 0)
    made.publish()
    made.move(folder + b"/old", folder + b"/new", 0)
    made.clear()
    assert read(folder + b"/old") == b"copy"


def test_data_is_synced_before_it_is_renamed_and_the_folder_after(
    folder: bytes, made: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power cut asks for, seen at the calls themselves."""
    deeds: list[tuple[str, bytes]] = []
    sync, rename = os.fsync, os.rename

    def noted_sync(descriptor: int) -> None:
        deeds.append(("sync", os.readlink(b"/proc/self/fd/%d" % descriptor)))
        sync(descriptor)

    def noted_rename(old: bytes, new: bytes) -> None:
        deeds.append(("rename", new))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    write(made, 1)
    made.keep(1, folder + b"/in/deep/a", 0)
    made.publish()
    (renamed,) = [at for at, (deed, _) in enumerate(deeds) if deed == "rename"]
    before, after = deeds[:renamed], deeds[renamed + 1 :]
    assert os.path.join(folder, FOLDER) in [os.path.dirname(path) for _, path in before]
    assert folder + b"/in/deep" in [path for _, path in after]
    assert {path for _, path in deeds} >= {folder, folder + b"/in"}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is synced from now on, in order."""
    paths: list[bytes] = []
    monkeypatch.setattr(durable, "sync", paths.append)
    return paths


def test_folders_that_somebody_else_made_a_moment_ago_are_on_disk_too(
    folder: bytes, made: Staging, synced: list[bytes]
) -> None:
    os.makedirs(folder + b"/in/deep")
    write(made, 1)
    made.keep(1, folder + b"/in/deep/a", 0)
    made.publish()
    assert folder + b"/in" in synced
    synced.clear()
    write(made, 2)
    made.keep(2, folder + b"/in/deep/b", 0)
    made.publish()
    assert folder + b"/in" not in synced, "once is enough"


def test_a_folder_for_copies_that_was_not_there_is_on_disk_with_all_above_it(
    folder: bytes, synced: list[bytes]
) -> None:
    deep = Staging(folder + b"/new/out/put")
    write(deep, 1)
    deep.discard(1)
    assert {*synced} >= {folder, folder + b"/new", folder + b"/new/out"}


def test_a_copy_costs_one_sync_of_a_folder_once_its_folder_is_known(
    folder: bytes, made: Staging, synced: list[bytes]
) -> None:
    for take, name in ((1, b"/in/a"), (2, b"/in/b")):
        synced.clear()
        write(made, take)
        made.keep(take, folder + name, 0)
        made.publish()
    assert [os.path.basename(path) for path in synced] == [b"%016x" % 2, b"in"]


def test_a_copy_that_moves_is_gone_from_its_old_folder_for_good(
    folder: bytes, made: Staging, synced: list[bytes]
) -> None:
    os.mkdir(folder + b"/old")
    write_file(folder + b"/old/a")
    made.move(folder + b"/old/a", folder + b"/new/a", 5)
    made.publish()
    assert synced[0] == folder + b"/old/a"
    assert {folder + b"/old", folder + b"/new"} <= {*synced}


def test_a_copy_in_its_place_has_its_new_time_on_disk(
    folder: bytes, made: Staging, synced: list[bytes]
) -> None:
    write_file(folder + b"/a")
    made.move(folder + b"/a", folder + b"/a", 7)
    made.publish()
    assert synced[0] == folder + b"/a"


class full_disk:  # noqa: N801 - reads like a function where it is used
    """No file of this process may grow beyond a page."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def test_a_copy_whose_last_bytes_find_no_room_leaves_nothing_behind(
    folder: bytes, made: Staging
) -> None:
    write(made, 1, b"x" * 4000)  # it is in the buffer still
    with full_disk(), pytest.raises((OSError, MachineFault)):
        made.keep(1, folder + b"/a", 0)
    made.clear()
    assert staged(folder) == []


def test_a_copy_that_is_discarded_for_want_of_room_leaves_nothing_behind(
    folder: bytes, made: Staging
) -> None:
    write(made, 1, b"x" * 4000)
    with full_disk():
        made.discard(1)
    assert staged(folder) == []


def test_where_no_copy_can_be_made_the_machine_is_at_fault(folder: bytes) -> None:
    with open(folder + b"/file", "wb"):
        pass
    with pytest.raises(MachineFault, match="file"):
        Staging(folder + b"/file").new(1)


def test_one_copy_that_cannot_be_put_in_place_does_not_end_in_a_crash(
    folder: bytes, made: Staging
) -> None:
    """Nobody catches a bare OSError here: the worker would die of it, again and again."""
    os.makedirs(folder + b"/taken/inside")
    write(made, 1)
    made.keep(1, folder + b"/taken", 0)
    try:
        made.publish()
    except OSError as error:
        pytest.fail(f"a bare {errno.errorcode[error.errno or 0]}")
    except Exception:  # whatever the worker knows
        pass


def test_a_copy_to_be_moved_that_is_away_by_now_does_not_end_in_a_crash(
    folder: bytes, made: Staging
) -> None:
    try:
        made.move(folder + b"/none", folder + b"/new", 0)
        made.publish()
    except OSError as error:
        pytest.fail(f"a bare {errno.errorcode[error.errno or 0]}")
    except Exception:
        pass


def test_what_a_dead_daemon_left_is_removed_at_the_next_start(folder: bytes) -> None:
    left = Staging(folder)
    for take in range(3):
        write(left, take)
    for _, file in left._open.values():
        file.close()
    os.mkdir(os.path.join(folder, FOLDER, b"0-not-ours"))
    empty(folder)
    assert staged(folder) == [b"0-not-ours"]
    empty(folder + b"/none")

"""The sandbox: a worker can read the roots and write copies and its index, and that is all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from dropmill import compaction, landlock, sandbox, spawning, worker
from dropmill.errors import NotOurs
from dropmill.job import Job, Kind, Outcome, Verdict
from dropmill.landlock import Access
from dropmill.pool import Finished, Pool, Returned
from dropmill.processors import PROCESSORS, Workbench
from dropmill.processors.encoding import detect
from dropmill.sandbox import READ, Sandbox

from .dropmill_process import Place
from .polling import eventually
from .test_image import (
    animated,
    checkerboard,
    copied,
    decoded_luma,
    deep_tiff,
    needs_transform,
    opened,
    photograph,
    rotated_profile,
    saved,
)
from .test_pool import Service
from .torture.isolated import mount, own_mounts, unmount

_weakness = sandbox.weakness()
pytestmark = pytest.mark.skipif(
    _weakness is not None, reason=_weakness.what if _weakness else "Landlock is there"
)
VERSION = 0 if _weakness else landlock.version()
_real_text = PROCESSORS[Kind.TEXT]


def needs(version: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        version > VERSION, reason=f"needs Landlock {version}, the kernel has {VERSION}"
    )


# ---- from inside a worker ------------------------------------------------------------------------


def main_that_tries(*arguments: Any) -> None:
    """A worker as it is, but that files tell it what to try."""
    PROCESSORS[Kind.TEXT] = _try
    worker.main(*arguments)


def _try(descriptor: int, job: Job, size: int, started: int, bench: Workbench) -> Outcome:
    words = os.pread(descriptor, 4_000, 0).split(b" ")
    if words[0] in TRIES:
        try:
            TRIES[words[0]](*words[1:])
        except OSError as error:
            raise NotOurs(errno.errorcode[error.errno or 0]) from None
        raise NotOurs("allowed")
    return _real_text(descriptor, job, size, started, bench)


def _write(path: bytes) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def _start_process() -> None:
    if not os.fork():
        os._exit(0)
    os.wait()


def _connect(port: bytes) -> None:
    with socket.socket() as end:
        end.connect(("127.0.0.1", int(port)))


def _listen() -> None:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))


def _connect_abstract(name: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(b"\0" + name)


def _connect_path(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(os.fsdecode(path))


TRIES: dict[bytes, Callable[..., object]] = {
    b"read": lambda path: open(path, "rb").close(),
    b"list": os.listdir,
    b"write": _write,
    b"make": lambda path: os.mkdir(path),
    b"remove": os.unlink,
    b"truncate": lambda path: os.truncate(path, 0),
    b"rename": os.rename,
    b"link": os.link,
    b"execute": lambda path: os.execv(path, [path]),
    b"fork": _start_process,
    b"kill": lambda pid: os.kill(int(pid), 0),
    b"connect": _connect,
    b"listen": _listen,
    b"abstract": _connect_abstract,
    b"path": _connect_path,
}


class Confined(Service):
    """A pool whose workers try what files tell them to."""

    def tries(self, *words: bytes) -> str:
        """What came of it: `allowed`, or the name of the error."""
        job = self.job(b"try%d" % self._take, b" ".join(words))
        self.pool.put([job])
        assert self.verdict(job) is Verdict.SKIPPED
        finished = [each for each in self.events if isinstance(each, Finished)]
        pairs = [pair for each in finished for pair in each.reports]
        return next(report.reason or "" for done, report in pairs if done.take == job.take)


@pytest.fixture
def confined(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Confined]:
    monkeypatch.setattr(spawning, "main", main_that_tries)
    made = Confined(folder)
    made.start()
    yield made
    made.stop()


def test_nothing_outside_the_roots_can_be_read(confined: Confined, folder: bytes) -> None:
    outside = folder + b"/secret"
    _write(outside)
    assert confined.tries(b"read", outside) == "EACCES"
    assert confined.tries(b"read", b"/etc/passwd") == "EACCES"
    assert confined.tries(b"read", b"/proc/self/environ") == "EACCES"
    assert confined.tries(b"read", confined.state.folder + b"/results.db") == "EACCES"
    assert confined.tries(b"list", folder) == "EACCES"
    assert confined.tries(b"list", b"/") == "EACCES"
    inside = confined.inbox + b"/inside"
    _write(inside)
    assert confined.tries(b"read", inside) == "allowed"


def test_a_root_cannot_be_changed(confined: Confined) -> None:
    inside = confined.inbox + b"/inside"
    _write(inside)
    for attempt in (b"write", b"remove"):
        assert confined.tries(attempt, inside) == "EACCES"
    assert confined.tries(b"write", confined.inbox + b"/new") == "EACCES"
    assert confined.tries(b"make", confined.inbox + b"/new") == "EACCES"
    assert confined.tries(b"rename", inside, confined.output + b"/taken") == "EACCES"
    assert confined.tries(b"rename", inside, confined.inbox + b"/renamed") == "EACCES"
    assert confined.tries(b"link", inside, confined.output + b"/linked") in ("EACCES", "EXDEV")


@needs(3)
def test_a_source_cannot_be_truncated(confined: Confined) -> None:
    inside = confined.inbox + b"/inside"
    _write(inside)
    assert confined.tries(b"truncate", inside) == "EACCES"


def test_nothing_can_be_written_but_copies_and_the_index(confined: Confined, folder: bytes) -> None:
    assert confined.tries(b"list", confined.state.folder) == "allowed"  # SQLite syncs it
    for place in (folder, confined.state.folder, b"/tmp", b"/var/tmp", b"/dev/shm"):
        assert confined.tries(b"write", place + b"/dropmill-test") == "EACCES"
    assert confined.tries(b"write", confined.output + b"/new") == "allowed"
    assert confined.tries(b"write", confined.state.folder + b"/index/new") == "allowed"


def test_nothing_can_be_executed(confined: Confined) -> None:
    program = confined.inbox + b"/program"
    with open(program, "wb") as file:
        file.write(b"#!/bin/sh\n")
    os.chmod(program, 0o755)
    for path in (b"/bin/true", os.fsencode(sys.executable), program):
        assert confined.tries(b"execute", path) == "EACCES"


@needs(4)
def test_the_network_is_out_of_reach(confined: Confined) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert confined.tries(b"connect", b"%d" % port) == "EACCES"
    assert confined.tries(b"listen") == "EACCES"


@needs(6)
def test_no_other_process_can_be_signalled_or_talked_to(confined: Confined) -> None:
    assert confined.tries(b"kill", b"%d" % os.getpid()) == "EPERM"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b"\0dropmill-%d" % os.getpid())
        server.listen()
        assert confined.tries(b"abstract", b"dropmill-%d" % os.getpid()) == "EPERM"


@needs(9)
def test_no_socket_of_others_can_be_connected_to(confined: Confined, folder: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fsdecode(folder + b"/socket"))
        server.listen()
        assert confined.tries(b"path", folder + b"/socket") == "EACCES"


def test_a_worker_has_given_up_privileges_processes_and_cores(confined: Confined) -> None:
    pid = confined.pool.doing()[0][0]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1\n" in status
    assert "Threads:\t1\n" in status  # Landlock binds threads
    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
    }
    assert limits["Max processes"] == limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == [str(sandbox.DESCRIPTORS)] * 2
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == f"{sandbox.OUT_OF_MEMORY_SCORE}\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may always start processes")
def test_a_worker_can_start_no_process(confined: Confined) -> None:
    assert confined.tries(b"fork") == "EAGAIN"


# ---- all work can be done from inside ------------------------------------------------------------

FRENCH = "Les élèves étaient très étonnés de voir le château illuminé à minuit.\n"
RUSSIAN = "Широкая электрификация южных губерний даст мощный толчок подъёму.\n"
JAPANESE = "東京は日本の首都であり、世界最大の都市の一つです。私たちは昨日、本を読みました。\n"
CHINESE = "北京是中华人民共和国的首都，也是全国的政治中心和文化中心。今天天气很好。\n"
KOREAN = "서울은 대한민국의 수도이자 최대 도시이다. 오늘은 날씨가 매우 좋습니다.\n"
GREEK = "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας και η μεγαλύτερη πόλη της χώρας.\n"
WRITTEN = {
    FRENCH: ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "mac-roman", "cp850"),
    RUSSIAN: ("utf-16-be", "koi8-r", "cp1251", "iso8859-5", "cp866"),
    JAPANESE: ("utf-16", "shift_jis", "euc_jp", "cp932"),
    CHINESE: ("gb18030", "gbk", "big5hkscs"),
    KOREAN: ("euc_kr", "cp949"),
    GREEK: ("iso8859-7", "cp1253"),
}


def texts() -> dict[bytes, bytes]:
    found = {
        os.fsencode(f"{name}-{number}.txt"): (text * 20).encode(name, "replace")
        for number, (text, names) in enumerate(WRITTEN.items())
        for name in names
    }
    every_byte = bytes(range(32, 256)) * 20
    return found | {b"nonsense.txt": every_byte, b"binary.txt": b"\0\1\2" * 100, b"empty.txt": b""}


def expected(path: bytes) -> Verdict:
    """The verdict of a process that may open and import what it likes."""
    with open(path, "rb") as file:
        try:
            detect(file.read(), whole=True)
        except NotOurs:
            return Verdict.SKIPPED
    return Verdict.DONE


def _lab() -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(photograph())


def images() -> dict[bytes, bytes]:
    profile = rotated_profile()
    exif = Image.Exif()
    exif[0x0112] = 6
    compressions = (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate")
    made = {
        "plain.jpg": saved(photograph(), "JPEG", exif=exif),
        "progressive.jpeg": saved(photograph(), "JPEG", progressive=True),
        "cmyk.jpg": saved(photograph("CMYK"), "JPEG"),
        "gray.jpg": saved(photograph("L"), "JPEG"),
        "profile.jpg": saved(photograph(), "JPEG", icc_profile=profile),
        "plain.png": saved(photograph(), "PNG", exif=exif),
        "alpha.png": saved(photograph("RGBA"), "PNG"),
        "palette.png": saved(photograph("P"), "PNG"),
        "profile.png": saved(photograph(), "PNG", icc_profile=profile),
        "animated.png": animated("PNG"),
        "deep.tif": deep_tiff("<", 8),
        "lab.tif": saved(_lab(), "TIFF"),
        "cmyk.tif": saved(photograph("CMYK"), "TIFF"),
        "palette.tif": saved(photograph("P"), "TIFF"),
        "profile.tif": saved(photograph(), "TIFF", icc_profile=profile),
        "pages.tif": saved(
            photograph(), "TIFF", save_all=True, append_images=[photograph().rotate(9)]
        ),
        "fax.tif": saved(photograph("1"), "TIFF", compression="group4"),
        "plain.webp": saved(photograph(), "WEBP"),
        "lossless.webp": saved(photograph("RGBA"), "WEBP", lossless=True),
        "profile.webp": saved(photograph(), "WEBP", icc_profile=profile),
        "animated.webp": animated("WEBP"),
        "plain.gif": saved(photograph(), "GIF"),
        "animated.gif": animated("GIF"),
        "plain.bmp": saved(photograph(), "BMP"),
        "palette.bmp": saved(photograph("P"), "BMP"),
        "alpha.bmp": saved(photograph("RGBA"), "BMP"),
    }
    for number, compression in enumerate(compressions):
        made[f"compressed{number}.tif"] = saved(photograph(), "TIFF", compression=compression)
    return {os.fsencode(name): content for name, content in made.items()}


def main_that_listens(number: int, settings: worker.WorkerSettings, *others: Any) -> None:
    """A worker as it is, that notes what it opens and imports once it is shut in."""
    notes = os.open(os.path.join(os.path.dirname(settings.output), b"notes"), os.O_WRONLY | 0o2000)
    shut_in = worker.Worker.shut_in
    is_shut = False

    def listen(event: str, details: tuple[Any, ...]) -> None:
        if not is_shut or event not in ("import", "open") or isinstance(details[0], int):
            return
        what = details[0] if event == "import" else os.fsdecode(details[0])
        os.write(notes, os.fsencode(f"{event} {what}\n"))

    def shut_in_and_listen(self: worker.Worker) -> None:
        nonlocal is_shut
        shut_in(self)
        is_shut = True

    sys.addaudithook(listen)
    worker.Worker.shut_in = shut_in_and_listen  # type: ignore[method-assign]
    worker.main(number, settings, *others)


@pytest.fixture
def heard(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(spawning, "main", main_that_listens)
    (Path(os.fsdecode(folder)) / "notes").touch()
    made = Service(folder)
    made.start()
    yield made
    made.stop()


def put(service: Service, files: dict[bytes, bytes], kind: Kind) -> list[Job]:
    jobs = []
    for name, content in files.items():
        job = service.job(name, b"", kind=Kind.TEXT)
        with open(service.inbox + b"/" + name, "wb") as file:
            file.write(content)
        row = service.state.admit(service.inbox + b"/" + name, kind)
        jobs.append(job._replace(seq=row.seq, kind=kind, fingerprint=row.fingerprint))
        service.until(service.pool.has_room, "room")
        service.pool.put(jobs[-1:])
    return jobs


def test_every_kind_of_file_is_worked_on_without_opening_or_importing_anything_else(
    heard: Service, folder: bytes
) -> None:
    pictures = {job.path: heard.verdict(job) for job in put(heard, images(), Kind.IMAGE)}
    assert set(pictures.values()) == {Verdict.DONE}, pictures
    for job in put(heard, texts(), Kind.TEXT):
        assert heard.verdict(job) is expected(heard.inbox + b"/" + job.path), job.path
    notes = (Path(os.fsdecode(folder)) / "notes").read_text().splitlines()
    assert any(note.startswith("open ") for note in notes)
    kept = (heard.inbox, heard.output, heard.state.folder + b"/index", os.fsencode(os.devnull))
    beside = [
        note
        for note in notes
        # Making a folder durable syncs the one above it, where that may be opened.
        if note != f"open {os.fsdecode(folder)}"
        and not note.startswith(tuple(f"open {os.fsdecode(each)}" for each in kept))
        and not (note.startswith("open ") and not note.startswith("open /"))
    ]
    assert not beside


@needs_transform
def test_libturbojpeg_is_there_for_a_worker_that_is_shut_in(heard: Service) -> None:
    source = saved(checkerboard(), "JPEG")
    (job,) = put(heard, {b"edges.jpg": source}, Kind.IMAGE)
    assert heard.verdict(job) is Verdict.DONE
    (copy,) = Path(os.fsdecode(heard.output)).rglob("edges*.jpg")
    assert copy.read_bytes() == copied(source, ".jpg")
    assert opened(copy.read_bytes()).tobytes() == decoded_luma(source).tobytes()


def main_in_haste(*arguments: Any) -> None:
    """A worker as it is, that compacts as soon as it has nothing to do."""
    worker.IDLE = compaction.EVERY = 0.05
    setattr(worker, "EVERY", 0.05)  # noqa: B010 - another module's name, too
    compaction.SEEN_BY_SEARCHES_NS = 0
    worker.main(*arguments)


def test_shards_are_compacted_from_inside(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "main", main_in_haste)
    service = Service(folder)
    service.start()

    def blocks() -> int:
        count = 0
        for number in range(2):
            with contextlib.closing(
                sqlite3.connect(os.fsdecode(folder) + f"/state/index/shard-{number}.db", timeout=9)
            ) as connection:
                count += connection.execute("SELECT count(*) FROM blocks").fetchone()[0]
        return count

    jobs = put(service, {b"%d.txt" % each: b"word\n" for each in range(20)}, Kind.TEXT)
    assert {service.verdict(job) for job in jobs} == {Verdict.DONE}
    assert blocks() == 20
    service.state.ledger.absence.mark_gone([service.inbox + b"/" + job.path for job in jobs[:15]])
    service.until(lambda: blocks() == 5, "the dead are gone")
    service.stop()


def in_a_child(act: Callable[[], object]) -> None:
    """Does what cannot be undone; fails with what the child said."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            act()
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        message = said.read().decode()
    os.waitpid(child, 0)
    assert not message, message


# ---- what comes and goes -------------------------------------------------------------------------


def taken(service: Service, job: Job) -> Verdict:
    """The verdict on a job that is put again each time it comes back, as the feeder does."""
    service.pool.put([job])

    def is_done() -> bool:
        if job.take in service.finished():
            return True
        if service.pool.idle():
            service.pool.put([job])
        return False

    service.until(is_done, "it is worked on")
    return service.verdict(job)


def test_a_root_that_was_away_at_the_start_is_read_by_fresh_workers(
    confined: Confined, folder: bytes
) -> None:
    late = folder + b"/late"
    confined.pool.kill()
    settings = confined.settings._replace(root_names={confined.inbox: b"inbox", late: b"late"})
    confined.pool = Pool(settings, 60)
    confined.start()
    before = [pid for pid, _, _ in confined.pool.doing()]
    os.mkdir(late)
    for number in range(4):
        job = confined.job(b"../late/%d" % number)._replace(root=late, path=b"%d" % number)
        assert taken(confined, job) is Verdict.DONE
    after = [pid for pid, _, _ in confined.pool.doing()]
    assert set(before) - set(after)
    assert all(confined.tries(b"list", late) == "allowed" for _ in range(3))


def test_a_root_that_was_replaced_is_read_by_fresh_workers_and_nobody_is_charged(
    confined: Confined,
) -> None:
    assert taken(confined, confined.job(b"before")) is Verdict.DONE
    os.rename(confined.inbox, confined.inbox + b".old")
    os.mkdir(confined.inbox)
    for number in range(4):
        assert taken(confined, confined.job(b"after%d" % number)) is Verdict.DONE
    kinds = {type(each) for each in confined.events}
    assert kinds == {Finished, Returned}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_its_mode_forbids_to_read_costs_no_worker(confined: Confined) -> None:
    job = confined.job(b"forbidden")
    os.chmod(confined.inbox + b"/forbidden", 0)
    before = [pid for pid, _, _ in confined.pool.doing()]
    confined.pool.put([job])
    assert confined.verdict(job) is Verdict.QUARANTINED
    assert [pid for pid, _, _ in confined.pool.doing()] == before


def test_copies_are_made_again_where_their_whole_folder_was_removed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.start()
    try:
        for turn in range(3):
            photograph().save(place.inbox / f"{turn}.png")
            copy = place.copies / f"{turn}_grayscale.png"
            eventually(copy.exists, what="the copy")
            eventually(place.is_settled, what="it is done")
            (tmp_path / "grayscale").rename(tmp_path / f"removed{turn}")
        assert "paused" not in place.log.read_text()
        assert {row["attempts"] for row in place.results().values()} == {0}
        place.stop()
    finally:
        place.close()


def test_a_renamed_source_has_its_copy_renamed_from_folder_to_folder(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.start()
    try:
        photograph().save(place.inbox / "a.png")
        eventually((place.copies / "a_grayscale.png").exists, what="the copy")
        eventually(place.is_settled, what="it is done")
        number = (place.copies / "a_grayscale.png").stat().st_ino
        (place.inbox / "deep" / "er").mkdir(parents=True)
        (place.inbox / "a.png").rename(place.inbox / "deep" / "er" / "b.png")
        copy = place.copies / "deep" / "er" / "b_grayscale.png"
        eventually(copy.exists, what="the copy at its new place")
        assert copy.stat().st_ino == number
        assert not (place.copies / "a_grayscale.png").exists()
        place.stop()
    finally:
        place.close()


def test_a_service_takes_in_a_root_that_comes_after_its_start(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.inbox.rmdir()
    place.start()
    try:
        place.inbox.mkdir()
        for number in range(20):
            (place.inbox / f"{number}.txt").write_text("late\n")
        eventually(lambda: len(place.search("late")) == 20, what="all are found")
        assert {(row["state"], row["attempts"]) for row in place.results().values()} == {
            ("done", 0)
        }
        place.stop()
    finally:
        place.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_root_that_is_unmounted_and_mounted_again_goes_on(tmp_path: Path) -> None:
    """Device and inode are what they were, and yet workers need new rules for it."""
    place = Place(tmp_path)

    def found(word: str) -> None:
        (place.inbox / f"{word}.txt").write_text(f"{word}\n")
        eventually(lambda: place.search(word), what=f"{word} is found")

    def act() -> None:
        own_mounts()
        mount("tmpfs", "none", place.inbox)
        before = place.inbox.stat()
        place.start()
        try:
            found("before")
            unmount(place.inbox)
            mount("tmpfs", "none", place.inbox)
            after = place.inbox.stat()
            assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
            found("after")
            assert {row["attempts"] for row in place.results().values()} == {0}
            assert place.stop() == 0
        finally:
            place.close()

    in_a_child(act)


# ---- folders that do not answer ------------------------------------------------------------------


def test_a_folder_that_hangs_holds_up_nobody_and_stays_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [os.fsencode(tmp_path / name) for name in ("one", "hangs", "two", "missing")]
    for name in names[:3]:
        os.mkdir(name)
    hand_over = sandbox._hand_over_one

    def hangs(folder: bytes, theirs: socket.socket) -> None:
        while folder == names[1]:
            time.sleep(60)
        hand_over(folder, theirs)

    monkeypatch.setattr(sandbox, "_hand_over_one", hangs)
    monkeypatch.setattr(sandbox, "_ANSWERS_WITHIN", 0.2)

    def act() -> None:
        shut = Sandbox(dict.fromkeys(names, READ))
        shut.enter()
        assert [shut.was_left(name) for name in names] == [True, False, True, False]
        os.listdir(names[0])
        os.listdir(names[2])
        with pytest.raises(PermissionError):
            os.listdir(names[1])
        with pytest.raises(ChildProcessError):
            while os.waitpid(-1, 0)[0]:  # none is left behind
                pass

    in_a_child(act)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    roots = [os.fsencode(tmp_path)]
    before = set(os.listdir("/proc/self/fd"))

    def act() -> None:
        Sandbox(dict.fromkeys(roots, READ)).enter()
        extra = [each for each in range(3, 100) if str(each) not in before and _is_open(each)]
        assert len(extra) <= 2, extra  # of the test's own pipe

    in_a_child(act)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


# ---- versions, and kernels without ---------------------------------------------------------------


def test_what_is_refused_grows_with_the_kernels_version() -> None:
    assert Access.handled(1) == Access((1 << 13) - 1)
    assert Access.handled(2) == Access((1 << 14) - 1)
    assert Access.handled(3) == Access((1 << 15) - 1)
    assert Access.handled(4) == Access.handled(3)
    assert Access.handled(5) == Access((1 << 16) - 1)
    assert Access.handled(8) == Access.handled(5)
    assert Access.handled(9) == Access((1 << 17) - 1)


_RETURN, _LOAD, _IF_EQUAL = 0x06, 0x20, 0x15
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def answer_landlock_with(number: int) -> None:
    """Has the kernel refuse landlock_create_ruleset with this error; 0: it seems to be version 0.

    The numbers of Landlock's system calls are the same on every architecture, so the filter need
    not ask for it.
    """
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, 0),
            (_IF_EQUAL, 0, 1, 444),
            (_RETURN, 0, 0, _ERROR | number),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(header)) == 0


@pytest.mark.parametrize(
    ("number", "what", "mend"),
    [
        (errno.ENOSYS, "this kernel has no Landlock", "Linux 5.19"),
        (errno.EOPNOTSUPP, "Landlock is turned off in this kernel", "lsm="),
        (errno.EPERM, "a filter of system calls forbids Landlock", "SystemCallFilter="),
        (0, "this kernel's Landlock is too old", "Linux 5.19"),
    ],
)
def test_without_landlock_the_service_runs_and_status_says_why_and_how_to_mend_it(
    tmp_path: Path, number: int, what: str, mend: str
) -> None:
    place = Place(tmp_path, workers=1)
    here = Path(__file__).parent.parent
    path = f"{here / 'daemon'}:{here}"
    place.start("tests.without_landlock", LANDLOCK_SAYS=str(number), PYTHONPATH=path)
    try:
        (place.inbox / "a.txt").write_text("found all the same\n")
        photograph().save(place.inbox / "a.png")
        eventually(lambda: place.search("found all the same"), what="it is found")
        eventually((place.copies / "a_grayscale.png").exists, what="the copy")
        (problem,) = place.status()["problems"]
        assert what in problem["what"]
        assert mend in problem["mend"]
        assert problem["what"] in place.run("status").stdout
        place.stop()
    finally:
        place.close()


def test_with_landlock_status_has_nothing_to_say_of_it(tmp_path: Path) -> None:
    place = Place(tmp_path, workers=1)
    place.start()
    try:
        assert place.status()["problems"] == []
        place.stop()
    finally:
        place.close()


def test_a_worker_that_is_shut_in_still_dies_with_its_parent(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.start()
    pids = place.workers()
    place.stop(signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="they end")

"""sd_notify: what systemd hears of the service, over a real socket, from the real command."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from PIL import Image

from dropmill.notify import Notify
from dropmill.store.schema import move_aside_if_broken

from .dropmill_process import Place
from .polling import eventually

WATCHDOG = 2.0  # seconds
SO_TIMESTAMP = 29  # of <asm-generic/socket.h>; Python has no name for it


class Listener:
    """systemd's end: every datagram, with the time when it was sent, and the senders."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[tuple[float, dict[str, str]]] = []
        self.senders: set[int] = set()

    def listen(self, seconds: float = 0.0) -> None:
        """Takes in what has come, and what comes within that time."""
        until = time.monotonic() + seconds
        while True:
            left = max(0.0, until - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return
            content, ancillary, _, _ = self._socket.recvmsg(8192, 256)
            sent = 0.0
            for _, kind, data in ancillary:
                if kind == SO_TIMESTAMP:
                    seconds_sent, microseconds = struct.unpack("@ll", data)
                    sent = seconds_sent + microseconds / 1e6
                else:
                    self.senders.add(int.from_bytes(data[:4], sys.byteorder))
            fields = dict(line.split("=", 1) for line in content.decode().splitlines())
            self.heard.append((sent, fields))

    def all(self, name: str) -> list[str]:
        self.listen()
        return [fields[name] for _, fields in self.heard if name in fields]

    def names(self) -> list[str]:
        """What was said, in order, without sentences, beats and extensions."""
        self.listen()
        found = [next(iter(fields)) for _, fields in self.heard]
        return [name for name in found if name in ("READY", "RELOADING", "STOPPING")]

    def beats(self) -> int:
        return len(self.all("WATCHDOG"))

    def status(self) -> str:
        return (self.all("STATUS") or [""])[-1]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "notify"))
    yield made
    made.close()


def start(place: Place, listener: Listener, watchdog: float | None = WATCHDOG) -> None:
    variables = {"NOTIFY_SOCKET": listener.address}
    if watchdog is not None:
        variables["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
    place.start(**variables)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, workers=1)
    yield made
    made.close()


@pytest.fixture
def watched(place: Place, listener: Listener) -> Place:
    """A service with one worker that is up, and says so to the listener."""
    start(place, listener)
    eventually(lambda: listener.names() == ["READY"], what="READY")
    return place


def no_beat_within(listener: Listener, seconds: float) -> bool:
    before = listener.beats()
    listener.listen(seconds)
    return listener.beats() == before


def beats_stop(listener: Listener) -> None:
    """Within twice the watchdog time, as is promised."""
    eventually(
        lambda: no_beat_within(listener, WATCHDOG), seconds=4 * WATCHDOG, what="no more beats"
    )


# ---- ready -------------------------------------------------------------------------------------


def test_ready_is_said_once_every_root_is_watched_and_the_pool_is_up(
    place: Place, listener: Listener
) -> None:
    text = place.configuration.read_text()
    missing = "watch:\n  - path: ./missing\n  - path: ./polled\n    observer: polling\n"
    (place.folder / "polled").mkdir()
    place.configuration.write_text(text.replace("watch:\n", missing))
    start(place, listener)
    eventually(lambda: listener.names() == ["READY"], what="READY")
    states = [root["state"] for root in place.status()["roots"]]
    assert states == ["offline", "polling", "watching"]
    assert listener.status() == (
        "0 files done; 1 offline, polling 1 folder, watching 1 folder; 1 worker idle"
    )
    assert [pid for pid in place.workers() if pid] != []


def test_only_the_main_process_speaks_and_no_worker_inherits_the_socket(
    watched: Place, listener: Listener
) -> None:
    assert watched.service is not None
    listener.listen(WATCHDOG)
    assert listener.senders == {watched.service.pid}
    for worker in watched.workers():
        environment = Path(f"/proc/{worker}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environment
        assert b"WATCHDOG" not in environment


def test_an_abstract_socket_is_spoken_to_too(place: Place) -> None:
    listener = Listener(f"@dropmill-test-{os.getpid()}")
    try:
        start(place, listener, watchdog=None)
        eventually(lambda: listener.names() == ["READY"], what="READY")
        listener.listen(2.0)
        assert listener.beats() == 0
    finally:
        listener.close()


def test_the_status_is_one_sentence_kept_current_and_no_more_than_one_a_second(
    watched: Place, listener: Listener
) -> None:
    for number in range(300):
        (watched.inbox / f"{number}.txt").write_text("word\n")
    (watched.inbox / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    expected = "300 files done, 1 quarantined; watching 1 folder; 1 worker idle"
    eventually(lambda: listener.status() == expected, what="the last status")
    listener.listen(3.0)
    told = [(when, fields["STATUS"]) for when, fields in listener.heard if "STATUS" in fields]
    assert told[-1][1] == expected
    for (before, one), (after, other) in itertools.pairwise(told[1:]):
        assert one != other
        assert after - before > 0.9


# ---- the watchdog ------------------------------------------------------------------------------


def test_an_idle_service_beats_at_about_a_third_of_the_watchdog_time(
    watched: Place, listener: Listener
) -> None:
    listener.listen(3 * WATCHDOG)
    beats = [when for when, fields in listener.heard if "WATCHDOG" in fields]
    gaps = [after - before for before, after in itertools.pairwise(beats)]
    assert len(beats) >= 6
    assert max(gaps) < WATCHDOG


def test_a_service_whose_worker_is_at_one_file_for_long_beats_on(
    watched: Place, listener: Listener
) -> None:
    make_slow_image(watched, "slow.webp")
    eventually(lambda: watched.status()["workers"][0]["doing"], what="the image is in hand")
    (worker,) = watched.workers()
    # Stopped with a file in hand: limits.timeout is there for that, not the watchdog.
    os.kill(worker, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert not no_beat_within(listener, WATCHDOG)
    finally:
        os.kill(worker, signal.SIGCONT)


@pytest.mark.parametrize("why", ["by hand", "disk full"])
def test_a_paused_service_beats_on(place: Place, listener: Listener, why: str) -> None:
    if why == "disk full":
        text = place.configuration.read_text()
        place.configuration.write_text(text.replace("free: 0", "free: 900TiB"))
    start(place, listener)
    if why == "by hand":
        place.run("pause")
    (place.inbox / "a.txt").write_text("waits\n")
    eventually(lambda: "1 queued" in listener.status(), what="it waits")
    assert "paused" in listener.status()
    for _ in range(3):
        assert not no_beat_within(listener, WATCHDOG)


def test_a_worker_that_does_not_answer_ends_the_beats_and_one_that_does_again_brings_them_back(
    watched: Place, listener: Listener
) -> None:
    (worker,) = watched.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        beats_stop(listener)
    finally:
        os.kill(worker, signal.SIGCONT)
    eventually(lambda: not no_beat_within(listener, WATCHDOG), what="beats again")


def test_a_queue_that_gives_nothing_ends_the_beats_though_the_workers_live(
    tmp_path: Path, listener: Listener
) -> None:
    place = Place(tmp_path, workers=2)
    start(place, listener)
    eventually(lambda: listener.names() == ["READY"], what="READY")
    workers = place.workers()
    try:
        # Whoever waits at the Queue holds its read lock; the other waits for that.
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        beats_stop(listener)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        place.close()


def test_a_main_loop_that_hangs_ends_the_beats(watched: Place, listener: Listener) -> None:
    assert watched.service is not None
    watched.service.send_signal(signal.SIGSTOP)
    try:
        beats_stop(listener)
    finally:
        watched.service.send_signal(signal.SIGCONT)


# ---- reload and stop ---------------------------------------------------------------------------


def test_a_reload_is_announced_with_its_time_and_ended_by_ready(
    watched: Place, listener: Listener
) -> None:
    assert watched.service is not None
    more = watched.folder / "second"
    more.mkdir()
    text = watched.configuration.read_text()
    before = time.monotonic_ns() // 1000
    watched.configuration.write_text(text.replace("watch:\n", "watch:\n  - path: ./second\n"))
    watched.service.send_signal(signal.SIGHUP)
    eventually(
        lambda: listener.names() == ["READY", "RELOADING", "READY"], what="READY, and READY again"
    )
    (told,) = listener.all("MONOTONIC_USEC")
    assert before <= int(told) <= time.monotonic_ns() // 1000
    assert "watching 2 folders" in listener.status()


def test_a_wrong_edit_is_announced_and_ended_by_ready_too(
    watched: Place, listener: Listener
) -> None:
    assert watched.service is not None
    text = watched.configuration.read_text()
    watched.configuration.write_text(text + "wrong_key: 1\n")
    watched.service.send_signal(signal.SIGHUP)
    eventually(lambda: listener.names() == ["READY", "RELOADING", "READY"], what="READY again")
    assert listener.status().startswith("the configuration as saved is not in force; ")


def test_stopping_is_said_and_more_time_asked_for_while_a_file_is_finished(
    watched: Place, listener: Listener
) -> None:
    make_slow_image(watched, "slow.webp")
    eventually(lambda: watched.status()["workers"][0]["doing"], what="the image is in hand")
    listener.listen()
    before = len(listener.all("EXTEND_TIMEOUT_USEC"))
    watched.stop()
    assert listener.names()[-1] == "STOPPING"
    asked = [int(each) for each in listener.all("EXTEND_TIMEOUT_USEC")[before:]]
    assert asked and all(each >= 10_000_000 for each in asked)


def test_more_time_is_asked_for_while_the_state_folder_is_brought_in_order(
    place: Place, listener: Listener
) -> None:
    place.start()
    place.stop()
    (place.folder / "state" / "suspect").touch()
    start(place, listener)
    eventually(lambda: listener.names() == ["READY"], what="READY")
    ready = next(when for when, fields in listener.heard if "READY" in fields)
    extended = [when for when, fields in listener.heard if "EXTEND_TIMEOUT_USEC" in fields]
    assert extended and min(extended) < ready


def test_reading_a_database_from_end_to_end_is_progress_that_is_told_of(folder: bytes) -> None:
    path = os.path.join(folder, b"some.db")
    database = apsw.Connection(os.fsdecode(path))
    database.execute(
        "CREATE TABLE files(name); CREATE INDEX by_name ON files(name);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " INSERT INTO files SELECT randomblob(20) FROM n"
    )
    database.close()
    calls: list[None] = []
    assert move_aside_if_broken(path, suspect=True, meanwhile=lambda: calls.append(None)) is None
    assert len(calls) > 5


def make_slow_image(place: Place, name: str) -> None:
    """One that takes seconds: many pixels, in a format that is slow to write."""
    whole = place.folder / name
    Image.effect_noise((5000, 5000), 90).convert("RGB").save(whole, quality=30, method=0)
    whole.rename(place.inbox / name)


# ---- the protocol ------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_socket_nothing_is_said_and_nothing_is_due() -> None:
    environment = {"WATCHDOG_USEC": "1000000"}
    notify = Notify.from_environment(environment)
    assert environment == {}
    assert not notify.is_heard
    assert notify.due() is None
    notify.ready()
    notify.status("up")
    assert not notify.beat(0.0)


def test_a_watchdog_meant_for_another_process_is_not_fed(listener: Listener) -> None:
    asked = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    notify = Notify.from_environment(asked)
    assert notify.is_heard
    assert notify.due() is None
    notify.close()


@pytest.mark.parametrize("address", ["/nowhere/at/all", "/" + 200 * "x", "vsock:2:1", "no path"])
def test_nobody_at_the_other_end_is_no_error(address: str) -> None:
    notify = Notify(address, watchdog=1.0)
    notify.ready()
    notify.status("up")
    notify.stopping()
    notify.close()


def test_a_full_socket_holds_nobody_up_and_what_must_arrive_arrives_later(
    listener: Listener,
) -> None:
    stuffer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            stuffer.sendto(b"X=1", listener.address)
    stuffer.close()
    notify = Notify(listener.address)
    notify.ready()
    notify.stopping()
    assert listener.names() == []
    notify.retry()
    assert listener.names() == ["READY", "STOPPING"]
    notify.close()


def test_a_sentence_cannot_forge_another_field(listener: Listener) -> None:
    notify = Notify(listener.address)
    notify.status("paused: /srv/a\nSTOPPING=1")
    assert listener.all("STATUS") == ["paused: /srv/a\\nSTOPPING=1"]
    assert listener.all("STOPPING") == []
    notify.close()


def test_beats_come_at_a_third_and_only_while_there_are_signs_of_life(listener: Listener) -> None:
    clock = Clock()
    notify = Notify(listener.address, watchdog=30.0, clock=clock)
    sign = clock.now
    told = []
    for _ in range(60):
        notify.beat(sign)
        told.append(listener.beats())
        clock.now += 1.0
    assert told[0] == 1 and told[9] == 1 and told[10] == 2
    assert told[-1] == 3  # at 0, 10 and 20 s: at 30 s the sign is too old
    notify.beat(clock.now)
    assert listener.beats() == 4
    notify.close()

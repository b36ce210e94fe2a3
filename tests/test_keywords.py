"""New keywords are looked up in what is here already, as if they had always been there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dropmill.job import Verdict
from dropmill.keywords import FILE_NAME, Keywords
from dropmill.processors.text import RANGE
from dropmill.store.reading import Reader
from dropmill.worker import Message, Worker, WorkerSettings

from .ledgers import MadeState
from .test_completion import job_of

LOCK = threading.Lock()


class Service:
    """A state folder with a worker that has taken texts in, and the keeper of its keywords."""

    def __init__(self, folder: bytes, keywords: tuple[str, ...] = ()) -> None:
        self.inbox = folder + b"/inbox"
        os.makedirs(self.inbox, exist_ok=True)
        self.state = MadeState(folder + b"/state")
        settings = WorkerSettings(
            self.state.folder, 1, folder + b"/out", "{stem}{suffix}", {self.inbox: b"inbox"},
            keywords, 3, 1 << 30, 10**8, "error", "plain",
        )  # fmt: skip
        self.worker = Worker(0, settings, LOCK, Reports())  # type: ignore[arg-type]
        self.keywords = Keywords(self.state.folder, lambda: LOCK, self._root_of)

    def _root_of(self, folder: bytes) -> bytes | None:
        return self.inbox if folder.startswith(self.inbox) else None

    def take_in(self, name: bytes, content: bytes) -> int:
        path = os.path.join(self.inbox, name)
        with open(path, "wb") as file:
            file.write(content)
        row = self.state.admit(path)
        self.worker.work(Message(1, (job_of(row, root=self.inbox, path=name),)))
        return row.id

    def look_up(self, *keywords: str) -> None:
        self.keywords.want(keywords)
        until = time.monotonic() + 20
        while self.keywords.is_busy():
            assert time.monotonic() < until
            self.keywords.tick(time.monotonic(), may_begin=True)
            time.sleep(0.002)

    def found(self, file: int) -> dict[str, list[int]]:
        with Reader(self.state.folder) as reader:
            return reader.keywords(file)

    def close(self) -> None:
        self.keywords.stop()
        self.worker.close()
        self.state.close()


class Reports:
    def send(self, done: Any) -> None:
        assert done.fault is None
        assert all(report.verdict in (Verdict.DONE, Verdict.PART) for report in done.reports)


@pytest.fixture
def service(folder: bytes) -> Iterator[Service]:
    made = Service(folder)
    yield made
    made.close()


TEXTS = [
    b"an Invoice\n\ninvoices no, INVOICE! yes\n",
    b"payment\ndue\n" + b"payment  due\n",
    b"prefixes: preen, press, pre\n",
    "caf\u00e9 cafe\n".encode(),
    "\ufeffinvoice\nzwei invoice\n".encode("utf-16-le"),
    b"filler words\n" * 60_000 + b"invoice payment due\n" + b"filler words\n" * 30_000 + b"invoice",
    b"",
]
KEYWORDS = ("invoice", "payment due", "pre*", "cafe", "\u2603", "absent")


def test_a_look_up_finds_what_would_have_been_found_on_arrival(
    folder: bytes, service: Service
) -> None:
    files = [service.take_in(b"%d.txt" % number, each) for number, each in enumerate(TEXTS)]
    assert [service.found(file) for file in files] == [{}] * len(TEXTS)
    service.look_up(*KEYWORDS)
    os.mkdir(folder + b"/other")
    other = Service(folder + b"/other", KEYWORDS)
    try:
        expected = [
            other.found(other.take_in(b"%d.txt" % number, each))
            for number, each in enumerate(TEXTS)
        ]
    finally:
        other.close()
    assert [service.found(file) for file in files] == expected
    assert expected[0] == {"invoice": [1, 3]}
    assert expected[5] == {"invoice": [60_001, 90_002], "payment due": [60_001]}


def test_only_what_is_new_is_looked_up_and_what_was_recorded_stays(service: Service) -> None:
    file = service.take_in(b"a.txt", b"one two three\n")
    service.look_up("one")
    service.look_up("two")
    assert service.found(file) == {"one": [1], "two": [1]}
    service.look_up()
    assert service.found(file) == {"one": [1], "two": [1]}


def test_what_is_looked_up_is_known_after_a_restart(service: Service, folder: bytes) -> None:
    service.take_in(b"a.txt", b"one\n")
    service.look_up("one", "two")
    again = Keywords(service.state.folder, lambda: LOCK, lambda _: None)
    again.want(("two", "one"))
    assert not again.is_busy()
    again.want(("one", "three"))
    assert again.is_busy()


def test_a_look_up_that_was_stopped_begins_anew_at_the_next_start(service: Service) -> None:
    file = service.take_in(b"a.txt", b"one\n")
    service.keywords.want(("one",))
    service.keywords.tick(0.0, may_begin=False)  # workers of old are there still
    service.keywords.stop()
    service.keywords = Keywords(service.state.folder, lambda: LOCK, service._root_of)
    service.look_up("one")
    assert service.found(file) == {"one": [1]}


def test_a_file_that_changed_since_is_left_to_whoever_takes_it_in_next(service: Service) -> None:
    grown = service.take_in(b"grown.txt", b"one\n")
    rewritten = service.take_in(b"rewritten.txt", b"one\n")
    away = service.take_in(b"away.txt", b"one\n")
    with open(service.inbox + b"/grown.txt", "ab") as file:
        file.write(b"two\n")
    with open(service.inbox + b"/rewritten.txt", "wb") as file:
        file.write(b"two one\nand more\n")
    os.unlink(service.inbox + b"/away.txt")
    service.look_up("one")
    assert service.found(grown) == {"one": [1]}  # its first take is in it as it was
    assert service.found(rewritten) == {}
    assert service.found(away) == {}


def test_a_damaged_record_means_that_all_is_looked_up_once_more(service: Service) -> None:
    file = service.take_in(b"a.txt", b"one\n")
    with open(os.path.join(service.state.folder, FILE_NAME), "w") as record:
        record.write('["one", ')
    service.look_up("one")
    assert service.found(file) == {"one": [1]}


def test_a_range_of_a_large_text_counts_before_all_of_them_are_there(service: Service) -> None:
    line = b"filler words here\n"
    content = b"invoice\n" + line * (RANGE // len(line) + 1000)
    file = service.take_in(b"big.txt", content)
    service.look_up("invoice")
    assert service.found(file) == {"invoice": [1]}

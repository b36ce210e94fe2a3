"""A watch-list hit is told once a line, however often its file grows, and never not at all."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator

import pytest

from dropmill import feeder as feeder_module
from dropmill.feeder import Feeder
from dropmill.job import Job, Kind, Lane, Verdict
from dropmill.processors import text
from dropmill.source import look
from dropmill.store.ledger import Admission, Ledger
from dropmill.store.reading import Reader
from dropmill.worker import Message, Worker, WorkerSettings

Keywords = dict[str, list[int]]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred bytes are a large text."""
    for module, name, value in (
        (text, "BLOCK", 64), (text, "OVERLAP", 32), (text, "RANGE", 256),
        (feeder_module, "RANGE", 256),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


class Hands:
    """Stands where the pool stands, and keeps what it is given."""

    size = 2

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def has_room(self) -> bool:
        return len(self.jobs) < 6

    def put(self, jobs: list[Job]) -> bool:
        self.jobs += jobs
        return True


class Service:
    """One file in an inbox; ledger, feeder and worker are the real ones."""

    def __init__(self, folder: bytes) -> None:
        self.inbox = os.path.join(folder, b"inbox")
        self.path = os.path.join(self.inbox, b"log")
        self.state_folder = os.path.join(folder, b"state")
        os.mkdir(self.inbox)
        os.mkdir(self.state_folder)
        self.ledger = Ledger(self.state_folder)
        self.reports, sending = multiprocessing.Pipe(duplex=False)
        settings = WorkerSettings(
            self.state_folder, 1, os.path.join(folder, b"out"), "{stem}{suffix}",
            {self.inbox: b"inbox"}, ("invoice", "due date"), 3, 1 << 30, 10**8, "info", "plain",
        )  # fmt: skip
        lock = multiprocessing.get_context("spawn").Lock()
        self.worker = Worker(0, settings, lock, sending)
        self.hands = Hands()
        self.feeder = Feeder(self.ledger, self.hands, lambda _: self.inbox)  # type: ignore[arg-type]
        self.clock = 10**18
        self.chooser = random.Random(1)

    def close(self) -> None:
        self.worker.close()
        self.worker._membership.close()
        self.ledger.close()
        self.reports.close()

    def told(self, content: bytes, mode: str = "wb") -> Keywords:
        """What is told once the file holds that content, or has grown by it."""
        with open(self.path, mode) as file:
            file.write(content)
        self.clock += 1
        os.utime(self.path, ns=(self.clock, self.clock))
        mark = look(self.path)
        assert mark is not None
        lane = Lane.LARGE if mark.size > text.RANGE else Lane.FRESH
        seen = Admission(self.inbox, b"log", mark._replace(device=0), Kind.TEXT, lane)
        self.ledger.admit([seen])
        return self._work()

    def _work(self) -> Keywords:
        found: Keywords = {}
        self.feeder.fill()
        while self.hands.jobs:
            job = self.hands.jobs.pop(self.chooser.randrange(len(self.hands.jobs)))
            self.worker.work(Message(1, (job,)))
            (report,) = self.reports.recv().reports
            assert report.verdict in (Verdict.DONE, Verdict.PART, Verdict.UNCHANGED)
            assert not (report.keywords and found), "told once a version"
            found = report.keywords or found
            self.feeder.landed(job)
            if report.verdict is Verdict.PART:
                self.feeder.first_range_done(job)
            self.feeder.fill()
        return found

    def recorded(self) -> Keywords:
        with Reader(self.state_folder) as reader:
            row = reader.file(self.path)
            assert row is not None
            return reader.keywords(row.id)


@pytest.fixture
def service(folder: bytes) -> Iterator[Service]:
    made = Service(folder)
    yield made
    made.close()


def test_a_hit_is_told_once_however_often_its_log_grows(service: Service) -> None:
    assert service.told(b"one\ninvoice\n") == {"invoice": [2]}
    assert service.told(b"two\n", "ab") == {}
    assert service.told(b"invoice\n", "ab") == {"invoice": [4]}
    assert service.told(b"due date\n", "ab") == {"due date": [5]}
    assert service.recorded() == {"invoice": [2, 4], "due date": [5]}


def test_a_line_that_is_finished_later_is_told_when_it_first_holds_the_word(
    service: Service,
) -> None:
    assert service.told(b"inv") == {}
    assert service.told(b"oice", "ab") == {"invoice": [1]}
    assert service.told(b" paid\n", "ab") == {}
    assert service.told(b"invoice", "ab") == {"invoice": [2]}
    assert service.told(b"\ninvoice", "ab") == {"invoice": [3]}


def test_a_rewrite_is_told_anew_and_an_edit_from_where_it_is(service: Service) -> None:
    lines = [b"invoice %03d\n" % number for number in range(40)]
    content = b"".join(lines)
    service.told(content)
    (told,) = service.told(content.replace(b"036", b"xyz")).values()
    assert told[0] > 10, "what lies before the edit was told"
    assert told[-1] == 37, "and so was what lies well behind it"
    assert service.told(b"another invoice\n") == {"invoice": [1]}


def test_a_text_worked_on_in_ranges_is_told_at_its_end(service: Service) -> None:
    content = b"".join(b"invoice %d\nsomething\n" % number for number in range(60))
    assert service.told(content) == {"invoice": list(range(1, 120, 2))}
    assert service.told(content, "ab") == {"invoice": list(range(121, 240, 2))}
    assert service.recorded() == {"invoice": list(range(1, 240, 2))}


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_appended_each_line_is_told_once(service: Service, seed: int) -> None:
    chooser = random.Random(seed)
    content, told = b"", []
    for _ in range(12):
        words = [
            chooser.choice([b"invoice", b"x", b"longer"]) for _ in range(chooser.choice((1, 5, 20)))
        ]
        more = b"".join(word + chooser.choice([b" ", b"\n", b"\n"]) for word in words)
        content += more
        told += service.told(more, "ab").get("invoice", [])
    lines = content.split(b"\n")
    expected = [number for number, line in enumerate(lines, 1) if b"invoice" in line]
    assert told == expected
    assert service.recorded().get("invoice", []) == expected

"""Data sets: taken in exactly once, whatever happens to the file, its rules and the workers."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dropmill import feeder as feeder_module
from dropmill.datasets.engine import load
from dropmill.datasets.expression import aggregate, condition
from dropmill.datasets.partial import Partial, answer, combine
from dropmill.datasets.rule import Rule, RuleSet
from dropmill.datasets.table import Table, format_of
from dropmill.feeder import Feeder
from dropmill.job import Job, Kind, Lane, Outcome, State, Verdict
from dropmill.opening import opened
from dropmill.processors import dataset, text
from dropmill.source import look
from dropmill.store import aggregates as aggregates_module
from dropmill.store.ledger import Admission, Ledger
from dropmill.store.reading import Reader
from dropmill.worker import Worker, WorkerSettings

load()
BLOCK, RANGE = 64, 256


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred bytes are a large table."""
    for module in (text, feeder_module):
        monkeypatch.setattr(module, "RANGE", RANGE)
    monkeypatch.setattr(dataset, "RANGE", RANGE)
    monkeypatch.setattr(dataset, "TEXT_RANGE", RANGE)
    monkeypatch.setattr(text, "BLOCK", BLOCK)
    monkeypatch.setattr(text, "OVERLAP", 16)


def rule(name: str = "sales", match: str = "*.csv", **more: Any) -> Rule:
    of = (("total", aggregate("sum(a)")), ("n", aggregate("count()")))
    return Rule(name, match, None, (), of, False, None)._replace(**more)


class Pool:
    """Stands where the pool stands, and keeps the jobs."""

    size = 2

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def has_room(self) -> bool:
        return len(self.jobs) < 8

    def put(self, jobs: list[Job]) -> bool:
        self.jobs += jobs
        return True

    def put_alone(self, job: Job) -> None:
        self.jobs.append(job)


class Place:
    """An inbox with data sets, and two workers that take them in; ledger and shards are real."""

    def __init__(self, folder: Path, rules: RuleSet, seed: int = 0) -> None:
        self.chooser = random.Random(seed)
        self.inbox, self.state, self.output = folder / "inbox", folder / "state", folder / "out"
        for each in (self.inbox, self.state):
            each.mkdir(parents=True, exist_ok=True)
        self._lock = multiprocessing.get_context("spawn").Lock()
        self._reports = multiprocessing.Pipe(duplex=False)
        self.jobs: list[Job] = []  # all that were worked on
        self.reasons: dict[str, str | None] = {}
        self.with_rules(rules)

    def with_rules(self, rules: RuleSet) -> None:
        """(Re)starts with these rules."""
        self.close()
        self.rules = rules
        self.ledger = Ledger(os.fsencode(self.state))
        self.workers = [
            Worker(number, self._settings(), self._lock, self._reports[1]) for number in (0, 1)
        ]
        self.pool = Pool()
        self.let_go: set[str] = set()
        self.feeder = Feeder(
            self.ledger,
            self.pool,  # type: ignore[arg-type]
            lambda folder: os.fsencode(self.inbox),
            lambda name, kind: dataset.stride(rules, name, kind),
        )

    def _settings(self) -> WorkerSettings:
        return WorkerSettings(
            os.fsencode(self.state), 2, os.fsencode(self.state / "gray"), "{stem}{suffix}",
            {os.fsencode(self.inbox): b"inbox"}, (), 3, 1 << 30, 10**8, "info", "plain", self.rules,
        )  # fmt: skip

    def close(self) -> None:
        for worker in getattr(self, "workers", ()):
            worker.close()
            worker._membership.close()
        if hasattr(self, "ledger"):
            self.ledger.close()

    def write(self, name: str, content: bytes) -> Path:
        path = self.inbox / name
        path.write_bytes(content)
        return path

    def notice(self, *names: str) -> None:
        """What a scan finds of these names."""
        paths = [os.fsencode(self.inbox / name) for name in names]
        self.ledger.absence.mark_gone([path for path in paths if look(path) is None])
        admissions = []
        for path in paths:
            seen = look(path)
            if seen is not None:
                name = os.path.basename(path)
                kind = Kind.DATASET if self.rules.of(os.fsdecode(name)) else Kind.TEXT
                lane = Lane.LARGE if seen.size > RANGE else Lane.FRESH
                mark = seen._replace(device=0)
                admissions.append(Admission(*os.path.split(path), mark, kind, lane))
        self.ledger.admit(admissions)

    def take_in(self, *names: str) -> list[Verdict]:
        """Notices them and works until nothing is left, each job by any of the workers."""
        self.notice(*names)
        verdicts: list[Verdict] = []
        for _ in range(1_000):
            self.feeder.fill()
            if not self.pool.jobs and not self.let_go:
                return verdicts
            if not self.pool.jobs:
                self.notice(*self.let_go)
                self.let_go.clear()
                continue
            job = self.pool.jobs.pop(self.chooser.randrange(len(self.pool.jobs)))
            verdicts.append(self.work(job))
        raise AssertionError("it never comes to an end")

    def work(self, job: Job) -> Verdict:
        worker = self.chooser.choice(self.workers)
        report, outcome = self.commit(worker, self.process(worker, job))
        if report is Verdict.VERIFYING:
            self.feeder.landed(job)
            self.feeder.go_on(job, outcome.trusted)
            return report
        if report in (Verdict.BUSY, Verdict.CHANGED, Verdict.VANISHED):
            self.ledger.faults.let_go([job.file])
            self.let_go.add(os.fsdecode(job.path))
        if report not in (Verdict.DONE, Verdict.PART, Verdict.STALE):
            self.feeder.drop(job.file)
        self.feeder.landed(job)
        if report in (Verdict.PART, Verdict.STALE):
            self.feeder.first_range_done(job)
        return report

    def process(self, worker: Worker, job: Job) -> Outcome:
        self.jobs.append(job)
        with opened([job], lambda job: None, lambda root: True) as sources:
            ((_, found),) = [(job, found) for job, found in sources if [job, found]]
            return worker._outcome(1, job, found)

    def commit(self, worker: Worker, outcome: Outcome) -> tuple[Verdict, Outcome]:
        (report,) = worker._commit(1, [outcome])
        self.reasons[os.fsdecode(outcome.job.path)] = report.reason
        return report.verdict, outcome

    # ---- what is known -----------------------------------------------------------------------

    def state_of(self, name: str) -> State:
        file = self.ledger.find(os.fsencode(self.inbox / name))
        (state,) = self.ledger.one("SELECT state FROM files WHERE id = ?", (file,))
        return State(state)

    def total(self, by: str = "sales") -> Any:
        """What all files come to, as `aggregate` adds it up; None: nothing is known."""
        with Reader(os.fsencode(self.state)) as reader:
            partials = [
                partial
                for path, digest, partial in reader.aggregated(by, None)
                if digest == self.rules.digest(os.fsdecode(os.path.basename(path)))
            ]
        if not partials:
            return None
        ((_, values),) = answer(combine(partials[0].shape, partials))
        return values

    def partials(self, name: str) -> dict[str, Partial]:
        file = self.ledger.find(os.fsencode(self.inbox / name))
        with Reader(os.fsencode(self.state)) as reader:
            return reader.datasets(file) if file is not None else {}

    def words(self) -> int:
        return int(self.ledger.one("SELECT count(*) FROM takes WHERE state = 1")[0])


ONE = RuleSet((rule(),))
NO_TEXT = RuleSet((rule(),), frozenset({".txt"}))


@pytest.fixture(params=[ONE, NO_TEXT], ids=["text too", "no text"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(tmp_path, request.param)
    yield made
    made.close()


def table(numbers: list[int], tail: bytes = b"\n") -> bytes:
    """Records of which every fifth has a line break and a quotation mark in it."""
    notes = ['"x\n""y"' if number % 5 == 0 else f"note {number}" for number in numbers]
    lines = [f"{number},{note}" for number, note in zip(numbers, notes, strict=True)]
    return "\n".join(["a,note", *lines]).encode() + tail


@pytest.mark.parametrize("count", [0, 1, 5, 30, 300])
def test_every_record_counts_once_in_whatever_order_the_ranges_come(
    place: Place, count: int
) -> None:
    numbers = list(range(count))
    place.write("a.csv", table(numbers))
    verdicts = place.take_in("a.csv")
    assert verdicts.count(Verdict.DONE) == 1
    assert place.total() == (sum(numbers), count)
    if count == 300:
        assert len(verdicts) > 10, "it was worked on in ranges"


def test_growth_takes_only_the_last_block_again(place: Place) -> None:
    numbers = list(range(200))
    path = place.write("a.csv", table(numbers, tail=b""))
    place.take_in("a.csv")
    before = {take for (take,) in place.ledger.all("SELECT id FROM takes WHERE state = 1")}
    with path.open("ab") as file:
        file.write(b"\n1000,more\n")
    place.take_in("a.csv")
    assert place.total() == (sum(numbers) + 1000, 201)
    after = {take for (take,) in place.ledger.all("SELECT id FROM takes WHERE state = 1")}
    assert len(before - after) == 1


def test_a_number_that_grows_is_one_number(place: Place) -> None:
    path = place.write("a.csv", b"a,b\n1,2\n12")
    for added, total in ((b"", 13), (b"3", 124), (b",x\n", 124), (b'5,"', None), (b'x\n"', 129)):
        with path.open("ab") as file:
            file.write(added)
        place.take_in("a.csv")
        assert (place.total() or (None,))[0] == total
    assert place.state_of("a.csv") is State.DONE


@pytest.mark.parametrize("at", [30, 200, 900])
def test_an_edit_in_the_middle_is_counted_and_what_was_there_is_not(place: Place, at: int) -> None:
    numbers = list(range(100, 300))
    path = place.write("a.csv", table(numbers))
    place.take_in("a.csv")
    content = path.read_bytes()
    line = content.index(b"\n1", at) + 1
    path.write_bytes(content[:line] + b"9" + content[line + 1 :])
    was = int(content[line : line + 3])
    place.take_in("a.csv")
    assert place.total() == (sum(numbers) - was + (was % 100) + 900, 200)


def test_a_quotation_mark_that_opens_changes_all_that_follows(place: Place) -> None:
    path = place.write("a.csv", b"a,b\n" + b"1,x\n" * 200)
    place.take_in("a.csv")
    assert place.total() == (200, 200)
    path.write_bytes(b'a,b\n1,"x\n' + b"1,x\n" * 198 + b'1,x"\n')
    place.take_in("a.csv")
    assert place.total() == (1, 1)


def test_a_rename_keeps_what_it_came_to_and_moves_the_csv_file(tmp_path: Path) -> None:
    rules = RuleSet((rule(output=os.fsencode(tmp_path / "out")),))
    place = Place(tmp_path, rules)
    place.write("a.csv", table([1, 2, 3]))
    place.take_in("a.csv")
    old, new = (tmp_path / "out/inbox" / f"{name}.csv.aggregates.csv" for name in "ab")
    assert old.read_text() == "total,n\n6,3\n"
    (place.inbox / "a.csv").rename(place.inbox / "b.csv")
    place.notice("a.csv")
    assert place.take_in("b.csv") == [Verdict.RENAMED]
    assert place.total() == (6, 3)
    assert (old.exists(), new.read_text()) == (False, "total,n\n6,3\n")
    place.close()


def test_what_is_gone_counts_no_more_and_counts_again_when_it_is_back(place: Place) -> None:
    path = place.write("a.csv", table([1, 2, 3]))
    place.write("b.csv", table([10]))
    place.take_in("a.csv", "b.csv")
    assert place.total() == (16, 4)
    path.rename(path.parent.parent / "away")
    place.take_in("a.csv")
    assert place.total() == (10, 1)
    (path.parent.parent / "away").rename(path)
    place.take_in("a.csv")
    assert place.total() == (16, 4)


def test_a_changed_rule_takes_its_files_in_anew(place: Place) -> None:
    place.write("a.csv", table(list(range(100))))
    place.take_in("a.csv")
    changed = rule(where=condition("a % 2 = 0"))
    place.with_rules(RuleSet((changed,), frozenset({".csv"})))
    assert place.total() is None, "what an older rule came to is not told for the new one's"
    place.take_in("a.csv")
    place.notice("a.csv")
    place.ledger.admit([])
    assert place.state_of("a.csv") in (State.DONE, State.QUEUED)


def test_a_data_set_that_becomes_a_text_counts_no_more_even_if_the_rule_comes_back(
    place: Place,
) -> None:
    path = place.write("a.csv", table([1, 2, 3]))
    place.take_in("a.csv")
    assert place.total() == (6, 3)
    rules = place.rules
    place.with_rules(RuleSet())
    path.write_bytes(table([7]))
    place.take_in("a.csv")
    assert place.partials("a.csv") == {}
    place.with_rules(rules)
    assert place.total() is None
    path.write_bytes(table([8, 9]))
    place.take_in("a.csv")
    assert place.total() == (17, 2)


def test_several_rules_each_have_their_results(tmp_path: Path) -> None:
    rules = RuleSet((rule(), rule("even", "a*", where=condition("a % 2 = 0")), rule("no", "z*")))
    place = Place(tmp_path, rules)
    place.write("a.csv", table(list(range(100))))
    place.take_in("a.csv")
    assert place.total() == (4950, 100)
    assert place.total("even") == (2450, 50)
    assert place.total("no") is None
    place.close()


@pytest.mark.parametrize("count", [3, 300])
def test_a_bad_cell_quarantines_the_file_with_its_line_and_takes_its_results_away(
    place: Place, count: int
) -> None:
    path = place.write("a.csv", table(list(range(count))))
    place.take_in("a.csv")
    content = path.read_bytes()
    path.write_bytes(content + b"many,x\n")
    verdicts = place.take_in("a.csv")
    assert Verdict.QUARANTINED in verdicts
    line = content.count(b"\n") + 1
    assert place.reasons["a.csv"] == (
        f'line {line}, column a: "many" is no number (by the rule sales)'
    )
    assert place.total() is None
    path.write_bytes(content)
    place.take_in("a.csv")
    assert place.total() == (sum(range(count)), count)


def test_a_quotation_mark_that_is_never_closed_is_told_by_the_line_it_stands_in(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dropmill.datasets import table as table_module

    monkeypatch.setattr(table_module, "LONGEST_RECORD", 2_000)
    monkeypatch.setattr(table_module, "_STEP", 100)
    for filler in (50, 5_000):
        place.write("a.csv", b"a,b\n" + b"1,x\n" * 40 + b'1,"x\n' + b"1,x\n" * filler)
        place.take_in("a.csv")
        assert place.state_of("a.csv") is State.QUARANTINED
        assert str(place.reasons["a.csv"]).startswith("line 42: "), place.reasons


def test_blank_lines_before_a_header_may_be_many(place: Place) -> None:
    place.write("a.csv", b"\n" * 900 + table(list(range(50))))
    place.take_in("a.csv")
    assert place.total() == (1225, 50)


def test_too_many_groups_over_all_pieces_are_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dropmill.datasets import partial as partial_module

    monkeypatch.setattr(partial_module, "MOST_GROUPS", 50)
    place = Place(tmp_path, RuleSet((rule(group_by=("a",)),)))
    place.write("a.csv", table(list(range(300))))
    place.take_in("a.csv")
    assert place.state_of("a.csv") is State.QUARANTINED
    assert "more than 50 groups" in str(place.reasons["a.csv"])
    place.close()


def test_what_goes_wrong_while_results_are_combined_is_tried_again_and_then_quarantined(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died of it would die of it for ever."""

    def fails(*given: object) -> Partial:
        raise KeyError("surprise")

    monkeypatch.setattr(aggregates_module, "combine", fails)
    place.write("a.csv", table([1]))
    assert place.take_in("a.csv") == [Verdict.RETRY]
    assert "KeyError" in str(place.reasons["a.csv"])
    monkeypatch.undo()


def test_a_csv_name_that_is_taken_by_a_folder_is_told_and_tried_again(tmp_path: Path) -> None:
    place = Place(tmp_path, RuleSet((rule(output=os.fsencode(tmp_path / "out")),)))
    taken = tmp_path / "out/inbox/a.csv.aggregates.csv"
    (taken / "full").mkdir(parents=True)
    place.write("a.csv", table([1]))
    assert place.take_in("a.csv") == [Verdict.RETRY]
    assert "cannot be put in place" in str(place.reasons["a.csv"])
    assert not [each for each in taken.parent.iterdir() if each != taken]
    place.close()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_workers_lose_on_the_way_every_record_counts_once(
    tmp_path: Path, seed: int
) -> None:
    """Jobs are lost before and after their commit, and given out again; files change meanwhile."""
    place = Place(tmp_path, ONE if seed % 2 else NO_TEXT, seed)
    chooser = place.chooser
    wanted: dict[str, list[int]] = {}
    for _ in range(12):
        name = chooser.choice(["a.csv", "b.csv"])
        deed = chooser.choice(["write", "append", "delete", "append"])
        if deed == "delete":
            wanted.pop(name, None)
            (place.inbox / name).unlink(missing_ok=True)
        else:
            old = wanted.get(name, []) if deed == "append" else []
            wanted[name] = old + [chooser.randrange(10**6) for _ in range(chooser.randrange(90))]
            place.write(name, table(wanted[name], chooser.choice([b"", b"\n"])))
        place.notice(name)
        for _ in range(chooser.randrange(12)):
            place.feeder.fill()
            if not place.pool.jobs:
                break
            job = place.pool.jobs.pop(chooser.randrange(len(place.pool.jobs)))
            fate = chooser.random()
            if fate < 0.2:
                place.feeder.returned([job])  # its worker died
            elif fate < 0.4:
                worker = chooser.choice(place.workers)
                place.commit(worker, place.process(worker, job))
                place.feeder.returned([job])  # its worker died after the commit
            else:
                place.work(job)
    # A restart, and a scan.
    place.with_rules(place.rules)
    place.take_in("a.csv", "b.csv")
    assert not place.ledger.has_queued()
    everything = [number for numbers in wanted.values() for number in numbers]
    assert (place.total() or (0, 0)) == (sum(everything), len(everything))
    place.close()


def test_quotation_marks_are_counted_once_whatever_comes_in_between() -> None:
    """Of a large file; or many small ones that overtake it would have it read again each time."""
    read = 0

    def counting(first: int, end: int) -> bytes:
        nonlocal read
        read += end - first
        return b'"x",1\n' * ((end - first) // 6 + 1)

    kept, size = dataset.DataSets(), 100 << 20
    large, small = (Table(format_of("a.csv"), "utf-8", ("a", "b"), 4) for _ in range(2))
    for position in range(0, size, 4 << 20):
        kept.borders("large", large, size, counting).is_within(position)
        kept.borders(position, small, 100, lambda first, end: b"").is_within(50)
    assert read <= 101 << 20


def test_of_many_groups_nothing_is_kept_but_the_result_and_growth_counts_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregates_module, "_MOST_KEPT", 10)
    place.write("a.csv", table(list(range(40))))
    place.take_in("a.csv")
    assert place.total() == (780, 40)
    place.write("a.csv", table(list(range(41))))
    place.take_in("a.csv")
    assert place.total() == (820, 41)

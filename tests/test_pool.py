"""The pool: a worker's death costs as little as it can, and the blame is exact."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import pickle
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from dropmill import spawning
from dropmill.errors import DropmillError
from dropmill.job import Fingerprint, Job, Kind, Outcome, Report, State, Take, Verdict
from dropmill.pool import Event, Finished, Killed, Pool, Returned, Trouble
from dropmill.processors import PROCESSORS, Workbench
from dropmill.slots import Phase, Slot
from dropmill.worker import Done, Message, WorkerSettings, main

from .ledgers import MadeState

_real_text = PROCESSORS[Kind.TEXT]


def main_with_poison(*arguments: Any) -> None:
    """A worker as it is, but for what it does with the files of these tests."""
    PROCESSORS[Kind.TEXT] = _poisonous
    main(*arguments)


def main_that_fails(*_: Any) -> None:
    raise SystemExit(1)


def _poisonous(descriptor: int, job: Job, size: int, started: int, bench: Workbench) -> Outcome:
    match os.pread(descriptor, 20, 0):
        case b"exit":
            os._exit(3)
        case b"leave":
            os._exit(0)
        case b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hang":
            while True:
                time.sleep(60)
        case b"eat":
            held = bytearray(1 << 30)
            held[::4096] = b"x" * len(held[::4096])
        case b"eat shared":
            _eat_shared()
        case b"slow":
            while not os.path.exists(job.root + b"/go"):
                time.sleep(0.005)
        case b"slower":
            while not os.path.exists(job.root + b"/go on"):
                time.sleep(0.005)
        case b"busy":
            while not os.path.exists(job.root + b"/go"):
                pass
        case b"bug":
            raise ZeroDivisionError("a bug of ours")
    return _real_text(descriptor, job, size, started, bench)


def _eat_shared() -> None:
    held = mmap.mmap(-1, 1 << 30)  # shared: counts as resident, and not against RLIMIT_DATA
    for place in range(0, 1 << 30, 4096):
        held[place] = 1
    time.sleep(60)


def test_a_message_and_its_reports_travel_as_what_they_are() -> None:
    take = Take(5, 0, 9, b"digest", 1, False, {"word": [1]})
    fingerprint = Fingerprint(1, 2, 3, 4, 5)
    job = Job(7, 8, 9, Kind.IMAGE, b"/srv", b"a.jpg", fingerprint, known=(take,), moved_from=4)
    report = Report(7, 8, Verdict.SKIPPED, "why", True, 3, {"word": [1, 2]})
    for sent in (
        Message(1, (job, job._replace(take=10))),
        Message(2, ()),
        Message(3, (), ping=True),
        Done(1, (report,)),
        Done(1, (), returned=True),
        Done(1, (), "full", broken=True),
    ):
        arrived = pickle.loads(pickle.dumps(sent))
        assert arrived == sent
        assert repr(arrived) == repr(sent)  # named tuples are equal to plain ones


class Service:
    """A pool with a ledger and an inbox, and what happened."""

    def __init__(
        self, folder: bytes, *, workers: int = 2, timeout: float = 60, memory: int = 1 << 30
    ) -> None:
        self.inbox = folder + b"/inbox"
        os.mkdir(self.inbox)
        self.output = folder + b"/out"
        self.state = MadeState(folder + b"/state")
        self.settings = WorkerSettings(
            self.state.folder, workers, self.output, "{stem}{suffix}", {self.inbox: b"inbox"},
            ("needle",), 3, memory, 10**8, "error", "plain",
        )  # fmt: skip
        self.pool = Pool(self.settings, timeout)
        self.events: list[Event] = []
        self._take = 0

    def start(self) -> None:
        self.pool.start()
        size = self.pool.size
        self.until(lambda: len(self.slots(Phase.WAITING)) == size, "all workers wait")

    def job(self, name: bytes, content: bytes = b"one\n", kind: Kind = Kind.TEXT) -> Job:
        path = os.path.join(self.inbox, name)
        if kind is Kind.IMAGE:
            Image.new("RGB", (8, 8), "red").save(os.fsdecode(path))
        else:
            with open(path, "wb") as file:
                file.write(content)
        row = self.state.admit(path, kind)
        self._take += 1
        return Job(self._take, row.id, row.seq, kind, self.inbox, name, row.fingerprint)

    def go(self, *names: bytes) -> None:
        """Lets the slow go on (`/go`), and the slower (`/go on`)."""
        for name in names or (b"/go", b"/go on"):
            with open(self.inbox + name, "wb"):
                pass

    def slots(self, phase: Phase, take: int | None = None) -> list[int]:
        """Numbers of the workers in that phase (with that take in hand)."""
        return [
            number
            for number, (_, slot, _) in enumerate(self.pool.doing())
            if slot.phase is phase and take in (None, slot.take)
        ]

    def turn(self) -> None:
        self.events += self.pool.collect()
        self.events += self.pool.tick(time.monotonic())

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s: {self.events}"
            self.turn()
            time.sleep(0.002)
        return value

    def verdict(self, job: Job) -> Verdict:
        """The verdict on a job, once it is there."""

        def found() -> list[Verdict]:
            finished = [each for each in self.events if isinstance(each, Finished)]
            pairs = [pair for each in finished for pair in each.reports]
            return [report.verdict for done, report in pairs if done.take == job.take]

        verdicts: list[Verdict] = self.until(found, f"a verdict on {job.path!r}")
        assert len(verdicts) == 1
        return verdicts[0]

    def killed(self, job: Job) -> Killed:
        def found() -> list[Killed]:
            return [e for e in self.events if isinstance(e, Killed) and e.job.take == job.take]

        deaths: list[Killed] = self.until(found, f"a death with {job.path!r} in hand")
        assert len(deaths) == 1
        return deaths[0]

    def returned(self) -> list[int]:
        returned = [each for each in self.events if isinstance(each, Returned)]
        return sorted(job.take for each in returned for job in each.jobs)

    def kill_worker(self, number: int, with_signal: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError, IndexError):  # dead already
            os.kill(self.pool.doing()[number][0], with_signal)

    def works(self) -> bool:
        """Whether a file put now is done: nobody hangs, no lock is left held."""
        left = [self.job(b"probe-%d-%d" % (self._take, each)) for each in range(4)]
        for _ in range(20):
            for job in left:
                self.until(self.pool.has_room, "room")
                assert self.pool.put([job])
            self.until(self.pool.idle, "an end")
            left = [job for job in left if job.take not in self.finished()]
            if not left:
                return True
        return False

    def finished(self) -> set[int]:
        finished = [each for each in self.events if isinstance(each, Finished)]
        return {job.take for each in finished for job, _ in each.reports}

    def stop(self) -> None:
        self.events += self.pool.kill()
        self.state.close()


@pytest.fixture
def service(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(spawning, "main", main_with_poison)
    made = Service(folder, timeout=60, memory=400 << 20)
    made.start()
    yield made
    made.stop()
    assert not multiprocessing.active_children()


@pytest.fixture
def hasty(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """With a time-out of half a second."""
    monkeypatch.setattr(spawning, "main", main_with_poison)
    made = Service(folder, timeout=0.5)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def lone(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """With one worker."""
    monkeypatch.setattr(spawning, "main", main_with_poison)
    made = Service(folder, workers=1)
    made.start()
    yield made
    made.stop()


# ---- work --------------------------------------------------------------------------------------


def test_every_job_of_a_message_gets_its_report(service: Service) -> None:
    jobs = [service.job(b"%d" % number, b"needle\n") for number in range(20)]
    assert service.pool.put(jobs)
    assert {service.verdict(job) for job in jobs} == {Verdict.DONE}
    assert service.pool.idle()
    assert service.state.ledger.counts() == {State.DONE: 20}


def test_files_of_the_root_and_of_folders_go_in_one_message(service: Service) -> None:
    os.makedirs(service.inbox + b"/deep/er")
    names = (b"a", b"deep/b", b"deep/er/c", b"deep/z", b"y", b"z")
    jobs = [service.job(name) for name in names]
    service.pool.put(jobs)
    assert [service.verdict(job) for job in jobs] == [Verdict.DONE] * len(names)


def test_a_full_queue_takes_no_more_and_loses_nothing(service: Service) -> None:
    jobs = [service.job(b"%d" % number, b"slow") for number in range(40)]
    sent = [job for job in jobs if service.pool.has_room() and service.pool.put([job])]
    service.until(lambda: not service.pool.has_room() or len(sent) == 40, "a full queue")
    assert len(sent) < 40
    service.go()
    assert {service.verdict(job) for job in sent} == {Verdict.DONE}


def test_a_bug_of_ours_costs_one_attempt_and_no_worker(service: Service) -> None:
    bad, good = service.job(b"bad", b"bug"), service.job(b"good")
    service.pool.put([bad, good])
    assert (service.verdict(bad), service.verdict(good)) == (Verdict.RETRY, Verdict.DONE)


# ---- killed from outside -----------------------------------------------------------------------


def test_a_worker_killed_while_it_waits_costs_nobody_anything(service: Service) -> None:
    for number in (0, 1, 0):
        service.kill_worker(number)
        assert service.works()
    assert not [each for each in service.events if isinstance(each, Killed)]


def test_a_worker_killed_while_it_works_is_replaced_alone_and_nobody_is_charged(
    service: Service,
) -> None:
    job, other = service.job(b"job", b"slow"), service.job(b"other")
    service.pool.put([job, other])
    (number,) = service.until(lambda: service.slots(Phase.WORKING, job.take), "it works")
    sibling = service.pool.doing()[1 - number][0]
    service.kill_worker(number)
    assert not service.killed(job).charged
    assert service.returned() == [other.take]
    assert service.works()
    assert service.pool.doing()[1 - number][0] == sibling


def test_a_worker_killed_while_it_commits_leaves_no_lock_behind(service: Service) -> None:
    job, waiting = service.job(b"job"), service.job(b"waiting", b"slow")
    service.pool._outbox.lock.acquire()
    service.pool.put([job])
    (number,) = service.until(lambda: service.slots(Phase.COMMITTING), "it commits")
    service.pool.put([waiting])
    service.until(lambda: service.slots(Phase.WORKING, waiting.take), "the other works")
    service.kill_worker(number)
    service.until(lambda: len(service.returned()) == 2, "both go back")
    assert service.returned() == [job.take, waiting.take]
    assert not [each for each in service.events if isinstance(each, Killed)]
    service.go()
    assert service.works()


def test_killing_workers_again_and_again_hangs_nobody(service: Service) -> None:
    for turn in range(12):
        job = service.job(b"%d" % turn)
        service.until(service.pool.has_room, "room")
        service.pool.put([job])
        service.kill_worker(turn % 2)
        service.turn()
    assert service.works()
    assert not [each for each in service.events if isinstance(each, Killed) and each.charged]


def test_a_worker_that_was_asked_to_end_charges_nobody(service: Service) -> None:
    job = service.job(b"job", b"slow")
    service.pool.put([job])
    (number,) = service.until(lambda: service.slots(Phase.WORKING, job.take), "it works")
    service.kill_worker(number, signal.SIGTERM)
    assert not service.killed(job).charged


# ---- a machine that gives no process -----------------------------------------------------------


@contextlib.contextmanager
def no_descriptors(but: int = 0) -> Iterator[None]:
    """As long as it lasts this process can open nothing, or only so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + but, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def trouble(service: Service) -> list[Trouble]:
    return [each for each in service.events if isinstance(each, Trouble)]


@pytest.mark.parametrize("few", range(0, 9, 2))
def test_a_worker_that_cannot_be_started_is_trouble_and_is_tried_again(
    service: Service, few: int
) -> None:
    job = service.job(b"job", b"slow")
    service.pool.put([job])
    (number,) = service.until(lambda: service.slots(Phase.WORKING, job.take), "it works")
    with no_descriptors(but=few):
        service.kill_worker(number)
        (told,) = service.until(lambda: trouble(service), "trouble")
        assert told == Trouble("a worker cannot be started: Too many open files", [])
        assert not service.killed(job).charged
        assert len(service.pool.doing()) == 1, "its sibling lives on"
        for attempt in range(1, 8):
            assert service.pool.tick(time.monotonic()) == [], "not before it is time"
            service.pool._fill_at = 0.0
            service.events += service.pool.tick(time.monotonic())
            assert len(trouble(service)) == 1 + attempt
            delay = service.pool._fill_at - time.monotonic()
            assert min(60, 2**attempt) - 1 < delay <= 60, "less and less often"
    service.go()
    service.pool._fill_at = 0.0
    assert service.works()
    assert len(service.pool.doing()) == 2


def test_a_pool_that_finds_no_descriptor_at_its_start_comes_up_later(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Service(folder)
    with no_descriptors():
        made.pool.start()
        assert not made.pool.has_room()
    made.until(lambda: trouble(made), "trouble")
    assert made.pool._start_at is not None
    made.events += made.pool.tick(made.pool._start_at)
    assert made.works()
    made.stop()


def fork_server() -> int:
    process_id = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert isinstance(process_id, int)
    return process_id


def test_the_death_of_the_fork_server_charges_nobody_and_leaves_no_worker_behind(
    service: Service,
) -> None:
    jobs = [service.job(name, b"slow") for name in (b"one", b"two")]
    for job in jobs:
        service.pool.put([job])
    service.until(lambda: len(service.slots(Phase.WORKING)) == 2, "both work")
    handles = [os.pidfd_open(pid) for pid, _, _ in service.pool.doing()]
    os.kill(fork_server(), signal.SIGKILL)
    service.until(lambda: service.returned() == [job.take for job in jobs], "both go back")
    assert len(multiprocessing.connection.wait(handles, 0)) == 2, "they are dead"
    service.go()
    assert service.works()
    assert not [each for each in service.events if isinstance(each, Killed)]
    for handle in handles:
        os.close(handle)


def test_a_fork_server_that_dies_of_a_fork_is_trouble_and_another_comes(service: Service) -> None:
    server = fork_server()
    os.kill(server, signal.SIGSTOP)
    os.kill(service.pool.doing()[0][0], signal.SIGKILL)
    killer = threading.Timer(0.3, os.kill, (server, signal.SIGKILL))
    killer.start()
    service.pool._vacant.append(2)
    service.pool._fill()
    killer.join()
    service.until(lambda: trouble(service), "trouble")
    assert trouble(service)[0].reason == "a worker cannot be started: no more processes"
    service.pool._vacant.clear()
    assert service.works()


# ---- poison ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"exit", "its worker ended with exit status 3"),
        (b"crash", "its worker was killed by SIGSEGV"),
        (b"eat", "needs more memory than limits.memory (400MiB)"),
        (b"eat shared", "needs more memory than limits.memory (400MiB)"),
    ],
)
def test_a_file_that_kills_its_worker_is_charged_and_the_rest_of_its_message_is_not(
    service: Service, content: bytes, reason: str
) -> None:
    jobs = [service.job(b"%d" % number) for number in range(5)]
    poison = service.job(b"poison", content)
    service.pool.put([*jobs[:2], poison, *jobs[2:]])
    killed = service.killed(poison)
    assert killed.charged
    assert killed.reason == reason
    assert service.returned() == [job.take for job in jobs]
    assert service.works()


def test_a_worker_that_ends_in_mid_job_as_if_all_were_well_is_not_believed(
    service: Service,
) -> None:
    poison = service.job(b"poison", b"leave")
    service.pool.put([poison])
    assert service.killed(poison).charged
    assert service.works()


def test_a_file_that_takes_too_long_is_charged_and_the_rest_of_its_message_is_not(
    hasty: Service,
) -> None:
    poison, other = hasty.job(b"poison", b"hang"), hasty.job(b"other")
    hasty.pool.put([other, poison])
    killed = hasty.killed(poison)
    assert (killed.charged, killed.reason) == (True, "took longer than limits.timeout (0.5 s)")
    assert hasty.returned() == [other.take]
    assert hasty.works()


def sentenced_too_late(service: Service, past: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the pool kill a worker for what it had in hand a moment ago."""
    with monkeypatch.context() as patched:
        patched.setattr(service.pool._slots, "read", lambda number: past._replace(since=-1e9))
        service.pool._guard.check(service.pool._workers[0], time.monotonic())


def test_a_kill_that_comes_too_late_charges_nobody(
    lone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was at the next take, or at the next message, when the kill reached it."""
    for past in (lone.job(b"past", b"slow"), lone.job(b"other past", b"slow")):
        now = lone.job(b"z%d" % past.take, b"slower")
        lone.until(lone.pool.has_room, "room")
        lone.pool.put([past, now])
        lone.until(lambda past=past: lone.slots(Phase.WORKING, past.take), "the first")  # type: ignore[misc]
        slot = lone.pool.doing()[0][1]
        lone.go(b"/go")
        lone.until(lambda now=now: lone.slots(Phase.WORKING, now.take), "the second")  # type: ignore[misc]
        sentenced_too_late(lone, slot, monkeypatch)
        lone.until(lambda now=now: now.take in lone.returned(), "it goes back")  # type: ignore[misc]
        assert past.take in lone.returned()
        os.unlink(lone.inbox + b"/go")
    lone.go()
    assert lone.works()
    assert not [each for each in lone.events if isinstance(each, Killed)]


def test_a_kill_that_hits_a_commit_charges_nobody_and_leaves_no_lock_behind(
    lone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = lone.job(b"job", b"slow")
    lone.pool.put([job])
    lone.until(lambda: lone.slots(Phase.WORKING, job.take), "it works")
    slot = lone.pool.doing()[0][1]
    lone.pool._outbox.lock.acquire()
    lone.go()
    lone.until(lambda: lone.slots(Phase.COMMITTING), "it commits")
    sentenced_too_late(lone, slot, monkeypatch)
    lone.until(lambda: lone.returned() == [job.take], "it goes back")
    assert lone.works()
    assert not [each for each in lone.events if isinstance(each, Killed)]


def test_a_worker_that_moves_on_while_it_is_looked_at_is_let_live(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = service.job(b"job", b"slow")
    service.pool.put([job])
    (number,) = service.until(lambda: service.slots(Phase.WORKING, job.take), "it works")
    pids = [pid for pid, _, _ in service.pool.doing()]
    now = service.pool._slots.read(number)
    seen = iter([now._replace(since=-1e9), now._replace(take=now.take + 1)])
    with monkeypatch.context() as patched:
        patched.setattr(service.pool._slots, "read", lambda number: next(seen))
        service.pool._guard.check(service.pool._workers[number], time.monotonic())
    service.go()
    assert service.verdict(job) is Verdict.DONE
    assert [pid for pid, _, _ in service.pool.doing()] == pids


def test_many_jobs_in_one_message_may_take_longer_than_the_limit_for_one(hasty: Service) -> None:
    jobs = [hasty.job(b"%d" % number, b"slow") for number in range(3)]
    started = time.monotonic()
    hasty.pool.put(jobs)
    hasty.until(lambda: time.monotonic() - started > 0.3, "a while")
    hasty.go()
    assert {hasty.verdict(job) for job in jobs} == {Verdict.DONE}


def test_a_machine_fault_charges_nobody_and_the_worker_goes_on(service: Service) -> None:
    job = service.job(b"a.png", kind=Kind.IMAGE)
    os.rmdir(service.output)
    with open(service.output, "wb"):
        pass  # a file where the folder of the copies should be

    def tried_until(is_over: Callable[[], Any]) -> Any:
        """It goes back while workers that knew the folder of before are replaced."""

        def tried() -> Any:
            if service.pool.idle() and not is_over():
                service.pool.put([job])
            return is_over()

        return service.until(tried, "an end")

    (trouble,) = tried_until(lambda: [e for e in service.events if isinstance(e, Trouble)])
    assert trouble.jobs == [job]
    os.unlink(service.output)
    assert tried_until(lambda: job.take in service.finished())
    assert service.verdict(job) is Verdict.DONE


def test_a_copy_that_cannot_be_put_in_place_is_that_files_fault_and_kills_no_worker(
    service: Service,
) -> None:
    """A folder lies where the copy should: whatever is done, it may not begin again for ever."""
    os.makedirs(service.output + b"/inbox/a.png/inside")
    job, other = service.job(b"a.png", kind=Kind.IMAGE), service.job(b"other")
    pids = [pid for pid, _, _ in service.pool.doing()]
    service.pool.put([job, other])
    assert service.verdict(job) in (Verdict.RETRY, Verdict.QUARANTINED)
    assert service.verdict(other) is Verdict.DONE
    assert [pid for pid, _, _ in service.pool.doing()] == pids


# ---- a root that hangs -------------------------------------------------------------------------


def of_root(service: Service, root: bytes, name: bytes, content: bytes = b"one\n") -> Job:
    """A job of another root, below the inbox."""
    os.makedirs(os.path.join(service.inbox, root), exist_ok=True)
    job = service.job(root + b"/" + name, content)
    return job._replace(root=os.path.join(service.inbox, root), path=name)


def test_a_worker_that_stands_still_at_a_root_that_hangs_is_ended_and_charges_nobody(
    service: Service,
) -> None:
    stuck, busy = of_root(service, b"hung", b"s", b"hang"), of_root(service, b"hung", b"b", b"busy")
    for job in (stuck, busy):
        service.pool.put([job])
        service.until(lambda job=job: service.slots(Phase.WORKING, job.take), "it works")  # type: ignore[misc]

    def abandoned() -> bool:
        service.pool.abandon([stuck.root], 0.5)
        return stuck.take in service.returned()

    service.until(abandoned, "the one that stands still is given up")
    assert service.returned() == [stuck.take]
    with open(busy.root + b"/go", "wb"):
        pass
    assert service.verdict(busy) is Verdict.DONE, "the other got on"
    assert not [each for each in service.events if isinstance(each, Killed)]


def test_what_waits_on_the_queue_for_a_root_that_hangs_is_taken_back_and_the_rest_goes_on(
    service: Service,
) -> None:
    slow = [service.job(b"slow-%d" % number, b"slow") for number in range(2)]
    for job in slow:
        service.pool.put([job])
    service.until(lambda: len(service.slots(Phase.WORKING)) == 2, "both work")
    hung, mixed = of_root(service, b"hung", b"1"), of_root(service, b"hung", b"2")
    other = service.job(b"other")
    service.pool.put([hung])
    service.pool.put([mixed, other])

    def sorted_out() -> bool:
        service.pool.abandon([hung.root], 60)
        return len(service.returned()) == 2

    service.until(sorted_out, "they go back")
    assert service.returned() == [hung.take, mixed.take]
    service.go()
    assert {service.verdict(job) for job in (*slow, other)} == {Verdict.DONE}
    assert service.pool.idle()


# ---- alone -------------------------------------------------------------------------------------


def test_a_charged_file_runs_alone_in_a_fresh_worker(service: Service) -> None:
    pids = {pid for pid, _, _ in service.pool.doing()}
    job = service.job(b"job", b"slow")
    service.pool.put_alone(job)
    (number,) = service.until(lambda: service.slots(Phase.WORKING, job.take), "it works")
    assert service.pool.doing()[number][0] not in pids
    service.go()
    assert service.verdict(job) is Verdict.DONE
    assert service.pool.idle()


def test_a_file_that_is_to_run_alone_is_not_forgotten_when_its_generation_dies(
    service: Service,
) -> None:
    service.kill_worker(0)
    multiprocessing.connection.wait([service.pool._workers[0].process.sentinel], 10)
    job = service.job(b"job")
    service.pool.put_alone(job)
    service.turn()
    if job.take in service.returned():
        service.pool.put_alone(job)
    assert service.verdict(job) is Verdict.DONE
    assert service.pool.idle()


def test_a_file_may_ask_to_run_alone_between_two_generations(service: Service) -> None:
    """It is returned by a generation's death, and asked for at once."""
    job = service.job(b"job")
    service.kill_worker(0)
    multiprocessing.connection.wait([service.pool._workers[0].process.sentinel], 10)
    service.events += service.pool.collect()
    service.pool.put_alone(job)
    assert service.verdict(job) is Verdict.DONE


def test_a_file_that_waits_to_run_alone_does_not_fill_the_queue_with_requests(
    service: Service,
) -> None:
    slow = [service.job(b"slow-%d" % number, b"slow") for number in range(2)]
    for job in slow:
        service.pool.put([job])
    service.until(lambda: len(service.slots(Phase.WORKING)) == 2, "both work")
    service.pool.put_alone(service.job(b"alone"))
    for second in range(10):
        service.events += service.pool.tick(time.monotonic() + second)
    assert service.pool.has_room()
    service.go()
    assert service.works()


# ---- beginning and end -------------------------------------------------------------------------


def test_a_pool_whose_workers_cannot_start_says_so(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawning, "main", main_that_fails)
    made = Service(folder)
    made.pool.start()
    with pytest.raises(DropmillError, match="a worker could not start"):
        made.until(lambda: False, "never", seconds=10)
    made.stop()


def test_asked_to_leave_workers_finish_what_they_have_and_return_the_rest(
    service: Service,
) -> None:
    jobs = [service.job(b"%d" % number, b"slow") for number in range(4)]
    for job in jobs:
        service.pool.put([job])
    service.until(lambda: len(service.slots(Phase.WORKING)) == 2, "both work")
    service.events += service.pool.ask_to_leave()
    service.go()
    deadline = time.monotonic() + 10
    while service.pool.alive() and time.monotonic() < deadline:
        service.events += service.pool.collect_last()
        time.sleep(0.005)
    assert not service.pool.alive()
    done = service.state.ledger.counts().get(State.DONE, 0)
    assert done + len(service.returned()) == 4
    assert done >= 2


def test_a_stopped_pool_leaves_no_process_and_returns_what_was_in_hand(
    service: Service,
) -> None:
    job = service.job(b"job", b"hang")
    service.pool.put([job])
    service.until(lambda: service.slots(Phase.WORKING, job.take), "it works")
    pids = [pid for pid, _, _ in service.pool.doing()]
    service.events += service.pool.ask_to_leave()
    service.events += service.pool.kill()
    assert job.take in service.returned()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    service.pool._slots = Pool(service.settings, 1)._slots  # what `stop` closes


def test_the_parent_waits_for_the_lock_only_so_long(service: Service) -> None:
    service.pool._outbox.lock.acquire()  # its holder died
    started = time.monotonic()
    with service.pool.lock():
        pass
    assert time.monotonic() - started < 3
    service.pool._outbox.lock.release()


def test_a_message_without_jobs_asks_one_worker_to_leave_and_another_comes(
    service: Service,
) -> None:
    before = {pid for pid, _, _ in service.pool.doing()}
    service.pool._outbox.queue.put(Message(99, ()))
    service.until(
        lambda: len(before & {pid for pid, _, _ in service.pool.doing()}) == 1, "one is replaced"
    )
    assert service.works()


# ---- signs of life -----------------------------------------------------------------------------


def is_silent(service: Service, seconds: float) -> bool:
    """Whether a no-op that is sent now stays without an answer for so long."""
    asked = time.monotonic()
    service.pool.ping()
    while time.monotonic() < asked + seconds:
        service.turn()
        if service.pool.last_sign() > asked:
            return False
        time.sleep(0.002)
    return True


def test_an_idle_pool_answers_a_no_op_and_nothing_else_comes_of_it(service: Service) -> None:
    for _ in range(20):
        assert not is_silent(service, 8)
    assert service.pool.idle()
    assert not [each for each in service.events if isinstance(each, Finished | Returned)]
    assert service.works()


def test_a_file_in_hand_is_a_sign_of_life_by_itself(service: Service) -> None:
    jobs = [service.job(b"a%d" % number, b"slow") for number in range(2)]
    for job in jobs:
        service.pool.put([job])
    service.until(lambda: len(service.slots(Phase.WORKING)) == 2, "both are busy")
    assert not is_silent(service, 8)
    service.go()
    assert {service.verdict(job) for job in jobs} == {Verdict.DONE}


def test_workers_that_wait_and_never_answer_give_no_sign_of_life(service: Service) -> None:
    service.until(service.pool.is_up, "both have said that they are up")
    for number in range(2):
        service.kill_worker(number, signal.SIGSTOP)
    try:
        assert is_silent(service, 1.0)
        assert is_silent(service, 1.0)  # asked once only: the Queue does not fill up
        assert service.pool.has_room()
    finally:
        for number in range(2):
            service.kill_worker(number, signal.SIGCONT)
    assert not is_silent(service, 8)


def test_a_generation_that_waits_for_its_back_off_is_alive(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.pool._deaths, "one_more", lambda: 30.0)
    service.kill_worker(0)
    service.until(lambda: not service.pool.doing(), "the generation is retired")
    assert not is_silent(service, 1.0)


# ---- other settings ----------------------------------------------------------------------------


def renew(service: Service, workers: int = 2) -> None:
    settings = service.settings._replace(workers=workers, keywords=("other",))
    service.events += service.pool.renew(settings, 60)


def pids(service: Service) -> list[int]:
    return [pid for pid, _, _ in service.pool.doing()]


def test_with_other_settings_idle_workers_are_followed_by_others_at_once(service: Service) -> None:
    before = pids(service)
    renew(service)
    service.until(lambda: not service.pool.is_renewing() and service.pool.is_up(), "all are new")
    assert not set(pids(service)) & set(before)
    assert service.works()


def test_with_other_settings_a_file_in_hand_is_finished_and_the_rest_goes_to_the_new(
    service: Service,
) -> None:
    slow = [service.job(b"a%d" % number, b"slow") for number in range(2)]
    for job in slow:
        service.pool.put([job])
    service.until(lambda: len(service.slots(Phase.WORKING)) == 2, "both are busy")
    before = pids(service)
    waiting = service.job(b"waiting", b"other\n")
    service.pool.put([waiting])
    time.sleep(0.1)  # the Queue's own thread passes it on
    renew(service)
    assert service.returned() == [waiting.take]
    assert service.pool.put([waiting])
    service.turn()
    assert pids(service) == before  # nobody was killed
    service.go()
    assert {service.verdict(job) for job in slow} == {Verdict.DONE}
    assert service.verdict(waiting) is Verdict.DONE
    service.until(lambda: not service.pool.is_renewing(), "all are new")
    reports = [r for e in service.events if isinstance(e, Finished) for _, r in e.reports]
    assert [r.keywords for r in reports if r.take == waiting.take] == [{"other": [1]}]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_pool_takes_another_size(service: Service, workers: int) -> None:
    renew(service, workers)
    service.until(lambda: not service.pool.is_renewing() and service.pool.is_up(), "all are new")
    assert len(pids(service)) == workers
    assert service.works()


def test_settings_may_change_again_before_the_last_change_is_through(service: Service) -> None:
    slow = service.job(b"a", b"slow")
    service.pool.put([slow])
    service.until(lambda: service.slots(Phase.WORKING, slow.take), "it is in hand")
    for workers in (4, 1, 3):
        renew(service, workers)
        service.turn()
    service.go()
    assert service.verdict(slow) is Verdict.DONE
    service.until(lambda: not service.pool.is_renewing() and service.pool.is_up(), "all are new")
    assert len(pids(service)) == 3
    assert service.works()


def test_a_worker_that_dies_while_it_is_to_leave_costs_nobody_else_anything(
    service: Service,
) -> None:
    slow = service.job(b"a", b"slow")
    service.pool.put([slow])
    (number,) = service.until(lambda: service.slots(Phase.WORKING, slow.take), "it is in hand")
    renew(service)
    service.kill_worker(number)
    assert not service.killed(slow).charged
    service.until(lambda: not service.pool.is_renewing() and service.pool.is_up(), "all are new")
    assert service.works()


def test_what_was_on_its_way_to_a_worker_that_dies_while_it_is_to_leave_goes_back(
    lone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = lone.job(b"a", b"slow")
    lone.pool.put([slow])
    lone.until(lambda: lone.slots(Phase.WORKING, slow.take), "it is in hand")
    behind = lone.job(b"behind")
    lone.pool.put([behind])
    monkeypatch.setattr(lone.pool, "_not_begun", list)  # it is between two places just now
    renew(lone, 1)
    lone.kill_worker(0)
    lone.until(lambda: behind.take in lone.returned(), "it goes back")
    assert lone.works()

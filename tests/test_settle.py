"""What settle promises. The clock and the files are invented; nothing here waits."""

from __future__ import annotations

import pytest

from dropmill.job import Fingerprint
from dropmill.settle import Gone, Look, Ready, Settle

PATH = b"/inbox/note.txt"


class World:
    """A clock that only the test moves, and files as the test says they are."""

    def __init__(self, **options: int) -> None:
        self.now = 1_000.0
        self.wall_jump = 0.0
        self.may_ask = True
        self.knows_age = True
        self.looks = 0
        self.sizes: dict[bytes, int] = {}
        self.written: dict[bytes, float] = {}
        self.writing: set[bytes] = set()
        self.settle = Settle(lambda: self.now, self.look, **options)

    def look(self, path: bytes) -> Look:
        self.looks += 1
        if path not in self.sizes:
            return Look(None, None, None)
        written = self.written[path]
        print_ = Fingerprint(7, self.sizes[path], int(written * 1e9), int(written * 1e9), 1)
        age = self.now + self.wall_jump - written if self.knows_age else None
        return Look(print_, (path in self.writing) if self.may_ask else None, age)

    def write(self, path: bytes = PATH, more: int = 10) -> None:
        self.sizes[path] = self.sizes.get(path, 0) + more
        self.written[path] = self.now

    def notice(self, path: bytes = PATH, moved: bool = False, may_hurry: bool = True) -> None:
        self.settle.notice(path, 0.5, 10.0, moved, may_hurry)

    def run_to_next(self) -> list[Ready | Gone]:
        due = self.settle.due()
        assert due is not None
        self.now = max(self.now, due)
        return self.settle.ready()

    def run_until_ready(self, at_most: float = 100.0) -> list[Ready | Gone]:
        deadline = self.now + at_most
        while True:
            found = self.run_to_next()
            if found:
                return found
            assert self.now < deadline, "never ready"


def paths(found: list[Ready | Gone]) -> list[bytes]:
    return [item.path for item in found]


@pytest.fixture
def world() -> World:
    return World()


def test_a_written_file_is_ready_exactly_one_quiet_time_after_its_last_event(world: World) -> None:
    world.write()
    world.notice()
    world.now += 0.3
    world.write()
    world.notice()
    last_event = world.now
    found = world.run_until_ready()
    assert world.now == pytest.approx(last_event + 0.5, abs=1e-6)
    seen = world.look(PATH).fingerprint
    assert seen is not None
    assert found == [Ready(PATH, seen, True)]
    assert len(world.settle) == 0
    assert world.settle.due() is None


def test_it_is_not_ready_a_moment_before(world: World) -> None:
    world.write()
    world.notice()
    world.now += 0.499
    assert world.settle.ready() == []
    assert world.looks == 0


def test_a_file_renamed_into_place_is_ready_at_once(world: World) -> None:
    world.write()
    world.notice(moved=True)
    assert paths(world.settle.ready()) == [PATH]


def test_a_file_renamed_into_place_is_ready_at_once_although_it_was_waited_for(
    world: World,
) -> None:
    world.write()
    world.notice()
    world.notice(moved=True)
    assert paths(world.settle.ready()) == [PATH]


def test_a_file_renamed_into_place_while_written_waits_for_its_writer(world: World) -> None:
    world.write()
    world.writing.add(PATH)
    world.notice(moved=True)
    assert world.settle.ready() == []
    world.now += 2
    assert world.settle.ready() == []
    world.writing.clear()
    world.notice()
    closed = world.now
    assert paths(world.run_until_ready()) == [PATH]
    assert world.now == pytest.approx(closed + 0.5)


def test_a_file_that_changes_without_events_waits_until_it_is_unchanged(world: World) -> None:
    world.may_ask = False
    world.write()
    world.notice()
    for _ in range(3):
        world.now += 0.45
        world.write()
        assert world.settle.ready() == []
    written = world.now
    assert paths(world.run_until_ready()) == [PATH]
    assert world.now - written >= 0.5 - 1e-6
    assert world.now - written <= 1.0


def test_a_file_nobody_may_ask_about_is_looked_at_twice_when_its_age_is_unknown(
    world: World,
) -> None:
    world.may_ask = world.knows_age = False
    world.write()
    world.notice()
    assert world.run_to_next() == []
    assert paths(world.run_until_ready()) == [PATH]
    assert world.looks == 2


def test_what_a_scan_saw_counts_as_the_first_look(world: World) -> None:
    world.may_ask = world.knows_age = False
    world.write()
    world.settle.notice(PATH, 0.5, 10.0, fingerprint=world.look(PATH).fingerprint)
    started = world.now
    assert paths(world.run_until_ready()) == [PATH]
    assert world.now == pytest.approx(started + 0.5)


def test_what_changed_since_the_scan_saw_it_waits_again(world: World) -> None:
    world.write()
    world.settle.notice(PATH, 0.5, 10.0, fingerprint=world.look(PATH).fingerprint)
    world.now += 0.4
    world.write()
    assert world.run_to_next() == []
    assert paths(world.run_until_ready()) == [PATH]
    assert world.now >= 1_000.9 - 1e-6


@pytest.mark.parametrize("jump", [-1e9, -3_600.0, -1.0, 3_600.0, 1e9])
def test_a_jump_of_the_wall_clock_costs_at_most_one_quiet_time(world: World, jump: float) -> None:
    world.write()
    world.notice()
    world.wall_jump = jump
    noticed = world.now
    assert paths(world.run_until_ready()) == [PATH]
    assert 0.5 - 1e-6 <= world.now - noticed <= 1.0 + 1e-6


@pytest.mark.parametrize("may_ask", [True, False])
def test_a_log_that_is_never_quiet_is_taken_after_settle_max(world: World, may_ask: bool) -> None:
    world.may_ask = may_ask
    world.writing.add(PATH)
    started = world.now
    while True:
        world.write()
        world.notice()
        world.now += 0.1
        found = world.settle.ready()
        if found:
            break
    assert isinstance(found[0], Ready)
    assert found[0].unhurried is False
    assert world.now - started == pytest.approx(10.0, abs=0.2)


def test_an_image_is_never_taken_while_it_is_written(world: World) -> None:
    world.writing.add(PATH)
    world.write()
    world.notice(may_hurry=False)
    for _ in range(600):
        world.now += 1.0
        world.write()
        assert world.settle.ready() == []
    assert world.looks <= 200, "a long upload is not asked about twice a second"
    world.writing.clear()
    world.notice(may_hurry=False)
    found = world.run_until_ready(at_most=1.0)
    assert isinstance(found[0], Ready)
    assert found[0].unhurried is True


def test_a_writer_who_leaves_without_an_event_is_noticed_within_settle_max(world: World) -> None:
    world.writing.add(PATH)
    world.write()
    world.notice(may_hurry=False)
    for _ in range(100):
        world.now += 1.0
        assert world.settle.ready() == []
    world.writing.clear()
    left = world.now
    assert paths(world.run_until_ready()) == [PATH]
    assert world.now - left <= 10.0


def test_a_file_that_is_not_there_is_gone(world: World) -> None:
    world.notice()
    assert world.run_to_next() == [Gone(PATH)]
    assert len(world.settle) == 0


def test_a_forgotten_file_is_not_waited_for(world: World) -> None:
    world.write()
    world.notice()
    world.settle.forget(PATH)
    assert world.settle.due() is None
    world.now += 1
    assert world.settle.ready() == []


def test_a_log_held_open_makes_no_events_and_is_taken_once_in_settle_max(world: World) -> None:
    world.writing.add(PATH)
    world.write()
    world.notice()
    assert [item for item in world.run_until_ready() if isinstance(item, Ready)]
    assert PATH in world.settle.hot
    taken = []
    for _ in range(1_200):
        world.now += 0.1
        world.write()
        taken += world.settle.ready()
    assert len(taken) == pytest.approx(12, abs=2)
    assert all(isinstance(item, Ready) and not item.unhurried for item in taken)


def test_a_file_seen_growing_stays_hot_for_an_hour_and_no_longer(world: World) -> None:
    world.may_ask = world.knows_age = False
    world.write()
    world.notice()
    world.run_to_next()
    world.write()
    assert paths(world.run_until_ready()) == [PATH]
    last_change = world.now
    while world.settle.due() is not None:
        assert world.run_to_next() == []
    assert world.now - last_change == pytest.approx(3_600, abs=20)
    assert not world.settle.hot


def test_a_hot_file_that_is_quiet_again_is_taken_as_quiet(world: World) -> None:
    world.writing.add(PATH)
    world.write()
    world.notice()
    world.run_until_ready()
    world.now += 2
    world.write()
    world.writing.clear()
    found = world.run_until_ready()
    assert isinstance(found[0], Ready)
    assert found[0].unhurried is True


def test_a_hot_file_that_vanishes_is_gone(world: World) -> None:
    world.writing.add(PATH)
    world.write()
    world.notice()
    world.run_until_ready()
    del world.sizes[PATH]
    assert world.run_until_ready() == [Gone(PATH)]
    assert world.settle.due() is None


def test_only_the_hottest_files_are_kept_hot() -> None:
    world = World(most_hot=100)
    for number in range(300):
        path = b"/inbox/%d.log" % number
        world.writing.add(path)
        world.write(path)
        world.notice(path)
        world.now += 0.001
    world.now += 20
    assert len(world.settle.ready()) == 300
    assert len(world.settle.hot) == 100
    assert b"/inbox/299.log" in world.settle.hot


def test_ten_thousand_notices_of_a_file_cost_one_look(world: World) -> None:
    world.write()
    for _ in range(10_000):
        world.now += 0.0001
        world.notice()
    assert len(world.settle) == 1
    assert paths(world.run_until_ready()) == [PATH]
    assert world.looks == 1


def test_timers_do_not_pile_up(world: World) -> None:
    world.write()
    for number in range(20_000):
        world.now += 0.00001
        world.notice(moved=number % 2 == 0)
        if number % 3 == 0:
            world.settle.forget(PATH)
    assert len(world.settle._timers) < 2_100


def test_a_hundred_thousand_files_are_waited_for_and_taken_in_portions(world: World) -> None:
    for number in range(100_000):
        path = b"/inbox/%d" % number
        world.write(path)
        world.notice(path)
    world.now += 0.6
    taken = 0
    while len(world.settle):
        portion = world.settle.ready(limit=5_000)
        assert len(portion) == 5_000
        taken += len(portion)
    assert taken == 100_000
    assert world.looks == 100_000


def test_the_start_of_the_waiting_is_remembered(world: World) -> None:
    assert world.settle.since(PATH) is None
    world.notice()
    started = world.now
    world.now += 0.2
    world.notice()
    assert world.settle.since(PATH) == started
    assert list(world.settle.pending) == [PATH]


# ---- other settings ------------------------------------------------------------------------------


def test_a_file_that_waits_waits_as_long_as_is_set_now(world: World) -> None:
    world.write(b"/a")
    world.settle.notice(b"/a", 3600.0, 3600.0)
    world.now += 1.0
    world.settle.retime(lambda path: (0.5, 10.0))
    world.now += 0.5
    assert paths(world.settle.ready()) == [b"/a"]


def test_a_hot_file_is_looked_at_as_often_as_is_set_now(world: World) -> None:
    world.write()
    world.writing.add(PATH)
    world.settle.notice(PATH, 0.5, 1_000.0)
    world.run_until_ready(2_000.0)
    assert list(world.settle.hot) == [PATH]
    world.settle.retime(lambda path: (0.5, 10.0))
    began = world.now
    world.write()
    assert paths(world.run_until_ready()) == [PATH]
    assert world.now <= began + 10.0


def test_a_file_that_is_not_wanted_any_more_is_not_waited_for(world: World) -> None:
    world.write()
    world.notice()
    world.settle.retime(lambda path: None)
    assert world.settle.due() is None

"""Spawning: workers come from a fork server, and what fails is tried less and less often."""

from __future__ import annotations

from dropmill.spawning import Deaths, delay


def test_a_wait_grows_from_one_second_to_sixty_and_is_jittered() -> None:
    for times in range(20):
        delays = {delay(times) for _ in range(100)}
        assert min(60.0, 2.0**times) <= min(delays) <= max(delays) <= 60.0
        assert len(delays) > 1 or times > 5


def test_successors_wait_only_after_many_deaths_in_a_row() -> None:
    deaths = Deaths()
    assert [deaths.one_more() for _ in range(8)] == [0.0] * 8
    assert deaths.one_more() >= 1.0
    deaths.forget()
    assert deaths.one_more() == 0.0

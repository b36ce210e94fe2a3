"""Spawning: workers come from a fork server, and what fails is tried less and less often."""

from __future__ import annotations

from dropmill.spawning import delay


def test_a_wait_grows_from_one_second_to_sixty_and_is_jittered() -> None:
    for times in range(20):
        delays = {delay(times) for _ in range(100)}
        assert min(60.0, 2.0**times) <= min(delays) <= max(delays) <= 60.0
        assert len(delays) > 1 or times > 5

"""SIGKILLs of the service at random moments: all done once, nobody charged, up again at once."""

from __future__ import annotations

import signal
import time

from .bench import Bench, Findings

MOST = 50
HANGS = 30.0  # seconds; how long a start takes is told, and under 2 s on a quiet machine


def run(bench: Bench) -> Findings:
    place = bench.place()
    place.start()
    kills, slowest, dropped = 0, 0.0, 0
    while kills < MOST and (bench.time_is_left() or not kills):
        bench.mixed(place, 100, prefix=f"b{dropped}_")
        dropped += 100
        time.sleep(bench.chance.uniform(0.0, 0.3))
        place.stop(signal.SIGKILL)
        kills += 1
        began = time.monotonic()
        place.start()
        slowest = max(slowest, time.monotonic() - began)
    problems = bench.audit(place)
    if slowest > HANGS:
        problems.append(f"a start took {slowest:.1f} s")
    return Findings({"kills": kills}, problems, f"{dropped} files, slowest start {slowest:.2f} s")

"""By the pool: the service's own pool and feeder, without anything that watches."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import wait

from ..errors import MachineFault
from ..feeder import Feeder
from ..pool import Event, Finished, Killed, Pool, Returned, Trouble
from ..processors.dataset import stride
from ..slots import Phase
from ..store.ledger import Ledger
from ..worker import WorkerSettings
from .lap import Books, Clocked, Progress, killed

_TICK = 1.0
_LEAVE = 10.0


def by_the_pool(
    settings: WorkerSettings, root: bytes, timeout: float, progress: Progress
) -> Clocked:
    """Works off the state folder's queued files with `settings.workers`. Raises DropmillError,
    MachineFault."""
    with _started(settings, timeout) as pool:
        ledger = Ledger(settings.state_folder, pool.lock)
        try:
            feeder = Feeder(ledger, pool, lambda folder: root, partial(stride, settings.rules))
            books = Books(ledger, feeder, lambda count: progress(count, 0, ""))
            began = time.perf_counter()
            _work_off(pool, feeder, books)
            return Clocked(time.perf_counter() - began, frozenset(books.unsettled))
        finally:
            ledger.close()


def _work_off(pool: Pool, feeder: Feeder, books: Books) -> None:
    ticked = time.monotonic()
    while True:
        feeder.fill()
        if feeder.is_empty() and pool.idle():
            return
        wait(pool.waitables(), _TICK)
        events = pool.collect()
        if time.monotonic() - ticked >= _TICK:
            ticked = time.monotonic()
            events += pool.tick(ticked)
        for event in events:
            _happened(event, feeder, books)


def _happened(event: Event, feeder: Feeder, books: Books) -> None:
    match event:
        case Finished(reports=reports):
            for job, report in reports:
                books.enter(job, report)
        case Returned(jobs=jobs):
            feeder.returned(jobs)
        case Killed(job=job, reason=reason):
            raise killed(os.path.join(job.root, job.path), reason)
        case Trouble(reason=reason):
            raise MachineFault(reason)


@contextlib.contextmanager
def _started(settings: WorkerSettings, timeout: float) -> Iterator[Pool]:
    """A pool whose workers all wait for their first message; none is left afterwards."""
    pool = Pool(settings, timeout)
    try:
        pool.start()
        _collect_until(pool, lambda: _all_wait(pool))
        yield pool
        pool.ask_to_leave()
        deadline = time.monotonic() + _LEAVE
        while pool.alive() and time.monotonic() < deadline:
            wait(pool.waitables(), _TICK)
            pool.collect_last()
    finally:
        pool.kill()


def _all_wait(pool: Pool) -> bool:
    return all(slot.phase is Phase.WAITING for _, slot, _ in pool.doing())


def _collect_until(pool: Pool, is_so: Callable[[], bool]) -> None:
    while not is_so():
        pool.collect()  # raises where a worker cannot start
        pool.tick(time.monotonic())
        time.sleep(0.005)

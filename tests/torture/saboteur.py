"""The service with faults built into its workers: `python -m tests.torture.saboteur run`.

multiprocessing imports a program's main module again in each of its children, as `__mp_main__`.
In a worker this one wraps what the worker calls; the product knows nothing of it. What is wrapped
is named in `TORTURE` (`poison`, `steps`, ...); what happened is written to
`journal`, and orders are read from `order`, both in the folder `TORTURE_FOLDER`.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import multiprocessing.connection
import multiprocessing.queues
import multiprocessing.synchronize
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULE = "tests.torture.saboteur"
POISON = re.compile(rb"poison-([a-z]+)")


def variables(folder: Path, *names: str) -> dict[str, str]:
    """What to give `Place.start` beside `MODULE`, to have these faults."""
    here = Path(__file__).parents[2]
    folder.mkdir(exist_ok=True)
    return {
        "TORTURE": ",".join(names),
        "TORTURE_FOLDER": str(folder),
        "PYTHONPATH": f"{here / 'daemon'}:{here}",
    }


class Journal:
    """What happened, a line each; written by workers that may die at any moment."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(
            folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )

    def __call__(self, *words: object) -> None:
        line = " ".join(map(str, (os.getpid(), *words))) + "\n"
        os.write(self._descriptor, line.encode("utf-8", "surrogateescape"))


# ---- poison: files that kill who works on them ---------------------------------------------------


def _eat_memory() -> None:
    eaten = [bytearray(b"x") * (16 << 20) for _ in itertools.count()]
    print(len(eaten))


def _eat_shared_memory() -> None:
    eaten = []
    while True:
        piece = mmap.mmap(-1, 16 << 20)
        piece.write(b"x" * (16 << 20))
        eaten.append(piece)
        time.sleep(0.02)


def _hang() -> None:
    while True:
        time.sleep(1)


POISONS: dict[bytes, Callable[[], object]] = {
    b"segfault": lambda: ctypes.string_at(0),
    b"abort": os.abort,
    b"hang": _hang,
    b"memory": _eat_memory,
    b"shared": _eat_shared_memory,
    b"exit": lambda: os._exit(7),
    b"success": lambda: os._exit(0),
    b"leave": lambda: sys.exit(0),
}


def _poison(journal: Journal, folder: Path) -> None:
    from dropmill.processors import PROCESSORS

    def poisoned(real: Any) -> Any:
        def process(descriptor: int, job: Any, *others: Any) -> Any:
            journal("works on", os.fsdecode(job.path))
            found = POISON.search(job.path)
            if found is not None:
                POISONS[found[1]]()
            return real(descriptor, job, *others)

        return process

    for kind, real in list(PROCESSORS.items()):
        PROCESSORS[kind] = poisoned(real)


# ---- steps: a kill before or after any of them ---------------------------------------------------


def _steps(journal: Journal, folder: Path) -> None:
    from dropmill import processors, slots, staging, worker
    from dropmill.index import Shard
    from dropmill.processors.image.parts import WholeWrites
    from dropmill.store.completion import Completion

    order = os.path.join(folder, "order")
    seen: Counter[str] = Counter()
    read, take, end = _reading(os.open, os.read, os.close), os.unlink, os.kill

    def reach(point: str) -> None:
        seen[point] += 1
        place = f"{point} #{seen[point]}"
        wanted = read(order)
        if wanted == "record":
            journal(place)
        elif wanted == place:
            take(order)
            journal("killed", place)
            end(os.getpid(), signal.SIGKILL)

    def watch(owner: Any, *names: str) -> None:
        for name in names:
            label = f"{owner.__name__.rpartition('.')[2]}.{name}"
            setattr(owner, name, _watched(getattr(owner, name), label, reach))

    watch(os, "open", "fsync", "rename", "utime", "mkdir", "unlink", "close")
    watch(Shard, "add", "commit")
    watch(staging.Staging, "new", "keep", "move", "discard", "publish", "_sync")
    watch(WholeWrites, "write")
    watch(Completion, "complete", "_complete")
    watch(slots.Slots, "write")
    watch(multiprocessing.connection.Connection, "send")
    watch(multiprocessing.synchronize.SemLock, "__enter__", "__exit__")
    watch(worker.Worker, "_commit")
    for kind, real in list(processors.PROCESSORS.items()):
        processors.PROCESSORS[kind] = _watched(real, f"process.{kind.label}", reach)
    _count_from_each_message(seen, reach)


def _watched(real: Any, label: str, reach: Callable[[str], None]) -> Any:
    @functools.wraps(real)
    def step(*arguments: Any, **named: Any) -> Any:
        reach(f"before {label}")
        result = real(*arguments, **named)
        reach(f"after {label}")
        return result

    return step


def _count_from_each_message(seen: Counter[str], reach: Callable[[str], None]) -> None:
    real = multiprocessing.queues.Queue.get

    def get(*arguments: Any, **named: Any) -> Any:
        reach("before Queue.get")
        message = real(*arguments, **named)
        seen.clear()
        reach("after Queue.get")
        return message

    multiprocessing.queues.Queue.get = get  # type: ignore[method-assign]


def _reading(open_: Any, read: Any, close: Any) -> Callable[[str], str | None]:
    """Reads a small file by functions that are not wrapped."""

    def content(path: str) -> str | None:
        try:
            descriptor = open_(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return bytes(read(descriptor, 200)).decode()
        finally:
            close(descriptor)

    return content


# ---- dawdle: work that takes long enough to be disturbed -----------------------------------------


def _dawdle(journal: Journal, folder: Path) -> None:
    from dropmill.processors import PROCESSORS

    def slow(real: Any) -> Any:
        def process(*arguments: Any) -> Any:
            time.sleep(0.02)
            outcome = real(*arguments)
            time.sleep(0.02)
            return outcome

        return process

    for kind, real in list(PROCESSORS.items()):
        PROCESSORS[kind] = slow(real)


# ---- hasty: compaction after seconds rather than a minute ----------------------------------------


def _hasty(journal: Journal, folder: Path) -> None:
    from dropmill import compaction, worker

    compaction.SEEN_BY_SEARCHES_NS = 3 * 10**9
    compaction.WEIGHED_EVERY = 0.5
    compaction.EVERY = 1.0
    setattr(worker, "EVERY", 1.0)  # noqa: B010 - it has its own name for it
    worker.IDLE = 0.2
    _counting(journal, folder)


def _counting(journal: Journal, folder: Path) -> None:
    from dropmill.index import Shard

    def counted(real: Any, how: str) -> Any:
        def delete(self: Shard, *arguments: Any) -> Any:
            before = self.count()
            result = real(self, *arguments)
            if self.count() < before:
                journal(how, before - self.count())
            return result

        return delete

    setattr(Shard, "sweep", counted(Shard.sweep, "idle"))  # noqa: B010
    setattr(Shard, "delete", counted(Shard.delete, "loaded"))  # noqa: B010


_FAULTS = {
    "poison": _poison,
    "steps": _steps,
    "dawdle": _dawdle,
    "hasty": _hasty,
    "counting": _counting,
}


def _keep_open(folder: Path) -> None:
    """The orders lie where a worker that is shut in could not read them."""
    from dropmill.sandbox import WRITE, Sandbox

    real = Sandbox.__init__

    def shut(self: Sandbox, kept: dict[bytes, Any]) -> None:
        real(self, {**kept, os.fsencode(folder): WRITE})

    Sandbox.__init__ = shut  # type: ignore[method-assign, assignment]


def _in_a_worker() -> None:
    folder = Path(os.environ["TORTURE_FOLDER"])
    _keep_open(folder)
    journal = Journal(folder)
    for name in os.environ["TORTURE"].split(","):
        _FAULTS[name](journal, folder)


if __name__ == "__mp_main__":
    _in_a_worker()
elif __name__ == "__main__":
    from dropmill.__main__ import main

    main()

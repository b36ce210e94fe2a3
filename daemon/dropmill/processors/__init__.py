"""What is done with a file of each kind: an explicit dict, kind → function.

A processor gets an open descriptor and what it may write to, and gives an outcome. It knows no
queue and no ledger. To add a kind: a module with its `process`, an adapter here, a `job.Kind`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from ..datasets.rule import RuleSet
from ..index import Block
from ..job import Job, Kind, Outcome, Verdict
from . import text
from .dataset import DataSets
from .watchlist import WatchList

_CHUNK = 1024 * 1024


class Workbench(NamedTuple):
    """What processors may use and write to."""

    add_block: Callable[[Block, str], None]
    watch_list: WatchList
    new_copy: Callable[[int], BinaryIO]  # take → an empty file
    pixels: int  # limits.pixels
    rules: RuleSet  # for data sets
    datasets: DataSets


Processor = Callable[[int, Job, int, int, Workbench], Outcome]


def _text(
    descriptor: int,
    job: Job,
    size: int,
    started: int,
    bench: Workbench,
    records: text.Records | None = None,
) -> Outcome:
    taken = text.process(descriptor, job, size, bench.add_block, bench.watch_list, records)
    renamed = taken.verdict is Verdict.UNCHANGED and job.moved_from is not None
    return Outcome(
        job,
        Verdict.RENAMED if renamed else taken.verdict,
        started,
        encoding=taken.encoding,
        keep_to=taken.keep_to,
        takes=taken.takes,
        trusted=taken.trusted,
    )


def _dataset(descriptor: int, job: Job, size: int, started: int, bench: Workbench) -> Outcome:
    records = bench.datasets.of(job, bench.rules)
    return _text(descriptor, job, size, started, bench, records)


def _image(descriptor: int, job: Job, size: int, started: int, bench: Workbench) -> Outcome:
    digest = _digest(descriptor)
    if digest == job.digest and job.output is not None and os.path.exists(job.output):
        same = Verdict.UNCHANGED if job.moved_from is None else Verdict.RENAMED
        return Outcome(job, same, started, digest=digest)
    # Only where there are images: Pillow costs a worker 10 MB and 50 ms.
    from . import image

    suffix = os.fsdecode(os.path.splitext(job.path)[1]).lower()
    copied = image.process(descriptor, bench.new_copy(job.take), suffix, bench.pixels)
    return Outcome(
        job, Verdict.DONE, started, digest=digest, width=copied.width, height=copied.height
    )


def _digest(descriptor: int) -> bytes:
    digest, position = hashlib.blake2b(digest_size=16), 0
    while chunk := os.pread(descriptor, _CHUNK, position):
        digest.update(chunk)
        position += len(chunk)
    return digest.digest()


PROCESSORS: dict[Kind, Processor] = {
    Kind.TEXT: _text,
    Kind.IMAGE: _image,
    Kind.DATASET: _dataset,
}

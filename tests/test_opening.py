"""Opening sources: all before any is read; what cannot be opened has an outcome of its own."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from dropmill.errors import MachineFault
from dropmill.job import Fingerprint, Job, Kind, Outcome, Verdict
from dropmill.opening import ShutOut, opened
from dropmill.source import Beneath

FINGERPRINT = Fingerprint(1, 2, 3, 4, 0)


def job(root: bytes, name: bytes) -> Job:
    return Job(1, 1, 1, Kind.TEXT, root, name, FINGERPRINT)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_each_job_gets_its_source_or_its_outcome_and_all_is_closed(folder: bytes) -> None:
    with open(folder + b"/a", "wb") as file:
        file.write(b"content")
    os.symlink(b"a", folder + b"/link")
    jobs = [job(folder, name) for name in (b"a", b"link", b"none")]
    jobs.append(job(folder + b"/no root", b"a"))
    told: list[Job] = []
    before = descriptors()
    with opened(jobs, told.append, lambda root: True) as sources:
        assert told == jobs
        (_, first), *others = sources
        assert isinstance(first, int)
        assert os.read(first, 10) == b"content"
        outcomes = [found for _, found in others if isinstance(found, Outcome)]
    assert [outcome.verdict for outcome in outcomes] == [Verdict.VANISHED] * 3
    assert outcomes[-1].reason == "its root: No such file or directory"
    assert descriptors() == before


@pytest.mark.parametrize("few", [0, 1, 2])
def test_a_want_of_descriptors_is_the_machines_fault_and_no_file_vanished(
    folder: bytes, few: int
) -> None:
    for name in (b"a", b"b"):
        with open(folder + b"/" + name, "wb"):
            pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + few, hard))
    try:
        with (
            pytest.raises(MachineFault),
            opened([job(folder, b"a"), job(folder, b"b")], lambda _: None, lambda _: True),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_this_process_is_shut_out_of_is_nobodys_fault(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Beneath, relative: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Beneath, "open", refuse)
    with pytest.raises(ShutOut), opened([job(folder, b"a")], lambda _: None, lambda _: False):
        pass
    with opened([job(folder, b"a")], lambda _: None, lambda _: True) as [(_, found)]:
        assert isinstance(found, Outcome)
        assert found.verdict is Verdict.QUARANTINED

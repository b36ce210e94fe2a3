"""State folders for tests, made as the daemon and its workers make them."""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Any

from dropmill.job import Job, Kind, Lane, Outcome, Take, Verdict
from dropmill.source import fingerprint
from dropmill.store.completion import Completion
from dropmill.store.ledger import Admission, Ledger
from dropmill.store.table import Row


class MadeState:
    """A state folder, and what parent and worker would do to it; close it before reading ends."""

    def __init__(self, folder: bytes) -> None:
        os.makedirs(folder, exist_ok=True)
        lock = threading.Lock()
        self.folder = folder
        self.ledger = Ledger(folder)
        self.completion = Completion(folder, lock, shard=0, attempts=3)

    def close(self) -> None:
        self.completion.close()
        self.ledger.close()

    def admit(self, path: bytes, kind: Kind = Kind.TEXT) -> Row:
        """The row of a file that is there, queued."""
        folder, name = os.path.split(path)
        mark = fingerprint(os.lstat(path))._replace(device=0)  # that of its root
        self.ledger.admit([Admission(folder, name, mark, kind, Lane.FRESH)])
        file = self.ledger.find(path)
        assert file is not None
        (row,) = self.ledger.queued_rows([file])
        return row

    def complete(self, row: Row, verdict: Verdict = Verdict.DONE, **found: Any) -> Verdict:
        """What a worker would write about it; `found` are fields of `Outcome`."""
        job = Job(
            secrets.randbits(62), row.id, row.seq, row.kind, row.folder, row.name, row.fingerprint
        )
        outcome = Outcome(job, verdict, time.time_ns())._replace(**found)
        (verdict,) = self.completion.complete([outcome])
        return verdict

    def done(self, path: bytes, content: bytes = b"one\ntwo\n", **found: Any) -> Row:
        """A text file of that content, taken in."""
        _write(path, content)
        row = self.admit(path)
        values: dict[str, Any] = {"encoding": "utf-8", "takes": (take(content),)} | found
        assert self.complete(row, Verdict.DONE, **values) is Verdict.DONE
        return row

    def failed(self, path: bytes, reason: str, verdict: Verdict = Verdict.QUARANTINED) -> Row:
        _write(path, b"x")
        row = self.admit(path, Kind.IMAGE)
        assert self.complete(row, verdict, reason=reason) is verdict
        return row


def take(content: bytes, first: int = 0, keywords: dict[str, list[int]] | None = None) -> Take:
    """A take of that content, beginning at byte `first` of its file."""
    is_open = not content.endswith(b"\n") and bool(content)
    newlines = content.count(b"\n")
    end = first + len(content)
    return Take(secrets.randbits(62), first, end, b"d" * 16, newlines, is_open, keywords or {})


def _write(path: bytes, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)

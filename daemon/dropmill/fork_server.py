"""The fork server that all workers come from, and the process that tidies up after all of us.

It imports what a worker needs once, which takes it a tenth of a second: who begins it early has
that done while there are other things to do.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing import forkserver, resource_tracker

CONTEXT = multiprocessing.get_context("forkserver")


def begin() -> None:
    """Has both run, if they do not yet. What cannot be started now is when it is needed."""
    CONTEXT.set_forkserver_preload(["dropmill.worker", "dropmill.processors.preloaded"])
    _start_quiet_tracker()
    # Ctrl-C goes to it too, before it has come to where it ignores that.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with contextlib.suppress(OSError):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_quiet_tracker() -> None:
    """Starts the process that unlinks our semaphores should all of us be killed.

    It would warn, into the journal of a service that is gone, that it does its duty.
    """
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        with contextlib.suppress(OSError):  # then whoever needs it first starts it
            resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before

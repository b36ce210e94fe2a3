"""The service with workers that try what they must not: `python -m trespasser run`.

multiprocessing imports a program's main module again in each of its children, as `__mp_main__`.
There, a text with a line `trespass PATH`, where that is another user's file, is answered with what
came of each attempt, as the reason for which it is quarantined: a worker has nowhere else to tell.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import socket
from collections.abc import Callable
from typing import Any

# A script that does nothing, should anybody manage to execute it.
SCRIPT = "#!/bin/sh\nexit\ntrespass {theirs}\n"
DONE = "done"
_CALL = re.compile(rb"^trespass (.+)$", re.MULTILINE)


def attempts(theirs: str, source: str) -> dict[str, str]:
    """What came of each: `done`, or the error."""
    beside = f"{source}.new"
    tries: dict[str, Callable[[], object]] = {
        "read another user's home": lambda: open(theirs).close(),
        "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "connect": _connect,
        "write to the source": lambda: open(source, "r+").close(),
        "write beside the source": lambda: open(beside, "w").close(),
        "write where everybody may": lambda: open("/srv/open/new", "w").close(),
        "execute a dropped file": lambda: _execute(source),
        "execute a shell": lambda: _execute("/bin/sh"),
        "make memory writable and executable": lambda: mmap.mmap(
            -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        ),
    }
    return {name: _outcome(attempt) for name, attempt in tries.items()}


def _connect() -> None:
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except ConnectionRefusedError:
        return  # so there is a network, that refuses


def _execute(program: str) -> None:
    try:
        child = os.fork()
    except BlockingIOError:  # no process to be had: this one, then
        os.execv(program, [program])
    if not child:
        try:
            os.execv(program, [program])
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(errno.EACCES, "it could not be executed")


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__ + f" ({error.strerror or error})"
    return DONE


def _wrap() -> None:
    from dropmill.errors import FileFault
    from dropmill.job import Kind
    from dropmill.processors import PROCESSORS

    real: Any = PROCESSORS[Kind.TEXT]

    def process(descriptor: int, job: Any, *others: Any) -> Any:
        call = _CALL.search(os.pread(descriptor, 4096, 0))
        if call is not None:
            source = os.path.join(job.root, job.path)
            raise FileFault(json.dumps(attempts(os.fsdecode(call[1]), os.fsdecode(source))))
        return real(descriptor, job, *others)

    PROCESSORS[Kind.TEXT] = process


if __name__ == "__mp_main__":
    _wrap()
elif __name__ == "__main__":
    from dropmill.__main__ import main

    main()

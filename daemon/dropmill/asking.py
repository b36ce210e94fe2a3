"""The command line's side of the control socket: one request to a running daemon, and its answer.

A client connects, sends one line of JSON, `{"command", "arguments", "state"}`, and reads lines
until the final one: any number of `{"progress": ...}`, then `{"ok": true, "result": {...}}` or
`{"ok": false, "error": "a sentence"}`. `state` is the state folder's [device, inode]: an address
left behind by a killed daemon may by now be another daemon's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from .errors import DropmillError

ADDRESS_NAME = b"daemon.json"
NOT_HERE = "another state folder's daemon answers here"

Answer = dict[str, Any]


class NotRunning(DropmillError):  # noqa: N818 - a state of affairs, which some commands live with
    """No daemon answers for this state folder."""


@contextlib.contextmanager
def reachable(path: bytes) -> Iterator[tuple[str, int]]:
    """A short name for a socket's path, and its folder's descriptor.

    An AF_UNIX address ends at 108 bytes; through /proc any depth can be reached.
    """
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{os.fsdecode(name)}", descriptor
    finally:
        os.close(descriptor)


def identity(state_folder: bytes) -> list[int]:
    """[device, inode]: which state folder it is, whatever it is called."""
    status = os.stat(state_folder)
    return [status.st_dev, status.st_ino]


def address(state_folder: bytes) -> dict[str, Any]:
    """What the daemon wrote of itself: pid, socket, version, started (ns since the epoch).

    A killed daemon leaves its address behind: only `ask` tells whether anyone is there. Raises
    NotRunning when there is none, DropmillError when it may not be read.
    """
    path = os.path.join(state_folder, ADDRESS_NAME)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if isinstance(found["socket"], str):
            return dict(found)
    except (FileNotFoundError, NotADirectoryError):
        raise NotRunning(_not_running(state_folder)) from None
    except PermissionError:
        raise DropmillError(
            f"{os.fsdecode(path)}: you may not read it: join the group that owns it"
        ) from None
    except (ValueError, TypeError, KeyError):
        pass
    raise NotRunning(_not_running(state_folder))


def _not_running(state_folder: bytes) -> str:
    return (
        f"no daemon is running on {os.fsdecode(state_folder)}: "
        "start it with `dropmill run` or `systemctl start dropmill`"
    )


def ask(
    state_folder: bytes,
    command: str,
    arguments: dict[str, Any],
    timeout: float | None = None,
    progress: Callable[[Any], None] | None = None,
) -> dict[str, Any]:
    """The running daemon's answer; `timeout` (seconds) is for all of it, None waits for ever.

    Raises NotRunning when nobody answers for this state folder, DropmillError when the daemon
    refuses, goes away or takes too long.
    """
    path = os.fsencode(address(state_folder)["socket"])
    deadline = None if timeout is None else time.monotonic() + timeout
    asked = {"command": command, "arguments": arguments, "state": identity(state_folder)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        _set_deadline(connection, deadline)
        try:
            with reachable(path) as (name, _):
                connection.connect(name)
        except PermissionError:
            raise DropmillError(
                f"{os.fsdecode(path)}: you may not command this daemon: join its group"
            ) from None
        except OSError:
            raise NotRunning(_not_running(state_folder)) from None
        try:
            with contextlib.suppress(BrokenPipeError):  # refused already: it says why
                connection.sendall(json.dumps(asked).encode() + b"\n")
            final = _final_answer(connection, deadline, progress)
        except TimeoutError:
            raise DropmillError(f"the daemon did not answer within {timeout:g} s") from None
        except OSError as error:
            raise DropmillError(f"the daemon went away before it answered ({error})") from None
    return _result(final, state_folder)


def _set_deadline(connection: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        connection.settimeout(max(0.001, deadline - time.monotonic()))


def _final_answer(
    connection: socket.socket, deadline: float | None, progress: Callable[[Any], None] | None
) -> Answer:
    received = bytearray()
    while True:
        line, end, rest = received.partition(b"\n")
        if end:
            received = rest
            answer: Answer = json.loads(line)
            if "ok" in answer:
                return answer
            if progress is not None:
                progress(answer.get("progress"))
            continue
        _set_deadline(connection, deadline)
        more = connection.recv(65536)
        if not more:
            raise ConnectionResetError("the connection was closed")
        received += more


def _result(final: Answer, state_folder: bytes) -> dict[str, Any]:
    if final["ok"]:
        return dict(final.get("result") or {})
    sentence = str(final.get("error"))
    if sentence == NOT_HERE:
        raise NotRunning(_not_running(state_folder))
    raise DropmillError(sentence)

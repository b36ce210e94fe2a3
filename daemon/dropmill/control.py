"""The unix socket by which the command line asks a running daemon: the daemon's side.

`asking` describes what is said on it, and is the other side. Who may ask is decided by the kernel's
word on the peer (SO_PEERCRED): root, the service's own user, and members of its group.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import pwd
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from . import __version__
from .asking import ADDRESS_NAME, NOT_HERE, Answer, identity, reachable

SOCKET_NAME = b"control.sock"

_LONGEST_REQUEST = 1 << 20
_LONGEST_BACKLOG = 8 << 20  # of answers that a client does not read
_MOST_CLIENTS = 64
_PATIENCE_SECONDS = 30.0

_log = logging.getLogger(__name__)


class Request(NamedTuple):
    """What a client asks. `reply` may be called from any thread, and later; after the final
    answer, or when the client went away, it does nothing."""

    command: str
    arguments: dict[str, Any]
    reply: Callable[[Answer], None]


# ---- where the socket lies -----------------------------------------------------------------------


def runtime_folder(state_folder: bytes) -> bytes:
    """The folder for what lives as long as the daemon; made (mode 0750) if it is not there.

    systemd's, else one of our own in the user's XDG_RUNTIME_DIR, else the state folder itself.
    """
    given = os.environb.get(b"RUNTIME_DIRECTORY", b"").split(b":")[0]
    if given and os.path.isdir(given):
        return given
    users = os.environb.get(b"XDG_RUNTIME_DIR", b"")
    folder = state_folder
    if users and _is_ours(users):  # `sudo` may leave another user's here
        digest = hashlib.blake2b(os.path.realpath(state_folder), digest_size=4).hexdigest()
        folder = os.path.join(users, b"dropmill-" + digest.encode())
    os.makedirs(folder, mode=0o750, exist_ok=True)
    return folder


def _is_ours(folder: bytes) -> bool:
    try:
        return os.stat(folder).st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


# ---- the daemon's side ---------------------------------------------------------------------------


def may_command(uid: int, gid: int) -> bool:
    """Whether a peer may tell this process what to do."""
    if uid in (0, os.geteuid()) or gid == os.getegid():
        return True
    try:
        return os.getegid() in os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except (KeyError, OSError):
        return False


class _Client:
    """One connection: what it sent so far, and what it has not read yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.asked = False
        self.answered = False
        self.deadline = time.monotonic() + _PATIENCE_SECONDS  # None of its silence lasts longer.


class Server:
    """Takes requests on a thread of its own, from construction until `close`.

    Only the holder of the state folder's lock may make one: it replaces what an earlier daemon
    left behind.
    """

    def __init__(self, state_folder: bytes, inbox: Callable[[Request], None]) -> None:
        """`inbox` is called on the server's thread, and only enqueues."""
        self._state_folder = state_folder
        self._inbox = inbox
        self._identity = identity(state_folder)
        self._path = os.path.join(runtime_folder(state_folder), SOCKET_NAME)
        self._listener = _listen(self._path)
        self._lock = threading.Lock()  # over every client's `outgoing` and `answered`
        self._clients: set[_Client] = set()
        self._waker, self._woken = socket.socketpair()
        self._closing = False
        _write_address(state_folder, self._path)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hangs up on everybody and takes the address away."""
        self._closing = True
        self._wake()
        self._thread.join(5)
        for path in (self._path, os.path.join(self._state_folder, ADDRESS_NAME)):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"!", socket.MSG_DONTWAIT)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._listener.setblocking(False)
            self._woken.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing:
                for key, _ in selector.select(self._nearest_deadline()):
                    self._ready(key.fileobj, key.data)
                self._settle(selector)
        for client in self._clients:
            self._write(client)  # what was answered last still goes out
            client.connection.close()
        for end in (self._listener, self._waker, self._woken):
            end.close()

    def _nearest_deadline(self) -> float | None:
        waiting = [each.deadline for each in self._clients if not each.asked or each.outgoing]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _ready(self, end: Any, client: _Client | None) -> None:
        if client is not None:
            self._read(client)
        elif end is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        else:
            self._accept()

    def _settle(self, selector: selectors.BaseSelector) -> None:
        """Writes what there is to write, drops who is done, and waits for the others."""
        now = time.monotonic()
        for client in list(self._clients):
            if not self._write(client) or self._is_overdue(client, now):
                self._clients.discard(client)
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(client.connection)
                client.connection.close()
                continue
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outgoing else 0)
            known = selector.get_map().get(client.connection)
            if known is None:
                selector.register(client.connection, wanted, client)
            elif known.events != wanted:
                selector.modify(client.connection, wanted, client)

    def _is_overdue(self, client: _Client, now: float) -> bool:
        return now >= client.deadline and (not client.asked or bool(client.outgoing))

    # ---- one client --------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of descriptors: let others finish rather than spin
            _log.warning("cannot answer on the control socket: %s", error)
            time.sleep(0.1)
            return
        connection.setblocking(False)
        client = _Client(connection)
        if len(self._clients) >= _MOST_CLIENTS:
            self._refuse(client, f"{_MOST_CLIENTS} others are asking already: try again")
            self._write(client)
            connection.close()
            return
        self._clients.add(client)

    def _read(self, client: _Client) -> None:
        try:
            received = client.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._hang_up(client)
        elif not client.asked:
            client.incoming += received
            line, end, _ = client.incoming.partition(b"\n")
            if len(line) > _LONGEST_REQUEST:
                self._refuse(client, "a request is one line of at most 1 MiB")
            elif end:
                self._ask(client, bytes(line))

    def _ask(self, client: _Client, line: bytes) -> None:
        client.asked = True
        client.incoming.clear()
        refusal = self._objection(client, line)
        if refusal:
            self._refuse(client, refusal)
            return
        asked = json.loads(line)
        try:
            self._inbox(
                Request(
                    asked["command"],
                    asked.get("arguments") or {},
                    functools.partial(self._reply, client),
                )
            )
        except Exception as error:
            _log.exception("a request could not be taken in")
            self._refuse(client, f"{type(error).__name__}: {error}")

    def _objection(self, client: _Client, line: bytes) -> str | None:
        """Why this request is not passed on; None if it is."""
        credentials = client.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, gid = struct.unpack("3i", credentials)
        if not may_command(uid, gid):
            return "only root, the service's user and members of its group may command it"
        try:
            asked = json.loads(line)
            command, arguments = asked["command"], asked.get("arguments") or {}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return 'a request is {"command": ..., "arguments": {...}} on one line'
        if not isinstance(command, str) or not isinstance(arguments, dict):
            return 'a request is {"command": ..., "arguments": {...}} on one line'
        if asked.get("state", self._identity) != self._identity:
            return NOT_HERE
        return None

    def _reply(self, client: _Client, answer: Answer) -> None:
        line = json.dumps(answer).encode() + b"\n"
        with self._lock:
            if client.answered:
                return
            if not client.outgoing:
                client.deadline = time.monotonic() + _PATIENCE_SECONDS
            client.outgoing += line
            client.answered = "ok" in answer
        self._wake()

    def _refuse(self, client: _Client, sentence: str) -> None:
        client.asked = True
        self._reply(client, {"ok": False, "error": sentence})

    def _hang_up(self, client: _Client) -> None:
        with self._lock:
            client.answered = True
            client.outgoing.clear()

    def _write(self, client: _Client) -> bool:
        """Sends what the client will take; whether there is more to come for it."""
        with self._lock:
            try:
                sent = client.connection.send(client.outgoing) if client.outgoing else 0
            except BlockingIOError:
                sent = 0
            except OSError:
                client.answered = True
                return False
            if sent:
                del client.outgoing[:sent]
                client.deadline = time.monotonic() + _PATIENCE_SECONDS
            if len(client.outgoing) > _LONGEST_BACKLOG:
                client.answered = True
                return False
            return bool(client.outgoing) or not client.answered


def _listen(path: bytes) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with reachable(path) as (name, folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.basename(path), dir_fd=folder)
            listener.bind(name)
            os.chmod(os.path.basename(path), 0o660, dir_fd=folder)
        listener.listen(_MOST_CLIENTS)
    except BaseException:
        listener.close()
        raise
    return listener


def _write_address(state_folder: bytes, path: bytes) -> None:
    address = {
        "pid": os.getpid(),
        "socket": os.fsdecode(path),
        "version": __version__,
        "started": time.time_ns(),
    }
    whole = os.fsdecode(os.path.join(state_folder, ADDRESS_NAME))
    partly = whole + ".new"
    with open(partly, "w", encoding="utf-8", opener=_for_our_group) as file:
        json.dump(address, file)
    os.replace(partly, whole)


def _for_our_group(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)

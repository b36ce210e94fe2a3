"""The control socket: who may ask, what is answered, and what a bad client cannot do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dropmill import __version__, asking, control
from dropmill.asking import NotRunning, address, ask
from dropmill.control import Request, Server, may_command, runtime_folder
from dropmill.errors import DropmillError

from .polling import eventually

pytestmark = pytest.mark.usefixtures("no_runtime_folder")


@pytest.fixture
def no_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@contextlib.contextmanager
def serving(state: bytes, inbox: Callable[[Request], None]) -> Iterator[Server]:
    os.makedirs(state, exist_ok=True)
    server = Server(state, inbox)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def state(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "state")


def echo(request: Request) -> None:
    request.reply({"ok": True, "result": {request.command: request.arguments}})


@contextlib.contextmanager
def connected(state: bytes) -> Iterator[socket.socket]:
    path = os.fsencode(address(state)["socket"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        with asking.reachable(path) as (name, _):
            client.connect(name)
        yield client


def everything(client: socket.socket) -> bytes:
    received = b""
    while more := client.recv(65536):
        received += more
    return received


def said(client: socket.socket) -> dict[str, Any]:
    return dict(json.loads(everything(client)))


# ---- question and answer -------------------------------------------------------------------------


def test_a_question_is_answered(state: bytes) -> None:
    with serving(state, echo):
        assert ask(state, "scan", {"path": "/a"}, 20) == {"scan": {"path": "/a"}}


def test_a_name_of_any_bytes_arrives_as_it_is(state: bytes) -> None:
    name = b"/srv/\xff\n\xe2\x80\xae"
    with serving(state, echo):
        answer = ask(state, "retry", {"paths": [os.fsdecode(name)]}, 20)
    assert os.fsencode(answer["retry"]["paths"][0]) == name


def test_an_answer_may_come_later_and_from_another_thread(state: bytes) -> None:
    waiting: list[Request] = []
    with serving(state, waiting.append):
        answers: list[dict[str, Any]] = []
        told: list[Any] = []
        asker = threading.Thread(
            target=lambda: answers.append(ask(state, "sync", {}, 20, progress=told.append))
        )
        asker.start()
        eventually(lambda: waiting, what="the request")
        waiting[0].reply({"progress": 1})
        waiting[0].reply({"progress": 2})
        waiting[0].reply({"ok": True, "result": {}})
        waiting[0].reply({"ok": False, "error": "said too late"})
        asker.join(20)
    assert answers == [{}]
    assert told == [1, 2]


def test_a_large_answer_arrives_whole(state: bytes) -> None:
    large = {"names": ["x" * 1000] * 3000}
    with serving(state, lambda request: request.reply({"ok": True, "result": large})):
        assert ask(state, "status", {}, 20) == large


def test_a_refusal_is_a_sentence(state: bytes) -> None:
    with (
        serving(state, lambda request: request.reply({"ok": False, "error": "/a: no such root"})),
        pytest.raises(DropmillError, match="/a: no such root"),
    ):
        ask(state, "scan", {"path": "/a"}, 20)


def test_a_daemon_that_does_not_answer_is_not_waited_for_longer_than_asked(state: bytes) -> None:
    with (
        serving(state, lambda request: None),
        pytest.raises(DropmillError, match=r"did not answer within 0\.1 s"),
    ):
        ask(state, "status", {}, 0.1)


def test_the_last_answer_still_goes_out_when_the_server_closes(state: bytes) -> None:
    waiting: list[Request] = []
    server = Server(_made(state), waiting.append)
    with connected(state) as client:
        client.sendall(b'{"command": "sync"}\n')
        eventually(lambda: waiting, what="the request")
        waiting[0].reply({"ok": True, "result": {}})
        server.close()
        assert said(client) == {"ok": True, "result": {}}


def _made(state: bytes) -> bytes:
    os.makedirs(state)
    return state


# ---- nobody there --------------------------------------------------------------------------------


def test_without_a_daemon_it_says_how_to_start_one(state: bytes) -> None:
    with pytest.raises(NotRunning, match="dropmill run"):
        ask(state, "status", {}, 20)


def test_after_a_stop_no_address_is_left(state: bytes) -> None:
    with serving(state, echo):
        assert address(state)["pid"] == os.getpid()
        assert address(state)["version"] == __version__
    assert os.listdir(state) == []
    with pytest.raises(NotRunning):
        ask(state, "status", {}, 20)


def test_the_address_of_a_killed_daemon_is_not_trusted(state: bytes) -> None:
    program = (
        "import sys, os, time; from dropmill.control import Server\n"
        "s = os.fsencode(sys.argv[1]); os.makedirs(s); Server(s, print); print(1, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, os.fsdecode(state)], stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        assert address(state)["pid"] == daemon.pid
        daemon.send_signal(signal.SIGKILL)
    assert address(state)["pid"] == daemon.pid
    with pytest.raises(NotRunning):
        ask(state, "status", {}, 20)
    with serving(state, echo):  # the next one takes its place
        assert ask(state, "a", {}, 20) == {"a": {}}


def test_another_state_folders_daemon_is_not_taken_for_ours(state: bytes, tmp_path: Path) -> None:
    other = os.fsencode(tmp_path / "other")
    with serving(other, echo):
        os.makedirs(state)
        with open(os.path.join(state, b"daemon.json"), "w") as file:
            json.dump(address(other), file)
        with pytest.raises(NotRunning):
            ask(state, "pause", {}, 20)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"socket": 3}', b"\xff"])
def test_a_broken_address_is_none(state: bytes, content: bytes) -> None:
    os.makedirs(state)
    with open(os.path.join(state, b"daemon.json"), "wb") as file:
        file.write(content)
    with pytest.raises(NotRunning):
        ask(state, "status", {}, 20)


# ---- where it lies -------------------------------------------------------------------------------


def test_a_state_folder_may_lie_deeper_than_a_socket_address_reaches(tmp_path: Path) -> None:
    deep = os.fsencode(tmp_path / ("d" * 200) / ("e" * 200))
    with serving(deep, echo):
        assert ask(deep, "a", {}, 20) == {"a": {}}


def test_the_runtime_folder_of_systemd_comes_first_then_the_users(
    state: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime_folder(state) == state
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    ours = runtime_folder(state)
    assert os.path.dirname(ours) == os.fsencode(tmp_path)
    assert ours != runtime_folder(state + b"2")
    assert stat.S_IMODE(os.stat(ours).st_mode) & ~0o750 == 0
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert runtime_folder(state) == os.fsencode(tmp_path)


def test_a_users_runtime_folder_that_is_not_there_is_passed_over(
    state: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent/of/user")
    assert runtime_folder(state) == state


# ---- who may ask ---------------------------------------------------------------------------------


def test_the_socket_is_for_the_service_and_its_group(state: bytes) -> None:
    with serving(state, echo):
        socket_mode = os.stat(address(state)["socket"]).st_mode
        assert stat.S_IMODE(socket_mode) == 0o660
        assert stat.S_IMODE(os.stat(os.path.join(state, b"daemon.json")).st_mode) & 0o007 == 0


def test_root_the_service_and_its_group_may_command_and_nobody_else() -> None:
    stranger, strangers = 64_123, 64_124
    assert may_command(0, strangers)
    assert may_command(os.geteuid(), strangers)
    assert may_command(stranger, os.getegid())
    assert not may_command(stranger, strangers)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
def test_a_stranger_who_reaches_the_socket_is_refused_with_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    state = os.fsencode(tmp_path / "state")
    with serving(state, echo):
        os.chmod(state, 0o755)
        os.chmod(address(state)["socket"], 0o666)
        program = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            's.sendall(b\'{"command": "pause"}\\n\'); print(s.makefile().read())'
        )
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", program, address(state)["socket"]],
            user=64_123,
            group=64_124,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        )
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    assert "only root" in answer["error"]


# ---- bad clients ---------------------------------------------------------------------------------


NO_REQUESTS = (
    b"hello",
    b"[]",
    b"3",
    b'{"command": 3}',
    b'{"command": "a"',
    b'{"command": "a", "arguments": [1]}',
    b"[" * 100_000,
)


@pytest.mark.parametrize("line", NO_REQUESTS, ids=range(len(NO_REQUESTS)))
def test_what_is_no_request_is_refused_with_a_sentence(state: bytes, line: bytes) -> None:
    with serving(state, echo), connected(state) as client:
        client.sendall(line + b"\n")
        answer = said(client)
    assert answer["ok"] is False
    assert "a request is" in answer["error"]


def test_a_request_above_1_mib_is_refused(state: bytes) -> None:
    with serving(state, echo), pytest.raises(DropmillError, match="at most 1 MiB"):
        ask(state, "retry", {"paths": ["x" * (1 << 20)]}, 20)


def test_a_client_that_says_nothing_is_dropped(
    state: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_SECONDS", 0.2)
    with serving(state, echo), connected(state) as client:
        client.sendall(b'{"comm')
        assert everything(client) == b""
        assert ask(state, "a", {}, 20) == {"a": {}}


def test_a_client_that_went_away_is_harmless(state: bytes) -> None:
    waiting: list[Request] = []
    with serving(state, waiting.append) as server:
        with connected(state) as client:
            client.sendall(b'{"command": "sync"}\n')
            eventually(lambda: waiting, what="the request")
        eventually(lambda: not server._clients, what="the client's end")
        waiting[0].reply({"ok": True, "result": {}})
        with connected(state) as client:
            client.sendall(b'{"command": "again"}\n')
            eventually(lambda: len(waiting) == 2, what="another request")


def test_a_client_that_reads_nothing_neither_blocks_nor_fills_the_memory(state: bytes) -> None:
    waiting: list[Request] = []
    with serving(state, waiting.append) as server, connected(state) as client:
        client.sendall(b'{"command": "sync"}\n')
        eventually(lambda: waiting, what="the request")
        started = time.monotonic()
        for _ in range(20):
            waiting[0].reply({"progress": "x" * (1 << 20)})
        assert time.monotonic() - started < 5
        eventually(lambda: not server._clients, what="the client being dropped")


def test_more_than_64_at_once_are_turned_away_and_the_others_served(state: bytes) -> None:
    waiting: list[Request] = []
    with serving(state, waiting.append), contextlib.ExitStack() as clients:
        for _ in range(64):
            clients.enter_context(connected(state)).sendall(b'{"command": "sync"}\n')
        eventually(lambda: len(waiting) == 64, what="64 requests")
        with connected(state) as one_more:
            assert "64 others" in said(one_more)["error"]


def test_an_inbox_that_fails_is_said_and_the_next_is_served(state: bytes) -> None:
    def inbox(request: Request) -> None:
        if request.command == "bad":
            raise ValueError("no such thing")
        echo(request)

    with serving(state, inbox):
        with pytest.raises(DropmillError, match="no such thing"):
            ask(state, "bad", {}, 20)
        assert ask(state, "good", {}, 20) == {"good": {}}

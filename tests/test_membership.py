"""Membership: of a shard there is one writer, also while a pool takes another size."""

from __future__ import annotations

import os

from dropmill.membership import Membership


def test_the_shard_of_a_worker_that_lives_is_its_own_and_after_it_anybodys(folder: bytes) -> None:
    reader, writer = os.pipe()
    told, tell = os.pipe()
    other = os.fork()
    if not other:
        os.close(writer)
        Membership(folder, 3)
        os.write(tell, b"!")
        os.read(reader, 1)  # until the parent lets go
        os._exit(0)
    os.read(told, 1)
    ours = Membership(folder, 0)
    with ours.alone_with(3) as is_alone:
        assert not is_alone
    with ours.alone_with(0) as is_alone, ours.alone_with(2) as with_another:
        assert is_alone and with_another
    os.close(writer)
    os.waitpid(other, 0)
    with ours.alone_with(3) as is_alone:
        assert is_alone
    ours.close()
    for end in (reader, told, tell):
        os.close(end)


def test_a_worker_waits_for_whoever_tidies_its_shard_up(folder: bytes) -> None:
    ours = Membership(folder, 0)
    told, tell = os.pipe()
    with ours.alone_with(3):
        other = os.fork()
        if not other:
            Membership(folder, 3)
            os.write(tell, b"!")
            os._exit(0)
        os.set_blocking(told, False)
        for _ in range(20):
            assert _said(told) == b""
    os.set_blocking(told, True)
    assert os.read(told, 1) == b"!"
    os.waitpid(other, 0)
    ours.close()
    for end in (told, tell):
        os.close(end)


def _said(end: int) -> bytes:
    try:
        return os.read(end, 1)
    except BlockingIOError:
        return b""

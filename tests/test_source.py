"""A source is opened once, beneath its root; nothing outside is read, and nothing blocks."""

from __future__ import annotations

import mmap
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from dropmill.source import Beneath, NotRegular, fingerprint, has_writer, look, opened

from .polling import eventually


@pytest.fixture
def root(folder: bytes) -> bytes:
    path = folder + b"/root"
    os.makedirs(path + b"/deep/er")
    for name in (b"/a", b"/deep/a", b"/deep/er/a"):
        write(path + name, name)
    os.mkdir(folder + b"/outside")
    write(folder + b"/outside/a", b"secret")
    return path


@pytest.fixture
def beneath(root: bytes) -> Iterator[Beneath]:
    made = Beneath(root)
    yield made
    made.close()


def write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def read(beneath: Beneath, path: bytes) -> bytes:
    descriptor = beneath.open(path)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_are_opened_in_any_order_of_folders(beneath: Beneath) -> None:
    for path in (b"a", b"deep/a", b"deep/er/a", b"a", b"deep/er/a", b"deep/a"):
        assert read(beneath, path) == b"/" + path


def test_no_link_leads_out_of_the_root(root: bytes, beneath: Beneath) -> None:
    os.symlink(b"../outside/a", root + b"/file-link")
    os.symlink(b"../outside", root + b"/folder-link")
    os.symlink(b"../../outside", root + b"/deep/folder-link")
    os.symlink(b"loop", root + b"/loop")
    for path in (b"file-link", b"folder-link/a", b"deep/folder-link/a", b"loop", b"loop/a"):
        with pytest.raises(NotRegular):
            beneath.open(path)
    assert read(beneath, b"a") == b"/a"


def test_a_link_inside_the_root_is_not_followed_either(root: bytes, beneath: Beneath) -> None:
    os.symlink(b"a", root + b"/link")
    with pytest.raises(NotRegular):
        beneath.open(b"link")


def test_a_folder_swapped_for_a_link_is_not_followed(root: bytes, beneath: Beneath) -> None:
    os.rename(root + b"/deep", root + b"/away")
    os.symlink(b"../outside", root + b"/deep")
    with pytest.raises(NotRegular):
        beneath.open(b"deep/a")


def test_the_root_itself_may_be_a_link(folder: bytes, root: bytes) -> None:
    os.symlink(b"root", folder + b"/link")
    with opened(folder + b"/link", b"deep/a") as descriptor:
        assert os.read(descriptor, 100) == b"/deep/a"


def test_what_is_no_regular_file_is_never_opened(root: bytes, beneath: Beneath) -> None:
    os.mkfifo(root + b"/fifo")
    os.mkdir(root + b"/folder.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(root + b"/socket")
    for path in (b"fifo", b"folder.txt", b"socket", b"deep"):
        with pytest.raises(NotRegular):
            beneath.open(path)


def test_absence_is_told_from_what_may_not_be_read(root: bytes, beneath: Beneath) -> None:
    for path in (b"none", b"none/a", b"deep/none/a"):
        with pytest.raises(FileNotFoundError):
            beneath.open(path)
    with pytest.raises(NotRegular):
        beneath.open(b"a/b")


def test_no_descriptor_is_left_behind(root: bytes) -> None:
    os.symlink(b"../../outside", root + b"/deep/link")
    before = descriptors()
    for path in (b"a", b"deep/er/a", b"none", b"deep/none/a", b"deep/link/a", b"deep/er/none"):
        for _ in range(3):
            try:
                with opened(root, path):
                    pass
            except OSError:
                pass
    assert descriptors() == before


def test_after_a_failure_the_same_opener_goes_on(root: bytes, beneath: Beneath) -> None:
    for path in (b"deep/none/a", b"deep/er/none", b"deep/er/a/b"):
        with pytest.raises(OSError):
            beneath.open(path)
        assert read(beneath, b"deep/er/a") == b"/deep/er/a"


def test_names_may_hold_any_byte(root: bytes, beneath: Beneath) -> None:
    for name in (b"\xff", b"new\nline", b"-rf", b" ", b"...", b"n" * 255):
        write(os.path.join(root, name), name)
        assert read(beneath, name) == name[:100]


def test_a_fingerprint_tells_a_change_and_ignores_a_reading(root: bytes) -> None:
    path = root + b"/a"
    seen = look(path)
    with open(path, "rb") as file:
        assert file.read()
        assert fingerprint(os.fstat(file.fileno())) == seen
    os.truncate(path, 1)
    assert look(path) != seen


def test_only_a_regular_file_has_a_fingerprint(root: bytes) -> None:
    os.symlink(b"a", root + b"/link")
    assert look(root + b"/link") is None
    assert look(root + b"/deep") is None
    assert look(root + b"/none") is None
    assert look(root + b"/a/b") is None


# ---- writers -----------------------------------------------------------------------------------


@pytest.fixture
def ignored_sigio() -> Iterator[None]:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.mark.usefixtures("ignored_sigio")
def test_a_file_that_is_open_for_writing_has_a_writer(root: bytes) -> None:
    with opened(root, b"a") as descriptor:
        assert has_writer(descriptor) is False
        with open(root + b"/a", "r+b"):
            assert has_writer(descriptor) is True
        assert has_writer(descriptor) is False
        with open(root + b"/a", "rb"):
            assert has_writer(descriptor) is False


@pytest.mark.usefixtures("ignored_sigio")
def test_a_file_that_is_mapped_for_writing_has_a_writer(root: bytes) -> None:
    with opened(root, b"a") as descriptor:
        writing = os.open(root + b"/a", os.O_RDWR)
        mapped = mmap.mmap(writing, 1)
        os.close(writing)
        assert has_writer(descriptor) is True
        mapped.close()
        assert has_writer(descriptor) is False


@pytest.mark.usefixtures("ignored_sigio")
def test_asking_for_a_writer_leaves_nothing_that_a_writer_would_wait_for(root: bytes) -> None:
    with opened(root, b"a") as descriptor:
        assert has_writer(descriptor) is False
        child = os.fork()
        if child == 0:
            os.close(os.open(root + b"/a", os.O_WRONLY))
            os._exit(0)
        assert eventually(lambda: os.waitpid(child, os.WNOHANG) != (0, 0), seconds=5)

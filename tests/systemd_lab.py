"""A machine to try the service on: a real systemd as PID 1, in namespaces of its own.

It sees this machine's files, writes to memory, has its own network (loopback alone), processes,
users and cgroup, and is gone when the test is: nothing done in it changes anything outside. It
boots in about a second. `stop` and `start` are a reboot: what was written is still there.

Needs root, and the packages systemd and util-linux. This module is also run as a program, by
itself, for the two parts that must happen inside the namespaces: `hold` and `boot`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .polling import eventually
from .torture.isolated import mount, own_mounts

PROJECT = Path(__file__).parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
CLONE_NEWCGROUP = 0x02000000
POWER_OFF = signal.SIGRTMIN + 4  # as systemd understands it
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
# Nobody inside needs them, and what they govern is not the lab's alone.
TOO_MUCH = "-sys_module,-sys_rawio,-sys_time,-wake_alarm,-block_suspend"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FRESH = ("tmp", "var/tmp", "var/log", "home", "srv")  # folders that are not this machine's
HELD = "held"
BOOT_SECONDS, STOP_SECONDS = 60.0, 25.0


class NotHere(Exception):  # noqa: N818 - a state of affairs, for which tests are skipped
    """Why there can be no lab on this machine."""


class Lab:
    """One machine; its disk lasts from construction to `close`."""

    def __init__(self, folder: Path, shown: dict[Path, str]) -> None:
        """`folder` is for mounts alone; `shown` are folders of this machine, read-only at another
        place inside. Raises NotHere."""
        _require_what_it_takes()
        self._folder = folder
        self._machine: subprocess.Popen[bytes] | None = None
        binds = [f"{outside}:{inside}" for outside, inside in shown.items()]
        self._holder = subprocess.Popen(
            [*_myself("hold"), str(folder), *binds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            text=True,
        )
        assert self._holder.stdout and self._holder.stderr
        said = self._holder.stdout.readline().strip()
        if said != HELD:
            self._holder.wait(20)
            errors = self._holder.stderr.read()
            self._close_pipes()
            if said:
                raise NotHere(f"no mounts or cgroups of one's own: {said}")
            raise AssertionError(errors)

    def start(self) -> None:
        """Boots, and waits until all that is enabled has started."""
        leader = self._folder / "leader"
        leader.unlink(missing_ok=True)
        with (self._folder / "console").open("wb") as console:
            self._machine = subprocess.Popen(
                [
                    *("nsenter", "--mount", "--target", str(self._holder.pid), "--"),
                    *("unshare", *NAMESPACES, "--propagation", "private", "--"),
                    *(*_myself("boot"), str(self._folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=_environment(),
                start_new_session=True,
            )
        eventually(self._is_up, seconds=BOOT_SECONDS, what="the lab is up")

    def _is_up(self) -> bool:
        assert self._machine is not None
        if self._machine.poll() is not None:
            raise AssertionError((self._folder / "console").read_text(errors="replace"))
        if not self._leader:
            return False
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    @property
    def _leader(self) -> str:
        """The machine's PID 1, as numbered outside; empty until it is about to be systemd."""
        with suppress(OSError):
            return (self._folder / "leader").read_text()
        return ""

    def run(
        self,
        *command: str,
        user: str = "root",
        text: str = "",
        seconds: float = 60,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """One command inside, to its end; its output as text. `text` is its input."""
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "SYSTEMD_PAGER": "cat", **variables}
        # Everything but nsenter runs as `user`, with that user's groups.
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return subprocess.run(
            ["nsenter", "--all", "--target", self._leader, "--", *become, *command],
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=seconds,
        )

    def path(self, inside: str) -> Path:
        """Where a file on the machine's disk is seen from outside, also while it is off."""
        return Path(f"/proc/{self._holder.pid}/root{self._folder}/root{inside}")

    def stop(self) -> None:
        """Shuts down as a power button does."""
        if self._machine is None:
            return
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(self._leader), POWER_OFF)
        try:
            self._machine.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._machine.kill()  # and with it, by --kill-child, the machine
            self._machine.wait(STOP_SECONDS)
            raise AssertionError(f"no shutdown within {STOP_SECONDS:g} s: killed") from None
        finally:
            self._machine = None

    def close(self) -> None:
        """Ends it all; nothing is left."""
        try:
            self.stop()
        finally:
            assert self._holder.stdin
            self._holder.stdin.close()
            self._holder.wait(30)
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe is not None:
                pipe.close()


def _require_what_it_takes() -> None:
    if os.geteuid():
        raise NotHere("needs root")
    if not SYSTEMD.exists():
        raise NotHere(f"needs systemd: there is no {SYSTEMD}")
    tools = ("unshare", "nsenter", "setpriv", "mount", "umount", "pivot_root", "systemctl")
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        raise NotHere(f"needs {', '.join(missing)}")


def _myself(part: str) -> list[str]:
    return [sys.executable, "-m", "tests.systemd_lab", part]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{PROJECT}/daemon:{PROJECT}"}


# ---- in a mount namespace of its own: the disk, for as long as the lab is wanted -----------------


def hold(folder: Path, *binds: str) -> None:
    """Lays out the machine's disk, says so, and keeps it until its input ends."""
    try:
        own_mounts()
        _keep(folder, binds)
    except (PermissionError, subprocess.CalledProcessError) as error:
        print(error, flush=True)


def _keep(folder: Path, binds: Sequence[str]) -> None:
    root, disk, groups = folder / "root", folder / "disk", folder / "groups"
    mount("cgroup2", "cgroup2", groups)
    group = groups / f"dropmill-lab-{os.getpid()}"
    group.mkdir()
    try:
        (folder / "group").write_text(str(group))
        mount("tmpfs", "disk", disk, "mode=755")
        for part in ("upper", "work", *FRESH):
            (disk / part).mkdir(parents=True)
        layers = f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work"
        mount("overlay", "lab", root, layers)
        _furnish(root, disk)
        for bind in binds:
            outside, _, inside = bind.rpartition(":")
            _bind(Path(outside), root / inside.lstrip("/"), "ro")
        print(HELD, flush=True)
        sys.stdin.read()
    finally:
        _remove_group(group)


def _furnish(root: Path, disk: Path) -> None:
    """A plain machine, on which nothing is enabled and dropmill never was."""
    for name in FRESH:
        _bind(disk / name, root / name)
        if name.endswith("tmp"):
            (disk / name).chmod(0o1777)
    (root / "var/log/journal").mkdir()
    units = root / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    wanted = [*units.glob("*.wants"), *units.glob("*.requires"), *units.glob("dropmill.*")]
    ours = (root / name for name in ("opt/dropmill", "etc/dropmill", "var/lib/dropmill"))
    for path in (*wanted, *ours):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for unit in ("getty.target", "console-getty.service"):
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / "etc/fstab").write_text("")
    (root / "etc/hostname").write_text("dropmill-lab\n")
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")


def _remove_group(group: Path) -> None:
    """With all that still runs in it, if whoever wanted the lab was killed."""
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        time.sleep(0.02)


# ---- as PID 1 of the new namespaces --------------------------------------------------------------


def boot(folder: Path) -> None:
    """Makes the disk the root of everything, and becomes systemd."""
    root = folder / "root"
    outer_pid = os.readlink("/proc/self")  # this /proc is still the outer one
    group = Path((folder / "group").read_text())
    (group / "cgroup.procs").write_text("0")
    _unshare(CLONE_NEWCGROUP)
    _mount_kernel(root)
    _make_devices(root / "dev")
    (folder / "leader").write_text(outer_pid)
    os.chdir(root)
    _command("pivot_root", ".", ".")
    _command("umount", "--lazy", ".")
    os.chdir("/")
    _command("mount", "--make-rshared", "/")  # as on any machine with systemd
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb", "container": "dropmill-lab"}
    bounded = ["setpriv", f"--bounding-set={TOO_MUCH}", "--", str(SYSTEMD)]
    os.execvpe(bounded[0], [*bounded, "--unit=multi-user.target"], environment)


def _mount_kernel(root: Path) -> None:
    mount("proc", "proc", root / "proc", "nosuid,nodev,noexec")
    _bind(root / "proc/sys", root / "proc/sys", "ro")  # the knobs are everybody's
    mount("sysfs", "sysfs", root / "sys", "ro,nosuid,nodev,noexec")
    mount("cgroup2", "cgroup2", root / "sys/fs/cgroup", "nosuid,nodev,noexec")
    mount("tmpfs", "run", root / "run", "mode=755,nosuid,nodev")
    mount("tmpfs", "dev", root / "dev", "mode=755,nosuid")
    mount("tmpfs", "shm", root / "dev/shm", "mode=1777,nosuid,nodev")


def _make_devices(dev: Path) -> None:
    for name, minor in DEVICES.items():
        _device(dev / name, minor)
    for name in ("console", "tty"):  # there is no terminal
        _device(dev / name, DEVICES["null"])
    mount("devpts", "devpts", dev / "pts", "newinstance,mode=620,ptmxmode=666,gid=5")
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"fd/{number}")


def _device(path: Path, minor: int) -> None:
    os.mknod(path, 0o020666, os.makedev(1, minor))
    path.chmod(0o666)


def _bind(source: Path, place: Path, options: str = "") -> None:
    place.mkdir(parents=True, exist_ok=True)
    _command("mount", "--rbind", str(source), str(place))
    if options:
        _command("mount", "-o", f"remount,bind,{options}", str(place))


def _unshare(namespaces: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(namespaces):
        raise OSError(ctypes.get_errno(), "unshare")


def _command(*words: str) -> None:
    subprocess.run(words, check=True, timeout=60)


if __name__ == "__main__":
    {"hold": hold, "boot": boot}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])

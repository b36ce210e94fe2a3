"""The service under a real systemd, in the unit as it is shipped and put in place by `install`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from PIL import Image

from dropmill.commands.unit import WITHOUT_NAMESPACES

from ..machine import COMMAND, CONFIG, DROP_INS, PYTHON, Machine
from ..polling import eventually
from ..systemd_lab import PROJECT, NotHere
from ..trespasser import DONE, SCRIPT

UNIT = "/etc/systemd/system/dropmill.service"
MANY = 3000
CAP_LEASE = 1 << 28


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which dropmill is, and no unit of it."""
    try:
        machine = Machine(tmp_path_factory.mktemp("machine"))
    except NotHere as reason:
        pytest.skip(f"no systemd of one's own here: {reason}")
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def installed(bare: Machine) -> Machine:
    """The machine with the unit installed, enabled and started."""
    ended = bare.dropmill("service", "install")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    bare.do("gpasswd", "--add", "ben", "dropmill")
    bare.systemctl("enable", "--now", "dropmill")
    return bare


@pytest.fixture
def machine(installed: Machine) -> Machine:
    """The machine with the service running, whatever the last test did to it."""
    installed.systemctl("start", "dropmill")
    return installed


def drop_many(machine: Machine, name: str) -> None:
    folder = machine.lab.path(f"/srv/inbox/{name}")
    folder.mkdir()
    for number in range(MANY):
        (folder / f"{number}.txt").write_text(f"{name} {number}\n" + "padding " * 500)


def all_found(machine: Machine, name: str) -> bool:
    return len(machine.search(name, "-l")) == MANY


# ---- installing ----------------------------------------------------------------------------------


def test_a_dry_run_tells_everything_and_does_nothing(bare: Machine) -> None:
    ended = bare.dropmill("service", "install", "--dry-run", user="ann")
    assert ended.returncode == 0, ended.stderr
    assert (PROJECT / "systemd/dropmill.service").read_text() in ended.stdout
    assert f"ExecStart={PYTHON} -P -m dropmill --config {CONFIG} run" in ended.stdout
    assert not bare.lab.path(UNIT).exists()


def test_only_root_installs_for_the_system(bare: Machine) -> None:
    ended = bare.dropmill("service", "install", user="ann")
    assert ended.returncode == 2
    assert "sudo" in ended.stderr and "--user" in ended.stderr


def test_what_the_services_user_could_not_run_is_not_installed(bare: Machine) -> None:
    bare.do("chmod", "700", "/opt/dropmill")
    refused = bare.dropmill("service", "install")
    bare.do("chmod", "755", "/opt/dropmill")
    assert refused.returncode == 1
    assert f"the user dropmill cannot run {PYTHON}" in refused.stderr
    assert not bare.lab.path(UNIT).exists()


def test_a_folder_that_the_services_user_may_not_read_is_told_with_the_mend(bare: Machine) -> None:
    bare.do("chmod", "700", "/srv/inbox")
    told = bare.dropmill("service", "install")
    bare.do("chmod", "755", "/srv/inbox")
    assert told.returncode == 0
    assert "setfacl -m u:dropmill:rX /srv/inbox" in told.stderr


def test_the_unit_runs_as_it_is_shipped(installed: Machine) -> None:
    shipped = (PROJECT / "systemd/dropmill.service").read_bytes()
    assert installed.lab.path(UNIT).read_bytes() == shipped
    assert installed.shown("FragmentPath") == UNIT
    assert installed.shown("DropInPaths") == f"{DROP_INS}/10-install.conf"
    assert installed.systemctl("is-enabled", "dropmill").strip() == "enabled"


def test_systemd_has_nothing_to_object_to(installed: Machine) -> None:
    ended = installed.lab.run("systemd-analyze", "verify", "dropmill.service")
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_installing_again_is_no_change_and_restarts_nothing(machine: Machine) -> None:
    before = machine.main_pid()
    ended = machine.dropmill("service", "install")
    assert ended.returncode == 0, ended.stderr
    assert "systemctl restart dropmill" in ended.stdout
    assert machine.main_pid() == before


def test_changed_files_are_replaced_only_by_force(machine: Machine) -> None:
    paths = (UNIT, f"{DROP_INS}/10-install.conf")
    ours = {path: machine.lab.path(path).read_text() for path in paths}
    for path, content in ours.items():
        machine.write(path, content + "Nice=19\n")
    for command in ("install", "uninstall"):
        refused = machine.dropmill("service", command)
        assert refused.returncode == 1
        assert "--force" in refused.stderr and all(path in refused.stderr for path in paths)
    assert all(machine.lab.path(path).read_text().endswith("Nice=19\n") for path in paths)
    assert machine.dropmill("service", "install", "--force").returncode == 0
    assert {path: machine.lab.path(path).read_text() for path in paths} == ours


# ---- working -------------------------------------------------------------------------------------


def test_when_systemd_says_started_every_root_is_watched_and_every_worker_is_up(
    machine: Machine,
) -> None:
    machine.systemctl("restart", "dropmill")
    status = machine.status()
    assert {root["state"] for root in status["roots"]} == {"watching"}
    assert len(status["workers"]) == 2
    assert machine.shown("SubState") == "running"
    assert machine.shown("StatusText")


def test_what_one_drops_another_finds_and_a_third_does_not(machine: Machine) -> None:
    machine.drop("/srv/inbox/note.txt", "first\nthe disk failure of monday\n")
    machine.drop("/home/ann/papers/letter.txt", "dear landlady\n")
    machine.await_hit("disk failure", "/srv/inbox/note.txt:2:the disk failure of monday")
    machine.await_hit("landlady", "/home/ann/papers/letter.txt:1:dear landlady")
    refused = machine.dropmill("search", "disk", user="eve")
    assert refused.returncode == 1
    assert "note.txt" not in refused.stdout + refused.stderr
    assert "group" in refused.stderr


def test_a_photograph_gets_a_copy_in_a_folder_of_the_services(machine: Machine) -> None:
    Image.new("RGB", (320, 200), "teal").save(machine.lab.path("/srv/inbox/photo.jpg"))
    copy = machine.lab.path("/srv/gray/inbox/photo_grayscale.jpg")
    eventually(copy.exists, what="the copy is there")
    owner = machine.do("stat", "--format=%U:%G %a", "/srv/gray/inbox/photo_grayscale.jpg")
    assert owner.strip() == "dropmill:dropmill 640"


def test_only_the_group_commands(machine: Machine) -> None:
    assert machine.dropmill("scan", user="ben").returncode == 0
    assert machine.dropmill("scan", user="eve").returncode == 1


def test_a_folder_that_replaces_a_watched_one_is_found_in_a_hidden_home(machine: Machine) -> None:
    machine.drop("/home/ann/papers/kept.txt", "kept\n")
    machine.await_hit("kept", "/home/ann/papers/kept.txt:1:kept")
    machine.do("cp", "--archive", "/home/ann/papers", "/home/ann/restored")
    machine.do("mv", "/home/ann/papers", "/home/ann/old")
    machine.do("mv", "/home/ann/restored", "/home/ann/papers")
    machine.drop("/home/ann/papers/new.txt", "replacement\n")
    machine.await_hit("replacement", "/home/ann/papers/new.txt:1:replacement")
    eventually(lambda: not machine.status()["problems"], what="it is watched again")


# ---- reloading -----------------------------------------------------------------------------------


def test_a_right_edit_is_in_force_after_a_reload_and_a_wrong_one_is_not(machine: Machine) -> None:
    before = machine.main_pid()
    machine.do("install", "-d", "-o", "ann", "-m", "755", "/srv/second")
    base = machine.lab.path(CONFIG).read_text()
    added = base.replace("watch:\n", "watch:\n  - {path: /srv/second, settle: 100ms}\n")
    machine.write(CONFIG, added)
    machine.systemctl("reload", "dropmill")
    machine.drop("/srv/second/added.txt", "reloadable\n")
    machine.await_hit("reloadable", "/srv/second/added.txt:1:reloadable")
    machine.write(CONFIG, added.replace("workers: 2", "workers: several"))
    machine.lab.run("systemctl", "reload", "dropmill")
    eventually(lambda: "several" in json.dumps(machine.status()["problems"]), what="it is refused")
    assert "several" in machine.journal()
    machine.drop("/srv/second/still.txt", "undisturbed\n")
    machine.await_hit("undisturbed", "/srv/second/still.txt:1:undisturbed")
    machine.write(CONFIG, base)
    machine.systemctl("reload", "dropmill")
    eventually(lambda: not machine.status()["problems"], what="no problem is left")
    assert (machine.main_pid(), machine.shown("ActiveState")) == (before, "active")


# ---- dying ---------------------------------------------------------------------------------------


def await_restart(machine: Machine, before: int) -> None:
    eventually(lambda: machine.restarts() > before, seconds=30, what="systemd starts it again")
    eventually(lambda: machine.shown("ActiveState") == "active", seconds=30, what="it is up")


def test_a_service_that_is_killed_is_started_again_and_misses_nothing(machine: Machine) -> None:
    before = machine.restarts()
    machine.kill("KILL", machine.main_pid())
    machine.drop("/srv/inbox/meanwhile.txt", "unattended\n")
    await_restart(machine, before)
    machine.await_hit("unattended", "/srv/inbox/meanwhile.txt:1:unattended")


def test_a_worker_that_is_killed_is_replaced_without_a_restart(machine: Machine) -> None:
    main = machine.main_pid()
    killed = machine.status()["workers"][0]["pid"]
    machine.kill("KILL", killed)

    def is_replaced() -> bool:
        pids = {worker["pid"] for worker in machine.status()["workers"]}
        return len(pids) == 2 and killed not in pids

    eventually(is_replaced, what="another worker is up")
    machine.drop("/srv/inbox/after.txt", "replaceable\n")
    machine.await_hit("replaceable", "/srv/inbox/after.txt:1:replaceable")
    assert machine.main_pid() == main


def test_a_service_that_hangs_is_killed_and_started_again(machine: Machine) -> None:
    machine.drop_in("watchdog", "WatchdogSec=2s")
    machine.systemctl("restart", "dropmill")
    before = machine.restarts()
    machine.kill("STOP", machine.main_pid())
    machine.drop("/srv/inbox/hung.txt", "unresponsive\n")
    await_restart(machine, before)
    assert "watchdog" in machine.do("journalctl", "--boot", "_PID=1", "--output=cat").lower()
    assert "Fatal Python error: Aborted" in machine.journal()  # and where it hung
    machine.await_hit("unresponsive", "/srv/inbox/hung.txt:1:unresponsive")
    machine.without_drop_in("watchdog")
    machine.systemctl("restart", "dropmill")


def test_a_file_that_takes_too_much_memory_costs_its_worker_alone(machine: Machine) -> None:
    main = machine.main_pid()
    Image.new("RGB", (9000, 9000), "red").save(machine.lab.path("/srv/inbox/huge.png"))

    def verdict() -> str | None:
        row = machine.results().get("/srv/inbox/huge.png", {})
        return row.get("reason") if row.get("state") == "quarantined" else None

    assert "memory" in str(eventually(verdict, seconds=60, what="it is quarantined"))
    assert machine.main_pid() == main


# ---- stopping ------------------------------------------------------------------------------------


def test_a_stop_with_work_in_hand_is_in_time_clean_and_loses_nothing(machine: Machine) -> None:
    done = machine.status()["files"]["done"]
    drop_many(machine, "stopping")
    eventually(lambda: machine.status()["files"]["done"] > done, what="some are done")
    began = time.monotonic()
    machine.systemctl("stop", "dropmill")
    assert time.monotonic() - began < 15
    assert (machine.shown("Result"), machine.shown("ExecMainStatus")) == ("success", "0")
    machine.systemctl("start", "dropmill")
    eventually(lambda: all_found(machine, "stopping"), seconds=60, what="all are found")


def test_what_was_dropped_while_the_machine_was_off_is_found_after_its_boot(
    machine: Machine,
) -> None:
    machine.lab.stop()
    machine.lab.path("/srv/inbox/overnight.txt").write_text("nocturnal\n")
    machine.lab.start()
    assert machine.shown("ActiveState") == "active"
    machine.await_hit("nocturnal", "/srv/inbox/overnight.txt:1:nocturnal")


# ---- what it may not do --------------------------------------------------------------------------


def test_workers_have_no_privilege_but_asking_for_leases(machine: Machine) -> None:
    for worker in machine.status()["workers"]:
        lines = machine.do("cat", f"/proc/{worker['pid']}/status").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        for each in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            assert int(fields[each], 16) == CAP_LEASE, each
        owner = machine.do("stat", "--format=%U", f"/proc/{worker['pid']}")
        assert owner.strip() == "dropmill"
        assert machine.do("cat", f"/proc/{worker['pid']}/oom_score_adj").strip() == "500"


@pytest.fixture
def trespassing(machine: Machine) -> Iterator[Machine]:
    """The same unit, with a program whose workers try what they may not."""
    command = f"{PYTHON} -P -m trespasser --config {CONFIG} run"
    machine.drop_in("trespasser", "ExecStart=", f"ExecStart={command}")
    machine.systemctl("restart", "dropmill")
    yield machine
    machine.without_drop_in("trespasser")
    machine.systemctl("restart", "dropmill")


def test_a_worker_cannot_do_what_the_sandbox_forbids(trespassing: Machine) -> None:
    machine, theirs, source = trespassing, "/home/eve/diary.txt", "/srv/inbox/guest.sh"
    machine.write(theirs, "dear diary\n")
    machine.do("chmod", "777", "/srv/inbox")
    machine.write(source, SCRIPT.format(theirs=theirs))
    machine.do("chmod", "777", source)

    def answer() -> dict[str, str] | None:
        reason = machine.results().get(source, {}).get("reason")
        return json.loads(reason) if reason else None

    shut_in = eventually(answer, what="the worker answers")
    assert shut_in is not None
    # The same user may do it all where there is no sandbox.
    program = f"import json, trespasser as t; print(json.dumps(t.attempts({theirs!r}, {source!r})))"
    free = json.loads(machine.do(PYTHON, "-P", "-c", program, user="dropmill"))
    machine.do("chmod", "755", "/srv/inbox")
    assert set(free.values()) == {DONE}, free
    assert set(shut_in) == set(free) and DONE not in shut_in.values(), shut_in


# ---- a service of one's own ----------------------------------------------------------------------


ODD = '/home/ann/100% "odd" $HOME\'s %h'  # what systemd would make something of
OWN = f"{ODD}/dropmill.yaml"
OWN_UNITS = "/home/ann/.config/systemd/user"
Own = Callable[..., str]


@pytest.fixture(scope="module")
def own(bare: Machine) -> Own:
    """Runs commands as ann, under whose own service manager dropmill is installed and started."""
    uid = bare.do("id", "--user", "ann").strip()
    ended = bare.lab.run("systemctl", "start", f"user@{uid}.service")
    if ended.returncode:
        pytest.skip(f"no service manager for a user here: {ended.stderr.strip()}")
    do = partial(
        bare.do, user="ann", HOME="/home/ann", XDG_RUNTIME_DIR=f"/run/user/{uid}", NO_COLOR="1"
    )
    do(COMMAND, "init", ODD)
    told = do(COMMAND, "service", "install", "--user", "--config", OWN)
    assert "systemctl --user enable --now dropmill" in told
    do("systemctl", "--user", "enable", "--now", "dropmill")
    return do


def test_a_user_has_a_service_of_their_own_whatever_its_folder_is_called(
    bare: Machine, own: Own
) -> None:
    unit = bare.lab.path(f"{OWN_UNITS}/dropmill.service")
    assert unit.read_bytes() == (PROJECT / "systemd/dropmill-user.service").read_bytes()
    assert own("systemd-analyze", "--user", "verify", "dropmill.service") == ""
    bare.drop(f"{ODD}/inbox/note.txt", "mine alone\n")
    hits = own(COMMAND, "--config", OWN, "search", "--sync", "alone")
    assert hits == f"{ODD}/inbox/note.txt:1:mine alone\n"
    pid = own("systemctl", "--user", "show", "dropmill", "--property=MainPID", "--value")
    assert_sandboxed(bare, int(pid))


def test_where_users_have_no_namespaces_their_service_runs_with_what_is_left(
    bare: Machine, own: Own
) -> None:
    path = f"{OWN_UNITS}/dropmill.service.d/20-none.conf"
    bare.write(path, "\n".join(("[Service]", *WITHOUT_NAMESPACES, "")))
    own("systemctl", "--user", "daemon-reload")
    own("systemctl", "--user", "restart", "dropmill")
    assert own("systemctl", "--user", "is-active", "dropmill") == "active\n"
    told = own(COMMAND, "service", "uninstall", "--user")
    assert ODD in told and path in told  # what is left: state and configuration, what is not ours
    assert not bare.lab.path(f"{OWN_UNITS}/dropmill.service").exists()


def assert_sandboxed(machine: Machine, pid: int) -> None:
    """Little is writable, nothing but programs executable, and there is no way out."""
    mounts = machine.do("cat", f"/proc/{pid}/mountinfo").splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert {"ro", "noexec"} <= set(options["/"])
    status = machine.do("cat", f"/proc/{pid}/status")
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
    own_network = machine.do("readlink", f"/proc/{pid}/ns/net", "/proc/1/ns/net").split()
    assert own_network[0] != own_network[1]


# ---- going ---------------------------------------------------------------------------------------


def test_uninstalling_says_what_it_leaves_and_where(machine: Machine) -> None:
    told = machine.dropmill("service", "uninstall", "--dry-run").stdout
    assert machine.shown("ActiveState") == "active"
    ended = machine.dropmill("service", "uninstall")
    assert ended.returncode == 0, ended.stderr
    for left in (CONFIG, "/var/lib/dropmill", "/srv/gray", "userdel dropmill"):
        assert left in ended.stdout and left in told
    assert machine.lab.run("systemctl", "cat", "dropmill").returncode != 0
    assert not os.path.lexists(machine.lab.path(UNIT))
    assert not machine.lab.path(DROP_INS).exists()
    assert machine.lab.path("/var/lib/dropmill/results.db").exists()
    assert machine.dropmill("service", "uninstall").returncode == 1

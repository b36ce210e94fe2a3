"""The unit files as they are shipped, and what `install` has to add for a configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from dropmill import config
from dropmill.commands import unit
from dropmill.commands.manager import of
from dropmill.config.settings import Config
from dropmill.errors import UsageError

PROJECT = Path(__file__).parent.parent
UNITS = PROJECT / "systemd"
PYTHON = unit.Interpreter(Path("/opt/dropmill/bin/python"), (Path("/opt/dropmill"), Path("/usr")))
FILE = Path("/etc/dropmill/dropmill.yaml")
MOST_EXPOSED = 0.8

with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)"
)


def configured(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "dropmill.yaml"
    path.write_text(text)
    return config.load(path)


def for_system(tmp_path: Path, text: str, *, systemd: int = 252) -> list[str]:
    made = configured(tmp_path, text)
    return unit.settings_for_system(FILE, made, PYTHON, systemd).splitlines()


# ---- as shipped ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dropmill.service", "dropmill-user.service", "dropmill.sysusers"])
def test_the_package_carries_what_is_shipped(name: str) -> None:
    packaged = resources.files("dropmill") / "units" / name
    assert packaged.read_bytes() == (UNITS / name).read_bytes()


@with_systemd
@pytest.mark.parametrize("name", ["dropmill.service", "dropmill-user.service"])
def test_a_unit_is_hardly_exposed(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ended.stdout)
    assert level is not None, ended.stdout + ended.stderr
    assert float(level[1]) <= MOST_EXPOSED


@with_systemd
@pytest.mark.parametrize("name", ["dropmill.service", "dropmill-user.service"])
def test_systemd_has_nothing_to_object_to(name: str, tmp_path: Path) -> None:
    manager = ["--user"] if "user" in name else []
    ended = subprocess.run(
        ["systemd-analyze", *manager, "verify", "--recursive-errors=no", str(UNITS / name)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


# ---- what is added -------------------------------------------------------------------------------


def test_it_runs_this_interpreter_with_this_configuration(tmp_path: Path) -> None:
    lines = for_system(tmp_path, "watch: [{path: /srv/inbox}]")
    at = lines.index("ExecStart=")  # what the unit runs otherwise
    assert lines[at + 1] == (
        "ExecStart=/opt/dropmill/bin/python -P -m dropmill --config /etc/dropmill/dropmill.yaml run"
    )


def test_of_a_configuration_that_needs_nothing_nothing_is_added(tmp_path: Path) -> None:
    lines = for_system(tmp_path, "watch: [{path: /srv/inbox}]")
    keys = {line.partition("=")[0] for line in lines if "=" in line}
    assert keys == {"RequiresMountsFor", "ExecStart", "ExecPaths"}


def test_outputs_elsewhere_may_be_written_to(tmp_path: Path) -> None:
    lines = for_system(
        tmp_path, "state: /srv/state\nwatch: [{path: /srv/in}]\nimages: {output: /srv/gray}"
    )
    assert {"ReadWritePaths=-/srv/state", "ReadWritePaths=-/srv/gray"} <= set(lines)


def test_of_the_homes_only_what_lies_around_a_root_is_shown(tmp_path: Path) -> None:
    roots = "[{path: /home/ann/inbox}, {path: /home/shared}, {path: /tmp/drop}, {path: /srv/a}]"
    lines = for_system(tmp_path, f"watch: {roots}\nimages: {{output: /home/ann/gray}}")
    assert "ProtectHome=tmpfs" in lines
    shown = {line for line in lines if line.startswith("Bind")}
    assert shown == {
        "BindReadOnlyPaths=-/home/ann",  # so that another /home/ann/inbox would be found
        "BindReadOnlyPaths=-/home/shared",
        "BindReadOnlyPaths=-/tmp/drop",
        "BindPaths=-/home/ann/gray",
    }


def test_delays_grow_where_systemd_knows_how(tmp_path: Path) -> None:
    for version, grows in ((253, False), (254, True)):
        lines = for_system(tmp_path, "watch: [{path: /srv/in}]", systemd=version)
        assert ("RestartSteps=8" in lines) is grows


def test_names_reach_systemd_as_they_are(tmp_path: Path) -> None:
    lines = for_system(
        tmp_path, "watch: [{path: /srv/in}]\nimages: {output: '/srv/100% \"gray\" $x'}"
    )
    assert 'ReadWritePaths="-/srv/100%% \\"gray\\" $x"' in lines
    odd = Path("/etc/$HOME/a b.yaml")
    settings = unit.settings_for_system(
        odd, configured(tmp_path, "watch: [{path: /srv/in}]"), PYTHON, 252
    )
    assert '--config "/etc/$$HOME/a b.yaml" run' in settings


def test_a_name_that_no_unit_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rename it"):
        for_system(tmp_path, 'watch: [{path: /srv/in}]\nimages: {output: "/srv/a\\nb"}')


def test_a_user_without_namespaces_is_left_with_what_needs_none(tmp_path: Path) -> None:
    made = configured(tmp_path, "watch: [{path: ./inbox}]\nstate: ./state")
    for has_sandbox in (True, False):
        settings = unit.settings_for_user(FILE, made, PYTHON, 252, has_sandbox=has_sandbox)
        assert ("PrivateUsers=no" in settings) is not has_sandbox


# ---- who changed what ----------------------------------------------------------------------------


def test_a_drop_in_knows_what_was_installed_and_whether_it_was_changed() -> None:
    beside = {Path("/etc/systemd/system/dropmill.service"): b"[Unit]\n"}
    content = unit.drop_in("[Service]\nNice=1\n", FILE, beside, user=False)
    recorded = unit.recorded(content)
    assert recorded is not None
    assert (recorded.configuration, recorded.is_changed) == (FILE, False)
    assert recorded.hashes == {path: unit.digest(each) for path, each in beside.items()}
    changed = unit.recorded(content.replace(b"Nice=1", b"Nice=2"))
    assert changed is not None and changed.is_changed
    assert unit.recorded(b"[Service]\nNice=1\n") is None


def test_a_users_files_lie_in_their_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/ann/config")
    assert of(user=True).unit_file == Path("/home/ann/config/systemd/user/dropmill.service")
    assert of(user=False).unit_file == Path("/etc/systemd/system/dropmill.service")

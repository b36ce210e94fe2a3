"""A machine with systemd on which dropmill is installed as its users would install it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from .polling import eventually
from .systemd_lab import FRESH, PROJECT, Lab

PREFIX = "/opt/dropmill"
PYTHON = f"{PREFIX}/bin/python"
COMMAND = f"{PREFIX}/bin/dropmill"
CONFIG = "/etc/dropmill/dropmill.yaml"
DROP_INS = "/etc/systemd/system/dropmill.service.d"
# ann drops files, ben is of the group dropmill, eve is not.
USERS = """\
u ann - "" /home/ann /bin/sh
u ben - "" /home/ben /bin/sh
u eve - "" /home/eve /bin/sh
"""
CONFIGURATION = """\
state: /var/lib/dropmill
workers: 2
watch:
  - {{path: /srv/inbox, settle: 100ms}}
  - {{path: /home/ann/papers, settle: 100ms}}
images: {{output: /srv/gray}}
limits: {{free: 0, memory: 128MiB}}
{more}
"""


class Machine:
    """A lab with dropmill in /opt/dropmill, three users, and two folders to watch."""

    def __init__(self, folder: Path) -> None:
        """Raises NotHere where there can be none."""
        self._python = Path(sys.base_prefix)
        shown = {Path(sysconfig.get_path("purelib")): f"{PREFIX}/packages"}
        if any(self._python.is_relative_to(f"/{each}") for each in FRESH):
            shown[self._python] = str(self._python)
        self.lab = Lab(folder, shown)
        try:
            self.lab.start()
            self._install_package()
            self._furnish()
        except BaseException:
            self.lab.close()
            raise

    def close(self) -> None:
        self.lab.close()

    def _install_package(self) -> None:
        """What `pip install` would leave in a virtual environment, without a network."""
        for above in self._python.parents:  # where others could not run it, the service could not
            folder = self.lab.path(str(above))
            folder.chmod(folder.stat().st_mode | 0o011)
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        program = str(self._python / "bin" / name)
        packages = self.lab.path(f"{PREFIX}/lib/{name}/site-packages")
        packages.mkdir(parents=True)
        self.lab.path(f"{PREFIX}/bin").mkdir()
        for link in ("python", "python3"):
            self.lab.path(f"{PREFIX}/bin/{link}").symlink_to(program)
        self.lab.path(f"{PREFIX}/pyvenv.cfg").write_text(
            f"home = {self._python}/bin\ninclude-system-site-packages = false\n"
        )
        shutil.copytree(PROJECT / "daemon/dropmill", packages / "dropmill")
        shutil.copy(PROJECT / "tests/trespasser.py", packages)
        (packages / "packages.pth").write_text(f"{PREFIX}/packages\n")
        command = self.lab.path(COMMAND)
        command.write_text(
            f"#!{PYTHON}\nfrom dropmill.__main__ import main\n\nmain()\n", encoding="utf-8"
        )
        command.chmod(0o755)
        self.do(PYTHON, "-m", "compileall", "-q", f"{PREFIX}/lib")

    def _furnish(self) -> None:
        self.write("/etc/sysusers.d/users.conf", USERS)
        self.do("systemd-sysusers", "/etc/sysusers.d/users.conf")
        self.write(CONFIG, CONFIGURATION.format(more=""))
        for path, owner, mode in (
            ("/home/ann", "ann", "711"),
            ("/home/eve", "eve", "755"),
            ("/home/ann/papers", "ann", "755"),
            ("/srv/inbox", "ann", "755"),
            ("/srv/open", "root", "777"),
        ):
            self.do("install", "-d", "-o", owner, "-g", owner, "-m", mode, path)

    # ---- files -------------------------------------------------------------------------------

    def write(self, path: str, text: str) -> None:
        """As root."""
        target = self.lab.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def drop(self, path: str, text: str) -> None:
        """As ann does, and as an editor would: under another name first."""
        script = 'cat > "$0.part" && mv "$0.part" "$0"'
        self.lab.run("sh", "-c", script, path, user="ann", text=text).check_returncode()

    def configure(self, more: str = "") -> None:
        """Saves the configuration as an editor does; `more` are lines of it."""
        self.write(f"{CONFIG}.new", CONFIGURATION.format(more=more))
        os.replace(self.lab.path(f"{CONFIG}.new"), self.lab.path(CONFIG))

    # ---- commands ----------------------------------------------------------------------------

    def do(self, *command: str, **options: Any) -> str:
        """A command that must succeed; what it prints."""
        ended = self.lab.run(*command, **options)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def dropmill(
        self, *arguments: str, user: str = "root", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        command = (COMMAND, "--config", CONFIG, *arguments)
        return self.lab.run(*command, user=user, NO_COLOR="1", **options)

    def search(self, *query: str, user: str = "ben") -> list[str]:
        """Hits as `path:line:text`."""
        found = self.dropmill("search", "-m", "0", *query, user=user)
        assert found.returncode in (0, 1), found.stderr
        return found.stdout.splitlines()

    def await_hit(self, query: str, line: str) -> None:
        eventually(lambda: self.search(query) == [line], what=f"{query} is found: {line}")

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.dropmill("status", "--json").stdout)
        return answer

    def results(self) -> dict[str, dict[str, Any]]:
        found = self.dropmill("results", "--json").stdout.splitlines()
        return {row["path"]: row for row in map(json.loads, found)}

    # ---- the service -------------------------------------------------------------------------

    def systemctl(self, *words: str) -> str:
        return self.do("systemctl", *words)

    def shown(self, name: str) -> str:
        """A property of the service, as `systemctl show` has it."""
        return self.systemctl("show", "dropmill", f"--property={name}", "--value").strip()

    def main_pid(self) -> int:
        return int(self.shown("MainPID"))

    def restarts(self) -> int:
        return int(self.shown("NRestarts"))

    def kill(self, signal: str, pid: int) -> None:
        self.do("kill", f"-{signal}", str(pid))

    def journal(self) -> str:
        return self.do("journalctl", "--unit=dropmill", "--output=cat", "--boot")

    def drop_in(self, name: str, *settings: str) -> None:
        """Puts one beside the unit, and has it read; the service is not restarted."""
        self.write(f"{DROP_INS}/{name}.conf", "\n".join(("[Service]", *settings, "")))
        self.systemctl("daemon-reload")

    def without_drop_in(self, name: str) -> None:
        self.lab.path(f"{DROP_INS}/{name}.conf").unlink()
        self.systemctl("daemon-reload")

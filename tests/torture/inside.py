"""Looking into a running service without starting a command for each look.

To know when a fault can be made, and when work is over; what came of it is asked by the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from dropmill import asking
from dropmill.slots import Phase, Slots

from ..dropmill_process import Place


class Row(NamedTuple):
    """A file as the ledger has it."""

    state: int
    attempts: int
    reason: str | None


class Inside:
    """A place's ledger, slots and control socket."""

    def __init__(self, place: Place) -> None:
        """The service must have been started before."""
        self._place = place
        self.state_folder = os.fsencode(place.folder / "state")
        self._slots = Slots(self.state_folder)
        self._database = apsw.Connection(
            os.fsdecode(os.path.join(self.state_folder, b"results.db")),
            flags=apsw.SQLITE_OPEN_READONLY,
        )
        self._database.set_busy_timeout(10_000)

    def close(self) -> None:
        self._slots.close()
        self._database.close()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return asking.ask(self.state_folder, command, arguments, timeout=60)

    def query(self, sql: str, *values: Any) -> list[Any]:
        return self._database.execute(sql, values).fetchall()

    def queued(self) -> int:
        return int(self.query("SELECT count(*) FROM files WHERE state = 1")[0][0])

    def rows(self) -> dict[str, Row]:
        """Every file that has not gone, by its path relative to the inbox."""
        found = self.query(
            "SELECT d.path, f.name, f.state, f.attempts, f.reason FROM files f"
            " JOIN folders d ON d.id = f.folder WHERE f.state != 6"
        )
        inbox = os.fsencode(self._place.inbox)
        return {
            os.path.relpath(os.fsdecode(os.path.join(folder, name)), os.fsdecode(inbox)): Row(*row)
            for folder, name, *row in found
        }

    def in_hand(self) -> list[tuple[int, int, Path]]:
        """What workers work on now: (process id, take, path)."""
        found = []
        for _, slot in self._slots.in_hand():
            if slot.phase is Phase.WORKING and slot.take:
                path = self.query(
                    "SELECT d.path, f.name FROM files f JOIN folders d ON d.id = f.folder"
                    " WHERE f.id = ?",
                    slot.file,
                )
                if path:
                    found.append((slot.pid, slot.take, Path(os.fsdecode(os.path.join(*path[0])))))
        return found

    def has_in_hand(self, take: int) -> bool:
        return any(
            slot.take == take and slot.phase is Phase.WORKING for _, slot in self._slots.in_hand()
        )

    def while_paused(self, act: Callable[[], object], queued: Callable[[], bool]) -> None:
        """Acts, waits until that has been queued, and lets it all go at once."""
        from ..polling import eventually

        self.ask("pause")
        act()
        eventually(queued, seconds=60, what="queued while paused")
        self.ask("resume")

"""What a scan compares the disk with: the names that the ledger knows, folder by folder."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from ..job import Fingerprint


class Known(NamedTuple):
    """What the ledger knows of one name in a folder."""

    fingerprint: Fingerprint
    state: int


class FolderReader:
    """What a scan compares with; one a scan thread, on a connection of its own."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def known(self, folder: bytes) -> dict[bytes, Known]:
        """Every name that the ledger knows in a folder and that has not gone."""
        found = self._connection.execute(
            "SELECT f.name, f.inode, f.size, f.mtime_ns, f.ctime_ns, f.device, f.state"
            " FROM folders d JOIN files f ON f.folder = d.id WHERE d.path = ? AND f.state != 6",
            (folder,),
        )
        return {name: Known(Fingerprint(*mark), state) for name, *mark, state in found}

    def folders_below(self, top: bytes) -> list[bytes]:
        """Every folder at or below `top` that the ledger has files in."""
        low, high = top + b"/", top + b"0"  # "0" comes after "/"
        return [
            path
            for (path,) in self._connection.execute(
                "SELECT path FROM folders WHERE path = ? OR path >= ? AND path < ?",
                (top, low, high),
            )
        ]

    def close(self) -> None:
        self._connection.close()

"""The fingerprint of a file: what tells, without reading it, that it is what it was.

Apart from `job`, which takes 8 ms to import: search looks at files too, and at no jobs.
"""

from __future__ import annotations

from typing import NamedTuple


class Fingerprint(NamedTuple):
    """Equal means "nothing to do"."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int

"""The audit: what must hold, computed from the bytes on disk and never from `results`.

Every line that the bench writes holds the word `everyline`, so one search gives each line of each
file, once; and a word that names its file's version, so that a stale hit is found by asking for an
old version's word.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import apsw
from PIL import Image, ImageChops

from ..dropmill_process import Place

EVERY = "everyline"
IMAGES = (".jpg", ".png")
TOLERANCE = 4  # of 255: a gray JPEG is coded once more
_WORDS_AT_ONCE = 200


def differences(place: Place, *, stale_words: list[str] | None = None) -> list[str]:
    """Everything that is not as it must be; empty when all is well. The work must be over."""
    return [
        *_hits(place),
        *_stale(place, stale_words or []),
        *_takes(place),
        *_copies(place),
    ]


def texts(place: Place) -> list[Path]:
    return [path for path in _sources(place) if path.suffix not in IMAGES]


def images(place: Place) -> list[Path]:
    return [path for path in _sources(place) if path.suffix in IMAGES]


def _sources(place: Place) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(place.inbox):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _hits(place: Place) -> list[str]:
    expected: Counter[tuple[str, int, str]] = Counter()
    for path in texts(place):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if EVERY in line:
                expected[str(path), number, line] += 1
    found: Counter[tuple[str, int, str]] = Counter()
    answer = place.run("search", "-m", "0", "--json", EVERY, seconds=600)
    if answer.returncode not in (0, 1):
        return [f"search failed: {answer.stderr}"]
    for row in map(json.loads, answer.stdout.splitlines()):
        found[row["path"], row["line"], row["text"]] += 1
    problems = [f"missing: {each}" for each in (expected - found)]
    return problems + [f"double or stale: {each}" for each in (found - expected)]


def _stale(place: Place, words: list[str]) -> list[str]:
    problems = []
    for start in range(0, len(words), _WORDS_AT_ONCE):
        some = words[start : start + _WORDS_AT_ONCE]
        # By paths alone: lines are read again, and would hide that the index is stale.
        found = place.run("search", "-m", "0", "-l", "--any", *some)
        if found.returncode != 1:
            problems.append(f"stale: one of {some} in {found.stdout or found.stderr}")
    return problems


def _takes(place: Place) -> list[str]:
    """The live takes of every done text tile it exactly; the shards hold each block once."""
    database = apsw.Connection(
        str(place.folder / "state" / "results.db"), flags=apsw.SQLITE_OPEN_READONLY
    )
    problems = []
    rows = database.execute(
        "SELECT f.id, d.path, f.name, f.size, t.first, t.end FROM files f"
        " JOIN folders d ON d.id = f.folder JOIN takes t ON t.file = f.id"
        " WHERE f.state = 2 AND f.kind = 1 AND t.state = 1 ORDER BY f.id, t.first, t.end"
    )
    ends: dict[int, int] = {}
    sizes: dict[int, tuple[bytes, int]] = {}
    for file, folder, name, size, first, end in rows:
        if first != ends.get(file, 0):
            problems.append(f"takes of {folder!r}/{name!r} overlap or leave a gap at {first}")
        ends[file] = end
        sizes[file] = (name, size)
    problems += [
        f"takes of {name!r} end at {ends[file]}, not at {size}"
        for file, (name, size) in sizes.items()
        if ends[file] != size
    ]
    orphans = database.execute(
        "SELECT count(*) FROM takes t JOIN files f ON f.id = t.file"
        " WHERE t.state = 1 AND f.state IN (4, 5, 6)"
    ).fetchone()
    if orphans and orphans[0]:
        problems.append(f"{orphans[0]} live takes of files that are not done")
    return problems


def _copies(place: Place) -> list[str]:
    problems = []
    for source in images(place):
        relative = source.relative_to(place.inbox)
        copy = place.copies / relative.with_name(f"{source.stem}_grayscale{source.suffix}")
        if not copy.exists():
            problems.append(f"no copy of {relative}")
            continue
        with Image.open(source) as colour, Image.open(copy) as gray:
            difference = ImageChops.difference(_luma(colour), gray.convert("L"))
            worst = difference.getextrema()[1]
        if not isinstance(worst, (int, float)) or worst > TOLERANCE:
            problems.append(f"the copy of {relative} differs by {worst}")
        if copy.stat().st_mtime_ns != source.stat().st_mtime_ns:
            problems.append(f"the copy of {relative} has another time")
    output = place.copies.parent
    if output.exists():
        staged = output / ".dropmill-staging"
        problems += [f"left behind: {each}" for each in staged.glob("*")]
    return problems


def _luma(image: Image.Image) -> Image.Image:
    """A JPEG's own luma, before it is turned to RGB, where strong colours are clipped."""
    if image.format == "JPEG":
        image.draft("YCbCr", image.size)
        return image.getchannel(0)
    return image.convert("L")


def processes_left(place: Place) -> list[str]:
    """Processes that still have the state folder's files open."""
    found = subprocess.run(
        ["sh", "-c", "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -F -e \"$1\"", "sh",
         f"{place.folder}/state/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [f"a process has it open: {line}" for line in found.stdout.splitlines()]

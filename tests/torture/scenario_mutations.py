"""Mutated images and texts, bombs and nonsense: no crash, no hang, no state without its reason.

600 in the short form, at least 5,000 in the long one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from PIL import Image

from ..dropmill_process import Place
from ..polling import eventually
from .audit import EVERY, IMAGES
from .bench import Bench, Findings
from .inside import Inside, Row
from .mutation import mutants

LONG = 120.0
DONE, QUARANTINED, SKIPPED = 2, 4, 5
_RAW = re.compile(r"\w+(Error|Exception|Warning|Exit)\b|Traceback|0x[0-9a-f]{6}|<\w+ object")
_WHOLE_LINE = re.compile(rb"everyline \d+ of some text\r?")


def run(bench: Bench) -> Findings:
    count = 600 if bench.seconds < LONG else max(5_000, int(bench.seconds * 20))
    place = bench.place()
    place.start()
    inside = Inside(place)
    before = place.workers()
    kinds: Counter[str] = Counter()
    for number, mutant in enumerate(mutants(bench.chance, count)):
        folder = place.inbox / str(number // 500)
        folder.mkdir(exist_ok=True)
        part = folder / f".{mutant.name}.part"
        part.write_bytes(mutant.content)
        part.rename(folder / mutant.name)
        kinds[mutant.name.partition("-")[2].partition(".")[0]] += 1
    eventually(
        lambda: len(inside.rows()) == count and not unfinished(inside),
        seconds=60 + count / 10,
        what="every file is done, skipped or quarantined",
    )
    rows = inside.rows()
    problems = [problem for path, row in rows.items() for problem in unexplained(path, row)]
    problems += worker_deaths(place, before)
    problems += missing_lines(place, rows) + bad_copies(place, rows)
    inside.close()
    place.stop()
    states = Counter(row.state for row in rows.values())
    note = f"{states[DONE]} done, {states[SKIPPED]} skipped, {states[QUARANTINED]} quarantined"
    return Findings(dict(kinds), problems, note)


def unfinished(inside: Inside) -> bool:
    return any(row.state in (1, 3) for row in inside.rows().values())


def unexplained(path: str, row: Row) -> list[str]:
    if row.state == DONE:
        return [] if row.reason is None and not row.attempts else [f"{path}: done, yet {row}"]
    if row.state not in (QUARANTINED, SKIPPED) or not row.reason:
        return [f"{path}: {row}"]
    if _RAW.search(row.reason) or row.attempts > 1:
        return [f"{path}: not for people: {row}"]
    return []


def worker_deaths(place: Place, before: list[int]) -> list[str]:
    deaths = [line for line in place.log.read_text().splitlines() if re.search(r"worker \d", line)]
    if place.workers() != before:
        deaths.append("there are other workers than at the start")
    return deaths


def missing_lines(place: Place, rows: dict[str, Row]) -> list[str]:
    """Lines that survived in a text that is UTF-8 still, and are not found."""
    answer = place.run("search", "-m", "0", "--json", EVERY, "some", seconds=300)
    found = {(row["path"], row["line"]) for row in map(json.loads, answer.stdout.splitlines())}
    problems = []
    for path, row in rows.items():
        source = place.inbox / path
        if row.state != DONE or source.suffix not in (".txt", ".md", ".log"):
            continue
        content = source.read_bytes()
        if not is_utf8(content):
            continue
        for number, line in enumerate(content.split(b"\n"), 1):
            if _WHOLE_LINE.fullmatch(line) and (str(source), number) not in found:
                problems.append(f"{path}:{number} is not found")
                break
    return problems


def is_utf8(content: bytes) -> bool:
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def bad_copies(place: Place, rows: dict[str, Row]) -> list[str]:
    """Copies that cannot be read, or are of another size; copies and temporaries of others."""
    problems = []
    expected = set()
    for path, row in rows.items():
        source = place.inbox / path
        if row.state == DONE and source.suffix in (*IMAGES, ".gif", ".tif", ".webp", ".bmp",
                                                   ".tiff", ".jpeg"):  # fmt: skip
            copy = (place.copies / path).with_name(f"{source.stem}_grayscale{source.suffix}")
            expected.add(copy)
            problems += unreadable(source, copy)
    others = {path for path in place.copies.parent.rglob("*") if path.is_file()} - expected
    return problems + [f"left behind: {path}" for path in others]


def unreadable(source: Path, copy: Path) -> list[str]:
    """A GIF or a gray image is copied without being decoded: its copy is as good as it is."""
    is_as, should_be = loaded(copy), loaded(source)
    if is_as == should_be or (isinstance(should_be, str) and copy.exists()):
        return []
    return [f"{copy.name}: {is_as}, where its source is {should_be}"]


def loaded(path: Path) -> tuple[str | None, tuple[int, int], int] | str:
    """Format, size and frames of an image that can be read to its end; else why it cannot."""
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            for number in range(frames):
                image.seek(number)
                image.load()
            return image.format, image.size, frames
    except Exception as error:
        return f"{type(error).__name__}: {error}"

"""The input: made once from what is given, kept in the scratch folder, found again by its key."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

PHOTOGRAPH = (5016, 3344)  # 16.8 megapixels
SMALL_JPEG = 100_000  # bytes, about
SMALL_PNG = (1152, 868)  # 1.0 megapixel
A_FOLDER = 1_000  # texts in one folder
TEXT = 1_024  # bytes of a small text


class Inputs:
    """A cache of made input."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def made(self, key: str, make: Callable[[Path], object]) -> Path:
        """The folder of that key, filled by `make` where it is not there yet."""
        folder = self._folder / key
        if not folder.is_dir():
            part = folder.with_name(folder.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            make(part)
            part.rename(folder)
        return folder

    def photographs(self, source: Path, count: int) -> Path:
        """So many distinct JPEG of 16.8 megapixels."""
        key = f"photographs-{count}-{_mark(source)}"
        return self.made(key, lambda to: _make_images(_photograph, source, count, to))

    def small_jpegs(self, source: Path, count: int) -> Path:
        """So many distinct JPEG of about 100 KB."""
        key = f"small-jpeg-{count}-{_mark(source)}"
        return self.made(key, lambda to: _make_images(_small_jpeg, source, count, to))

    def small_pngs(self, source: Path, count: int) -> Path:
        """So many distinct PNG of a megapixel."""
        key = f"small-png-{count}-{_mark(source)}"
        return self.made(key, lambda to: _make_images(_small_png, source, count, to))

    def texts(self, source: Path | None, count: int) -> Path:
        """So many texts of 1 KB, a thousand to a folder; pieces of the texts given."""
        key = f"texts-{count}-{_mark(source)}"
        return self.made(key, lambda to: _make_texts(source, count, to))

    def nested_texts(self, source: Path | None, counts: list[int]) -> list[Path]:
        """A tree for each count: each lies within the next, so that the files are the same."""
        key = f"nested-{'-'.join(map(str, counts))}-{_mark(source)}"
        tree = self.made(key, lambda to: _make_nested(source, counts, to))
        names = [f"first-{count}" for count in counts]
        return [tree.joinpath(*reversed(names[number:])) for number in range(len(names))]

    def large_text(self, source: Path | None, size: int) -> Path:
        """One text of that size; the folder that holds it alone."""
        key = f"large-{size}-{_mark(source)}"
        return self.made(key, lambda to: _make_large(source, size, to / "large.txt"))

    def numbers(self, count: int) -> Path:
        """A list of so many whole numbers, one a line; the folder that holds it alone."""
        return self.made(f"numbers-{count}", lambda to: _make_numbers(count, to / "all.numbers"))

    def table(self, size: int) -> Path:
        """A CSV file of about that size, 40 bytes a record; the folder that holds it alone."""
        return self.made(f"table-{size}", lambda to: _make_table(size, to / "orders.csv"))

    def sample(self, source: Path, size: int) -> Path:
        """Copies of files below a folder, until there are so many bytes of them."""
        return self.made(f"sample-{size}-{_mark(source)}", lambda to: _copy_some(source, size, to))


def _mark(source: Path | None) -> str:
    """Changes with what a folder holds: names, and sizes where there are few."""
    digest = hashlib.blake2b(digest_size=4)
    if source is None:
        return "made"
    digest.update(os.fsencode(source.resolve()))
    for entry in sorted(os.scandir(source), key=lambda each: each.name):
        digest.update(os.fsencode(entry.name) + b"%d" % entry.stat().st_size)
    return digest.hexdigest()


# ---- images --------------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """One image to be made."""

    source: Path
    number: int
    target: Path


def _make_images(make: Callable[[_Wanted], None], source: Path, count: int, to: Path) -> None:
    sources = _large_images(source)
    # Those of one source follow each other: it is decoded once for many of them.
    wanted = [
        _Wanted(sources[number * len(sources) // count], number, to) for number in range(count)
    ]
    with Pool() as pool:
        pool.map(make, wanted, chunksize=1 + count // 200)


def _large_images(source: Path) -> list[Path]:
    """The photographs proper: JPEG in colour of four megapixels or more, if there are any."""
    found = []
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            with Image.open(path) as image:
                colour = image.mode in ("RGB", "YCbCr")
                found.append((image.width * image.height, image.format == "JPEG" and colour, path))
    if not found:
        raise FileNotFoundError(f"{source}: no JPEG or PNG below it")
    proper = [path for pixels, photograph, path in found if photograph and pixels >= 4e6]
    return proper or [path for _, _, path in found]


def _opened(wanted: _Wanted) -> Image.Image:
    """The source, turned and mirrored by its number, so that no two are the same."""
    with Image.open(wanted.source) as image:
        picture: Image.Image = image.convert("RGB")
    if wanted.number % 2:
        picture = ImageOps.mirror(picture)
    if wanted.number % 3 == 2:
        picture = ImageOps.flip(picture)
    return picture


def _cut(picture: Image.Image, size: tuple[int, int], number: int) -> Image.Image:
    """A piece of the picture's proportions and another place each time, brought to that size."""
    chance = random.Random(number)
    width, height = picture.size
    scale = chance.uniform(0.85, 1.0) * min(width / size[0], height / size[1])
    box_width, box_height = scale * size[0], scale * size[1]
    left = chance.uniform(0, width - box_width)
    top = chance.uniform(0, height - box_height)
    box = (left, top, left + box_width, top + box_height)
    return picture.resize(size, Image.Resampling.BICUBIC, box=box)


def _photograph(wanted: _Wanted) -> None:
    picture = _cut(_opened(wanted), PHOTOGRAPH, wanted.number)
    picture.save(wanted.target / f"{wanted.number:05}.jpg", quality=92)


def _small_jpeg(wanted: _Wanted) -> None:
    """Of the quality that comes nearest to the size wanted, begun with the one found last."""
    global _quality
    picture = _cut(_drafted(wanted.source, (1280, 960)), (960, 720), wanted.number)
    path = wanted.target / f"{wanted.number:05}.jpg"
    for _ in range(6):
        picture.save(path, quality=_quality)
        size = path.stat().st_size
        if abs(size - SMALL_JPEG) < 0.2 * SMALL_JPEG:
            break
        _quality = max(40, min(96, _quality + (3 if size < SMALL_JPEG else -4)))


_quality = 90


@functools.lru_cache(maxsize=2)
def _drafted(source: Path, size: tuple[int, int]) -> Image.Image:
    """A photograph decoded small, which is fast."""
    with Image.open(source) as image:
        image.draft("RGB", size)
        return image.convert("RGB")


def _small_png(wanted: _Wanted) -> None:
    picture = _cut(_drafted(wanted.source, SMALL_PNG), SMALL_PNG, wanted.number)
    picture.save(wanted.target / f"{wanted.number:05}.png")


# ---- texts ---------------------------------------------------------------------------------------


def _pieces(source: Path | None, size: int) -> Iterator[bytes]:
    """Pieces of that size of all texts below a folder, one after another, without end."""
    content = b""
    while True:
        for text in _texts(source):
            content += text
            while len(content) >= size:
                yield content[:size]
                content = content[size:]


def _texts(source: Path | None) -> Iterator[bytes]:
    if source is None:
        yield from _made_texts()
        return
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                if b"\0" not in content:
                    yield content


def _made_texts() -> Iterator[bytes]:
    """Lines of made words, a few of them often and most of them seldom."""
    chance = random.Random(1)
    letters = "etaoinshrdlucmfwyp"
    words = ["".join(chance.choices(letters, k=chance.randint(3, 11))) for _ in range(20_000)]
    words[0] = "the"
    for _ in range(200):
        lines = (
            " ".join(words[int(20_000 ** chance.random()) - 1] for _ in range(9))
            for _ in range(200)
        )
        yield ("\n".join(lines) + "\n").encode()


def _write_texts(pieces: Iterator[bytes], first: int, end: int, to: Path) -> None:
    for number in range(first, end):
        folder = to / f"{number // A_FOLDER:04}"
        if number == first or number % A_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        name = b"text number %d\n" % number
        (folder / f"{number:06}.txt").write_bytes((name + next(pieces))[: TEXT - 1] + b"\n")


def _make_texts(source: Path | None, count: int, to: Path) -> None:
    _write_texts(_pieces(source, TEXT), 0, count, to)


def _make_nested(source: Path | None, counts: list[int], to: Path) -> None:
    pieces, folder = _pieces(source, TEXT), to
    for count in reversed(counts):
        folder /= f"first-{count}"
    first = 0
    for count in counts:
        _write_texts(pieces, first, count, folder)
        folder, first = folder.parent, count


def _make_large(source: Path | None, size: int, path: Path) -> None:
    with path.open("wb") as file:
        for piece in _pieces(source, 1 << 20):
            if file.tell() >= size:
                break
            file.write(piece[: size - file.tell()])


def _copy_some(source: Path, size: int, to: Path) -> None:
    """Every n-th file, so that all of the tree has its share."""
    paths = [
        Path(folder, name) for folder, _, names in sorted(os.walk(source)) for name in sorted(names)
    ]
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    total = sum(path.stat().st_size for path in paths)
    copied = 0
    for path in paths[:: max(1, total // size)]:
        target = to / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        copied += path.stat().st_size
        if copied >= size:
            break


# ---- tables --------------------------------------------------------------------------------------


def _make_numbers(count: int, path: Path) -> None:
    chance = random.Random(1)
    with path.open("w") as file:
        for first in range(0, count, 100_000):
            numbers = chance.choices(range(1_000_000), k=min(100_000, count - first))
            file.writelines(f"{number}\n" for number in numbers)


def _make_table(size: int, path: Path) -> None:
    """Records drawn from half a million different ones."""
    chance = random.Random(1)
    regions = ("north", "south", "east", "west", "centre", "islands", "coast", "hills")
    first = date(2020, 1, 1)
    records = [
        f"{chance.choice(regions)},{chance.randrange(100_000)},{chance.randrange(100_000) / 100},"
        f"{first + timedelta(chance.randrange(2_000))},item-{chance.randrange(1_000):03},"
        f"{chance.randrange(1, 100)}\n"
        for _ in range(500_000)
    ]
    with path.open("w") as file:
        file.write("region,customer,price,day,item,quantity\n")
        while file.tell() < size:
            file.writelines(chance.choices(records, k=50_000))

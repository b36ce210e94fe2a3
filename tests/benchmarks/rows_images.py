"""Images: gray copies against the plain pool program, ImageMagick, vips; and how true they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageChops

from . import peers
from .bench import Bench, MissingError, files_below
from .frame import Line, Row, at_least
from .service import Service

UNIT = "images/s"
COPIES = 10  # images a process of mogrify is given


def ours(bench: Bench, source: Path) -> Callable[[], float]:
    """Images a second of `run --once`."""

    def measure() -> float:
        with bench.fresh() as folder:
            service = Service(folder, [source], images=True)
            seconds = service.once()
            return _rate(folder / "grayscale", source, seconds)

    return measure


def theirs(bench: Bench, source: Path, work: Callable[[Path, Path], float]) -> Callable[[], float]:
    """Images a second of a peer: `work(source, target)` gives its seconds."""

    def measure() -> float:
        with bench.fresh() as folder:
            return _rate(folder, source, work(source, folder))

    return measure


def _rate(made: Path, source: Path, seconds: float) -> float:
    count = len(files_below(source))
    found = len(files_below(made))
    if found != count:
        raise RuntimeError(f"{found} copies of {count} images")
    return count / seconds


# ---- large ---------------------------------------------------------------------------------------


def photographs(bench: Bench) -> Iterator[Line]:
    source = bench.inputs.photographs(bench.images, bench.size(180, 8))
    yield _against_the_program(
        bench,
        source,
        f"{len(files_below(source))} photographs (JPEG, 16.8 megapixels) to gray",
        peers.plain_pool,
        1.75,
    )


def tools(bench: Bench) -> Iterator[Line]:
    source = bench.inputs.photographs(bench.images, bench.size(180, 8))
    work = f"{len(files_below(source))} photographs to gray"
    for program, run in (("mogrify", _mogrify), ("vips", _vips)):
        try:
            bench.need(program)
        except MissingError as missing:
            yield Line(work, note=str(missing), peer_name=program)
            continue

        def measure(source: Path, target: Path, run: _Tool = run) -> float:
            return run(bench, source, target)

        turns = bench.take_turns(
            {"dropmill": ours(bench, source), program: theirs(bench, source, measure)},
            warm=[source],
        )
        found = turns.medians()
        yield Line(
            work,
            found["dropmill"],
            UNIT,
            found[program],
            f"{program}, two at a time",
            found["dropmill"] / found[program],
            (at_least(5),),
            turns=turns.figures,
            processor=turns.processor,
        )


_Tool = Callable[[Bench, Path, Path], float]


def _mogrify(bench: Bench, source: Path, target: Path) -> float:
    script = 'ls | xargs -P 2 -n "$2" mogrify -path "$1" -colorspace Gray'
    return bench.seconds(["sh", "-c", script, "sh", str(target), str(COPIES)], source)


def _vips(bench: Bench, source: Path, target: Path) -> float:
    script = 'ls | xargs -P 2 -I @ vips colourspace @ "$1/@" b-w'
    return bench.seconds(["sh", "-c", script, "sh", str(target)], source)


# ---- small ---------------------------------------------------------------------------------------


def small(bench: Bench) -> Iterator[Line]:
    jpegs = bench.inputs.small_jpegs(bench.images, bench.size(5_000, 100))
    pngs = bench.inputs.small_pngs(bench.images, bench.size(500, 12))
    for source, what in ((jpegs, "JPEG of 100 KB"), (pngs, "PNG of 1 megapixel")):
        work = f"{len(files_below(source)):,} {what}"
        yield _against_the_program(bench, source, work, peers.durable_pool, 1.3)


def _against_the_program(
    bench: Bench, source: Path, work: str, program: Callable[[str, str], None], goal: float
) -> Line:
    def measure(source: Path, target: Path) -> float:
        return bench.peer(program, source, target)

    name = "the plain program"
    if program is peers.durable_pool:
        name += ", made durable"
    turns = bench.take_turns(
        {"dropmill": ours(bench, source), name: theirs(bench, source, measure)}, warm=[source]
    )
    found = turns.medians()
    return Line(
        work,
        found["dropmill"],
        UNIT,
        found[name],
        name,
        found["dropmill"] / found[name],
        (at_least(goal),),
        turns=turns.figures,
        processor=turns.processor,
    )


# ---- fidelity ------------------------------------------------------------------------------------


def fidelity(bench: Bench) -> Iterator[Line]:
    bench.need("jpegtran")
    source = bench.inputs.photographs(bench.images, bench.size(24, 4))
    with bench.fresh() as folder:
        service = Service(folder / "ours", [source], images=True)
        service.once()
        plain = folder / "plain"
        plain.mkdir()
        bench.peer(peers.plain_pool, source, plain)
        copies = files_below(folder / "ours" / "grayscale")
        mine, other = [], []
        for path, copy in zip(files_below(source), copies, strict=True):
            exact = folder / "exact.jpg"
            bench.run(["jpegtran", "-grayscale", "-outfile", str(exact), str(path)])
            mine.append(psnr(copy, exact))
            other.append(psnr(plain / path.name, exact))
    yield Line(
        f"the same: fidelity, the worst of {len(mine)}, against jpegtran -grayscale",
        min(mine),
        "dB",
        min(other),
        "the plain program",
        None,
        (at_least(60, "ours"),),
        f"medians: {statistics.median(mine):.1f} and {statistics.median(other):.1f} dB",
        {"dropmill": mine, "the plain program": other},
    )


def psnr(one: Path, other: Path) -> float:
    """Peak signal-to-noise ratio of two gray images in dB; 100 where they are equal."""
    with Image.open(one) as first, Image.open(other) as second:
        counts = ImageChops.difference(first.convert("L"), second.convert("L")).histogram()
    squares = sum(count * value * value for value, count in enumerate(counts))
    return 10 * math.log10(255**2 * sum(counts) / squares) if squares else 100.0


ROWS = (
    Row("photographs", "180 photographs to gray, against the plain pool program", photographs),
    Row("image-tools", "the same, against mogrify and vips", tools),
    Row("fidelity", "the copies' PSNR, against jpegtran -grayscale", fidelity),
    Row("small-images", "5,000 small JPEG and 500 PNG, against the program made durable", small),
)

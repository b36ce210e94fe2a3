"""`dropmill search`, the whole process, against `rg -w -i` over the same files, warm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dropmill import search as engine

from ..dropmill_process import COMMAND, environment
from .bench import Bench, files_below, total_size
from .frame import Goal, Line, Row, at_least, at_most
from .service import Service

TURNS = 7  # of each; a single start varies more than long work does
COMMON = "the"
PREFIX = "inter"


def search(bench: Bench) -> Iterator[Line]:
    bench.need("rg")
    tree = bench.text if not bench.quick else bench.inputs.sample(bench.text, 12_000_000)
    with bench.fresh() as folder:
        service = Service(folder, [tree])
        service.once()
        rare = rare_word(service, tree)
        work = f"search {total_size(tree) / 1e6:,.0f} MB:"
        faster = at_least(5)
        for asked in (
            Asked(f"{work} a rare word ({rare})", rare, rare, (at_most(100), faster)),
            Asked(f"{work} a common word ({COMMON})", COMMON, COMMON, (at_most(250), faster)),
            Asked(f"{work} a prefix ({PREFIX}*)", f"{PREFIX}*", rf"{PREFIX}\w*", (faster,)),
        ):
            yield _compared(bench, service, tree, asked)


class Asked(NamedTuple):
    """The same question to both."""

    work: str
    term: str  # for us
    pattern: str  # for rg
    goals: tuple[Goal, ...]


def _compared(bench: Bench, service: Service, tree: Path, asked: Asked) -> Line:
    by_rg = ["rg", "-w", "-i", "-uu", asked.pattern, str(tree)]

    def ours() -> float:
        command = [*COMMAND, "search", asked.term]
        return 1000 * bench.seconds(command, service.folder, environment())

    def rg() -> float:
        return 1000 * bench.seconds(by_rg)

    bench.run(by_rg)  # warms the page cache
    turns = bench.take_turns({"dropmill": ours, "rg": rg}, turns=bench.size(TURNS, 2))
    found = turns.medians()
    return Line(
        asked.work,
        found["dropmill"],
        "ms",
        found["rg"],
        "rg -w -i",
        found["rg"] / found["dropmill"],
        asked.goals,
        turns=turns.figures,
    )


def rare_word(service: Service, tree: Path) -> str:
    """A word that one file of the tree has, or few."""
    paths = files_below(tree)
    for path in paths[len(paths) // 2 :]:
        content = path.read_text(errors="replace")
        words: set[str] = set(re.findall(r"\b[a-z]{9,14}\b", content))
        for word in sorted(words)[:40]:
            query = engine.Query((word,))
            found = engine.search(service.state_folder, query, at_most=6, paths_only=True)
            if 1 <= sum(1 for _ in found) <= 5:
                return word
    raise RuntimeError(f"{tree}: every word is in many files")


ROWS = (Row("search", "a rare word, a common one, a prefix, against rg -w -i", search),)

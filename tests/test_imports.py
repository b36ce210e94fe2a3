"""Who may import whom: the table that keeps data going one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "daemon" / "dropmill"

# The composition root and the commands may import anything.
FREE = ("__main__", "cli", "commands", "mill", "supervisor")

# Module → the modules of ours that it may import, lazily or not. `TYPE_CHECKING` imports count
# too: knowing a type is knowing the module.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "aftermath": {
        "feeder",
        "intake",
        "job",
        "log",
        "pauses",
        "pool",
        "staging",
        "store.completion",
        "store.ledger",
        "tally",
    },
    "asking": {"errors"},
    "blame": {"job", "slots", "worker"},
    "bench": {
        "bench.alone",
        "bench.lap",
        "bench.outcomes",
        "bench.pooled",
        "config.settings",
        "durable",
        "errors",
        "fitting",
        "source",
        "store.ledger",
        "store.schema",
    },
    "bench.alone": {
        "bench.lap",
        "datasets.rule",
        "errors",
        "feeder",
        "job",
        "pool",
        "processors.dataset",
        "slots",
        "store.ledger",
        "store.schema",
        "worker",
    },
    "bench.lap": {
        "config.settings",
        "durable",
        "errors",
        "feeder",
        "index",
        "job",
        "log",
        "store.ledger",
    },
    "bench.outcomes": {"datasets.partial", "job", "store.ledger", "store.reading"},
    "bench.pooled": {
        "bench.lap",
        "errors",
        "feeder",
        "pool",
        "processors.dataset",
        "slots",
        "store.ledger",
        "worker",
    },
    "bench.sample": {
        "bench.lap",
        "config.settings",
        "job",
        "processors.text",
        "rules",
        "source",
        "store.ledger",
        "watch.listing",
        "watch.scan",
    },
    "compaction": {"errors", "index", "processors.text", "store.completion"},
    "config": {
        "config.document",
        "config.settings",
        "config.validation",
        "config.values",
        "errors",
    },
    "config.changes": {"config.settings"},
    "config.consistency": {"config.settings", "config.values"},
    "config.document": set(),
    "config.examine": {"config.settings"},
    "config.exclude": {"config.values"},
    "config.following": {"config", "config.settings", "errors", "source"},
    "config.settings": {
        "config.exclude",
        "config.values",
        "datasets.expression",
        "datasets.rule",
    },
    "config.validation": {"config.consistency", "config.settings", "config.values"},
    "config.values": set(),
    "control": {"asking"},
    "copies": set(),
    "datasets": set(),
    "datasets.engine": {
        "datasets.expression",
        "datasets.partial",
        "datasets.rule",
        "datasets.table",
        "errors",
    },
    "datasets.expression": set(),
    "datasets.partial": set(),
    "datasets.rule": {"datasets.expression", "datasets.partial"},
    "datasets.table": {"datasets.rule", "errors"},
    "durable": set(),
    "errors": set(),
    "feeder": {"job", "pool", "processors.text", "store.ledger", "store.table"},
    "fork_server": set(),
    "heap": set(),
    "index": {"durable", "errors", "store.schema"},
    "index.reading": {"errors", "index"},
    "fingerprint": set(),
    "fitting": {"config.settings", "rules", "store.ledger", "watch", "worker"},
    "guard": {"blame", "job", "slots", "worker_handle"},
    "intake": {
        "job",
        "processors.text",
        "rules",
        "settle",
        "source",
        "store.folders",
        "store.ledger",
        "store.schema",
        "watch.listing",
    },
    "job": {"fingerprint"},
    "keywords": {
        "index",
        "index.reading",
        "processors.text",
        "processors.watchlist",
        "search.pin",
        "source",
        "store.keywording",
    },
    "landlock": set(),
    "log": set(),
    "membership": set(),
    "notify": {"log"},
    "opening": {"errors", "job", "source"},
    "outbox": {"job", "spawning", "worker"},
    "pauses": set(),
    "pool": {
        "blame",
        "errors",
        "guard",
        "job",
        "outbox",
        "slots",
        "spawning",
        "waiting",
        "worker",
        "worker_handle",
    },
    "processors": {
        "datasets.rule",
        "index",
        "job",
        "processors.dataset",
        "processors.image",
        "processors.text",
        "processors.watchlist",
    },
    "processors.cuts": {"index"},
    "processors.dataset": {
        "datasets.engine",
        "datasets.partial",
        "datasets.rule",
        "datasets.table",
        "errors",
        "job",
        "processors.text",
    },
    "processors.encoding": {"errors"},
    "processors.image": {
        "errors",
        "processors.image.bmp",
        "processors.image.gif",
        "processors.image.jpeg",
        "processors.image.parts",
        "processors.image.png",
        "processors.image.tiff",
        "processors.image.webp",
    },
    "processors.image.bmp": {"processors.image.gray", "processors.image.parts"},
    "processors.image.gif": {"errors", "processors.image.parts"},
    "processors.image.gray": set(),
    "processors.image.jpeg": {
        "errors",
        "processors.image.gray",
        "processors.image.parts",
        "processors.image.turbojpeg",
    },
    "processors.image.parts": {"errors"},
    "processors.image.png": {"errors", "processors.image.gray", "processors.image.parts"},
    "processors.image.tiff": {"errors", "processors.image.gray", "processors.image.parts"},
    "processors.image.turbojpeg": {"heap"},
    "processors.image.webp": {"errors", "processors.image.gray", "processors.image.parts"},
    "processors.preloaded": {
        "processors.image.bmp",
        "processors.image.gif",
        "processors.image.jpeg",
        "processors.image.png",
        "processors.image.tiff",
        "processors.image.turbojpeg",
        "processors.image.webp",
    },
    "processors.text": {
        "index",
        "job",
        "processors.cuts",
        "processors.encoding",
        "processors.watchlist",
    },
    "processors.watchlist": {"index"},
    "requests": {"errors", "control", "log", "mill", "sandbox", "store.questions", "watch"},
    "rules": {"config.settings", "datasets.rule", "job", "processors.dataset", "watch.roots"},
    "sandbox": {"durable", "landlock"},
    "search": {
        "errors",
        "index.reading",
        "search.selection",
        "search.excerpts",
        "search.pin",
        "store.lookup",
    },
    "search.selection": {"index", "index.reading", "search.pin", "store.lookup"},
    "search.excerpts": {"index", "search.pin", "source", "store.lookup"},
    "search.output": {"search.excerpts"},
    "search.pin": {"errors", "index"},
    "settle": {"job"},
    "slots": set(),
    "source": {"fingerprint"},
    "spawning": {"fork_server", "worker", "worker_handle"},
    "staging": {"durable", "errors"},
    "store": set(),
    "store.absence": {"job", "store.table"},
    "store.burial": {"store.schema"},
    "store.aggregates": {"datasets.partial", "datasets.rule", "durable", "errors", "job"},
    "store.completion": {
        "datasets.partial",
        "datasets.rule",
        "errors",
        "job",
        "store.aggregates",
        "store.burial",
        "store.new_texts",
        "store.news",
        "store.questions",
        "store.schema",
        "store.takes",
    },
    "store.faults": {"job", "store.schema", "store.table"},
    "store.folders": {"job"},
    "store.keywording": {"store.schema"},
    "store.ledger": {"job", "store.absence", "store.faults", "store.schema", "store.table"},
    "store.lookup": {"errors", "store.schema"},
    "store.reading": {"datasets.partial", "errors", "job", "store.schema"},
    "store.news": {"job"},
    "store.migration": set(),
    "store.new_texts": {"job", "store.questions", "store.schema", "store.takes"},
    "store.questions": {"job"},
    "store.takes": {"job", "store.schema"},
    "store.schema": {"errors", "store.migration"},
    "store.table": {"job", "store.schema"},
    "tally": {"job", "log"},
    "telling": {"job", "mill", "notify"},
    "waiting": set(),
    "watch": {"watch.events", "watch.keeper", "watch.listing", "watch.roots"},
    "watch.events": {"watch.listing"},
    "watch.keeper": {
        "watch.events",
        "watch.listing",
        "watch.observers",
        "watch.roots",
        "watch.scan",
    },
    "watch.listing": set(),
    "watch.observers": {"watch.events", "watch.listing", "watch.reader"},
    "watch.reader": {"watch.events", "watch.listing"},
    "watch.remembered": set(),
    "watch.roots": {"watch.listing", "watch.remembered", "watch.scan"},
    "watch.scan": {"watch.listing", "watch.remembered"},
    "worker": {
        "compaction",
        "copies",
        "datasets.engine",
        "datasets.rule",
        "errors",
        "heap",
        "index",
        "job",
        "log",
        "membership",
        "opening",
        "processors",
        "processors.dataset",
        "processors.preloaded",
        "processors.watchlist",
        "sandbox",
        "slots",
        "source",
        "staging",
        "store.completion",
        "store.schema",
    },
    "worker_handle": {"blame", "slots"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "__init__"


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it it does."""
    package = path.relative_to(PACKAGE).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            stem = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                found.add(resolve([*stem, alias.name]))
    return {name for name in found if name not in ("", "__init__")}


def resolve(parts: list[str]) -> str:
    """The module that a dotted name stands for or is in."""
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
            return ".".join(parts)
        parts = parts[:-1]
    return ""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def bound() -> list[Path]:
    return [path for path in sources() if module_name(path).split(".")[0] not in FREE]


@pytest.mark.parametrize("path", bound(), ids=module_name)
def test_a_module_imports_only_what_the_table_lets_it(path: Path) -> None:
    name = module_name(path)
    assert name in ALLOWED, f"{name} is not in the table: say there what it may import"
    surplus = imports_of(path) - ALLOWED[name]
    assert not surplus, f"{name} may not import {sorted(surplus)}"


def test_the_table_names_no_module_that_is_not_there() -> None:
    assert set(ALLOWED) == {module_name(path) for path in bound()}


def test_nothing_imports_in_a_circle() -> None:
    graph = {module_name(path): imports_of(path) for path in sources()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for each in sorted(graph.get(name, ())):
                visit(each, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())

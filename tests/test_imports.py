"""Who may import whom: the table that keeps data going one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "daemon" / "dropmill"

# Module → the modules of ours that it may import. `TYPE_CHECKING` imports count too: knowing a
# type is knowing the module. The composition root and the commands may import anything.
ALLOWED: dict[str, set[str]] = {}


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


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_module_imports_only_what_the_table_lets_it(path: Path) -> None:
    name = module_name(path)
    assert name in ALLOWED, f"{name} is not in the table: say there what it may import"
    surplus = imports_of(path) - ALLOWED[name]
    assert not surplus, f"{name} may not import {sorted(surplus)}"


def test_the_table_names_no_module_that_is_not_there() -> None:
    assert set(ALLOWED) == {module_name(path) for path in sources()}


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

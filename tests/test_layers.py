"""The shape of the house, read from the source: who may import whom, and what is public.

Imports go down only, and rooms on one floor never import each other. ``policy`` and ``protocol`` know no system at all.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness import PACKAGE_ROOT

pytestmark = pytest.mark.once

# From the top floor down. A room is a module or a package of prefork; "" is prefork/__init__.py.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("server",),
    ("master", "zygote", "status"),
    ("worker",),
    ("config", "log", "hooks", "demo"),
    ("system", "policy", "protocol"),
    ("errors",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# What a pure module may not know: processes, descriptors, clocks, logs.
IMPURE = {"asyncio", "datetime", "logging", "multiprocessing", "os", "select", "selectors", "signal", "socket"} | {
    "structlog", "subprocess", "sys", "threading", "time"
}  # fmt: skip
PURE_ROOMS = {"policy", "protocol"}

PACKAGE = PACKAGE_ROOT / "prefork"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(), filename=str(MODULES[module]))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str, *, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """What a module imports and in which line; without ``lazy`` only what its own import brings with it."""
    pending: list[ast.AST] = [tree_of(module)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), node.lineno
        elif lazy or not (isinstance(node, ast.FunctionDef) or is_type_checking(node)):
            pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    """A module imports from its own room and from lower floors, nothing else of prefork."""
    room = room_of(module)
    if room == "":  # prefork itself only names what the public names are
        return
    assert room in FLOOR, f"{module}: no floor for the room {room!r}; give it one in FLOORS"
    for imported, line in imports(module):
        if imported.split(".")[0] != "prefork" or room_of(imported) in ("", room):
            continue
        assert FLOOR[room_of(imported)] > FLOOR[room], f"{module}:{line} imports {imported}, which is not below it"


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) in PURE_ROOMS])
def test_pure_rooms_know_no_system(module: str) -> None:
    """policy and protocol import nothing that could touch a process, a descriptor, a clock or a log."""
    found = {(imported, line) for imported, line in imports(module) if imported.split(".")[0] in IMPURE}
    assert found == set()


def test_no_cycles() -> None:
    """No module's import leads back to itself."""
    graph = {name: {found for found, _ in imports(name, lazy=False) if found in MODULES} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' → '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for following in sorted(graph[name]):
                visit(following, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_every_public_name_is_listed(module: str) -> None:
    """``__all__`` names what exists, and everything a module defines without an underscore stands in it."""
    if MODULES[module].name == "__init__.py" and not tree_of(module).body:
        return  # an empty package has nothing to list
    loaded = importlib.import_module(module)
    listed = loaded.__all__
    assert len(listed) == len(set(listed))
    assert [name for name in listed if not hasattr(loaded, name)] == []
    assert sorted(set(defined(module)) - set(listed)) == []


def defined(module: str) -> Iterator[str]:
    """The functions, classes and constants that a module defines at its top, public ones only."""
    for node in tree_of(module).body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        yield from (name for name in names if not name.startswith("_"))


@pytest.mark.parametrize("module", MODULES)
def test_size(module: str) -> None:
    """Modules stay below 400 lines, functions below 60."""
    assert len(MODULES[module].read_text().splitlines()) <= 400
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{module}: {node.name} is too long"


def test_importing_prefork_costs_nothing() -> None:
    """``import prefork`` loads no other module of prefork and nothing outside the standard library."""
    found = {name for name, _ in imports("prefork", lazy=False)}
    assert found <= set(sys.stdlib_module_names)

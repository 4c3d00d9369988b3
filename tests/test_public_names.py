"""What `import prefork` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import prefork
from harness.processes import environment


def in_a_fresh_interpreter(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment({}), stdout=subprocess.PIPE, check=True, text=True, cwd="/"
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", prefork.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each can be had as an attribute, and is documented if it can be."""
    value = getattr(prefork, name)
    assert isinstance(value, str) or value.__doc__


def test_the_names_are_sorted_and_each_stands_once() -> None:
    """As dir() shows them."""
    assert prefork.__all__ == sorted(set(prefork.__all__))
    assert dir(prefork) == prefork.__all__


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers name what __all__ names, from where it is loaded."""
    tree = ast.parse(Path(prefork.__file__).read_text())
    seen = {
        (alias.name, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = {(name, prefork._HOMES.get(name, "prefork.errors")) for name in prefork.__all__ if name != "__version__"}
    assert seen == loaded
    for name, home in loaded:
        assert getattr(importlib.import_module(home), name) is getattr(prefork, name)


@pytest.mark.parametrize("name", ["nonsense", "_HOME", "Serve", "PATH"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    """With Python's own words."""
    with pytest.raises(AttributeError, match=f"module 'prefork' has no attribute '{name}'"):
        getattr(prefork, name)


def test_importing_the_package_loads_nothing_else() -> None:
    """An application that imports it pays for one module."""
    script = "import sys; before = set(sys.modules); import prefork; print(*sorted(set(sys.modules) - before))"
    assert "prefork" in in_a_fresh_interpreter(script).split()
    script = "import sys, prefork; print(*sorted(name for name in sys.modules if name.startswith('prefork')))"
    assert in_a_fresh_interpreter(script) == "prefork"


@pytest.mark.parametrize("name", ["after_response", "ClientDisconnected", "__version__"])
def test_what_an_application_uses_does_not_load_the_server(name: str) -> None:
    """Neither the master nor the log."""
    script = f"import sys; from prefork import {name}; print(*sys.modules)"
    loaded = in_a_fresh_interpreter(script).split()
    unwanted = ("prefork.master", "prefork.server", "prefork.config", "prefork.log", "structlog", "argparse")
    assert [module for module in loaded if module.startswith(unwanted)] == []


def test_star_imports_bring_the_public_names() -> None:
    """All of them, and nothing else."""
    script = (
        "from prefork import *; print(*sorted(name for name in dir() if name[:2] != '__' or name == '__version__'))"
    )
    assert in_a_fresh_interpreter(script).split() == prefork.__all__

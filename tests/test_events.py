"""Every event is named in docs/events.md, with its level and what it carries, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from harness import PACKAGE_ROOT, REPOSITORY
from prefork.log import LEVELS

pytestmark = pytest.mark.once

# Where a level is chosen at run time, the method has this name.
CHOSEN = "report"

Event = tuple[str, str, set[str]]


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """name → (levels, fields)."""
    page = (REPOSITORY / "docs" / "events.md").read_text()
    found = {}
    for name, levels, fields in re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| .* \| ([\w, ]*)\|$", page, re.MULTILINE):
        assert name not in found, f"{name} stands there twice"
        found[name] = set(levels.split(", ")), set(fields.replace(" ", "").split(",")) - {""}
    return found


def said() -> Iterator[Event]:
    """Every event in the source: (name, level or `CHOSEN`, the fields that are written out)."""
    for path in sorted((PACKAGE_ROOT / "prefork").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            function, name = node.func, node.args[0].value
            if isinstance(function, ast.Attribute) and function.attr in LEVELS:
                if not ast.unparse(function.value).endswith("logger"):
                    continue
                level = function.attr
            elif isinstance(function, ast.Name) and function.id == CHOSEN:
                level = CHOSEN
            else:
                continue
            assert isinstance(name, str)
            yield name, level, {keyword.arg for keyword in node.keywords if keyword.arg} - {"pool"}


def test_every_event_is_documented_and_every_documented_one_exists() -> None:
    """No more and no less."""
    assert {name for name, _, _ in said()} == set(documented())


@pytest.mark.parametrize("event", list(said()), ids=lambda event: f"{event[0]}")
def test_level_and_fields(event: Event) -> None:
    """As the page says."""
    name, level, fields = event
    levels, carried = documented()[name]
    assert len(levels) > 1 if level == CHOSEN else level in levels
    assert fields <= carried
    assert levels <= set(LEVELS)

"""The reference in docs/configuration.md is what the table of options says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import REPOSITORY
from harness.processes import environment
from prefork.config.option import Option
from prefork.config.options import APP, OPTIONS
from prefork.config.reference import document, takes

pytestmark = pytest.mark.once

PAGE = REPOSITORY / "docs" / "configuration.md"


def test_up_to_date() -> None:
    """The page is what `python -m prefork.config.reference` writes."""
    written = subprocess.run(
        [sys.executable, "-m", "prefork.config.reference"],
        env=environment({}),
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert written == document() == PAGE.read_text(), (
        "renew it: python -m prefork.config.reference > docs/configuration.md"
    )


def test_whole() -> None:
    """Every option has its entry, with its names."""
    text = document()
    for option in (APP, *OPTIONS):
        assert f"\n### {option.key}\n" in text
        assert f"`{option.variable}`" in text


def test_the_same_on_every_machine() -> None:
    """A default that depends on the machine stands there as its rule."""
    assert "Default: 4 a usable CPU, at least 2, at most 32." in " ".join(document().split())


def test_lines_fit() -> None:
    """The page can be read as it is."""
    assert [line for line in document().splitlines() if len(line) > 132] == []


def test_takes() -> None:
    """What an option takes is what its reader says."""
    assert takes(APP).startswith("module:callable, ")
    assert takes(Option("motto", "group", "TEXT", str, "help")) == "any text"

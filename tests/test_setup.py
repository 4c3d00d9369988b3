"""setup.py: which way a build goes, and what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import REPOSITORY
from harness.processes import environment

pytestmark = pytest.mark.once


def ask(folder: Path, phase: str = "bdist_wheel", **env: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py's decision for a phase of a build, without building: setuptools gets its command's help only."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "setup.py"), "--dry-run", phase, "--help"],
        cwd=folder,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_refused(folder: Path) -> None:
    """PREFORK_COMPILE=0 refuses the compiled build and says so."""
    assert "plain Python build, as PREFORK_COMPILE=0 says" in ask(folder, PREFORK_COMPILE="0").stdout


def test_nonsense(folder: Path) -> None:
    """Any other value is an error that names the three that are not."""
    done = ask(folder, PREFORK_COMPILE="yes")
    assert done.returncode != 0
    assert "'yes'; expected 1 (compile), 0 (do not), or nothing (automatic)" in done.stderr


def test_without_a_compiler(folder: Path) -> None:
    """Without a compiler the automatic build is plain and says why."""
    done = ask(folder, CC="no-such-compiler")
    assert "plain Python build: no C compiler (no-such-compiler: No such file or directory)" in done.stdout


def test_a_compiler_that_does_not_work(folder: Path) -> None:
    """A compiler that is there and fails counts as none: it is tried, not looked up."""
    assert "plain Python build: no false that compiles against Python.h" in ask(folder, CC="false").stdout


def test_demanded_without_a_compiler(folder: Path) -> None:
    """PREFORK_COMPILE=1 without a compiler fails, and names what is missing."""
    done = ask(folder, CC="no-such-compiler", PREFORK_COMPILE="1")
    assert done.returncode != 0
    assert "demands a compiled build, but there is no C compiler (no-such-compiler" in done.stderr


@pytest.mark.tool("cc")
def test_editable(folder: Path) -> None:
    """An editable install stays plain unless the compiled build is demanded."""
    assert "would hide every edit" in ask(folder, "editable_wheel").stdout

"""What every test of the suite meets: markers that say what a test needs, and the proof of which build is tested."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import prefork

# Milliseconds judge the machine, not the code. Where a run decides whether something lands (CI), the examples are the
# same every time, as in Hypothesis' own profile for that; elsewhere new ones are tried.
settings.register_profile(
    "prefork",
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("prefork")

# The modules setup.py compiles; one is enough to tell the builds apart.
_HOT = "prefork.system.scoreboard"


def _loaded_build() -> str:
    spec = importlib.util.find_spec(_HOT)
    assert spec is not None
    assert spec.origin is not None
    return "compiled" if spec.origin.endswith(".so") else "plain"


def pytest_configure(config: pytest.Config) -> None:
    """PREFORK_EXPECT=compiled|plain stops the run if the other build would be tested."""
    expected = os.environ.get("PREFORK_EXPECT", "")
    if expected and expected != _loaded_build():
        raise pytest.UsageError(f"expected the {expected} build, but {prefork.__path__[0]} is {_loaded_build()}")


def pytest_report_header() -> str:
    """The build under test, where everybody looks."""
    return f"prefork: {_loaded_build()}, from {prefork.__path__[0]}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine or user cannot run, with the reason; tests/run judges the reasons."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    needed = [str(mark.args[0]) for mark in item.iter_markers("tool")]
    if item.get_closest_marker("nginx"):
        needed.append("nginx")
    for tool in needed:
        if shutil.which(tool, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"missing tool: {tool}")


@contextmanager
def _open_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="prefork-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user can enter, with a path short enough for sockets (pytest's own are neither)."""
    with _open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """As ``folder``, for what the tests of a module share."""
    with _open_folder() as path:
        yield path

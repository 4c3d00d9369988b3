"""Taking the stack of a worker that is at work harms nobody, whatever it is at."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness import PACKAGE_ROOT, REPOSITORY, UNMEASURED, run

_COUNT = int(os.environ.get("PREFORK_TEST_DUMPS", "500"))


@pytest.mark.timeout(120 + _COUNT / 10)
def test_a_stack_of_a_busy_worker_costs_nothing_but_time(folder: Path) -> None:
    """500, asked and forced: no worker dies of it, no request is lost. The promise: ``PREFORK_TEST_DUMPS=100000``."""
    tests = REPOSITORY / "tests"
    script = str(tests / "faults" / "stack_dumps.py")
    env = {"PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), str(tests), str(tests / "apps")])} | UNMEASURED
    done = run(sys.executable, script, str(_COUNT), str(folder), folder=folder, env=env, timeout=110 + _COUNT / 10)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["lost"], result["deaths"]) == ([], [])
    assert result["taken"] >= _COUNT
    assert result["asked"] > 0
    assert result["forced"] > 0
    assert result["places"] > 5

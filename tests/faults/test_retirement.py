"""Retiring workers that are blocked in accept: no connection is ever lost."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness import PACKAGE_ROOT, REPOSITORY, UNMEASURED, run

_COUNT = int(os.environ.get("PREFORK_TEST_RETIREMENTS", "3000"))


@pytest.mark.timeout(700)
def test_no_connection_is_lost_to_a_retirement(folder: Path) -> None:
    """3,000 retirements under load, each signalled within 300 µs of a connect to the worker that would take it."""
    tests = REPOSITORY / "tests"
    script = str(tests / "faults" / "retirements.py")
    path = str(folder / "app.sock")
    env = {"PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), str(tests), str(tests / "apps")])}
    env |= UNMEASURED  # 3,000 workers would write 3,000 files
    done = run(sys.executable, script, str(_COUNT), path, folder=folder, env=env, timeout=680)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["asked_beside"] > _COUNT / 10
    assert result == {"retired": _COUNT, "lost": 0, "asked_beside": result["asked_beside"], "lost_beside": 0}

"""The example with two pools: in the background when both serve, and 78 with the reason when one cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import REPOSITORY, alive, fastcgi, run, wait_until

pytestmark = pytest.mark.once

EXAMPLE = REPOSITORY / "examples" / "two-pools.toml"


def launch(file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "prefork", "--config", str(file), "--daemonize", folder=folder)


def test_both_serve(folder: Path) -> None:
    """The command returns 0 when both pools serve; the master is where the pid file says, and stops in order."""
    done = launch(EXAMPLE, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    master = int((folder / "two-pools.pid").read_text())
    try:
        for socket in ("first.sock", "second.sock"):
            assert fastcgi(str(folder / socket), "GET", "/").status == 200
        assert '"GET / HTTP/1.1" 200' in wait_until((folder / "first-access.log").read_text)
    finally:
        os.kill(master, signal.SIGTERM)
    wait_until(lambda: not alive(master))
    left = {path.name for path in folder.iterdir()}
    assert left == {"first.sock.lock", "second.sock.lock", "first-access.log", "two-pools.log"}


def test_one_is_broken(folder: Path) -> None:
    """If one pool cannot serve, none does: the reason is on the launcher's standard error, and nothing is left."""
    (folder / "broken.py").write_text("raise LookupError('the reason')\n")
    file = folder / "broken.toml"
    file.write_text(EXAMPLE.read_text().replace('"prefork.demo"\nsocket = "second', '"broken"\nsocket = "second'))
    done = launch(file, folder)
    assert done.returncode == 78
    assert "LookupError: the reason" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("prefork-serve: broken: importing it raised LookupError")
    assert not {"first.sock", "second.sock", "two-pools.pid"} & {path.name for path in folder.iterdir()}


def test_the_example_passes_its_check(folder: Path) -> None:
    """--check is satisfied with it and makes nothing."""
    done = run(sys.executable, "-m", "prefork", "--config", str(EXAMPLE), "--check", folder=folder)
    assert (done.returncode, done.stdout) == (0, "pool first: ok\npool second: ok\n")
    assert list(folder.iterdir()) == []

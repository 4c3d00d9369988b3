"""Signals that come at once."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Final

import pytest

from harness.processes import environment
from prefork.system import signalstack

SCRIPT: Final = """
import faulthandler, os, signal, sys
from prefork.system.signalstack import make_room
faulthandler.register(signal.SIGRTMAX, file=sys.stderr)
make_room()
numbers = {*range(signal.SIGRTMIN, signal.SIGRTMAX), signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD}
heard = []
for number in numbers:
    signal.signal(number, lambda number, frame: heard.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
for number in numbers:
    os.kill(os.getpid(), number)
signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
print(sorted(heard) == sorted(numbers), len(numbers) > 30)
"""


def test_all_at_once() -> None:
    """Each is handled on top of the one before, on a stack that has room for all, though faulthandler made its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment({}), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


def test_a_system_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is worse than before: no stack is set."""
    monkeypatch.setattr(signalstack, "_libc", SimpleNamespace(malloc=lambda size: None if size else 0))
    signalstack.make_room()

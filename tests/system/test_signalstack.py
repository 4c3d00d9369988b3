"""Signals that come at once."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any, Final

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
    libc = SimpleNamespace(getauxval=lambda _kind: 0, malloc=lambda size: None if size else 0)
    monkeypatch.setattr(signalstack, "_libc", libc)
    signalstack.make_room()


@pytest.mark.parametrize(("frame", "size"), [(0, 64 * 8192), (3_376, 64 * 11_568), (11_952, 64 * 20_144)])
@pytest.mark.parametrize(("answer", "freed"), [(0, []), (-1, [4096])])
def test_a_stack_for_this_processor(
    monkeypatch: pytest.MonkeyPatch, frame: int, size: int, answer: int, freed: list[int]
) -> None:
    """Each of 64 signals has its frame, and room for a handler; where it is refused, its memory is given back."""
    asked, given_back, stacks = list[int](), list[int](), list[tuple[int, int]]()

    def malloc(bytes_: int) -> int:
        asked.append(bytes_)
        return 4096

    def sigaltstack(stack: Any, _before: None) -> int:
        stacks.append((stack._obj.sp, stack._obj.size))
        return answer

    libc = SimpleNamespace(
        getauxval=lambda _kind: frame, malloc=malloc, sigaltstack=sigaltstack, free=given_back.append
    )
    monkeypatch.setattr(signalstack, "_libc", libc)
    signalstack.make_room()
    assert (asked, stacks, given_back) == ([size], [(4096, size)], freed)

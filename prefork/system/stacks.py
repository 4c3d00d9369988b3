"""Where a process stands, told by itself into a page that the master can read.

* While the application is imported a watchdog of the interpreter (`faulthandler.dump_traceback_later`, a thread in C
  that needs no GIL) writes the stack shortly before the master's patience ends: an import that hangs, in Python or in
  C, is then reported with the line it hangs in.
* A worker that is asked writes its stack from a signal handler in Python (`StackPage`): that is safe, and comes as
  soon as the interpreter looks at its signals. One that hangs in C does not look. Its frames stand still, and only then
  faulthandler's own handler may read them: on a busy interpreter it reads frames that are being changed,
  and crashes now and then (CPython issue 140815).

The pages are memory files opened for appending, made by the master. What it reads there is what strangers wrote.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from prefork.system.processes import FORCE_SIGNAL

__all__ = [
    "Activity",
    "Frame",
    "Stack",
    "StackPage",
    "activity",
    "clear_page",
    "is_ours",
    "open_page",
    "page_size",
    "read_page",
    "read_stack",
    "watched_import",
]

_SHARE: Final = 0.8
"""The share of the time limit after which the stack is written."""

_SOONEST: Final = 0.001  # faulthandler wants more than nothing

_THREADS: Final = "/proc/self/task"
_LAST_STEPS: Final = 0.1  # seconds that a thread has for its end

_MOST: Final = 32 * 1024

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_HEAD: Final = re.compile(r"^request (?P<number>\d{1,19}) (?P<id>\S*)$")
_OURS: Final = str(Path(__file__).parents[1]) + os.sep

# What of the package runs around an application; prefork.demo is one.
# The compiled modules name their files as the compiler was given them, relative to the source.
_PLACES: Final = ("worker/", "protocol/", "system/", "policy/", "hooks.py", "log.py")
_AROUND: Final = tuple(home + name for home in (_OURS, "prefork/") for name in _PLACES)
# What of it is an application. All the rest is plumbing below the worker: the zygote, the master that it came from.
_APPLICATIONS: Final = (_OURS + "demo.py", _OURS + "status" + os.sep)

# Of a deep stack, so many frames from the inside and from the outside.
_INNERMOST: Final = 100
_OUTERMOST: Final = 20
_LONGEST_NAME: Final = 400  # characters


@dataclass(frozen=True, slots=True)
class Frame:
    """One call."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a process stood, innermost call first, without ours; ``number`` and ``request_id`` of what it ran, if said.

    ``forced`` says that it did not answer and its interpreter was made to.
    """

    frames: tuple[Frame, ...]
    number: int = 0
    request_id: str = ""
    forced: bool = False

    def __str__(self) -> str:
        return "\n".join(map(str, self.frames))


def open_page() -> int:
    """A new page; returns its descriptor."""
    descriptor = os.memfd_create("prefork-stacks", os.MFD_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


@contextlib.contextmanager
def watched_import(page: int, limit: float) -> Iterator[None]:
    """Write the stacks of this process to ``page`` if the block lasts nearly ``limit`` seconds.

    They stay there only if it never ends: whoever looks next looks for another process.
    """
    before = set(os.listdir(_THREADS))
    faulthandler.dump_traceback_later(max(_SOONEST, limit * _SHARE), file=page)
    watchdog = set(os.listdir(_THREADS)) - before
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        # It has been told to end, and still has to: nobody is to take it for a thread that the block left behind.
        give_up = time.monotonic() + _LAST_STEPS
        while watchdog & set(os.listdir(_THREADS)) and time.monotonic() < give_up:
            time.sleep(_SOONEST)
        clear_page(page)


def read_page(page: int) -> str:
    """What was written since the last call, without frames of prefork and of the import system; "" if nothing was."""
    try:
        data = os.pread(page, _MOST, 0)
        os.ftruncate(page, 0)
    except OSError:  # sealed by whoever else holds it
        return ""
    lines = data.decode("utf-8", "replace").splitlines()
    kept = [line for line in lines[1:] if not _is_plumbing(line)]
    return "\n".join(kept) if any(_FRAME.match(line) for line in kept) else ""


def is_ours(file: str) -> bool:
    """Whether code of this file runs around the application."""
    return file.startswith(_AROUND)


class StackPage:
    """A page in the hands of the process whose stack is to be seen there."""

    def __init__(self, descriptor: int) -> None:
        self._page = descriptor
        self._identity = _identity(descriptor)

    def let_force(self) -> None:
        """Let `FORCE_SIGNAL` write this process's stack, wherever it is."""
        faulthandler.register(FORCE_SIGNAL, file=self._page, all_threads=False, chain=False)

    def show(self, frame: FrameType | None, number: int, request_id: str) -> None:
        """Show the stack that ``frame`` is the innermost call of: with one write(2), without frames of ours.

        ``number`` and ``request_id`` are of the request that runs. For a signal handler: never raises, never waits.
        """
        if _identity(self._page) == self._identity:
            with contextlib.suppress(OSError):
                os.write(self._page, _describe(frame, number, request_id))
        else:  # an application that closes every descriptor it finds; the number may be a connection of its own by now
            self._forbid()

    def close(self) -> None:
        """In a process that is no worker any more: show nothing, and do not die of being asked."""
        self._forbid()
        if _identity(self._page) == self._identity:
            os.close(self._page)

    def _forbid(self) -> None:
        faulthandler.unregister(FORCE_SIGNAL)
        signal.signal(FORCE_SIGNAL, _no_op)


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _no_op(_number: int, _frame: FrameType | None) -> None:
    pass


def _describe(frame: FrameType | None, number: int, request_id: str) -> bytes:
    frames: list[FrameType] = []
    while frame is not None:
        if not is_ours(frame.f_code.co_filename):
            frames.append(frame)
        frame = frame.f_back
    left_out = len(frames) - _INNERMOST - _OUTERMOST
    if left_out > 0:
        frames[_INNERMOST:-_OUTERMOST] = []
    lines = [
        f'  File "{_one_line(frame.f_code.co_filename)}", line {frame.f_lineno or 0} in '
        f"{_one_line(frame.f_code.co_qualname)}"
        for frame in frames
    ]
    text = "\n".join([f"request {number} {request_id}", *lines, ""])
    return text.encode("utf-8", "backslashreplace")[:_MOST]


def _one_line(name: str) -> str:
    return name[-_LONGEST_NAME:].replace("\n", "\\n")


def clear_page(page: int) -> None:
    """Forget what stands in a page. Never raises."""
    with contextlib.suppress(OSError):
        os.ftruncate(page, 0)


def page_size(page: int) -> int:
    """How many bytes were written. Never raises."""
    try:
        return os.fstat(page).st_size
    except OSError:
        return 0


def read_stack(page: int, *, forced: bool = False) -> Stack | None:
    """The stack in a page, and the page cleared; None if nothing was written yet. Never raises, never waits."""
    try:
        data = os.pread(page, _MOST, 0)
    except OSError:
        return None
    if not data:
        return None
    clear_page(page)
    lines = data.decode("utf-8", "replace").splitlines()
    head = _HEAD.match(lines[0]) if lines else None
    frames: list[Frame] = []
    for line in lines[1:]:
        found = _FRAME.match(line)
        if found is None:
            if frames and not line.startswith("  "):
                break  # another stack: an answer that came late
        elif not _is_plumbing(line) and not is_ours(found["file"]) and len(frames) < _INNERMOST + _OUTERMOST:
            frames.append(Frame(found["file"], int(found["line"][-9:]), found["function"][:_LONGEST_NAME]))
    if head is None:
        return Stack(tuple(frames), forced=forced)
    return Stack(tuple(frames), int(head["number"]), head["id"][:_LONGEST_NAME], forced)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process's first thread does."""

    state: str  # as proc(5) has it: R, S, D, T, t, Z, X
    ran: float  # seconds for which it has had a processor

    @property
    def stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it, or it has ended."""
        return self.state in "TtZX"

    @property
    def waits_for_processor(self) -> bool:
        """Whether it runs, or would if it could."""
        return self.state == "R"


def activity(pid: int) -> Activity | None:
    """What a process does at the moment; None if that cannot be known. Never waits."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1_000).rpartition(b")")[2].split()
        state, ticks = fields[0].decode("latin-1"), int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None
    try:
        with open(f"/proc/{pid}/schedstat", "rb", buffering=0) as file:
            return Activity(state, int(file.read(100).split()[0]) / 1e9)
    except (OSError, ValueError, IndexError):  # a kernel that does not count so precisely
        return Activity(state, ticks / os.sysconf("SC_CLK_TCK"))


def _is_plumbing(line: str) -> bool:
    frame = _FRAME.match(line)
    if frame is None:
        return False
    file = frame["file"]
    if file.startswith(_OURS):
        return not file.startswith(_APPLICATIONS)
    return file.startswith(("<frozen importlib", "<string>")) or file.endswith("importlib/__init__.py")

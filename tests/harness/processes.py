"""Facts about processes, and running a command to its end."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import prefork

__all__ = [
    "PACKAGE_ROOT",
    "PATIENCE",
    "REPOSITORY",
    "UNMEASURED",
    "alive",
    "children",
    "environment",
    "listens",
    "memory",
    "replace",
    "run",
    "started",
    "wait_until",
]

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PACKAGE_ROOT: Final = Path(next(iter(prefork.__path__))).resolve().parent
# For the environment of a server whose processes are too many, or too starved, to have their coverage measured.
UNMEASURED: Final = {"COVERAGE_PROCESS_CONFIG": ""}
PATIENCE: Final = 30.0  # seconds; for things that take milliseconds on an idle machine


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children(pid: int) -> list[int]:
    """The living children of a process, oldest first."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in map(int, found) if alive(child)]


def listens(pid: int) -> bool:
    """Whether a process runs and has a listening socket, of the kinds that servers listen at."""
    tables = {name: Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("unix", "tcp", "tcp6")}
    accepting = {line.split()[6] for line in tables.pop("unix") if line.split()[3] == "00010000"}
    accepting |= {line.split()[9] for lines in tables.values() for line in lines if line.split()[3] == "0A"}
    held = _held_by(pid)
    return any(f"socket:[{inode}]" in held for inode in accepting)


def _held_by(pid: int) -> set[str]:
    """What a process has open; nothing once it has ended."""
    held = set()
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    except OSError:
        if alive(pid):
            raise
        return set()
    return held


def memory(pid: int, what: str = "VmRSS") -> int:
    """A memory figure of a process in bytes, by its name in /proc/PID/status (VmRSS now, VmHWM at its highest)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise LookupError(f"no {what} in /proc/{pid}/status")


def replace(path: str | Path, text: str) -> None:
    """Put a plain file in the place of whatever stands there, in one step.

    Between an unlink and the new file a server that runs may have made its socket anew.
    """
    draft = Path(f"{path}.draft")
    draft.write_text(text)
    draft.rename(path)


def wait_until(fact: Callable[[], object], timeout: float = PATIENCE, what: str = "") -> Any:
    """Wait for a fact that nothing announces (a file in /proc, say), and return it; looks every few milliseconds.

    Prefer an event, an EOF or a blocking read wherever there is one.
    """
    end = time.monotonic() + timeout
    pause = threading.Event()
    while not (found := fact()):
        assert time.monotonic() < end, f"not within {timeout} s: {what or fact}"
        pause.wait(0.005)
    return found


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, with the package under test first on the path, the test applications after it, and warnings as errors."""
    path = [str(PACKAGE_ROOT), str(REPOSITORY / "tests" / "apps")]
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PREFORK_", "SOCK_PATH"))}
    return {**ours, "PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "error", **extra}


def run(
    *command: str, folder: Path, env: Mapping[str, str] | None = None, timeout: float = PATIENCE, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a folder, with the package under test importable; its output is captured as text."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


@contextmanager
def started(
    *command: str, folder: Path, env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """As `run`, for as long as the block lasts: neither the process nor its pipes are left, whatever happens there."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment(env or {}), **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            process.kill()

"""The contenders: how each is built and started, one worker each, over a Unix socket.

What it takes is looked for at once, so that an absence is said before anything is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.machine import Problem, find

__all__ = ["Floor", "Prefork", "Server", "Uwsgi"]

_HERE = Path(__file__).resolve().parent
_BUILD_PATIENCE = 600.0


class Server(ABC):
    """One contender; ``prepare`` is called once, ``command`` before every start."""

    name: str
    what: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Build what is needed. Raises `Problem`."""

    @abstractmethod
    def command(self, socket: Path) -> list[str]:
        """The command that serves on the socket, to be run beside hello.py."""

    def environment(self) -> dict[str, str]:
        """The environment it runs in."""
        return {name: value for name, value in os.environ.items() if not name.startswith(("PREFORK_", "SOCK_PATH"))}


class Floor(Server):
    """The C loop that everything is measured against."""

    name = "C loop"
    what = "accept, read, write a constant, close: the floor"

    def __init__(self) -> None:
        self._compiler = find("gcc")
        self._program = Path()

    def prepare(self, folder: Path) -> None:
        self._program = folder / "floor"
        _run([self._compiler, "-O2", "-Wall", "-o", str(self._program), str(_HERE / "floor.c")], "gcc")

    def command(self, socket: Path) -> list[str]:
        return [str(self._program), str(socket)]


class Uwsgi(Server):
    """uWSGI without a master and without logging: it has nothing else to leave out."""

    name = "uWSGI"

    def __init__(self) -> None:
        self._program = find("uwsgi")
        version = _run([self._program, "--version"], "uwsgi").strip().partition("-")[0]
        self.what = f"uWSGI {version}, FastCGI, single process, no master, no log"
        # Only a uWSGI with Python built in knows this option; Debian's has it in a plugin.
        asked = subprocess.run([self._program, "--python-version"], capture_output=True, check=False)
        self._plugin = [] if asked.returncode == 0 else ["--plugin", "python3"]

    def prepare(self, folder: Path) -> None:
        pass

    def command(self, socket: Path) -> list[str]:
        options = ["--wsgi-file", "hello.py", "--callable", "application", "--processes", "1", "--listen", "100"]
        quiet = ["--disable-logging", "--single-interpreter", "--need-app", "--die-on-term"]
        return [self._program, *self._plugin, "--fastcgi-socket", str(socket), *options, *quiet]


class Prefork(Server):
    """prefork, built from this checkout as pip builds it for a user: compiled or plain."""

    def __init__(self, *, compiled: bool, build: Path | None) -> None:
        self.name = "prefork, compiled" if compiled else "prefork, plain"
        self.what = "hot modules compiled with mypyc" if compiled else "the same files, interpreted"
        self._compiled = compiled
        self._build = build
        try:
            import setproctitle
            import structlog  # noqa: F401 - both are asked for, not used
        except ImportError as problem:
            raise Problem(f"{problem.name} is not installed for {sys.executable}") from None
        del setproctitle

    def prepare(self, folder: Path) -> None:
        if self._build is None:
            self._build = folder / ("compiled" if self._compiled else "plain")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(self._build)]
            wish = {**os.environ, "PREFORK_COMPILE": str(int(self._compiled))}
            _run([*command, str(_copied(folder / f"{self._build.name}-source"))], "pip", wish)
        hot = list((self._build / "prefork" / "worker").glob("exchange*.so"))
        if bool(hot) != self._compiled:
            raise Problem(f"expected a {'compiled' if self._compiled else 'plain'} build in {self._build}")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self._build)}

    def command(self, socket: Path) -> list[str]:
        options = ["--socket", str(socket), "--workers", "1", "--log-level", "error"]
        return [sys.executable, "-m", "prefork", "hello:application", *options]


def _copied(folder: Path) -> Path:
    """A copy of the checkout's sources: a build leaves its traces beside them."""
    folder.mkdir()
    for path in _HERE.parent.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(_HERE.parent / "prefork", folder / "prefork", ignore=left_out)
    return folder


def _run(command: list[str], what: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd="/", timeout=_BUILD_PATIENCE, check=False
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Problem(f"{what} failed with {done.returncode}: {''.join(last)}")
    return done.stdout + done.stderr

"""prefork-serve: from a command line to a running server.

The system is checked before anything else is imported, so that another one hears a sentence instead of an ImportError.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from prefork.cli.console import finish, say
from prefork.errors import ApplicationError, ConfigurationError

if TYPE_CHECKING:
    from prefork.config.model import Config

__all__ = ["check_python", "check_system", "main"]

_NAME: Final = "prefork-serve"
_OLDEST_KERNEL: Final = (5, 10)
_OLDEST_PYTHON: Final = (3, 11)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command (``sys.argv`` by default) and return its exit status; never raises but ``SystemExit``."""
    return finish(_NAME, lambda: _serve(sys.argv[1:] if argv is None else argv))


def _serve(argv: Sequence[str]) -> int:
    check_python(sys.implementation.name, sys.version_info[:3])
    system = os.uname()
    check_system(system.sysname, system.release)
    from prefork.config.arguments import Task, parse
    from prefork.config.load import arguments_again, from_arguments

    line = parse(argv)
    loaded = from_arguments(line, os.environ)
    if line.task is Task.SHOW:
        from prefork.config.show import render

        sys.stdout.buffer.write(render(loaded).encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
        return 0
    from prefork.master.assembly import logical_directory  # late: --help need not wait for all of the server
    from prefork.server import run

    if line.task is Task.CHECK:
        return _check(loaded.config)
    return run(loaded.config, arguments_again(line, os.environ, logical_directory()))


def _check(config: Config) -> int:
    """One line a pool: to standard output what would serve, to standard error why not."""
    from prefork.server import check

    status = 0
    for sentence in config.warnings:
        say(f"{_NAME}: warning: {sentence}")
    for verdict in check(config):
        for sentence in verdict.warnings:
            say(f"{_NAME}: {verdict.subject}: warning: {sentence}")
        if verdict.problem is None:
            print(f"{verdict.subject}: ok", flush=True)
            continue
        status = ConfigurationError.exit_status
        if isinstance(verdict.problem, ApplicationError) and verdict.problem.traceback:
            say(verdict.problem.traceback.rstrip("\n"))
        say(f"{_NAME}: {verdict.subject}: {verdict.problem}")
    return status


def check_python(name: str, version: Sequence[int]) -> None:
    """Raise `ConfigurationError` unless this is the interpreter for which everything here is written."""
    if name != "cpython" or tuple(version[:2]) < _OLDEST_PYTHON:
        raise ConfigurationError(
            f"expected CPython {'.'.join(map(str, _OLDEST_PYTHON))} or later, found {name} "
            f"{'.'.join(map(str, version))}: {sys.executable}; start prefork with another interpreter"
        )


def check_system(name: str, release: str) -> None:
    """Raise `ConfigurationError` unless this is a Linux that has what everything here is built on."""
    version = tuple(int(part) if part.isdigit() else 0 for part in release.replace("-", ".").split(".")[:2])
    if name != "Linux" or version < _OLDEST_KERNEL:
        raise ConfigurationError(
            f"expected Linux {'.'.join(map(str, _OLDEST_KERNEL))} or later, found {name} {release}: "
            "sealed memory files, sub-reapers and the diagnosis of sockets exist nowhere else"
        )

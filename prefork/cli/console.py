"""Where every command ends: one message for a human being, one status for a machine.

A traceback appears in two cases only: the application's own, and a bug of ours.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from prefork.errors import ApplicationError, ConfigurationError, PreforkError

__all__ = ["INTERRUPTED", "Failure", "finish", "printable", "say"]

INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it
_OUTPUT_GONE: Final = 1
_SCREEN: Final = 20  # lines of a traceback beyond which the reason stands before it, too
_NEEDED: Final = ("daemon", "httptools", "setproctitle", "structlog")  # what is installed with prefork
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Failure(PreforkError):
    """The command was understood, and what it asked for is not so; the message says why.

    ``traceback`` is the application's, where it is the reason.
    """

    exit_status = 1

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


def finish(name: str, command: Callable[[], int]) -> int:
    """Run a command to its exit status; whatever it raises becomes one. Only ``SystemExit`` passes."""
    try:
        return _written_out(command)
    except PreforkError as problem:
        if isinstance(problem, (ApplicationError, Failure)) and problem.traceback:
            if problem.traceback.count("\n") > _SCREEN:
                say(f"{name}: {problem}")
            say(problem.traceback.rstrip("\n"))
        say(f"{name}: {problem}")
        return problem.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as problem:
        if problem.name not in _NEEDED:
            return _bug(name)
        say(
            f"{name}: {sys.executable} has no {problem.name}, which prefork needs: install prefork for it "
            "(python -m pip install), or start the one in the bin directory of its virtual environment"
        )
        return ConfigurationError.exit_status
    except BrokenPipeError:  # whoever reads our output has seen enough
        _give_up_stdout()
        return _OUTPUT_GONE
    except OSError as problem:
        if problem.errno not in _FULL or problem.filename is not None:
            return _bug(name)
        _give_up_stdout()
        say(f"{name}: the output cannot be written: {problem.strerror}")
        return _OUTPUT_GONE
    except Exception:  # noqa: BLE001 - the boundary: whatever else arrives here is a mistake in prefork
        return _bug(name)


def _written_out(command: Callable[[], int]) -> int:
    """Run a command, and see what it printed on its way while somebody can still be told of an error."""
    try:
        status = command()
    except SystemExit:  # --help has printed, too
        _flush_stdout()
        raise
    _flush_stdout()
    return status


def _flush_stdout() -> None:
    stream: Any = sys.stdout
    if stream is not None and not stream.closed:
        stream.flush()


def _bug(name: str) -> int:
    say(f"{traceback.format_exc()}{name}: this is a bug in prefork; please report it with the lines above")
    return PreforkError.exit_status


def say(text: str) -> None:
    """Print to stderr; a stderr that is closed or full is no reason to end differently."""
    stream: Any = sys.stderr
    if stream is None:  # started without one; print would take that for stdout
        return
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        pass


def printable(text: str) -> str:
    """Somebody else's text for a terminal, on one line: what could command it is spelled out."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _give_up_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

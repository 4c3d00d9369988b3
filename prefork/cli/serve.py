"""prefork-serve: from a command line to an exit status.

Everything that can go wrong before the server serves ends here as one message for a human being and a status for
a machine. A traceback appears in two cases only: the application's own, and a bug of ours.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from prefork.errors import ApplicationError, ConfigurationError, PreforkError

__all__ = ["main"]

_NAME: Final = "prefork-serve"
_OLDEST_KERNEL: Final = (5, 10)
_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command (``sys.argv`` by default) and return its exit status; never raises but ``SystemExit``."""
    try:
        _check_platform(sys.platform, os.uname().release)
        from prefork.config.load import from_arguments

        config = from_arguments(sys.argv[1:] if argv is None else argv, os.environ)
        from prefork.server import run  # late: --help should not wait for the whole server's imports

        return run(config)
    except PreforkError as problem:
        report(_NAME, problem)
        return problem.exit_status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception:  # noqa: BLE001 - the boundary: whatever else arrives here is a mistake in prefork
        say(f"{traceback.format_exc()}{_NAME}: this is a bug in prefork; please report it with the lines above")
        return PreforkError.exit_status


def report(name: str, problem: PreforkError) -> None:
    """Tell a human being on stderr what is wrong; an application's own traceback comes first."""
    if isinstance(problem, ApplicationError) and problem.traceback:
        say(problem.traceback.rstrip("\n"))
    say(f"{name}: {problem}")


def say(text: str) -> None:
    """Print to stderr; a stderr that is closed or full is no reason to end differently."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def _check_platform(platform: str, release: str) -> None:
    """Raise `ConfigurationError` where the kernel lacks what everything here is built on."""
    version = tuple(int(part) if part.isdigit() else 0 for part in release.replace("-", ".").split(".")[:2])
    if platform != "linux" or version < _OLDEST_KERNEL:
        raise ConfigurationError(
            f"expected Linux {'.'.join(map(str, _OLDEST_KERNEL))} or later, found {platform} {release}; "
            "sealed memory files, sub-reapers and socket diagnosis exist nowhere else"
        )

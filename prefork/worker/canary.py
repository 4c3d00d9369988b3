"""The canary: one request that the first worker of a new generation has to answer before it counts as ready.

It runs in the worker itself, with everything that a worker has and before any client can reach it. Whatever is not a
2xx or 3xx makes the worker fail as an import that raises would, with what the application had to say about it.
"""

from __future__ import annotations

import io
from typing import Final

from prefork.errors import ApplicationError
from prefork.worker.application import Application, describe, own_traceback, unwelcome, warm_up

__all__ = ["prove"]

_AGENT: Final = "prefork-canary"


def prove(application: Application, path: str) -> None:
    """Request the canary's path. Raises `ApplicationError`: what was answered, and the traceback or wsgi.errors."""
    errors = io.StringIO()
    try:
        status = warm_up(application, path, agent=_AGENT, errors=errors)
    except BaseException as error:  # noqa: BLE001 - whatever the application raises, even SystemExit
        raise ApplicationError(
            f"canary {path}: the application raised {describe(error)}", errors.getvalue() + own_traceback(error)
        ) from None
    if status[:1] not in ("2", "3"):
        hint = unwelcome(status)
        raise ApplicationError(
            f"canary {path}: expected an answer of 2xx or 3xx, found {status}{f' ({hint})' if hint else ''}",
            errors.getvalue(),
        )

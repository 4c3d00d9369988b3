"""What a pool answers without its application: its status and its ping, at paths that the operator chose.

As php-fpm's pm.status_path and ping.path: answered by an ordinary worker, so it waits with everybody else when all of
them are busy (``status_listen`` does not).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Paths", "within"]

# By its name, like any other application: what is shown is no business of a worker's.
_PAGES: Final = "prefork.status.served"

_Application = Callable[..., Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a pool answers by itself; an empty path: nowhere."""

    pool: str = ""
    status: str = ""
    ping: str = ""
    ping_response: str = "pong"


def within(application: _Application, paths: Paths) -> _Application:
    """The application with these paths in front of it; the application itself where there are none."""
    if not (paths.status or paths.ping):
        return application
    pages: Any = importlib.import_module(_PAGES)
    own: dict[str, _Application] = {}
    if paths.ping:
        own[paths.ping] = pages.ping(paths.ping_response)
    if paths.status:
        own[paths.status] = pages.status_of(paths.pool)

    def inside(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = own.get(environ["SCRIPT_NAME"] + environ["PATH_INFO"])
        return application(environ, start_response) if answer is None else answer(environ, start_response)

    return inside

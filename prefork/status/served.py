"""The status pages as they are served: over the page of shared memory that the master publishes on.

``application`` is what the pool of ``status_listen`` serves; `status_of` and `ping` are what a pool answers by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final

from prefork.status.app import Pages
from prefork.system.bulletin import BulletinReader, borrow

__all__ = ["application", "ping", "status_of"]

_PATIENCE: Final = 0.02
"""Seconds that the master has for news; then its last word is shown."""

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@cache
def _reader() -> BulletinReader:
    return borrow()


def _read() -> bytes | None:
    return _reader().read(_PATIENCE)


application: Final = Pages(_read, time.monotonic)


def status_of(pool: str) -> _Application:
    """php-fpm's page of one pool, at whatever path it is asked for."""

    def show(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        inner = {**environ, "SCRIPT_NAME": "", "PATH_INFO": "/status", "QUERY_STRING": query}
        return Pages(_read, time.monotonic, only=pool)(inner, start_response)

    return show


def ping(response: str) -> _Application:
    """``response``, at whatever path it is asked for."""
    pages = Pages(lambda: None, time.monotonic, response)
    return lambda environ, start_response: pages({**environ, "SCRIPT_NAME": "", "PATH_INFO": "/ping"}, start_response)

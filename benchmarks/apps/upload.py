"""Read a body as applications do that do not want it in memory; answer its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_AT_ONCE = 65_536


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    read = environ["wsgi.input"].read
    size, left = 0, int(environ["CONTENT_LENGTH"])
    while left and (piece := read(min(left, _AT_ONCE))):
        size += len(piece)
        left -= len(piece)
    body = b"%d\n" % size
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

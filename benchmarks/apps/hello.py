"""14 bytes, a known length: what is left is the server's own work."""

from __future__ import annotations

from collections.abc import Callable

BODY = b"Hello, world!\n"


def application(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "14")])
    return [BODY]

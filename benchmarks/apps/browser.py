"""A page of 20 KB, made beforehand."""

from __future__ import annotations

from collections.abc import Callable

SIZE = 20_480
PAGE = (b"Hello, world!\n" * SIZE)[:SIZE]


def application(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(SIZE))])
    return [PAGE]

"""Send a file, by the server's own means where it has any (PEP 3333, wsgi.file_wrapper)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

_AT_ONCE = 65_536
_FILE = Path("download.bin").absolute()


def _pieces(file: BinaryIO, size: int) -> Iterable[bytes]:
    with file:
        while piece := file.read(size):
            yield piece


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    file = _FILE.open("rb")
    size = os.fstat(file.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    wrap: Callable[[BinaryIO, int], Iterable[bytes]] = environ.get("wsgi.file_wrapper", _pieces)
    return wrap(file, _AT_ONCE)

"""An application of many kinds of requests, for `harness.Load`: short and long ones, bodies both ways.

Every response says which release answered it (``X-Release``): what the file ``release`` in the working directory said
when this module was imported.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

_RELEASE = Path("release").read_text().strip() if Path("release").exists() else "0"
_PIECE = 8_192


def pieces(size: int) -> Iterator[bytes]:
    """A body of so many bytes, the same every time."""
    block = hashlib.sha256(str(size).encode()).digest() * (_PIECE // 32)
    for start in range(0, size, _PIECE):
        yield block[: min(_PIECE, size - start)]


def _download(size: int, seconds: float) -> Iterator[bytes]:
    pause = seconds * _PIECE / size
    for piece in pieces(size):
        yield piece
        time.sleep(pause)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """/ answers at once, /wait after ?s=, /echo with the digest of the body, /download with ?size= bytes in ?s=."""
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    seconds = float(query.get("s", 0))
    headers = [("Content-Type", "text/plain"), ("X-Release", _RELEASE), ("X-Worker", str(os.getpid()))]
    match environ["PATH_INFO"]:
        case "/":
            body: Iterable[bytes] = [b"here"]
        case "/wait":
            time.sleep(seconds)
            body = [b"waited"]
        case "/echo":
            digest = hashlib.sha256()
            while piece := environ["wsgi.input"].read(_PIECE):
                digest.update(piece)
            body = [digest.hexdigest().encode()]
        case "/download":
            body = _download(int(query["size"]), seconds)
        case path:
            start_response("404 Not Found", headers)
            return [path.encode()]
    start_response("200 OK", headers)
    return body

"""An application that takes a fifth of a second for each request and notes, in the file ``LEDGER``, when it ran."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

_LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    began = time.monotonic()
    time.sleep(0.2)
    os.write(_LEDGER, f"{environ['QUERY_STRING']} {began} {time.monotonic()}\n".encode())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]

"""How requests are called in the log, in the access log and in the environ."""

from __future__ import annotations

import os
import re
import time
from typing import Any, Final, final

__all__ = ["RequestIds"]

# What proxies and tracers make theirs of, and nothing that needs quoting.
_GIVEN_ID: Final = re.compile(r"[0-9A-Za-z._~+/=:@-]{1,128}")


@final
class RequestIds:
    """Those of one worker's requests. To be made in the worker's own process."""

    def __init__(self) -> None:
        self._prefix = f"{os.getpid():x}-{time.time_ns() // 1_000_000:x}-"
        self._count = 0

    def choose(self, environ: dict[str, Any]) -> str:
        """The proxy's (a parameter of its own, else the header that came through it), or the next of ours."""
        if "REQUEST_ID" in environ or "HTTP_X_REQUEST_ID" in environ:
            given: str = environ.get("REQUEST_ID") or environ.get("HTTP_X_REQUEST_ID") or ""
            if _GIVEN_ID.fullmatch(given) is not None:
                return given
        self._count += 1
        return f"{self._prefix}{self._count}"

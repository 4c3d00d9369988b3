"""Real servers for tests: prefork itself, the real nginx before it, and clients for both.

The rules: a test waits for facts, never for time (a log event, the end of a pipe, a connection taken); every wait is
bounded; nothing a test started outlives it.
"""

from __future__ import annotations

from harness.clients import (
    FastCGIResponse,
    Response,
    connect,
    encode_request,
    fastcgi,
    fetch,
    open_response,
    read_response,
)
from harness.crowd import Crowd
from harness.load import Load, Sample
from harness.nginx import Nginx
from harness.ordering import control, ordering
from harness.processes import (
    PACKAGE_ROOT,
    PATIENCE,
    REPOSITORY,
    UNMEASURED,
    alive,
    children,
    environment,
    memory,
    replace,
    run,
    started,
    wait_until,
)
from harness.server import Event, Server
from harness.speed import Pulse, boot_timeout, stretch

__all__ = [
    "PACKAGE_ROOT",
    "PATIENCE",
    "REPOSITORY",
    "UNMEASURED",
    "Crowd",
    "Event",
    "FastCGIResponse",
    "Load",
    "Nginx",
    "Pulse",
    "Response",
    "Sample",
    "Server",
    "alive",
    "boot_timeout",
    "children",
    "connect",
    "control",
    "encode_request",
    "environment",
    "fastcgi",
    "fetch",
    "memory",
    "open_response",
    "ordering",
    "read_response",
    "replace",
    "run",
    "started",
    "stretch",
    "wait_until",
]

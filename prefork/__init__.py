"""prefork: a preforking application server for Unix domain sockets.

The public names, and nothing else. They are loaded when they are first used: an application that asks for
`after_response` must not pay for the master's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefork.config.model import Config, PoolConfig
    from prefork.errors import (
        AddressInUse,
        ApplicationError,
        ClientDisconnected,
        ConfigurationError,
        PermissionProblem,
        PreforkError,
        ProtocolError,
        RequestTimeout,
        UsageError,
    )
    from prefork.hooks import (
        Worker,
        after_response,
        extend_deadline,
        on_worker_start,
        on_worker_stop,
        worker_slot,
    )
    from prefork.server import run, serve

__version__ = "0.1.0"

__all__ = [
    "AddressInUse",
    "ApplicationError",
    "ClientDisconnected",
    "Config",
    "ConfigurationError",
    "PermissionProblem",
    "PoolConfig",
    "PreforkError",
    "ProtocolError",
    "RequestTimeout",
    "UsageError",
    "Worker",
    "__version__",
    "after_response",
    "extend_deadline",
    "on_worker_start",
    "on_worker_stop",
    "run",
    "serve",
    "worker_slot",
]

_HOMES = {
    "Config": "prefork.config.model",
    "PoolConfig": "prefork.config.model",
    "Worker": "prefork.hooks",
    "after_response": "prefork.hooks",
    "extend_deadline": "prefork.hooks",
    "on_worker_start": "prefork.hooks",
    "on_worker_stop": "prefork.hooks",
    "run": "prefork.server",
    "serve": "prefork.server",
    "worker_slot": "prefork.hooks",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'prefork' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "prefork.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)

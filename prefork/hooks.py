"""What an application may ask of the worker that runs it, without an environ at hand.

The worker lends its functions to this module while it lives; outside a worker there is nobody to ask, and that is
an error rather than silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["after_response", "lend"]

_Register = Callable[[Callable[[], Any]], None]

# Filled by the worker: one process is one worker, so one place a process is enough.
_register: _Register | None = None


def after_response(callable: Callable[[], Any]) -> None:
    """Run ``callable()`` in this worker when the client has its answer and the connection is closed.

    The same as ``environ["prefork.after_response"](callable)``. Callables run in the order of their registration; an
    exception is logged and stops none of the others. The worker takes no other request before they are done.

    Raises `RuntimeError` when no request is being served in this process.
    """
    if _register is None:
        raise RuntimeError("after_response() needs a request that a prefork worker serves; this process is no worker")
    _register(callable)


def lend(register: _Register | None) -> None:
    """For the worker: what `after_response` calls from now on, or None when nobody is there any more."""
    global _register
    _register = register

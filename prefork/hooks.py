"""What an application may ask of the worker that runs it, without an environ at hand; and what it wants done there.

The worker lends its functions to this module while it lives; outside a worker there is nobody to ask, and that is
an error rather than silence. What is registered here before the fork, every worker has; what the modules of a worker
register that imports the application for itself, that worker has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

__all__ = [
    "AT_START",
    "AT_STOP",
    "Worker",
    "WorkerHook",
    "after_response",
    "enter_worker",
    "extend_deadline",
    "lend",
    "on_worker_start",
    "on_worker_stop",
    "worker_slot",
]


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker that a hook is called in."""

    slot: int  # small and stable: whoever replaces this worker may have it again, nobody at the same time
    pid: int
    generation: int  # of the code it runs, counted from 1 at the start and by one at every reload
    pool: str  # its name


WorkerHook = Callable[[Worker], Any]
_Hook = TypeVar("_Hook", bound=WorkerHook)
_Register = Callable[[Callable[[], Any]], None]
_Extend = Callable[[float], None]

AT_START: Final[list[WorkerHook]] = []
"""For the worker: what to call when it starts, in this order."""

AT_STOP: Final[list[WorkerHook]] = []
"""For the worker: what to call when it leaves; the last registered first."""

# Filled by the worker: one process is one worker, so one place a process is enough.
_register: _Register | None = None
_extend: _Extend | None = None
_worker: Worker | None = None


def on_worker_start(hook: _Hook) -> _Hook:
    """Call ``hook(worker)`` in every worker, before it takes its first connection. Also a decorator.

    The place to open what must not be shared: connections, threads, seeds of chance. Hooks run in the order of their
    registration, within boot_timeout. An exception makes the worker fail to start, as one at the import would; it is
    tried again, ever more slowly. ``worker`` has slot, pid, generation and pool.
    """
    return _registered(hook, AT_START)


def on_worker_stop(hook: _Hook) -> _Hook:
    """Call ``hook(worker)`` in every worker that leaves in order, after its last response. Also a decorator.

    Hooks run before the handlers of atexit, the last registered first, within graceful_timeout. An exception is
    logged and stops none of the others. A worker that is killed, or dies, calls none.
    """
    return _registered(hook, AT_STOP)


def _registered(hook: _Hook, hooks: list[WorkerHook]) -> _Hook:
    if not callable(hook):
        raise TypeError(f"expected a function that takes the worker, found {hook!r}")
    if hook not in hooks:
        hooks.append(hook)
    return hook


def worker_slot() -> int:
    """The number of this worker's slot, the same as ``environ["prefork.worker_slot"]``.

    It is less than the number of processes there may be at once, and no two workers of a pool have the same at the
    same time: good for a port, a file or a CPU of one's own. Raises `RuntimeError` outside a worker, as in the process
    that imports the application for all of them.
    """
    if _worker is None:
        raise RuntimeError("worker_slot() needs a prefork worker; this process is none (see on_worker_start)")
    return _worker.slot


def after_response(callable: Callable[[], Any]) -> None:
    """Run ``callable()`` in this worker when the client has its answer and the connection is closed.

    The same as ``environ["prefork.after_response"](callable)``. Callables run in the order of their registration; an
    exception is logged and stops none of the others. The worker takes no other request before they are done.

    Raises `RuntimeError` when no request is being served in this process.
    """
    if _register is None:
        raise RuntimeError("after_response() needs a request that a prefork worker serves; this process is no worker")
    _register(callable)


def extend_deadline(seconds: float) -> None:
    """Let the request at hand take ``seconds`` longer than it may: each of its limits is that much later.

    The same as ``environ["prefork.extend_deadline"](seconds)``. The limits are request_slowlog_timeout,
    request_timeout and request_terminate_timeout; several extensions add up, and the next request has none. For work
    that is known to be long, such as an export, called before it or again and again in its course.

    Raises `RuntimeError` when no request is being served in this process, `ValueError` for seconds that are not above 0
    and below a year, and `TypeError` for what is no number.
    """
    if _extend is None:
        raise RuntimeError("extend_deadline() needs a request that a prefork worker serves; this process is no worker")
    _extend(seconds)


def lend(register: _Register | None, extend: _Extend | None) -> None:
    """For the worker: what `after_response` and `extend_deadline` call from now on; None: nobody is there any more."""
    global _register, _extend
    _register, _extend = register, extend


def enter_worker(worker: Worker | None) -> None:
    """For the worker: who this process is from now on; None for a process that is no worker any more."""
    global _worker
    _worker = worker

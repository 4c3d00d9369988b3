"""The application's hooks: finding them, and calling them when a worker starts and when it leaves.

Two ways lead here: functions that were registered (`prefork.hooks.on_worker_start` and `on_worker_stop`), and functions
of these names in the module that the option ``hooks`` names.
"""

from __future__ import annotations

import os
import traceback
from typing import Any, Final

from prefork import hooks
from prefork.errors import ApplicationError
from prefork.hooks import Worker, WorkerHook
from prefork.worker.application import describe, import_module, own_traceback

__all__ = ["WorkerHooks", "load_hooks"]

_REGISTERED_BY_NAME: Final = {"on_worker_start": hooks.on_worker_start, "on_worker_stop": hooks.on_worker_stop}


def load_hooks(name: str) -> None:
    """Import the hooks module, and register its functions by their names. Raises `ApplicationError`."""
    module = import_module(name, f"hooks {name}")
    for attribute, register in _REGISTERED_BY_NAME.items():
        found = getattr(module, attribute, register)
        if found is register:
            continue  # "from prefork import on_worker_start", or nothing of that name
        if not callable(found):
            raise ApplicationError(
                f"hooks {name}: expected {attribute} to be a function that takes the worker, found "
                f"{type(found).__name__}"
            )
        register(found)


class WorkerHooks:
    """What is called in one worker."""

    def __init__(self, slot: int, generation: int, pool: str) -> None:
        self._worker = Worker(slot, os.getpid(), generation, pool)
        self._started = False
        hooks.enter_worker(self._worker)

    def start(self) -> None:
        """Before the worker says that it is ready. Raises `ApplicationError` for the first hook that fails."""
        for hook in tuple(hooks.AT_START):
            try:
                hook(self._worker)
            except BaseException as error:  # noqa: BLE001 - whatever the application raises, even SystemExit
                message = f"the hook {_name(hook)} (on_worker_start) raised {describe(error)}"
                raise ApplicationError(message, own_traceback(error)) from None
        self._started = True

    def stop(self, logger: Any) -> None:
        """When the worker leaves in order; nothing if it never started, and nothing the second time."""
        if not self._started:
            return
        self._started = False
        for hook in reversed(hooks.AT_STOP):
            try:
                hook(self._worker)
            except BaseException:  # noqa: BLE001 - one hook's fault must not keep the others from running
                logger.error("hook_failed", hook=f"{_name(hook)} (on_worker_stop)", traceback=traceback.format_exc())


def _name(hook: WorkerHook) -> str:
    return f"{getattr(hook, '__module__', '?')}.{getattr(hook, '__qualname__', type(hook).__name__)}"

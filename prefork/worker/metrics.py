"""prometheus_client's multiprocess mode, with files that do not grow in number.

An application that counts with prometheus_client has PROMETHEUS_MULTIPROC_DIR set; each process then counts in a file
of its own, named by its pid, and every worker there ever was leaves one behind. Here they are named by the worker's
slot, which is small and used again: the next worker in a slot goes on counting where the last one stopped, and there
are never more files than slots.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from prefork import hooks
from prefork.errors import ApplicationError

__all__ = ["share_metrics"]

_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def share_metrics(generation: int) -> None:
    """Prepare the application's metrics, where it is asked for; before the application is imported.

    The directory is made if it is missing. What an earlier server left in it is removed by the first ``generation``, as
    the library's documentation wants it. Raises `ApplicationError` for a directory that cannot be had.
    """
    directory = os.environ.get(_VARIABLE)
    if not directory:
        return
    try:
        os.makedirs(directory, exist_ok=True)
        if generation == 1:
            for left in Path(directory).glob("*.db"):
                left.unlink(missing_ok=True)
    except OSError as error:
        raise ApplicationError(
            f"{_VARIABLE}={directory}: {error.strerror}; expected a directory that the application's user may write to"
        ) from error
    try:
        from prometheus_client import multiprocess, values
    except ImportError:
        return  # the variable is somebody else's
    library: Any = values
    zygote = os.getpid()

    def identify() -> str:
        """Different for processes that live at the same time, as the library demands."""
        try:
            return str(hooks.worker_slot())
        except RuntimeError:
            # Zygotes follow each other at every reload. Else it is a child that the application forked.
            return "zygote" if os.getpid() == zygote else f"pid{os.getpid()}"

    library.ValueClass = library.MultiProcessValue(identify)
    forget: Any = multiprocess.mark_process_dead

    def forget_live_gauges(worker: hooks.Worker) -> None:
        """A gauge of living processes must not show one that was killed: its successor clears away."""
        with contextlib.suppress(OSError):
            forget(worker.slot)

    hooks.on_worker_start(forget_live_gauges)
    hooks.on_worker_stop(forget_live_gauges)

"""What every request's environ has besides its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefork.worker.deadline import Deadline
from prefork.worker.stream import Errors, FileWrapper

__all__ = ["environ_of"]


def environ_of(
    errors: Errors, after_response: Callable[..., None], deadline: Deadline, slot: int, multiprocess: bool
) -> dict[str, Any]:
    """The entries that are the same for all requests of a worker."""
    return {
        "wsgi.version": (1, 0),
        "wsgi.errors": errors,
        "wsgi.multithread": False,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "prefork.after_response": after_response,
        "prefork.extend_deadline": deadline.extend,
        "prefork.worker_slot": slot,
        # Each request has its own; here they have their places, so that no environ has to grow for them.
        "wsgi.input": None,
        "wsgi.url_scheme": None,
        "prefork.request_id": None,
        "prefork.peer": None,  # over TCP it stays so
    }

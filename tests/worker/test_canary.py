"""The canary: what proves an application, and what is told of one that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from prefork import hooks
from prefork.errors import ApplicationError
from prefork.worker.canary import prove


class App:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, status: str, raises: BaseException | None = None) -> None:
        self.environ: dict[str, Any] = {}
        self.closed = False
        self.afterwards: list[str] = []
        self._status = status
        self._raises = raises

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.environ = environ
        environ["prefork.after_response"](lambda: self.afterwards.append("environ"))
        hooks.after_response(lambda: self.afterwards.append("hooks"))
        environ["wsgi.errors"].write("said\n")
        if self._raises is not None:
            raise self._raises
        start_response(self._status, [])
        return self

    def __iter__(self) -> Any:
        return iter([b"body"])

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found"])
def test_what_proves(status: str) -> None:
    """A request like any other, to the end; what is to be done after the response is done as well."""
    app = App(status)
    prove(app, "/health?deep=1")
    assert (app.environ["PATH_INFO"], app.environ["QUERY_STRING"]) == ("/health", "deep=1")
    assert app.environ["HTTP_USER_AGENT"] == "prefork-canary"
    assert (app.closed, app.afterwards) == (True, ["environ", "hooks"])
    with pytest.raises(RuntimeError):
        hooks.after_response(print)


def test_it_knows_its_worker() -> None:
    """It runs in one."""
    app = App("200 OK")
    hooks.enter_worker(hooks.Worker(slot=3, pid=7, generation=1, pool="www"))
    try:
        prove(app, "/")
    finally:
        hooks.enter_worker(None)
    assert app.environ["prefork.worker_slot"] == 3
    assert app.environ["prefork.request_id"]


@pytest.mark.parametrize("status", ["500 Internal Server Error", "404 Not Found", "101 Switching Protocols"])
def test_what_does_not(status: str) -> None:
    """The status and the path are told, and what the application wrote to its errors."""
    with pytest.raises(ApplicationError) as caught:
        prove(App(status), "/health")
    assert str(caught.value) == f"canary /health: expected an answer of 2xx or 3xx, found {status}"
    assert caught.value.traceback == "said\n"


def test_a_host_that_the_application_does_not_know() -> None:
    """The answer of a Django whose ALLOWED_HOSTS lacks the host that we ask for."""
    with pytest.raises(ApplicationError) as caught:
        prove(App("400 Bad Request"), "/health")
    assert str(caught.value) == (
        "canary /health: expected an answer of 2xx or 3xx, found 400 Bad Request (asked with Host: localhost; "
        "an application that checks the host, as Django by ALLOWED_HOSTS, must allow it)"
    )


@pytest.mark.parametrize("error", [LookupError("no table"), SystemExit(3), KeyboardInterrupt()])
def test_what_is_raised(error: BaseException) -> None:
    """With the application's own frames, whatever it is."""
    with pytest.raises(ApplicationError) as caught:
        prove(App("", error), "/health")
    assert str(caught.value).startswith(f"canary /health: the application raised {type(error).__name__}")
    assert caught.value.traceback.startswith("said\nTraceback")
    assert "in __call__" in caught.value.traceback
    assert "worker/canary.py" not in caught.value.traceback


def test_no_status_at_all() -> None:
    """An application that answers nothing."""
    with pytest.raises(ApplicationError, match="found no status"):
        prove(lambda _environ, _start_response: [], "/")

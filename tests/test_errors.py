"""The exception tree."""

from __future__ import annotations

import pickle

import pytest

from prefork import errors
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


@pytest.mark.parametrize(
    ("kind", "base", "status"),
    [
        (PreforkError, Exception, 70),
        (UsageError, PreforkError, 64),
        (AddressInUse, PreforkError, 69),
        (PermissionProblem, PreforkError, 77),
        (ConfigurationError, PreforkError, 78),
        (ApplicationError, ConfigurationError, 78),
        (ProtocolError, PreforkError, 70),
        (ClientDisconnected, PreforkError, 70),
    ],
)
def test_the_tree_and_its_exit_statuses(kind: type[PreforkError], base: type[Exception], status: int) -> None:
    """As sysexits(3) has them, and as the documentation draws it; the text is what was said."""
    assert (kind.__bases__[0], kind.exit_status) == (base, status)
    assert str(kind("what was found")) == "what was found"


def test_every_exception_is_public() -> None:
    """And drawn in the module's own picture."""
    found = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert found == set(errors.__all__)
    assert errors.__doc__ is not None
    assert [name for name in found if name not in errors.__doc__] == []


def test_an_application_error_carries_the_traceback() -> None:
    """None if only the name was wrong."""
    assert ApplicationError("wrong").traceback == ""
    assert ApplicationError("wrong", "Traceback …").traceback == "Traceback …"


def test_a_protocol_error_carries_a_status() -> None:
    """400, unless something else is to be answered."""
    assert (ProtocolError("bad").status, ProtocolError("large", 413).status) == (400, 413)


def test_a_disconnected_client_is_an_io_error() -> None:
    """Which is what frameworks guard their reading of the body against."""
    with pytest.raises(OSError, match="left"):
        raise ClientDisconnected("left")
    assert issubclass(ClientDisconnected, ConnectionError)


def test_a_timeout_is_not_caught_by_the_way() -> None:
    """Who catches every error of the application must not catch this."""
    assert RequestTimeout.__bases__ == (BaseException,)


@pytest.mark.parametrize("error", [ApplicationError("a", "b"), ProtocolError("a", 413), ClientDisconnected("a")])
def test_errors_survive_a_pickle(error: PreforkError) -> None:
    """An application may hand one to another process; text and attributes arrive."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))

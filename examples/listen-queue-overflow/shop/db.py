"""What an ORM is to a shop: every call goes through a decorator or two before it waits."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from typing import Any

import prefork

_connection: socket.socket | None = None

# The mend, once the culprit is known: seconds that a page waits for the database before it does without.
_PATIENCE = float(os.environ.get("DATABASE_TIMEOUT", "0")) or None


def _connect() -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(os.environ["DATABASE_PORT"])))
    connection.settimeout(_PATIENCE)
    return connection


@prefork.on_worker_start
def connect(_worker: prefork.Worker) -> None:
    """A connection of its own for each worker: one made at the import would be shared by all of them."""
    global _connection
    _connection = _connect()


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def transaction(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


@logged
@transaction
def fetch_user(number: int) -> str:
    global _connection
    assert _connection is not None
    _connection.sendall(b"user %d\n" % number)
    try:
        return _connection.recv(1024).decode()
    except TimeoutError:
        _connection = _connect()  # the answer to this question will still come, on the old one
        return "a visitor"


@logged
@transaction
def yearly_report() -> str:
    assert _connection is not None
    _connection.sendall(b"report\n")
    return _connection.recv(1024).decode()

"""The way a client of the server goes, checked step by step: ``ping --through``, and ``wait`` without a path.

The path must still lead to the socket that the server made; somebody of that server must be listening behind it; and
a worker must answer in time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from prefork.cli.client import client_address, connect
from prefork.cli.console import Failure
from prefork.cli.orders import find_door, give
from prefork.cli.probing import ask
from prefork.config.values import spell_duration
from prefork.system.paths import absolute
from prefork.system.peers import peer_of

__all__ = ["only_address", "ping_through", "wait_for_server"]

_SERVING: Final = "serving"
_PAUSE: Final = 0.1
_SHORTEST_TRY: Final = 0.05


def only_address(answer: Mapping[str, Any]) -> str:
    """What leads to a server that has one pool. Raises `Failure` for all others."""
    addresses = [str(pool["address"]) for pool in answer["pools"] if pool["address"] is not None]
    if len(addresses) == 1:
        return addresses[0]
    if not addresses:
        raise Failure(f"nothing leads to the sockets of pid {answer['pid']}: they were inherited, and have no names")
    raise Failure("several sockets are served; name one:\n" + "\n".join(f"  --socket {text}" for text in addresses))


def ping_through(answer: Mapping[str, Any], served: str | None, patience: float) -> None:
    """Go through the listener of every pool in a server's answer; with ``served``, of that one. Raises `Failure`."""
    names = set() if served is None else {served, absolute(served), os.path.abspath(served)}
    chosen = [pool for pool in answer["pools"] if {pool["socket"], pool["path"], pool["address"]} & names]
    for pool in chosen or answer["pools"]:
        _go(pool, answer["pid"], patience)


def wait_for_server(control: str | None, environ: Mapping[str, str], patience: float) -> int:
    """Wait until the server of this control socket, or the only one there is, serves through all its sockets.

    Returns 0; raises `Failure` with the last reason when the time is up.
    """
    end = time.monotonic() + patience
    while True:
        left = max(end - time.monotonic(), _SHORTEST_TRY)
        try:
            answer = give(find_door(control, None, environ), "ping", patience=left)
            if answer["phase"] == _SERVING:
                ping_through(answer, None, left)
                return 0
            raise Failure(f"pid {answer['pid']} is {answer['phase']}")
        except Failure as problem:
            if time.monotonic() + _PAUSE >= end:
                raise Failure(f"not serving after {spell_duration(patience)}: {problem}") from None
        time.sleep(_PAUSE)


def _go(pool: Mapping[str, Any], pid: int, patience: float) -> None:
    path, file = pool["path"], pool["file"]
    if pool["address"] is None:
        raise Failure(f"{pool['socket']}: an inherited socket without a name: nothing leads to it from here")
    address = client_address(pool["address"])
    if file is not None:
        try:
            status = os.lstat(path)
        except OSError as problem:
            raise Failure(f"{path}: the server's socket is gone: {problem.strerror}") from None
        if [status.st_dev, status.st_ino] != list(file):
            raise Failure(f"{path}: this is no longer the socket that pid {pid} made: somebody replaced it")
        with connect(address) as connection:
            found = peer_of(connection).pid
        if found not in (0, pid):
            raise Failure(f"{path}: pid {found} listens here, not the server, pid {pid}")
    ask(address, patience, http=pool["protocol"] == "http")

"""Whether a worker answers: FastCGI's own question, through the socket, which no application ever sees."""

from __future__ import annotations

import time
from typing import Final

from prefork.cli.client import connect
from prefork.cli.console import Failure
from prefork.config.values import spell_duration
from prefork.errors import ProtocolError
from prefork.protocol import fastcgi_records as records
from prefork.protocol.fastcgi_client import ResponseReader
from prefork.system.address import Address

__all__ = ["ask_values", "wait_until_served"]

# How often is looked: soon at first, since a server may be up in a moment, and never often enough to cost anything.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.2


def wait_until_served(address: Address, patience: float) -> int:
    """Ask until a worker answers, for ``patience`` seconds; then raises `Failure` with the last reason."""
    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            ask_values(address, max(end - time.monotonic(), _FIRST_PAUSE))
            return 0
        except Failure as problem:
            if time.monotonic() + pause >= end:
                raise Failure(f"not serving after {spell_duration(patience)}: {problem}") from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def ask_values(address: Address, patience: float) -> None:
    """One GET_VALUES and its answer. Raises `Failure`."""
    reader = ResponseReader()
    end = time.monotonic() + patience
    with connect(address) as connection:
        try:
            connection.sendall(
                records.encode_record(records.GET_VALUES, 0, records.encode_pairs([(b"FCGI_MAX_CONNS", b"")]))
            )
            while not reader.values:
                connection.settimeout(max(end - time.monotonic(), 0.001))
                data = connection.recv(4096)
                if not data:
                    raise Failure(f"{address}: the connection was closed without an answer")
                reader.receive(data)
        except TimeoutError:
            raise Failure(f"{address}: connected, but no worker answers: all are busy, or hang") from None
        except ConnectionError as problem:
            raise Failure(f"{address}: the connection broke: {problem.strerror}") from None
        except ProtocolError as problem:
            raise Failure(f"{address}: what listens there speaks no FastCGI ({problem})") from None

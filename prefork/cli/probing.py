"""Whether a worker answers: a question through the socket that no application ever sees.

In FastCGI that is the protocol's own (GET_VALUES); in HTTP it is a version that does not exist, which the worker
refuses by itself. An answer is an answer: a Unix socket that speaks HTTP alone refuses the first question in HTTP.
"""

from __future__ import annotations

import time
from typing import Final

from prefork.cli.client import connect
from prefork.cli.console import Failure
from prefork.config.values import spell_duration
from prefork.errors import ProtocolError
from prefork.protocol import fastcgi_records as records
from prefork.protocol.fastcgi_client import ResponseReader
from prefork.system.address import Address, AddressKind

__all__ = ["ask", "wait_until_served"]

# How often is looked: soon at first, since a server may be up in a moment, and never often enough to cost anything.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.2

_FASTCGI_QUESTION: Final = records.encode_record(
    records.GET_VALUES, 0, records.encode_pairs([(b"FCGI_MAX_CONNS", b"")])
)
_HTTP_QUESTION: Final = b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"
_HTTP_ANSWER: Final = b"HTTP/1."


def wait_until_served(address: Address, patience: float) -> int:
    """Ask until a worker answers, for ``patience`` seconds; then raises `Failure` with the last reason."""
    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            ask(address, max(end - time.monotonic(), _FIRST_PAUSE))
            return 0
        except Failure as problem:
            if time.monotonic() + pause >= end:
                raise Failure(f"not serving after {spell_duration(patience)}: {problem}") from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def ask(address: Address, patience: float, *, http: bool | None = None) -> None:
    """One question and its answer, in HTTP or FastCGI; left open, in what the address usually speaks.

    Raises `Failure`.
    """
    reader = ResponseReader()
    end = time.monotonic() + patience
    speaks_http = address.kind is AddressKind.TCP if http is None else http
    with connect(address) as connection:
        try:
            connection.sendall(_HTTP_QUESTION if speaks_http else _FASTCGI_QUESTION)
            while not reader.values:
                connection.settimeout(max(end - time.monotonic(), 0.001))
                data = connection.recv(4096)
                if not data:
                    raise Failure(f"{address}: the connection was closed without an answer")
                if data.startswith(_HTTP_ANSWER):
                    return
                reader.receive(data)
        except TimeoutError:
            raise Failure(f"{address}: connected, but no worker answers: all are busy, or hang") from None
        except ConnectionError as problem:
            raise Failure(f"{address}: the connection broke: {problem.strerror}") from None
        except ProtocolError as problem:
            raise Failure(f"{address}: what listens there speaks neither FastCGI nor HTTP ({problem})") from None

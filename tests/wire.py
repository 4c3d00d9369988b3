"""For the tests of a worker's hot path: an exchange without a server, and a client that sees every byte."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from wsgiref.validate import validator

from prefork.policy.model import IDLE
from prefork.protocol.fastcgi_client import ResponseReader, encode_request, encode_stdin
from prefork.system.controlpage import ControlPage
from prefork.system.scoreboard import Scoreboard, Slot
from prefork.worker.deadline import Deadline
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits

PATIENCE: Final = 20.0
EOF: Final = encode_stdin(b"")


class Log:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        def log(event: str, **fields: Any) -> None:
            self.events.append((level, event, fields))

        return log

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.events if name == event]

    @property
    def loud(self) -> list[str]:
        """The names of all events but debug ones."""
        return [event for level, event, _ in self.events if level != "debug"]


class Desk:
    """One worker's exchange, its slot and its log, within the test's own process."""

    def __init__(self) -> None:
        self.scoreboard = Scoreboard(64)
        self.control = ControlPage(64)
        self.slot = Slot(3, 64, self.scoreboard.descriptor, self.control.descriptor, -1, 1, IDLE)
        self.log = Log()
        self.exchanges: list[Exchange] = []

    def exchange(self, application: Callable[..., Any], limits: Limits | None = None) -> Exchange:
        made = Exchange(application, self.slot, self.log, limits or Limits(), multiprocess=True)
        self.exchanges.append(made)
        return made

    def ask(self, application: Callable[..., Any], request: bytes, limits: Limits | None = None) -> Answer:
        """Send a whole (small) request to an application, unchecked, and read the answer to its end."""
        exchange = self.exchange(application, limits)
        with self.client(exchange) as client:
            client.send(request)
            return client.answer()

    def get(self, application: Callable[..., Any], limits: Limits | None = None, **params: str) -> Answer:
        """GET / from an application that wsgiref checks."""
        return self.ask(validator(application), get(**params), limits)

    @contextmanager
    def client(self, exchange: Exchange, sent: bytes = b"") -> Iterator[Client]:
        """A connection that the exchange serves in a thread; at the end it must have let go of it.

        What was ``sent`` is there before the exchange looks: no pause of this process makes its client a late one.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        ours.sendall(sent)
        server = threading.Thread(target=exchange.serve, args=(theirs.detach(),), daemon=True)
        server.start()
        try:
            yield Client(ours, server)
        finally:
            ours.close()
            server.join(PATIENCE)
            assert not server.is_alive(), "the exchange does not end"

    def close(self) -> None:
        for exchange in self.exchanges:
            exchange.close()
        # Its pages, too: they would go with the collector, whenever that comes, and another test counts descriptors.
        self.slot.forget()
        self.scoreboard.close()
        self.control.close()


def patient() -> Deadline:
    """The deadline of a request that may take as long as it likes."""
    scoreboard, control = Scoreboard(64), ControlPage(64)
    slot = Slot(0, 64, scoreboard.descriptor, control.descriptor, -1, 1, IDLE)
    scoreboard.close()
    control.close()
    return Deadline(slot)


class Answer:
    """A response as a proxy sees it."""

    def __init__(self, reader: ResponseReader, raw: bytes) -> None:
        self.raw = raw
        self.ended = reader.ended
        self.protocol_status = reader.protocol_status
        self.stderr = bytes(reader.stderr)
        head, _, self.body = bytes(reader.stdout).partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = lines[0].removeprefix("Status: ")
        self.fields = [tuple(line.split(": ", 1)) for line in lines[1:]]

    def field(self, name: str) -> str | None:
        values = [value for found, value in self.fields if found == name]
        assert len(values) < 2
        return values[0] if values else None


class Client:
    """What nginx is to a worker."""

    def __init__(self, sock: socket.socket, server: threading.Thread) -> None:
        self.socket = sock
        self.server = server
        self.reader = ResponseReader()
        self.raw = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int = 65_536) -> bytes:
        """Some bytes, given to the reader as well; raises `ProtocolError` when the response is broken off."""
        data = self.socket.recv(size)
        self.raw += data
        self.reader.receive(data)
        return data

    def until(self, fact: Callable[[ResponseReader], object]) -> None:
        """Receive until something is true of what was received."""
        while not fact(self.reader):
            assert self.receive(), "the connection was closed too early"

    def answer(self) -> Answer:
        """Everything up to the end of the connection."""
        while self.receive():
            pass
        return Answer(self.reader, self.raw)

    def wait_for_end(self) -> None:
        """Until the exchange has let go of the connection."""
        self.server.join(PATIENCE)
        assert not self.server.is_alive()


def get(**params: str) -> bytes:
    """A whole GET request."""
    return encode_request({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/", **params}) + EOF


def post(body: bytes, length: int | None = -1, **params: str) -> bytes:
    """A whole POST request; ``length`` is what it claims, None: nothing."""
    if length is not None:
        params["CONTENT_LENGTH"] = str(len(body) if length < 0 else length)
    head = encode_request({"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/", **params})
    return head + (encode_stdin(body) if body else b"") + EOF


def resident() -> int:
    """Bytes of memory of this process that are in RAM (proc(5), statm)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PLAIN: Final = [("Content-Type", "text/plain")]


def stamp(ago: float) -> str:
    """The moment so many seconds ago as nginx writes it: what is less than a millisecond is cut off, not rounded."""
    milliseconds = int((time.time() - ago) * 1_000)
    return f"t={milliseconds // 1_000}.{milliseconds % 1_000:03}"


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", list(PLAIN))
    return [b"hello"]

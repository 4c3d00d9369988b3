"""Clients: HTTP by the standard library, FastCGI by an encoder and decoder that know nothing of prefork's."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from harness.processes import PATIENCE

__all__ = [
    "Address",
    "FastCGIResponse",
    "Response",
    "connect",
    "encode_request",
    "fastcgi",
    "fetch",
    "open_response",
    "read_response",
]

Address = tuple[str, int] | str


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, read whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path, self.timeout or PATIENCE)


def connect(address: Address, timeout: float = PATIENCE) -> socket.socket:
    """A connected stream socket; ``@name`` is an abstract one."""
    if not isinstance(address, str):
        return socket.create_connection(address, timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def open_response(
    address: Address,
    method: str = "GET",
    path: str = "/",
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
) -> Iterator[http.client.HTTPResponse]:
    """One HTTP request; the response is yielded when its headers have come, to be read as the test likes."""
    connection = (
        _UnixConnection(address, timeout)
        if isinstance(address, str)
        else http.client.HTTPConnection(*address, timeout=timeout)
    )
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        with contextlib.closing(connection.getresponse()) as response:
            yield response


def fetch(address: Address, method: str = "GET", path: str = "/", **options: Any) -> Response:
    """One HTTP request, its response read whole. A response cut short raises ``http.client.IncompleteRead``."""
    with open_response(address, method, path, **options) as response:
        return Response(response.status, response.headers, response.read())


# --- FastCGI ----------------------------------------------------------------------------------------------------------

_HEADER: Final = struct.Struct(">BBHHBx")
_BEGIN, _ABORT, _END, _PARAMS, _STDIN, _STDOUT, _STDERR = range(1, 8)
_LARGEST: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class FastCGIResponse:
    """What came back for one FastCGI request.

    ``complete`` says that END_REQUEST came; ``broken`` that the bytes were not FastCGI, which is how a server tells
    nginx that a response must not pass for a whole one.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    errors: bytes = b""
    complete: bool = True
    broken: bool = False
    protocol_status: int = 0
    records: list[tuple[int, bytes]] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str:
        return self.body.decode()


def record(kind: int, content: bytes, number: int = 1, padding: int = 0) -> bytes:
    """One FastCGI record."""
    return _HEADER.pack(1, kind, number, len(content), padding) + content + bytes(padding)


def _stream(kind: int, content: bytes, number: int) -> bytes:
    parts = [content[start : start + _LARGEST] for start in range(0, len(content), _LARGEST)]
    return b"".join(record(kind, part, number) for part in [*parts, b""])


def _length(value: bytes) -> bytes:
    return struct.pack(">B", len(value)) if len(value) < 0x80 else struct.pack(">I", len(value) | 0x80000000)


def encode_request(
    method: str = "GET",
    path: str = "/",
    *,
    body: bytes = b"",
    params: Mapping[str, str] | None = None,
    keep: bool = False,
    number: int = 1,
) -> bytes:
    """A whole responder request with what nginx's stock ``fastcgi_params`` would send."""
    script, _, query = path.partition("?")
    pairs = {
        "QUERY_STRING": query,
        "REQUEST_METHOD": method,
        "CONTENT_TYPE": "",
        "CONTENT_LENGTH": str(len(body)) if body else "",
        "SCRIPT_NAME": script,
        "REQUEST_URI": path,
        "DOCUMENT_URI": script,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": "http",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "HTTP_HOST": "localhost",
        **(params or {}),
    }
    encoded = b"".join(
        _length(name.encode()) + _length(value.encode("latin-1")) + name.encode() + value.encode("latin-1")
        for name, value in pairs.items()
    )
    begin = record(_BEGIN, struct.pack(">HB5x", 1, int(keep)), number)
    return begin + _stream(_PARAMS, encoded, number) + _stream(_STDIN, body, number)


def _records(data: bytes) -> Iterator[tuple[int, bytes] | None]:
    """The records in what was received; None, once, where the bytes are not a whole FastCGI record."""
    position = 0
    while position < len(data):
        if len(data) - position < _HEADER.size or data[position] != 1:
            yield None
            return
        _, kind, _, length, padding = _HEADER.unpack_from(data, position)
        content = data[position + _HEADER.size : position + _HEADER.size + length]
        if len(content) < length:
            yield None
            return
        yield kind, content
        position += _HEADER.size + length + padding


def read_response(connection: socket.socket) -> FastCGIResponse:
    """Read to the end of the connection and decode what came."""
    received = bytearray()
    try:
        while part := connection.recv(262_144):
            received += part
    except ConnectionResetError:
        pass  # what came before it counts; without END_REQUEST the response is incomplete
    records = list(_records(bytes(received)))
    whole = [item for item in records if item is not None]
    output = b"".join(content for kind, content in whole if kind == _STDOUT)
    ends = [content for kind, content in whole if kind == _END]
    head, _, body = output.partition(b"\r\n\r\n")
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.title()] = value.strip()
    return FastCGIResponse(
        status=int(headers.pop("Status", "200 OK").split()[0]) if output else 0,
        headers=headers,
        body=body,
        errors=b"".join(content for kind, content in whole if kind == _STDERR),
        complete=bool(ends),
        broken=None in records,
        protocol_status=ends[0][4] if ends else 0,
        records=whole,
    )


def fastcgi(
    address: Address, method: str = "GET", path: str = "/", *, timeout: float = PATIENCE, **options: Any
) -> FastCGIResponse:
    """One FastCGI request over a connection of its own, its response read to the end of the connection."""
    with connect(address, timeout) as connection:
        connection.sendall(encode_request(method, path, **options))
        return read_response(connection)

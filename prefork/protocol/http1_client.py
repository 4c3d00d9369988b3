"""HTTP/1.1, the client's side: enough to send one request and understand its answer. No socket, no clock.

What a web server does, small, for the command line. The request is told as CGI parameters, and the answer comes as CGI
output, so that whoever asks need not know which protocol carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from prefork.errors import ProtocolError

__all__ = ["ResponseReader", "encode_body", "encode_request"]

_LAST_CHUNK: Final = b"0\r\n\r\n"
_FINAL: Final = 200  # below are interim answers, as 100 Continue


def encode_request(params: Mapping[str, str], *, body: bool) -> bytes:
    """The head of a request; a ``body`` without CONTENT_LENGTH is announced as chunked."""
    lines = [f"{params['REQUEST_METHOD']} {params['REQUEST_URI']} HTTP/1.1"]
    for name, value in params.items():
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value):
            lines.append(f"{name.removeprefix('HTTP_').replace('_', '-').title()}: {value}")
    if body and not params.get("CONTENT_LENGTH"):
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def encode_body(data: bytes, *, chunked: bool) -> bytes:
    """Some of the request's body; ``b""`` is its end."""
    if not chunked:
        return data
    return b"%x\r\n%b\r\n" % (len(data), data) if data else _LAST_CHUNK


@final
class ResponseReader:
    """One answer. Feed `receive`, and say `closed` when the peer does; ``stdout`` grows until ``ended``."""

    def __init__(self, method: str) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()  # HTTP has none
        self.ended = False
        self.protocol_status = 0  # HTTP has none
        self._bodiless = method == "HEAD"
        self._delimited = False  # by Content-Length or chunks
        self._head_complete = False
        self._reason = b""
        self._lines: list[bytes] = []
        self._parser = HttpResponseParser(self)

    def receive(self, data: bytes) -> None:
        """Take what arrived; raises `ProtocolError` when it cannot be an answer."""
        if self.ended:
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as problem:
            raise ProtocolError("the answer changes to another protocol, which nobody asked for") from problem
        except HttpParserError as problem:
            raise ProtocolError(f"this is no HTTP: {problem}") from problem

    def closed(self) -> None:
        """The peer has closed the connection, which is the end of an answer that has no other."""
        if self._head_complete and (self._bodiless or not self._delimited):
            self.ended = True

    # what the parser calls

    def on_status(self, status: bytes) -> None:
        """Some of the reason."""
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole field."""
        lower = name.lower()
        self._delimited = self._delimited or lower in (b"content-length", b"transfer-encoding")
        if lower != b"status":  # it would be taken for CGI's
            self._lines.append(name + b": " + value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """The head, unless it is an interim one."""
        code = self._parser.get_status_code()
        if code >= _FINAL:
            self._head_complete = True
            self.stdout += b"\r\n".join([b"Status: %d %b" % (code, self._reason), *self._lines, b"", b""])
        self._reason = b""
        self._lines = []

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        if not self._bodiless:
            self.stdout += body

    def on_message_complete(self) -> None:
        """The end, unless it is that of an interim answer."""
        self.ended = self._head_complete

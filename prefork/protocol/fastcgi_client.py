"""FastCGI 1.0, the client's side: enough to send one request and understand its answer. No socket, no clock.

What a web server does, small, for the command line and for tests. Records of other requests are skipped; anything an
application may not send raises `ProtocolError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, final

from prefork.errors import ProtocolError
from prefork.protocol import fastcgi_records as records

__all__ = ["ResponseReader", "encode_request", "encode_stdin"]

_HEADER: Final = struct.Struct(">BBHHBx")
_END_BODY: Final = struct.Struct(">IB3x")


def encode_request(params: Mapping[str, str], *, keep_conn: bool = False, request_id: int = 1) -> bytes:
    """BEGIN_REQUEST and the whole PARAMS stream; names and values are latin-1 text, as in a WSGI environ."""
    content = records.encode_pairs(
        [(name.encode("latin-1"), value.encode("latin-1")) for name, value in params.items()]
    )
    return (
        records.encode_begin_request(request_id, flags=records.KEEP_CONN if keep_conn else 0)
        + records.encode_stream(records.PARAMS, request_id, content)
        + records.encode_header(records.PARAMS, request_id, 0)
    )


def encode_stdin(data: bytes, request_id: int = 1) -> bytes:
    """Some of the request's body; ``b""`` is its end, and every request needs that."""
    return records.encode_stream(records.STDIN, request_id, data) or records.encode_header(records.STDIN, request_id, 0)


@final
class ResponseReader:
    """One answer. Feed `receive`; ``stdout`` and ``stderr`` grow until ``ended``.

    ``application_status`` and ``protocol_status`` are those of END_REQUEST (0 and 0 for a served request),
    ``values`` is what GET_VALUES_RESULT said, ``unknown_types`` what UNKNOWN_TYPE rejected.
    """

    def __init__(self, request_id: int = 1) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.stdout_ended = False
        self.ended = False
        self.application_status = 0
        self.protocol_status = 0
        self.values: dict[str, str] = {}
        self.unknown_types: list[int] = []
        self._identifier = request_id
        self._data = bytearray()

    def receive(self, data: bytes) -> None:
        """Take what arrived; raises `ProtocolError` when it cannot be an application's answer."""
        self._data += data
        while len(self._data) >= records.HEADER_SIZE:
            version, kind, identifier, length, padding = _HEADER.unpack_from(self._data)
            if version != records.VERSION:
                raise ProtocolError(f"a FastCGI record begins with version 1, found byte {version}")
            whole = records.HEADER_SIZE + length + padding
            if len(self._data) < whole:
                return
            content = bytes(self._data[records.HEADER_SIZE : records.HEADER_SIZE + length])
            del self._data[:whole]
            if identifier == self._identifier:
                self._take(kind, content)
            elif identifier == 0:
                self._take_management(kind, content)

    def closed(self) -> None:
        """The peer has closed the connection; whether it may is told by ``ended``."""

    def _take(self, kind: int, content: bytes) -> None:
        if kind == records.STDERR:
            self.stderr += content
        elif self.ended:
            raise ProtocolError(f"a record of type {kind} after END_REQUEST")
        elif kind == records.STDOUT:
            if self.stdout_ended:
                raise ProtocolError("STDOUT after the end of STDOUT")
            self.stdout += content
            self.stdout_ended = not content
        elif kind == records.END_REQUEST:
            if len(content) != _END_BODY.size:
                raise ProtocolError(f"END_REQUEST has 8 bytes, found {len(content)}")
            self.application_status, self.protocol_status = _END_BODY.unpack(content)
            self.ended = True
        else:
            raise ProtocolError(f"an application sends no FastCGI records of type {kind}")

    def _take_management(self, kind: int, content: bytes) -> None:
        if kind == records.GET_VALUES_RESULT:
            for name, value in records.decode_pairs(content):
                self.values[name.decode("latin-1")] = value.decode("latin-1")
        elif kind == records.UNKNOWN_TYPE and len(content) == 8:
            self.unknown_types.append(content[0])
        else:
            raise ProtocolError(f"an application sends no management records of type {kind} with {len(content)} bytes")

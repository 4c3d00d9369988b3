"""The records of FastCGI 1.0: their numbers, their layout, and how to write them. For both sides.

A record is eight bytes of header, up to 65,535 of content and up to 255 of padding. Nothing here keeps state; the
reading side of an application is in `prefork.protocol.fastcgi`, that of a client in `fastcgi_client`.

Sections named below are those of the FastCGI Specification, version 1.0, 29 April 1996.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from prefork.errors import ProtocolError

__all__ = [
    "ABORT_REQUEST",
    "AUTHORIZER",
    "BEGINNING_1",
    "BEGINNING_1_KEEP",
    "BEGIN_REQUEST",
    "BROKEN",
    "CANT_MPX_CONN",
    "DATA",
    "ENDING_1",
    "ENDING_1_KEEP",
    "ENDS_1",
    "END_OF_PARAMS_1",
    "END_REQUEST",
    "FILTER",
    "FULL_RECORD",
    "GET_VALUES",
    "GET_VALUES_RESULT",
    "HEADER",
    "HEADER_1",
    "HEADER_SIZE",
    "KEEP_CONN",
    "LENGTHS",
    "MAX_CONTENT",
    "OVERLOADED",
    "PARAMS",
    "REQUEST_COMPLETE",
    "RESPONDER",
    "STDERR",
    "STDIN",
    "STDOUT",
    "STDOUT_1",
    "UNKNOWN_ROLE",
    "UNKNOWN_TYPE",
    "VERSION",
    "decode_pairs",
    "encode_begin_request",
    "encode_end_request",
    "encode_header",
    "encode_pairs",
    "encode_record",
    "encode_stream",
    "encode_unknown_type",
    "encode_values_result",
    "ending",
    "frame",
]

VERSION: Final = 1
HEADER_SIZE: Final = 8
MAX_CONTENT: Final = 65_535  # contentLength has 16 bits (section 3.3)
FULL_RECORD: Final = 65_528  # what we fill our own records with: the largest multiple of eight, so no padding

# Record types (section 8).
BEGIN_REQUEST: Final = 1
ABORT_REQUEST: Final = 2
END_REQUEST: Final = 3
PARAMS: Final = 4
STDIN: Final = 5
STDOUT: Final = 6
STDERR: Final = 7
DATA: Final = 8
GET_VALUES: Final = 9
GET_VALUES_RESULT: Final = 10
UNKNOWN_TYPE: Final = 11

# Roles and flags of BEGIN_REQUEST (section 5.1), protocolStatus of END_REQUEST (section 5.5).
RESPONDER: Final = 1
AUTHORIZER: Final = 2
FILTER: Final = 3
KEEP_CONN: Final = 1
REQUEST_COMPLETE: Final = 0
CANT_MPX_CONN: Final = 1
OVERLOADED: Final = 2
UNKNOWN_ROLE: Final = 3

# A record with a version that does not exist. nginx drops the client's connection when it meets one, in every
# FastCGI mode; a response that merely stops is taken for a complete one unless it has a Content-Length.
BROKEN: Final = b"\xff\x00\x00\x00\x00\x00\x00\x00"

HEADER: Final = struct.Struct(">BBHHBx")
LENGTHS: Final = struct.Struct(">HBx")  # the second half of a header
HEADER_1: Final = struct.Struct(">4sH2x")  # with what stands before the length as it is: `STDOUT_1`
_BEGIN: Final = struct.Struct(">HB5x")
_END: Final = struct.Struct(">IB3x")
# What nginx begins with: request 1, a responder, flags 0 or KEEP_CONN, then parameters, whose length follows; and what
# it goes on with: the end of the parameters, with that of the body if there is none.
BEGINNING_1: Final = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01\x04\x00\x01"
BEGINNING_1_KEEP: Final = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00\x01\x04\x00\x01"
END_OF_PARAMS_1: Final = b"\x01\x04\x00\x01\x00\x00\x00\x00"
ENDS_1: Final = END_OF_PARAMS_1 + b"\x01\x05\x00\x01\x00\x00\x00\x00"
# What begins a record of request 1's response, before its length; and what ends that response: an empty STDOUT and
# END_REQUEST, for some then an empty STDERR (`ending`). Every server but HAProxy uses no other number.
STDOUT_1: Final = b"\x01\x06\x00\x01"
ENDING_1: Final = b"\x01\x06\x00\x01\x00\x00\x00\x00\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
ENDING_1_KEEP: Final = ENDING_1 + b"\x01\x07\x00\x01\x00\x00\x00\x00"

_LONG_LENGTH: Final = 0x80  # the first of four length bytes has this bit set (section 3.4)


def encode_header(kind: int, identifier: int, length: int, padding: int = 0) -> bytes:
    """The eight bytes before a record's content."""
    return HEADER.pack(VERSION, kind, identifier, length, padding)


def encode_record(kind: int, identifier: int, content: bytes, padding: int = 0) -> bytes:
    """One whole record; the padding is zeros."""
    return encode_header(kind, identifier, len(content), padding) + content + bytes(padding)


def encode_stream(kind: int, identifier: int, data: bytes) -> bytes:
    """Data of a stream, in as few records as it needs; nothing for nothing, because an empty record is the end."""
    starts = range(0, len(data), MAX_CONTENT)
    return b"".join([encode_record(kind, identifier, data[start : start + MAX_CONTENT]) for start in starts])


def encode_begin_request(identifier: int, role: int = RESPONDER, flags: int = 0) -> bytes:
    """A client's BEGIN_REQUEST."""
    return encode_record(BEGIN_REQUEST, identifier, _BEGIN.pack(role, flags))


def encode_end_request(identifier: int, protocol_status: int, application_status: int = 0) -> bytes:
    """END_REQUEST: the answer to a request that was not served, or the last record of one that was."""
    return encode_record(END_REQUEST, identifier, _END.pack(application_status, protocol_status))


def encode_unknown_type(kind: int) -> bytes:
    """The answer to a management record of a type we do not know (section 4.2)."""
    return encode_record(UNKNOWN_TYPE, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0)))


def ending(identifier: int, keep_connection: bool) -> bytes:
    """What ends a response that is complete.

    For a peer that may keep the connection an empty STDERR record follows END_REQUEST: nginx then does not put the
    connection into its cache but closes it, so that no later request is sent into a connection that we close.
    """
    if identifier == 1:
        return ENDING_1_KEEP if keep_connection else ENDING_1
    end = encode_header(STDOUT, identifier, 0) + encode_end_request(identifier, REQUEST_COMPLETE)
    return end + encode_header(STDERR, identifier, 0) if keep_connection else end


def frame(kind: int, identifier: int, pieces: Sequence[bytes], size: int) -> list[bytes | memoryview]:
    """Wrap pieces of a stream, ``size`` bytes in all, into full records without copying them."""
    if size <= FULL_RECORD:
        return [encode_header(kind, identifier, size), *pieces] if size else []
    buffers: list[bytes | memoryview] = []
    room = 0
    for piece in pieces:
        view = memoryview(piece)
        start = 0
        while start < len(piece):
            if room == 0:
                room = min(FULL_RECORD, size)
                size -= room
                buffers.append(encode_header(kind, identifier, room))
            stop = min(start + room, len(piece))
            buffers.append(view[start:stop])
            room -= stop - start
            start = stop
    return buffers


def encode_pairs(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Names and values as PARAMS and GET_VALUES carry them (section 3.4)."""
    parts: list[bytes] = []
    for name, value in pairs:
        parts += (_encode_length(len(name)), _encode_length(len(value)), name, value)
    return b"".join(parts)


def encode_values_result(asked: bytes, values: Mapping[bytes, bytes]) -> bytes:
    """The answer to GET_VALUES with this content: the values we know of those it asks for (section 4.1)."""
    names = {name for name, _ in decode_pairs(asked)}
    return encode_record(GET_VALUES_RESULT, 0, encode_pairs([pair for pair in values.items() if pair[0] in names]))


def _encode_length(length: int) -> bytes:
    return bytes((length,)) if length < _LONG_LENGTH else (length | _LONG_LENGTH << 24).to_bytes(4, "big")


def decode_pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    """The pairs of a whole stream, as they stand. Raises `ProtocolError` for one that goes on after the end."""
    pairs: list[tuple[bytes, bytes]] = []
    offset = 0
    while offset < len(data):
        name_length, offset = _decode_length(data, offset)
        value_length, offset = _decode_length(data, offset)
        middle = offset + name_length
        stop = middle + value_length
        if stop > len(data):
            raise ProtocolError(f"a pair needs {stop - len(data)} bytes more than its stream has")
        pairs.append((data[offset:middle], data[middle:stop]))
        offset = stop
    return pairs


def _decode_length(data: bytes, offset: int) -> tuple[int, int]:
    if offset < len(data) and data[offset] < _LONG_LENGTH:
        return data[offset], offset + 1
    if offset + 4 > len(data):
        raise ProtocolError("a pair's length goes on after the end of its stream")
    return int.from_bytes(data[offset : offset + 4], "big") & 0x7FFF_FFFF, offset + 4

"""The PARAMS stream of a FastCGI request as text, in one pass. Everything a stranger may do to it is bounded here."""

from __future__ import annotations

from typing import Any, Final

from prefork.errors import ProtocolError
from prefork.protocol.request import merge_duplicate

__all__ = ["decode_parameters"]

# nginx's default for a whole header field is 8 KiB (large_client_header_buffers).
MAX_NAME: Final = 4_096


def decode_parameters(data: bytes, max_count: int) -> dict[str, Any]:
    """The parameters of a request as latin-1 text.

    One pass: the bytes become text once, lengths are read from the bytes and values sliced from the text. A NUL in a
    name or value is found by counting: every zero byte must be (part of) a length.
    """
    text = data.decode("latin-1")
    environ: dict[str, Any] = {}
    size = len(data)
    offset = count = zeros = 0
    while offset < size:
        name_length = data[offset]
        offset += 1
        if name_length >= 128:
            name_length, found = _long_length(data, offset)
            zeros += found
            offset += 3
        elif name_length == 0:
            zeros += 1
        if offset >= size:
            raise ProtocolError("a parameter goes on after the end of its stream")
        value_length = data[offset]
        offset += 1
        if value_length >= 128:
            value_length, found = _long_length(data, offset)
            zeros += found
            offset += 3
        elif value_length == 0:
            zeros += 1
        middle = offset + name_length
        stop = middle + value_length
        if stop > size:
            raise ProtocolError(f"a parameter needs {stop - size} bytes more than its stream has")
        if name_length > MAX_NAME:
            raise ProtocolError(f"a parameter's name has {name_length} bytes, {MAX_NAME} are allowed", 431)
        count += 1
        name = text[offset:middle]
        value = text[middle:stop]
        environ[name] = merge_duplicate(name, environ[name], value) if name in environ else value
        offset = stop
    if count > max_count:
        raise ProtocolError(f"the request has {count} parameters, {max_count} are allowed", 431)
    if data.count(0) != zeros:
        raise ProtocolError("a parameter contains a NUL byte")
    return environ


def _long_length(data: bytes, offset: int) -> tuple[int, int]:
    """A four-byte length whose first byte was read, and how many of its other bytes are zero."""
    if offset + 3 > len(data):
        raise ProtocolError("a parameter's length goes on after the end of its stream")
    length = int.from_bytes(data[offset - 1 : offset + 3], "big") & 0x7FFF_FFFF
    return length, data.count(0, offset, offset + 3)

"""The PARAMS stream of a FastCGI request as text, in one pass. Everything a stranger may do to it is bounded here."""

from __future__ import annotations

from typing import Any, Final

from prefork.errors import ProtocolError
from prefork.protocol.fastcgi_records import decode_pairs
from prefork.protocol.request import merge_duplicate

__all__ = ["CGI_VARIABLES", "MAX_NAME", "decode_parameters"]

# nginx's default for a whole header field is 8 KiB (large_client_header_buffers).
MAX_NAME: Final = 4_096

# Parameters that are no headers, on top of max_header_count. nginx's stock file sends 24.
CGI_VARIABLES: Final = 100


def decode_parameters(data: bytes, max_count: int) -> dict[str, Any]:
    """The parameters of a request as latin-1 text; raises `ProtocolError`.

    One pass: the bytes become text once, lengths are read from the bytes and values sliced from the text. A NUL in a
    name or value is found by counting (every zero byte must be part of a length), a repeated name by the dict's size.
    """
    text = data.decode("latin-1")
    environ: dict[str, Any] = {}
    size = len(data)
    offset = count = zeros = 0
    try:
        while offset < size:
            name_length = data[offset]
            value_length = data[offset + 1]
            if name_length < 128 and value_length < 128:
                offset += 2
                if not value_length:
                    zeros += 1
                if not name_length:
                    zeros += 1
            else:
                name_length, offset, found = _length(data, offset)
                zeros += found
                value_length, offset, found = _length(data, offset)
                zeros += found
                if name_length > MAX_NAME:
                    raise ProtocolError(f"a parameter's name has {name_length} bytes, {MAX_NAME} are allowed", 431)
            middle = offset + name_length
            stop = middle + value_length
            environ[text[offset:middle]] = text[middle:stop]
            offset = stop
            count += 1
    except IndexError:
        offset = size + 1
    if offset > size:
        raise ProtocolError("a parameter goes on after the end of its stream")
    if count > max_count:
        raise ProtocolError(f"the request has {count} parameters, {max_count} are allowed", 431)
    if data.count(0) != zeros:
        raise ProtocolError("a parameter contains a NUL byte")
    return environ if len(environ) == count else _merged(data)


def _length(data: bytes, offset: int) -> tuple[int, int, int]:
    """A length of one or four bytes, the offset behind it, and how many of its bytes are zero."""
    first = data[offset]
    if first < 128:
        return first, offset + 1, 0 if first else 1
    last = data[offset + 3]
    length = (first & 0x7F) << 24 | data[offset + 1] << 16 | data[offset + 2] << 8 | last
    return length, offset + 4, data.count(0, offset, offset + 4)


def _merged(data: bytes) -> dict[str, Any]:
    """The parameters when a name occurs more than once."""
    environ: dict[str, Any] = {}
    for raw_name, raw_value in decode_pairs(data):
        name = raw_name.decode("latin-1")
        value = raw_value.decode("latin-1")
        environ[name] = merge_duplicate(name, environ[name], value) if name in environ else value
    return environ

"""The chunked transfer coding of requests (RFC 9112, section 7.1): framed bytes in, the body's bytes out.

Our own and not llhttp's, which bounds neither the digits of a size nor extensions nor trailers. Refused, all with 400:

* a size that is not 1 to 16 hexadecimal digits, or not below 2^63; space around it; a line without its CR;
* extensions that are malformed, longer than `MAX_LINE` a chunk or `MAX_EXTENSIONS` in all;
* anything but CR LF behind a chunk's data;
* trailers that are no fields, or frame a message, or have more than `MAX_TRAILERS` bytes. Others are thrown away.
"""

from __future__ import annotations

import re
from typing import Final, final

from prefork.errors import ProtocolError

__all__ = ["MAX_EXTENSIONS", "MAX_LINE", "MAX_TRAILERS", "Chunks"]

MAX_LINE: Final = 256  # of a chunk's size and its extensions
MAX_EXTENSIONS: Final = 16_384
MAX_TRAILERS: Final = 8_192

_LARGEST: Final = (1 << 63) - 1

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*)")
_FIELD: Final = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")

_FRAMING: Final = (b"content-length", b"transfer-encoding")

# What comes next.
_SIZE: Final = 0
_DATA: Final = 1
_AFTER_DATA: Final = 2
_TRAILERS: Final = 3
_OVER: Final = 4


@final
class Chunks:
    """Reads one chunked body from a buffer that the caller owns: ``offset`` is how far it has read."""

    offset: int = 0
    piece: bytes = b""
    _state: int = _SIZE
    _left: int = 0
    _extensions: int = 0
    _trailers: int = 0

    @property
    def over(self) -> bool:
        """Whether the last chunk and the trailers have been read."""
        return self._state == _OVER

    def read(self, data: bytes, offset: int) -> bool:
        """Go on at an offset: whether there was some of the body, which is then ``piece``. Raises `ProtocolError`."""
        self.offset = offset
        while True:
            if self._state == _DATA:
                return self._read_data(data)
            if self._state == _OVER or self.offset == len(data):
                return False
            if not (self._read_break(data) if self._state == _AFTER_DATA else self._read_line(data)):
                return False

    def _read_data(self, data: bytes) -> bool:
        start = self.offset
        taken = min(self._left, len(data) - start)
        if not taken:
            return False
        self.piece = data[start : start + taken]
        self.offset = start + taken
        self._left -= taken
        if not self._left:
            self._state = _AFTER_DATA
        return True

    def _read_break(self, data: bytes) -> bool:
        found = data[self.offset : self.offset + 2]
        if found == b"\r\n":
            self.offset += 2
            self._state = _SIZE
            return True
        if found != b"\r":
            raise ProtocolError(f"a chunk's data must be followed by CR LF, found {found!r}")
        return False

    def _read_line(self, data: bytes) -> bool:
        """A size with its extensions, or a trailer; False if its end has not come yet."""
        start = self.offset
        limit = MAX_LINE if self._state == _SIZE else MAX_TRAILERS - self._trailers
        end = data.find(b"\n", start, start + limit)
        if end < 0:
            if len(data) - start >= limit:
                what = "a chunk's size and extensions" if self._state == _SIZE else "the trailers"
                most = MAX_LINE if self._state == _SIZE else MAX_TRAILERS
                raise ProtocolError(f"{what} have {most} bytes or more, fewer are allowed")
            return False
        if data[end - 1] != 0x0D or end == start:
            raise ProtocolError("a line of the chunked coding must end in CR LF, found LF alone")
        line = data[start : end - 1]
        self.offset = end + 1
        if self._state == _SIZE:
            self._open_chunk(line)
        else:
            self._skip_trailer(line)
        return True

    def _open_chunk(self, line: bytes) -> None:
        found = _LINE.fullmatch(line)
        if found is None:
            raise ProtocolError(f"a chunk begins with its size, 1 to 16 hexadecimal digits, found {line[:80]!r}")
        size = int(found[1], 16)
        self._extensions += len(found[2])
        if size > _LARGEST or self._extensions > MAX_EXTENSIONS:
            raise ProtocolError(f"a chunk of {size} bytes, {self._extensions} bytes of extensions: more than allowed")
        self._left = size
        self._state = _DATA if size else _TRAILERS

    def _skip_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _OVER
            return
        self._trailers += len(line) + 2
        if _FIELD.fullmatch(line) is None:
            raise ProtocolError(f"a trailer must be a header field, found {line[:80]!r}")
        if line.partition(b":")[0].lower() in _FRAMING:
            raise ProtocolError(f"what frames a message cannot be in its trailers, found {line[:80]!r}")

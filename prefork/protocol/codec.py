"""What the worker asks of a protocol: bytes in, events out; a response's parts in, bytes out.

A `Codec` is one connection's. Feed what arrived with `Codec.receive` and ask `Codec.next_event` until it says
`NEED_DATA`; what an event carries lies in `Codec.request` or `Codec.piece`. A response is its head, made by
`Codec.encode_head`, and pieces, framed together by `Codec.encode`; what cannot be finished ends with
`Codec.encode_break`. No codec knows a socket or a clock.

What the peer does against its protocol's rules raises `ProtocolError`; the codec is of no use for reading afterwards,
and ``answerable`` says whether there is a request that can still be answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import Final

from prefork.protocol.request import Request

__all__ = ["ABORTED", "BODY", "END_OF_BODY", "NEED_DATA", "REFUSED", "REQUEST", "Codec", "HeadLimits", "plain_text"]

# Events. Plain integers: compiled code compares them in one instruction.
NEED_DATA: Final = 0  # nothing more in what was received so far
REQUEST: Final = 1  # the head is complete: `Codec.request`
BODY: Final = 2  # some of the body: `Codec.piece`, never empty
END_OF_BODY: Final = 3
ABORTED: Final = 4  # the peer wants the request ended; it still expects the end of the response
REFUSED: Final = 5  # a request was refused and the peer keeps nothing open: reply, then close

_FULL_PIECE: Final = 1 << 30


class HeadLimits:
    """How large a request's head may be: bytes of all of it, number of headers; ``max_connections`` for FastCGI."""

    __slots__ = ("max_connections", "max_header_count", "max_header_size")

    def __init__(self, max_header_size: int, max_header_count: int, max_connections: int = 1) -> None:
        self.max_header_size = max_header_size
        self.max_header_count = max_header_count
        self.max_connections = max_connections


class Codec(ABC):
    """The requests of one connection, one after the other, and the response to each."""

    file_room: int = _FULL_PIECE  # how much of a file one `encode_file_header` may announce

    # Not as defaults of the class: interpreted, those are slow to read.
    def __init__(self) -> None:
        self.keep_connection = False  # the peer may send another request
        self.request: Request | None = None
        self.piece: bytes = b""
        self.owes = False  # `take_replies` has what the peer is to have at once, whether the body is asked for or not
        self._data: bytes = b""  # what was received; looked at up to the offset
        self._offset = 0

    @property
    @abstractmethod
    def answerable(self) -> bool:
        """Whether a request is at hand that can be answered, be it with an error."""

    @property
    @abstractmethod
    def body_ended(self) -> bool:
        """Whether nothing more belongs to the request at hand."""

    @property
    def pending(self) -> bool:
        """Whether something was received that was not looked at yet."""
        return self._offset < len(self._data)

    @property
    def overrun(self) -> bool:
        """Whether the peer sent something behind the request that will never be read."""
        return False

    def is_over(self) -> bool:
        """Whether nothing more belongs to the request at hand, and nothing was received behind it."""
        return self.body_ended and not self.pending and not self.overrun

    @property
    def closes_to_end(self) -> bool:
        """Whether the end of the connection is the only end that this response has."""
        return False

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Take what arrived."""

    @abstractmethod
    def next_event(self) -> int:
        """What comes next in the bytes received so far. Raises `ProtocolError`."""

    @abstractmethod
    def release(self) -> None:
        """The request at hand has been answered: what still comes for it is skipped, the next may begin."""

    def take_replies(self) -> bytes:
        """What must be sent to the peer now, once, before more can be expected of it."""
        return b""

    @abstractmethod
    def encode_head(self, status: str, fields: str, length: int, has_body: bool) -> bytes:
        """The response's head, from fields that end in CR LF each; ``length`` is what they say, -1: nothing."""

    @abstractmethod
    def encode(self, head: bytes, pieces: list[bytes], size: int, last: bool) -> list[bytes | memoryview]:
        """The head (once, else empty) and the next ``size`` bytes of the body; with ``last`` also the end."""

    def encode_file_header(self, size: int) -> bytes:  # noqa: ARG002 - for those that need it
        """What precedes ``size`` bytes of the body that are sent by other means."""
        return b""

    def encode_filler(self, size: int) -> bytes:  # noqa: ARG002 - for those that need it
        """What must stand in for bytes that were announced by `encode_file_header` and do not exist."""
        return b""

    def encode_errors(self, text: bytes) -> bytes:  # noqa: ARG002 - for those that need it
        """Text for the proxy's error log, if the protocol has a way to it."""
        return b""

    def encode_break(self) -> bytes:
        """What makes a response that began and will not be finished visibly broken."""
        return b""

    def encode_plain(self, status: int, has_body: bool, fields: str = "") -> list[bytes | memoryview]:
        """A whole response of our own: the status and its name, no details; further fields end in CR LF each."""
        reason = HTTPStatus(status).phrase
        text = plain_text(status)
        fields = f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\n{fields}"
        head = self.encode_head(f"{status} {reason}", fields, len(text), has_body)
        return self.encode(head, [text], len(text), True) if has_body else self.encode(head, [], 0, True)


def plain_text(status: int) -> bytes:
    """The body of a response of our own."""
    return f"{status} {HTTPStatus(status).phrase}\n".encode()

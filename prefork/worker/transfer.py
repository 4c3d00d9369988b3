"""The traffic of one request: its body as it comes, its response as it goes.

Between the WSGI side, which knows headers and pieces, and the connection, which knows bytes. A request is over in one
of three ways: `send` with ``last`` (complete), `break_off` (the proxy must see that it is broken), or the client is
gone (every call raises `ClientDisconnected`, an OSError that an application may handle).
"""

from __future__ import annotations

import time
from typing import Final, final

from prefork.errors import ClientDisconnected, ProtocolError
from prefork.protocol.codec import ABORTED, BODY, NEED_DATA, Codec
from prefork.worker.connection import DRAIN_BYTES, DRAIN_SECONDS, Connection
from prefork.worker.stream import Errors

__all__ = ["BodyLimits", "Transfer"]

_LOOK_EVERY: Final = 0.1  # seconds between two looks for an ABORT while a response streams


@final
class BodyLimits:
    """How large a request's body may be (bytes; -1: any size), and how long a piece of it may take (seconds)."""

    def __init__(self, max_size: int | None, timeout: float) -> None:
        self.max_size = -1 if max_size is None else max_size
        self.timeout = timeout


@final
class Transfer:
    """One request's bytes, both ways.

    ``refusal`` is the HTTP status of the reason why the body was cut off (413: too large, 400: malformed, 408: too
    slow), 0 as long as it was not.
    """

    started: bool = False  # some of the response has been sent
    complete: bool = False  # all of it has
    broken: bool = False  # its end says that it is not complete
    aborted: bool = False
    gone: bool = False
    interrupted: bool = False  # the application was told of a client that left or was cut off
    refusal: int = 0
    own_status: int = 0  # of a response of our own, if that was the answer
    surplus: int = 0  # bytes of body beyond CONTENT_LENGTH, cut off
    _received: int = 0
    _malformed: bool = False
    _held: bytes = b""
    _next_look: float = 0.0

    def __init__(self, connection: Connection, reader: Codec, errors: Errors, body: BodyLimits, length: int) -> None:
        self.connection = connection
        self._reader = reader
        self._errors = errors
        self._limits = body
        self._length = length

    # -- the body

    def read_body(self) -> bytes:
        """The next piece of the body; ``b""`` at its end, which is never waited for beyond CONTENT_LENGTH.

        Raises `ClientDisconnected` when the body ends early, or is cut off because it is too large or malformed.
        """
        if self._received == self._length:
            return b""
        piece = self._held or self._next_piece()
        self._held = b""
        self._received += len(piece)
        if self._received > self._length >= 0:
            self.surplus += self._received - self._length
            piece = piece[: len(piece) - (self._received - self._length)]
            self._received = self._length
        if self._received > self._limits.max_size >= 0:
            raise self._cut_off(413, f"the request's body has more than {self._limits.max_size} bytes (max_body_size)")
        return piece

    def _next_piece(self) -> bytes:
        reader = self._reader
        while True:
            event = self._next_event()
            if event == BODY:
                return reader.piece
            if event == ABORTED:
                raise self._abort()
            if reader.body_ended:
                if self._length > self._received:
                    raise self._cut_off(
                        400, f"the request's body ended after {self._received} of {self._length} bytes (CONTENT_LENGTH)"
                    )
                return b""
            self.connection.allow(self._limits.timeout)
            self._feed()

    def _next_event(self) -> int:
        try:
            return self._reader.next_event()
        except ProtocolError as error:
            self._malformed = True
            raise self._cut_off(error.status, f"the client broke its protocol: {error}") from error

    def _feed(self) -> None:
        self._send_replies()
        try:
            data = self.connection.receive()
        except ClientDisconnected as error:
            if self.connection.timed_out:
                raise self._cut_off(408, str(error)) from error
            self.gone = self.interrupted = True
            raise
        if not data:
            # It may still read what we answer: shutdown(SHUT_WR) looks the same as close(2) from here.
            raise self._cut_off(400, f"the client closed the connection after {self._received} bytes of its body")
        self._reader.receive(data)

    def _cut_off(self, status: int, reason: str) -> ClientDisconnected:
        """The body cannot be had: what to raise into the application, and what to answer unless it does."""
        self.interrupted = True
        self.refusal = status
        return ClientDisconnected(reason)

    def _abort(self) -> ClientDisconnected:
        self.aborted = self.interrupted = True
        return ClientDisconnected("the client aborted the request")

    def _send_replies(self) -> None:
        replies = self._reader.take_replies()
        if replies:
            self._transmit([replies], len(replies))

    # -- the response

    def encode_head(self, status: str, fields: str, length: int, has_body: bool) -> bytes:
        """The response's head as the protocol has it; see `Codec.encode_head`."""
        return self._reader.encode_head(status, fields, length, has_body)

    def send(self, head: bytes, pieces: list[bytes], size: int, last: bool) -> None:
        """Send the head (once, else empty) and ``size`` bytes of the body, the application's errors before them."""
        self._send_buffers(self._reader.encode(head, pieces, size, last), len(head) + size, last)

    def send_plain(self, status: int, has_body: bool) -> None:
        """Send a whole response of our own."""
        self.own_status = status
        buffers = self._reader.encode_plain(status, has_body)
        self._send_buffers(buffers, sum(map(len, buffers)), True)

    def _send_buffers(self, buffers: list[bytes | memoryview], size: int, last: bool) -> None:
        if self._errors.pending:
            text = self._reader.encode_errors(self._errors.take())
            if text:
                buffers.insert(0, text)
                size += len(text)
        self.started = True
        self._transmit(buffers, size)
        self.complete = last

    def send_file(self, head: bytes, descriptor: int, offset: int, count: int) -> int:
        """Send a head and ``count`` bytes of a file as the whole response; returns how many there really were.

        A file that is shorter, or cannot be read to its end, leaves the response to be broken off.
        """
        self.send(head, [], 0, False)
        done = 0
        while done < count:
            room = min(self._reader.file_room, count - done)
            header = self._reader.encode_file_header(room)
            if header:
                self._transmit([header], len(header))
            try:
                sent = self.connection.send_file(descriptor, offset + done, room)
            except ClientDisconnected:
                self.gone = self.interrupted = True
                raise
            except BaseException:  # as in _transmit
                self.gone = True
                raise
            done += sent
            if sent < room:
                filler = self._reader.encode_filler(room - sent)
                self._transmit([filler], len(filler))
                return done
        self.send(b"", [], 0, True)
        return done

    def break_off(self) -> None:
        """End a response that began so that the proxy takes it for broken, which a mere close would not do."""
        self.broken = True
        if not self.gone:
            breaking = self._reader.encode_break()
            if breaking:
                self._transmit([breaking], len(breaking))
            if self._reader.closes_to_end:
                self.connection.spoil_end()

    def _transmit(self, buffers: list[bytes | memoryview], size: int) -> None:
        if self.gone:
            raise ClientDisconnected("the client closed the connection")
        try:
            self.connection.send(buffers, size)
        except ClientDisconnected:
            self.gone = self.interrupted = True
            raise
        except BaseException:
            # A signal handler of the application raised, perhaps in the middle of a record: nothing that is sent
            # from here on could be understood.
            self.gone = True
            raise

    def look(self) -> None:
        """Between two pieces of a response: has the client aborted the request? Looks every 0.1 s at most.

        What comes of the body meanwhile is held until it is asked for; more is not read then.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY
        while not self._held:
            event = self._next_event()
            if event == BODY:
                self._held = self._reader.piece
            elif event == ABORTED:
                raise self._abort()
            elif event == NEED_DATA:
                if self._reader.overrun:
                    return  # there may be no end to it
                self._send_replies()
                try:
                    data = self.connection.receive_now()
                except ClientDisconnected:
                    self.gone = self.interrupted = True
                    raise
                if not data:  # None: nothing new. Nothing more at all: legal, a client may half-close.
                    return
                self._reader.receive(data)

    # -- the end

    def drain(self) -> None:
        """Read what is left of the body, within bounds, so that the peer is not reset before it has the response."""
        connection = self.connection
        if self.gone or self._malformed:
            if not self.gone:
                connection.swallow()
            return
        if self._reader.body_ended or self.skip_body():
            if self._reader.overrun:
                connection.swallow()
            return
        connection.shut_output()
        connection.allow(DRAIN_SECONDS)
        budget = DRAIN_BYTES
        try:
            while budget > 0:
                data = connection.receive()
                if not data:
                    return
                budget -= len(data)
                self._reader.receive(data)
                if self.skip_body():
                    return
        except ClientDisconnected:
            return

    def skip_body(self) -> bool:
        """Throw away what has been received of the body; True if that was all of it."""
        try:
            while not self._reader.body_ended:
                if self._reader.next_event() == NEED_DATA:
                    return False
        except ProtocolError:
            self.gone = True  # what follows cannot be understood, and nothing is owed
        return True

"""The traffic of one request: its body as it comes, its response as it goes.

Between the WSGI side, which knows headers and pieces, and the connection, which knows bytes. A request is over in one
of three ways: `send` with ``last`` (complete), `break_off` (the proxy must see that it is broken), or the client is
gone (every call raises `ClientDisconnected`, an OSError that an application may handle).
"""

from __future__ import annotations

import time
from typing import Final, final

from prefork.errors import ClientDisconnected, ProtocolError
from prefork.policy.pace import Pace
from prefork.protocol.codec import ABORTED, BODY, NEED_DATA, Codec
from prefork.worker.connection import DRAIN_BYTES, DRAIN_SECONDS, Connection
from prefork.worker.stream import Errors
from prefork.worker.tap import Tap

__all__ = ["BodyLimits", "Transfer"]

_LOOK_EVERY: Final = 0.1  # seconds between two looks for an ABORT while a response streams


@final
class BodyLimits:
    """How large a request's body may be (bytes; -1: any size), and how slow (see `Pace`)."""

    def __init__(self, max_size: int | None, timeout: float, min_rate: int = 0) -> None:
        self.max_size = -1 if max_size is None else max_size
        self.timeout = timeout
        self.min_rate = min_rate


@final
class Transfer:
    """One request's bytes, both ways.

    ``refusal`` is the HTTP status of the reason why the body was cut off (413: too large, 400: malformed, 408: too
    slow), 0 as long as it was not.
    """

    __slots__ = (
        "_errors",
        "_held",
        "_length",
        "_limits",
        "_malformed",
        "_next_look",
        "_pace",
        "aborted",
        "broken",
        "complete",
        "connection",
        "gone",
        "interrupted",
        "own_status",
        "reader",
        "received",
        "refusal",
        "started",
        "surplus",
        "tap",
    )

    def __init__(self, connection: Connection, reader: Codec, errors: Errors, body: BodyLimits, length: int) -> None:
        self.connection = connection
        self.reader = reader
        self.started = False  # some of the response has been sent
        self.complete = False  # all of it has
        self.broken = False  # its end says that it is not complete
        self.aborted = False
        self.gone = False
        self.interrupted = False  # the application was told of a client that left or was cut off
        self.refusal = 0
        self.own_status = 0  # of a response of our own, if that was the answer
        self.surplus = 0  # bytes of body beyond CONTENT_LENGTH, cut off
        self.tap: Tap | None = None  # where somebody looks
        self.received = 0  # bytes of the body that were taken so far
        self._errors = errors
        self._limits = body
        self._length = length
        self._malformed = False
        self._held: bytes = b""
        self._pace: Pace | None = None  # of the body, once more of it was asked for
        self._next_look = 0.0

    # -- the body

    def read_body(self) -> bytes:
        """The next piece of the body; ``b""`` at its end, which is never waited for beyond CONTENT_LENGTH.

        Raises `ClientDisconnected` when the body ends early, or is cut off because it is too large, too slow or
        malformed.
        """
        if self.received == self._length:
            return b""
        piece = self._held or self._next_piece()
        self._held = b""
        self.received += len(piece)
        if self.received > self._length >= 0:
            self.surplus += self.received - self._length
            piece = piece[: len(piece) - (self.received - self._length)]
            self.received = self._length
        if self.tap is not None:
            self.tap.take(piece, not piece or self.received == self._length)
        if self.received > self._limits.max_size >= 0:
            raise self._cut_off(413, f"the request's body has more than {self._limits.max_size} bytes (max_body_size)")
        return piece

    def _next_piece(self) -> bytes:
        reader = self.reader
        while True:
            event = self._next_event()
            if event == BODY:
                return reader.piece
            if event == ABORTED:
                raise self._abort()
            if reader.body_ended:
                if self._length > self.received:
                    raise self._cut_off(
                        400, f"the request's body ended after {self.received} of {self._length} bytes (CONTENT_LENGTH)"
                    )
                return b""
            self._feed()

    def _next_event(self) -> int:
        try:
            return self.reader.next_event()
        except ProtocolError as error:
            self._malformed = True
            raise self._cut_off(error.status, f"the client broke its protocol: {error}") from error

    def _feed(self) -> None:
        self._send_replies()
        pace = self._pace
        if pace is None:
            pace = self._pace = Pace(self._limits.timeout, self._limits.min_rate)
        try:
            data = self.connection.receive_body(pace)
        except ClientDisconnected as error:
            if self.connection.timed_out:
                raise self._cut_off(408, str(error)) from error
            self.gone = self.interrupted = True
            raise
        if not data:
            # It may still read what we answer: shutdown(SHUT_WR) looks the same as close(2) from here.
            raise self._cut_off(400, f"the client closed the connection after {self.received} bytes of its body")
        self.reader.receive(data)

    def _cut_off(self, status: int, reason: str) -> ClientDisconnected:
        """The body cannot be had: what to raise into the application, and what to answer unless it does."""
        self.interrupted = True
        self.refusal = status
        return ClientDisconnected(reason)

    def _abort(self) -> ClientDisconnected:
        self.aborted = self.interrupted = True
        return ClientDisconnected("the client aborted the request")

    def _send_replies(self) -> None:
        replies = self.reader.take_replies()
        if replies:
            self._transmit([replies], len(replies))

    # -- the response

    def send(self, head: bytes, pieces: list[bytes], size: int, last: bool) -> None:
        """Send the head (once, else empty) and ``size`` bytes of the body, the application's errors before them."""
        if self.tap is not None:
            self.tap.respond(head, pieces, size, last)
        buffers = self.reader.encode(head, pieces, size, last)
        size += len(head)
        if self._errors.pending:
            size += self._add_errors(buffers)
        self.started = True
        self._transmit(buffers, size)
        self.complete = last

    def send_plain(self, status: int, has_body: bool, fields: str = "") -> None:
        """Send a whole response of our own; see `Codec.encode_plain`."""
        self.own_status = status
        buffers = self.reader.encode_plain(status, has_body, fields)
        if self.tap is not None:
            self.tap.respond_plain(status, has_body)
        size = sum(map(len, buffers))
        if self._errors.pending:
            size += self._add_errors(buffers)
        self.started = True
        self._transmit(buffers, size)
        self.complete = True

    def _add_errors(self, buffers: list[bytes | memoryview]) -> int:
        """Put what the application wrote to its errors before a piece of the response; returns how many bytes."""
        text = self.reader.encode_errors(self._errors.take())
        if text:
            buffers.insert(0, text)
        return len(text)

    def send_file(self, head: bytes, descriptor: int, offset: int, count: int) -> int:
        """Send a head and ``count`` bytes of a file as the whole response; returns how many there really were.

        A file that is shorter, or cannot be read to its end, leaves the response to be broken off.
        """
        self.send(head, [], 0, False)
        done = 0
        while done < count:
            room = min(self.reader.file_room, count - done)
            header = self.reader.encode_file_header(room)
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
            if self.tap is not None:
                self.tap.respond_file(descriptor, offset, sent, done == count)
            if sent < room:
                filler = self.reader.encode_filler(room - sent)
                self._transmit([filler], len(filler))
                return done
        self.send(b"", [], 0, True)
        return done

    def break_off(self) -> None:
        """End a response that began so that the proxy takes it for broken, which a mere close would not do."""
        self.broken = True
        if not self.gone:
            breaking = self.reader.encode_break()
            if breaking:
                self._transmit([breaking], len(breaking))
            if self.reader.closes_to_end:
                self.connection.spoil_end()
            # Over, also for a ``write`` that the application kept: the next connection may have this number.
            self.gone = True

    def _transmit(self, buffers: list[bytes | memoryview], size: int) -> None:
        if self.gone:
            raise ClientDisconnected("the client closed the connection")
        try:
            self.connection.send(buffers, size)
        except ClientDisconnected:
            self.gone = self.interrupted = True
            self.refusal = 0  # whatever was wrong with the body, this is what ended the request
            if self.connection.stalled:
                self._spoil()
            raise
        except BaseException:
            # The request's time is over, or a signal handler of the application raised, perhaps in the middle of a
            # record: nothing that is sent from here on could be understood.
            self.gone = True
            self._spoil()
            raise

    def _spoil(self) -> None:
        """A client that only reads slowly must not take what it has for the whole response."""
        if self.reader.closes_to_end:
            self.connection.spoil_end()

    def look(self) -> None:
        """Between two pieces of a response: has the client aborted the request? Looks every 0.1 s at most.

        What comes of the body meanwhile is held until it is asked for; more is not read then.
        """
        if self.gone:  # also for a ``write`` that the application kept: what comes now may be another connection's
            raise ClientDisconnected("the client closed the connection")
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY
        while not self._held:
            event = self._next_event()
            if event == BODY:
                self._held = self.reader.piece
            elif event == ABORTED:
                raise self._abort()
            elif event == NEED_DATA:
                if self.reader.overrun:
                    return  # there may be no end to it
                self._send_replies()
                try:
                    data = self.connection.receive_now()
                except ClientDisconnected:
                    self.gone = self.interrupted = True
                    raise
                if not data:  # None: nothing new. Nothing more at all: legal, a client may half-close.
                    return
                self.reader.receive(data)

    # -- the end

    def tell_end(self) -> None:
        """Tell who looks how the request ended."""
        if self.tap is None:
            return
        if self.connection.overdue is not None:
            how = "timed out"
        elif self.aborted or (self.gone and not self.broken):
            how = "client left"
        elif self.broken or not self.complete:
            how = "broken off"
        else:
            how = "complete"
        self.tap.end(how)

    def drain(self) -> None:
        """Read what is left of the body, within bounds, so that the peer is not reset before it has the response."""
        connection = self.connection
        if self.gone or self._malformed:
            if not self.gone:
                connection.swallow()
            return
        if self.skip_body():
            if self.reader.overrun:
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
                self.reader.receive(data)
                if self._skip():
                    return
        except ClientDisconnected:
            return

    def skip_body(self) -> bool:
        """Throw away what is there of the body, and answer what was asked besides; True if that was all of the body."""
        ended = self._skip()
        if self.reader.owes and not self.gone:
            try:
                self._send_replies()
            except ClientDisconnected:
                return True
        return ended

    def _skip(self) -> bool:
        reader = self.reader
        try:
            while not reader.body_ended or reader.pending:
                if reader.next_event() == NEED_DATA:
                    return reader.body_ended
        except ProtocolError:
            self.gone = True  # what follows cannot be understood, and nothing is owed
        return True

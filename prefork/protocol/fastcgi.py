"""FastCGI 1.0, the application's side: bytes in, requests out. No socket, no clock.

Feed what arrived with `Reader.receive` and ask `Reader.next_event` until it says `NEED_DATA`; what an event carries
lies in `Reader.request` or `Reader.piece`. What must be answered at once (management records, refused requests) piles
up in `Reader.take_replies`.

* One request at a time: a second id is answered CANT_MPX_CONN, another role than responder UNKNOWN_ROLE, and their
  records are skipped. A connection may carry requests one after the other (KEEP_CONN).
* Every bound is a named constant or a `HeadLimits`: the parameters' bytes and number, a name's size, and how many
  records, bytes and replies a peer may have that belong to no request. Nothing is allocated for a declared length.
* Content is passed on as it arrives; a peer that sends single bytes costs no more than linear time.

Anything that the specification does not allow raises `ProtocolError`, and the reader is of no use afterwards; its
``identifier`` still says which request, if any, can be answered.
"""

from __future__ import annotations

from typing import Final, final

from prefork.errors import ProtocolError
from prefork.protocol import fastcgi_records as records
from prefork.protocol.codec import ABORTED, BODY, END_OF_BODY, NEED_DATA, REFUSED, REQUEST, Codec, HeadLimits
from prefork.protocol.fastcgi_params import CGI_VARIABLES, Decoder
from prefork.protocol.request import finish

__all__ = ["MAX_IGNORED_BYTES", "MAX_IGNORED_RECORDS", "MAX_MANAGEMENT_CONTENT", "MAX_REPLIES", "Reader"]

# Records and bytes that belong to no request: ids that were refused or are over, padding-only and DATA records.
MAX_IGNORED_RECORDS: Final = 1_024
MAX_IGNORED_BYTES: Final = 1_048_576
# Replies to one peer between two of our responses; HAProxy sends one GET_VALUES a connection.
MAX_REPLIES: Final = 64
# The three names of GET_VALUES need 45 bytes.
MAX_MANAGEMENT_CONTENT: Final = 1_024

# In what nginx begins with: where the lengths of its parameters stand, and the parameters; the size of what follows.
_LENGTHS_AT: Final = 20
_HEAD_AT: Final = 24
_ENDS_SIZE: Final = 16

# What is done with the content of the record at hand.
_SKIP: Final = 0
_HEAD: Final = 1
_PIECE: Final = 2
_WHOLE: Final = 3

# How far the request at hand has come.
_NONE: Final = 0
_IN_HEAD: Final = 1
_IN_BODY: Final = 2
_ENDED: Final = 3


@final
class Reader(Codec):
    """The requests of one connection, one after the other.

    ``decoder`` is for all connections of a worker, and has its own limit; by default one that knows nothing yet.
    """

    file_room: int = records.FULL_RECORD

    def __init__(self, limits: HeadLimits, decoder: Decoder | None = None) -> None:
        super().__init__()
        self.identifier = 0  # of the request at hand; 0 when there is none
        self._limits = limits
        self._decoder = Decoder(limits.max_header_count + CGI_VARIABLES) if decoder is None else decoder
        self._phase: int = _NONE
        self._end_due = False  # the end of the body was taken, and not told yet
        self._use: int = _SKIP
        self._content = 0  # bytes of the record at hand still to come
        self._padding = 0
        self._kind = 0
        self._record_identifier = 0
        self._head: bytes = b""
        self._head_parts: bytearray | None = None
        self._whole: bytes = b""
        self._ignored_records = 0
        self._ignored_bytes = 0
        self._replies: bytes = b""
        self._reply_count = 0
        self._is_as_new = True  # it took nothing but usual heads

    def renew(self) -> bool:
        """Let go of this connection; whether the next one may have this reader, too."""
        self.release()
        self.keep_connection = False
        self._data = b""
        self._offset = 0
        return self._is_as_new

    @property
    def answerable(self) -> bool:
        """Whether a request has begun."""
        return self.identifier != 0

    @property
    def body_ended(self) -> bool:
        """Whether nothing more belongs to the request at hand."""
        return self._phase == _ENDED or self._phase == _NONE

    def is_over(self) -> bool:
        """Whether nothing more belongs to the request at hand, and nothing was received behind it."""
        return (self._phase == _ENDED or self._phase == _NONE) and self._offset >= len(self._data)

    def receive(self, data: bytes) -> None:
        """Take what arrived."""
        if self._offset < len(self._data):
            data = self._data[self._offset :] + data
        self._data = data
        self._offset = 0

    def take_replies(self) -> bytes:
        """What must be sent to the peer now, once."""
        replies = self._replies
        self._replies = b""
        self.owes = False
        return replies

    def release(self) -> None:
        """The request at hand has been answered: what still comes for it is skipped, the next may begin."""
        self._phase = _NONE
        self.identifier = 0
        self.request = None
        self._end_due = False
        self._reply_count = 0
        if self._use == _PIECE:
            self._use = _SKIP

    def next_event(self) -> int:
        """What comes next in the bytes received so far."""
        if self._phase == _NONE:
            if self._take_usual_head():
                return REQUEST
        elif self._end_due:
            self._end_due = False
            return END_OF_BODY
        while True:
            if self._content or self._padding:
                event = self._read_content()
                if event != NEED_DATA:
                    return event
                if self._content or self._padding:
                    return NEED_DATA
            data = self._data
            offset = self._offset
            if len(data) - offset < records.HEADER_SIZE:
                return NEED_DATA
            self._is_as_new = False
            version, kind, identifier, content, padding = records.HEADER.unpack_from(data, offset)
            if version != records.VERSION:
                raise ProtocolError(f"a FastCGI record begins with version 1, found byte {version}")
            self._offset = offset + records.HEADER_SIZE
            self._content = content
            self._padding = padding
            event = self._open_record(kind, identifier, content)
            if event != NEED_DATA:
                return event

    def _take_usual_head(self) -> bool:
        """The short way for what nginx sends: a head that arrived as a whole, in three records, with id 1.

        Leaves the reader as the long way does; or untouched, when the head is any other.
        """
        data = self._data
        begin = data[:_LENGTHS_AT]
        keep = begin != records.BEGINNING_1
        if keep and begin != records.BEGINNING_1_KEEP:
            return False
        if not self._is_as_new or self._offset or len(data) < _HEAD_AT:
            return False
        lengths: tuple[int, int] = records.LENGTHS.unpack_from(data, _LENGTHS_AT)
        stop = _HEAD_AT + lengths[0]
        after = stop + lengths[1]  # padding
        end = after + _ENDS_SIZE
        no_body = data[after:end] == records.ENDS_1
        if not no_body:
            end = after + records.HEADER_SIZE
            if data[after:end] != records.END_OF_PARAMS_1:
                return False
        if not 0 < lengths[0] <= self._limits.max_header_size:
            return False
        self.identifier = 1
        self.keep_connection = keep
        self._phase = _IN_HEAD
        self._offset = after + records.HEADER_SIZE
        self.request = finish(self._decoder.decode(data[_HEAD_AT:stop]))
        if no_body:
            self._phase = _ENDED
            self._end_due = True
            self._offset = end
        else:
            self._phase = _IN_BODY
        return True

    def _open_record(self, kind: int, identifier: int, content: int) -> int:
        """Decide by a record's header what becomes of its content; an empty record may be an event already."""
        if identifier == 0 or kind == records.BEGIN_REQUEST:
            self._open_whole(kind, identifier, content)
            return NEED_DATA
        if identifier != self.identifier:
            self._ignore(content)
            return NEED_DATA
        if kind == records.PARAMS:
            return self._open_parameters(content)
        if kind == records.STDIN:
            return self._open_body(content)
        if kind == records.ABORT_REQUEST:
            self._use = _SKIP
            return self._abort()
        if kind == records.DATA:  # of the filter role; harmless for a responder
            self._ignore(content)
            return NEED_DATA
        raise ProtocolError(f"a client sends no FastCGI records of type {kind}")

    def _open_parameters(self, content: int) -> int:
        if self._phase != _IN_HEAD:
            if content:
                raise ProtocolError("PARAMS after the end of PARAMS")
            self._ignore(0)  # nginx ends an empty PARAMS stream twice
            return NEED_DATA
        if content == 0:
            return self._finish_head()
        parts = self._head_parts
        so_far = len(self._head) if parts is None else len(parts)
        if so_far + content > self._limits.max_header_size:
            raise ProtocolError(
                f"the request's head has more than {so_far + content - 1} bytes,"
                f" {self._limits.max_header_size} are allowed (max_header_size)",
                431,
            )
        self._use = _HEAD
        return NEED_DATA

    def _finish_head(self) -> int:
        parts = self._head_parts
        data = self._head if parts is None else bytes(parts)
        self._head = b""
        self._head_parts = None
        self.request = finish(self._decoder.decode(data))
        self._phase = _IN_BODY
        return REQUEST

    def _open_body(self, content: int) -> int:
        if self._phase == _IN_BODY:
            if content == 0:
                self._phase = _ENDED
                return END_OF_BODY
            self._use = _PIECE
            return NEED_DATA
        if self._phase == _IN_HEAD:
            raise ProtocolError("STDIN before the end of PARAMS")
        if content:
            raise ProtocolError("STDIN after the end of STDIN")
        self._ignore(0)
        return NEED_DATA

    def _abort(self) -> int:
        if self._phase == _IN_HEAD:  # no application knows of it yet: answer for ourselves
            self._reply(records.encode_end_request(self.identifier, records.REQUEST_COMPLETE))
            return self._forget()
        self._phase = _ENDED
        return ABORTED

    def _forget(self) -> int:
        """The request at hand ended before its head did."""
        self._head = b""
        self._head_parts = None
        self._phase = _NONE
        self.identifier = 0
        return NEED_DATA if self.keep_connection else REFUSED

    def _open_whole(self, kind: int, identifier: int, content: int) -> None:
        """A record that is looked at when all of it is there: BEGIN_REQUEST and management records."""
        if identifier == 0 and kind == records.BEGIN_REQUEST:
            raise ProtocolError("BEGIN_REQUEST needs an id from 1 to 65535, found 0")
        if kind == records.BEGIN_REQUEST and content != 8:
            raise ProtocolError(f"BEGIN_REQUEST has 8 bytes, found {content}")
        if content > MAX_MANAGEMENT_CONTENT:
            raise ProtocolError(f"a management record has {content} bytes, {MAX_MANAGEMENT_CONTENT} are allowed")
        self._kind = kind
        self._record_identifier = identifier
        self._use = _WHOLE
        self._whole = b""
        if content == 0:
            self._manage(kind, b"")

    def _ignore(self, content: int) -> None:
        self._use = _SKIP
        self._ignored_records += 1
        self._ignored_bytes += content
        if self._ignored_records > MAX_IGNORED_RECORDS or self._ignored_bytes > MAX_IGNORED_BYTES:
            raise ProtocolError(
                f"{self._ignored_records} records with {self._ignored_bytes} bytes belong to no request;"
                f" {MAX_IGNORED_RECORDS} and {MAX_IGNORED_BYTES} are allowed"
            )

    def _read_content(self) -> int:
        """Use what is there of the record at hand, content and then padding."""
        available = len(self._data) - self._offset
        taken = min(self._content, available)
        if taken:
            start = self._offset
            self._offset = start + taken
            self._content -= taken
            if self._use != _SKIP:
                event = self._use_content(self._data[start : start + taken])
                if event != NEED_DATA:
                    return event
            available -= taken
        if self._content == 0 and self._padding:
            taken = min(self._padding, available)
            self._offset += taken
            self._padding -= taken
        return NEED_DATA

    def _use_content(self, content: bytes) -> int:
        if self._use == _HEAD:
            if self._head_parts is not None:
                self._head_parts += content
            elif self._head:
                self._head_parts = bytearray(self._head)
                self._head_parts += content
            else:
                self._head = content
            return NEED_DATA
        if self._use == _PIECE:
            self.piece = content
            return BODY
        self._whole += content  # at most MAX_MANAGEMENT_CONTENT
        if self._content:
            return NEED_DATA
        if self._kind == records.BEGIN_REQUEST:
            return self._begin(self._record_identifier, self._whole)
        self._manage(self._kind, self._whole)
        return NEED_DATA

    def _begin(self, identifier: int, body: bytes) -> int:
        if identifier == self.identifier:
            raise ProtocolError(f"BEGIN_REQUEST for id {identifier}, whose request has not ended")
        if self.identifier:
            self._reply(records.encode_end_request(identifier, records.CANT_MPX_CONN))
            return NEED_DATA
        self.keep_connection = bool(body[2] & records.KEEP_CONN)
        if body[0] << 8 | body[1] != records.RESPONDER:
            self._reply(records.encode_end_request(identifier, records.UNKNOWN_ROLE))
            return NEED_DATA if self.keep_connection else REFUSED
        self.identifier = identifier
        self._phase = _IN_HEAD
        return NEED_DATA

    def _manage(self, kind: int, content: bytes) -> None:
        if kind != records.GET_VALUES:
            self._reply(records.encode_unknown_type(kind))
            return
        limit = str(self._limits.max_connections).encode()
        values = {b"FCGI_MAX_CONNS": limit, b"FCGI_MAX_REQS": limit, b"FCGI_MPXS_CONNS": b"0"}
        self._reply(records.encode_values_result(content, values))

    def _reply(self, reply: bytes) -> None:
        self._reply_count += 1
        if self._reply_count > MAX_REPLIES:
            raise ProtocolError(f"the peer asks for more than {MAX_REPLIES} replies besides its request")
        self._replies += reply
        self.owes = True

    def encode_head(self, status: str, fields: str, length: int, has_body: bool) -> bytes:  # noqa: ARG002
        """A CGI head: ``Status`` (nginx ignores an HTTP status line) and the fields. The length is not its affair."""
        return f"Status: {status}\r\n{fields}\r\n".encode("latin-1")

    def encode(self, head: bytes, pieces: list[bytes], size: int, last: bool) -> list[bytes | memoryview]:
        """The next of the response in records; with ``last`` also what ends it."""
        size += len(head)
        buffers: list[bytes | memoryview]
        if self.identifier == 1 and 0 < size <= records.FULL_RECORD:
            buffers = [records.HEADER_1.pack(records.STDOUT_1, size), head, *pieces]
            if last:
                buffers.append(records.ENDING_1_KEEP if self.keep_connection else records.ENDING_1)
            return buffers
        buffers = records.frame(records.STDOUT, self.identifier, [head, *pieces] if head else pieces, size)
        if last:
            buffers.append(records.ending(self.identifier, self.keep_connection))
        return buffers

    def encode_file_header(self, size: int) -> bytes:
        """The header of a record that the file fills."""
        return records.encode_header(records.STDOUT, self.identifier, size)

    def encode_filler(self, size: int) -> bytes:
        """Zeros: the record's header is out, and what follows must stay readable."""
        return bytes(size)

    def encode_errors(self, text: bytes) -> bytes:
        """STDERR records."""
        return records.encode_stream(records.STDERR, self.identifier, text)

    def encode_break(self) -> bytes:
        """A record that no FastCGI client takes."""
        return records.BROKEN

"""A worker's end of a tap: what passes over its connections, told to whoever looks (`prefork.system.tap`).

Switched on by a byte of the control page, which is looked at once a request; nothing here runs before. A message is
one object of JSON, sent if there is room for it and else counted: the next that fits says how many are missing.
Secrets are masked before they leave the worker, bodies are told only where they are asked for, and the byte is looked
at again for each message, because the one who looks may be another by now.

A worker's messages arrive in its order, and those of different workers as they are written. An answer is told when it
has been sent and its end is known: what its client does next, another worker may have told before.

What a message may say, by ``what``:

* all: ``time`` (Unix seconds), ``slot``, ``lost`` (messages before this one), ``peer`` ([pid, uid, gid], or address
  and port); all but some that were refused: ``number`` (of the request, in its slot), ``id``, ``method``, ``uri``
* ``request``: it begins; ``protocol``, ``connection`` (requests on one have the same), ``fields`` (names as in an
  environ), ``length`` of its body, ``waited`` (seconds before)
* ``body``: the beginning of it was read; ``text`` (a byte a character), ``bytes`` so far, ``whole``
* ``head``: a response that goes on; ``status``, ``fields``
* ``answer``: it is over; the same unless a ``head`` has said it, ``own`` (a response of the server's), ``bytes``,
  ``text``, ``whole``, ``read`` (bytes of the request's body), ``seconds``, ``end``, ``failure`` (the application's
  exception)
* ``refused``: it was not run; ``status`` (empty: nothing was answered), ``reason``
"""

from __future__ import annotations

import json
import os
import socket
import time
from http import HTTPStatus
from typing import Any, Final, final

from prefork.policy.masking import mask_body, mask_field, mask_query
from prefork.protocol import fastcgi
from prefork.protocol.codec import Codec, plain_text
from prefork.protocol.request import Request
from prefork.system.peers import unpack_peer
from prefork.system.scoreboard import Slot
from prefork.system.tap import BODIES, LARGEST_MESSAGE, UNMASKED
from prefork.worker.connection import Connection

__all__ = ["EXCERPT", "Tap"]

EXCERPT: Final = 4_096
"""Bytes of a body that are told."""

_LONGEST_VALUE: Final = 2_048  # characters
_ALL_FIELDS: Final = 24_000

_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


@final
class Tap:
    """One worker's, for one request after the other. ``failure`` is what the application at hand ended in."""

    def __init__(self, slot: Slot, descriptor: int) -> None:
        self.failure = ""
        self._slot = slot
        self._descriptor = descriptor
        self._inode = _inode_of(descriptor)
        self._socket: socket.socket | None = None
        self._lost = 0
        self._request: Request | None = None
        self._request_id = ""
        self._peer: Any = None
        self._began = 0.0
        self._read = 0
        self._body = b""
        self._body_told = False
        self._status = ""
        self._fields: list[str] = []
        self._head_told = False
        self._own = False
        self._sent = 0
        self._text = b""

    def close(self) -> None:
        """Let go of the writing end, in a process that the application forked."""
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self._descriptor = -1

    # -- one request

    def begin(
        self, connection: Connection, reader: Codec, request: Request, request_id: str, began: float, waited: float
    ) -> None:
        """A request begins; ``began`` is monotonic, ``waited`` negative if unknown."""
        self.failure = ""
        self._request = request
        self._request_id = request_id
        self._began = began
        self._read = self._sent = 0
        self._body = self._text = b""
        self._body_told = self._head_told = self._own = False
        self._status = ""
        self._fields = []
        self._peer = unpack_peer(connection.ask_peer())
        message = self._message("request")
        message["connection"] = connection.serial
        if request.content_length >= 0:
            message["length"] = request.content_length
        if waited >= 0.0:
            message["waited"] = round(waited, 6)
        self._describe(message, reader, request)
        self._send(message)

    def take(self, piece: bytes, is_last: bool) -> None:
        """The application read a piece of the body, perhaps empty."""
        self._read += len(piece)
        if self._body_told or not self._slot.tap & BODIES:
            return
        if len(self._body) < EXCERPT:
            self._body += piece[: EXCERPT - len(self._body)]
        if is_last or len(self._body) == EXCERPT:
            self._tell_body(is_last)

    def _tell_body(self, is_whole: bool) -> None:
        self._body_told = True
        if self._body:
            message = self._message("body")
            message["bytes"] = self._read
            message["whole"] = is_whole and len(self._body) == self._read
            message["text"] = self._body
            self._send(message)
            self._body = b""

    def respond(self, head: bytes, pieces: list[bytes], size: int, is_last: bool) -> None:
        """The next of the response is sent: its head (once, else empty) and so many bytes of its body."""
        if head:
            self._take_head(head)
        self._sent += size
        if len(self._text) < EXCERPT and self._slot.tap & BODIES:
            for piece in pieces:
                self._text += piece[: EXCERPT - len(self._text)]
        if not is_last and size:
            self._tell_head()

    def respond_file(self, descriptor: int, offset: int, size: int, is_last: bool) -> None:
        """So much of a file was sent as the next of the response."""
        if not self._sent and self._slot.tap & BODIES:
            try:
                self._text = os.pread(descriptor, min(size, EXCERPT), offset)
            except OSError:
                pass  # it could be sent, but not read: its size is told
        self._sent += size
        if not is_last:
            self._tell_head()

    def respond_plain(self, status: int, has_body: bool) -> None:
        """A response of our own is sent."""
        self._status = _spell(status)
        self._own = True
        self._sent = len(plain_text(status)) if has_body else 0

    def _take_head(self, head: bytes) -> None:
        first, *fields = head.decode("latin-1").split("\r\n")
        self._status = first.partition(" ")[2]  # behind "Status:", or "HTTP/1.1"
        self._fields = [field for field in fields if field]

    def _tell_head(self) -> None:
        if not self._head_told:
            self._head_told = True
            message = self._message("head")
            self._describe_head(message)
            self._send(message)

    def end(self, how: str) -> None:
        """The request is over."""
        if not self._body_told:
            self._tell_body(False)
        message = self._message("answer")
        if not self._head_told:
            self._describe_head(message)
        message["own"] = self._own
        message["bytes"] = self._sent
        if self._text:
            message["text"] = self._text
            message["whole"] = len(self._text) == self._sent
        message["read"] = self._read
        message["seconds"] = round(time.monotonic() - self._began, 6)
        message["end"] = how
        if self.failure:
            message["failure"] = self.failure
        self._send(message)
        self._request = None
        self._text = b""

    # -- what is no request, or is not run

    def refuse(self, connection: Connection, status: int, reason: str) -> None:
        """Something came that was no request, or not yet one; ``status`` is 0 where nothing is answered."""
        if self._slot.tap:
            self._request = None
            self._peer = unpack_peer(connection.ask_peer())
            self._send_refusal(self._message("refused"), status, reason)

    def turn_away(
        self, connection: Connection, reader: Codec, request: Request, request_id: str, status: int, reason: str
    ) -> None:
        """A request is not run."""
        if self._slot.tap:
            self._request = request
            self._request_id = request_id
            self._peer = unpack_peer(connection.ask_peer())
            message = self._message("refused")
            self._describe(message, reader, request)
            self._send_refusal(message, status, reason)
            self._request = None

    def _send_refusal(self, message: dict[str, Any], status: int, reason: str) -> None:
        message["status"] = _spell(status) if status else ""
        message["reason"] = mask_query(reason[:_LONGEST_VALUE])
        self._send(message)

    # -- messages

    def _message(self, what: str) -> dict[str, Any]:
        message: dict[str, Any] = {"what": what, "time": time.time(), "slot": self._slot.number, "peer": self._peer}
        request = self._request
        if request is not None:
            message["number"] = self._slot.requests
            message["id"] = self._request_id
            message["method"] = request.method[:_LONGEST_VALUE]
            message["uri"] = self._masked_uri(request.uri)
        return message

    def _masked_uri(self, uri: str) -> str:
        uri = _cut(uri)
        return uri if self._slot.tap & UNMASKED else mask_query(uri)

    def _describe(self, message: dict[str, Any], reader: Codec, request: Request) -> None:
        """Add the request's parameters; of HTTP only the headers, which alone were sent."""
        is_fastcgi = isinstance(reader, fastcgi.Reader)
        message["protocol"] = "fastcgi" if is_fastcgi else "http"
        found: list[tuple[str, str]] = []
        for name, value in request.environ.items():
            if type(value) is str and "." not in name and (is_fastcgi or _is_header(name)):
                found.append((name, value))
        self._put_fields(message, found)

    def _describe_head(self, message: dict[str, Any]) -> None:
        """Add the response's status and headers."""
        message["status"] = self._status
        found: list[tuple[str, str]] = []
        for field in self._fields:
            name, _, value = field.partition(":")
            found.append((name, value.strip()))
        self._put_fields(message, found)

    def _put_fields(self, message: dict[str, Any], found: list[tuple[str, str]]) -> None:
        unmasked = self._slot.tap & UNMASKED != 0
        fields: list[list[str]] = []
        room = _ALL_FIELDS
        for whole_name, whole_value in found:
            name, value = _cut(whole_name), _cut(whole_value)
            room -= len(name) + len(value)
            if room < 0:
                break
            fields.append([name, value if unmasked else mask_field(name, value)])
        message["fields"] = fields
        if len(fields) < len(found):
            message["left_out"] = len(found) - len(fields)

    def _send(self, message: dict[str, Any]) -> None:
        flags = self._slot.tap
        if not flags:
            return  # nobody looks any more
        body: Any = message.get("text")
        if body is not None:
            text: str = body.decode("latin-1")
            message["text"] = text if flags & UNMASKED else mask_body(text)
        if self._lost:
            message["lost"] = self._lost
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(data) > LARGEST_MESSAGE:  # of control characters, which take six bytes each
            message["left_out"] = len(message.get("fields", ()))
            message["fields"] = []
            message.pop("text", None)
            data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        try:
            self._writing_end().send(data, _FLAGS)
            self._lost = 0
        except OSError:  # there is no room, or nobody who reads, or the application closed our end
            self._lost += 1

    def _writing_end(self) -> socket.socket:
        """Ours. Raises OSError where the application closed its number: another file may have that now."""
        if self._inode == 0 or _inode_of(self._descriptor) != self._inode:
            raise OSError("the application closed it")
        if self._socket is None:
            self._socket = socket.socket(fileno=self._descriptor)
            self._socket.settimeout(None)
        return self._socket


def _inode_of(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0  # the application has closed it


def _is_header(name: str) -> bool:
    return name.startswith("HTTP_") or name == "CONTENT_TYPE" or name == "CONTENT_LENGTH"


def _spell(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"

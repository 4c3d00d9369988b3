"""HTTP/1.0 and HTTP/1.1, the origin server's side (RFC 9112): bytes in, requests out. No socket, no clock.

llhttp (by httptools, strict) judges the grammar of a head; what it approves is then taken apart here, where lines end
in CR LF, names are tokens and nothing hides a control character. Bodies are framed here as well. Refused besides:

* 400 whatever leaves open where a message ends: Transfer-Encoding beside Content-Length, in HTTP/1.0, or other than one
  ``chunked`` (501 if that is its last); Content-Length repeated or other than digits. Host missing from HTTP/1.1,
  repeated, or no host. A request line with more than two spaces. More than one empty line before it. A target that is
  neither a path nor an http URL (``*`` for OPTIONS alone, no CONNECT); a path with NUL in it.
* 505 versions other than 1.0 and 1.1; 501 methods that llhttp does not know; 414 and 431 heads that are too large.

One request a connection: the answer always says ``Connection: close``, and what follows the request is never looked
at. Names with an underscore are dropped, because they would pass for ones with a hyphen; so is Proxy (httpoxy).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, final

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from prefork.errors import ProtocolError
from prefork.protocol.chunked import Chunks
from prefork.protocol.codec import BODY, END_OF_BODY, NEED_DATA, REQUEST, Codec, HeadLimits
from prefork.protocol.http1_fields import believe_proxy, read_fields, set_target, split_host
from prefork.protocol.request import Request

__all__ = ["CONTINUE", "Origin", "Reader"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_LAST_CHUNK: Final = b"0\r\n\r\n"
_END_OF_HEAD: Final = b"\r\n\r\n"
# llhttp's words for a version that it does not know, and for the beginning of HTTP/2.
_WRONG_VERSION: Final = ("Invalid HTTP version", "Pause on PRI/Upgrade")
_MAX_LENGTH_DIGITS: Final = 18
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]")

# How far the request at hand has come.
_IN_HEAD: Final = 0
_COUNTED: Final = 1  # in a body with a Content-Length
_CHUNKED: Final = 2
_ENDED: Final = 3


@final
class Origin:
    """Where a connection comes from and where it arrived, as the environ tells it.

    ``trusted`` lets X-Forwarded-Proto and the last of X-Forwarded-For say otherwise.
    """

    __slots__ = ("address", "port", "server_name", "server_port", "trusted")

    def __init__(self, address: str, port: str, trusted: bool, server_name: str, server_port: str) -> None:
        self.address = address  # empty for a Unix socket
        self.port = port  # empty for a Unix socket
        self.trusted = trusted
        self.server_name = server_name
        self.server_port = server_port  # empty for a Unix socket


@final
class Reader(Codec):
    """The one request of one connection, and its response.

    ``date`` gives the Date field's value; ``base`` is added to the request's environ, and wins.
    """

    def __init__(
        self, limits: HeadLimits, origin: Origin, date: Callable[[], str], base: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._limits = limits
        self._origin = origin
        self._date = date
        self._base = base
        self._parser = HttpRequestParser(None)
        self._phase = _IN_HEAD
        self._begun = False  # past the empty line that may precede a request
        self._judged = 0  # bytes of the head that llhttp has seen
        self._end_due = False
        self._left = 0  # of a body with a Content-Length
        self._chunks: Chunks | None = None
        self._overran = False
        self._continue_due = False
        self._is_11 = False
        self._chunking = False  # the response
        self._until_close = False

    @property
    def answerable(self) -> bool:
        """HTTP has an answer to everything."""
        return True

    @property
    def body_ended(self) -> bool:
        """Whether nothing more belongs to the request."""
        return self._phase == _ENDED

    @property
    def overrun(self) -> bool:
        """Whether something was received behind the request."""
        return self._phase == _ENDED and (self._overran or self._offset < len(self._data))

    @property
    def closes_to_end(self) -> bool:
        """HTTP/1.0 without a Content-Length."""
        return self._until_close

    def receive(self, data: bytes) -> None:
        """Take what arrived; behind the request it is not kept."""
        if self._phase == _ENDED:
            self._overran = True
            return
        if self._offset < len(self._data):
            data = self._data[self._offset :] + data
        self._data = data
        self._offset = 0

    def release(self) -> None:
        """There is no next request: the answer said so."""
        self._phase = _ENDED

    def take_replies(self) -> bytes:
        """``100 Continue``, once, to a client that waits for it with its body."""
        if not self._continue_due:
            return b""
        self._continue_due = False
        return CONTINUE

    def next_event(self) -> int:
        """What comes next in the bytes received so far. Raises `ProtocolError`."""
        if self._phase == _IN_HEAD:
            return self._read_head()
        if self._end_due:
            self._end_due = False
            return END_OF_BODY
        if self._phase == _ENDED or self._offset == len(self._data):
            return NEED_DATA
        self._continue_due = False  # the client did not wait
        return self._read_counted() if self._phase == _COUNTED else self._read_chunked()

    # -- the head

    def _read_head(self) -> int:
        if not self._begun and not self._skip_empty_line():
            return NEED_DATA
        data = self._data
        start = self._offset
        end = data.find(_END_OF_HEAD, start + max(0, self._judged - len(_END_OF_HEAD) + 1))
        stop = len(data) if end < 0 else end + len(_END_OF_HEAD)
        limit = self._limits.max_header_size
        if stop - start > limit:
            in_line = data.find(b"\r\n", start, start + limit) < 0
            what = "request line" if in_line else "request's head"
            raise ProtocolError(
                f"the {what} has more than {limit} bytes, {limit} are allowed (max_header_size)",
                414 if in_line else 431,
            )
        self._judge(data[start + self._judged : stop])
        if end < 0:
            self._judged = stop - start
            return NEED_DATA
        self._offset = stop
        self._take_head(data[start:end].decode("latin-1"))
        return REQUEST

    def _skip_empty_line(self) -> bool:
        """RFC 9112 section 2.2 lets one precede a request; False while that is not decided."""
        data = self._data
        if not data or data == b"\r":
            return False
        if data.startswith(b"\r\n"):
            if len(data) == 2:
                return False
            self._offset = 2
        if data[self._offset] in b"\r\n":
            raise ProtocolError("a request begins with its method, found a bare CR or LF, or a second empty line")
        self._begun = True
        return True

    def _judge(self, data: bytes) -> None:
        """Let llhttp have the next bytes of the head."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # at the head's end; not taken up
        except HttpParserInvalidMethodError:
            line = self._data[self._offset : self._offset + 80]
            # By the first byte alone: how much of the line has come yet must not decide.
            status = 501 if _TOKEN.match(line) else 400
            raise ProtocolError(f"a request begins with a known method, found {line!r}", status) from None
        except HttpParserError as error:
            reason = str(error)
            raise ProtocolError(f"malformed head: {reason}", 505 if reason in _WRONG_VERSION else 400) from None

    def _take_head(self, head: str) -> None:
        lines = head.split("\r\n")
        if len(lines) - 1 > self._limits.max_header_count:
            raise ProtocolError(
                f"the request has {len(lines) - 1} headers, {self._limits.max_header_count} are allowed"
                " (max_header_count)",
                431,
            )
        words = lines[0].split(" ")
        if len(words) != 3:
            raise ProtocolError(f"a request line is a method, a target and a version, found {lines[0][:80]!r}")
        method, target, version = words[0], words[1], words[2]
        if version != "HTTP/1.1" and version != "HTTP/1.0":
            raise ProtocolError(f"expected HTTP/1.1 or HTTP/1.0, found {version[:80]!r}", 505)
        self._is_11 = version == "HTTP/1.1"
        environ = read_fields(lines)
        length = self._frame(environ)
        origin = self._origin
        scheme = "http"
        environ["REMOTE_ADDR"] = origin.address
        if origin.port:
            environ["REMOTE_PORT"] = origin.port
        if origin.trusted:
            scheme = believe_proxy(environ)
        environ["REQUEST_METHOD"] = method
        environ["REQUEST_URI"] = environ["RAW_URI"] = target
        environ["SERVER_PROTOCOL"] = version
        environ["SCRIPT_NAME"] = ""
        self._check_host(environ)  # before a host in the target takes its place
        set_target(environ, method, target)
        self._set_server(environ, scheme)
        if self._base is not None:
            environ.update(self._base)
        self.request = Request(environ, method, target, length, scheme)

    def _frame(self, environ: dict[str, Any]) -> int:
        """Where the message ends: -1 or its Content-Length."""
        length = -1
        declared: str | None = environ.get("CONTENT_LENGTH")
        coding: str | None = environ.get("HTTP_TRANSFER_ENCODING")
        if coding is not None:
            self._check_coding(coding, declared)
            self._phase = _CHUNKED
            self._chunks = Chunks()
        elif declared is not None:
            if not (declared.isascii() and declared.isdigit() and len(declared) <= _MAX_LENGTH_DIGITS):
                raise ProtocolError(f"Content-Length must be a decimal number below 10^18, found {declared[:80]!r}")
            length = self._left = int(declared)
            self._phase = _COUNTED if length else _ENDED
        else:
            self._phase = _ENDED
        self._end_due = self._phase == _ENDED
        expected: str | None = environ.get("HTTP_EXPECT")
        if expected is not None and self._is_11 and self._phase != _ENDED:
            self._continue_due = expected.lower() == "100-continue"
        return length

    def _check_coding(self, coding: str, declared: str | None) -> None:
        if not self._is_11:
            raise ProtocolError("HTTP/1.0 has no Transfer-Encoding")
        if declared is not None:
            raise ProtocolError("Transfer-Encoding and Content-Length were both sent: one of them is a lie")
        codings = [item.strip(" \t").lower() for item in coding.split(",")]
        if codings == ["chunked"]:
            return
        if codings.count("chunked") == 1 and codings[-1] == "chunked" and all(codings):
            raise ProtocolError(f"no transfer coding but chunked is understood, found {coding[:80]!r}", 501)
        raise ProtocolError(f"Transfer-Encoding must be chunked, found {coding[:80]!r}")

    def _check_host(self, environ: dict[str, Any]) -> None:
        host: str | None = environ.get("HTTP_HOST")
        if host is not None:
            split_host(host)
        elif self._is_11:
            raise ProtocolError("a request of HTTP/1.1 must have a Host field")

    def _set_server(self, environ: dict[str, Any], scheme: str) -> None:
        """SERVER_NAME and SERVER_PORT: what the client asked for, else where it arrived."""
        host: str | None = environ.get("HTTP_HOST")
        origin = self._origin
        name = port = ""
        if host is not None:
            name, port = split_host(host)
        else:
            port = origin.server_port
        environ["SERVER_NAME"] = name or origin.server_name
        environ["SERVER_PORT"] = port or ("443" if scheme == "https" else "80")
        if scheme == "https":
            environ["HTTPS"] = "on"

    # -- the body

    def _read_counted(self) -> int:
        start = self._offset
        taken = min(self._left, len(self._data) - start)
        self.piece = self._data[start : start + taken]
        self._offset = start + taken
        self._left -= taken
        if not self._left:
            self._phase = _ENDED
            self._end_due = True
        return BODY

    def _read_chunked(self) -> int:
        chunks = self._chunks
        if chunks is None:
            return NEED_DATA
        found = chunks.read(self._data, self._offset)
        self._offset = chunks.offset
        if found:
            self.piece = chunks.piece
            return BODY
        if chunks.over:
            self._phase = _ENDED
            return END_OF_BODY
        return NEED_DATA

    # -- the response

    def encode_head(self, status: str, fields: str, length: int, has_body: bool) -> bytes:
        """The status line and fields, with Date unless there is one, and what says where the body ends."""
        self._continue_due = False
        framing = ""
        if has_body and length < 0:
            if self._is_11:
                self._chunking = True
                framing = "Transfer-Encoding: chunked\r\n"
            else:
                self._until_close = True
        if not _has_date(fields):
            framing += f"Date: {self._date()}\r\n"
        return f"HTTP/1.1 {status}\r\n{fields}{framing}Connection: close\r\n\r\n".encode("latin-1")

    def encode(self, head: bytes, pieces: list[bytes], size: int, last: bool) -> list[bytes | memoryview]:
        """The next of the response, in a chunk if it is chunked; with ``last`` also the last chunk."""
        buffers: list[bytes | memoryview] = [head] if head else []
        if self._chunking and size:
            buffers.append(b"%x\r\n" % size)
            buffers += pieces
            buffers.append(b"\r\n0\r\n\r\n" if last else b"\r\n")
        else:
            buffers += pieces
            if self._chunking and last:
                buffers.append(_LAST_CHUNK)
        return buffers


def _has_date(fields: str) -> bool:
    # Few fields end in these letters; only then is it worth looking properly.
    if "ate:" not in fields and "ATE:" not in fields:
        return False
    lower = fields.lower()
    return lower.startswith("date:") or "\r\ndate:" in lower

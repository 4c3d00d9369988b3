"""WSGI, the server's side (PEP 3333): start_response, the response's head, and what an application returned.

* Nothing is sent before the first piece that is not empty, or the end. A piece is sent before the next is asked for.
* A list or tuple (exactly these) is sent as one, and gets a Content-Length if it has none; ``bytes`` stand for a list
  of one. Everything else is iterated.
* What is declared is kept: beyond Content-Length nothing is sent, below it the response is broken off. Responses to
  HEAD and with status 204 or 304 have no body; iteration stops when their head has gone.
* What is refused (`prefork.worker.headers`) is refused by an exception inside the application, so that its traceback
  names the culprit.
* Where the application calls us, and where we call it, is marked (`prefork.worker.deadline`): a timeout is raised into
  its code only.
"""

from __future__ import annotations

import io
import os
import signal
import stat
from collections.abc import Callable
from typing import Any, Final, final

from prefork.worker.deadline import Deadline
from prefork.worker.headers import USUAL_STATUSES, check_fields, check_status
from prefork.worker.stream import FileWrapper
from prefork.worker.transfer import Transfer

__all__ = ["Response", "close_result"]

_NO_LENGTH: Final = frozenset(("204", "304"))

# Only these read what their descriptor has. A GzipFile has a fileno() too, but it is that of the compressed file.
_REAL_FILES: Final = (io.BufferedReader, io.BufferedRandom, io.FileIO)


@final
class Response:
    """The response to one request.

    ``complaint`` says, for the log, how it differs from its Content-Length; empty if it does not.
    """

    __slots__ = (
        "_bodiless",
        "_deadline",
        "_is_head",
        "_length",
        "_status",
        "_transfer",
        "complaint",
        "fields",
        "sent",
    )

    def __init__(self, transfer: Transfer, method: str, deadline: Deadline) -> None:
        self.complaint = ""
        self.fields = ""  # the header lines
        self.sent = 0  # bytes of the body
        self._transfer = transfer
        self._deadline = deadline
        self._status = ""  # empty until start_response is called
        self._length = -1  # as declared; -1 if not
        self._is_head = method == "HEAD"
        self._bodiless = False

    @property
    def status(self) -> int:
        """The number that the application answered with; 0 if it did not."""
        return int(self._status[:3]) if self._status else 0

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333's ``start_response``; the headers are taken as they are now."""
        deadline = self._deadline
        deadline.inside += 1
        try:
            if exc_info:
                if self._transfer.started:
                    raise exc_info[1].with_traceback(exc_info[2])
            elif self._status:
                raise AssertionError("start_response() was called a second time without exc_info (PEP 3333)")
            if type(status) is str and status in USUAL_STATUSES:
                text: str = status
                code = USUAL_STATUSES[text]
            else:
                text = check_status(status)
                code = text[:3]
            self.fields, self._length = check_fields(headers, code != "204")
            self._status = text
            self._bodiless = self._is_head or code in _NO_LENGTH
        finally:
            exc_info = None  # a cycle through the traceback's frames
            deadline.inside -= 1
            if deadline.pending:
                deadline.returned()
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's imperative ``write``: send now."""
        if not isinstance(data, bytes):
            raise TypeError(f"write() takes bytes, found {type(data).__name__}")
        self._deadline.inside += 1
        try:
            if data:
                self._send_piece(data)
        finally:
            self._deadline.leave()

    def deliver(self, result: Any) -> None:
        """Send what the application returned, and the end of the response."""
        kind = type(result)
        if kind is list or kind is tuple:
            if self._transfer.started:
                self._send_each(result)
            else:
                self._send_at_once(result)
        elif kind is bytes:
            self._send_at_once([result])
        elif kind is FileWrapper:
            if not self._send_file(result):
                self._send_each(result)
        elif result is None:
            raise TypeError("the application returned None; expected an iterable of bytes (PEP 3333)")
        elif isinstance(result, str):
            raise TypeError("the application returned a str; expected an iterable of bytes (PEP 3333)")
        else:
            self._send_each(result)

    def _head(self) -> bytes:
        if not self._status:
            raise AssertionError("the application sends a response without having called start_response() (PEP 3333)")
        return self._transfer.reader.encode_head(self._status, self.fields, self._length, not self._bodiless)

    def _declare(self, length: int) -> None:
        """Give the response the Content-Length that the application left out."""
        self._length = length
        self.fields += f"Content-Length: {length}\r\n"

    def _send_at_once(self, chunks: Any) -> None:
        pieces: list[bytes] = []
        size = 0
        for chunk in chunks:
            if type(chunk) is not bytes:
                _check_chunk(chunk, len(pieces))
            pieces.append(chunk)
            size += len(chunk)
        if self._length < 0 and self._status and (size or not self._is_head) and self._status[:3] not in _NO_LENGTH:
            self._declare(size)
        if self._bodiless:
            self._transfer.send(self._head(), [], 0, True)
        elif size == self._length:
            self.sent = size
            self._transfer.send(self._head(), pieces, size, True)
        else:
            self._send_each(pieces)

    def _send_each(self, chunks: Any) -> None:
        transfer = self._transfer
        deadline = self._deadline
        if deadline.pending:
            deadline.stop()
        deadline.in_server = False
        for index, chunk in enumerate(chunks):
            deadline.in_server = True
            if type(chunk) is not bytes:
                _check_chunk(chunk, index)
            if chunk:
                if transfer.complete:
                    self._note_surplus()
                    break
                self._send_piece(chunk)
                if self._bodiless:
                    break
            if deadline.pending:
                deadline.stop()
            deadline.in_server = False
        deadline.in_server = True
        self._finish()

    def _send_piece(self, data: bytes) -> None:
        transfer = self._transfer
        if transfer.complete:
            self._note_surplus()
            return
        if transfer.started:
            transfer.look()
            head = b""
        else:
            head = self._head()
        if self._bodiless:
            transfer.send(head, [], 0, True)
            return
        left = self._length - self.sent if self._length >= 0 else len(data) + 1
        if len(data) > left:
            self._note_surplus()
            data = data[:left]
        self.sent += len(data)
        # With the last declared byte goes the end: the client need not wait for the application to finish.
        transfer.send(head, [data], len(data), len(data) == left)

    def _finish(self) -> None:
        transfer = self._transfer
        if transfer.complete:
            return
        if self._length > self.sent and not self._bodiless:
            self.complaint = f"the response ended after {self.sent} of {self._length} bytes (Content-Length)"
            if not transfer.started:
                transfer.send(self._head(), [], 0, False)
            transfer.break_off()
        elif transfer.started:
            transfer.send(b"", [], 0, True)
        else:
            transfer.send(self._head(), [], 0, True)

    def _note_surplus(self) -> None:
        if not self._bodiless:
            self.complaint = f"the response has more than {self._length} bytes (Content-Length): the rest was cut off"

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a real file, from where it stands, by sendfile(2). False, and nothing sent, if that cannot be done."""
        # sendfile(2) raises SIGPIPE when the client has gone; Python ignores that signal, an application may not.
        if self._transfer.started or self._bodiless or signal.getsignal(signal.SIGPIPE) in (signal.SIG_DFL, None):
            return False
        # A wrapper around a file (Django's File) hands out the file's own method, or else it changes what it reads.
        owner: Any = getattr(getattr(wrapper.filelike, "read", None), "__self__", None)
        if type(owner) not in _REAL_FILES:
            return False
        try:
            descriptor: int = owner.fileno()
            offset: int = owner.tell()
            status = os.fstat(descriptor)
        except (OSError, ValueError):
            return False
        count = status.st_size - offset
        if not stat.S_ISREG(status.st_mode) or count <= 0:
            return False
        if self._length < 0:
            if self._status:
                self._declare(count)
        elif count < self._length:
            return False
        count = self._length
        done = self._transfer.send_file(self._head(), descriptor, offset, count)
        self.sent = done
        if done < count:
            self._finish()
        return True


def _check_chunk(chunk: Any, index: int) -> None:
    if not isinstance(chunk, bytes):
        raise TypeError(
            f"item {index} of the application's result is {type(chunk).__name__}, expected bytes (PEP 3333)"
        )


def close_result(result: Any) -> None:
    """Call the ``close()`` of what the application returned, if it has one."""
    kind = type(result)
    if kind is list or kind is tuple or kind is bytes:
        return  # the usual ones have none, and an attribute that is not there takes longest to find
    close = getattr(result, "close", None)
    if close is not None:
        close()

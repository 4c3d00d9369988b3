"""The files of a WSGI environ: ``wsgi.input``, ``wsgi.errors``, ``wsgi.file_wrapper``.

Input streams: no more of the body is held than what was received at once and not yet read. Errors go to two places,
the log (a line an event) and the proxy (with the next piece of the response, never in a write of their own).

Every call of the application's is marked (`Deadline.inside`): no timeout is raised into the midst of it.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, final

from prefork.worker.deadline import Deadline

__all__ = ["Body", "Errors", "FileWrapper", "Input"]

# What is kept for the proxy, and of a line without an end. nginx cuts one log line at 2 KiB anyway.
_MAX_PENDING: Final = 32_768

_BLOCK: Final = 65_528  # one full record of FastCGI


class Body(Protocol):
    """Where an input's bytes come from."""

    def read_body(self) -> bytes:
        """The next piece; ``b""`` at the end, again and again. Raises `ClientDisconnected`."""
        ...


@final
class Input:
    """``wsgi.input``: the request's body, as it arrives.

    ``read(n)`` returns n bytes unless the body ends before. At the end of the body everything returns ``b""``, for
    ever. A body that ends too early raises `prefork.ClientDisconnected`, an OSError.
    """

    __slots__ = ("_data", "_deadline", "_offset", "_source")

    def __init__(self, source: Body, deadline: Deadline) -> None:
        self._source: Body | None = source
        self._deadline = deadline
        self._data: bytes = b""
        self._offset = 0

    def finish(self) -> None:
        """The request is over: what was not read is not to be had any more."""
        self._source = None
        self._data = b""
        self._offset = 0

    def _fill(self) -> bool:
        """Make the next piece the buffer, which must be used up. False at the end."""
        source = self._source
        if source is None:
            raise ValueError("the request is over: its body can no longer be read")
        data = source.read_body()
        self._data = data
        self._offset = 0
        return len(data) > 0

    def read(self, size: int | None = -1) -> bytes:
        """That many bytes, or all that are left (None, negative)."""
        self._deadline.inside += 1
        try:
            return self._read(size)
        finally:
            self._deadline.leave()

    def _read(self, size: int | None) -> bytes:
        data = self._data
        start = self._offset
        if size is not None and 0 <= size <= len(data) - start:
            self._offset = start + size
            return data[start : start + size]
        wanted = -1 if size is None or size < 0 else size
        pieces = [data[start:]]
        missing = wanted - (len(data) - start)
        self._offset = len(data)
        while (wanted < 0 or missing > 0) and self._fill():
            taken = len(self._data) if wanted < 0 else min(missing, len(self._data))
            pieces.append(self._data[:taken])
            self._offset = taken
            missing -= taken
        return b"".join(pieces)

    def readline(self, size: int | None = -1) -> bytes:
        """Up to and with the next line feed, or ``size`` bytes if that is less."""
        self._deadline.inside += 1
        try:
            return self._read_line(size)
        finally:
            self._deadline.leave()

    def _read_line(self, size: int | None) -> bytes:
        missing = -1 if size is None or size < 0 else size
        pieces: list[bytes] = []
        while missing:
            if self._offset >= len(self._data) and not self._fill():
                break
            start = self._offset
            found = self._data.find(b"\n", start)
            stop = len(self._data) if found < 0 else found + 1
            if 0 < missing < stop - start:
                stop = start + missing
            pieces.append(self._data[start:stop])
            self._offset = stop
            if missing > 0:
                missing -= stop - start
            if found >= 0 and stop == found + 1:
                break
        return b"".join(pieces)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines that are left; with a positive hint only so many that they have as many bytes."""
        lines: list[bytes] = []
        total = 0
        while True:
            line = self.readline()
            if not line:
                return lines
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                return lines

    def __iter__(self) -> Input:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line


@final
class Errors:
    """``wsgi.errors``, one for all requests of a worker, as libraries keep it.

    ``pending`` says that there is something to `take`, ``unfinished`` that there is something to `flush`.
    """

    def __init__(self, logger: Any, deadline: Deadline) -> None:
        self.pending = False
        self.unfinished = False
        self.request_id = ""
        self._logger = logger
        self._deadline = deadline
        self._line = ""
        self._for_proxy: list[str] = []
        self._size = 0

    def begin(self, request_id: str) -> None:
        """A request begins."""
        self.request_id = request_id
        if self.pending:
            self.discard()

    def write(self, text: Any) -> int:
        """Log every line of this ``str`` that is complete; keep the text for the proxy as well."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, found {type(text).__name__}")
        self._deadline.inside += 1
        try:
            self._write(text)
        finally:
            self._deadline.leave()
        return len(text)

    def _write(self, text: str) -> None:
        if self._size < _MAX_PENDING:
            self._for_proxy.append(text[: _MAX_PENDING - self._size])
            self._size += len(text)
            self.pending = True
        self._line += text
        self.unfinished = True
        if "\n" in text or len(self._line) > _MAX_PENDING:
            *lines, rest = self._line.split("\n")
            if len(rest) > _MAX_PENDING:
                lines.append(rest)
                rest = ""
            self._line = rest
            self.unfinished = len(rest) > 0
            for line in lines:
                self._log(line)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log a line that has no end yet."""
        if self._line:
            line = self._line
            self._deadline.inside += 1
            try:
                self._line = ""
                self.unfinished = False
                self._log(line)
            finally:
                self._deadline.leave()

    def _log(self, line: str) -> None:
        if line:
            self._logger.warning("wsgi_errors", message=line, request_id=self.request_id)

    def take(self) -> bytes:
        """What the proxy has not been told yet."""
        text = "".join(self._for_proxy)
        self.discard()
        return text.encode("utf-8", "backslashreplace")

    def discard(self) -> None:
        """Forget what is kept for the proxy."""
        self.pending = False
        self._for_proxy = []
        self._size = 0


@final
class FileWrapper:
    """``wsgi.file_wrapper``: a file as a response. A real file, handed back as it is, leaves by sendfile(2)."""

    def __init__(self, filelike: Any, blksize: int = _BLOCK) -> None:
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> Any:
        data = self.filelike.read(self.blksize)
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

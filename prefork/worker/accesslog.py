r"""The access log: one line a request, made of what the operator's format names and nothing else.

* A format is compiled once, into a list of functions and a template; a token that costs a system call (``%C``, ``%M``)
  costs it only where it is asked for. Where no log is kept, nothing of this runs.
* Whatever a client or the application could have chosen is escaped: quotes and backslashes with a backslash, all bytes
  outside printable ASCII as ``\xhh``; in JSON as JSON does it. No request can write a second line, or end a quote.
* Values that are not known are ``-``, in JSON ``null``.
* The line is written after the response, so it never delays one, and it tells how long all of it took.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Any, Final, final

from prefork.policy.access_format import AccessFormat, Piece
from prefork.protocol.request import Request
from prefork.system.logfile import LogFile
from prefork.worker.accesstokens import (
    CLIENTS,
    CONSTANT,
    MAY_BE_EMPTY,
    OURS,
    Entry,
    Getter,
    escape,
    is_plain,
    readable,
    variable_of,
)

__all__ = ["AccessLog"]

_quote: Callable[[str], str] = json.encoder.encode_basestring_ascii

# The JSON line: key → where the text comes from. Numbers and the time are written by `AccessLog` itself.
_JSON_TEXTS: Final[tuple[tuple[str, Getter, str], ...]] = (
    (', "remote_addr": ', CLIENTS["remote_addr"], ""),
    (', "remote_user": ', CLIENTS["user"], ""),
    (', "method": ', CLIENTS["method"], ""),
    (', "uri": ', lambda entry, _: entry.uri, ""),
    (', "protocol": ', CLIENTS["protocol"], ""),
    (', "host": ', CLIENTS["variable"], "HTTP_HOST"),
    (', "referer": ', CLIENTS["variable"], "HTTP_REFERER"),
    (', "user_agent": ', CLIENTS["variable"], "HTTP_USER_AGENT"),
    (', "request_id": ', OURS["request_id"], ""),
)


@final
class AccessLog:
    """The access log of one worker. To be made in the worker's own process."""

    def __init__(
        self, log: LogFile, format: AccessFormat, suppress: tuple[str, ...], *, pool: str, slot: int, parent: int
    ) -> None:
        self.log = log
        self._suppress = frozenset(suppress)
        self._entry = Entry(pool, slot, parent)
        self._json = format.json
        self._measures = any(piece.what == "cpu" for piece in format.pieces)
        self._before: Any = None
        # The line's pieces, literal ones and gaps by turns; each getter fills the gap at its index.
        self._pieces: list[str] = [""]
        self._getters: list[tuple[int, Getter, str, str, bool]] = []
        for piece in format.pieces:
            if piece.what == "literal":
                self._pieces[-1] += piece.argument
            elif piece.what in CONSTANT:
                self._pieces[-1] += OURS[piece.what](self._entry, "") or "-"
            else:
                self._add_gap(piece)
        self._pieces[-1] += "\n"
        self._head = f'"event": "access", "pool": {_quote(pool)}, "slot": {slot}, "pid": {self._entry.pid}'
        self._environ: dict[str, Any] = {}

    def _add_gap(self, piece: Piece) -> None:
        client = CLIENTS.get(piece.what)
        getter = OURS[piece.what] if client is None else client
        empty = "" if piece.what in MAY_BE_EMPTY else "-"
        argument = variable_of(piece.argument) if piece.what == "request_header" else piece.argument
        self._getters.append((len(self._pieces), getter, argument, empty, client is not None))
        self._pieces += ["", ""]

    def begin(self) -> None:
        """A request begins: look at what only a difference can tell."""
        if self._measures:
            self._before = resource.getrusage(resource.RUSAGE_SELF)

    def record(
        self, request: Request | None, status: int, sent: int, began: float, request_id: str, fields: str = ""
    ) -> None:
        """Write the line of a request that is over.

        ``request`` is None where none was understood, ``sent`` counts the bytes of the response's body, ``began`` is
        monotonic seconds, ``fields`` are the response's header lines.
        """
        entry = self._entry
        if request is not None:
            if self._suppress and status // 100 == 2 and self._is_suppressed(request):
                return
            entry.environ = request.environ
            entry.method = request.method
            entry.uri = request.uri
            entry.length = request.content_length
        else:
            entry.environ = self._environ
            entry.method = entry.uri = ""
            entry.length = -1
        entry.status = status
        entry.sent = sent
        entry.fields = fields
        entry.request_id = request_id
        entry.seconds = max(0.0, time.monotonic() - began)
        entry.began = time.time() - entry.seconds
        if self._measures:
            self._measure(entry)
        line = self._json_line(entry) if self._json else self._line(entry)
        self.log.write(line.encode("utf-8", "backslashreplace"))
        # The environ may hold what the application would be rid of by now.
        entry.environ = self._environ

    def _is_suppressed(self, request: Request) -> bool:
        """As php-fpm's access.suppress_path: only what asks for nothing but this path, and says nothing."""
        if request.uri not in self._suppress or "?" in request.uri:
            return False
        return request.method in ("GET", "HEAD") and request.content_length <= 0

    def _measure(self, entry: Entry) -> None:
        before: Any = self._before
        now: Any = resource.getrusage(resource.RUSAGE_SELF)
        entry.cpu_user = 0.0 if before is None else now.ru_utime - before.ru_utime
        entry.cpu_system = 0.0 if before is None else now.ru_stime - before.ru_stime
        self._before = None

    def _line(self, entry: Entry) -> str:
        pieces = self._pieces.copy()
        foreign: list[str] = []
        for index, getter, argument, empty, is_client in self._getters:
            value: str = getter(entry, argument)
            if not value:
                value = empty
            elif is_client:
                foreign.append(value)
            pieces[index] = value
        # One look at everything together: it hardly ever finds anything.
        if not is_plain("".join(foreign)):
            for index, _, _, _, is_client in self._getters:
                if is_client:
                    pieces[index] = escape(pieces[index])
        return "".join(pieces)

    def _json_line(self, entry: Entry) -> str:
        pieces = [f'{{"timestamp": "{entry.begun_iso()}", "level": "info", {self._head}, "status": {entry.status}, ']
        pieces.append(f'"bytes": {entry.sent}, "duration": {entry.seconds:.6f}')
        for key, getter, argument in _JSON_TEXTS:
            value: str = getter(entry, argument)
            if value:
                pieces.append(f"{key}{_quote(value if value.isascii() else readable(value))}")
            else:
                pieces.append(f"{key}null")
        pieces.append("}\n")
        return "".join(pieces)

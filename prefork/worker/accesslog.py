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
import os
import resource
import time
from collections.abc import Callable
from typing import Any, Final, final

from prefork.policy.access_format import AccessFormat
from prefork.protocol.request import Request
from prefork.system.logfile import LogFile

__all__ = ["AccessLog", "escape"]

# By number: the names of months are English in every log there is, whatever the locale.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ESCAPES: Final = {
    **{number: f"\\x{number:02x}" for number in (*range(32), *range(127, 256))},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}

_quote: Callable[[str], str] = json.encoder.encode_basestring_ascii


def escape(text: str) -> str:
    """A value as it may stand between two quotes of a line."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:  # the application's own addition: what a client sent are bytes
        data = text.encode("utf-8", "surrogatepass")
    return data.decode("latin-1").translate(_ESCAPES)


def _readable(text: str) -> str:
    """A value for JSON: the bytes that it stands for as UTF-8, if they are."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


@final
class _Entry:
    """What is known of one request at its end; one object for all requests of a worker."""

    environ: dict[str, Any]
    method: str = ""  # empty, and the URI as well: the request was refused before it was known
    uri: str = ""
    status: int = 0
    sent: int = 0  # bytes of the response's body
    fields: str = ""  # the response's header lines
    request_id: str = ""
    length: int = -1
    seconds: float = 0.0
    began: float = 0.0  # by the clock on the wall
    cpu_user: float = 0.0
    cpu_system: float = 0.0

    def __init__(self, pool: str, slot: int, parent: int) -> None:
        self.environ = {}
        self.pool = pool
        self.slot = str(slot)
        self.pid = str(os.getpid())
        self.parent = str(parent)
        self._second = -1
        self._shown = ""

    def variable(self, name: str) -> str:
        """A parameter of the request, or what the application put there."""
        value: Any = self.environ.get(name)
        if type(value) is str:
            return value
        return "" if value is None else _odd(value)

    def path(self) -> str:
        """The URI without its query."""
        return self.uri.partition("?")[0]

    def begun(self) -> str:
        """The usual time of an access log, made once a second."""
        second = int(self.began)
        if second != self._second:
            now = time.localtime(second)
            offset = abs(now.tm_gmtoff) // 60
            sign = "-" if now.tm_gmtoff < 0 else "+"
            self._second = second
            self._shown = (
                f"{now.tm_mday:02d}/{_MONTHS[now.tm_mon - 1]}/{now.tm_year}:"
                f"{now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d} {sign}{offset // 60:02d}{offset % 60:02d}"
            )
        return self._shown


def _variable_of(header: str) -> str:
    """Where CGI puts a request's header (RFC 3875 section 4.1.18)."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name


def _odd(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object that the application put into its environ may do anything
        return "?"


# Every token, by what the format calls it: the entry and the token's argument in, text out; "" where it is not known.
_Getter = Callable[[_Entry, str], str]


def _request_line(entry: _Entry, _argument: str) -> str:
    if not entry.method:
        return ""
    return f"{entry.method} {entry.uri} {entry.variable('SERVER_PROTOCOL')}"


def _response_header(entry: _Entry, argument: str) -> str:
    wanted = argument.lower()
    values = []
    for line in entry.fields.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == wanted:
            values.append(value.strip())
    return ", ".join(values)


def _duration(entry: _Entry, argument: str) -> str:
    if argument == "micro":
        return str(int(entry.seconds * 1e6))
    return f"{entry.seconds * 1e3:.3f}" if argument == "milli" else f"{entry.seconds:.3f}"


def _whole_seconds(entry: _Entry, argument: str) -> str:
    factor = {"seconds": 1.0, "milli": 1e3}.get(argument, 1e6)
    return str(int(entry.seconds * factor))


def _begun(entry: _Entry, argument: str) -> str:
    return time.strftime(argument, time.localtime(entry.began)) if argument else entry.begun()


def _begun_bracketed(entry: _Entry, argument: str) -> str:
    return _begun(entry, argument) if argument else f"[{entry.begun()}]"


def _written(entry: _Entry, argument: str) -> str:
    return time.strftime(argument or "%d/%b/%Y:%H:%M:%S %z", time.localtime(entry.began + entry.seconds))


def _cpu(entry: _Entry, argument: str) -> str:
    """Percent of the request's duration, as php-fpm counts it."""
    used = (entry.cpu_user if argument != "system" else 0.0) + (entry.cpu_system if argument != "user" else 0.0)
    return f"{100.0 * used / entry.seconds:.2f}" if entry.seconds > 0.0 else "0.00"


def _memory(_entry: _Entry, argument: str) -> str:
    """The most memory that this worker ever had (ru_maxrss): no system counts it by request."""
    return str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // int(argument))


def _query(entry: _Entry, _argument: str) -> str:
    return entry.uri.partition("?")[2]


def _question_and_query(entry: _Entry, _argument: str) -> str:
    _, mark, query = entry.uri.partition("?")
    return mark + query


_CLIENTS: Final[dict[str, _Getter]] = {
    "remote_addr": lambda entry, _: entry.variable("REMOTE_ADDR"),
    "user": lambda entry, _: entry.variable("REMOTE_USER"),
    "request_line": _request_line,
    "method": lambda entry, _: entry.method,
    "path": lambda entry, _: entry.path(),
    "query": _query,
    "question_and_query": _question_and_query,
    "protocol": lambda entry, _: entry.variable("SERVER_PROTOCOL"),
    "server_name": lambda entry, _: entry.variable("SERVER_NAME"),
    "server_port": lambda entry, _: entry.variable("SERVER_PORT"),
    "script": lambda entry, _: entry.variable("SCRIPT_FILENAME"),
    "variable": lambda entry, argument: entry.variable(argument),
    "request_header": lambda entry, argument: entry.variable(argument),
    "response_header": _response_header,
}
_OURS: Final[dict[str, _Getter]] = {
    "status": lambda entry, _: str(entry.status),
    "bytes": lambda entry, _: str(entry.sent),
    "bytes_or_nothing": lambda entry, _: str(entry.sent) if entry.sent else "",
    "request_id": lambda entry, _: entry.request_id,
    "length": lambda entry, _: str(max(0, entry.length)),
    "question_mark": lambda entry, _: "?" if "?" in entry.uri else "",
    "duration": _duration,
    "whole_seconds": _whole_seconds,
    "begun": _begun,
    "begun_bracketed": _begun_bracketed,
    "written": _written,
    "cpu": _cpu,
    "memory": _memory,
    "pool": lambda entry, _: entry.pool,
    "pid": lambda entry, _: entry.pid,
    "parent_pid": lambda entry, _: entry.parent,
    "nothing": lambda _, __: "",
}
_MAY_BE_EMPTY: Final = frozenset(("query", "question_mark", "question_and_query"))

# The JSON line: key → where the text comes from. Numbers and the time are written by `AccessLog` itself.
_JSON_TEXTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("remote_addr", "remote_addr", ""),
    ("remote_user", "user", ""),
    ("method", "method", ""),
    ("uri", "", ""),
    ("protocol", "protocol", ""),
    ("host", "variable", "HTTP_HOST"),
    ("referer", "variable", "HTTP_REFERER"),
    ("user_agent", "variable", "HTTP_USER_AGENT"),
    ("request_id", "request_id", ""),
)


@final
class AccessLog:
    """The access log of one worker. To be made in the worker's own process."""

    def __init__(
        self, log: LogFile, format: AccessFormat, suppress: tuple[str, ...], *, pool: str, slot: int, parent: int
    ) -> None:
        self.log = log
        self._suppress = frozenset(suppress)
        self._entry = _Entry(pool, slot, parent)
        self._json = format.json
        self._measures = any(piece.what == "cpu" for piece in format.pieces)
        self._before: Any = None
        self._template = ""
        self._getters: list[tuple[_Getter, str, str, bool]] = []
        for piece in format.pieces:
            if piece.what == "literal":
                self._template += piece.argument.replace("%", "%%")
                continue
            self._template += "%s"
            client = _CLIENTS.get(piece.what)
            getter = _OURS[piece.what] if client is None else client
            empty = "" if piece.what in _MAY_BE_EMPTY else "-"
            argument = _variable_of(piece.argument) if piece.what == "request_header" else piece.argument
            self._getters.append((getter, argument, empty, client is not None))
        self._template += "\n"
        self._head = f'"event": "access", "pool": {_quote(pool)}, "slot": {slot}, "pid": {self._entry.pid}'
        self._environ: dict[str, Any] = {}

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

    def _measure(self, entry: _Entry) -> None:
        before: Any = self._before
        now: Any = resource.getrusage(resource.RUSAGE_SELF)
        entry.cpu_user = 0.0 if before is None else now.ru_utime - before.ru_utime
        entry.cpu_system = 0.0 if before is None else now.ru_stime - before.ru_stime
        self._before = None

    def _line(self, entry: _Entry) -> str:
        values: list[str] = []
        foreign = ""
        for getter, argument, empty, is_client in self._getters:
            value: str = getter(entry, argument)
            if is_client:
                foreign += value
            values.append(value or empty)
        # One look at everything together: it hardly ever finds anything.
        if not foreign.isascii() or not foreign.isprintable() or '"' in foreign or "\\" in foreign:
            values = [
                escape(value) if client else value
                for value, (_, _, _, client) in zip(values, self._getters, strict=True)
            ]
        return self._template % tuple(values)

    def _json_line(self, entry: _Entry) -> str:
        texts = []
        for key, what, argument in _JSON_TEXTS:
            if not what:
                value = entry.uri
            else:
                getter = _CLIENTS.get(what) or _OURS[what]
                value = getter(entry, argument)
            texts.append(f'"{key}": {_quote(_readable(value)) if value else "null"}')
        began = entry.began
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began))
        return (
            f'{{"timestamp": "{when}.{int(began % 1.0 * 1e6):06d}Z", "level": "info", {self._head}, '
            f'"status": {entry.status}, "bytes": {entry.sent}, "duration": {entry.seconds:.6f}, {", ".join(texts)}}}\n'
        )

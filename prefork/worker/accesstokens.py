"""The tokens of the access log: what is known of a request at its end, and how each piece of it is shown.

A token whose system call nobody asked for does not make it. Values that a client or the application could have
chosen (`CLIENTS`) are to be escaped by whoever puts them into a line; those of the server (`OURS`) need not be.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any, Final, final

from prefork.system.zone import in_zone, show_time

__all__ = ["CLIENTS", "CONSTANT", "MAY_BE_EMPTY", "OURS", "Entry", "Getter"]
__all__ += ["escape", "is_plain", "readable", "variable_of"]

# By number: the names of months are English in every log there is, whatever the locale.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ESCAPES: Final = {
    **{number: f"\\x{number:02x}" for number in (*range(32), *range(127, 256))},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def escape(text: str) -> str:
    """A value as it may stand between two quotes of a line."""
    if is_plain(text):
        return text
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:  # the application's own addition: what a client sent are bytes
        data = text.encode("utf-8", "surrogatepass")
    return data.decode("latin-1").translate(_ESCAPES)


def is_plain(text: str) -> bool:
    """Whether `escape` has nothing to do."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def readable(text: str) -> str:
    """A value for JSON: the bytes that it stands for as UTF-8, if they are."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


@final
class Entry:
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
        self._iso_second = -1
        self._iso_shown = ""

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
        """The usual time of an access log, in the server's zone; made once a second."""
        second = int(self.began)
        if second != self._second:
            now = in_zone(second)
            self._second = second
            self._shown = (
                f"{now.day:02d}/{_MONTHS[now.month - 1]}/{now.year}:"
                f"{now.hour:02d}:{now.minute:02d}:{now.second:02d} {now.strftime('%z')}"
            )
        return self._shown

    def begun_iso(self) -> str:
        """The time of an event: without a zone, to the microsecond."""
        second = int(self.began)
        if second != self._iso_second:
            now = time.gmtime(second)
            self._iso_second = second
            self._iso_shown = (
                f"{now.tm_year}-{now.tm_mon:02d}-{now.tm_mday:02d}T{now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}."
            )
        return f"{self._iso_shown}{int((self.began - second) * 1e6):06d}Z"


def variable_of(header: str) -> str:
    """Where CGI puts a request's header (RFC 3875 section 4.1.18)."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name


def _odd(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object that the application put into its environ may do anything
        return "?"


# Every token, by what the format calls it: the entry and the token's argument in, text out; "" where it is not known.
Getter = Callable[[Entry, str], str]


def _request_line(entry: Entry, _argument: str) -> str:
    if not entry.method:
        return ""
    return f"{entry.method} {entry.uri} {entry.variable('SERVER_PROTOCOL')}"


def _response_header(entry: Entry, argument: str) -> str:
    wanted = argument.lower()
    values = []
    for line in entry.fields.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == wanted:
            values.append(value.strip())
    return ", ".join(values)


def _duration(entry: Entry, argument: str) -> str:
    if argument == "micro":
        return str(int(entry.seconds * 1e6))
    return f"{entry.seconds * 1e3:.3f}" if argument == "milli" else f"{entry.seconds:.3f}"


def _whole_seconds(entry: Entry, argument: str) -> str:
    factor = {"seconds": 1.0, "milli": 1e3}.get(argument, 1e6)
    return str(int(entry.seconds * factor))


def _begun(entry: Entry, argument: str) -> str:
    return show_time(entry.began, argument) if argument else entry.begun()


def _begun_bracketed(entry: Entry, argument: str) -> str:
    return _begun(entry, argument) if argument else f"[{entry.begun()}]"


def _written(entry: Entry, argument: str) -> str:
    return show_time(entry.began + entry.seconds, argument or "%d/%b/%Y:%H:%M:%S %z")


def _cpu(entry: Entry, argument: str) -> str:
    """Percent of the request's duration, as php-fpm counts it."""
    used = (entry.cpu_user if argument != "system" else 0.0) + (entry.cpu_system if argument != "user" else 0.0)
    return f"{100.0 * used / entry.seconds:.2f}" if entry.seconds > 0.0 else "0.00"


def _memory(_entry: Entry, argument: str) -> str:
    """The most memory that this worker ever had (ru_maxrss): no system counts it by request."""
    return str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // int(argument))


def _query(entry: Entry, _argument: str) -> str:
    return entry.uri.partition("?")[2]


def _question_and_query(entry: Entry, _argument: str) -> str:
    _, mark, query = entry.uri.partition("?")
    return mark + query


CLIENTS: Final[dict[str, Getter]] = {
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
OURS: Final[dict[str, Getter]] = {
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
CONSTANT: Final = frozenset(("nothing", "pool", "pid", "parent_pid"))
MAY_BE_EMPTY: Final = frozenset(("query", "question_mark", "question_and_query"))

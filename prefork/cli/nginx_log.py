"""nginx's error log, as far as it speaks of upstreams: one line in, one complaint out. Pure text work.

    2026/11/20 12:00:01 [error] 812#812: *7 connect() to unix:/run/app.sock failed (11: Resource temporarily
    unavailable) while connecting to upstream, client: 192.0.2.7, server: example.org, request: "GET /orders
    HTTP/1.1", upstream: "fastcgi://unix:/run/app.sock:", host: "example.org"

What stands in the quotes was chosen by strangers, and nginx escapes only what would break the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

__all__ = ["Complaint", "read_line"]

_LINE: Final = re.compile(
    r"^(?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[(?P<level>[a-z]+)\] \d+#\d+: (?:\*\d+ )?(?P<text>.*)$", re.DOTALL
)
# Where the facts begin that nginx appends to every message about a request (ngx_http_log_error_handler).
_FACTS: Final = re.compile(r", client: [^,]*, server: ")
_REQUEST: Final = re.compile(r', request: "(?P<request>(?:[^"\\]|\\.)*)"')
_UPSTREAM: Final = re.compile(r', upstream: "(?P<upstream>[^"]*)"')
_ERRNO: Final = re.compile(r"\((?P<number>\d+): [^)]*\)")
_SOCKET: Final = re.compile(r"unix:(?P<path>[^:\"]+)")
_SOCKET_AND_URI: Final = re.compile(r"unix:(?P<all>/[^\"]*)")  # what a timeout names
_NAMED_AS_USUAL: Final = re.compile(r"/.*?\.sock(?:et)?(?=[:/]|$)")
_TIMED_OUT: Final = "upstream timed out"
_HOST: Final = re.compile(r"^[a-z]+://(?P<host>[^/]+)")
_TIME: Final = "%Y/%m/%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One line of the log. What the line does not say is empty, or 0."""

    time: datetime  # local time of nginx's machine, to the second
    level: str
    message: str  # without the facts about the request
    errno: int
    upstream: str  # the path of a Unix socket, or host:port
    request: str  # "GET /orders HTTP/1.1"

    @property
    def method_and_path(self) -> str:
        """The request without its query, which tells requests apart that are alike."""
        words = self.request.split(" ")
        return " ".join([words[0], words[1].partition("?")[0]]) if len(words) > 1 else ""


def read_line(line: str) -> Complaint | None:
    """What a line of nginx's error log says; None for one that is none."""
    found = _LINE.match(line.rstrip("\r\n"))
    if found is None:
        return None
    try:
        # nginx writes local time and does not say which.
        time = datetime.strptime(found["time"], _TIME)  # noqa: DTZ007
    except ValueError:
        return None
    text = found["text"]
    cut = _FACTS.search(text)
    message, facts = (text, "") if cut is None else (text[: cut.start()], text[cut.start() :])
    number = _ERRNO.search(message)
    request = _REQUEST.search(facts)
    asked = request["request"] if request is not None else ""
    return Complaint(
        time=time,
        level=found["level"],
        message=message,
        errno=int(number["number"][:6]) if number is not None else 0,
        upstream=_upstream(message, facts, asked),
        request=asked,
    )


def _upstream(message: str, facts: str, request: str) -> str:
    named = _UPSTREAM.search(facts)
    text = named["upstream"] if named is not None else message
    together = _SOCKET_AND_URI.search(text) if message.startswith(_TIMED_OUT) else None
    if together is not None:
        return _without_uri(together["all"].removesuffix(":"), request.split(" ")[1:2])
    socket = _SOCKET.search(text)
    if socket is not None:
        return socket["path"].partition(" failed ")[0].strip()
    host = _HOST.match(text)
    return host["host"] if host is not None else ""


def _without_uri(text: str, asked: list[str]) -> str:
    """The socket of "/run/app.sock/orders", which nginx writes without a colon where the time was up.

    By its name, else by what was ``asked``: the URI that nginx sends ends as that does.
    """
    usual = _NAMED_AS_USUAL.match(text)
    if usual is not None:
        return usual[0]
    cuts = [at for at, character in enumerate(text) if at and character == "/"]
    return next((text[:at].removesuffix(":") for at in cuts if asked and asked[0].endswith(text[at:])), text)

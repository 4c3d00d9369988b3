"""The pages of a server, as a WSGI application that can change nothing.

    /            the live page
    /status      php-fpm's page: ?json ?xml ?html ?openmetrics, &full for the workers, &pool=NAME for one of several
    /recent      what happened lately, as JSON: episodes of saturation, slow requests, deaths
    /metrics     OpenMetrics
    /ping        the ping's response: this process answers
    /healthz     200 while clients can be served, else 503 with the reasons

What is shown was published by the master on a page of shared memory: a pool whose workers are all busy is shown by a
process that is none of them, and a master that hangs is shown as one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from prefork.status.openmetrics import as_openmetrics
from prefork.status.render import CONTENT_TYPES, as_html, as_json, as_text, as_xml

__all__ = ["Pages"]

_FORMATS: Final = ("json", "xml", "html", "openmetrics")
_OPENMETRICS: Final = "openmetrics"
_PHP_FPM: Final = {"text": as_text, "xml": as_xml, "html": as_html}

_STALE: Final = 5.0
"""Seconds after which a master that has published nothing is said to hang: it does so once a second at least."""

# php-fpm's page in HTML has a style of its own.
_NO_SCRIPTS: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

_Answer = tuple[str, str, bytes]  # status, content type, body
_TEXT: Final = CONTENT_TYPES["text"]
_UNKNOWN: Final = ("503 Service Unavailable", _TEXT, b"the master has not said anything yet\n")


class Pages:
    """The application. ``read`` returns what the master published last; None while it has not.

    That are lines of JSON: the document, and the processes of each of its pools.

    ``clock`` is the monotonic one, the master's. With ``only`` it knows of one pool.
    """

    def __init__(
        self,
        read: Callable[[], bytes | None],
        clock: Callable[[], float],
        ping_response: str = "pong",
        *,
        only: str | None = None,
    ) -> None:
        self._read = read
        self._clock = clock
        self._only = only
        self._ping_response = ping_response
        self._paths: dict[str, Callable[[Mapping[str, str]], _Answer]] = {
            "/": self._page,
            "/status": self._status,
            "/recent": self._recent,
            "/metrics": self._metrics,
            "/ping": self._ping,
            "/healthz": self._health,
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a GET or HEAD; nothing else has a meaning here."""
        headers = []
        show = self._paths.get(environ.get("PATH_INFO", "") or "/")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            answer: _Answer = ("405 Method Not Allowed", _TEXT, b"these pages can only be read\n")
            headers.append(("Allow", "GET, HEAD"))
        elif show is None:
            answer = ("404 Not Found", _TEXT, ("there are " + " ".join(self._paths) + "\n").encode())
        else:
            answer = show(dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)))
        status, kind, body = answer
        # As php-fpm: what is true now is not to be kept by anybody.
        headers += [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-cache, no-store, must-revalidate, max-age=0"),
            ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Content-Security-Policy", _policy() if body is _page() else _NO_SCRIPTS),
        ]
        start_response(status, headers)
        return [body]

    def _document(self) -> dict[str, Any] | None:
        published = self._read()
        return None if published is None else json.loads(published.partition(b"\n")[0])

    def _page(self, _query: Mapping[str, str]) -> _Answer:
        return "200 OK", CONTENT_TYPES["html"], _page()

    def _status(self, query: Mapping[str, str]) -> _Answer:
        published = self._read()
        if published is None:
            return _UNKNOWN
        document, *processes = published.split(b"\n")
        pools = list(zip(json.loads(document)["pools"], processes, strict=True))
        wanted = query.get("pool") if self._only is None else self._only
        if wanted is not None:
            pools = [(pool, line) for pool, line in pools if pool["pool"] == wanted]
            if not pools:
                return "404 Not Found", _TEXT, b"there is no pool of that name\n"
        return _show_status(pools, query)

    def _recent(self, _query: Mapping[str, str]) -> _Answer:
        document = self._document()
        return _UNKNOWN if document is None else ("200 OK", CONTENT_TYPES["json"], _json(document["recent"]))

    def _metrics(self, _query: Mapping[str, str]) -> _Answer:
        document = self._document()
        if document is None:
            return _UNKNOWN
        return "200 OK", CONTENT_TYPES[_OPENMETRICS], as_openmetrics(document["pools"]).encode()

    def _ping(self, _query: Mapping[str, str]) -> _Answer:
        return "200 OK", _TEXT, self._ping_response.encode()

    def _health(self, _query: Mapping[str, str]) -> _Answer:
        document = self._document()
        problems = ["the master has not said anything yet"] if document is None else list(document["problems"])
        if document is not None:
            silent = self._clock() - document["published"]
            if silent > _STALE:
                problems.append(f"the master has said nothing for {silent:.0f} s")
        if problems:
            return "503 Service Unavailable", _TEXT, "".join(f"{problem}\n" for problem in problems).encode()
        return "200 OK", _TEXT, b"ok\n"


def _show_status(published: Sequence[tuple[dict[str, Any], bytes]], query: Mapping[str, str]) -> _Answer:
    """php-fpm's page of these pools, in the format that its query asks for; each with its processes, as JSON."""
    chosen = next((name for name in _FORMATS if name in query), "text")
    full = "full" in query
    pools = [pool for pool, _ in published]
    if chosen == "json":
        body = _splice(published) if full else as_json(pools)
    elif chosen == _OPENMETRICS:
        body = as_openmetrics(pools)
    else:
        for pool, processes in published if full else ():
            pool["processes"] = json.loads(processes)
        body = _PHP_FPM[chosen](pools, full=full)
    return "200 OK", CONTENT_TYPES[chosen], body.encode("utf-8", "backslashreplace")


def _splice(published: Sequence[tuple[dict[str, Any], bytes]]) -> str:
    """As `as_json`, full, without a look at the processes: a live page asks for them every second."""
    shown = [f'{as_json([pool])[:-1]}, "processes": {processes.decode()}}}' for pool, processes in published]
    return shown[0] if len(shown) == 1 else f'{{"pools": [{", ".join(shown)}]}}'


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


@cache
def _page() -> bytes:
    return Path(__file__).with_name("page.html").read_bytes()


@cache
def _policy() -> str:
    """The page's own script and style by their digests, and data from where the page came: nothing else may run."""
    page = _page().decode()
    digests = {tag: _digests(page, tag) for tag in ("script", "style")}
    return (
        f"default-src 'none'; script-src {digests['script']}; style-src {digests['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digests(page: str, tag: str) -> str:
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)

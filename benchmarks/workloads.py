"""What the servers are asked to do, as a table. Every answer that is looked at must be the right one.

The floor takes part where a constant can be the right answer, PHP wherever no Python is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.servers import Server, Speaks

__all__ = ["DOWNLOAD_SIZE", "WORKLOADS", "Workload", "takes_part", "text"]

DOWNLOAD_SIZE: Final = 5 * 1_048_576
_UPLOAD_SIZE: Final = 1_048_576

# With Host, which wrk adds, these make 27 of Debian's fastcgi_params.
_BROWSER: Final = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br",
    "Referer: https://www.example.org/shop/chairs?page=2&order=price",
    "Cookie: sessionid=0123456789abcdefghijklmnopqrstuv; csrftoken=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef",
    "Upgrade-Insecure-Requests: 1",
)

_ALL: Final = frozenset(Speaks)
_PAGES: Final = frozenset((Speaks.WSGI, Speaks.PHP))
_PYTHON: Final = frozenset((Speaks.WSGI,))


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request.

    ``size`` is that of the answer in bytes, 0 if it is not known before. ``upload``: bytes that are sent with each.
    """

    name: str
    what: str
    module: str
    path: str
    holds: bytes  # what the answer must contain
    size: int = 0
    headers: tuple[str, ...] = ()
    upload: int = 0
    logged: bool = False
    servers: frozenset[Speaks] = _PAGES

    def is_right(self, body: bytes) -> bool:
        """Whether this is the answer."""
        return self.holds in body and len(body) == (self.size or len(body))


def text(size: int) -> bytes:
    """The content of every page and file, cut at that many bytes."""
    line = b"Hello, world!\n"
    return (line * (size // len(line) + 1))[:size]


WORKLOADS: Final = (
    Workload("hello", "14 bytes", "hello", "/hello", text(14), 14, servers=_ALL),
    Workload(
        "browser",
        "a browser's headers, 27 FastCGI parameters in all; an answer of 20 KB",
        "browser",
        "/browser",
        text(20_480),
        20_480,
        headers=_BROWSER,
        servers=_ALL,
    ),
    Workload(
        "logged",
        "14 bytes for a browser's headers, with an access log in JSON, written to a file",
        "hello",
        "/hello",
        text(14),
        14,
        headers=_BROWSER,
        logged=True,
    ),
    Workload(
        "django",
        "a page of examples/django_site: a template, a signed cookie, six middlewares",
        "mysite.wsgi",
        "/",
        b"<html",
        headers=_BROWSER[:5],  # without a cookie: every request is a first visit
        servers=_PYTHON,
    ),
    Workload("upload", "a POST of 1 MB, read to its end", "upload", "/upload", b"1048576\n", 8, upload=_UPLOAD_SIZE),
    Workload(
        "download",
        "a file of 5 MB, by wsgi.file_wrapper or readfile()",
        "download",
        "/download",
        text(DOWNLOAD_SIZE),
        DOWNLOAD_SIZE,
    ),
)


def takes_part(server: Server, workload: Workload) -> bool:
    """Whether this server can do that."""
    return server.speaks in workload.servers and not (workload.logged and server.logged is None)

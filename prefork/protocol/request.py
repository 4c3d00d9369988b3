"""What every protocol produces: one request as a CGI environment, finished by the same rules.

The protocols differ in how names and values reach us; what WSGI may rely on does not differ. `finish` turns the
raw parameters of one request into an environ that PEP 3333 and ``wsgiref.validate`` accept for every input:

* ``PATH_INFO`` is derived from ``SCRIPT_NAME`` when the proxy sent none (nginx's stock ``fastcgi_params``), never
  from ``REQUEST_URI``: that one is not normalised, and the proxy matched its access rules on the normalised path.
* ``HTTP_PROXY`` is dropped (httpoxy, CVE-2016-5385), and so are the shadows ``HTTP_CONTENT_LENGTH`` and
  ``HTTP_CONTENT_TYPE``. A message is never framed by ``HTTP_TRANSFER_ENCODING`` or ``HTTP_CONNECTION``.
* A missing or empty ``SERVER_NAME``, ``SERVER_PORT`` or ``SERVER_PROTOCOL`` gets a default; ``CONTENT_LENGTH`` is
  never invented.

Refused with `ProtocolError` (status 400): no method or one that is no token, a length that is not a plain decimal
number, and parameters given twice with different values where that would be ambiguous.

Values are latin-1 text of bytes that the proxy has decoded once already; nothing here decodes again.
"""

from __future__ import annotations

import re
from typing import Any, Final, final

from prefork.errors import ProtocolError

__all__ = ["Request", "finish", "merge_duplicate"]

# RFC 9110 section 9.3 and RFC 5789: known methods need no look at their letters.
_KNOWN_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"))
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2

# Below 10^18: fits 64 bits, and far below the digits where int() itself refuses (sys.int_info).
_MAX_LENGTH_DIGITS: Final = 18

_DROPPED: Final = ("HTTP_PROXY", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE")
_UNAMBIGUOUS: Final = frozenset(("CONTENT_LENGTH", "REQUEST_METHOD", "SCRIPT_NAME"))


@final
class Request:
    """One request whose head is complete.

    ``environ`` is a fresh plain dict, of the ``wsgi.*`` keys with those only that the codec was told to add; ``uri`` is
    as the client wrote it (for logs and the scoreboard), ``content_length`` is -1 when the peer did not say,
    ``scheme`` is ``http`` or ``https``.
    """

    __slots__ = ("content_length", "environ", "method", "scheme", "uri")

    def __init__(self, environ: dict[str, Any], method: str, uri: str, content_length: int, scheme: str) -> None:
        self.environ = environ
        self.method = method
        self.uri = uri
        self.content_length = content_length
        self.scheme = scheme


def merge_duplicate(name: str, first: str, second: str) -> str:
    """The value of a parameter that came twice (nginx before 1.23 sends repeated headers that way).

    Headers are joined as RFC 9110 section 5.3 joins them, cookies as RFC 6265 section 5.4 does; other parameters
    keep the last value. Raises `ProtocolError` where two different values would be ambiguous.
    """
    if name in _UNAMBIGUOUS:
        if first != second:
            raise ProtocolError(f"{name} was sent twice with different values: {first[:80]!r} and {second[:80]!r}")
        return second
    if name == "HTTP_COOKIE":
        return f"{first}; {second}"
    if name.startswith("HTTP_"):
        return f"{first}, {second}"
    return second


def finish(environ: dict[str, Any]) -> Request:
    """Complete the parameters of one request, in place, and read from them what the server itself must know.

    Raises `ProtocolError` for a request that no application should see.
    """
    try:
        method: str = environ["REQUEST_METHOD"]
        uri: str = environ["REQUEST_URI"]
        length: str = environ["CONTENT_LENGTH"]
        said: str = environ["REQUEST_SCHEME"]
        script: str = environ["SCRIPT_NAME"]
    except KeyError:  # nginx's stock parameters have them all
        method = environ.get("REQUEST_METHOD", "")
        uri = environ.get("REQUEST_URI", "")
        length = environ.get("CONTENT_LENGTH", "")
        said = environ.get("REQUEST_SCHEME", "")
        script = environ.get("SCRIPT_NAME", "")
    if method not in _KNOWN_METHODS and _TOKEN.fullmatch(method) is None:
        raise ProtocolError(f"REQUEST_METHOD must be a token (RFC 9110), found {method[:80]!r}")
    if "HTTP_PROXY" in environ or "HTTP_CONTENT_LENGTH" in environ or "HTTP_CONTENT_TYPE" in environ:
        for name in _DROPPED:
            environ.pop(name, None)
    _finish_path(environ, script)
    scheme = "http"
    if said == "https" or ("HTTPS" in environ and environ["HTTPS"].lower() in ("on", "1")):
        scheme = "https"
    if "QUERY_STRING" not in environ:
        environ["QUERY_STRING"] = ""
    try:
        is_complete = environ["SERVER_NAME"] and environ["SERVER_PORT"] and environ["SERVER_PROTOCOL"]
    except KeyError:
        is_complete = False
    if not is_complete:
        _finish_server(environ, scheme)
    return Request(environ, method, uri or _uri(environ), _content_length(length) if length else -1, scheme)


def _finish_server(environ: dict[str, Any], scheme: str) -> None:
    port = "443" if scheme == "https" else "80"
    for name, default in (("SERVER_NAME", "localhost"), ("SERVER_PORT", port), ("SERVER_PROTOCOL", "HTTP/1.0")):
        environ[name] = environ.get(name) or default


def _finish_path(environ: dict[str, Any], script: str) -> None:
    """Make SCRIPT_NAME + PATH_INFO the path as PEP 3333 wants it: each empty or beginning with a slash."""
    if "PATH_INFO" not in environ:
        path: str = script or environ.get("DOCUMENT_URI", "")
        script = ""
    else:
        path = environ["PATH_INFO"]
        if script == "/":
            script = ""
        elif script and script[0] != "/":
            script = "/" + script
    if not path:
        # An empty path is right below a mount point only; at the root RFC 9110 section 4.2.3 makes it "/".
        path = "" if script else "/"
    elif path[0] != "/":
        path = "/" + path
    environ["SCRIPT_NAME"] = script
    environ["PATH_INFO"] = path


def _content_length(text: str) -> int:
    # isdigit() alone also accepts superscripts, and int() accepts "+10", " 10" and "1_0".
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS):
        raise ProtocolError(f"CONTENT_LENGTH must be a decimal number below 10^18, found {text[:80]!r}")
    return int(text)


def _uri(environ: dict[str, Any]) -> str:
    path: str = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    query: str = environ["QUERY_STRING"]
    return f"{path}?{query}" if query else path

"""The head of an HTTP request as a CGI environment: fields under CGI's names, the target, the host, what a proxy says.

For heads whose grammar is known to be right; what is refused here (`ProtocolError`) is what a right grammar allows.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from prefork.errors import ProtocolError
from prefork.protocol.request import merge_duplicate

__all__ = ["believe_proxy", "environ_key", "read_fields", "set_target", "split_host"]

# RFC 9110 section 7.2: uri-host [ ":" port ]; a name of RFC 3986, or an address in brackets.
_HOST: Final = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
_ABSOLUTE: Final = re.compile(r"https?://([^/?]*)([^?]*)(.*)", re.IGNORECASE | re.DOTALL)
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_MAX_HOSTS: Final = 256
_HOSTS: Final[dict[str, tuple[str, str]]] = {}

_COMMON: Final = (
    "Accept",
    "Accept-Charset",
    "Accept-Encoding",
    "Accept-Language",
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "DNT",
    "Expect",
    "Forwarded",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Origin",
    "Pragma",
    "Priority",
    "Proxy",
    "Range",
    "Referer",
    "Sec-CH-UA",
    "Sec-CH-UA-Mobile",
    "Sec-CH-UA-Platform",
    "Sec-Fetch-Dest",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-Fetch-User",
    "TE",
    "Transfer-Encoding",
    "Upgrade",
    "Upgrade-Insecure-Requests",
    "User-Agent",
    "Via",
    "X-CSRFToken",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Request-ID",
    "X-Request-Start",
    "X-Requested-With",
)

# Two of these would leave open which one counts.
_ONCE: Final = frozenset(("HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"))


def environ_key(name: str) -> str:
    """The key for a field's name; empty for one that no application may see."""
    if "_" in name:
        return ""  # X_Forwarded_For would pass for X-Forwarded-For
    key = name.upper().replace("-", "_")
    if key == "PROXY":
        return ""  # HTTP_PROXY is a variable that HTTP clients obey (CVE-2016-5385)
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + key


# As clients and proxies write the usual ones, in HTTP/1.1 and as HTTP/2 leaves them.
_KNOWN: Final[dict[str, str]] = {
    spelling: environ_key(name) for name in _COMMON for spelling in (name, name.title(), name.lower())
}


def _joined(key: str, first: str, second: str) -> str:
    """The value of a field that came twice. Raises `ProtocolError` where that is ambiguous."""
    if key in _ONCE:
        raise ProtocolError(f"{key} was sent twice: {first[:80]!r} and {second[:80]!r}")
    return merge_duplicate(key, first, second)


def split_host(host: str) -> tuple[str, str]:
    """A Host field's name and port, remembered: a server has few names."""
    known = _HOSTS.get(host)
    if known is not None:
        return known
    found = _HOST.fullmatch(host)
    if found is None:
        raise ProtocolError(f"Host must be a name or an address, perhaps with a port, found {host[:80]!r}")
    if len(_HOSTS) >= _MAX_HOSTS:
        _HOSTS.clear()
    known = _HOSTS[host] = (found[1], found[2] or "")
    return known


def read_fields(lines: list[str]) -> dict[str, Any]:
    """The header fields under their names in the environ."""
    environ: dict[str, Any] = {}
    for index in range(1, len(lines)):
        line = lines[index]
        colon = line.find(":")
        name = line[:colon]
        key = _KNOWN.get(name)
        if key is None:
            key = environ_key(name)
        if not key:
            continue
        value = line[colon + 1 :].strip(" \t")
        environ[key] = _joined(key, environ[key], value) if key in environ else value
    return environ


def believe_proxy(environ: dict[str, Any]) -> str:
    """What the nearest proxy says of the client: REMOTE_ADDR is set, the scheme returned."""
    chain: str | None = environ.get("HTTP_X_FORWARDED_FOR")
    if chain is not None:
        address = chain.rpartition(",")[2].strip(" \t")
        if _ADDRESS.fullmatch(address) is not None:
            environ["REMOTE_ADDR"] = address
            environ.pop("REMOTE_PORT", None)
    claimed: str | None = environ.get("HTTP_X_FORWARDED_PROTO")
    if claimed is not None and claimed.rpartition(",")[2].strip(" \t").lower() == "https":
        return "https"
    return "http"


def set_target(environ: dict[str, Any], method: str, target: str) -> None:
    """PATH_INFO, decoded once, and QUERY_STRING, as it is."""
    path = target
    if target[:1] != "/" or method == "CONNECT":
        if target == "*" and method == "OPTIONS":
            path = "/"
        else:
            found = _ABSOLUTE.fullmatch(target)
            if found is None or method == "CONNECT" or "@" in found[1] or not found[1]:
                raise ProtocolError(f"a target is a path or an http URL, found {method} {target[:80]!r}")
            environ["HTTP_HOST"] = found[1]  # RFC 9112 section 3.2.2
            path = (found[2] or "/") + found[3]
    if "#" in target:
        raise ProtocolError(f"a target has no fragment, found {target[:80]!r}")
    path, _, environ["QUERY_STRING"] = path.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
        if "\0" in path:
            raise ProtocolError("the path contains a NUL byte")
    environ["PATH_INFO"] = path

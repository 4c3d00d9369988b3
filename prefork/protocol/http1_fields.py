"""Header fields of HTTP under the names that CGI gives them."""

from __future__ import annotations

from typing import Final

from prefork.errors import ProtocolError
from prefork.protocol.request import merge_duplicate

__all__ = ["KNOWN", "environ_key", "joined"]

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
KNOWN: Final[dict[str, str]] = {
    spelling: environ_key(name) for name in _COMMON for spelling in (name, name.title(), name.lower())
}


def joined(key: str, first: str, second: str) -> str:
    """The value of a field that came twice. Raises `ProtocolError` where that is ambiguous."""
    if key in _ONCE:
        raise ProtocolError(f"{key} was sent twice: {first[:80]!r} and {second[:80]!r}")
    return merge_duplicate(key, first, second)

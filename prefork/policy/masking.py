"""What stands for a secret where traffic is shown: names decide, and what they name becomes ``***``.

* Headers and parameters: authorization, cookies (their names stay, and so does the scheme of an authorization), and
  whatever is called a password, a token, a secret, a key of an API or the like.
* In every value, so in URIs wherever they stand: parameters of a query by the same names, percent-encoded or not, and
  the password before a host.
* Bodies: the same names in a form, in JSON, and in multipart form data.

A secret under an innocent name is not recognised, nor is one in a path.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["MASK", "mask_body", "mask_field", "mask_query"]

MASK: Final = "***"

_WORDS: Final = (
    r"passw|passphrase|pwd|secret|token|credential|signature|authori[sz]ation|cookie|session_?id|api_?key|access_?key|"
    r"private_?key|code_verifier|client_assertion|(?:^|_)(?:pw|pin|otp|sid|sig|jwt)$|^key$"
)
_SECRET: Final = re.compile(_WORDS, re.IGNORECASE)
_SCHEMES: Final = frozenset(("basic", "bearer", "digest", "negotiate", "ntlm", "token", "apikey", "hmac"))

_ORDINARY: Final = 0
_SENT_COOKIES: Final = 1
_SET_COOKIE: Final = 2
_AUTHORIZATION: Final = 3
_OTHER_SECRET: Final = 4

# A name is tried from its beginning only, so that no text takes longer than its length.
_PAIR: Final = re.compile(r"(?<![^?&;=#\s\"'<>])(?P<name>[^?&;=#\s\"'<>]+)=(?P<quote>[\"']?)[^&;#\s\"'<>]+")
_USER: Final = re.compile(r"(://[^/@:\s]*):[^/@\s]+@")
_JSON: Final = re.compile(r'"(?P<name>[^"\\]+)"(?P<colon>\s*:\s*)(?:"(?:[^"\\]|\\.)*"?|[^\s,{}\[\]"]+)')
_PART: Final = re.compile(r'\bname="(?P<name>[^"\r\n]+)"')
_PART_HEAD_END: Final = "\r\n\r\n"
_PART_END: Final = "\r\n--"


def mask_field(name: str, value: str) -> str:
    """The value of a header or parameter; its name as in an environ (``HTTP_COOKIE``) or on the wire (``Cookie``)."""
    kind = _kind_of(name)
    if kind == _ORDINARY:
        return mask_query(value)
    if kind == _SENT_COOKIES:
        return "; ".join(_mask_cookie(part) for part in value.split(";"))
    if kind == _SET_COOKIE:
        first, semicolon, rest = value.partition(";")
        return _mask_cookie(first) + semicolon + rest
    if kind == _AUTHORIZATION:
        scheme, space, _ = value.partition(" ")
        return f"{scheme} {MASK}" if space and scheme.lower() in _SCHEMES else MASK
    return MASK if value else ""


def mask_query(text: str) -> str:
    """A URI, a query, or any other text in which parameters may stand."""
    if "@" in text:
        text = _USER.sub(rf"\1:{MASK}@", text)
    return _PAIR.sub(_mask_pair, text) if "=" in text else text


def mask_body(text: str) -> str:
    """A body, or the beginning of one."""
    text = _mask_parts(text)
    text = _JSON.sub(_mask_member, text)
    return mask_query(text)


@lru_cache(maxsize=512)
def _kind_of(name: str) -> int:
    plain = name.replace("-", "_").upper().removeprefix("HTTP_")
    if plain in ("COOKIE", "COOKIE2"):
        return _SENT_COOKIES
    if plain in ("SET_COOKIE", "SET_COOKIE2"):
        return _SET_COOKIE
    if plain in ("AUTHORIZATION", "PROXY_AUTHORIZATION"):
        return _AUTHORIZATION
    return _OTHER_SECRET if _is_secret(plain) else _ORDINARY


@lru_cache(maxsize=512)
def _is_secret(name: str) -> bool:
    if "%" in name or "+" in name:
        name = unquote_to_bytes(name.replace("+", "_")).decode("latin-1")
    return _SECRET.search(name.replace("-", "_").replace(".", "_")) is not None


def _mask_cookie(pair: str) -> str:
    name, equals, _ = pair.strip().partition("=")
    return f"{name}={MASK}" if equals else MASK


def _mask_pair(found: re.Match[str]) -> str:
    return f"{found['name']}={found['quote']}{MASK}" if _is_secret(found["name"]) else found[0]


def _mask_member(found: re.Match[str]) -> str:
    return f'"{found["name"]}"{found["colon"]}"{MASK}"' if _is_secret(found["name"]) else found[0]


def _mask_parts(text: str) -> str:
    pieces: list[str] = []
    done = 0
    for found in _PART.finditer(text):
        if found.start() < done or not _is_secret(found["name"]):
            continue
        start = text.find(_PART_HEAD_END, found.end())
        if start < 0:
            break
        start += len(_PART_HEAD_END)
        end = text.find(_PART_END, start)
        pieces += [text[done:start], MASK]
        done = len(text) if end < 0 else end
    return "".join((*pieces, text[done:]))

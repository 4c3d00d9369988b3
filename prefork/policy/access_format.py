"""What a line of the access log is made of: the operator's format, taken apart.

A format is a name (``combined``, ``common``, ``json``) or a template with the tokens of php-fpm's ``access.format`` and
Apache's ``LogFormat``. Most tokens mean the same to both or are known to one of them, and may stand side by side. Seven
letters mean different things (``%l %p %P %q %r %t %T``): they have Apache's meaning in a template that also has a
token only Apache knows (``%h``, ``%>s``, ``%{Referer}i`` …), and php-fpm's otherwise. A template may say which it is
by beginning with ``apache:`` or ``php-fpm:``; one that has tokens of both and an ambiguous one must.

`parse` says what a format means or raises ValueError with what was expected; nothing here knows a request.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["NAMED", "AccessFormat", "Piece", "parse"]

NAMED: Final = {
    "combined": 'apache:%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"',
    "common": 'apache:%h %l %u %t "%r" %>s %b',
}

_JSON: Final = "json"
_DIALECTS: Final = ("apache:", "php-fpm:")

# token → what it stands for; those with an argument in braces end in "{}" where they need one.
_BOTH: Final = {
    "%": "percent",
    "s": "status",
    "m": "method",
    "u": "user",
    "f": "script",
    "L": "request_id",
    "{}e": "variable",
    "{}o": "response_header",
}
_APACHE_ONLY: Final = {
    ">s": "status",
    "h": "remote_addr",
    "a": "remote_addr",
    "b": "bytes_or_nothing",
    "B": "bytes",
    "D": "duration:micro",
    "H": "protocol",
    "U": "path",
    "v": "server_name",
    "V": "server_name",
    "{}i": "request_header",
}
_PHP_ONLY: Final = {
    "C": "cpu",
    "d": "duration",
    "M": "memory",
    "n": "pool",
    "Q": "question_mark",
    "R": "remote_addr",
}
_AS_APACHE: Final = {
    "l": "nothing",
    "p": "server_port",
    "P": "pid",
    "q": "question_and_query",
    "r": "request_line",
    "t": "begun_bracketed",
    "T": "whole_seconds",
}
_AS_PHP: Final = {
    "l": "length",
    "p": "pid",
    "P": "parent_pid",
    "q": "query",
    "r": "path",
    "t": "begun",
    "T": "written",
}

_MILLI: Final = dict.fromkeys(("miliseconds", "milliseconds", "mili", "milli", "ms"), "milli")
_MICRO: Final = dict.fromkeys(("microseconds", "micro", "us"), "micro")
_SECONDS: Final = dict.fromkeys(("seconds", "s", ""), "seconds")
# What may stand in the braces, where not everything may: spellings → meaning.
_ARGUMENTS: Final = {
    "duration": _SECONDS | _MILLI | _MICRO,
    "whole_seconds": _SECONDS | _MILLI | _MICRO,
    "cpu": {"": "total", "total": "total", "user": "user", "system": "system"},
    "memory": {
        "": "1", "bytes": "1", "kilobytes": "1024", "kilo": "1024", "megabytes": "1048576", "mega": "1048576",
    },
}  # fmt: skip
_FREE: Final = ("begun", "begun_bracketed", "written")  # strftime(3)
_HEADER: Final = ("variable", "response_header", "request_header")

_TOKEN: Final = re.compile(r"%(?:\{([^{}]*)\})?(>?[A-Za-z%])")


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a line: ``what`` it is ("literal" or the meaning of a token), and the token's argument."""

    what: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class AccessFormat:
    """A format, taken apart; ``json`` ones have no pieces."""

    pieces: tuple[Piece, ...]
    json: bool = False


def parse(text: str) -> AccessFormat:
    """Take a format apart. Raises ValueError whose message says what was expected."""
    if text == _JSON:
        return AccessFormat((), json=True)
    template = NAMED.get(text, text)
    if "%" not in template:
        near = difflib.get_close_matches(text, [*NAMED, _JSON], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"combined, common, json, or a template with tokens like %h or %R{hint}")
    if any(character < " " and character != "\t" for character in template):
        raise ValueError("one line: a template without control characters, but for tabs")
    dialect = next((dialect for dialect in _DIALECTS if template.startswith(dialect)), "")
    return AccessFormat(_pieces(template.removeprefix(dialect), dialect))


def _pieces(template: str, dialect: str) -> tuple[Piece, ...]:
    tokens = _tokens(dialect or _guess(template))
    pieces: list[Piece] = []
    position = 0
    for match in _TOKEN.finditer(template):
        _check_literal(template[position : match.start()], position)
        if match.start() > position:
            pieces.append(Piece("literal", template[position : match.start()]))
        pieces.append(_piece(match, tokens))
        position = match.end()
    _check_literal(template[position:], position)
    if position < len(template):
        pieces.append(Piece("literal", template[position:]))
    return tuple(pieces)


def _guess(template: str) -> str:
    found = {("{}" if match[1] is not None else "") + match[2] for match in _TOKEN.finditer(template)}
    letters = {token.removeprefix("{}") for token in found}
    apache = sorted(found & _APACHE_ONLY.keys())
    php = sorted(letters & _PHP_ONLY.keys())
    doubtful = sorted(letters & _AS_PHP.keys())
    if apache and php and doubtful:
        raise ValueError(
            f'a template that begins with "apache:" or "php-fpm:": %{doubtful[0]} means something else to each, '
            f"and %{apache[0]} is Apache's while %{php[0]} is php-fpm's"
        )
    return _DIALECTS[0] if apache else _DIALECTS[1]


def _tokens(dialect: str) -> dict[str, str]:
    return _BOTH | _APACHE_ONLY | _PHP_ONLY | (_AS_APACHE if dialect == _DIALECTS[0] else _AS_PHP)


def _check_literal(text: str, position: int) -> None:
    lonely = text.find("%")
    if lonely >= 0:
        raise ValueError(f"%% for a percent sign, and a token after any other % (character {position + lonely + 1})")


def _piece(match: re.Match[str], tokens: dict[str, str]) -> Piece:
    token = match[0]
    argument: str = match[1] or ""
    what = tokens.get("{}" + match[2]) or tokens.get(match[2])
    if what is None:
        raise ValueError(f"tokens of php-fpm or Apache that this version knows, and {token} is none")
    what, _, fixed = what.partition(":")
    if what == "percent" and not argument:
        return Piece("literal", "%")
    if fixed and not argument:
        return Piece(what, fixed)
    if what in _HEADER:
        if not re.fullmatch(r"[!#$&'*+\-.^_`|~0-9A-Za-z]+", argument):
            raise ValueError(f"a name in the braces of {token}, as %{{Referer}}i or %{{QUERY_STRING}}e")
        return Piece(what, argument)
    if what in _ARGUMENTS:
        meaning = _ARGUMENTS[what].get(argument)
        if meaning is None:
            raise ValueError(f"{', '.join(filter(None, _ARGUMENTS[what]))} in the braces of {token}")
        return Piece(what, meaning)
    if argument and what not in _FREE:
        raise ValueError(f"%{match[2]}, which takes nothing in braces, instead of {token}")
    return Piece(what, argument)

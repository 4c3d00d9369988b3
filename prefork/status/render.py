"""A status in the formats of php-fpm's page: text, json, xml, html.

A value may be a number, a text, None (unknown) or, for what php-fpm does not have, a mapping. Texts come from strangers
(a request's path is whatever they sent) and are escaped for every format.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from html import escape
from typing import Any, Final

from prefork.status.fields import FIELDS, HISTOGRAM, TIME

__all__ = ["CONTENT_TYPES", "as_html", "as_json", "as_text", "as_xml", "summary", "without_processes"]

CONTENT_TYPES: Final = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "xml": "application/xml; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}

_Status = Mapping[str, Any]

_RULE: Final = "*" * 24
_PROCESSES: Final = "processes"
_MAY_BE_NONE: Final = ("request ", "last request ", "content ", "user", "peer")  # of a process: there may be no request
_IN_TEXT: Final = {"request uri": "request URI"}  # as php-fpm spells it there, and only there
_PLAIN: Final = (int, str, float)
_TIMES: Final = frozenset(("request start", *(field.key for field in FIELDS if field.kind == TIME)))
_HISTOGRAMS: Final = frozenset(field.key for field in FIELDS if field.kind == HISTOGRAM)


def without_processes(status: _Status) -> dict[str, Any]:
    """The pool alone."""
    return {key: value for key, value in status.items() if key != _PROCESSES}


def as_json(statuses: Sequence[_Status], *, full: bool = False) -> str:
    """php-fpm's object for one pool; for several, a list of them under "pools"."""
    shown = [dict(status) if full else without_processes(status) for status in statuses]
    return json.dumps(shown[0] if len(shown) == 1 else {"pools": shown}, allow_nan=False)


def as_text(statuses: Sequence[_Status], *, full: bool = False) -> str:
    """Lines of name and value, as php-fpm writes them; ``full`` adds a block for each process."""
    blocks = []
    for status in statuses:
        lines = [_line(key, value) for key, value in _flat(status)]
        for process in status.get(_PROCESSES, ()) if full else ():
            lines += ["", _RULE, *(_line(key, value) for key, value in _flat(process))]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def as_xml(statuses: Sequence[_Status], *, full: bool = False) -> str:
    """Elements named as the fields, with dashes; several pools stand in one ``<pools>``."""
    parts = [_xml_pool(status, full) for status in statuses]
    body = parts[0] if len(parts) == 1 else f"<pools>\n{''.join(parts)}</pools>\n"
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}'


def as_html(statuses: Sequence[_Status], *, full: bool = False) -> str:
    """A table a pool, for a browser; without a script, and without anything from elsewhere."""
    title = ", ".join(str(status.get("pool", "")) for status in statuses)
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}: prefork status</title>"
        "<style>body{font:15px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse;margin-bottom:2em}"
        "th,td{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid #8884;vertical-align:top}"
        "td.n{text-align:right}.w{overflow-x:auto}:root{color-scheme:light dark}</style></head><body>\n"
        + "".join(_html_pool(status, full) for status in statuses)
        + "</body></html>\n"
    )


def summary(value: Mapping[str, Any]) -> str:
    """A mapping in one line: a histogram by its count and mean, numbers by cause as "3 oom, 1 exit status 1"."""
    if "bounds" in value:
        count = sum(value["counts"])
        return f"{count}, mean {value['sum'] / count:.4f} s" if count else "0"
    return ", ".join(f"{number} {cause}" for cause, number in value.items()) or "0"


def _flat(status: _Status) -> Iterator[tuple[str, str]]:
    for key, value in status.items():
        if key != _PROCESSES:
            yield key, _spell(key, value)


def _spell(key: str, value: Any) -> str:
    if type(value) in _PLAIN and key not in _TIMES:  # nearly everything in a list of a thousand processes
        return str(value)
    if value is None:
        return _nothing(key)
    if isinstance(value, Mapping):
        return summary(value)
    if key in _TIMES:
        return _moment(int(value)) if value else "-"
    if key == "peer" and isinstance(value, list | tuple):
        return _process(*value)
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return str(value)


@cache
def _nothing(key: str) -> str:
    return "-" if key in _TIMES or key.startswith(_MAY_BE_NONE) else "unknown"


@lru_cache(maxsize=1024)
def _moment(seconds: int) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(seconds))


@lru_cache(maxsize=256)
def _process(pid: int, uid: int, gid: int) -> str:
    return f"pid {pid} uid {uid} gid {gid}"


def _line(key: str, value: str) -> str:
    return f"{_label(key)} {_one_line(value)}"


@cache
def _label(key: str) -> str:
    return f"{_IN_TEXT.get(key, key) + ':':<21}"  # php-fpm's column


@cache
def _tags(key: str) -> tuple[str, str]:
    name = key.replace(" ", "-")
    return f"<{name}>", f"</{name}>"


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _code(character) for character in text)


def _escape(text: str) -> str:
    """For HTML and XML."""
    return text if text.isalnum() else escape(text)


def _code(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def _xml_pool(status: _Status, full: bool) -> str:
    lines = [*_xml_elements(status)]
    if full:
        processes = [f"<process>{''.join(_xml_elements(process))}</process>" for process in status.get(_PROCESSES, ())]
        lines.append("<processes>" + "".join(processes) + "</processes>")
    return "<status>\n" + "\n".join(lines) + "\n</status>\n"


def _xml_elements(status: _Status) -> Iterator[str]:
    for key, value in status.items():
        if key == _PROCESSES:
            continue
        begin, end = _tags(key)
        if type(value) is int:
            yield f"{begin}{value}{end}"
        elif isinstance(value, Mapping) and key not in _HISTOGRAMS:
            inner = "".join(
                f'<count name="{_escape(_one_line(str(cause)))}">{number}</count>' for cause, number in value.items()
            )
            yield f"{begin}{inner}{end}"
        else:
            # XML 1.0 has no way at all to write most control characters.
            text = str(value) if key in _TIMES and value is not None else _spell(key, value)
            yield f"{begin}{_escape(_one_line(text))}{end}"


def _html_pool(status: _Status, full: bool) -> str:
    rows = "".join(f"<tr><th>{_escape(key)}</th><td>{_html(value)}</td></tr>\n" for key, value in _flat(status))
    processes = status.get(_PROCESSES, ()) if full else ()
    return f"<table>\n{rows}</table>\n" + (_html_processes(processes) if processes else "")


def _html(text: str) -> str:
    return _escape(_one_line(text))


def _html_processes(processes: Iterable[_Status]) -> str:
    rows = list(processes)
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{_escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join([_cell(name, row[name]) if name in row else "<td></td>" for name in names]) + "</tr>\n"
        for row in rows
    )
    return f'<div class="w"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def _cell(name: str, value: Any) -> str:
    return f"<td>{value if type(value) is int and name not in _TIMES else _html(_spell(name, value))}</td>"

"""What a tap says, read as a stranger's word and made readable. Pure: bytes and numbers in, lines out.

Messages are written by processes that run the application's code (`prefork.worker.tap` names what they say), and what
stands in them is any client's text. Nothing in them is taken for more than it claims to be: of the right type and
size, or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prefork.cli.console import printable

__all__ = ["Transcript", "read_message"]

_Said = dict[str, Any]

_INDENT: Final = " " * 20
_WIDTH: Final = 100  # of the lines that parameters are put together in
_HEADERS: Final = ("CONTENT_TYPE", "CONTENT_LENGTH")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < 2.0**31


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < 2.0**35


def _is_fields(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, list) and len(item) == 2 and _is_text(item[0]) and _is_text(item[1]) for item in value
    )


def _is_peer(value: object) -> bool:
    if isinstance(value, list):
        return len(value) == 3 and all(
            isinstance(item, int) and not isinstance(item, bool) and -1 <= item < 2**32 for item in value
        )
    return value is None or isinstance(value, str)


_KINDS: Final[dict[str, Callable[[object], bool]]] = {
    "what": _is_text,
    "time": _is_moment,
    "slot": _is_count,
    "number": _is_count,
    "lost": _is_count,
    "peer": _is_peer,
    "id": _is_text,
    "method": _is_text,
    "uri": _is_text,
    "protocol": _is_text,
    "connection": _is_count,
    "fields": _is_fields,
    "left_out": _is_count,
    "length": _is_count,
    "waited": _is_seconds,
    "bytes": _is_count,
    "read": _is_count,
    "text": _is_text,
    "whole": lambda value: isinstance(value, bool),
    "own": lambda value: isinstance(value, bool),
    "status": _is_text,
    "seconds": _is_seconds,
    "end": _is_text,
    "failure": _is_text,
    "reason": _is_text,
}
_ALWAYS: Final = ("time", "slot")
_OF_A_REQUEST: Final = ("number", "id", "method", "uri")
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "request": (*_OF_A_REQUEST, "protocol", "fields"),
    "body": (*_OF_A_REQUEST, "bytes", "text", "whole"),
    "head": (*_OF_A_REQUEST, "status", "fields"),
    "answer": (*_OF_A_REQUEST, "bytes", "read", "seconds", "end"),
    "refused": ("status", "reason"),
}


def read_message(data: bytes, pid: int) -> _Said | None:
    """One message and who wrote it, if it is what a worker would write: keys that are known, values as they must be.

    The text of a body is one character a byte on its way, and UTF-8 here as far as it is that.
    """
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("what"), str) or said["what"] not in _NEEDED:
        return None
    if any(key not in said for key in (*_ALWAYS, *_NEEDED[said["what"]])):
        return None
    if not all(key in _KINDS and _KINDS[key](value) for key, value in said.items()):
        return None
    if "text" in said:
        try:
            said["text"] = _decode(said["text"].encode("latin-1"))
        except UnicodeEncodeError:
            return None
    said["pid"] = pid
    return said


def _decode(data: bytes) -> str:
    for cut in range(min(4, len(data))):  # it may end within a character
        try:
            return data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "backslashreplace")


class Transcript:
    """Messages as lines for people, each safe for a terminal. ``brief`` leaves out parameters, headers and bodies."""

    def __init__(self, *, brief: bool = False) -> None:
        self._brief = brief
        self._last: tuple[int, int] | None = None  # which request the last lines were about: pid, number
        self._methods: dict[str, Callable[[_Said], Iterator[str]]] = {
            "request": self._request,
            "body": self._body,
            "head": self._head,
            "answer": self._answer,
            "refused": self._refused,
        }

    def lines(self, said: _Said) -> list[str]:
        """What one message says."""
        found = [printable(line).rstrip() for line in self._methods[said["what"]](said)]
        self._last = _key(said)
        return found

    def loss(self, said: _Said) -> str:
        """What it says about messages that are missing before it."""
        self._last = None
        return _line(said, "…", f"{said['lost']} messages of this worker are missing: they did not fit")

    def death(self, said: _Said, moment: float) -> str:
        """The worker of a request has ended, and nothing was seen of the request's end."""
        self._last = None
        text = f"the worker (pid {said['pid']}) ended in the midst of {said['method']} {said['uri']}"
        return printable(_line({**said, "time": moment}, "✗", text))

    def garbage(self, pid: int, count: int) -> str:
        """A process has written what no worker would write."""
        self._last = None
        times = f"{count} times so far" if count > 1 else "once so far"
        return f"pid {pid} writes into the tap what no worker would ({times}): left out"

    def _request(self, said: _Said) -> Iterator[str]:
        facts = [said["protocol"], *_spell_peer(said), f"id {said['id']}"]
        if "waited" in said:
            facts.append(f"waited {said['waited']:.3f} s")
        if said.get("length"):
            facts.append(f"body {said['length']} bytes")
        yield _line(said, "→", f"{said['method']} {said['uri']}  ({', '.join(facts)})")
        if not self._brief:
            yield from _parameters(said)

    def _body(self, said: _Said) -> Iterator[str]:
        if not self._brief:
            size = f"{said['bytes']} bytes" if said["whole"] else f"the first of {said['bytes']} bytes read so far"
            yield _line(said, "→", f"body, {size}{self._which(said)}")
            yield from _body_lines(said)

    def _head(self, said: _Said) -> Iterator[str]:
        yield _line(said, "←", f"{said['status']} …{self._which(said)}")
        if not self._brief:
            yield from _parameters(said)

    def _answer(self, said: _Said) -> Iterator[str]:
        facts = [said["status"]] if said.get("status") else []
        if said["end"] != "complete" or not facts:
            facts.append(said["end"])
        facts += [f"{said['bytes']} bytes", f"{said['seconds']:.3f} s"]
        if said["read"]:
            facts.append(f"{said['read']} bytes of the body read")
        if said.get("failure"):
            facts.append(f"the application ended in {said['failure']}")
        if said.get("own"):
            facts.append("answered by the server")
        yield _line(said, "←", f"{', '.join(facts)}{self._which(said)}")
        if not self._brief:
            yield from _parameters(said)
            if said.get("text"):
                yield f"{_INDENT}"
                yield from _body_lines(said)

    def _refused(self, said: _Said) -> Iterator[str]:
        facts = [f"{said['status'] or 'not answered'}: {said['reason']}", *_spell_peer(said)]
        if "method" in said:
            facts.append(f"{said['method']} {said.get('uri', '')}, id {said.get('id', '')}")
        yield _line(said, "✗", ", ".join(facts))
        if not self._brief:
            yield from _parameters(said)

    def _which(self, said: _Said) -> str:
        """Which request that is about, unless that was the last one that was shown."""
        return "" if self._last == _key(said) else f"  ({said['method']} {said['uri']}, id {said['id']})"


def _key(said: _Said) -> tuple[int, int] | None:
    return (said["pid"], said["number"]) if "number" in said else None


def _line(said: _Said, sign: str, text: str) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(said["time"]))
    slot = f"#{said['slot']}"
    return f"{moment}.{int(said['time'] * 1000) % 1000:03d} {slot:<4} {sign} {text}"


def _spell_peer(said: _Said) -> list[str]:
    peer = said.get("peer")
    if isinstance(peer, list):
        return [f"pid {peer[0]} uid {peer[1]}"]
    return [f"from {peer}"] if peer else []


def _parameters(said: Mapping[str, Any]) -> Iterator[str]:
    """Headers, one a line, then all other parameters, as many a line as fit."""
    if "protocol" not in said:  # a response has nothing but headers
        for name, value in said.get("fields", ()):
            yield f"{_INDENT}{name}: {value}"
    else:
        others = []
        for name, value in said["fields"]:
            header = _header(name)
            if header and value:
                yield f"{_INDENT}{header}: {value}"
            elif not header:
                others.append(f"{name}={value}")
        yield from _pack(others)
    if said.get("left_out"):
        yield f"{_INDENT}… and {said['left_out']} more"


def _header(name: str) -> str:
    if name.startswith("HTTP_"):
        name = name[5:]
    elif name not in _HEADERS:
        return ""
    return name.replace("_", "-").title()


def _pack(words: Iterable[str]) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + 2 + len(word) > _WIDTH:
            yield _INDENT + line
            line = ""
        line = f"{line}  {word}" if line else word
    if line:
        yield _INDENT + line


def _body_lines(said: _Said) -> Iterator[str]:
    text: str = said["text"]
    for line in text.removesuffix("\n").split("\n"):
        yield _INDENT + line.removesuffix("\r")
    if not said.get("whole", False):
        yield f"{_INDENT}…"

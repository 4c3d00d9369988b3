"""Where to listen, as the operator writes it: a path, ``@abstract``, ``host:port``, ``[::1]:8000``, or what was passed.

A socket that was passed by the parent process is named by its number, ``fd://N``, or by who passed it: ``systemd`` or
``systemd:NAME``, ``starter`` or ``starter:ADDRESS`` (Server::Starter). Which number that is, `prefork.system.handover`
finds out.

Only the text is judged here, so that a configuration can be checked anywhere; what the machine has to say about
it comes when the address is claimed. Everything that looks like another kind of address is refused by name instead
of becoming a file called ``localhost:8000`` in the current directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from prefork.errors import ConfigurationError

__all__ = ["STARTER", "SYSTEMD", "Address", "AddressKind", "parse_address"]

SYSTEMD: Final = "systemd"
STARTER: Final = "starter"

_INHERITED: Final = "fd://"
_TCP: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[\w.-]+):(?P<port>\d{1,5})", re.ASCII)
_NEARLY_TCP: Final = re.compile(r"(\[[^]/]*\]|[^/:@]*):\d*|\d+(\.\d+){3}|\[[^]/]*\]|[0-9A-Fa-f]*::?[0-9A-Fa-f:]*")
_URL: Final = re.compile(r"(tcp|https?)://(?P<rest>[^/]*).*")
_LARGEST_PORT: Final = 65_535
_EXPECTED: Final = "expected a path, @abstract, host:port, fd://N, systemd or starter"
_PREFIXED: Final = re.compile(r"(unix:(?://)?)(?P<path>[/@].*)")
_GIVEN: Final = re.compile(rf"(?P<giver>{SYSTEMD}|{STARTER})(:(?P<name>.*))?", re.DOTALL)
_NAMES: Final = {
    SYSTEMD: "FileDescriptorName= of the .socket unit, as systemd:web",
    STARTER: "address that start_server was given, as starter:/run/mysite/app.sock",
}


class AddressKind(Enum):
    """The kinds of listener."""

    PATH = auto()
    ABSTRACT = auto()
    TCP = auto()
    INHERITED = auto()


@dataclass(frozen=True, slots=True)
class Address:
    """One address; `str` gives back what the operator wrote."""

    text: str
    kind: AddressKind
    name: str = ""  # path (perhaps relative), abstract name without its "@", host without brackets, the giver's name
    giver: str = ""  # who passed an inherited socket: SYSTEMD, STARTER; "": its number says all
    descriptor: int = -1
    port: int = 0  # 0: the kernel chooses one

    def __str__(self) -> str:
        return self.text


def parse_address(text: str) -> Address:
    """The address that ``text`` names. Raises `ConfigurationError` for what is none, or none of this version's."""
    if not text or "\0" in text:
        raise ConfigurationError(f"socket {text!r}: {_EXPECTED}")
    if text.startswith(_INHERITED):
        return _parse_inherited(text)
    if given := _GIVEN.fullmatch(text):
        return _parse_given(text, given["giver"], given["name"])
    if text.startswith("@"):
        if text == "@":
            raise ConfigurationError("socket @: an abstract socket needs a name after the @")
        return Address(text, AddressKind.ABSTRACT, name=text[1:])
    if tcp := _TCP.fullmatch(text):
        return _parse_tcp(text, tcp["host"], int(tcp["port"]))
    _refuse_other_kinds(text)
    if text.endswith(("/", "/.", "/..")):
        raise ConfigurationError(
            f"socket {text}: this names a directory; expected a file in it, as {text.rstrip('/')}/app.sock"
        )
    return Address(text, AddressKind.PATH, name=text)


def _parse_inherited(text: str) -> Address:
    number = text.removeprefix(_INHERITED)
    if not (number.isascii() and number.isdigit()) or int(number) > 2**31 - 1:
        raise ConfigurationError(f"socket {text}: expected the number of an inherited descriptor, as fd://3")
    return Address(text, AddressKind.INHERITED, descriptor=int(number))


def _parse_given(text: str, giver: str, name: str | None) -> Address:
    if name == "" or (giver == SYSTEMD and ":" in (name or "")):
        raise ConfigurationError(f"socket {text}: expected {giver} alone, or with the {_NAMES[giver]}")
    return Address(text, AddressKind.INHERITED, name=name or "", giver=giver)


def _parse_tcp(text: str, host: str, port: int) -> Address:
    if port > _LARGEST_PORT:
        raise ConfigurationError(f"socket {text}: expected a port up to {_LARGEST_PORT}, found {port}")
    return Address(text, AddressKind.TCP, name=host.strip("[]"), port=port)


def _refuse_other_kinds(text: str) -> None:
    if url := _URL.fullmatch(text):
        raise ConfigurationError(f"socket {text}: expected the address alone: {url['rest'] or 'host:port'}")
    if _NEARLY_TCP.fullmatch(text):
        raise ConfigurationError(
            f"socket {text}: expected host and port, as 127.0.0.1:8000, 0.0.0.0:8000 (every IPv4 address), "
            "[::1]:8000, or ./ before what is meant as a path"
        )
    if prefixed := _PREFIXED.fullmatch(text):
        raise ConfigurationError(f"socket {text}: nginx writes it so; here the path alone is meant: {prefixed['path']}")
    if text.isdigit():
        raise ConfigurationError(
            f"socket {text}: a number names no socket; expected a path, @abstract, 127.0.0.1:{text} or fd://{text}"
        )

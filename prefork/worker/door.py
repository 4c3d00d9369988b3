"""Who may come in, and what may be spoken: the rules of one listener, as a worker applies them.

* A Unix socket speaks FastCGI and HTTP, by the first byte of a connection, unless told to speak one of them. A TCP
  socket speaks HTTP unless told otherwise: by CGI's parameters a stranger could claim to be any user.
* Peers that ``forwarded_allow`` names are proxies, and believed when they say who their client is: ``unix`` stands for
  every peer of a Unix socket (whoever may write to it), networks for those of TCP.
* ``allowed_addresses`` are the networks that may connect by TCP; empty, everybody may.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final, final

from prefork.protocol import detect
from prefork.protocol.http1 import Origin
from prefork.system.peers import pack_address

__all__ = ["UNIX", "Door"]

UNIX: Final = "unix"
_NOBODY: Final = "none"

_MAX_KNOWN: Final = 1_024  # addresses whose verdicts are remembered


@final
class Door:
    """The rules of one listener; of a Unix socket if none is given.

    ``by_first_byte`` says what a connection that begins with a byte will be served as; empty if it will not. With
    ``is_guarded`` some who connect may not, which `admits` tells.
    """

    def __init__(
        self,
        protocol: str = "auto",
        allowed_addresses: Sequence[str] = (),
        forwarded_allow: Sequence[str] = (UNIX,),
        listener: socket.socket | None = None,
    ) -> None:
        self.is_unix = listener is None or listener.family == socket.AF_UNIX
        self.speaks: tuple[str, ...] = (protocol,)
        if protocol == "auto":
            self.speaks = (detect.FASTCGI, detect.HTTP) if self.is_unix else (detect.HTTP,)
        self.by_first_byte = [_served(first, self.speaks) for first in range(256)]
        self._allowed = _networks(allowed_addresses)
        self.is_guarded = not self.is_unix and len(self._allowed) > 0
        self._believed = _networks([item for item in forwarded_allow if item not in (UNIX, _NOBODY)])
        self._admitted: dict[str, bool] = {}
        self._trusted: dict[str, bool] = {}
        self._server = ("localhost", "")
        if listener is not None and not self.is_unix:
            name = listener.getsockname()
            self._server = (str(name[0]), str(name[1]))
        self._unix_origin = Origin("", "", UNIX in forwarded_allow, "localhost", "")

    def admits(self, address: Any) -> bool:
        """Whether a peer with this address, as accept(2) tells it, may connect."""
        if not self.is_guarded:
            return True
        return _verdict(self._admitted, self._allowed, str(address[0]))

    def peer(self, address: Any) -> bytes:
        """Who connected, packed (`prefork.system.peers`), as far as accept(2) says it: an address, or nothing."""
        return b"" if self.is_unix else pack_address(address[0], address[1])

    def origin(self, address: Any) -> Origin:
        """Where a connection from this address comes from."""
        if self.is_unix:
            return self._unix_origin
        host = _plain(str(address[0]))
        trusted = _verdict(self._trusted, self._believed, host)
        return Origin(host, str(address[1]), trusted, self._server[0], self._server[1])


def _served(first: int, speaks: tuple[str, ...]) -> str:
    if detect.FASTCGI in speaks and detect.detect(first) == detect.FASTCGI:
        return detect.FASTCGI
    return detect.HTTP if detect.HTTP in speaks and detect.may_be_http(first, len(speaks) == 1) else ""


def _networks(texts: Sequence[str]) -> list[Any]:
    if not texts:
        return []
    from ipaddress import ip_network  # most workers need none

    return [ip_network(text) for text in texts]


def _plain(host: str) -> str:
    """An address without what only this machine knows of it: an interface, or that IPv4 came in by an IPv6 socket."""
    return host.partition("%")[0].removeprefix("::ffff:")


def _verdict(known: dict[str, bool], networks: list[Any], host: str) -> bool:
    """Whether one of the networks has this address."""
    verdict = known.get(host)
    if verdict is None:
        from ipaddress import ip_address

        address = ip_address(_plain(host))
        verdict = any(address in network for network in networks)
        if len(known) >= _MAX_KNOWN:
            known.clear()
        known[host] = verdict
    return verdict

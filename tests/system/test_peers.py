"""Who is at the other end of a connection."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.system.peers import PEER_ROOM, UCRED, Process, ask_peer, pack_address, peer_of, unpack_peer


def test_a_process() -> None:
    """The kernel says which, and who it was."""
    one, other = socket.socketpair()
    with one, other:
        found = peer_of(one)
        assert (found.pid, found.uid, found.gid) == (os.getpid(), os.geteuid(), os.getegid())
        assert unpack_peer(ask_peer(one)) == found


@pytest.mark.parametrize(
    ("host", "port", "size", "expected"),
    [
        ("127.0.0.1", 80, 6, "127.0.0.1:80"),
        ("255.255.255.255", 65_535, 6, "255.255.255.255:65535"),
        ("::1", 8000, 18, "[::1]:8000"),
        ("fe80::1%eth0", 1, 18, "[fe80::1]:1"),
        ("::ffff:10.0.0.7", 4711, 18, "[::ffff:10.0.0.7]:4711"),
    ],
)
def test_addresses(host: str, port: int, size: int, expected: str) -> None:
    """As accept(2) tells them, and as they are written; an interface is nobody else's business."""
    packed = pack_address(host, port)
    assert (len(packed), unpack_peer(packed)) == (size, expected)


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_every_address_has_room(address: object, port: int) -> None:
    """And comes back as it was."""
    packed = pack_address(str(address), port)
    assert len(packed) <= PEER_ROOM
    host, _, found = str(unpack_peer(packed)).rpartition(":")
    assert (socket.inet_pton(socket.AF_INET6 if host[0] == "[" else socket.AF_INET, host.strip("[]")), int(found)) == (
        packed[:-2],
        port,
    )


@given(st.binary(max_size=30))
def test_whatever_stands_there(packed: bytes) -> None:
    """A worker may have written anything: a process, an address, or unknown, and never an error."""
    found = unpack_peer(packed)
    if len(packed) == UCRED.size:
        assert found is None or (isinstance(found, Process) and min(found) >= 0)
    else:
        assert isinstance(found, str) == (len(packed) in (6, PEER_ROOM))

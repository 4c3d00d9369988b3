"""What a peer has not taken yet, to the byte or nearly."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from apart import NOBODY, run_apart
from prefork.system.sockdiag import SocketDiagnosis
from prefork.system.untaken import untaken


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def fill(sock: socket.socket) -> int:
    """Send until nothing more fits."""
    sock.setblocking(False)
    total = 0
    try:
        while True:
            total += sock.send(bytes(65_536))
    except BlockingIOError:
        return total


def test_a_unix_socket_is_known_to_the_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    """Although its memory is given back in blocks, and it is writable only when most of it is free."""
    ours, theirs = pair
    assert untaken(ours) == 0
    total = fill(ours)
    assert untaken(ours) == total
    for taken in range(1, 100):
        theirs.recv(1)
        assert untaken(ours) == total - taken
    theirs.close()
    assert untaken(ours) >= 0


def test_where_the_kernel_does_not_tell(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another namespace, a filter: the socket's memory still shows that a peer takes something."""
    monkeypatch.setattr(SocketDiagnosis, "untaken", lambda _self, _inode: None)
    ours, theirs = pair
    total = fill(ours)
    full = untaken(ours)
    while total > 60_000:
        total -= len(theirs.recv(60_000))
    assert 0 < untaken(ours) < full
    while total:
        total -= len(theirs.recv(60_000))
    assert untaken(ours) == 0


def test_tcp() -> None:
    """What was not acknowledged; the peer's own buffer counts as taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as theirs:
        ours, _ = listener.accept()
        with ours:
            assert untaken(ours) == 0
            total = fill(ours)
            full = untaken(ours)
            assert 0 < full <= total
            while total:
                total -= len(theirs.recv(1 << 20))
            assert untaken(ours) < full


def test_no_descriptor_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    """One is needed for the question alone."""
    before = os.listdir("/proc/self/fd")
    untaken(pair[0])
    assert os.listdir("/proc/self/fd") == before


def test_a_socket_whose_descriptor_was_stolen() -> None:
    """An error, as from any system call."""
    with socket.socket(socket.AF_UNIX) as stolen:
        os.close(stolen.fileno())
        with pytest.raises(OSError, match="Bad file descriptor"):
            untaken(stolen)
        stolen.detach()


def test_what_is_no_connection_is_unknown(pair: tuple[socket.socket, socket.socket]) -> None:
    """A listener, a socket without a peer, one that is closed, nonsense."""
    diagnosis = SocketDiagnosis()
    with socket.socket(socket.AF_UNIX) as alone, socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # an abstract name of the kernel's choice
        listener.listen()
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (alone, listener)]
        pair[1].close()
        inodes += [os.fstat(pair[0].fileno()).st_ino, 0, 2**32]
        assert [diagnosis.untaken(inode) for inode in inodes] == [None] * 5
    diagnosis.close()
    assert diagnosis.untaken(1) is None


@pytest.mark.root
def test_no_privilege_is_needed() -> None:
    """Workers run as anybody."""
    script = (
        "import socket\nfrom prefork.system.untaken import untaken\n"
        "a, b = socket.socketpair()\na.send(bytes(1000))\nb.recv(1)\nprint(untaken(a))"
    )
    assert run_apart(script, user=NOBODY) == "999"

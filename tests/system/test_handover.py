"""Inherited sockets of every kind, right and wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from apart import living
from harness.processes import environment
from prefork.errors import ConfigurationError
from prefork.system.handover import adopt


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "given.sock")


@pytest.fixture
def giver(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as giver:
        giver.bind(path)
        giver.listen(4)
        yield giver


def given(socket_: socket.socket) -> int:
    descriptor = os.dup(socket_.fileno())
    os.set_inheritable(descriptor, True)
    return descriptor


def problem_of(descriptor: int) -> str:
    with pytest.raises(ConfigurationError) as problem:
        adopt(descriptor)
    return str(problem.value)


def test_a_listener_is_made_blocking_and_kept_from_programs(giver: socket.socket) -> None:
    """O_NONBLOCK, as systemd may set it, is cleared; the descriptor keeps its number and closes on exec."""
    giver.setblocking(False)
    descriptor = given(giver)
    with adopt(descriptor) as listener:
        assert listener.fileno() == descriptor
        assert os.get_blocking(descriptor)
        assert not os.get_inheritable(descriptor)


def test_a_descriptor_that_is_not_open_is_explained() -> None:
    """Who must do what."""
    descriptor = os.dup(0)
    os.close(descriptor)
    assert problem_of(descriptor).startswith(f"fd {descriptor} is not open: the parent must pass it")


def test_what_is_no_listening_stream_is_refused_and_stays_open(giver: socket.socket, path: str) -> None:
    """A file, datagrams, idle sockets and a connection: each by name, each left as it was."""
    with (
        open(os.devnull) as file,
        socket.socket() as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        socket.socket(socket.AF_UNIX) as idle,
        socket.socket(socket.AF_UNIX) as client,
        closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)) as netlink,
    ):
        client.connect(path)
        wrong: dict[IO[str] | socket.socket, str] = {
            file: "no socket: expected a listening socket, Unix or TCP",
            tcp: "is a TCP stream socket that does not listen",
            udp: "is a socket of the internet of type SOCK_DGRAM: expected SOCK_STREAM",
            datagram: "of type SOCK_DGRAM: expected SOCK_STREAM",
            packets: "of type SOCK_SEQPACKET: expected SOCK_STREAM",
            idle: "does not listen: the parent must call listen()",
            client: "does not listen",
            netlink: "of address family 16: expected Unix or TCP",
        }
        for one, part in wrong.items():
            assert part in problem_of(one.fileno())
            os.fstat(one.fileno())


def test_supervisors_socket_on_standard_input(giver: socket.socket) -> None:
    """Descriptor 0 moves up, and standard input is /dev/null for whatever reads it."""
    script = (
        "from prefork.system.handover import adopt\n"
        "import os\n"
        "listener = adopt(0)\n"
        "assert listener.fileno() > 2 and not listener.get_inheritable() and os.get_inheritable(0)\n"
        "print(os.readlink('/proc/self/fd/0'), repr(os.read(0, 1)), listener.getsockname(), flush=True)\n"
        "listener.accept()\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=giver.fileno(),
        stdout=subprocess.PIPE,
        text=True,
        env=environment({}),
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(giver.getsockname())
        output, _ = server.communicate()
    assert server.returncode == 0
    assert output.strip() == f"/dev/null b'' {giver.getsockname()}"


def test_a_listener_passed_by_a_parent_serves(path: str) -> None:
    """The usual way: the parent binds, the child inherits the number and accepts."""
    script = """
given = socket.socket(socket.AF_UNIX)
given.bind(sys.argv[1])
given.listen(1)
os.dup2(given.fileno(), 7)
listener = Listener.claim(parse_address("fd://7"))
listener.open()
given.close()
ready()
connection, _ = socket.socket(fileno=os.dup(listener.fileno())).accept()
connection.sendall(b"served")
connection.close()
hold()
"""
    with living(script, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert client.recv(100) == b"served"

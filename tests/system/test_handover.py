"""Inherited sockets of every kind, right and wrong."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

import pytest

from apart import living
from harness.processes import started
from machine import HAS_IPV6
from prefork.errors import ConfigurationError
from prefork.system.address import parse_address
from prefork.system.handover import adopt, find, follow, left_over, passed_by, same_socket


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
    """O_NONBLOCK, as systemd may set it, is cleared; the number stays its giver's, and is there to be taken again."""
    giver.setblocking(False)
    descriptor = given(giver)
    for _ in range(2):
        with adopt(descriptor) as listener:
            assert listener.fileno() != descriptor
            assert same_socket(listener.fileno(), descriptor)
            assert os.get_blocking(descriptor)
            assert not os.get_inheritable(listener.fileno())
            assert not os.get_inheritable(descriptor)
    os.close(descriptor)


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
    with (
        started(sys.executable, "-c", script, folder=Path("/"), stdin=giver.fileno(), stderr=None) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
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


# --- which descriptor it is -------------------------------------------------------------------------------------------

US = 4242
ONE = {"LISTEN_PID": "4242", "LISTEN_FDS": "1"}
TWO = {"LISTEN_PID": "4242", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:api.socket"}
STARTER = {"SERVER_STARTER_PORT": "/run/a=b.sock=5;8000=6;[::1]:80=0"}


@pytest.mark.parametrize(
    ("text", "pool", "environ", "number"),
    [
        ("systemd", "www", ONE, 3),
        ("systemd", "www", {**ONE, "LISTEN_FDNAMES": "web"}, 3),
        ("systemd:unknown", "www", ONE, 3),
        ("systemd", "web", TWO, 3),
        ("systemd", "api.socket", TWO, 4),
        ("systemd:api.socket", "www", TWO, 4),
        ("starter", "www", {"SERVER_STARTER_PORT": "/run/app.sock=7"}, 7),
        ("starter:/run/a=b.sock", "www", STARTER, 5),
        ("starter:8000", "www", STARTER, 6),
        ("starter:[::1]:80", "www", STARTER, 0),
        ("fd://9", "www", {}, 9),
        ("/run/app.sock", "www", {}, -1),
    ],
)
def test_what_was_passed_is_found(text: str, pool: str, environ: Mapping[str, str], number: int) -> None:
    """By its being the only one, by the pool's name, by its own; whatever else the address says is kept."""
    address = parse_address(text)
    found = find(address, pool, environ, US)
    assert (found.descriptor, found.text, found.kind) == (number, text, address.kind)


@pytest.mark.parametrize(
    ("text", "environ", "parts"),
    [
        ("systemd", {}, ("nothing was passed (LISTEN_FDS is not set)", "systemctl start NAME.socket")),
        ("systemd:web", {"LISTEN_FDS": "1"}, ("LISTEN_PID is not set",)),
        ("systemd", {**ONE, "LISTEN_PID": "1"}, ("for the process 1 (LISTEN_PID) and this is 4242", "must exec it")),
        ("systemd", {**ONE, "LISTEN_FDS": "0"}, ("LISTEN_FDS=0",)),
        ("systemd", {**ONE, "LISTEN_FDS": "x"}, ("LISTEN_FDS=x",)),
        ("systemd", {**ONE, "LISTEN_FDS": "99999999999999999"}, ("LISTEN_FDS=999",)),
        ("systemd", {**TWO, "LISTEN_FDNAMES": "web"}, ("LISTEN_FDNAMES=web has 1 names and LISTEN_FDS=2",)),
        (
            "systemd",
            TWO,
            ('called "web"', 'called "api.socket"', 'none is called as the pool is, "www"', "systemd:NAME"),
        ),
        ("systemd:other", TWO, ('called "web"', 'none is called "other"', "FileDescriptorName=other")),
        (
            "systemd:web",
            {**TWO, "LISTEN_FDNAMES": "web:web"},
            ('2 sockets called "web" were passed', "a FileDescriptorName= of its own", "fd://3"),
        ),
        ("starter", {}, ("SERVER_STARTER_PORT is not set", "start_server --path=/run/mysite/app.sock")),
        ("starter", {"SERVER_STARTER_PORT": "/run/app.sock"}, ("found '/run/app.sock'",)),
        ("starter", {"SERVER_STARTER_PORT": "8000=x"}, ("found '8000=x'",)),
        ("starter", STARTER, ('called "/run/a=b.sock"', "more than one", "starter:/run/a=b.sock")),
        ("starter:80", STARTER, ("none of them is 80", 'fd 6 called "8000"')),
    ],
)
def test_what_cannot_be_found_is_explained(text: str, environ: Mapping[str, str], parts: tuple[str, ...]) -> None:
    """With all that was passed, and what to write or to change."""
    with pytest.raises(ConfigurationError) as problem:
        find(parse_address(text), "www", environ, US)
    assert str(problem.value).startswith(f"socket {text.partition(':')[0]}")
    assert [part for part in parts if part not in str(problem.value)] == []


def test_what_was_passed_is_listed_with_its_address(giver: socket.socket, path: str) -> None:
    """A path, a name, both kinds of TCP, and what is not there."""
    with (
        socket.socket(socket.AF_UNIX) as abstract,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        open(os.devnull) as file,
        ExitStack() as stack,
    ):
        abstract.bind(f"\0prefork-test-{os.getpid()}")
        there = {}
        if HAS_IPV6:
            tcp6 = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
            there[tcp6.fileno()] = f"[::1]:{tcp6.getsockname()[1]}"
        closed = os.dup(0)
        os.close(closed)
        there |= {
            giver.fileno(): path,
            abstract.fileno(): f"@prefork-test-{os.getpid()}",
            tcp.fileno(): f"127.0.0.1:{tcp.getsockname()[1]}",
            file.fileno(): "no open socket",
            closed: "no open socket",
        }
        passed = passed_by("starter", {"SERVER_STARTER_PORT": ";".join(f"x={number}" for number in there)}, US)
        assert [str(each) for each in passed] == [
            f'fd {number} called "x" ({place})' for number, place in there.items()
        ]
        os.fstat(giver.fileno())  # it was looked at through a copy


def test_a_process_that_goes_on_for_another_takes_over_what_was_meant_for_it() -> None:
    """In the background the pid is another one; what was meant for a third process is left alone."""
    environ = {"LISTEN_PID": "77", "WATCHDOG_PID": "78", "LISTEN_FDS": "1"}
    follow(environ, 77)
    assert environ == {"LISTEN_PID": str(os.getpid()), "WATCHDOG_PID": "78", "LISTEN_FDS": "1"}


def test_what_no_pool_uses_is_left_over(giver: socket.socket) -> None:
    """Of what was passed to us, and is a socket at all."""
    with giver.dup() as copy, socket.socket(socket.AF_UNIX) as other, open(os.devnull) as file:
        entries = [f"{name}={held.fileno()}" for name, held in (("a", copy), ("b", other), ("c", file))]
        environ = {"SERVER_STARTER_PORT": ";".join(entries), "LISTEN_PID": "1", "LISTEN_FDS": "1"}
        found = left_over(environ, US, [giver.fileno()])
        assert [(by, each.descriptor, each.name) for by, each in found] == [("starter", other.fileno(), "b")]
    assert left_over({}, US, []) == []


def test_copies_of_a_descriptor_are_one_socket(giver: socket.socket) -> None:
    """A number that is not open is nothing's copy."""
    with giver.dup() as copy, socket.socket(socket.AF_UNIX) as other:
        assert same_socket(giver.fileno(), copy.fileno())
        assert not same_socket(giver.fileno(), other.fileno())
        number = copy.fileno()
    assert not same_socket(giver.fileno(), number)

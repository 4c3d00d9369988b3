"""One listening socket, several who accept from it: servers of ours, a program in another language, its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import PATIENCE, Crowd, Server, connect, fastcgi, fetch, wait_until
from integration.handing import by_socket, held, release

# A server as one might write it in Perl: it sets O_NONBLOCK before each accept, for everybody who shares the socket,
# because it waits with select; at SIGTERM it answers whom it has accepted and leaves.
PERL = r"""
use strict; use warnings; use Fcntl; use IO::Socket::UNIX; use IO::Select;
my $listener = IO::Socket::UNIX->new_from_fd($ARGV[0], "+<") or die "no listener: $!";
my ($over, $flips) = (0, 0);
$SIG{TERM} = sub { $over = 1 };
while (!$over) {
    my $flags = fcntl($listener, F_GETFL, 0);
    fcntl($listener, F_SETFL, $flags | O_NONBLOCK);
    $flips++ unless $flags & O_NONBLOCK;
    next unless IO::Select->new($listener)->can_read(0.01);
    my $client = $listener->accept or next;
    $client->blocking(1);
    my $head = "";
    while ($head !~ /\r\n\r\n/) { sysread($client, $head, 4096, length $head) or last }
    print $client "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nperl";
    close $client;
}
print "$flips\n";
"""


@contextlib.contextmanager
def perl(listener: socket.socket) -> Iterator[subprocess.Popen[str]]:
    number = listener.fileno()
    process = subprocess.Popen(
        ["perl", "-e", PERL, str(number)], pass_fds=[number], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def serving(folder: Path, listener: socket.socket, version: str, *options: str) -> Server:
    """A server on that listener, whose application answers with a version of its own."""
    (folder / version).mkdir(exist_ok=True)
    env = release(folder / version, version)
    number = listener.fileno()
    return Server("handed", *options, folder=folder, socket=f"fd://{number}", pass_fds=[number], env=env)


@pytest.mark.tool("perl")
def test_two_servers_and_a_program_in_perl(folder: Path) -> None:
    """Each serves its part, and no client notices that one is stopped, though the flags change all the time."""
    path = f"{folder}/shared.sock"

    def ask(_number: int) -> str:
        response = fetch(path, path="/slow?s=0.02")  # four of eight clients keep all workers busy: Perl has its share
        assert response.status == 200
        return response.text

    with held(path) as listener, perl(listener) as other, Crowd(ask, clients=8) as crowd:
        with serving(folder, listener, "two", "--workers", "2") as second:
            with serving(folder, listener, "one", "--workers", "2") as first:
                for who in ("one", "two", "perl"):
                    crowd.wait(30, who)
                assert first.stop() == 0
            for who in ("two", "perl"):
                crowd.wait(30, who)
            other.send_signal(signal.SIGTERM)
            flips, _ = other.communicate(timeout=PATIENCE)
            assert int(flips) >= 1  # a worker had made it blocking again
            crowd.wait(30, "two")
            with serving(folder, listener, "three", "--workers", "1"):
                crowd.wait(30, "three")
            crowd.wait(30, "two")
            crowd.close()
            assert second.find("accept_failed") == []
        assert crowd.lost == []


def test_workers_sleep_though_another_holder_made_the_socket_nonblocking(folder: Path) -> None:
    """They are not woken in vain until the flag is set again: no processor time for waiting."""
    path = f"{folder}/shared.sock"
    with held(path) as listener, serving(folder, listener, "one", "--workers", "2") as server:
        workers = server.wait_workers(2)
        for _ in range(20):
            os.set_blocking(listener.fileno(), False)
            assert fastcgi(path).body == b"one"
        before = [_ticks(worker) for worker in workers]
        wait_until(lambda: os.get_blocking(listener.fileno()))
        assert fastcgi(path, path="/slow?s=0.5").body == b"one"
        assert sum(_ticks(worker) for worker in workers) - sum(before) <= 5


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_runs_and_leaves_what_waits(folder: Path, tcp: bool, number: signal.Signals) -> None:
    """One request runs and eight wait: the one is answered by the server that stops, the eight by the next one."""
    with contextlib.ExitStack() as stack:
        if tcp:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address: tuple[str, int] | str = listener.getsockname()
        else:
            address = f"{folder}/shared.sock"
            listener = stack.enter_context(held(address))
        with serving(folder, listener, "old", "--workers", "1") as server:
            running = stack.enter_context(connect(address))
            running.sendall(f"GET /slow?s=0.5&began={folder}/began HTTP/1.0\r\n\r\n".encode())
            wait_until((folder / "began").exists)
            waiting = [stack.enter_context(connect(address)) for _ in range(8)]
            for client in waiting:
                client.sendall(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
            assert server.stop(number) == 0
            assert _answer(running).endswith(b"\r\n\r\nold")
        for client in waiting:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            client.settimeout(PATIENCE)
        with serving(folder, listener, "new", "--workers", "2"):
            answers = Counter(_answer(client).rpartition(b"\r\n\r\n")[2].split()[0] for client in waiting)
        assert answers == {b"new": 8}


def _answer(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def test_the_owner_accepts_after_the_stop(folder: Path) -> None:
    """Also after one that did not wait: the socket was neither shut down nor unlinked."""
    path = f"{folder}/shared.sock"
    with held(path) as listener:
        inode = os.stat(path).st_ino
        for stop in (signal.SIGTERM, signal.SIGQUIT):
            with serving(folder, listener, "one", "--workers", "2") as server:
                assert fastcgi(path).body == b"one"
                assert server.stop(stop) == 0
        with serving(folder, listener, "one", "--workers", "2") as server:
            server.kill()
        with connect(path) as client:
            listener.setblocking(False)
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"mine")
            assert client.recv(10) == b"mine"
        assert os.stat(path).st_ino == inode


def test_a_crowd_of_servers_comes_and_goes(folder: Path) -> None:
    """Always one at least: nobody is refused, forgotten or answered in part."""
    path = f"{folder}/shared.sock"
    with held(path) as listener, Crowd(by_socket(path), clients=8) as crowd:
        server = serving(folder, listener, "0", "--workers", "2").start()
        for version in "1234":
            successor = serving(folder, listener, version, "--workers", "2").start()
            successor.wait_ready()
            crowd.wait(10, version)
            assert server.stop() == 0
            server.assert_nothing_left()
            server = successor
        crowd.wait(10)
        crowd.close()
        assert server.stop() == 0
        server.assert_nothing_left()
        assert crowd.lost == []

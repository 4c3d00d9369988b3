"""What a reload changes about the socket: mode, owner, backlog, the address itself; with clients that never stop."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apart import NOBODY
from faults.test_healing import answers, watched
from faults.test_stop import ask_all, hold, queue_length
from harness import Crowd, Server, connect, control, encode_request, fastcgi, read_response, replace, run, wait_until


class Configured(Server):
    """A server whose options stand in a file, which can be written anew; relative sockets lie in its folder."""

    def __init__(self, folder: Path, socket: str = "app.sock", **options: object) -> None:
        super().__init__("faulty", folder=folder, socket=socket)
        self._file = folder / "prefork.toml"
        self._command = [sys.executable, "-m", "prefork", "--config", str(self._file), "--log-format", "json"]
        self.write(socket=socket, **options)

    def write(self, **options: object) -> None:
        """Put these options into the file."""
        pool = {"app": "faulty", "max_children": 1, "pm": "static", **options}
        lines = [f"{name} = {value!r}" for name, value in pool.items()]
        self._file.write_text("\n".join(['control_socket = "c.sock"', "[pool.www]", *lines, ""]))
        self.address = self.address_of(str(options["socket"]))

    def address_of(self, text: str) -> str:
        """Where clients find a socket that is named so."""
        return text if text.startswith("@") else str(self.folder / text)

    def reload(self, status: int = 0, **options: object) -> str:
        """Write and reload; what preforkctl said of it, which has to end with ``status``."""
        before = self._file.read_text(), self.address
        self.write(**options)
        said = control(self.folder, "--control", str(self.folder / "c.sock"), "reload", status=status).stderr
        if status:
            self._file.write_text(before[0])
            self.address = before[1]
        return said


def hammering(server: Server) -> Crowd:
    """Clients of a server's path that never stop; a refused connect is a lost request."""
    path = server.address
    return Crowd(lambda _number: fastcgi(path, path="/hello").text, clients=4)


def limit(path: str) -> int:
    """The room in a listen queue, as ss(8) shows it."""
    shown = subprocess.run(["ss", "-xl"], capture_output=True, text=True, check=True).stdout
    return int(next(line.split()[3] for line in shown.splitlines() if path in line.split()))


@pytest.mark.root
def test_mode_and_owner_change_under_the_clients_hands(folder: Path) -> None:
    """The same file all the while; no state but those on the way, and no connect refused."""
    given = {"socket_owner": "nobody", "socket_group": "daemon"}
    steps = [
        ({"socket_mode": "0666"}, (0o666, 0, 0)),
        ({"socket_mode": "0660", **given}, (0o660, NOBODY, 1)),
        ({"socket_mode": "0600"}, (0o600, 0, 0)),
        ({"socket_mode": "0660"}, (0o660, 0, 0)),
    ]
    server = Configured(folder, socket_mode="0660")
    with server, hammering(server) as crowd, watched(server.address) as seen:
        crowd.wait(10)
        file = os.lstat(server.address).st_ino
        for options, rights in steps:
            server.reload(socket="app.sock", **options)  # type: ignore[arg-type]
            status = os.lstat(server.address)
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == rights
            crowd.wait(10)
        assert os.lstat(server.address).st_ino == file
        crowd.close()
        assert crowd.lost == []
    between = {(0o666, NOBODY, 0), (0o666, NOBODY, 1), (0o660, NOBODY, 0), (0o600, NOBODY, 1), (0o600, NOBODY, 0)}
    assert seen <= {rights for _, rights in steps} | between


@pytest.mark.tool("ss")
def test_a_backlog_changes_under_the_clients_hands(folder: Path) -> None:
    """Larger and smaller: the same socket, and who waits stays."""
    server = Configured(folder, backlog=64)
    with server, hammering(server) as crowd:
        file = os.lstat(server.address).st_ino
        for backlog in (128, 32):
            crowd.wait(10)
            server.reload(socket="app.sock", backlog=backlog)
            assert limit(server.address) == backlog
        assert os.lstat(server.address).st_ino == file
        crowd.close()
        assert crowd.lost == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"socket": "app.sock", "socket_group": "no-such-group"}, "there is no group"),
        ({"socket": "nowhere/app.sock"}, "does not exist: create it"),
        ({"socket": "file"}, "is a file, not a socket"),
        ({"socket": "live.sock"}, "is in use by a live server"),
        ({"socket": "@app", "socket_mode": "0600"}, "means nothing for the socket @app"),
    ],
    ids=["group", "directory", "file", "live", "mode"],
)
def test_what_cannot_be_is_refused_and_nothing_has_changed(
    folder: Path, options: dict[str, object], reason: str
) -> None:
    """preforkctl says why; the same workers serve the same socket, and nobody was refused meanwhile."""
    (folder / "file").touch()
    server = Configured(folder, socket_mode="0660")
    with socket.socket(socket.AF_UNIX) as live, server, hammering(server) as crowd:
        live.bind(str(folder / "live.sock"))
        live.listen(8)
        before, file = server.wait_workers(1), os.lstat(server.address)
        assert reason in server.reload(1, **options)
        after = os.lstat(server.address)
        assert (after.st_ino, after.st_mode, after.st_uid) == (file.st_ino, file.st_mode, file.st_uid)
        crowd.wait(10)
        assert server.workers() == before
        crowd.close()
        assert crowd.lost == []
        left = {"prefork.toml", "c.sock", "file", "live.sock", "app.sock", "app.sock.lock", "live.sock.lock"}
        assert {path.name for path in folder.iterdir()} <= left


@pytest.mark.tool("ss")
@pytest.mark.parametrize(
    "after", ["other.sock", f"@prefork-test-{os.getpid()}", "127.0.0.1:0"], ids=["path", "abstract", "tcp"]
)
def test_another_address_serves_at_once_and_the_old_queue_is_answered(folder: Path, after: str) -> None:
    """One at work and four in the queue of the old path, which then refuses, is gone, and may be another server's."""
    server = Configured(folder)
    with server:
        old = server.address
        os.mkfifo(folder / "fifo")
        running, first = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        waiting, later = ask_all(server, ["/hello"] * 4)
        wait_until(lambda: queue_length(old) == 4)
        server.write(socket=after)
        server.send(signal.SIGHUP)
        if after[0] == "1":
            wait_until(lambda: not os.path.lexists(old))
        else:
            wait_until(lambda: answers(server.address))
        assert not os.path.lexists(old)
        with pytest.raises(FileNotFoundError):
            connect(old)
        neighbour = run(sys.executable, "-m", "prefork", "faulty", "--socket", old, "--check", folder=folder)
        assert neighbour.returncode == 0, neighbour.stderr
        os.close(held)
        for thread in running + waiting:
            thread.join()
        assert [(answer.status, answer.complete) for answer in first + later] == [(200, True)] * 5
        server.wait_event("reloaded")
        assert server.find("worker_died") == []
        assert Path(old + ".lock").exists()


def test_from_tcp_to_a_path_nobody_in_the_queue_is_lost(folder: Path) -> None:
    """A listener that cannot be shut: its queue is watched, and its workers leave when that is empty."""
    server = Configured(folder, "127.0.0.1:0", protocol="fastcgi")
    with server:
        os.mkfifo(folder / "fifo")
        tcp = server.address = server.port  # type: ignore[assignment]
        running, first = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        waiting = [connect(tcp) for _ in range(4)]
        server.write(socket="app.sock")
        server.send(signal.SIGHUP)
        wait_until(lambda: answers(server.address))
        os.close(held)
        for thread in running:
            thread.join()
        assert [answer.status for answer in first] == [200]
        for client in waiting:
            assert_answered(client)
        server.wait_event("reloaded")
        assert server.find("worker_died") == []
        wait_until(lambda: refuses(tcp))


def assert_answered(client: socket.socket) -> None:
    with client:
        client.sendall(encode_request(path="/hello"))
        assert read_response(client).text == "hello"


def refuses(address: tuple[str, int]) -> bool:
    try:
        connect(address, 0.2).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


def test_there_and_back_again(folder: Path) -> None:
    """Ten changes of the path, under clients who go where it is: none is refused at an address that is being served."""
    server = Configured(folder)
    names = ["app.sock", "other.sock"]
    with server:
        for number in range(1, 11):
            server.reload(socket=names[number % 2])
            assert answers(server.address)
            assert not os.path.lexists(server.address_of(names[(number + 1) % 2]))
        server.wait_workers(1)
        descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
        server.reload(socket=names[1])
        server.reload(socket=names[0])
        server.wait_workers(1)
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= descriptors, what="no descriptor is left")
        assert server.find("worker_died") == []


def test_a_reload_while_the_path_is_taken_by_another(folder: Path) -> None:
    """The new path is served, and what stands at the old one stays."""
    server = Configured(folder)
    with server:
        old = server.address
        replace(old, "precious")
        server.wait_event("socket_taken")
        server.reload(socket="other.sock")
        assert answers(server.address)
        assert Path(old).read_text() == "precious"
        os.unlink(server.address)
        server.wait_event("socket_renewed")
        wait_until(lambda: answers(server.address))
        os.unlink(old)


def test_a_deleted_socket_that_is_changed_is_made_anew_as_it_shall_be(folder: Path) -> None:
    """In a directory that is gone: the reload goes through, and the socket comes back with its new mode."""
    (folder / "run").mkdir()
    server = Configured(folder, "run/app.sock", socket_mode="0600")
    with server:
        os.rename(folder / "run", folder / "aside")
        server.wait_event("socket_not_renewed")
        server.reload(socket="run/app.sock", socket_mode="0666")
        (folder / "run").mkdir()
        server.wait_event("socket_renewed")
        assert stat.S_IMODE(os.lstat(server.address).st_mode) == 0o666
        wait_until(lambda: answers(server.address))

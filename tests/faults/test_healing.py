"""The path of the socket is deleted, replaced, taken away with its directory: the real server, with clients."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from apart import NOBODY, living
from faults.test_stop import ask_all, hold, queue_length
from harness import Crowd, Nginx, Server, connect, control, fastcgi, replace, run, wait_until

SOON = 2.0
"""Seconds within which a socket that was deleted is there again, and served."""

TWICE = ("--socket-mode", "0666", "--workers", "2")

LISTEN = """
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(64)
os.rename(sys.argv[1], sys.argv[2])
ready(str(os.getpid()))
hold()
"""


def answers(address: str, path: str = "/hello", text: str = "hello") -> bool:
    """Whether a worker answers there now."""
    try:
        return fastcgi(address, path=path).text == text
    except OSError:
        return False


def served_again(server: Server, since: float, path: str = "/hello", text: str = "hello") -> float:
    """Seconds from then until a worker answers at the socket."""
    wait_until(lambda: answers(server.address, path, text), what="the socket is served again")
    return time.monotonic() - since


@contextmanager
def watched(path: str) -> Iterator[set[tuple[int, int, int]]]:
    """The modes, owners and groups that are ever seen at a path."""
    seen: set[tuple[int, int, int]] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            seen.add((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_deleted_socket_is_served_again_within_two_seconds(folder: Path, umask: int) -> None:
    """Five times in a row, each time with its mode from the first moment; the old workers end in order."""
    with Server("faulty", *TWICE, folder=folder, umask=umask) as server, watched(server.address) as seen:
        before = set(server.wait_workers(2))
        took = []
        for number in range(1, 6):
            since = time.monotonic()
            os.unlink(server.address)
            took.append(served_again(server, since))
            server.wait_event("socket_renewed", count=number)
        print(f"served again after {', '.join(f'{seconds:.2f}' for seconds in took)} s")  # noqa: T201 - the figure
        assert max(took) < SOON
        assert seen == {(0o666, os.geteuid(), os.getegid())}
        assert not before & set(server.wait_workers(2))
        assert len(server.find("socket_vanished")) == 5
        assert server.find("worker_died") == []


@pytest.mark.root
def test_owner_and_group_are_right_before_anybody_can_connect(folder: Path) -> None:
    """The new file is the maker's alone until it has been given away, as at the first birth."""
    owned = ("--socket-mode", "0660", "--socket-owner", "nobody", "--socket-group", "daemon")
    with Server("faulty", *owned, "--workers", "1", folder=folder) as server, watched(server.address) as seen:
        for number in range(1, 4):
            os.unlink(server.address)
            server.wait_event("socket_renewed", count=number)
        wait_until(lambda: answers(server.address))
        # One chown(2) changes the owner a moment before the group.
        assert seen <= {(0o600, 0, 0), (0o600, NOBODY, 0), (0o600, NOBODY, 1), (0o660, NOBODY, 1)}
        assert (0o660, NOBODY, 1) in seen


BODY = b"x" * 100_000
MIXED = {
    "GET /": b"here",
    "GET /wait?s=0.3": b"waited",
    "POST /echo": hashlib.sha256(BODY).hexdigest().encode(),
    "GET /download?size=400000&s=0.5": 400_000,
}


@pytest.mark.nginx
def test_under_load_only_who_comes_while_the_path_is_gone_is_refused(folder: Path) -> None:
    """Through nginx, with bodies both ways and slow requests: nothing that had begun is lost or cut short."""
    options = ("--max-children", "4", "--pm", "static", "--reload-surge", "4")
    with (
        Server("mixed", *options, folder=folder) as server,
        Nginx(server.address, folder=folder, keepalive=4) as nginx,
    ):

        def ask(number: int) -> str:
            what, expected = list(MIXED.items())[number % len(MIXED)]
            method, path = what.split()
            response = nginx.fetch(method, path, body=BODY if method == "POST" else None)
            if response.status == 200:
                assert expected in (response.body, len(response.body)), what
            return str(response.status)

        took, most = [], 0
        with Crowd(ask, clients=6) as crowd:
            for number in range(1, 7):
                crowd.wait(20, "200")
                since = time.monotonic()
                os.unlink(server.address)
                took.append(served_again(server, since, "/", "here"))
                most = max(most, len(server.workers()))
                server.wait_event("socket_renewed", count=number)
        print(f"{crowd.answers}, served again after {', '.join(f'{each:.2f}' for each in took)} s")  # noqa: T201
        assert (crowd.lost, set(crowd.answers) - {"200", "502"}) == ([], set())
        assert max(took) < SOON
        assert most <= 8
        # Nothing but connects failed: at no path, or at one that is bound and about to listen.
        gap = ("(2: No such file or directory) while connecting", "(111: Connection refused) while connecting")
        assert [line for line in nginx.errors() if not any(reason in line for reason in gap)] == []
        assert server.find("worker_died") == []


@pytest.mark.tool("ss")
def test_who_was_there_before_is_served_while_newcomers_are(folder: Path) -> None:
    """One worker at work, five in its queue: a new worker serves the new socket, the old one all of these."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        os.mkfifo(folder / "fifo")
        running, first = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        waiting, later = ask_all(server, ["/whoami"] * 5)
        wait_until(lambda: queue_length(server.address) == 5)
        (old,) = server.workers()
        since = time.monotonic()
        os.unlink(server.address)
        assert served_again(server, since) < SOON
        assert server.ask(path="/whoami").headers["X-Worker"] != str(old)
        assert old in server.workers()
        os.close(held)
        for thread in running + waiting:
            thread.join()
        assert [(answer.status, answer.complete) for answer in first + later] == [(200, True)] * 6
        assert {answer.headers["X-Worker"] for answer in later} == {str(old)}
        wait_until(lambda: old not in server.workers())
        server.wait_workers(1)
        assert server.find("worker_died") == []


def test_a_request_that_takes_longer_than_a_stop_would_wait_is_not_ended(folder: Path) -> None:
    """Nobody asked for a stop: a deletion costs no request, however long it takes."""
    with Server("faulty", "--workers", "1", "--graceful-timeout", "500ms", folder=folder) as server:
        with ThreadPoolExecutor(1) as clients:
            long = clients.submit(server.ask, path=f"/slow?s=3.5&began={folder}/began")
            wait_until((folder / "began").exists)
            os.unlink(server.address)
            server.wait_event("socket_renewed")
            wait_until(lambda: answers(server.address))
            assert long.result().text == "slept"
        assert server.find("worker_died") == []


@pytest.mark.tool("ss")
def test_the_queue_of_a_deleted_socket_outlives_its_workers(folder: Path) -> None:
    """The only worker dies at its request: those behind it are answered all the same, by another."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        os.mkfifo(folder / "fifo")
        running, first = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        waiting, later = ask_all(server, ["/hello"] * 5)
        wait_until(lambda: queue_length(server.address) == 5)
        (old,) = server.workers()
        os.unlink(server.address)
        server.wait_event("socket_renewed")
        wait_until(lambda: answers(server.address))
        os.kill(old, signal.SIGKILL)
        for thread in running + waiting:
            thread.join()
        os.close(held)
        assert [answer.complete for answer in first] == [False]
        assert [answer.status for answer in later] == [200] * 5
        server.wait_event("worker_died")
        server.wait_workers(1)
        assert len(server.find("worker_died")) == 1


@pytest.mark.parametrize("pm", ["ondemand", "dynamic"])
def test_whichever_manager_forks_them(folder: Path, pm: str) -> None:
    """With nobody there, the first who connects to the new socket wakes one; with spares, they are there again."""
    with Server("faulty", "--pm", pm, "--max-children", "4", folder=folder) as server:
        for number in range(1, 4):
            since = time.monotonic()
            os.unlink(server.address)
            server.wait_event("socket_renewed", count=number)
            assert served_again(server, since) < SOON
        assert server.find("worker_died") == []


def test_workers_that_import_for_themselves_are_waited_for(folder: Path) -> None:
    """Where the zygote must not be forked from: the socket is there at once, and who connects waits for a worker."""
    env = {"FAULTY_THREAD": "1"}
    with Server("faulty", "--workers", "1", folder=folder, env=env) as server:
        os.unlink(server.address)
        server.wait_event("socket_renewed")
        assert server.ask(path="/hello").text == "hello"
        assert server.find("worker_died") == []


def test_a_file_in_its_place_is_left_alone(folder: Path) -> None:
    """Told once; the stop leaves it there; while the server runs, the socket comes back when the file goes."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        replace(server.address, "precious")
        taken = server.wait_event("socket_taken")
        assert (taken["found"], taken["path"]) == ("a plain file", server.address)
        since = time.monotonic()
        os.unlink(server.address)
        assert served_again(server, since) < SOON
        replace(server.address, "precious")
        server.wait_event("socket_taken", count=2)
        server.stop()
        assert Path(server.address).read_text() == "precious"
        assert len(server.find("socket_taken")) == 2
        os.unlink(server.address)


@pytest.mark.tool("ss")
def test_another_servers_socket_is_left_alone(folder: Path) -> None:
    """Who is connected or waits is served; the other keeps the path until it gives it up."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        os.mkfifo(folder / "fifo")
        running, first = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        waiting, later = ask_all(server, ["/hello"] * 3)
        wait_until(lambda: queue_length(server.address) == 3)
        with living(LISTEN, f"{folder}/other.sock", server.address) as (_, pid):
            assert server.wait_event("socket_taken")["found"] == f"the socket of a live server, pid {pid}"
            os.close(held)
            for thread in running + waiting:
                thread.join()
            assert [answer.status for answer in first + later] == [200] * 4
            with connect(server.address) as client:
                assert peer_pid(client) == int(pid)
            since = time.monotonic()
            os.unlink(server.address)
            assert served_again(server, since) < SOON
        assert len(server.find("socket_taken")) == 1


def peer_pid(client: socket.socket) -> int:
    return int.from_bytes(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")


def test_a_directory_that_was_swept_away(folder: Path) -> None:
    """With socket, lock file and control socket: told, and served as soon as it is there again, and claimed.

    preforkctl finds the control socket by what the new lock file says.
    """
    place = folder / "run"
    place.mkdir()
    address = str(place / "app.sock")
    options = ("--workers", "1", "--control-socket", str(place / "control.sock"))
    with Server("faulty", *options, folder=folder, socket=address) as server:
        place.rename(folder / "swept")  # in one step: what is deleted in a directory that is there, comes back
        shutil.rmtree(folder / "swept")
        server.wait_event("socket_vanished")
        for event in ("socket_not_renewed", "control_socket_lost"):
            assert "does not exist" in server.wait_event(event)["error"]
        place.mkdir()
        since = time.monotonic()
        assert served_again(server, since) < SOON
        assert_claimed(server, folder)
        server.wait_event("control_socket_renewed")
        control(folder, "--socket", address, "ping", "--through")
        assert len(server.find("socket_not_renewed")) == 1
        assert len(server.find("control_socket_lost")) == 1


def assert_claimed(server: Server, folder: Path) -> None:
    """Another server is refused, and the one that runs is not disturbed."""
    started = run(*other(server), folder=folder)
    assert started.returncode == 69, started.stderr
    assert f"pid {server.pid}" in started.stderr
    assert answers(server.address)


def other(server: Server) -> list[str]:
    return [*server.process.args[:4], "--socket", server.address]  # type: ignore[index]


@pytest.mark.root
def test_a_directory_that_may_not_be_written_to_for_a_while(folder: Path) -> None:
    """A server of a user without privileges; it comes back when the permission does."""
    os.chown(folder, NOBODY, NOBODY)
    with Server("faulty", "--workers", "1", folder=folder, user=NOBODY, group=NOBODY, extra_groups=[]) as server:
        folder.chmod(0o555)
        os.unlink(server.address)
        assert f"nobody may not write to {folder}" in server.wait_event("socket_not_renewed")["error"]
        folder.chmod(0o755)
        assert served_again(server, time.monotonic()) < SOON
        assert len(server.find("socket_not_renewed")) == 1


@pytest.mark.parametrize("both", [False, True], ids=["lock", "lock-and-socket"])
def test_a_lock_file_that_was_deleted_is_made_anew(folder: Path, both: bool) -> None:
    """Another server is refused as before; preforkctl finds its way; after kill -9 the next start works at once."""
    control = str(folder / "control")
    with Server("faulty", "--workers", "1", "--control-socket", control, folder=folder) as server:
        lock = Path(server.address + ".lock")
        notes = lock.read_text()
        lock.unlink()
        if both:
            os.unlink(server.address)
        server.wait_event("socket_renewed" if both else "lock_renewed")
        assert lock.read_text() == notes
        wait_until(lambda: answers(server.address))
        assert_claimed(server, folder)
        server.kill()
        with Server("faulty", "--workers", "1", "--control-socket", control, folder=folder) as successor:
            assert successor.ask(path="/hello").text == "hello"


def test_an_inherited_path_is_its_owners(folder: Path) -> None:
    """Told, and not made anew: who has the socket open can still connect to it, by another name for instance."""
    path = str(folder / "app.sock")
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(path)
        owner.listen(16)
        os.link(path, path + ".other")
        number = owner.fileno()
        with Server("faulty", "--workers", "1", folder=folder, socket=f"fd://{number}", pass_fds=[number]) as server:
            assert answers(path)
            os.unlink(path)
            assert "whoever passed it" in server.wait_event("socket_vanished")["message"]
            assert answers(path + ".other")
            assert not os.path.lexists(path)
            assert server.find("socket_renewed") == []

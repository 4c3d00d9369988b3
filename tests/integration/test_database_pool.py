"""The example of connections that belong to workers, and what happens to connections that do not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from harness import REPOSITORY, Server, wait_until

EXAMPLE = REPOSITORY / "examples" / "database_pool"


def open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(link))
    return found


def test_the_example(folder: Path) -> None:
    """Each worker has its own connection, nobody else has one, and the book keeps what everybody wrote."""
    options = ("--hooks", "connections", "--chdir", str(EXAMPLE), "--workers", "2")
    book = str(folder / "guests.db")
    with Server("guestbook:application", *options, folder=folder, env={"GUESTS": book}) as server:
        workers = server.wait_workers(2)
        assert server.find("preload_refused") == []
        for name in ("Ada", "Zoë", "Grace"):
            assert server.ask(params={"QUERY_STRING": f"name={quote(name)}"}).status == 200
        assert server.ask().text.split() == ["Ada", "Zoë", "Grace"]
        holders = [pid for pid in server.titles() if book in open_files(pid)]
        assert sorted(holders) == sorted(workers)
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: len({*server.workers()} - {*workers}) == 1)
        assert server.ask().text.split() == ["Ada", "Zoë", "Grace"]


@pytest.fixture
def database(folder: Path) -> Iterator[tuple[str, list[socket.socket]]]:
    """Something that takes connections and keeps them: its path, and those it has."""
    taken: list[socket.socket] = []
    path = str(folder / "database.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, taken
        listener.shutdown(socket.SHUT_RD)
        thread.join()
    for connection in taken:
        connection.close()


def test_a_connection_of_the_import(folder: Path, database: tuple[str, list[socket.socket]]) -> None:
    """What the hooks module connects when it is imported is not forked: said once, and every worker has its own."""
    path, taken = database
    (folder / "eager.py").write_text(
        f"import socket\nconnection = socket.socket(socket.AF_UNIX)\nconnection.connect({path!r})\n"
    )
    with Server("faulty", "--hooks", "eager", "--workers", "3", folder=folder) as server:
        assert server.wait_event("preload_refused")["reasons"] == [f"sockets are connected: {path}"]
        server.wait_workers(3)
        assert server.ask(path="/hello").body == b"hello"
        assert len(server.find("preload_refused")) == 1
        wait_until(lambda: len(taken) == 4)  # that of the zygote, which is gone


def test_a_connection_of_the_worker(folder: Path, database: tuple[str, list[socket.socket]]) -> None:
    """The same in on_worker_start: one import, one connection for each worker, and none that two of them share."""
    path, taken = database
    (folder / "late.py").write_text(
        "import socket\n"
        "def on_worker_start(worker):\n"
        "    global connection\n"
        "    connection = socket.socket(socket.AF_UNIX)\n"
        f"    connection.connect({path!r})\n"
        "    connection.send(b'%d' % worker.pid)\n"
        "def on_worker_stop(worker):\n"
        "    connection.send(b' bye')\n"
        "    connection.close()\n"
    )
    with Server("faulty", "--hooks", "late", "--workers", "3", folder=folder) as server:
        workers = server.wait_workers(3)
        assert server.find("preload_refused") == []
        answered: set[int] = set()  # who has not begun to serve when the stop comes is not asked to say goodbye
        while len(answered) < 3:
            answered.add(json.loads(server.ask(path="/whoami").body)["me"]["pid"])
        wait_until(lambda: len(taken) >= 3)  # they are connected before they are taken
        assert len(taken) == 3
        server.stop()
    said = []
    for connection in taken:
        connection.settimeout(10)
        said.append(connection.makefile().read())
    assert sorted(said) == sorted(f"{pid} bye" for pid in workers)

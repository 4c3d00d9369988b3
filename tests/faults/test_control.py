"""Orders to a real server by the real preforkctl, and clients that want to keep it from its work."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, Server, connect, ordering, run, wait_until

_PROGRAM = "import sys; from prefork.cli.control import main; sys.exit(main())"


def control(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """preforkctl, told nothing but these words."""
    return run(sys.executable, "-c", _PROGRAM, *words, folder=folder, env=env)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Two workers, and a control socket in the test's own folder."""
    found = Server("faulty", "--workers", "2", "--control-socket", str(folder / "c.sock"), folder=folder)
    with found:
        yield found
    assert not (folder / "c.sock").exists()


def say(folder: Path, data: bytes) -> bytes:
    """One message to the control socket and all that comes back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(PATIENCE)
        client.connect(str(folder / "c.sock"))
        client.send(data)
        answer = b""
        while piece := client.recv(1_000_000):
            answer += piece
        return answer


@contextmanager
def held(server: Server, folder: Path, number: int = 1) -> Iterator[list[str]]:
    """So many workers run a request until the block ends; the URIs of these."""
    uris = [f"/hold?fifo={folder}/fifo{index}" for index in range(number)]
    threads = [threading.Thread(target=server.ask, args=("GET", uri)) for uri in uris]
    with ExitStack() as stack:
        for index, thread in enumerate(threads):
            os.mkfifo(folder / f"fifo{index}")
            thread.start()
            stack.callback(thread.join)
            writer = os.open(folder / f"fifo{index}", os.O_WRONLY)  # returns when the worker reads
            stack.callback(os.close, writer)
        yield uris


def test_status_shows_what_runs(folder: Path, server: Server) -> None:
    """Found by the socket that is served: pools, queue, and the request of each worker, as text and as JSON."""

    def one_is_idle() -> bool:
        """Once the other is done with the look whether the server is there."""
        (pool,) = json.loads(control(folder, "--socket", server.address, "status", "--json").stdout)["pools"]
        return bool(pool["idle processes"] == 1)

    with held(server, folder) as uris:
        wait_until(one_is_idle)
        done = control(folder, "--socket", server.address, "status", "--json")
        text = control(folder, "status", SOCK_PATH=server.address).stdout
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    (pool,) = answer["pools"]
    assert (answer["pid"], answer["phase"], pool["socket"]) == (server.pid, "serving", server.address)
    assert (pool["active processes"], pool["idle processes"], pool["max children"]) == (1, 1, 2)
    running = [process for process in pool["processes"] if process["request uri"] is not None]
    assert [process["request uri"] for process in running] == uris
    assert running[0]["pid"] in server.workers()
    assert "2 of 2 (static): 1 idle, 1 active; generation 1" in text
    assert f"GET {uris[0]}, " in text


def test_stop_is_done_when_it_says_so(folder: Path) -> None:
    """It waits for the running request, and then no process is left."""
    with Server("faulty", "--workers", "2", "--control-socket", "c.sock", folder=folder) as server:
        asked = threading.Thread(target=server.ask, args=("GET", f"/slow?s=0.5&began={folder}/began"))
        asked.start()
        wait_until((folder / "began").exists)
        done = control(folder, "--control", "c.sock", "stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert server.process.wait(0.2) == 0
        asked.join()
        stopping = server.wait_event("stopping", phase="draining")
        assert (stopping["cause"], stopping["peer_uid"]) == ("stop", os.geteuid())


def test_stop_now_does_not_wait(folder: Path, server: Server) -> None:
    """Also in the middle of a stop that does; both are answered."""
    asked = threading.Thread(target=server.ask, args=("GET", f"/slow?s=60&began={folder}/began"))
    asked.start()
    wait_until((folder / "began").exists)
    with ordering(folder, "--control", str(folder / "c.sock"), "stop") as patient:
        server.wait_event("stopping", phase="draining")
        assert json.loads(say(folder, b'{"command": "status"}'))["phase"] == "draining"
        assert control(folder, "--control", str(folder / "c.sock"), "stop", "--now").returncode == 0
        _, said = patient.communicate(timeout=PATIENCE)
        assert (patient.returncode, said) == (0, "")
    assert server.wait_exit() == 0
    asked.join()


def test_a_stop_that_is_not_waited_for_is_a_stop(folder: Path, server: Server) -> None:
    """Ctrl-C ends the wait, not the stop."""
    with held(server, folder), ordering(folder, "--control", str(folder / "c.sock"), "stop") as client:
        server.wait_event("stopping")
        client.send_signal(signal.SIGINT)
        assert client.wait(PATIENCE) == 130
    assert server.wait_exit() == 0


def test_a_server_that_is_booting_can_be_asked_and_stopped(folder: Path) -> None:
    """Before any socket of its own exists."""
    (folder / "hangs.py").write_text("import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(1000)\n")
    server = Server("hangs", "--control-socket", str(folder / "c.sock"), folder=folder).start()
    wait_until((folder / "importing").exists)
    assert "booting" in control(folder, "--socket", server.address, "ping").stdout
    waiting = control(folder, "--control", str(folder / "c.sock"), "wait", "--timeout", "200ms")
    assert (waiting.returncode, "is booting" in waiting.stderr) == (1, True)
    assert control(folder, "--socket", server.address, "stop").returncode == 0
    assert server.wait_exit() == 0
    server.assert_nothing_left()


def test_ping_through(folder: Path, server: Server) -> None:
    """Fails when the path is no longer ours, and when every worker is stuck; plain ping does not."""
    ping = ("--control", str(folder / "c.sock"), "ping")
    assert control(folder, *ping, "--through").stdout == f"prefork 0.1.0, pid {server.pid}, serving\n"
    assert server.path is not None
    # One that is deleted is made anew at once; one that is replaced is left alone.
    aside, foreign = folder / "aside.sock", folder / "foreign.sock"
    aside.hardlink_to(server.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(foreign))
        other.listen()
        foreign.rename(server.path)
        replaced = control(folder, *ping, "--through")
        assert (replaced.returncode, "no longer the socket that pid" in replaced.stderr) == (1, True)
        aside.rename(server.path)
    with held(server, folder, 2):
        stuck = control(folder, *ping, "--through", "--timeout", "100ms")
        assert (stuck.returncode, "no worker answers: all are busy, or hang" in stuck.stderr) == (1, True)
        assert control(folder, *ping, "--json").returncode == 0


def test_wait_and_get_without_a_socket(folder: Path, server: Server) -> None:
    """By the control socket: it serves when its sockets do, and the only one of them is the one that is meant."""
    assert control(folder, "--control", str(folder / "c.sock"), "wait").returncode == 0
    assert control(folder, "--control", str(folder / "c.sock"), "get", "/hello").stdout == "hello"


@pytest.mark.parametrize("number", [1, 2])
def test_the_only_server_is_found(folder: Path, number: int) -> None:
    """By where servers keep their control sockets; of several none is chosen, and the dead do not count."""
    home = {"RUNTIME_DIRECTORY": str(folder / "rt")}
    (folder / "rt").mkdir()
    with ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(folder / "rt" / "prefork-999999999.sock"))
        servers = [
            stack.enter_context(Server("faulty", folder=folder, socket=str(folder / f"{n}.sock"), env=home))
            for n in range(number)
        ]
        mine = [f"{folder}/rt/prefork-{server.pid}.sock" for server in servers]
        assert all(stat.S_IMODE(os.stat(path).st_mode) == 0o600 for path in mine)
        found = run(sys.executable, "-c", _FIND.format(f"{folder}/rt"), "ping", folder=folder, env=home)
        if number == 1:
            assert found.stdout == f"prefork 0.1.0, pid {servers[0].pid}, serving\n"
        else:
            assert (found.returncode, all(path in found.stderr for path in mine)) == (1, True)
            assert "several servers run; name one" in found.stderr
    assert os.listdir(folder / "rt") == []


# The machine may run other servers: here, those of one directory are all there are.
_FIND = """
import sys
from prefork.system import runtime
from prefork.cli import control, orders
orders.find_doors = lambda environ: [str(path) for path in runtime._doors_in(runtime.Path({!r}))]
sys.exit(control.main())
"""


def test_without_a_control_socket(folder: Path) -> None:
    """Asked for, or for want of a place: said at the start, and to whoever looks for it."""
    with Server("faulty", "--control-socket", "off", folder=folder) as server:
        done = control(folder, "--socket", server.address, "status")
        mend = f"--control-socket PATH; until then get and wait ask it by its own, and `kill -TERM {server.pid}"
        assert (done.returncode, mend in done.stderr) == (1, True)


@pytest.mark.root
def test_a_user_without_a_place_for_it(folder: Path) -> None:
    """A warning that names the mend, and a server all the same."""
    os.chown(folder, 65534, 65534)
    env = {"HOME": str(folder), "XDG_RUNTIME_DIR": "", "RUNTIME_DIRECTORY": ""}
    with Server("faulty", folder=folder, user=65534, group=65534, extra_groups=[], env=env) as server:
        warning = server.wait_event("no_control_socket")
        assert "--control-socket" in warning["message"]
        assert server.ask(path="/hello").body == b"hello"


def test_no_client_keeps_the_master_from_its_work(folder: Path, server: Server) -> None:
    """Many that say nothing, nonsense, or take no answer: a worker that dies is replaced as ever."""
    with ExitStack() as stack:
        for number in range(60):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
            try:
                client.connect(str(folder / "c.sock"))
                client.send((b'{"command": "status"}', b"", b"[" * 4096, os.urandom(100))[number % 4])
            except (BlockingIOError, BrokenPipeError):
                pass
        before = set(server.wait_workers(2))
        start = time.monotonic()
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - before) == 1)
        assert time.monotonic() - start < 5.0
        assert server.ask(path="/hello").body == b"hello"
    wait_until(lambda: json.loads(_try(folder) or b'{"ok": false}')["ok"])


def _try(folder: Path) -> bytes:
    try:
        return say(folder, b'{"command": "ping"}')
    except OSError:
        return b""


def test_an_http_client_is_not_understood(folder: Path, server: Server) -> None:
    """A stream socket cannot even connect, so no proxy can be led there."""
    with pytest.raises(OSError, match="Protocol wrong type"):
        connect(str(folder / "c.sock"))
    answer: dict[str, Any] = json.loads(say(folder, b"POST /stop HTTP/1.1\r\n\r\n"))
    assert answer["ok"] is False


def test_the_lock_of_a_server_that_is_gone(folder: Path) -> None:
    """It names a control socket that nobody listens on, and so says preforkctl."""
    server = Server("faulty", "--control-socket", str(folder / "c.sock"), folder=folder).start()
    server.wait_ready()
    server.kill()
    done = control(folder, "--socket", server.address, "status")
    assert (done.returncode, "the server has ended" in done.stderr) == (1, True)
    server.assert_nothing_left()


def test_a_control_socket_in_use(folder: Path, server: Server) -> None:
    """69, and the first one goes on."""
    done = run(
        *(sys.executable, "-m", "prefork", "faulty", "--socket", str(folder / "second.sock")),
        *("--control-socket", str(folder / "c.sock")),
        folder=folder,
    )
    assert (done.returncode, str(server.pid) in done.stderr) == (69, True)
    assert json.loads(say(folder, b'{"command": "ping"}'))["pid"] == server.pid

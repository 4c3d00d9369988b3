"""Hot deploys by Server::Starter's real start_server: the next server beside the last one, on the same socket."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import PATIENCE, Load, Nginx, Server, children, connect, environment, fastcgi, fetch, stretch, wait_until
from integration.handing import recipe, release, wait_release

pytestmark = [pytest.mark.tool("start_server"), pytest.mark.once]


def masters(server: Server) -> list[int]:
    """The servers that start_server runs, oldest first."""
    return [pid for pid in children(server.pid) if _title(pid).startswith("prefork: master")]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def starter(folder: Path, *options: str) -> list[str]:
    return ["start_server", f"--path={folder}/app.sock", *options, "--"]


@pytest.mark.nginx
@pytest.mark.parametrize("interval", ["0", "1"], ids=["at once", "a second apart"])
def test_hot_deploys_under_load_lose_nothing(folder: Path, interval: str) -> None:
    """HUP after HUP, under a mixed load through nginx and beside it: nothing is refused, cut short or forgotten.

    With no interval the last server is told to end before the next has imported a thing: what comes meanwhile waits.
    """
    path = f"{folder}/app.sock"
    parent = starter(folder, f"--interval={interval}")
    (folder / "release").write_text("0")
    with Server("mixed", "--workers", "6", folder=folder, socket="starter", parent=parent) as server:
        with (
            Nginx(path, folder=folder, keepalive=4) as nginx,
            Load(nginx.address, short=6, long=2, seconds=5.0) as through,
            Load(path, short=4, long=0) as direct,
        ):
            wait_release(through, "0")
            for release in ("1", "2", "3"):
                (folder / "release").write_text(release)
                server.send(signal.SIGHUP)
                wait_release(through, release)
                wait_release(direct, release)
            through.stop()
            direct.stop()
            for load in (through, direct):
                assert (load.lost, load.wrong) == ([], [])
            assert {sample.kind for sample in through.samples} == {"get", "post", "download", "long"}
            assert nginx.errors() == []
        server.wait_event("stopped", count=3)
        assert len(server.find("serving")) == 4
        wait_until(lambda: len(masters(server)) == 1, what="the end of the servers before the last")
        assert server.find("worker_died") == []
    assert not os.path.exists(path)  # start_server made it, start_server removes it


def test_what_the_last_server_accepted_it_answers(folder: Path) -> None:
    """A request that runs while the next server takes over has all the time it needs."""
    path, env = f"{folder}/app.sock", release(folder, "old")
    parent = starter(folder, "--interval=0")
    with (
        Server("handed", "--workers", "1", folder=folder, socket="starter", env=env, parent=parent) as server,
        connect(path) as running,
    ):
        running.sendall(f"GET /slow?began={folder}/began&until={folder}/until HTTP/1.0\r\n\r\n".encode())
        wait_until((folder / "began").exists)
        release(folder, "new")
        server.send(signal.SIGHUP)
        server.wait_event("serving", count=2)
        assert fastcgi(path).body == b"new"
        assert len(masters(server)) == 2
        (folder / "until").touch()
        received = b""
        while part := running.recv(65_536):
            received += part
        assert received.endswith(b"\r\n\r\nold")
        server.wait_event("stopped")


def test_the_recipe(folder: Path) -> None:
    """docs/running.md, word for word but for the places: the second command ends when the next server is alone."""
    ours = shlex.join([sys.executable, "-m", "prefork", "handed", "--log-format", "json"])
    changes = {
        "/run/mysite": str(folder),
        "prefork-serve mysite.wsgi:application": ours,
        "--interval=5": "--interval=1",
    }
    start, restart = re.split(r"\n(?=start_server)", recipe("start_server --restart", changes).strip())
    env = {**environment(release(folder, "1")), "PATH": f"{os.environ['PATH']}:/usr/bin"}
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(["sh", "-c", f"exec {start}"], cwd=folder, env=env, stderr=log) as parent,
    ):
        try:
            wait_until(lambda: (folder / "status").exists() and b'"serving"' in (folder / "log").read_bytes())
            assert fastcgi(f"{folder}/app.sock").body == b"1"
            release(folder, "2")
            done = subprocess.run(["sh", "-c", restart], env=env, timeout=PATIENCE, check=False)
            assert done.returncode == 0
            assert len(children(parent.pid)) == 1
            assert fastcgi(f"{folder}/app.sock").body == b"2"
        finally:
            parent.terminate()
    assert parent.returncode == 0


def test_what_cannot_be_loaded_replaces_nobody(folder: Path) -> None:
    """It ends by itself, is tried again and again, and the last server serves on until it is mended."""
    path, env = f"{folder}/app.sock", release(folder, "old")
    # For who has not ended by itself by then, it takes for a server.
    parent = starter(folder, f"--interval={math.ceil(4 * stretch())}")
    with Server("handed", "--workers", "1", folder=folder, socket="starter", env=env, parent=parent) as server:
        (folder / "version").unlink()
        server.send(signal.SIGHUP)
        server.wait_line("seems to have failed to start, exit status:19968")  # 78, as wait(2) tells it
        assert fastcgi(path).body == b"old"
        release(folder, "new")
        server.wait_event("stopped")
        assert fastcgi(path).body == b"new"


def test_each_pool_has_its_address(folder: Path) -> None:
    """A path and a port, in the words that start_server was given; the application hears nothing of them."""
    pool = 'app = "handed"\nworkers = 1\nsocket = '
    (folder / "two.toml").write_text(
        f'[pool.one]\n{pool}"starter:{folder}/app.sock"\n[pool.two]\n{pool}"starter:127.0.0.1:0"\n'
    )
    parent = starter(folder, "--port=127.0.0.1:0")
    with Server("", "--config", "two.toml", folder=folder, socket="starter", parent=parent) as server:
        server.wait_event("serving", count=2)
        found = json.loads(fastcgi(f"{folder}/app.sock", path="/environ").body)
        assert [name for name in found if name.startswith("SERVER_STARTER")] == []
        assert fetch(("127.0.0.1", port_of(server.pid))).body == b"1"


def port_of(pid: int) -> int:
    """The one TCP port that a process listens on."""
    links = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (port,) = [int(fields[1].partition(":")[2], 16) for fields in listening if f"socket:[{fields[9]}]" in links]
    return port

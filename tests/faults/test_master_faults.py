"""What the master meets outside of it and cannot help: no descriptors, a directory that leads nowhere, a long list."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest

from harness import Server, connect, control, wait_until
from prefork.errors import ConfigurationError

APP = """\
import os, time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        while not os.path.exists(environ["QUERY_STRING"]): time.sleep(0.01)
    start_response("200 OK", [])
    return [b"here"]
"""

TOO_LONG = "bytes; expected at most 65472: shorten its longest list, warmup (6000 entries)"


@pytest.fixture
def app(folder: Path) -> str:
    (folder / "app.py").write_text(APP)
    return "app"


def zygotes(server: Server) -> list[int]:
    return [pid for pid, title in server.titles().items() if title.startswith("prefork: zygote")]


def limit_files(server: Server, soft: int | None = None) -> int:
    """Leave the master so many descriptors, or as many as it may have; how many that is."""
    hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard if soft is None else soft, hard))
    return hard


def test_a_master_without_descriptors_serves_on(folder: Path, app: str) -> None:
    """A zygote that dies is replaced, and a reload done, as soon as there are some; the stop is in order.

    Also if the hard limit was lowered meanwhile.
    """
    with Server(app, "--workers", "2", "--pm", "static", folder=folder) as server:
        server.wait_workers(2)
        (zygote,) = wait_until(lambda: zygotes(server), what="a zygote")
        limit_files(server, 8)
        os.kill(zygote, signal.SIGKILL)
        failed = server.wait_event("zygote_not_started")
        assert failed["error"] == "cannot fork: Too many open files"
        server.send(signal.SIGHUP)
        assert "Too many open files" in server.wait_event("reload_failed")["error"]
        assert server.ask().body == b"here"
        hard = limit_files(server)
        wait_until(lambda: zygotes(server), what="another zygote")
        server.send(signal.SIGHUP)
        server.wait_event("reloaded")
        assert server.ask().body == b"here"
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard // 2, hard // 2))


def test_a_directory_that_leads_to_itself(folder: Path) -> None:
    """A deployment that went wrong (`ln -sfn current current`) is none of the reports' business."""
    (folder / "release").mkdir()
    (folder / "release" / "app.py").write_text(APP)
    (folder / "current").symlink_to("release")
    options = ("--workers", "1", "--chdir", str(folder / "current"), "--control-socket", str(folder / "c.sock"))
    with Server("app", *options, folder=folder) as server:
        server.wait_workers(1)
        (folder / "current").unlink()
        (folder / "current").symlink_to("current")
        ends = [connect(server.address) for _ in range(2)]
        for end in ends:
            end.sendall(f"GET /slow?{folder / 'end'} HTTP/1.0\r\n\r\n".encode())
        group = server.wait_event("saturated")["groups"][0]
        assert "current/app.py" in group or "app.py:4" in group
        stacks = json.loads(control(folder, "--control", str(folder / "c.sock"), "stacks", "--json").stdout)
        assert stacks["pools"][0]["groups"][0]["where"].startswith("app.py:4")
        (folder / "end").touch()
        for end in ends:
            assert end.recv(15) == b"HTTP/1.1 200 OK"
            end.close()


def test_settings_that_no_zygote_can_be_told(folder: Path, app: str) -> None:
    """Refused at a reload, which changes nothing, and at a start; both say what is too long."""
    file, pages = folder / "prefork.toml", [f"/page/{number:05}" for number in range(6000)]
    text = f'[pool.www]\napp = "{app}"\nsocket = "{folder / "app.sock"}"\nmax_children = 2\n'
    file.write_text(text)
    server = Server("", "--config", str(file), folder=folder)
    with server:
        server.wait_workers(2)
        file.write_text(f"{text}warmup = {json.dumps(pages)}\n")
        server.send(signal.SIGHUP)
        assert TOO_LONG in server.wait_event("reload_failed")["error"]
        assert server.ask().body == b"here"
    again = Server("", "--config", str(file), folder=folder).start()
    assert again.wait_exit() == ConfigurationError.exit_status
    assert TOO_LONG in again.text
    assert "Traceback" not in again.text
    again.log.close()

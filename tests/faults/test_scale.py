"""Other numbers for a server that runs: by order, by signal, and until the next reload."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

from harness import Server, control, wait_until


def scale(folder: Path, *words: str, status: int = 0) -> str:
    """`preforkctl scale`; what it said."""
    done = control(folder, "--control", str(folder / "c.sock"), "scale", *words, status=status)
    return done.stderr if status else done.stdout


def static(folder: Path, *options: str) -> Server:
    return Server("faulty", "--workers", "2", "--control-socket", str(folder / "c.sock"), *options, folder=folder)


def test_more_and_fewer_workers(folder: Path) -> None:
    """Up at once; down as soon as they have nothing in hand; and a reload goes back to the configuration."""
    with static(folder) as server:
        server.wait_workers(2)
        said = scale(folder, "max_children=5")
        assert len(server.workers()) == 5  # it is done when the command returns
        assert said == "www: pm static, max_children 5, max_spawn_rate 32, process_idle_timeout 10s\n"
        assert server.find("scaled")[0]["changed"] == {"max_children": 5}
        thread = threading.Thread(target=server.ask, args=("GET", f"/slow?s=1&began={folder}/began"))
        thread.start()
        wait_until((folder / "began").exists)
        scale(folder, "--json", "max-children=1")
        server.wait_workers(1)
        thread.join()
        assert server.ask(path="/slow?s=0").status == 200
        control(folder, "--control", str(folder / "c.sock"), "reload")
        server.wait_workers(2)


def test_signals(folder: Path) -> None:
    """TTIN is one more, TTOU one less, and never none."""
    with static(folder) as server:
        server.wait_workers(2)
        server.send(signal.SIGTTIN)
        server.wait_event("scaled", cause="SIGTTIN", changed={"max_children": 3})
        server.wait_workers(3)
        for left in (2, 1):
            server.send(signal.SIGTTOU)
            server.wait_event("scaled", cause="SIGTTOU", changed={"max_children": left})
            server.wait_workers(left)
        server.send(signal.SIGTTOU)
        assert "at least one worker" in server.wait_event("scale_refused", cause="SIGTTOU")["error"]
        assert server.ask(path="/slow?s=0").status == 200


def test_several_numbers_at_once(folder: Path) -> None:
    """All of them or none."""
    options = ("--pm", "dynamic", "--max-children", "4", "--control-socket", str(folder / "c.sock"))
    with Server("faulty", *options, folder=folder) as server:
        said = json.loads(scale(folder, "--json", "max_children=8", "min_spare_servers=3", "max_spare_servers=6"))
        assert said["pools"]["www"]["max_spare_servers"] == 6
        wait_until(lambda: len(server.workers()) >= 3)
        refused = scale(folder, "max_children=10", "min_spare_servers=7", status=1)
        assert "min_spare_servers 7 cannot go with max_spare_servers 6" in refused
        status = json.loads(control(folder, "--control", str(folder / "c.sock"), "status", "--json").stdout)
        assert status["pools"][0]["max children"] == 8


REFUSED = {
    "max_children=many": "max_children: expected",
    "max_children=0": "max_children: expected",
    "max_children=64": "more than there is room for: expected less than 64",
    "max_childern=3": "did you mean max_children?",
    "socket=/x": "is changed in the configuration and by `preforkctl reload`",
    "other:max_children=3": "no pool other serves; expected one of www",
}


def test_what_cannot_be_is_refused(folder: Path) -> None:
    """With the reason and the mend; nothing is changed."""
    with static(folder) as server:
        workers = server.wait_workers(2)
        for word, reason in REFUSED.items():
            assert reason in scale(folder, word, status=1)
        assert "expected NAME=VALUE" in scale(folder, "max_children", status=64)
        assert (server.workers(), server.find("scaled")) == (workers, [])


def test_several_pools(folder: Path) -> None:
    """Each by its name, the others as they were; without a name nobody knows which is meant."""
    options = ("--socket", str(folder / "b.sock"), "--control-socket", str(folder / "c.sock"), "--workers", "1")
    with Server("faulty", *options, folder=folder) as server:
        server.wait_workers(2)
        assert "several pools serve; expected POOL:NAME=VALUE with one of www, www-2" in scale(
            folder, "max_children=2", status=1
        )
        scale(folder, "www-2:max_children=3")
        server.wait_workers(4)
        scale(folder, "--pool", "www", "max_children=2")
        server.wait_workers(5)
        assert [event["pool"] for event in server.find("scaled")] == ["www-2", "www"]


def test_workers_that_cannot_start(folder: Path) -> None:
    """The command fails with the reason; the numbers hold, and what serves serves on."""
    application = "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hello']\n"
    (folder / "shop.py").write_text(application)
    options = ("--workers", "1", "--preload", "never", "--control-socket", str(folder / "c.sock"))
    with Server("shop", *options, folder=folder) as server:
        server.wait_workers(1)
        (folder / "shop.py").write_text("raise RuntimeError('no database')")
        refused = scale(folder, "max_children=2", status=1)
        assert "the numbers hold, and a new worker cannot start: shop: importing it raised RuntimeError: no" in refused
        assert server.ask().body == b"hello"
        (folder / "shop.py").write_text(application + "# mended\n")
        server.wait_workers(2)

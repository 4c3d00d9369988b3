"""What a server has besides its pools, with a master that the test plays: order, failures, the launcher."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from master.hands import Hands, Recorder, hands_of
from master.test_control import Loop
from prefork.config.model import Config
from prefork.errors import AddressInUse, ConfigurationError
from prefork.master.background import Background
from prefork.master.surroundings import surrounded
from prefork.policy.lifecycle import Command
from prefork.system.control import open_door
from prefork.system.daemon import Link
from prefork.system.listener import Listener, parse_address


class Master(Loop):
    """A loop that also remembers what is to be done when every pool serves."""

    def __init__(self, *pools: Hands) -> None:
        super().__init__(*pools)
        self._calls: list[Callable[[], None]] = []

    def at_serving(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def serve(self) -> None:
        for call in self._calls:
            call()


def config_of(hands: Hands, **options: Any) -> Config:
    return Config(pools=(hands.launch.pool,), **{"control_socket": "off", **options})


def around(master: Master, config: Config, log: Recorder, link: Link | None = None) -> Any:
    return surrounded(master, config, log, link)  # type: ignore[arg-type]


def test_a_pid_file_exists_while_it_serves(folder: Path) -> None:
    """Not before, not after."""
    path = folder / "server.pid"
    with hands_of() as hands:
        master = Master(hands)
        with around(master, config_of(hands, pid_file=str(path)), Recorder()):
            assert not path.exists()
            master.serve()
            assert path.read_text() == f"{os.getpid()}\n"
        assert not path.exists()


def test_what_was_asked_for_and_cannot_be(folder: Path) -> None:
    """Stops the start."""
    with hands_of() as hands:
        for options in ({"pid_file": "/nowhere/pid"}, {"control_socket": "/nowhere/c.sock"}):
            with (
                pytest.raises(ConfigurationError, match="/nowhere"),
                around(Master(hands), config_of(hands, **options), Recorder()),
            ):
                pass
        door, _ = open_door(str(folder / "c.sock"))
        with (
            door,
            pytest.raises(AddressInUse),
            around(Master(hands), config_of(hands, control_socket=str(folder / "c.sock")), Recorder()),
        ):
            pass


@pytest.mark.parametrize("control", ["off", "c.sock", None])
def test_the_lock_file_says_where_orders_are_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, control: str | None
) -> None:
    """Off, where the operator said (from where the server was started), or where servers usually do."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    chosen = f"{folder}/prefork-{os.getpid()}.sock"
    expected = {"off": "off", "c.sock": f"{folder}/c.sock", None: chosen}[control]
    log = Recorder()
    with hands_of() as hands:
        hands.holdings.listener.close()
        hands.holdings.listener = Listener.claim(parse_address(str(folder / "app.sock")))
        with around(Master(hands), config_of(hands, control_socket=control), log):
            notes = (folder / "app.sock.lock").read_text().splitlines()
            assert notes == [f"pid={os.getpid()}", f"socket={folder}/app.sock", f"control={expected}"]
            assert os.path.exists(expected) is (control != "off")
        assert not os.path.exists(expected)
    assert log.events == []


@pytest.mark.parametrize("place", ["", "taken"])
def test_a_usual_place_that_cannot_be_had_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """No directory, or one where something stands in the way: a warning with the mend."""
    monkeypatch.setattr(
        "prefork.master.surroundings.choose_path", lambda _environ: f"{folder}/{place}" if place else None
    )
    (folder / "taken").touch()
    log = Recorder()
    with hands_of() as hands, around(Master(hands), config_of(hands, control_socket=None), log):
        pass
    ((level, name, facts),) = log.events
    assert (level, name, "--control-socket" in facts["message"]) == ("warning", "no_control_socket", True)
    assert (folder / "taken").exists()


def test_the_launcher_is_told_last(folder: Path) -> None:
    """When the pid file is there and all is said."""
    above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with above, hands_of() as hands:
        master = Master(hands)
        link = Link(below)
        with around(master, config_of(hands, pid_file=str(folder / "pid")), Recorder(), link):
            above.setblocking(False)
            with pytest.raises(BlockingIOError):
                above.recv(10_000)
            master.serve()
            assert (folder / "pid").exists()
            assert hands.log.names() == ["serving"]
            assert b"app:application on @prefork-test" in above.recv(10_000)
            above.send(b"ok")
            master.turn()
            assert (link.fileno(), master.ordered) == (-1, [])


@pytest.mark.parametrize("word", [b"", b"no"])
def test_a_launcher_that_is_gone(word: bytes) -> None:
    """Or says what no launcher says: the server is given up, once."""
    above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    master, log = Master(), Recorder()
    background = Background(master, Link(below), log)  # type: ignore[arg-type]
    background._listen(0.0)
    assert master.ordered == []
    if word:
        above.send(word)
    above.close()
    master.turn()
    assert [command for command, _ in master.ordered] == [Command.ABANDONED]
    assert log.names() == ["launcher_gone"]
    master.selector.close()

"""Orders on the wire: what is one, what is not, and the socket they come over."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import AddressInUse, ConfigurationError, ProtocolError
from prefork.system.control import (
    COMMANDS,
    LARGEST_ORDER,
    Order,
    Scale,
    Wish,
    connect,
    encode_answer,
    encode_order,
    open_door,
    read_order,
)
from prefork.system.peers import peer_of


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("now", [True, False])
@pytest.mark.parametrize("path", [None, "/run/app.sock", "/run/é\udcff.sock"])
def test_an_order_arrives_as_it_was_given(command: str, now: bool, path: str | None) -> None:
    """Every command, with and without what may be added."""
    order = Order(command, now, path)
    assert read_order(encode_order(order)) == order


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "in JSON"),
        (b"\xff", "in JSON"),
        (b"[" * LARGEST_ORDER, "in JSON"),
        (b"status", "in JSON"),
        (b"x" * (LARGEST_ORDER + 1), "at most 4096 bytes"),
        (b"[]", "an object"),
        (b'{"command": "ping", "more": 1}', "an object"),
        (b"{}", f"one of the commands {', '.join(COMMANDS)}"),
        (b'{"command": "halt"}', "one of the commands"),
        (b'{"command": ["stop"]}', "one of the commands"),
        (b'{"command": {}}', "one of the commands"),
        (b'{"command": "stop", "now": 1}', "true or false"),
        (b'{"command": "stop", "socket": 1}', "true or false"),
        (b'{"command": "scale", "scales": 1}', "a list of"),
        (b'{"command": "scale", "scales": [1]}', "a list of"),
        (b'{"command": "scale", "scales": [[]]}', "a list of"),
        (b'{"command": "scale", "scales": [["a", "b"]]}', "a list of"),
        (b'{"command": "scale", "scales": [[1, "b", "c"]]}', "a list of"),
        (b'{"command": "scale", "scales": [[null, 1, "c"]]}', "a list of"),
        (b'{"command": "scale", "scales": [[null, "b", null]]}', "a list of"),
        (b'{"command": "stacks", "pid": "1"}', 'a number for "pid"'),
        (b'{"command": "stacks", "pid": true}', 'a number for "pid"'),
        (b'{"command": "stacks", "pid": 1.5}', 'a number for "pid"'),
        (b'{"command": "tap", "tap": 1}', "pool or null, bodies, unmasked"),
        (b'{"command": "tap", "tap": [null, true]}', "pool or null, bodies, unmasked"),
        (b'{"command": "tap", "tap": [1, true, true]}', "pool or null, bodies, unmasked"),
        (b'{"command": "tap", "tap": [null, 1, true]}', "pool or null, bodies, unmasked"),
        (b'{"command": "tap", "tap": [null, true, "yes"]}', "pool or null, bodies, unmasked"),
    ],
)
def test_everything_else_is_refused(data: bytes, message: str) -> None:
    """With what was expected."""
    with pytest.raises(ProtocolError, match=message):
        read_order(data)


@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.sampled_from([*COMMANDS, "command", "now", "socket", "scales", "tap"]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["command", "now", "socket", "scales", "tap", "x"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_at_all(data: bytes) -> None:
    """Is an order, or a `ProtocolError`, and nothing else."""
    try:
        order = read_order(data)
    except ProtocolError:
        return
    assert order.command in COMMANDS


@pytest.mark.parametrize("size", [0, 10, 32 * 1024, 200_000])
def test_an_answer_comes_in_pieces(size: int) -> None:
    """Each of which fits a socket's buffer; together they are the answer."""
    body: dict[str, Any] = {"ok": True, "text": "é" * size}
    pieces = encode_answer(body)
    assert max(map(len, pieces)) <= 32 * 1024
    assert b"" not in pieces
    assert json.loads(b"".join(pieces)) == body


def test_the_door(folder: Path) -> None:
    """Mode 0600 whatever the umask, for whole messages; it knows who comes, and goes when it is ours."""
    path = str(folder / "control.sock")
    before = os.umask(0)
    try:
        door, mark = open_door(path)
    finally:
        os.umask(before)
    with door:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with pytest.raises(BlockingIOError):
            door.accept()
        with connect(path) as client:
            end, _ = door.accept()
            with end:
                assert peer_of(end) == (os.getpid(), os.geteuid(), os.getegid())
                client.send(b"one")
                client.send(b"two")
                assert (end.recv(100), end.recv(100)) == (b"one", b"two")
    mark.unlink()
    assert os.listdir(folder) == []


def test_a_living_door_is_respected_and_a_dead_one_replaced(folder: Path) -> None:
    """As with the sockets that are served."""
    path = str(folder / "control.sock")
    door, _ = open_door(path)
    with door, pytest.raises(AddressInUse, match=f"{path} is"):
        open_door(path)
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    door, mark = open_door(path)
    door.close()
    mark.unlink()


def test_what_is_no_control_socket_is_left_alone(folder: Path) -> None:
    """A server's own socket, a file; and a missing directory is told as such."""
    path = str(folder / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(AddressInUse, match="another type than SOCK_SEQPACKET"):
            open_door(path)
    (folder / "file").touch()
    with pytest.raises(ConfigurationError, match="is a file, not a socket"):
        open_door(str(folder / "file"))
    with pytest.raises(ConfigurationError, match="does not exist"):
        open_door(str(folder / "none" / "control.sock"))


def test_numbers_arrive_as_they_were_given() -> None:
    """With a pool and without."""
    order = Order("scale", scales=(Scale("www", "max_children", "8"), Scale(None, "pm", "ondemand")))
    assert read_order(encode_order(order)) == order


def test_a_pid_arrives_as_it_was_given() -> None:
    for pid in (None, 0, 4711, -1, 2**70):
        assert read_order(encode_order(Order("stacks", pid=pid))) == Order("stacks", pid=pid)


def test_a_wish_arrives_as_it_was_given() -> None:
    """With a pool and without; an order without one wishes for nothing special."""
    for wish in (Wish(), Wish("www", bodies=True), Wish("www", unmasked=True)):
        assert read_order(encode_order(Order("tap", tap=wish))) == Order("tap", tap=wish)
    assert read_order(b'{"command": "tap"}').tap == Wish()

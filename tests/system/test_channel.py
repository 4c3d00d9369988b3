"""Channels: round trips, and everything that a stranger may send up one."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.processes import environment
from prefork.system import channel
from prefork.system.channel import ENDED, Kind, Message, Order, open_pair, receive_order, receive_report, shorten

Pair = tuple[socket.socket, socket.socket]
PID = os.getpid()
GARBAGE = Message(None, {}, PID)


@pytest.fixture
def pair() -> Iterator[Pair]:
    above, below = open_pair()
    yield above, below
    above.close()
    below.close()


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


# round trips

BODIES: list[dict[str, Any]] = [
    {},
    {"slot": 3},
    {"text": 'caf\xe9 \u20ac \U0001f40d \x00 \u2028 "quoted" back\\slash'},
    {"path": os.fsdecode(b"/srv/\xff\xfe/app"), "after a backslash": "\\\udcff"},
    {"nested": {"list": [1, 2.5, None, True, ["x"]]}},
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", [Kind.READY, Kind.FAILED, Kind.NOT_FORKED, Kind.HELLO])
def test_a_report_arrives_as_it_was_sent(pair: Pair, kind: Kind, body: dict[str, Any]) -> None:
    """With the pid of its sender, by the kernel's word; bytes of a path that are no text survive."""
    above, below = pair
    channel.send(below, kind, body)
    assert receive_report(above) == Message(kind, body, PID)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", [Kind.SETTINGS, Kind.FORK, Kind.LISTEN, Kind.LEAVE])
def test_an_order_arrives_as_it_was_sent(pair: Pair, kind: Kind, body: dict[str, Any]) -> None:
    """Without descriptors there are none."""
    above, below = pair
    channel.send(above, kind, body)
    assert receive_order(below) == Order(kind, body, ())


def test_a_message_without_a_body_has_an_empty_one(pair: Pair) -> None:
    """Both ways."""
    above, below = pair
    channel.send(above, Kind.LEAVE)
    channel.send(below, Kind.HELLO)
    assert (receive_order(below), receive_report(above)) == (Order(Kind.LEAVE, {}), Message(Kind.HELLO, {}, PID))


def test_an_order_carries_descriptors(pair: Pair, tmp_path: Path) -> None:
    """Up to four, in their order; what arrives is closed on exec."""
    above, below = pair
    files = [(tmp_path / str(number)).open("w+b") for number in range(4)]
    channel.send(above, Kind.FORK, {"slot": 1}, tuple(file.fileno() for file in files))
    order = receive_order(below)
    assert order is not None
    assert [os.fstat(got).st_ino for got in order.descriptors] == [os.fstat(file.fileno()).st_ino for file in files]
    assert not any(os.get_inheritable(got) for got in order.descriptors)
    for descriptor in order.descriptors:
        os.close(descriptor)
    for file in files:
        file.close()


def test_messages_keep_their_borders_and_their_order(pair: Pair) -> None:
    """Three sent at once are three."""
    above, below = pair
    for number in range(3):
        channel.send(below, Kind.HELLO, {"number": number})
    assert [message and message.body for message in (receive_report(above) for _ in range(4))] == [
        {"number": 0},
        {"number": 1},
        {"number": 2},
        None,
    ]


def test_the_masters_end_never_waits(pair: Pair) -> None:
    """Nothing there is None, and a full channel is an OSError rather than a master that stands still."""
    above, _below = pair
    assert receive_report(above) is None

    def fill() -> None:
        for _ in range(10_000):
            channel.send(above, Kind.FORK, {"slot": 1})

    with pytest.raises(BlockingIOError):
        fill()


def test_the_other_ends_close_is_the_end(pair: Pair) -> None:
    """For both sides, after what had been sent before; and it stays the end."""
    above, below = pair
    channel.send(below, Kind.READY)
    below.close()
    heard = [receive_report(above) for _ in range(3)]
    assert heard == [Message(Kind.READY, {}, PID), ENDED, ENDED]
    assert heard[1] is ENDED
    above, below = open_pair()
    above.close()
    assert receive_order(below) is None
    below.close()


def test_an_end_with_unread_orders_is_an_end(pair: Pair) -> None:
    """A process that dies with a message unread resets the channel (ECONNRESET): an end like the other."""
    above, below = pair
    channel.send(above, Kind.LEAVE)
    below.close()
    assert receive_report(above) is ENDED


def test_sending_to_nobody_is_an_error_and_no_signal(pair: Pair) -> None:
    """EPIPE, also where SIGPIPE would kill."""
    above, below = pair
    below.close()
    with pytest.raises(BrokenPipeError):
        channel.send(above, Kind.LEAVE)


def test_a_message_that_cannot_fit_is_refused(pair: Pair) -> None:
    """65,536 bytes with everything, and not one more."""
    above, below = pair
    room = 65_536 - len(b'\x01{"x": ""}')
    channel.send(above, Kind.SETTINGS, {"x": "a" * room})
    order = receive_order(below)
    assert order is not None
    assert order.body == {"x": "a" * room}
    with pytest.raises(ValueError, match="a message of 65537 bytes; at most 65536 fit"):
        channel.send(above, Kind.SETTINGS, {"x": "a" * (room + 1)})


# garbage

DEEP = b"[" * 30_000 + b"]" * 30_000
HELLO = bytes((Kind.HELLO,))
MALFORMED = {
    "empty": b"",
    "a kind alone": HELLO,
    "unknown kind": b"\x63{}",
    "zero": b"\x00{}",
    "an order": bytes((Kind.FORK,)) + b'{"slot": 1}',
    "no JSON": HELLO + b"hello",
    "half JSON": HELLO + b'{"a": ',
    "no dictionary: list": HELLO + b"[]",
    "no dictionary: null": HELLO + b"null",
    "no dictionary: number": HELLO + b"1e999",
    "no dictionary: text": HELLO + b'"x"',
    "not UTF-8": HELLO + b'{"a": "\xff"}',
    "UTF-16 of a surrogate": HELLO + b"\xff\xfe\x00\xd8",
    "nested deeply": HELLO + DEEP,
    "nested deeply in a dictionary": HELLO + b'{"a": ' + DEEP + b"}",
    "a dictionary nested deeply": HELLO + b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
    "a number of many digits": HELLO + b'{"a": ' + b"1" * 5_000 + b"}",
    "two values": HELLO + b"{} {}",
    "more than fits": HELLO + b'{"a": "' + b"x" * 100_000 + b'"}',
    "a byte too many": HELLO + b'{"a": "' + b"x" * (65_536 - 9) + b'"}',
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_told_apart(pair: Pair, data: bytes) -> None:
    """It costs nothing but itself: the next message is understood."""
    above, below = pair
    below.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    below.send(data)
    channel.send(below, Kind.HELLO, {"next": True})
    assert [receive_report(above), receive_report(above)] == [GARBAGE, Message(Kind.HELLO, {"next": True}, PID)]


def test_numbers_that_json_does_not_know_are_numbers(pair: Pair) -> None:
    """Python's JSON reads NaN and infinities; whoever uses a number has to judge it."""
    above, below = pair
    below.send(HELLO + b'{"a": NaN, "b": -Infinity, "c": 1e999}')
    message = receive_report(above)
    assert message is not None
    assert [str(value) for value in message.body.values()] == ["nan", "-inf", "inf"]


@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda body: HELLO + body))
def test_any_bytes_at_all(data: bytes) -> None:
    """A message or garbage, and never an exception."""
    above, below = open_pair()
    with above, below:
        below.send(data)
        message = receive_report(above)
        assert message is not None
        assert message.pid == PID
        assert message is not ENDED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(value=JSON)
def test_any_json_at_all(value: Any) -> None:
    """A dictionary is a body, anything else is garbage."""
    above, below = open_pair()
    with above, below:
        below.send(HELLO + json.dumps(value).encode())
        expected = Message(Kind.HELLO, value, PID) if isinstance(value, dict) else GARBAGE
        assert receive_report(above) == expected


# descriptors, and who speaks


def rights(*numbers: int) -> tuple[int, int, Any]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers)


@pytest.mark.parametrize("count", [1, 2, 4, 253])
@pytest.mark.parametrize("data", [HELLO + b"{}", b"", b"garbage"])
def test_no_descriptor_ever_comes_up(pair: Pair, count: int, data: bytes) -> None:
    """Whatever they hang on, and however many (253 is the kernel's most): none is installed, the pid is still known."""
    above, below = pair
    before = descriptors()
    below.sendmsg([data], [rights(*[below.fileno()] * count)])
    message = receive_report(above)
    assert message is not None
    assert message.pid == PID
    assert descriptors() == before


def test_descriptors_with_credentials_do_not_come_up_either(pair: Pair) -> None:
    """Neither before nor after them in the message."""
    above, below = pair
    before = descriptors()
    credentials = socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("iII", PID, os.getuid(), os.getgid())
    for ancillary in ([rights(0), credentials], [credentials, rights(0)]):
        below.sendmsg([HELLO + b"{}"], ancillary)
        assert receive_report(above) == Message(Kind.HELLO, {}, PID)
    assert descriptors() == before


def test_descriptors_that_a_kernel_delivered_all_the_same_are_closed() -> None:
    """The second line of defence, asked directly: there is no kernel known that needs it."""
    reader, writer = os.pipe()
    assert channel._sender([(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", reader, writer) + b"ab")]) == 0
    for descriptor in (reader, writer):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(
    "item",
    [
        (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, b"short"),
        (socket.IPPROTO_IP, socket.SCM_CREDENTIALS, struct.pack("iII", 7, 0, 0)),
        (socket.SOL_SOCKET, 99, struct.pack("iII", 7, 0, 0)),
    ],
)
def test_only_whole_credentials_name_a_sender(item: tuple[int, int, bytes]) -> None:
    """Anything else is nobody."""
    assert channel._sender([item]) == 0


SPEAK = """
import os, socket, struct, sys
from prefork.system import channel
below = socket.socket(fileno=int(sys.argv[1]))
if sys.argv[2] == "claim":
    claim = struct.pack("iII", int(sys.argv[3]), os.getuid(), os.getgid())
    try:
        below.sendmsg([bytes((19,)) + b"{}"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claim)])
    except PermissionError:
        print("refused", end=" ")
channel.send(below, channel.Kind.HELLO, {"pid": 1})
print(os.getpid())
"""


def speak(below: socket.socket, *arguments: str) -> list[str]:
    """What another process prints that speaks on the channel; unprivileged, if we are root."""
    nobody = 65534 if os.geteuid() == 0 else None
    done = subprocess.run(
        [sys.executable, "-c", SPEAK, str(below.fileno()), *arguments],
        pass_fds=[below.fileno()],
        env=environment({}),
        stdout=subprocess.PIPE,
        check=True,
        cwd="/",
        text=True,
        user=nobody,
        group=nobody,
        extra_groups=None if nobody is None else [],
    )
    return done.stdout.split()


def test_the_sender_is_who_sends(pair: Pair) -> None:
    """Not who made the channel, nor who the message says."""
    above, below = pair
    (pid,) = speak(below, "hello")
    assert receive_report(above) == Message(Kind.HELLO, {"pid": 1}, int(pid))


def test_nobody_can_claim_another_pid(pair: Pair) -> None:
    """The kernel refuses to send it; what follows bears the sender's own."""
    above, below = pair
    refused, pid = speak(below, "claim", str(PID))
    assert (refused, receive_report(above)) == ("refused", Message(Kind.HELLO, {"pid": 1}, int(pid)))


def test_the_dead_are_still_named(pair: Pair) -> None:
    """A message whose sender is gone bears its pid, and then comes the end."""
    above, below = pair
    (pid,) = speak(below, "hello")
    below.close()
    heard = [receive_report(above), receive_report(above)]
    assert heard == [Message(Kind.HELLO, {"pid": 1}, int(pid)), ENDED]


def test_a_cut_off_list_of_descriptors_leaves_nothing_open(pair: Pair) -> None:
    """More than an order may carry: as many as fit arrive, the kernel drops the rest."""
    above, below = pair
    before = descriptors()
    above.sendmsg([bytes((Kind.LISTEN,)) + b"{}"], [rights(*[below.fileno()] * 9)])
    order = receive_order(below)
    assert order is not None
    assert len(order.descriptors) <= 6
    for descriptor in order.descriptors:
        os.close(descriptor)
    assert descriptors() == before


# text


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("", 10, ""),
        ("x" * 8, 10, "x" * 8),  # JSON puts it into quotes
        ("0123456789A", 10, "012\n  … 5 characters left out …\n89A"),
        ("\x00" * 4, 10, "\x00\n  … 3 characters left out …\n"),
    ],
)
def test_a_long_text_keeps_its_ends(text: str, most: int, expected: str) -> None:
    """And says how much is missing; what counts are the bytes of a message."""
    assert shorten(text, most) == expected


@pytest.mark.parametrize("character", ["x", "\n", "\\", "\xe9", "\u20ac", "\U0001f40d", "\x00", "\udcff"])
def test_shortened_texts_fit_one_message(pair: Pair, character: str) -> None:
    """Of whatever characters: a message and a traceback as long as they may be."""
    above, below = pair
    text = shorten(character * 1_000_000)
    channel.send(below, Kind.FAILED, {"message": text, "traceback": text, "third": text})
    assert receive_report(above) == Message(Kind.FAILED, {"message": text, "traceback": text, "third": text}, PID)
    assert len(text) > 2_000


@given(text=st.text(max_size=300), most=st.integers(20, 100))
def test_a_shortened_text_is_made_of_the_ends(text: str, most: int) -> None:
    """Its beginning and its end are those of the whole, and together they are no longer than asked for."""
    short = shorten(text, most)
    head, note, tail = short.partition("\n  … ") if short != text else (text, "", "")
    tail = tail.partition(" …\n")[2] if note else tail
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(json.dumps(head, ensure_ascii=False).encode()) <= most

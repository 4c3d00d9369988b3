"""What `preforkctl tap` makes of messages: nothing of what is none, and lines that no terminal obeys."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.cli.traffic import Transcript, read_message

PID = 4711

# 12:00:01.250 of some day, wherever the tests run.
MOMENT = time.mktime((2026, 11, 20, 12, 0, 1, 0, 0, -1)) + 0.25

OF_ALL: dict[str, Any] = {"time": MOMENT, "slot": 3, "peer": [640, 33, 33]}
OF_ONE = {**OF_ALL, "number": 17, "id": "5f1c-17", "method": "GET", "uri": "/orders?page=2"}
REQUEST = {
    **OF_ONE,
    "what": "request",
    "connection": 5,
    "protocol": "fastcgi",
    "waited": 0.003,
    "length": 7,
    "fields": [
        ["HTTP_HOST", "shop"],
        ["HTTP_X_ODD", "ä"],
        ["CONTENT_TYPE", ""],
        ["SCRIPT_NAME", "/orders"],
        ["A", "b c"],
    ],
}
BODY = {**OF_ONE, "what": "body", "bytes": 7, "whole": True, "text": "a=\u00c3\u00a4\r\nb"}
HEAD = {**OF_ONE, "what": "head", "status": "200 OK", "fields": [["Content-Type", "text/plain"]]}
ANSWER = {
    **OF_ONE,
    "what": "answer",
    "status": "200 OK",
    "fields": [["Content-Type", "text/plain"]],
    "own": False,
    "bytes": 512,
    "read": 0,
    "seconds": 0.101,
    "end": "complete",
}
REFUSED = {**OF_ALL, "what": "refused", "status": "400 Bad Request", "reason": "Host is missing"}
ALL = (REQUEST, BODY, HEAD, ANSWER, REFUSED)


def read(message: Any, pid: int = PID) -> dict[str, Any] | None:
    return read_message(json.dumps(message).encode(), pid)


def shown(*messages: dict[str, Any], brief: bool = False) -> list[str]:
    transcript = Transcript(brief=brief)
    found = []
    for message in messages:
        said = read(message)
        assert said is not None
        found += transcript.lines(said)
    return found


# -- what is a message


@pytest.mark.parametrize("message", ALL, ids=lambda message: str(message["what"]))
def test_messages(message: dict[str, Any]) -> None:
    """Come as they were sent, with their writer, and can be printed as JSON again."""
    said = read(message)
    assert said == {**message, "pid": PID, **({"text": "a=ä\r\nb"} if "text" in message else {})}
    assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize(
    "change",
    [
        {"what": "reply"},
        {"what": 1},
        {"what": ["request"]},
        {"more": 1},
        {"time": "now"},
        {"time": -1},
        {"time": 1e300},
        {"time": float("nan")},
        {"time": float("inf")},
        {"time": True},
        {"slot": -1},
        {"slot": 1.5},
        {"slot": 2**70},
        {"number": "1"},
        {"uri": None},
        {"uri": ["/"]},
        {"peer": [1, 2]},
        {"peer": [1, 2, "3"]},
        {"peer": [1, 2, 2**40]},
        {"peer": {}},
        {"fields": {}},
        {"fields": [["a"]]},
        {"fields": [["a", 1]]},
        {"fields": ["ab"]},
        {"waited": -1.0},
        {"waited": float("nan")},
        {"lost": -1},
        {"lost": "many"},
        {"text": "\ud800"},
        {"text": "€"},
    ],
    ids=str,
)
def test_what_is_none(change: dict[str, Any]) -> None:
    """One wrong value, and nothing of it is believed."""
    assert read(REQUEST) is not None
    assert read({**REQUEST, **change}) is None


@pytest.mark.parametrize("message", ALL, ids=lambda message: str(message["what"]))
def test_what_lacks_something(message: dict[str, Any]) -> None:
    """Only what a worker may leave out may be missing."""
    optional = {"peer", "lost", "connection", "waited", "length", "left_out", "own", "failure"}
    if message["what"] == "answer":
        optional |= {"status", "fields"}
    for key in message.keys() - optional:
        assert read({name: value for name, value in message.items() if name != key}) is None, key
    for key in optional & message.keys():
        assert read({name: value for name, value in message.items() if name != key}) is not None, key


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff", b"[]", b"1", b"{}", b"[" * 60_000, b'{"a":' * 10_000, b"1" * 60_000, b'"a"', b"null"]
)
def test_garbage(data: bytes) -> None:
    """No bytes raise."""
    assert read_message(data, PID) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(ALL), st.data())
def test_whatever_is_believed_can_be_shown(message: dict[str, Any], data: st.DataObject) -> None:
    """Every value replaced by anything: it is refused, or shown in lines that are safe for a terminal."""
    names = data.draw(st.lists(st.sampled_from(sorted(message)), max_size=3))
    said = read({**message, **{name: data.draw(_JSON) for name in names}})
    if said is None:
        return
    transcript = Transcript()
    lines = [*transcript.lines(said), transcript.loss({**said, "lost": 1})]
    if said["what"] == "request":
        lines.append(transcript.death(said, MOMENT))
    assert all(line.isprintable() for line in lines)


@given(st.binary(max_size=200))
def test_bytes(data: bytes) -> None:
    """The same of no message at all."""
    said = read_message(data, PID)
    assert said is None or all(line.isprintable() for line in Transcript().lines(said))


@pytest.mark.parametrize("key", ["uri", "method", "id", "protocol"])
def test_no_text_commands_the_terminal(key: str) -> None:
    """Escapes and line ends of others are spelled out."""
    lines = shown({**REQUEST, key: "\x1b]0;gone\x07\r\n\u202efake"})
    assert all(line.isprintable() for line in lines)
    assert any(r"\x1b]0;gone\x07\r\n\u202efake" in line for line in lines)
    (line,) = shown({**REQUEST, key: "\x1b[2J"}, brief=True)
    assert r"\x1b[2J" in line


# -- how it is shown


def test_a_request_and_its_answer() -> None:
    """At a glance: when, which worker, what, from whom; headers one a line, parameters side by side."""
    assert shown(REQUEST, ANSWER) == [
        "12:00:01.250 #3   → GET /orders?page=2  (fastcgi, pid 640 uid 33, id 5f1c-17, waited 0.003 s, body 7 bytes)",
        "                    Host: shop",
        "                    X-Odd: ä",
        "                    SCRIPT_NAME=/orders  A=b c",
        "12:00:01.250 #3   ← 200 OK, 512 bytes, 0.101 s",
        "                    Content-Type: text/plain",
    ]


def test_brief() -> None:
    """A line each, and none for bodies."""
    lines = shown(REQUEST, BODY, HEAD, {**ANSWER, "text": "x"}, REFUSED, brief=True)
    assert [line.split()[2] for line in lines] == ["→", "←", "←", "✗"]


def test_an_answer_says_to_what_unless_it_follows() -> None:
    """Other requests in between, or one whose beginning was not seen."""
    other = {**REQUEST, "number": 18, "uri": "/other"}
    assert "(GET /orders?page=2, id 5f1c-17)" in shown(REQUEST, other, ANSWER, brief=True)[-1]
    assert "(GET /orders?page=2, id 5f1c-17)" in shown(ANSWER, brief=True)[-1]
    assert "/orders" not in shown(REQUEST, ANSWER, brief=True)[-1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"end": "client left"}, "← 200 OK, client left, 512 bytes, 0.101 s"),
        ({"failure": "LookupError"}, "0.101 s, the application ended in LookupError"),
        ({"own": True}, "0.101 s, answered by the server"),
        ({"read": 9}, "0.101 s, 9 bytes of the body read"),
        ({"status": ""}, "← complete, 512 bytes"),
    ],
)
def test_how_it_ended(changes: dict[str, Any], text: str) -> None:
    """What is out of the ordinary."""
    assert text in shown(REQUEST, {**ANSWER, **changes}, brief=True)[-1]


def test_bodies() -> None:
    """As UTF-8 where it is that, cut or not; as escapes where it is not."""
    assert shown(REQUEST, BODY)[-3:] == [
        "12:00:01.250 #3   → body, 7 bytes",
        "                    a=ä",
        "                    b",
    ]
    cut = {**BODY, "whole": False, "text": "a\u00c3", "bytes": 5000}  # half an ä
    assert shown(REQUEST, cut)[-3:] == [
        "12:00:01.250 #3   → body, the first of 5000 bytes read so far",
        "                    a",
        "                    …",
    ]
    assert shown(REQUEST, {**BODY, "text": "\u0089PNG\r\n\u001a\n"})[-2:] == [
        r"                    \x89PNG",
        r"                    \x1a",
    ]
    assert shown(REQUEST, {**ANSWER, "text": "x", "whole": True})[-2:] == ["", "                    x"]


def test_a_response_that_goes_on() -> None:
    """Its head when it begins, then only its end."""
    ending = {key: value for key, value in ANSWER.items() if key not in ("status", "fields")}
    assert shown(REQUEST, HEAD, ending, brief=True)[1:] == [
        "12:00:01.250 #3   ← 200 OK …",
        "12:00:01.250 #3   ← complete, 512 bytes, 0.101 s",
    ]


def test_refused() -> None:
    """What was no request, and what was one."""
    assert shown(REFUSED) == ["12:00:01.250 #3   ✗ 400 Bad Request: Host is missing, pid 640 uid 33"]
    late = {**REQUEST, "what": "refused", "status": "", "reason": "its client left"}
    assert shown(late, brief=True) == [
        "12:00:01.250 #3   ✗ not answered: its client left, pid 640 uid 33, GET /orders?page=2, id 5f1c-17"
    ]


def test_what_is_missing() -> None:
    """Losses, parameters that were left out, a worker that died, somebody who talks nonsense."""
    transcript = Transcript()
    said = read({**REQUEST, "lost": 4, "left_out": 12})
    assert said is not None
    assert "4 messages of this worker are missing" in transcript.loss(said)
    assert transcript.lines(said)[-1] == "                    … and 12 more"
    assert "the worker (pid 4711) ended in the midst of GET /orders?page=2" in transcript.death(said, MOMENT)
    assert "pid 4711 writes into the tap what no worker would (8 times so far)" in transcript.garbage(PID, 8)

"""The first form of the status: for a person, and as it came."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from prefork.cli.status import as_json, as_text, spell_duration


def process(**facts: Any) -> dict[str, Any]:
    usual = {"pid": 12, "slot": 0, "state": "Idle", "generation": 1, "start since": 61.5, "requests": 3}
    nothing = {"request duration": None, "request method": None, "request uri": None}
    return {**usual, **nothing, **facts}


def answer(*processes: dict[str, Any], **facts: Any) -> dict[str, Any]:
    pool = {
        "pool": "www",
        "process manager": "static",
        "socket": "/run/app.sock",
        "application": "mysite.wsgi",
        "generation": 1,
        "max children": 2,
        "accepted conn": 9,
        "listen queue": 1,
        "max listen queue": 4,
        "listen queue len": 4096,
        "idle processes": 1,
        "active processes": 1,
        "total processes": 2,
        "processes": list(processes),
        **facts,
    }
    return {"version": "1.2", "pid": 10, "phase": "serving", "start time": 0, "start since": 7500.2, "pools": [pool]}


def test_text() -> None:
    """The server, its pools, their workers."""
    busy = process(
        slot=1, pid=13, state="Running", **{"request duration": 2_150_000, "request method": "GET", "request uri": "/a"}
    )
    assert as_text(answer(process(), busy)) == (
        "prefork 1.2, pid 10, serving, up 2h 5m\n"
        "\n"
        "www: mysite.wsgi on /run/app.sock\n"
        "  workers   2 of 2 (static): 1 idle, 1 active; generation 1\n"
        "  queue     1 of 4096 waiting, at most 4 so far\n"
        "  requests  9 accepted\n"
        "  slot      pid state      requests      age  now\n"
        "     0       12 Idle              3    1m 1s\n"
        "     1       13 Running           3    1m 1s  GET /a, 2.1 s"
    )


def test_what_an_idle_worker_ran_is_not_shown_as_running() -> None:
    """Its fields are those of the request before."""
    rests = process(**{"request duration": 2_150_000, "request method": "GET", "request uri": "/a"})
    assert "GET /a" not in as_text(answer(rests))
    assert "GET /a, 2.1 s" in as_text(answer({**rests, "state": "Writing"}))


def test_what_is_not_known() -> None:
    """A queue that the kernel did not tell, a worker that has not said hello, a pool without any."""
    text = as_text(answer(process(pid=0, state="Starting"), **{"listen queue": None}))
    assert "queue     unknown of 4096 waiting" in text
    assert "queue     unknown waiting" in as_text(answer(**{"listen queue": None, "listen queue len": None}))
    assert "     0        - Starting" in text
    assert "slot" not in as_text(answer())


def test_a_pool_that_is_saturated_says_since_when() -> None:
    """By the clock on the wall, and who knows more; a pool that is not says nothing of it."""
    since = datetime(2026, 11, 20, 12, 0, 1).timestamp()  # noqa: DTZ001
    line = "  saturated since 12:00:01: nobody is idle; preforkctl stacks shows where they stand\n"
    assert line in as_text(answer(**{"saturated since": int(since), "idle processes": 0}))
    over = "  saturated since 12:00:01, until a moment ago; preforkctl saturation shows where they stood\n"
    assert over in as_text(answer(**{"saturated since": int(since), "idle processes": 1}))
    assert "saturated" not in as_text(answer(**{"saturated since": None}))


def test_text_of_strangers() -> None:
    """A request's URI is anybody's: it commands no terminal, and takes no more than its line."""
    text = as_text(
        answer(
            process(
                state="Running",
                **{"request duration": 0, "request method": "GET", "request uri": "/\x1b[2J\n" + "é" * 200},
            )
        )
    )
    assert f"GET /\\x1b[2J\\n{'é' * 94}…, 0.0 s" in text
    assert len(text.splitlines()) == 8
    assert len(text.splitlines()[-1]) < 170


def test_json() -> None:
    """Every value, and every character printable ASCII."""
    whole = answer(process(**{"request uri": "/\x1b\x9bé"}))
    assert json.loads(as_json(whole)) == whole
    assert as_json(whole).replace("\n", "").isprintable()
    assert as_json(whole).isascii()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (3600, "1h 0m"), (7500, "2h 5m"), (86_400 * 3 + 3600 * 4, "3d 4h")],
)
def test_durations(seconds: float, text: str) -> None:
    """The two largest units."""
    assert spell_duration(seconds) == text

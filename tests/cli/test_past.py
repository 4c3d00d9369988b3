"""What a server remembers, and where its workers stand, in words; and which lines of nginx's log belong to it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from prefork.cli import past, stacks
from prefork.cli.explain import as_text, as_values, explain
from prefork.cli.recalling import Episode, recall

BEGUN = datetime(2026, 11, 20, 12, 0, 1, 250_000)  # noqa: DTZ001 - local time, as nginx has it
GROUP = {"count": 47, "where": "shop/db.py:88 fetch_user", "span": "2.1–9.8 s", "example": "GET /orders"}
ESCAPE = "\x1b[2J\u202e"


def episode(**changes: Any) -> dict[str, Any]:
    return {
        "pool": "www",
        "start": BEGUN.timestamp(),
        "seconds": 11.25,
        "peak": 21,
        "limit": 20,
        "full_seconds": 9.81,
        "workers": 50,
        "groups": [GROUP, {"count": 3, "where": "shop/views.py:9 cart", "span": "", "example": ""}],
        "waited": "",
        **changes,
    }


def answer(*episodes: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    pool = {"pool": "www", "socket": "/run/app.sock", "path": "/run/app.sock", "episodes": count or len(episodes)}
    return {"pools": [pool], "episodes": list(episodes)}


# saturation


def test_an_episode_that_is_over() -> None:
    """When, how bad, and where the workers stood."""
    assert past.episodes_as_text(answer(episode(waited="0.5–3.1 s"))).splitlines() == [
        (
            "2026-11-20 12:00:01–12:00:12  www: every worker busy (11.2 s), at most 21 of 20 waiting, "
            "full for at least 9.8 s"
        ),
        "    requests had waited 0.5–3.1 s",
        "    47 of 50 in shop/db.py:88 fetch_user, 2.1–9.8 s, e.g. GET /orders",
        "    3 of 50 in shop/views.py:9 cart",
    ]


def test_an_episode_that_lasts() -> None:
    lasting = episode(seconds=None, full_seconds=0.0, limit=None, groups=[])
    assert past.episodes_as_text(answer(lasting, count=4)).splitlines() == [
        "2026-11-20 12:00:01–now  www: every worker busy (it lasts), at most 21 waiting",
        "www: 3 more, too many or too long ago to be remembered",
    ]
    assert past.culprit_of(lasting) == ""
    assert past.episodes_as_text(answer()) == "no pool was saturated since the server was started"


# slow requests


def test_slow_requests() -> None:
    """Each with its stack; nothing of a stranger's leaves its line."""
    slow = {
        "pool": "www",
        "time": BEGUN.timestamp(),
        "seconds": 12.34,
        "method": "GET",
        "uri": f"/{ESCAPE}" + "x" * 500,
        "id": "req-1",
        "pid": 4711,
        "slot": 3,
        "stack": "/srv/db.py:88 fetch_user\n/srv/views.py:31 orders",
    }
    first, *frames, second, nothing = past.slow_as_text({"slow": [slow, {**slow, "id": "", "stack": ""}]}).splitlines()
    assert first.startswith("2026-11-20 12:00:01  www: GET /\\x1b[2J\\u202exxx")
    assert first.endswith("x… ran for 12.3 s (pid 4711, slot 3, req-1)")
    assert second.endswith("(pid 4711, slot 3)")
    assert [line.strip() for line in (*frames, nothing)] == [
        "/srv/db.py:88 fetch_user",
        "/srv/views.py:31 orders",
        "no stack was to be had",
    ]
    assert past.slow_as_text({"slow": []}).startswith("no request was slower")


def test_slow_requests_that_are_alike() -> None:
    """One stack for all that stood at the same place; the place of the newest last."""
    times = iter(range(100))

    def slow(uri: str, stack: str) -> dict[str, Any]:
        facts = {"method": "GET", "uri": uri, "id": "", "pid": 4711, "slot": 3, "stack": stack, "seconds": 1.0}
        return {"pool": "www", "time": BEGUN.timestamp() + next(times), **facts}

    there, elsewhere = "→ shop/db.py:88 fetch_user\n  shop/views.py:31 orders", "→ shop/cart.py:9 total"
    text = past.slow_as_text({"slow": [slow("/1", there), slow("/2", elsewhere), slow("/3", there)]})
    assert re.findall(r"GET (\S+) ran|^ +(\S.*)$", text, re.MULTILINE) == [
        ("/2", ""),
        ("", "→ shop/cart.py:9 total"),
        ("/1", ""),
        ("/3", ""),
        ("", "→ shop/db.py:88 fetch_user"),
        ("", "shop/views.py:31 orders"),
    ]
    many = past.slow_as_text({"slow": [slow(f"/{number}", there) for number in range(12)]}).splitlines()
    assert many[0] == "www: 12 alike, of which the last 5:"
    assert [line.split()[4] for line in many[1:6]] == ["/7", "/8", "/9", "/10", "/11"]
    assert len(many) == 8


# stacks


def worker(pid: int, **changes: Any) -> dict[str, Any]:
    frames = [
        {"file": "/usr/lib/x/socket.py", "shown": "socket.py", "line": 706, "function": "readinto"},
        {"file": "/srv/shop/db.py", "shown": "shop/db.py", "line": 88, "function": "fetch_user"},
    ]
    return {
        "pid": pid,
        "slot": pid - 100,
        "state": "Running",
        "method": "GET",
        "uri": "/orders?id=1",
        "seconds": 9.81,
        "id": "req-1",
        "answered": True,
        "forced": False,
        "frames": frames,
        "culprit": 1,
        **changes,
    }


def test_groups_first_and_one_stack_for_each() -> None:
    pool = {
        "pool": "www",
        "workers": 60,
        "busy": 50,
        "listen queue": 7,
        "groups": [
            {**GROUP, "count": 13, "pids": list(range(100, 113))},
            {"count": 1, "where": "the pause between two requests", "span": "", "example": "", "pids": [113]},
        ],
        "stacks": [
            worker(100),
            *(worker(pid) for pid in range(101, 113)),
            worker(113, method=None, uri=None, seconds=None, id="", frames=[], culprit=None, state="Reading headers"),
        ],
    }
    assert stacks.as_text({"pools": [pool]}).splitlines() == [
        "www: 50 of 60 workers busy, 7 waiting in the queue",
        "  14 of them, from all slots, were looked at",
        "  13 of 14 in shop/db.py:88 fetch_user, 2.1–9.8 s, e.g. GET /orders",
        "  1 of 14 in the pause between two requests",
        "",
        "pid 100, slot 0, Running, GET /orders?id=1 for 9.8 s (req-1)",
        "    socket.py:706 readinto",
        "  → shop/db.py:88 fetch_user",
        "  in the same place: pid 101, 102, 103, 104, 105, 106, 107, 108, 109, 110 and 2 more",
        "",
        "pid 113, slot 13, Reading headers",
        "    no call of the application",
    ]


def test_one_worker() -> None:
    """Forced, silent, very deep; nothing of a stranger's leaves its line."""
    forced = worker(100, forced=True, id="", uri=f"/{ESCAPE}" + "x" * 300)
    first, second, *_ = stacks.as_text({"pools": [{"pool": "www", "stacks": [forced]}]}).splitlines()
    assert re.fullmatch(r"pid 100, slot 0, Running, GET /\\x1b\[2J\\u202ex+… for 9\.8 s", first)
    assert second == "    (in C: it did not look at its signals, and was made to show its stack)"
    silent = worker(100, answered=False, frames=[], culprit=None)
    assert "no stack: it gets no processor" in stacks.as_text({"pools": [{"pool": "www", "stacks": [silent]}]})
    deep = worker(100, frames=worker(1)["frames"] * 60)
    assert stacks.as_text({"pools": [{"pool": "www", "stacks": [deep]}]}).endswith("and 60 more calls")


# explain


FULL = "connect() to unix:{} failed (11: Resource temporarily unavailable) while connecting to upstream"
LATE = "upstream timed out (110: Connection timed out) while reading response header from upstream"
GONE = "connect() to unix:{} failed (2: No such file or directory) while connecting to upstream"


def line(message: str, second: int, path: str = "/run/app.sock") -> str:
    facts = f', client: 192.0.2.7, server: x, request: "GET / HTTP/1.1", upstream: "fastcgi://unix:{path}:", host: "x"'
    at = datetime(2026, 11, 20, 12, 0, 0) + timedelta(seconds=second)  # noqa: DTZ001
    return f"{at:%Y/%m/%d %H:%M:%S} [error] 812#812: *7 {message.format(path)}{facts}\n"


def matches(lines: list[str], episodes: list[Episode]) -> dict[str, dict[str, int]]:
    found = as_values(explain(lines, episodes))["findings"]
    return {finding["kind"]: finding["saturations"] for finding in found}


TEXT = "12:00:01–12:00:12: 47 of 50 in shop/db.py:88 fetch_user"


def test_lines_of_a_saturation() -> None:
    """What is refused, or late, meanwhile; nginx's clock may be a second off; other complaints are other things."""
    episodes = recall(answer(episode()), meant=False)
    lines = [*(line(FULL, second) for second in range(30)), line(LATE, 5), line(LATE, 50), line(GONE, 5)]
    assert matches(lines, episodes) == {
        "queue_full": {TEXT: 13},
        "answer_timed_out": {TEXT: 1},
        "no_socket": {},
    }
    text = " ".join(as_text(explain(lines, episodes)).split())
    assert f"matches the saturation of {TEXT} (13 of these lines)" in text
    assert matches(lines, []) == {"queue_full": {}, "answer_timed_out": {}, "no_socket": {}}


@pytest.mark.parametrize(
    ("path", "meant", "expected"),
    [
        ("/run/app.sock", False, {TEXT: 1}),
        ("/run/app.sock", True, {TEXT: 1}),
        ("/var/run/app.sock", False, {}),
        ("/var/run/app.sock", True, {TEXT: 1}),  # as it is called in another container
        ("/run/other.sock", True, {}),
        ("", True, {}),
    ],
)
def test_lines_about_another_socket(path: str, meant: bool, expected: dict[str, int]) -> None:
    """Are not about this pool; unless the server was named, and the socket's name is the same but for where it lies."""
    assert matches([line(FULL, 5, path)], recall(answer(episode()), meant=meant)) == {"queue_full": expected}


def test_a_saturation_that_lasts_covers_what_comes() -> None:
    (lasting,) = recall(answer(episode(seconds=None, groups=[])), meant=True)
    assert lasting.text == "12:00:01–now"
    assert matches([line(FULL, 3_000)], [lasting]) == {"queue_full": {"12:00:01–now": 1}}


def test_a_pool_without_a_path() -> None:
    """An inherited socket, or one of TCP."""
    told = answer(episode())
    told["pools"][0] |= {"socket": "127.0.0.1:8000", "path": None}
    (only,) = recall(told, meant=True)
    assert (only.upstreams, only.file) == (frozenset({"127.0.0.1:8000"}), "")
    told["pools"][0] |= {"socket": "systemd", "address": "127.0.0.1:8000"}
    assert "127.0.0.1:8000" in recall(told, meant=True)[0].upstreams

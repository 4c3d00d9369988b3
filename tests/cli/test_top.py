"""`preforkctl top`: what a frame shows, that it fits, and that the terminal is given back."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Server, environment
from prefork.cli.top import Look, frame

_PROGRAM = "import sys; from prefork.cli.control import main; sys.exit(main())"


def process(slot: int, state: str = "Running", seconds: float | None = 0.2, **changes: Any) -> dict[str, Any]:
    running = seconds is not None
    return {
        "slot": slot,
        "pid": 4000 + slot,
        "state": state,
        "request duration": int(seconds * 1e6) if seconds is not None else None,
        "request method": "GET" if running else None,
        "request uri": f"/orders/{slot}" if running else None,
        **changes,
    }


def answer(*processes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    idle = sum(one["state"] == "Idle" for one in processes)
    pool = {
        "pool": "www",
        "application": "shop.wsgi",
        "socket": "/run/shop/app.sock",
        "process manager": "dynamic",
        "generation": 3,
        "max children": 4,
        "idle processes": idle,
        "active processes": len(processes) - idle,
        "total processes": len(processes),
        "listen queue": 2,
        "max listen queue": 9,
        "listen queue len": 128,
        "accepted conn": 1_000,
        "slow requests": 0,
        "processes": list(processes),
        **changes,
    }
    return {"version": "0.1.0", "pid": 77, "phase": "serving", "start since": 3_700.0, "pools": [pool]}


def lines_of(now: dict[str, Any], before: dict[str, Any] | None = None, **size: int) -> list[str]:
    earlier = None if before is None else Look(before, 100.0)
    shape = {"width": 100, "height": 30, "chosen": 0, **size}
    return frame(Look(now, 102.0), earlier, colour=False, **shape)


def test_a_frame_names_the_longest_request_first() -> None:
    lines = lines_of(answer(process(0), process(1, seconds=12.4), process(2, "Idle", None)))
    text = "\n".join(lines)
    assert "prefork 0.1.0, pid 77, serving, up 1h 1m" in text
    assert "2 busy, 1 idle, at most 4 (dynamic), generation 3" in text
    assert "2 of 128 waiting, at most 9 so far" in text
    assert "  RR." in lines
    rows = [line.split() for line in lines if "/orders/" in line]
    assert [(row[0], row[2], row[-1]) for row in rows] == [("12.4", "1", "/orders/1"), ("0.2", "0", "/orders/0")]


def test_what_an_idle_worker_ran_is_not_shown_as_running() -> None:
    """Its fields are those of the request before."""
    text = "\n".join(lines_of(answer(process(0, "Idle", 12.4))))
    assert "/orders" not in text
    assert "no request runs at this moment" in text


def test_what_is_counted_a_second_needs_two_looks() -> None:
    later = answer(**{"accepted conn": 1_500})
    assert "250.0 a second, 1500 in all" in "\n".join(lines_of(later, answer()))
    assert "a second" not in "\n".join(lines_of(later))


def test_a_full_queue_says_what_that_means() -> None:
    assert "full, newcomers are refused" in "\n".join(lines_of(answer(**{"listen queue": 129})))
    assert "queue     unknown" in "\n".join(lines_of(answer(**{"listen queue": None})))


def test_a_saturation_is_told_while_it_lasts() -> None:
    assert "saturated since " in "\n".join(lines_of(answer(**{"saturated since": 1_000_000})))
    assert "saturated" not in "\n".join(lines_of(answer(**{"saturated since": None})))


@given(width=st.integers(1, 200), height=st.integers(1, 60), uri=st.text(max_size=400), count=st.integers(0, 200))
def test_a_frame_fits_its_terminal(width: int, height: int, uri: str, count: int) -> None:
    """Whatever strangers ask for, and however small the window: no line is too long, and none acts on the terminal."""
    many = [{**process(slot), "request uri": uri} for slot in range(count)]
    lines = lines_of(answer(*many), width=width, height=height)
    assert len(lines) <= height
    assert all(len(line) <= max(width, 80) for line in lines)
    assert all(line.isprintable() for line in lines)


def read_until(master: int, words: bytes, patience: float = 30.0) -> bytes:
    seen, end = b"", time.monotonic() + patience
    while words not in seen:
        assert time.monotonic() < end, seen
        if select.select([master], [], [], 1.0)[0]:
            seen += os.read(master, 65_536)
    return seen


@pytest.mark.parametrize("end", [b"q", b"\x03"])
def test_a_real_server_in_a_real_terminal(folder: Path, end: bytes) -> None:
    """It shows the server, and gives the terminal back as it was, by q and by Ctrl-C."""
    with Server("prefork.demo", "--workers", "2", "--control-socket", "c.sock", folder=folder):
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        command = [sys.executable, "-c", _PROGRAM, "--control", "c.sock", "top"]
        child = subprocess.Popen(
            command, stdin=slave, stdout=slave, env=environment({"TERM": "xterm"}), start_new_session=True, cwd=folder
        )
        try:
            seen = read_until(master, b"no request runs")
            assert b"\x1b[?1049h" in seen
            assert b"prefork.demo on " in seen
            if end == b"\x03":
                child.send_signal(2)
            else:
                os.write(master, end)
            read_until(master, b"\x1b[?1049l")
            assert child.wait(30) == (0 if end == b"q" else 130)
            assert termios.tcgetattr(slave) == before
        finally:
            child.kill()
            child.wait()
            os.close(master)
            os.close(slave)


def test_without_a_terminal_it_says_so(folder: Path) -> None:
    with Server("prefork.demo", "--workers", "1", "--control-socket", "c.sock", folder=folder):
        command = [sys.executable, "-c", _PROGRAM, "--control", "c.sock", "top"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment({}),
            check=False,
            cwd=folder,
        )
        assert done.returncode == 1
        assert "top needs a terminal" in done.stderr

"""The log: one line, one write, and nobody else's structlog touched."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from harness.processes import environment
from prefork.log import LEVELS, make_logger
from prefork.system.logfile import LogFile
from prefork.system.logplaces import open_log


class Box:
    """A datagram socket as a log: each write(2) arrives as one message."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reader.setblocking(False)

    def writes(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.reader.recv(1 << 20))
            except BlockingIOError:
                return found


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.reader.close()
    box.writer.close()


def logger(box: Box, **options: Any) -> Any:
    return make_logger(LogFile(os.dup(box.writer.fileno()), "box"), **{"format": "json", **options})


def events(box: Box) -> list[dict[str, Any]]:
    return [json.loads(line) for line in box.writes()]


def test_an_event_is_one_line_by_one_write(box: Box) -> None:
    """Also a long one, and one whose values have lines of their own."""
    log = logger(box, pool="www")
    log.info("served", traceback="one\ntwo\n", large="x" * 50_000)
    log.warning("second")
    writes = box.writes()
    assert [(data.count(b"\n"), data[-1:]) for data in writes] == [(1, b"\n"), (1, b"\n")]
    first, second = map(json.loads, writes)
    assert (first["event"], first["pool"], first["level"], first["large"]) == ("served", "www", "info", "x" * 50_000)
    assert (second["event"], second["pool"], second["level"]) == ("second", "www", "warning")


def test_an_event_has_a_name_a_level_and_a_time(box: Box) -> None:
    """In the order in which one reads: when, how grave, what, in which pool; then the rest."""
    logger(box, pool="www").bind(slot=3).error("died", pid=7)
    (event,) = events(box)
    assert list(event) == ["timestamp", "level", "event", "pool", "slot", "pid"]
    assert event.pop("timestamp")[-1] == "Z"
    assert event == {"event": "died", "level": "error", "pool": "www", "slot": 3, "pid": 7}


@pytest.mark.parametrize("level", LEVELS)
def test_levels(box: Box, level: str) -> None:
    """What is below the level is not written."""
    log = logger(box, level=level)
    for name in LEVELS:
        getattr(log, name)("event")
    assert [event["level"] for event in events(box)] == list(LEVELS[LEVELS.index(level) :])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ("caf\xe9", '"caf\xe9"'),
        ("/srv/\udcff", '"/srv/\\udcff"'),
        ("\x1b[31m\x00", '"\\u001b[31m\\u0000"'),
        ({1, 2} - {2}, '"{1}"'),
        (b"\xff", "\"b'\\\\xff'\""),
    ],
)
def test_any_value_survives(box: Box, value: object, shown: str) -> None:
    """Numbers that JSON lacks, bytes of a path that are no text, control characters, any object at all."""
    logger(box).info("event", value=value)
    (line,) = box.writes()
    assert f'"value": {shown}' in line.decode()


def test_the_console_on_request_and_on_a_terminal(box: Box) -> None:
    """For people: on a terminal by itself, in colour there only; JSON elsewhere."""
    logger(box, format="console", pool="www").info("serving", slot=1)
    (plain,) = box.writes()
    assert b"\x1b" not in plain
    assert [word in plain for word in (b"serving", b"pool=www", b"slot=1")] == [True] * 3
    above, terminal = os.openpty()
    make_logger(descriptor=terminal).info("serving")
    assert b"\x1b[" in os.read(above, 4096)
    make_logger(descriptor=terminal, format="json").info("serving")
    assert b'"event": "serving"' in os.read(above, 4096)
    os.close(above)
    os.close(terminal)
    logger(box, format="auto").info("serving")
    assert [event["event"] for event in events(box)] == ["serving"]


def test_a_reader_that_takes_little_gets_the_whole_line() -> None:
    """A write that the kernel cut is continued."""
    reader, writer = os.pipe()
    taken = bytearray()

    def read() -> None:
        while data := os.read(reader, 5_000):
            taken.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    make_logger(format="json", descriptor=writer).info("event", value="x" * 1_000_000)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert json.loads(taken)["value"] == "x" * 1_000_000


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """A reader that left, a descriptor that is closed, a pipe that is full: the event is lost, and that is all."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    log = make_logger(format="json", descriptor=writer)
    log.info("more than fits", value="x" * 1_000_000)
    os.close(reader)
    log.info("nobody reads")
    os.close(writer)
    log.info("closed")


def test_structlogs_configuration_is_the_applications() -> None:
    """Neither is it read: an application that configures structlog as it likes changes nothing of ours."""
    script = """
import json, os, structlog, sys
from prefork.log import make_logger
before = structlog.get_config()
log = make_logger(format="json", descriptor=1, pool="www")
log.info("first")
assert not structlog.is_configured() and structlog.get_config() == before
def refuse(*_): raise structlog.DropEvent
structlog.configure(processors=[refuse], cache_logger_on_first_use=True)
log.info("second")
make_logger(format="json", descriptor=1).bind(slot=1).info("third")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment({}), stdout=subprocess.PIPE, check=True, text=True
    )
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["first", "second", "third"]


def test_making_a_logger_leaves_this_process_as_it_was(box: Box) -> None:
    """The same promise, here."""
    before = structlog.is_configured(), structlog.get_config()
    logger(box).info("event")
    assert (structlog.is_configured(), structlog.get_config()) == before

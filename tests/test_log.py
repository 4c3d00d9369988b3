"""The log: one line, one write, and nobody else's structlog touched."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from harness.processes import environment
from prefork.log import LEVELS, make_logger, report_losses, watch_losses
from prefork.system.logfile import LogFile
from prefork.system.logplaces import open_log
from prefork.system.zone import keep_zone


class Box:
    """A datagram socket as a log: each write(2) arrives as one message."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reader.setblocking(False)
        self.file = LogFile(self.writer.detach(), "box")

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
    box.file.close()


def logger(box: Box, **options: Any) -> Any:
    return make_logger(box.file, **{"format": "json", **options})


def events(box: Box) -> list[dict[str, Any]]:
    return [json.loads(line) for line in box.writes()]


def test_an_event_is_one_line_by_one_write(box: Box) -> None:
    """Also a long one, and one whose values have lines of their own."""
    log = logger(box, pool="www")
    log.info("served", traceback="one\ntwo\n", large="x" * 30_000)
    log.warning("second")
    writes = box.writes()
    assert [(data.count(b"\n"), data[-1:]) for data in writes] == [(1, b"\n"), (1, b"\n")]
    first, second = map(json.loads, writes)
    assert (first["event"], first["pool"], first["level"], first["large"]) == ("served", "www", "info", "x" * 30_000)
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


def test_a_stack_for_people_stands_below(box: Box) -> None:
    """A call a line, indented, and no line of it passes for an event."""
    logger(box, format="console").warning("request_slow", uri="/x", stack="/app.py:5 view\n/\x1b[31m.py:7 main")
    (line,) = box.writes()
    first, *below = line.decode().splitlines()
    assert first.rstrip().endswith("uri=/x")
    assert below == ["    /app.py:5 view", "    /\\x1b[31m.py:7 main"]
    logger(box, format="console").warning("request_slow", uri="/x", stack="")
    assert box.writes()[0].decode().rstrip().endswith("uri=/x")


def test_a_message_for_people_comes_first_and_groups_below(box: Box) -> None:
    """Behind the event's name; a group a line, and no line of either passes for an event."""
    groups = ["49 of 50 in shop/db.py:55 fetch_user, 0.3 s", "1 of 50 in \x1b[31m\n"]
    logger(box, format="console", pool="www").warning(
        "saturated", waiting=15, groups=groups, message="busy\x1b[2J\nall"
    )
    (line,) = box.writes()
    first, *below = line.decode().splitlines()
    assert re.search(r"saturated: busy\\x1b\[2J\\nall +pool=www waiting=15$", first)
    assert below == ["    49 of 50 in shop/db.py:55 fetch_user, 0.3 s", "    1 of 50 in \\x1b[31m\\n"]
    logger(box).warning("saturated", groups=groups, message="busy")
    assert events(box)[0]["groups"] == groups


def read_line(terminal: int) -> bytes:
    """What a terminal shows of one event: it may come in pieces."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(terminal, 4096)
    return line


def test_the_console_on_request_and_on_a_terminal(box: Box) -> None:
    """For people: on a terminal by itself, in colour there only; JSON elsewhere."""
    logger(box, format="console", pool="www").info("serving", slot=1)
    (plain,) = box.writes()
    assert b"\x1b" not in plain
    assert [word in plain for word in (b"serving", b"pool=www", b"slot=1")] == [True] * 3
    above, terminal = os.openpty()
    log = LogFile(terminal, "stderr")
    make_logger(log).info("serving")
    assert b"\x1b[" in read_line(above)
    make_logger(log, format="json").info("serving")
    assert b'"event": "serving"' in read_line(above)
    os.close(above)
    log.close()
    logger(box, format="auto").info("serving")
    assert [event["event"] for event in events(box)] == ["serving"]


def test_the_time_on_the_console(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the place where the logger was made, with its offset, whatever zone the application enters."""
    keep_zone.cache_clear()
    try:
        monkeypatch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        log = logger(box, format="console")
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        log.info("serving")
    finally:
        monkeypatch.undo()
        time.tzset()
        keep_zone.cache_clear()
    (line,) = box.writes()
    stamp = line.decode().split()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+05:30", stamp)
    assert abs(datetime.fromisoformat(stamp).timestamp() - time.time()) < 60


def test_no_value_of_a_client_speaks_to_the_terminal(box: Box) -> None:
    """On the console as in JSON: one line an event, and no control character but our own colours."""
    logger(box, format="console").warning("bad_request", uri="/\x1b[31m\n2024 forged", reason="a\x9bm\r")
    (line,) = box.writes()
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line
    assert b"\r" not in line
    assert "\x9b" not in line.decode()


@pytest.mark.parametrize("format", ["console", "json"])
def test_no_character_of_a_value_is_raw(box: Box, format: str) -> None:
    """Whatever else stands in it: what could command a terminal is spelled out, in files, too."""
    for text in ("\x1b[2J", "\x9b31m", "\x7f", "\u2028", "\u202e", "\U000e0001", "\r", "a \x1b=\x9b"):
        logger(box, format=format, pool=text).warning("request_slow", uri=text, running=[text], other={text: text})
    lines = [line.decode() for line in box.writes()]
    assert len(lines) == 8
    assert all(line.removesuffix("\n").isprintable() for line in lines)
    if format == "json":
        assert json.loads(lines[5])["uri"] == "\U000e0001"
        assert json.loads(lines[7])["other"] == {"a \x1b=\x9b": "a \x1b=\x9b"}


def test_a_value_without_bounds_is_cut_in_its_middle(box: Box) -> None:
    """An event fits the pipe that a log may be: what is at the ends of a text matters most."""
    logger(box).error("request_failed", traceback="begin" + "x" * 1_000_000 + "end", uri="/")
    (event,) = events(box)
    assert len(event["traceback"]) < 33_000
    assert event["traceback"].startswith("beginxxx")
    assert event["traceback"].endswith("xxxend")
    assert "characters left out" in event["traceback"]
    assert event["uri"] == "/"


def test_losses_are_told_when_the_log_works_again() -> None:
    """How many lines, of which log, and why; the report's own loss is not one more."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    file = LogFile(writer, "stderr")
    log = make_logger(file, format="json")
    watch_losses(file, log, own=True)
    for size in (4_096, 1):
        try:
            while True:
                os.write(writer, b"x" * size)
        except BlockingIOError:
            pass
    log.info("x")
    log.info("x")
    report_losses(file, log)
    assert file.lost == 2
    os.read(reader, 1 << 20)
    report_losses(file, log)
    report_losses(file, log)  # once is enough
    told = json.loads(os.read(reader, 1 << 20))
    assert (told["event"], told["level"], told["count"], told["log"]) == ("log_lines_lost", "warning", 2, "stderr")
    assert told["error"] == os.strerror(errno.EAGAIN)
    os.close(reader)
    file.close()


def test_trouble_with_another_log_is_told_at_once(box: Box, tmp_path: Path) -> None:
    """When it begins and when it ends."""
    access = open_log(str(tmp_path / "a.log"), "access_log")
    watch_losses(access, logger(box), own=False)
    os.close(access.fileno())
    access.write(b"x\n")
    access.write(b"x\n")
    access.replace(os.open(tmp_path / "a.log", os.O_WRONLY))
    access.write(b"x\n")
    begun, ended = events(box)
    assert (begun["event"], begun["error"]) == ("log_not_writable", "Bad file descriptor")
    assert (ended["event"], ended["count"], ended["log"]) == ("log_lines_lost", 2, str(tmp_path / "a.log"))
    access.close()


def test_syslog_gets_the_level(tmp_path: Path) -> None:
    """As the priority of the datagram."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "log"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect(str(tmp_path / "log"))
            file = LogFile(connection.detach(), "syslog", syslog=str(tmp_path / "log"))
        log = make_logger(file, level="debug", format="json")
        for level in LEVELS:
            getattr(log, level)("event")
        assert [daemon.recv(1000)[:4] for _ in LEVELS] == [b"<31>", b"<30>", b"<28>", b"<27>"]
        file.close()


def test_structlogs_configuration_is_the_applications() -> None:
    """Neither is it read: an application that configures structlog as it likes changes nothing of ours."""
    script = """
import json, os, structlog, sys
from prefork.log import make_logger
from prefork.system.logplaces import open_log
before = structlog.get_config()
output = open_log("-", "error_log")
log = make_logger(output, format="json", pool="www")
log.info("first")
assert not structlog.is_configured() and structlog.get_config() == before
def refuse(*_): raise structlog.DropEvent
structlog.configure(processors=[refuse], cache_logger_on_first_use=True)
log.info("second")
make_logger(output, format="json").bind(slot=1).info("third")
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

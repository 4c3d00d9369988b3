"""Renewing the logs of a server."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError
from prefork.master import logs
from prefork.master.logs import Logs
from prefork.system.channel import Place
from prefork.system.logfile import LogFile


class Said:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    error = warning = info

    def bind(self, **_: Any) -> Said:
        return self


@pytest.mark.parametrize("problem", [ConfigurationError("no"), OSError(5, "Input/output error")])
def test_no_log_is_worth_the_servers_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    """Whatever is wrong with a log when it is renewed: it goes on in its old file, and that is said."""
    server_logs = Logs(Config(error_log=str(tmp_path / "e.log"), pools=()))
    said, handed = Said(), []

    def fail(*_: object) -> int:
        raise problem

    monkeypatch.setattr(logs, "open_anew", fail)
    assert server_logs.reopen(said, lambda: handed.append(1)) == [str(problem)]  # type: ignore[arg-type]
    assert handed == [1]
    assert said.events == [("log_not_reopened", {"error": str(problem)}), ("logs_reopened", {"logs": []})]
    server_logs.error.write(b"x\n")
    assert os.path.getsize(tmp_path / "e.log") == 2
    server_logs.close()


def test_a_slowlog_of_a_pool(tmp_path: Path) -> None:
    """Opened with the others, renewed with them, and kept or left by a reload as the configuration says."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"

    def pool(name: str, place: Path | None) -> PoolConfig:
        return PoolConfig(name=name, app="a", socket="@s", slowlog=None if place is None else str(place))

    server_logs, said = Logs(Config(error_log=str(tmp_path / "e.log"), pools=())), Said()
    server_logs.begin([pool("www", first), pool("api", None)], said)  # type: ignore[arg-type]
    assert server_logs.slowlog("api") is None
    slowlog = server_logs.slowlog("www")
    assert slowlog is not None
    slowlog.warning("request_slow", uri="/1")
    first.rename(tmp_path / "first.log.1")
    assert server_logs.reopen(said, lambda: None) == []  # type: ignore[arg-type]
    slowlog.warning("request_slow", uri="/2")
    assert _uris(tmp_path / "first.log.1", first) == ["/1", "/2"]

    server_logs.prepare([pool("www", second)])
    server_logs.abandon()
    assert server_logs.slowlog("www") is not None
    server_logs.prepare([pool("www", first), pool("api", second)])
    server_logs.commit()
    slowlog.warning("request_slow", uri="/3")
    other = server_logs.slowlog("api")
    assert other is not None
    other.warning("request_slow", uri="/4")
    assert _uris(first, second) == ["/2", "/3", "/4"]
    server_logs.prepare([pool("api", second)])
    server_logs.commit()
    assert server_logs.slowlog("www") is None
    server_logs.close()
    assert {event for event, _ in said.events} == {"logs_reopened"}


def _uris(*paths: Path) -> list[str]:
    return [json.loads(line)["uri"] for path in paths for line in path.read_text().splitlines()]


def test_a_slowlog_that_cannot_be_opened_is_no_start(tmp_path: Path) -> None:
    """And the option is named."""
    server_logs = Logs(Config(error_log=str(tmp_path / "e.log"), pools=()))
    pool = PoolConfig(app="a", socket="@s", slowlog=str(tmp_path / "missing" / "slow.log"))
    with pytest.raises(ConfigurationError, match="slowlog"):
        server_logs.begin([pool], Said())  # type: ignore[arg-type]
    server_logs.close()


def test_the_last_losses_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those after the last round of the loop: they wait a moment for a reader that is behind."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    monkeypatch.setattr(logs, "open_log", lambda *_: LogFile(writer, "stderr"))
    server_logs, said = Logs(Config(pools=())), Said()
    server_logs.begin((), said)  # type: ignore[arg-type]
    while not server_logs.error.lost:
        server_logs.error.write(b"x" * 999 + b"\n")
    reading = threading.Timer(0.05, os.read, (reader, 1 << 20))
    reading.start()
    server_logs.close()
    reading.join()
    assert [(event, facts["count"]) for event, facts in said.events] == [("log_lines_lost", 1)]
    os.close(reader)


def test_a_reload_brings_other_logs(tmp_path: Path) -> None:
    """Those that stay are the same; what is not needed is closed, whether it was there before or was to come."""

    def pool(name: str, log: str | None) -> PoolConfig:
        place = None if log is None else str(tmp_path / log)
        return PoolConfig(app="app", socket=f"@{name}", name=name, access_log=place)

    server_logs = Logs(Config(pools=(), error_log=str(tmp_path / "e.log")))
    said = Said()
    server_logs.begin([pool("a", "a.log"), pool("b", "b.log")], said)  # type: ignore[arg-type]
    before = {name: server_logs.of(name)[Place.ACCESS_LOG] for name in "ab"}
    server_logs.prepare([pool("a", "a.log"), pool("b", "new.log"), pool("c", "c.log")])
    coming = {name: server_logs.of(name, coming=True)[Place.ACCESS_LOG] for name in "abc"}
    assert coming["a"] is before["a"]
    assert server_logs.of("b")[Place.ACCESS_LOG] is before["b"]
    # Renewed while it waits, as all of them are.
    (tmp_path / "c.log").rename(tmp_path / "c.1")
    assert server_logs.reopen(said, lambda: None) == []  # type: ignore[arg-type]
    coming["c"].write(b"x\n")
    assert (tmp_path / "c.log").read_bytes() == b"x\n"
    server_logs.abandon()
    assert is_closed(coming["b"])
    assert is_closed(coming["c"])
    assert [is_closed(before[name]) for name in "ab"] == [False, False]
    server_logs.prepare([pool("a", None), pool("b", "new.log")])
    kept = server_logs.of("b", coming=True)[Place.ACCESS_LOG]
    server_logs.commit()
    assert (server_logs.of("b")[Place.ACCESS_LOG], list(server_logs.of("a"))) == (kept, [Place.ERROR_LOG])
    assert [is_closed(before[name]) for name in "ab"] == [True, True]
    with pytest.raises(ConfigurationError):
        server_logs.prepare([pool("a", "a.log"), pool("b", "no/such/directory")])
    assert not is_closed(kept)
    server_logs.close()
    assert is_closed(kept)


def is_closed(log: LogFile) -> bool:
    """Whether its number leads elsewhere, if anywhere."""
    try:
        return os.readlink(f"/proc/self/fd/{log.fileno()}") != log.path
    except FileNotFoundError:
        return True

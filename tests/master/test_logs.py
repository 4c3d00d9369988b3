"""Renewing the logs of a server."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from prefork.config.model import Config
from prefork.errors import ConfigurationError
from prefork.master import logs
from prefork.master.logs import Logs
from prefork.system.logfile import LogFile


class Said:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    error = warning = info


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

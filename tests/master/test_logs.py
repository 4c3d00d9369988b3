"""Renewing the logs of a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from prefork.config.model import Config
from prefork.errors import ConfigurationError
from prefork.master import logs
from prefork.master.logs import Logs


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

"""The logs of one worker: what it is sent, and what it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.system.channel import Kind, Order, Place
from prefork.system.logfile import LogFile
from prefork.system.logplaces import open_anew, open_log
from prefork.worker.logs import WorkerLogs, take_logs


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[dict[Place, LogFile]]:
    logs = {
        Place.ERROR_LOG: open_log(str(tmp_path / "error"), "error_log"),
        Place.ACCESS_LOG: open_log(str(tmp_path / "access"), "access_log"),
    }
    yield logs
    for log in logs.values():
        log.close()


def test_what_is_sent_is_taken(logs: dict[Place, LogFile], tmp_path: Path) -> None:
    """By its name; what this process does not keep is closed."""
    body = {"logs": [Place.ACCESS_LOG, 99]}
    sent = open_anew(str(tmp_path / "new"), "access_log"), os.dup(1)
    take_logs(Order(Kind.LOGS, body, sent), logs)
    logs[Place.ACCESS_LOG].write(b"x\n")
    assert (tmp_path / "new").read_bytes() == b"x\n"
    for number in sent:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


@pytest.mark.parametrize("arrived", [0, 1, 2])
def test_what_did_not_arrive_is_not_passed_over(logs: dict[Place, LogFile], tmp_path: Path, arrived: int) -> None:
    """A process without free descriptors gets fewer than were sent: the worker is replaced, and a next time is fine."""
    unused: Any = None
    worker = WorkerLogs(logs, unused, unused)
    order = {"logs": [Place.ERROR_LOG, Place.ACCESS_LOG]}
    for count in (arrived, 2):
        sent = tuple(open_anew(str(tmp_path / "new"), "error_log") for _ in range(count))
        take_logs(Order(Kind.LOGS, order, sent), logs)
        assert [log.stolen for log in logs.values()] == [count < 1, count < 2]
        assert (worker.troubled(), worker.may_stay()) == (count < 2, count == 2)

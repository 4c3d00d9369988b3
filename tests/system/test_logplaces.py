"""Opening logs: who may not, and where it would lead."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system import logplaces
from prefork.system.logplaces import open_anew


def test_a_pipe_that_nobody_reads_and_we_may_only_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error with its mend, as every other: the master, which renews its logs, must not end by it."""
    os.mkfifo(tmp_path / "pipe")
    really = logplaces._open

    def only_write(path: str, access: int) -> int:
        if access == os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, access)

    monkeypatch.setattr(logplaces, "_open", only_write)
    with pytest.raises(PermissionProblem, match=r"a named pipe that nobody reads, .*: start its reader first"):
        open_anew(str(tmp_path / "pipe"), "error_log")


def test_what_goes_away_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is removed, or replaced by a socket, while it is opened: an error of ours."""
    path = tmp_path / "log"

    def gone(_path: str, access: int) -> int:
        number = errno.ENXIO if access == os.O_WRONLY else errno.EIO
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(logplaces, "_open", gone)
    with pytest.raises(ConfigurationError, match="log cannot be opened: Input/output error"):
        open_anew(str(path), "error_log")
    monkeypatch.undo()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(ConfigurationError, match="it is a socket"):
            open_anew(str(path), "error_log")

"""The end of every command: what a human being reads, and the status a machine gets."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import pytest

from prefork.cli.console import Failure, finish, printable, say
from prefork.errors import (
    AddressInUse,
    ApplicationError,
    ConfigurationError,
    PermissionProblem,
    PreforkError,
    UsageError,
)


def raiser(problem: BaseException) -> Callable[[], NoReturn]:
    def command() -> NoReturn:
        raise problem

    return command


def test_success(capsys: pytest.CaptureFixture[str]) -> None:
    """A command's own status is passed on, and nothing is said."""
    assert [finish("name", lambda status=status: status) for status in (0, 3)] == [0, 3]  # type: ignore[misc]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Failure, 1),
        (UsageError, 64),
        (AddressInUse, 69),
        (PreforkError, 70),
        (PermissionProblem, 77),
        (ConfigurationError, 78),
        (ApplicationError, 78),
    ],
)
def test_foreseen(kind: type[PreforkError], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A foreseen problem is one message under the command's name, and its status."""
    assert finish("name", raiser(kind("expected a, found b"))) == status
    assert capsys.readouterr() == ("", "name: expected a, found b\n")


@pytest.mark.parametrize(("missing", "status"), [("structlog", 78), ("prefork.cli.nothing", 70), (None, 70)])
def test_what_is_not_installed(missing: str | None, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A dependency that is not there is the installation's fault, and told so; any other module is ours."""
    assert finish("name", raiser(ModuleNotFoundError("No module", name=missing))) == status
    assert ("this is a bug" in capsys.readouterr().err) is (status == 70)


def test_application_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The application's own traceback comes before the message."""
    assert finish("name", raiser(ApplicationError("cannot import", "Traceback …\nOops\n"))) == 78
    assert capsys.readouterr().err == "Traceback …\nOops\nname: cannot import\n"


def test_long_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the traceback would push it off the screen's top, the message is its first and its last line."""
    lines = [f"line {number}" for number in range(30)]
    for kind in (ApplicationError, Failure):
        assert finish("name", raiser(kind("cannot import", "\n".join(lines)))) != 0
        assert capsys.readouterr().err.splitlines() == ["name: cannot import", *lines, "name: cannot import"]


def test_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is a bug of ours: 70, the traceback, and whom to tell."""
    assert finish("name", raiser(ValueError("surprise"))) == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith(
        "ValueError: surprise\nname: this is a bug in prefork; please report it with the lines above\n"
    )


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupt from the keyboard is quiet, with the status a shell would give it."""
    assert finish("name", raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_exit_passes() -> None:
    """What argparse does for --help is let through."""
    with pytest.raises(SystemExit):
        finish("name", raiser(SystemExit(0)))


def test_reader_gone() -> None:
    """When nobody reads the output any more, the command ends without a word, not even at the interpreter's exit."""
    program = (
        "import sys; from prefork.cli.console import finish\nsys.exit(finish('name', lambda: print('x' * 100_000)))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=output,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("ending", ["print('x' * 100_000)", "print('x')", "exit(print('x'))"])
def test_output_full(ending: str) -> None:
    """A full disk is said to be one, whether it shows at once or with the last line: no bug, and no success."""
    program = f"import sys; from prefork.cli.console import finish\nsys.exit(finish('name', lambda: {ending}))"
    with open("/dev/full", "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=output,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"name: the output cannot be written: No space left on device\n")


def test_other_errors_of_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a file, or of another kind, are still bugs."""
    assert finish("name", raiser(OSError(errno.ENOSPC, "full", "/file"))) == 70
    assert finish("name", raiser(OSError(errno.EBADF, "bad"))) == 70
    assert capsys.readouterr().err.count("this is a bug in prefork") == 2


def test_nowhere_to_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A standard error that is full, closed or missing changes nothing, least of all the standard output."""
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"))
    monkeypatch.setattr(sys, "stderr", full)
    say("on a full disk")
    full.close()
    say("after it was closed")
    monkeypatch.setattr(sys, "stderr", None)
    say("without any")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é …", "plain é …"), ("\x1b[2J\n\t\x9b\udcff", "\\x1b[2J\\n\\t\\x9b\\udcff"), ("\\", "\\")],
)
def test_printable(text: str, shown: str) -> None:
    """Letters stay, controls of a terminal and half characters are spelled out."""
    assert printable(text) == shown

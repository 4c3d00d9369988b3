"""prefork-serve as a command: what it says and with which status it ends before anything serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import run
from prefork.cli.serve import check_system, main
from prefork.errors import ConfigurationError


def serve(*words: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "prefork", *words, folder=folder, env=environ)


def test_help(folder: Path) -> None:
    """--help is 0, on standard output, and does not load the server."""
    program = (
        "import sys; from prefork.cli.serve import main\n"
        "try: main(['--help'])\n"
        "finally: print([name for name in sys.modules if name in ('prefork.server', 'structlog', 'asyncio')])"
    )
    done = run(sys.executable, "-c", program, folder=folder)
    assert done.stdout.startswith("usage: prefork-serve APP --socket ADDRESS [options]\n")
    assert done.stdout.endswith("\n[]\n")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "environ", "status", "message"),
    [
        ((), {}, 64, "no application: expected APP as module:callable"),
        (("prefork.demo",), {}, 64, "no socket: expected one of\n  --socket"),
        (("prefork.demo", "--sokcet", "a"), {}, 64, "unknown option --sokcet; did you mean --socket?"),
        (("prefork.demo", "--backlog", "many"), {"SOCK_PATH": "a"}, 78, "--backlog: expected a number from 1 to"),
        (("prefork.demo",), {"SOCK_PATH": "a", "PREFORK_BACKLOG": "-1"}, 78, "PREFORK_BACKLOG: expected a number"),
        (("demo.py",), {"SOCK_PATH": "a"}, 78, "APP: expected module:callable, module:factory() or module"),
        (("prefork.demo", "--socket", "127.0.0.1:8000"), {}, 78, "127.0.0.1:8000"),
    ],
)
def test_mistakes(words: tuple[str, ...], environ: dict[str, str], status: int, message: str, folder: Path) -> None:
    """A mistake is one message under the command's name, the right status, no traceback, and leaves nothing behind."""
    done = serve(*words, folder=folder, **environ)
    assert done.returncode == status
    assert done.stderr.startswith("prefork-serve: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(folder.iterdir()) == []


def test_undecodable_argument(folder: Path) -> None:
    """Bytes that are no text are shown in a message like anything else."""
    done = serve("prefork.demo", "--socket", "a", "--backlog", "\udcff", folder=folder)
    assert done.returncode == 78
    assert "found '\\udcff'" in done.stderr


def test_own_arguments(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments it takes the process's own."""
    monkeypatch.setattr(sys, "argv", ["prefork-serve", "--nonsense"])
    assert main() == 64
    assert "unknown option --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("release", ["5.10.0", "5.10-rc1", "6.1.0-18-amd64", "10.0"])
def test_system(release: str) -> None:
    """Linux from 5.10 on is what is needed."""
    check_system("Linux", release)


@pytest.mark.parametrize(
    ("name", "release"), [("Linux", "5.9.16"), ("Linux", "4.19"), ("Linux", "x"), ("Darwin", "23.1")]
)
def test_other_system(name: str, release: str) -> None:
    """Anything else is refused by name."""
    with pytest.raises(ConfigurationError, match=f"expected Linux 5.10 or later, found {name} {release}: "):
        check_system(name, release)

"""Starts that cannot succeed: one clear error, the right status, and nothing left behind."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from harness import PACKAGE_ROOT, Server, boot_timeout, run, wait_until

_TRACEBACK = "Traceback (most recent call last)"


def start(folder: Path, app: str, *options: str, **keywords: object) -> tuple[int, str]:
    """Start a server that is expected not to; its status and what it said."""
    server = Server(app, *options, folder=folder, **keywords)  # type: ignore[arg-type]
    server.start()
    status = server.wait_exit()
    text = server.text
    server.assert_nothing_left()
    return status, text


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize("preload", ["auto", "never"])
def test_an_import_that_fails_shows_the_applications_own_traceback_and_none_of_ours(folder: Path, preload: str) -> None:
    """78, the application's frames, no frame of prefork."""
    write(folder, "broken", "def connect():\n    raise RuntimeError('no database')\nconnect()\n")
    status, text = start(folder, "broken", "--preload", preload)
    assert status == 78
    assert f'File "{folder}/broken.py", line 3, in <module>' in text
    assert f'File "{folder}/broken.py", line 2, in connect' in text
    assert "RuntimeError: no database" in text
    assert f'File "{PACKAGE_ROOT}' not in text


@pytest.mark.parametrize("preload", ["auto", "never"])
def test_an_import_that_hangs_is_ended_and_shown(folder: Path, preload: str) -> None:
    """78 after boot_timeout, with the line that hangs."""
    write(folder, "hangs", "import time\ndef wait():\n    time.sleep(1000)\nwait()\n")
    limit = boot_timeout(folder)
    status, text = start(folder, "hangs", "--boot-timeout", f"{limit}s", "--preload", preload)
    assert status == 78
    assert f'File "{folder}/hangs.py", line 3 in wait' in text
    assert f"importing it took longer than boot_timeout ({limit} s)" in text
    assert f'File "{PACKAGE_ROOT}' not in text


@pytest.mark.parametrize("preload", ["auto", "never"])
def test_an_import_that_kills_its_process_is_reported_with_the_signal(folder: Path, preload: str) -> None:
    """78 and the signal's name."""
    write(folder, "dies", "import os\nos.abort()\n")
    status, text = start(folder, "dies", "--preload", preload)
    assert (status, "killed by SIGABRT" in text, _TRACEBACK in text) == (78, True, False)


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("here:nothing", "here has no 'nothing'; did you mean 'application'?"),
        ("here:aplication", "did you mean 'application'?"),
        ("here:number", "here:number is an int, not a WSGI callable"),
        ("here:make()", "here:make() returned a NoneType, not a WSGI callable"),
        ("empty", "neither 'application' nor 'app'"),
    ],
)
def test_a_wrong_name_is_one_line_and_no_traceback(folder: Path, app: str, expected: str) -> None:
    """78, what was expected, what was found."""
    write(folder, "here", "number = 3\ndef make():\n    return None\ndef application(e, s): ...\n")
    write(folder, "empty", "")
    status, text = start(folder, app)
    assert (status, expected in text, _TRACEBACK in text) == (78, True, False)


def test_of_two_pools_one_that_fails_keeps_both_from_starting(folder: Path) -> None:
    """No path appears for either, and the error is that of the one that failed."""
    write(folder, "once", "open('imported', 'x')\ndef application(environ, start_response): ...\n")
    status, text = start(folder, "once", "--socket", str(folder / "other.sock"))
    assert (status, "FileExistsError" in text) == (78, True)
    assert [path.name for path in folder.glob("*.sock")] == []


def test_a_live_server_is_not_disturbed(folder: Path) -> None:
    """69, naming its pid; the first one goes on serving."""
    with Server("faulty", folder=folder) as first:
        second = Server("faulty", folder=folder).start()
        assert second.wait_exit() == 69
        assert str(first.pid) in second.text
        assert first.ask(path="/hello").body == b"hello"
        second.log.close()


def test_a_file_in_the_way_is_left_alone(folder: Path) -> None:
    """78, and the file is as it was."""
    (folder / "app.sock").write_text("mine")
    server = Server("faulty", folder=folder).start()
    assert server.wait_exit() == 78
    server.log.close()
    assert (folder / "app.sock").read_text() == "mine"


def test_a_dead_socket_is_replaced(folder: Path) -> None:
    """What a killed server left behind is no obstacle."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "app.sock"))
    with Server("faulty", folder=folder) as server:
        assert server.ask(path="/hello").body == b"hello"


def test_an_over_long_path_is_explained(folder: Path) -> None:
    """78, with the length and the limit."""
    long = folder / ("x" * 120)
    server = Server("faulty", folder=folder, socket=str(long)).start()
    assert server.wait_exit() == 78
    assert "107" in server.text
    server.log.close()


@pytest.mark.parametrize("option", ["--socket-group", "--socket-owner"])
def test_an_unknown_name_leaves_no_socket(folder: Path, option: str) -> None:
    """78, naming it."""
    status, text = start(folder, "faulty", option, "no-such-name")
    assert (status, "no-such-name" in text) == (78, True)


def test_help_and_version_print_and_end(folder: Path) -> None:
    """0 on standard output."""
    for option in ("--help", "--version"):
        done = run(sys.executable, "-m", "prefork", option, folder=folder)
        assert (done.returncode, done.stderr, bool(done.stdout)) == (0, "", True)


def test_the_umask_never_shows_in_the_mode(folder: Path) -> None:
    """0660 under umask 077, and the application inherits the umask unchanged."""
    with Server("faulty", folder=folder, umask=0o077) as server:
        assert server.path is not None
        assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o660
        status = Path(f"/proc/{wait_until(server.workers)[0]}/status").read_text()
        assert "Umask:\t0077" in status

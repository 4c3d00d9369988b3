"""What the application's processes may use and find: limits, privileges, environment, with the real server."""

from __future__ import annotations

import json
import os
import pwd
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import UNMEASURED, Server, run

_MODULE = """
import json, os, resource

def look():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "no_new_privs": int(status["NoNewPrivs"]),
        "environ": dict(os.environ),
    }

imported = look()

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps([imported, look()]).encode()]
"""


def looks(server: Server) -> dict[str, Any]:
    """What the application found at its import; in a request it must be the same."""
    imported, now = json.loads(server.ask().body)
    assert imported == now
    found: dict[str, Any] = imported
    return found


@pytest.fixture(autouse=True)
def module(folder: Path) -> None:
    (folder / "looks.py").write_text(_MODULE)


@pytest.mark.parametrize("preload", ["auto", "never"])
def test_limits_are_the_applications(folder: Path, preload: str) -> None:
    """From its import on; the master keeps its own."""
    options = ["--rlimit-files", "200", "--rlimit-core", "0", "--no-new-privs", "--preload", preload]
    with Server("looks", *options, folder=folder) as server:
        found = looks(server)
        assert (found["files"], found["core"], found["no_new_privs"]) == ([200, 200], [0, 0], 1)
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1] > 200
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert f"NoNewPrivs:\t{_own('NoNewPrivs')}" in status


def _own(name: str) -> str:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return lines[name].strip()


def test_without_options_nothing_changes(folder: Path) -> None:
    """Limits as the master found them, though it raises its own."""
    with Server("looks", folder=folder) as server:
        found = looks(server)
        assert found["files"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))
        assert str(found["no_new_privs"]) == _own("NoNewPrivs")


def test_a_cleared_environment(folder: Path) -> None:
    """PATH, who the user is, the language, the time zone, and what env says: nothing else of the starter's."""
    env = {"SECRET": "of the shell", "LC_TIME": "C", "TZ": "UTC", "PATH": os.environ["PATH"], "HOME": "/wrong"}
    with Server("looks", "--clear-env", "--env", "MINE=$HOME", folder=folder, env={**env, **UNMEASURED}) as server:
        me = pwd.getpwuid(os.geteuid())
        usual = {"PATH": os.environ["PATH"], "HOME": me.pw_dir, "USER": me.pw_name, "LOGNAME": me.pw_name}
        languages = {key: value for key, value in os.environ.items() if key in ("LANG", "LANGUAGE") or key[:3] == "LC_"}
        found = looks(server)["environ"]
        found.pop("LC_CTYPE", None)  # the interpreter itself sets it where no language is set (PEP 538)
        languages.pop("LC_CTYPE", None)
        assert found == {**usual, **languages, "LC_TIME": "C", "TZ": "UTC", "MINE": "$HOME"}


@pytest.mark.root
def test_limits_and_environment_of_another_user(folder: Path) -> None:
    """Set before root is given up, as far as only root may; the names are that user's."""
    options = ["--user", "nobody", "--rlimit-files", "200", "--no-new-privs", "--clear-env"]
    with Server("looks", *options, folder=folder, env={"SECRET": "of root"}) as server:
        found = looks(server)
        assert (found["files"], found["no_new_privs"]) == ([200, 200], 1)
        assert (found["environ"]["USER"], found["environ"]["HOME"]) == ("nobody", pwd.getpwnam("nobody").pw_dir)
        assert "SECRET" not in found["environ"]


@pytest.mark.root
def test_a_limit_that_cannot_be_had(folder: Path) -> None:
    """77 before anything is started, with the numbers."""
    command = ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh", sys.executable, "-m", "prefork", "looks"]
    command += ["--socket", str(folder / "app.sock"), "--rlimit-files", "400"]
    os.chown(folder, 65534, 65534)
    done = run(*command, folder=folder, user=65534, group=65534, extra_groups=[])
    assert (done.returncode, "may not exceed the hard limit, 300" in done.stderr) == (77, True), done.stderr
    assert not (folder / "app.sock").exists()


def test_a_callable_has_them_too(folder: Path) -> None:
    """It is forked, not executed: limits and environment are changed in the fork."""
    program = _MODULE + (
        "import prefork, sys\n"
        f"prefork.serve(application, socket={str(folder / 'app.sock')!r}, max_children=1, clear_env=True,\n"
        "              rlimit_files=200, no_new_privs=True, log_format='json')\n"
    )
    (folder / "program.py").write_text(program)
    server = _Program(folder)
    with server:
        imported, now = json.loads(server.ask().body)
        assert (now["files"], now["no_new_privs"]) == ([200, 200], 1)
        assert "SECRET" in imported["environ"]
        assert "SECRET" not in now["environ"]


class _Program(Server):
    """A program that serves its own callable."""

    def __init__(self, folder: Path) -> None:
        super().__init__("none", folder=folder, env={"SECRET": "of the shell"})
        self._command = [sys.executable, "program.py"]

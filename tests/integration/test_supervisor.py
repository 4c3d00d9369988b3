"""supervisord's fcgi-program: the listener on standard input, shared by the programs of a group."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import PATIENCE, Load, Nginx, environment, wait_until
from integration.handing import recipe, wait_release

pytestmark = [pytest.mark.tool("supervisord"), pytest.mark.once]

# What every supervisord needs, with files that a test may write to.
CONFIGURATION = """
[supervisord]
nodaemon = true
logfile = supervisord.log
pidfile = supervisord.pid
identifier = prefork-test

[unix_http_server]
file = supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://supervisor.sock

{program}
startsecs = 0
stderr_logfile = {folder}/%(program_name)s_%(process_num)d.log
"""


class Supervisor:
    """supervisord in a folder, and supervisorctl for it."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.folder = folder
        me = f"{pwd.getpwuid(os.geteuid()).pw_name}:{grp.getgrgid(os.getegid()).gr_name}"
        changes = {
            "/srv/mysite/.venv/bin/prefork-serve mysite.wsgi:application": shlex.join(command),
            "directory = /srv/mysite": f"directory = {folder}",
            "/run/mysite/app.sock": f"{folder}/app.sock",
            "mysite:www-data": me,
            "user = mysite\n": "",
            "--max-children 4": "--max-children 3 --log-format json",
        }
        program = recipe("[fcgi-program:mysite]", changes)
        (folder / "supervisord.conf").write_text(CONFIGURATION.format(program=program, folder=folder))

    def control(self, *words: str) -> str:
        command = ["supervisorctl", "-c", "supervisord.conf", *words]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment({})
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def log(self, number: int) -> str:
        path = self.folder / f"mysite_{number}.log"
        return path.read_text() if path.exists() else ""

    def wait(self, number: int, event: str, count: int = 1) -> None:
        wait_until(lambda: self.log(number).count(f'"event": "{event}"') >= count, what=f"{event} of {number}")


@contextlib.contextmanager
def supervised(folder: Path) -> Iterator[Supervisor]:
    found = Supervisor(folder, sys.executable, "-m", "prefork", "mixed")
    # Debian's supervisor is written for its own Python, and older than some of what that warns of.
    env = {**environment({}), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        ["supervisord", "-c", "supervisord.conf"],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for number in (0, 1):
            found.wait(number, "serving")
        yield found
    except BaseException:
        for number in (0, 1):
            print(found.log(number), file=sys.stderr)  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
    assert status == 0
    for number in (0, 1):
        found.wait(number, "stopped")


@pytest.mark.nginx
def test_programs_restarted_in_turn_lose_nothing(folder: Path) -> None:
    """Under a mixed load through nginx and beside it; each serves, and the last release is the only one left."""
    path = f"{folder}/app.sock"
    (folder / "release").write_text("0")
    with (
        supervised(folder) as supervisor,
        Nginx(path, folder=folder, keepalive=4) as nginx,
        Load(nginx.address, short=6, long=2, seconds=1.0) as through,
        Load(path, short=4, long=0) as direct,
    ):
        wait_release(through, "0")
        (folder / "release").write_text("1")
        for number in (0, 1):
            supervisor.control("restart", f"mysite:mysite_{number}")
            supervisor.wait(number, "serving", 2)
            wait_release(through, "1")
        since = time.monotonic()
        wait_release(direct, "1")
        through.stop()
        direct.stop()
        for load in (through, direct):
            assert (load.lost, load.wrong, load.stale(since, "1")) == ([], [], [])
        assert nginx.errors() == []
        assert "worker_died" not in supervisor.log(0) + supervisor.log(1)

"""The example units under systemd itself: a manager of its own, in a namespace, with nothing in it but these units."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import PACKAGE_ROOT, PATIENCE, REPOSITORY, Load, Nginx, children, fetch, wait_until
from integration.handing import wait_release

pytestmark = [pytest.mark.root, pytest.mark.once, pytest.mark.tool("unshare"), pytest.mark.tool("systemctl")]

UNITS = REPOSITORY / "examples" / "systemd"
CONTROL = 'python -P -c "import sys; from prefork.cli.control import main; sys.exit(main())"'

NO_ROOM = "needs a cgroup that a second systemd may use, and namespaces"

# A user's manager runs only where systemd is in charge, which this directory says, and never as the first process.
START = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && { /lib/systemd/systemd --user & wait $!; }"


class Systemd:
    """A manager, and the service "mysite" in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid = 0  # of the first process in its namespace
        self.socket = str(folder / "mysite.sock")
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "SYSTEMD_UNIT_PATH": str(folder / "units"),
            "HOME": str(folder),
        }

    def install(self) -> None:
        """The units, with what this machine has in place of what the site's would have, and no more than that."""
        for name in ("run", "units"):
            (self.folder / name).mkdir(mode=0o700)
        for name in ("default", "basic", "sockets", "shutdown"):
            (self.folder / "units" / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        serve = f"{sys.executable} -P -m prefork mixed --max-children 6 --log-format json"
        path = f"{PACKAGE_ROOT}:{REPOSITORY}/tests/apps"
        changes = {
            r"/srv/mysite/\.venv/bin/prefork-serve mysite\.wsgi:application": serve,
            r"/srv/mysite/\.venv/bin/preforkctl": f"{Path(sys.executable).parent}/{CONTROL}",
            "/run/mysite/app.sock": self.socket,
            r"WorkingDirectory=.*": f"WorkingDirectory={self.folder}\nEnvironment=PYTHONPATH={path}\n"
            f"StandardError=append:{self.folder}/log",
            "WatchdogSec=30s": "WatchdogSec=2s",
            # What only the system's own manager can do.
            r"(?m)^(Socket)?(User|Group)=.*\n|^(Private|Protect|CapabilityB|StateD)\w+=.*\n": "",
            r"network\.target ": "",
        }
        for name in ("app.service", "app.socket"):
            text = (UNITS / name).read_text()
            for before, after in changes.items():
                text = re.sub(before, lambda _match, after=after: after, text)  # type: ignore[misc]
            (self.folder / "units" / name.replace("app", "mysite")).write_text(text)

    def control(self, *words: str, status: int = 0) -> str:
        """systemctl, to its end."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--pid", "--mount", "systemctl", "--user", "--no-pager", *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr, self.log[-2000:])
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.control("show", "--value", "-p", name, "mysite.service")

    @property
    def log(self) -> str:
        """What the servers wrote."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


@contextmanager
def systemd(folder: Path) -> Iterator[Systemd]:
    found = Systemd(folder)
    found.install()
    with open(folder / "systemd.log", "wb") as log:
        command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", START]
        process = subprocess.Popen(command, env=found.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        private = folder / "run" / "systemd" / "private"
        wait_until(lambda: private.exists() or process.poll() is not None, what="systemd's own socket")
        if process.poll() is not None:  # nothing of ours has run yet
            print((folder / "systemd.log").read_text())  # noqa: T201 - pytest shows it
            pytest.skip(NO_ROOM)
        (found.pid,) = children(process.pid)
        yield found
        found.control("stop", "mysite.socket", "mysite.service")
    finally:
        process.kill()
        process.wait()


@pytest.mark.nginx
@pytest.mark.timeout(120)
def test_a_site_under_systemd(folder: Path) -> None:
    """Started by its first client; restarted and reloaded under load, nothing lost; a master that hangs is replaced."""
    release = folder / "release"
    release.write_text("0")
    with systemd(folder) as manager:
        manager.control("start", "mysite.socket")
        assert manager.control("is-active", "mysite.service", status=3) == "inactive"
        with (
            Nginx(manager.socket, folder=folder, keepalive=4) as nginx,
            Load(nginx.address, short=4, long=2, seconds=2.0) as through,
            Load(manager.socket, short=2, long=0) as direct,
        ):
            wait_release(through, "0")
            for number, how in (("1", "restart"), ("2", "reload"), ("3", "restart")):
                release.write_text(number)
                manager.control(how, "mysite.service")
                assert fetch(manager.socket).headers["X-Release"] == number
                wait_release(through, number)
            through.stop()
            direct.stop()
            for load in (through, direct):
                assert (load.lost, load.wrong) == ([], [])
            assert nginx.errors() == []
        wait_until(lambda: " 0 busy, " in manager.show("StatusText"))
        main = manager.show("MainPID")

        release.write_text("4")
        manager.control("kill", "--signal=SIGSTOP", "--kill-who=main", "mysite.service")
        wait_until(lambda: manager.show("NRestarts") == "1" and manager.show("SubState") == "running")
        assert manager.show("MainPID") != main
        assert fetch(manager.socket).headers["X-Release"] == "4"

        release.write_text("5")
        manager.control("stop", "mysite.service")
        assert manager.show("Result") == "success"
        assert fetch(manager.socket).headers["X-Release"] == "5"  # who connects starts it


def test_a_site_that_cannot_be_loaded(folder: Path) -> None:
    """A start fails, as nothing that is never ready starts; a reload fails, and the old code serves on."""
    release = folder / "release"
    with systemd(folder) as manager:
        units = folder / "units" / "mysite.service"
        units.write_text(units.read_text().replace("prefork mixed", "prefork site_of_mine").replace("on-failure", "no"))
        (folder / "site_of_mine.py").write_text("raise LookupError('no settings')\n")
        manager.control("daemon-reload")
        manager.control("start", "mysite.service", status=1)
        assert manager.show("ExecMainStatus") == "78"
        assert "LookupError: no settings" in manager.log
        (folder / "site_of_mine.py").write_text("from mixed import application\n")
        release.write_text("1")
        manager.control("start", "mysite.service")
        (folder / "site_of_mine.py").write_text("raise LookupError('no settings any more')\n")
        manager.control("reload", "mysite.service", status=1)
        assert fetch(manager.socket).headers["X-Release"] == "1"
        wait_until(lambda: "the last reload failed" in manager.show("StatusText"))

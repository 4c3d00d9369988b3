"""The example units, as far as systemd-analyze and our own commands can judge them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import PATIENCE, REPOSITORY, environment, run

pytestmark = pytest.mark.once

UNITS = REPOSITORY / "examples" / "systemd"
COMMANDS = re.compile(r"/srv/mysite/\.venv/bin/(prefork-serve|preforkctl) (.*)")


def verified(folder: Path, change: tuple[str, str] = ("", "")) -> str:
    """What systemd-analyze complains of, with users and programs that this machine has."""
    for name in ("app.service", "app.socket"):
        text = re.sub(r"(?m)^((?:Socket)?(?:User|Group))=.*$", r"\1=daemon", (UNITS / name).read_text())
        text = re.sub(r"/srv/mysite/\.venv/bin/\S+", "/bin/true", text)
        (folder / name.replace("app", "mysite")).write_text(text.replace(*change) if change[0] else text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "./mysite.service", "./mysite.socket"],
        cwd=folder,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.tool("systemd-analyze")
def test_systemd_has_nothing_against_the_units(folder: Path) -> None:
    """No unknown key, no value it does not take, no unit that is missing; and it would say so."""
    assert verified(folder) == ""
    assert "Unknown key" in verified(folder, ("WatchdogSec=", "WatchDog="))
    assert "mysite.sock" in verified(folder, ("Requires=mysite.socket", "Requires=mysite.sock"))


def test_the_commands_of_the_units_are_understood(folder: Path) -> None:
    """Every option exists; the socket is found by its name; the sockets' paths are the same in both."""
    service, socket = ((UNITS / name).read_text() for name in ("app.service", "app.socket"))
    commands = dict(COMMANDS.findall(service))
    (path,) = re.findall(r"(?m)^ListenStream=(.*)$", socket)
    (name,) = re.findall(r"(?m)^FileDescriptorName=(.*)$", socket)
    assert commands["preforkctl"] == f"--socket {path} reload"
    assert f"--socket systemd:{name}" in commands["prefork-serve"]
    options = commands["prefork-serve"].split()
    done = run(sys.executable, "-m", "prefork", *options, "--show-config", folder=folder)
    assert (done.returncode, f'socket = "systemd:{name}"' in done.stdout) == (0, True), done.stderr

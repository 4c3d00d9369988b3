"""nginx and the server as different users, and what the start says when they cannot meet. All of it needs root."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from pathlib import Path

import pytest

from harness import PACKAGE_ROOT, REPOSITORY, Nginx, Server, run

pytestmark = [pytest.mark.nginx, pytest.mark.root]

WEB = "www-data"  # whom Debian's nginx runs as
APPLICATION = "nobody"


@pytest.fixture
def home(folder: Path) -> Path:
    """A folder of the application's own, for its socket, as a unit's RuntimeDirectory= would be."""
    path = folder / "run"
    path.mkdir()
    os.chown(path, pwd.getpwnam(APPLICATION).pw_uid, pwd.getpwnam(APPLICATION).pw_gid)
    return path


def test_two_users_meet_by_group(folder: Path, home: Path) -> None:
    """Started as root under umask 077, dropped to a user, mode 0660 by nginx's group: nginx gets its 200.

    The application runs as that user in every sense: real, effective and saved, with its groups.
    """
    socket = home / "app.sock"
    options = ["--user", APPLICATION, "--socket-group", WEB, "--socket-mode", "0660", "--workers", "2"]
    env = {"PARTS_FOLDER": str(home)}
    with (
        Server("parts", *options, folder=folder, socket=str(socket), umask=0o077, env=env) as server,
        Nginx(server.address, folder=folder, user=WEB) as nginx,
    ):
        answer = nginx.fetch("GET", "/who")
        user, group = pwd.getpwnam(APPLICATION).pw_uid, pwd.getpwnam(APPLICATION).pw_gid
        assert answer.status == 200
        assert answer.text.partition(" ")[2] == f"{(user,) * 3} {(group,) * 3} 77\n"
        facts = socket.stat()
        assert stat.S_IMODE(facts.st_mode) == 0o660
        assert facts.st_gid == grp.getgrnam(WEB).gr_gid
        assert nginx.errors() == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_socket_mode_is_not_masked(folder: Path, umask: int) -> None:
    """The mode asked for is the mode of the socket, whatever the umask."""
    with Server("prefork.demo", "--socket-mode", "0666", "--workers", "1", folder=folder, umask=umask) as server:
        assert server.path is not None
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o666


def test_a_user_starts_a_server_of_their_own(folder: Path, home: Path) -> None:
    """Without root: whoever starts it is who it runs as, and a mode for all lets nginx in."""
    options = ["--socket-mode", "0666", "--workers", "1"]
    env = {"PARTS_FOLDER": str(home), "HOME": str(home)}
    with (
        Server(
            "parts",
            *options,
            folder=folder,
            socket=str(home / "app.sock"),
            user=APPLICATION,
            group=pwd.getpwnam(APPLICATION).pw_gid,
            extra_groups=[],
            env=env,
        ) as server,
        Nginx(server.address, folder=folder, user=WEB) as nginx,
    ):
        user = pwd.getpwnam(APPLICATION).pw_uid
        assert nginx.fetch("GET", "/who").text.split()[1:4] == [f"({user},", f"{user},", f"{user})"]


@pytest.mark.tool("unshare")
def test_the_wrong_group_is_told_at_the_start(folder: Path, home: Path) -> None:
    """With nginx running and the socket another group's, the start says who cannot connect, to what, and the mend."""
    # Any nginx on the machine counts, so the two meet where no other can be seen.
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable)
    script = str(REPOSITORY / "tests" / "integration" / "wrong_group.py")
    env = {"PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), str(REPOSITORY / "tests")])}
    done = run(*alone, script, str(folder), WEB, APPLICATION, folder=folder, env=env)
    assert done.returncode == 0, done.stderr


def test_an_unknown_group_stops_the_start(folder: Path) -> None:
    """A group that does not exist is a configuration error, with its name, before anything is created."""
    command = [sys.executable, "-m", "prefork", "prefork.demo", "--socket", str(folder / "app.sock")]
    done = run(*command, "--socket-group", "no-such-group", folder=folder)
    assert done.returncode == 78
    assert "no-such-group" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "app.sock").exists()

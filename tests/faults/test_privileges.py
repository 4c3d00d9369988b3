"""What the application runs as, and what it can reach: as root, with a user to become."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest

from harness import Server, wait_until

_USER = "nobody"


def whoami(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.ask(path="/whoami").body)
    return found


@pytest.mark.root
@pytest.mark.parametrize("preload", ["auto", "never"])
def test_nothing_of_the_application_ever_runs_as_root(folder: Path, preload: str) -> None:
    """Its import and its requests: real, effective, saved and file-system uid, gid and groups are the user's."""
    entry = pwd.getpwnam(_USER)
    with Server("faulty", "--user", _USER, "--preload", preload, folder=folder) as server:
        found = whoami(server)
        groups = sorted(set(os.getgrouplist(_USER, entry.pw_gid)))
        for who in (found["me"], found["imported_by"]):
            assert (who["uid"], who["gid"], sorted(who["groups"])) == (entry.pw_uid, entry.pw_gid, groups)
        assert found["uids"] == [str(entry.pw_uid)] * 4
        assert os.stat(f"/proc/{server.pid}").st_uid == 0
        for pid in server.titles():
            assert _status(pid, "Uid").split() == [str(entry.pw_uid)] * 4
            assert int(_status(pid, "CapEff"), 16) == 0


def _status(pid: int, field: str) -> str:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return lines[field].strip()


@pytest.mark.root
def test_the_environment_is_the_users(folder: Path) -> None:
    """USER, LOGNAME and HOME, as login(1) would set them: no library of the application looks into root's home."""
    module = "import os\ndef application(environ, start_response):\n    start_response('200 OK', [])\n"
    module += "    return [' '.join(os.environ[name] for name in ('USER', 'LOGNAME', 'HOME')).encode()]\n"
    (folder / "home.py").write_text(module)
    with Server("home", "--user", _USER, folder=folder) as server:
        assert server.ask().text == f"{_USER} {_USER} {pwd.getpwnam(_USER).pw_dir}"


def test_a_worker_holds_what_it_uses_and_nothing_else(folder: Path) -> None:
    """/proc/PID/fd of an idle worker, entry by entry, also when the master's parent leaked descriptors into it."""
    leaked = os.open(folder, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        with Server("faulty", "--workers", "2", folder=folder, pass_fds=[leaked]) as server:
            workers = server.wait_workers(2)
            server.ask(path="/hello")
            # Whoever answered closes the connection after that.
            wait_until(lambda: all(held_by(pid).count("socket") <= 3 for pid in workers), what="two idle workers")
            for pid in workers:
                assert held_by(pid) == [
                    "/dev/null",  # standard input; output and error are the server's own
                    "/memfd:prefork-control",
                    "/memfd:prefork-scoreboard",
                    "/memfd:prefork-stacks",  # where an import that hangs is told
                    "/memfd:prefork-stacks",  # its own
                    "anon_inode:[eventfd]",  # the doorbell
                    "pipe",  # the log: what standard error is, non-blocking for us alone
                    "socket",  # the listener
                    "socket",  # the channel to the master
                    "socket",  # one that listens to nothing, to retire with
                ]
    finally:
        os.close(leaked)


def held_by(pid: int) -> list[str]:
    """What the descriptors of a process lead to, without numbers and without standard output and error."""
    links = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links += [os.readlink(f"/proc/{pid}/fd/{entry}")] if entry not in "12" else []
    return sorted(re.sub(r":\[\d+\]| \(deleted\)", "", link) for link in links)


@pytest.mark.root
def test_an_interpreter_out_of_reach_is_found_before_anything_is_started(folder: Path) -> None:
    """77, naming the component that refuses and the user whom it refuses."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = Server("faulty", "--user", _USER, "--chdir", str(closed), folder=folder).start()
    assert server.wait_exit() == 77
    assert str(closed) in server.text
    assert _USER in server.text
    server.assert_nothing_left()


@pytest.mark.root
def test_without_a_user_root_is_warned(folder: Path) -> None:
    """Loudly: whoever takes over the application owns the machine."""
    with Server("faulty", "--status-listen", str(folder / "status.sock"), folder=folder) as server:
        (warned,) = server.find("running_as_root")
        assert (warned["level"], warned["pool"]) == ("warning", "www")


@pytest.mark.root
def test_only_root_can_ask_for_another_user(folder: Path) -> None:
    """77, and what to do."""
    folder.chmod(0o777)
    server = Server("faulty", "--user", "www-data", folder=folder, user=_USER, group=pwd.getpwnam(_USER).pw_gid).start()
    assert server.wait_exit() == 77
    assert "www-data" in server.text
    server.assert_nothing_left()

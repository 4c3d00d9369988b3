"""Reloads that bring another configuration: what is applied, what is refused, and what needs a restart."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Server, connect, control, fastcgi, fetch, wait_until

APP = """\
import os, time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("began", "w").close()
        while not os.path.exists("end"): time.sleep(0.01)
    start_response("200 OK", [])
    return [os.environ.get("ANSWER", "none").encode()]
"""


@contextmanager
def serving(folder: Path, configuration: str, **more: Any) -> Iterator[Server]:
    """A server by a configuration file, which a test changes."""
    (folder / "app.py").write_text(APP)
    (folder / "prefork.toml").write_text(configuration)
    server = Server("app", folder=folder, socket=str(folder / "a.sock"), env=more.pop("env", {}), **more)
    server._command = [*server._command[:3], "--config", "prefork.toml", "--log-format", "json"]
    server._command += ["--control-socket", str(folder / "c.sock")]
    with server:
        yield server


def reload(folder: Path, configuration: str | None = None, *, status: int = 0) -> str:
    """Write the configuration and reload; what preforkctl said."""
    if configuration is not None:
        (folder / "prefork.toml").write_text(configuration)
    done = control(folder, "--control", str(folder / "c.sock"), "reload", status=status)
    return done.stderr if status else done.stdout


def pools(folder: Path) -> dict[str, dict[str, Any]]:
    """What `preforkctl status` says of each pool."""
    done = control(folder, "--control", str(folder / "c.sock"), "status", "--json")
    return {pool["pool"]: pool for pool in json.loads(done.stdout)["pools"]}


def pool(folder: Path, name: str = "www", app: str = "app", **options: object) -> str:
    """A pool in TOML, on a socket of its name in the folder."""
    facts = {"app": app, "socket": str(folder / f"{name}.sock"), "max_children": 2, "pm": "static", **options}
    lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items() if not isinstance(value, dict)]
    env = "".join(f'env.{key} = "{value}"\n' for key, value in dict(facts.get("env", {})).items())  # type: ignore[call-overload]
    return f"[pool.{name}]\n" + "\n".join(lines) + "\n" + env


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_mode_and_backlog_of_a_living_socket(folder: Path) -> None:
    """The socket stays the same: whoever is connected does not notice."""
    path = folder / "www.sock"
    with serving(folder, pool(folder, socket_mode="0600", backlog=64)) as server:
        server.wait_workers(2)
        inode = path.lstat().st_ino
        assert mode_of(path) == 0o600
        assert pools(folder)["www"]["listen queue len"] == 64
        reload(folder, pool(folder, socket_mode="0666", backlog=128))
        assert (mode_of(path), path.lstat().st_ino) == (0o666, inode)
        assert pools(folder)["www"]["listen queue len"] == 128
        assert server.find("reloading")[0]["changed"] == ["www.socket_mode", "www.backlog"]


@pytest.mark.root
def test_owner_and_group_of_a_living_socket(folder: Path) -> None:
    """Names and numbers; one that does not exist is refused, and nothing is changed."""
    path = folder / "www.sock"
    with serving(folder, pool(folder)):
        reload(folder, pool(folder, socket_owner="nobody", socket_group="daemon"))
        assert (path.lstat().st_uid, path.lstat().st_gid) == (65534, 1)
        said = reload(folder, pool(folder, socket_owner="nosuchuser", socket_mode="0666"), status=1)
        assert "nosuchuser" in said
        assert (path.lstat().st_uid, mode_of(path)) == (65534, 0o660)


def test_another_path(folder: Path) -> None:
    """The new one serves; who waited at the old one is answered; that is gone."""
    old, new = folder / "www.sock", folder / "new.sock"
    with serving(folder, pool(folder)):
        thread = threading.Thread(target=fastcgi, args=(str(old), "GET", "/slow"))
        thread.start()
        wait_until((folder / "began").exists)
        reload(folder, pool(folder, socket=str(new), env={"ANSWER": "new"}))
        assert fastcgi(str(new)).text == "new"
        assert not old.exists()
        (folder / "end").touch()
        thread.join()
        said = reload(folder, pool(folder))
        assert "generation 3" in said
        assert fastcgi(str(old)).text == "none"
        assert not new.exists()


def test_a_path_that_somebody_else_has(folder: Path) -> None:
    """Refused with whom, before anything is started; nothing is changed."""
    with serving(folder, pool(folder)) as server, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "taken.sock"))
        other.listen()
        said = reload(folder, pool(folder, socket=str(folder / "taken.sock")), status=1)
        assert "taken.sock" in said
        assert server.find("reloading") == []
        assert fastcgi(str(folder / "www.sock")).status == 200
        reload(folder, pool(folder))


def test_a_path_that_cannot_be_bound_at_the_commit(folder: Path) -> None:
    """A directory that is swept away while the application is imported: everything stays as it was."""
    (folder / "gone").mkdir()
    release = 'import os, time\nwhile os.path.exists("hold"): time.sleep(0.01)\n' + APP
    with serving(folder, pool(folder)) as server:
        (folder / "hold").touch()
        (folder / "app.py").write_text(release)
        said: list[str] = []
        other = pool(folder, socket=str(folder / "gone" / "new.sock"), socket_mode="0600")
        thread = threading.Thread(target=lambda: said.append(reload(folder, other, status=1)))
        thread.start()
        server.wait_event("reloading")
        for path in (folder / "gone").iterdir():
            path.unlink()
        (folder / "gone").rmdir()
        (folder / "hold").unlink()
        thread.join()
        assert "gone/new.sock" in said[0]
        assert fastcgi(str(folder / "www.sock")).status == 200
        assert set(pools(folder)) == {"www"}


def test_numbers_manager_and_environment(folder: Path) -> None:
    """More workers, another manager, another environment."""
    with serving(folder, pool(folder, env={"ANSWER": "one"})) as server:
        assert fastcgi(str(folder / "www.sock")).text == "one"
        reload(folder, pool(folder, max_children=5, env={"ANSWER": "two"}))
        assert fastcgi(str(folder / "www.sock")).text == "two"
        wait_until(lambda: len(server.workers()) == 5)
        reload(folder, pool(folder, pm="dynamic", max_children=6, min_spare_servers=1, max_spare_servers=1))
        assert pools(folder)["www"]["process manager"] == "dynamic"
        assert fastcgi(str(folder / "www.sock")).text == "none"


def test_more_workers_than_there_is_room_for(folder: Path) -> None:
    """The pages of a pool have a size for life: refused, with the mend."""
    with serving(folder, pool(folder)):
        said = reload(folder, pool(folder, max_children=100), status=1)
        assert "max_children 100 is more than there is room for: expected less than 64" in said
        assert "restart" in said


def test_pools_added_and_removed(folder: Path) -> None:
    """The added one serves when the order returns; of the removed one what runs is finished, and its path is gone."""
    with serving(folder, pool(folder, "first") + pool(folder, "second", env={"ANSWER": "second"})) as server:
        thread = threading.Thread(target=fastcgi, args=(str(folder / "second.sock"), "GET", "/slow"))
        thread.start()
        wait_until((folder / "began").exists)
        reload(folder, pool(folder, "first") + pool(folder, "third", env={"ANSWER": "third"}))
        assert fastcgi(str(folder / "third.sock")).text == "third"
        assert not (folder / "second.sock").exists()
        with pytest.raises(OSError, match=r".*"):
            connect(str(folder / "second.sock"))
        assert server.find("pool_removed") == []
        (folder / "end").touch()
        thread.join()
        server.wait_event("pool_removed", pool="second")
        assert set(pools(folder)) == {"first", "third"}
        wait_until(lambda: len(server.titles()) == 6)
        reload(folder, pool(folder, "second", env={"ANSWER": "again"}))
        assert fastcgi(str(folder / "second.sock")).text == "again"
        server.wait_event("pool_removed", pool="first")
        server.wait_event("pool_removed", pool="third")
        assert set(pools(folder)) == {"second"}
        wait_until(lambda: len(server.titles()) == 3)


def test_one_pool_that_fails_keeps_all_as_they_were(folder: Path) -> None:
    """The other's new code is not served either, and an added pool leaves nothing behind."""
    (folder / "bad.py").write_text("raise RuntimeError('not today')\n")
    both = pool(folder, "first") + pool(folder, "second")
    with serving(folder, both) as server:
        wait_until(lambda: len(server.workers()) == 4)
        changed = pool(folder, "first", env={"ANSWER": "new"}) + pool(folder, "second", app="bad")
        assert "pool second: bad: importing it raised RuntimeError: not today" in reload(folder, changed, status=1)
        assert fastcgi(str(folder / "first.sock")).text == "none"
        added = both + pool(folder, "third", app="bad")
        assert "pool third: bad: importing it raised" in reload(folder, added, status=1)
        wait_until(lambda: set(pools(folder)) == {"first", "second"})
        wait_until(lambda: len(server.titles()) == 6)
        assert not (folder / "third.sock").exists()
        assert server.find("worker_died") + server.find("zygote_died") == []
        reload(folder, both + pool(folder, "third"))
        assert fastcgi(str(folder / "third.sock")).status == 200


def test_a_socket_from_one_pool_to_another(folder: Path) -> None:
    """Takes two steps, and says so."""
    with serving(folder, pool(folder, "first")):
        said = reload(folder, pool(folder, "other", socket=str(folder / "first.sock")), status=1)
        assert "is that of the pool first" in said
        assert fastcgi(str(folder / "first.sock")).status == 200


def test_what_needs_a_restart_is_named(folder: Path) -> None:
    """One warning, and the rest of the reload is done."""
    with serving(folder, pool(folder)) as server:
        reload(folder, 'log_level = "debug"\npid_file = "pid"\n' + pool(folder, max_children=3))
        event = server.wait_event("restart_needed")
        assert event["options"] == ["log_level", "pid_file"]
        wait_until(lambda: len(server.workers()) == 3)
        assert not (folder / "pid").exists()


BAD = {
    "no TOML": ("[pool.", "expected TOML"),
    "unknown key": ('[pool.www]\napp = "app"\nsocket = "@x"\nmax_childern = 3\n', "did you mean max_children?"),
    "bad value": ('[pool.www]\napp = "app"\nsocket = "@x"\nmax_children = "many"\n', "max_children"),
    "no such directory": ('[pool.www]\napp = "app"\nsocket = "@x"\nchdir = "/no/such/place"\n', "/no/such/place"),
    "log": ('[pool.www]\napp = "app"\nsocket = "@x"\naccess_log = "/no/such/place/log"\n', "/no/such/place"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_configuration_that_cannot_be(folder: Path, name: str) -> None:
    """Refused with the same words as at a start; nothing is started."""
    text, reason = BAD[name]
    with serving(folder, pool(folder)) as server:
        before = server.wait_workers(2)
        assert reason in reload(folder, text, status=1)
        assert server.workers() == before
        (folder / "prefork.toml").unlink()
        assert "prefork.toml" in reload(folder, status=1)
        reload(folder, pool(folder))


def test_another_access_log(folder: Path) -> None:
    """What the new code answers stands in the new log, in the new format; the old one is let go of, also by USR1."""
    with serving(folder, pool(folder, access_log=str(folder / "one.log"))):
        fastcgi(str(folder / "www.sock"), path="/before")
        reload(folder, pool(folder, access_log=str(folder / "two.log"), access_log_format="json"))
        fastcgi(str(folder / "www.sock"), path="/after")
        wait_until(lambda: "/after" in (folder / "two.log").read_text())
        assert "/after" not in (folder / "one.log").read_text()
        (folder / "two.log").rename(folder / "two.log.1")
        control(folder, "--control", str(folder / "c.sock"), "reopen-logs")
        fastcgi(str(folder / "www.sock"), path="/later")
        wait_until(lambda: "/later" in (folder / "two.log").read_text())
        reload(folder, pool(folder))
        fastcgi(str(folder / "www.sock"), path="/unlogged")
        assert "/unlogged" not in (folder / "two.log").read_text()


def test_output_is_caught_from_now_on(folder: Path) -> None:
    """An option that the start had not."""
    release = APP.replace("    start_response", '    print("said", flush=True)\n    start_response')
    with serving(folder, pool(folder), stdout=os.open(os.devnull, os.O_WRONLY)) as server:
        (folder / "app.py").write_text(release)
        reload(folder, pool(folder, catch_output=True))
        fastcgi(str(folder / "www.sock"))
        assert server.wait_event("output")["message"] == "said"


def test_the_environment_of_the_start_still_counts(folder: Path) -> None:
    """What the variables and the command line said then, they say for ever; the file is read anew."""
    with serving(folder, pool(folder), env={"PREFORK_MAX_REQUESTS": "1000"}) as server:
        reload(folder, pool(folder, max_requests=5, max_children=3))
        wait_until(lambda: len(server.workers()) == 3)
        for _ in range(40):
            fastcgi(str(folder / "www.sock"))
        assert server.find("worker_recycled") == []


def test_status_pages_that_come_and_go(folder: Path) -> None:
    """`status_listen` is a pool like any other, and `status_path` an option like any other."""
    place = folder / "status.sock"
    with serving(folder, pool(folder)) as server:
        reload(folder, f'status_listen = "{place}"\n' + pool(folder, status_path="/status"))
        assert fetch(str(place), path="/status").status == 200
        assert fastcgi(str(folder / "www.sock"), path="/status").status == 200
        assert fetch(str(place), path="/status").text.startswith("pool:")
        reload(folder, pool(folder))
        assert not place.exists()
        assert fastcgi(str(folder / "www.sock"), path="/status").text == "none"
        wait_until(lambda: len(server.workers()) == 2)

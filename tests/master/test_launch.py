"""How a zygote is started: what it is told, and what it finds."""

from __future__ import annotations

import json
import os
import pwd
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prefork
from harness.processes import environment
from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError, PreforkError
from prefork.master.launch import Launch
from prefork.system import channel
from prefork.system.channel import Kind, open_pair
from prefork.system.handover import FOR_US
from prefork.system.identity import Identity
from prefork.zygote import Settings

FILES = resource.getrlimit(resource.RLIMIT_NOFILE)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return []


def launch_of(identity: Identity | None = None, **options: Any) -> Launch:
    pool = PoolConfig(**{"app": "app:application", "socket": "@x", "max_children": 3, **options})
    return Launch(
        Config(pools=(pool,), log_level="debug"), pool, identity, "/srv", "/srv/app", FILES, lambda _gifts, _app: None
    )


def settings(*, load: bool = True, **options: Any) -> dict[str, Any]:
    return launch_of(**options).settings(generation=7, slots=64, load=load)


# the first message


def test_a_zygote_understands_every_setting() -> None:
    """What is sent is what it expects: no key too many, none missing, and it survives the channel."""
    told = settings(pythonpath=("lib",), warmup=("/", "/x"))
    above, below = open_pair()
    with above, below:
        channel.send(above, Kind.SETTINGS, told)
        order = channel.receive_order(below)
    assert order is not None
    assert order.body == told
    Settings(**told)


def test_settings_that_fit_no_message_are_refused() -> None:
    """By the name of what makes them long, and before anything is started; just below they can be sent."""
    with pytest.raises(ConfigurationError, match=r"at most 65472: shorten its longest list, warmup \(6000 entries"):
        launch_of(warmup=tuple(f"/page/{number:05}" for number in range(6000)), pythonpath=("lib",))
    size = len(json.dumps(settings(ping_response="")))
    above, below = open_pair()
    with above, below:
        channel.send(above, Kind.SETTINGS, settings(ping_response="x" * (65_300 - size)))
        with pytest.raises(ConfigurationError, match="the settings of the pool take"):
            settings(ping_response="x" * (65_600 - size))


def test_settings_are_those_of_the_pool() -> None:
    """Under names of their own."""
    told = settings(
        name="api",
        pythonpath=("lib", "/opt/more"),
        warmup=("/",),
        boot_timeout=9.0,
        max_header_size=1,
        max_header_count=2,
        max_body_size=3,
        header_timeout=1.5,
        body_timeout=2.5,
        body_min_rate=100,
        write_timeout=3.5,
        write_min_rate=200,
        queue_timeout=4.5,
        request_timeout=20.0,
        skip_abandoned=False,
        access_log="-",
        access_log_format="json",
        access_log_suppress=("/ping",),
        catch_output=True,
        protocol="http",
        allowed_addresses=("10.0.0.0/8",),
    )
    deadline = told.pop("boot_deadline")
    assert 0 < deadline - time.monotonic() <= 9
    assert {key: told[key] for key in told if key not in ("load", "fork_anyway")} == {
        "master": os.getpid(),
        "version": prefork.__version__,
        "pool": "api",
        "app": "app:application",
        "hooks": None,
        "title": "app:application",
        "status_path": "",
        "ping_path": "",
        "ping_response": "pong",
        "generation": 7,
        "slots": 64,
        "directory": "/srv/app",
        "pythonpath": ["/srv/lib", "/opt/more"],
        "warmup": ["/"],
        "boot_timeout": 9.0,
        "canary": "",
        "max_children": 3,
        "log_level": "debug",
        "log_format": "auto",
        "error_log": "stderr",
        "access_log": "-",
        "access_log_format": "json",
        "access_log_suppress": ["/ping"],
        "catch_output": True,
        "protocol": "http",
        "allowed_addresses": ["10.0.0.0/8"],
        "forwarded_allow": ["unix", "127.0.0.0/8", "::1"],
        "max_header_size": 1,
        "max_header_count": 2,
        "max_body_size": 3,
        "header_timeout": 1.5,
        "body_timeout": 2.5,
        "body_min_rate": 100,
        "write_timeout": 3.5,
        "write_min_rate": 200,
        "queue_timeout": 4.5,
        "request_timeout": 20.0,
        "skip_abandoned": False,
    }


@pytest.mark.parametrize(
    ("app", "preload", "wanted", "load", "fork_anyway"),
    [
        ("a:b", "auto", True, True, False),
        ("a:b", "auto", False, False, False),
        ("a:b", "always", True, True, True),
        ("a:b", "always", False, False, True),
        ("a:b", "never", True, False, False),
        ("a:b", "never", False, False, False),
        (application, "auto", True, True, True),
        (application, "never", True, False, True),
    ],
)
def test_who_loads_and_who_forks(app: Any, preload: str, wanted: bool, load: bool, fork_anyway: bool) -> None:
    """The operator's preload bounds what the master wants; a callable can only be forked, whatever is left running."""
    told = settings(app=app, preload=preload, load=wanted)
    assert (told["load"], told["fork_anyway"]) == (load, fork_anyway)


def test_a_callable_has_a_title_and_no_name() -> None:
    """There is nothing to import."""
    told = settings(app=application)
    assert told["app"] == ""
    assert told["title"].endswith(":application")


# the environment

SOMEBODY = Identity(pwd.getpwuid(0).pw_uid, 0, (0,), "somebody", "somebody")


@pytest.mark.parametrize(
    ("identity", "env", "expected"),
    [
        (None, {}, {"PATH": "/bin", "HOME": "/h", "USER": "u"}),
        (None, {"HOME": "/mine", "NEW": "x"}, {"PATH": "/bin", "HOME": "/mine", "USER": "u", "NEW": "x"}),
        (
            SOMEBODY,
            {},
            {"PATH": "/bin", "HOME": pwd.getpwuid(0).pw_dir, "USER": "somebody", "LOGNAME": "somebody"},
        ),
        (SOMEBODY, {"HOME": "/mine"}, {"PATH": "/bin", "HOME": "/mine", "USER": "somebody", "LOGNAME": "somebody"}),
        (
            replace(SOMEBODY, uid=4_000_000_123),
            {},
            {"PATH": "/bin", "HOME": "/", "USER": "somebody", "LOGNAME": "somebody"},
        ),
    ],
)
def test_the_environment(identity: Identity | None, env: dict[str, str], expected: dict[str, str]) -> None:
    """Ours, the user's own home and name when the user changes, and over all what the operator set."""
    inherited = {"PATH": "/bin", "HOME": "/h", "USER": "u"}
    assert launch_of(identity, env=env).environment(inherited) == expected
    assert inherited == {"PATH": "/bin", "HOME": "/h", "USER": "u"}


@pytest.mark.parametrize("clear", [False, True])
def test_what_a_parent_tells_the_server_is_not_told_to_the_application(clear: bool) -> None:
    """Descriptors it does not have, a manager it is not to answer; the operator may say otherwise."""
    told = dict.fromkeys(FOR_US, "1")
    found = launch_of(env={"NOTIFY_SOCKET": "/mine"}, clear_env=clear).environment({"PATH": "/bin", **told})
    assert found["PATH"] == "/bin"
    assert {name: found[name] for name in FOR_US if name in found} == {"NOTIFY_SOCKET": "/mine"}
    assert {"LISTEN_FDS", "WATCHDOG_USEC", "SERVER_STARTER_PORT"} < FOR_US


# the start


@contextmanager
def started(directory: Path, app: str) -> Iterator[tuple[int, socket.socket]]:
    """A zygote that was told its settings: its pid, and our end of its channel."""
    above, below = open_pair()
    above.setblocking(True)
    gifts = {int(place): below.fileno() for place in channel.Place if place <= channel.Place.ERROR_LOG}
    launch = replace(launch_of(app=app, env={"PYTHONPATH": ""}), directory=str(directory))
    with above:
        with below:
            pid = launch.start(gifts)
        channel.send(above, Kind.SETTINGS, launch.settings(generation=1, slots=64, load=True))
        yield pid, above


def test_a_named_application_gets_a_fresh_interpreter(tmp_path: Path) -> None:
    """It finds the application in its directory, holds what it was given and nothing else, and leaves when told."""
    (tmp_path / "fresh.py").write_text("def app(environ, start_response): return []")
    with started(tmp_path, "fresh:app") as (pid, above):
        message = channel.receive_report(above)
        assert message is not None
        assert (message.kind, message.pid, message.body) == (Kind.READY, pid, {"loaded": True, "unfit": []})
        *held, log = sorted(int(entry) for entry in os.listdir(f"/proc/{pid}/fd"))
        assert held == [0, 1, 2, *range(channel.Place.CHANNEL, channel.Place.ERROR_LOG)]
        assert log > 100  # out of the way
        channel.send(above, Kind.LEAVE)
        assert os.waitpid(pid, 0) == (pid, 0)


def test_a_name_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    """On the channel, and by the exit status."""
    with started(tmp_path, "nosuch:app") as (pid, above):
        message = channel.receive_report(above)
        assert message is not None
        assert message.kind is Kind.FAILED
        assert message.body["message"].startswith(f"nosuch:app: there is no module 'nosuch' in {tmp_path}")
        assert os.waitpid(pid, 0) == (pid, 78 << 8)


def test_an_interpreter_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade has removed it: the start fails, and says which."""
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(PreforkError, match="cannot start /no/python: No such file or directory"):
        launch_of().start({})


FORKED = """
import json, os, resource, sys
from prefork.config.model import Config, PoolConfig
from prefork.master.launch import Launch

def application(environ, start_response):
    return []

def become(gifts, app):
    umask = os.umask(0)
    print(json.dumps([dict(gifts), app is application, umask, resource.getrlimit(resource.RLIMIT_NOFILE),
                      os.environ.get("MINE"), os.getpid() != parent]), flush=True)
    os._exit(3)

parent = os.getpid()
pool = PoolConfig(app=application, socket="@x", umask=0o027, env={"MINE": "yes"})
launch = Launch(Config(pools=(pool,)), pool, None, "/", "/", (64, 128), become)
pid = launch.start({3: 7})
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
assert os.environ.get("MINE") is None
"""


def test_a_callable_is_forked_as_it_stands() -> None:
    """With the umask, the limits and the environment that were asked for, in the child alone."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env=environment({}), stdout=subprocess.PIPE, check=True, text=True
    )
    assert json.loads(done.stdout) == [{"3": 7}, True, 0o027, [64, 128], "yes", True]

"""A start on trial, for ``--check``: the places of files are looked at, and the application is imported.

The import is that of a zygote as a start would make it, which is heard once and sent home: the same interpreter, user,
environment, limits and directory as in earnest, so that what it finds is what a start would find. Nothing is requested
from the application, nothing is forked from it, and no byte code is written.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from prefork.config.model import Config
from prefork.errors import AddressInUse, ApplicationError, PreforkError
from prefork.master.deaths import unexplained
from prefork.master.holdings import Holdings
from prefork.master.launch import Launch
from prefork.system import channel as wire
from prefork.system import logplaces as logs
from prefork.system import probe
from prefork.system.channel import ENDED, Kind, Message
from prefork.system.paths import absolute
from prefork.system.pidfile import PidFile
from prefork.system.place import check_place
from prefork.system.processes import describe_status

__all__ = ["check_places", "try_import"]

_FAREWELL: Final = 2.0
"""Seconds an application may take to end once it is imported: its threads, its exit handlers."""

_QUIETLY: Final[dict[str, Any]] = {
    "load": True,
    "fork_anyway": True,
    "warmup": [],
    "log_level": "error",
    "access_log": None,
    "catch_output": False,
}
"""What is different from a start."""


def check_places(config: Config) -> None:
    """See that the server's own files can be made: logs, pid file, control socket. Makes none of them.

    A server that runs and has them is no obstacle. Raises `ConfigurationError` or `PermissionProblem`.
    """
    logs.look_at(config.error_log, "error_log")
    for pool in config.pools:
        for option, place in (("access_log", pool.access_log), ("slowlog", pool.slowlog)):
            if place is not None:
                logs.look_at(place, f"{option} of pool {pool.name}:")
    if config.pid_file is not None:
        with suppress(AddressInUse):
            PidFile(config.pid_file).check()
    if config.control_socket not in (None, "off"):
        path = absolute(str(config.control_socket))
        check_place(path, "control socket")
        probe.look_at(path)


def try_import(launch: Launch, holdings: Holdings) -> None:
    """Import a pool's application in a process of its own. Raises what kept it from being imported."""
    pool = launch.pool
    trial = replace(launch, pool=replace(pool, env={**pool.env, "PYTHONDONTWRITEBYTECODE": "1"}))
    above, below = wire.open_pair()
    with above:
        with below:
            pid = _start(trial, holdings.gifts(below.fileno()))
        try:
            settings = {**trial.settings(generation=1, slots=1, load=True), **_QUIETLY}
            with suppress(OSError):  # it has ended already, which is heard next
                wire.send(above, Kind.SETTINGS, settings)
            verdict = _hear(above, pid, time.monotonic() + pool.boot_timeout)
            if verdict is not None:
                _send_home(above, pid)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
    if verdict is None:
        raise unexplained(pool.app_name, "", f"boot_timeout ({pool.boot_timeout:g} s)", holdings.stacks)
    if verdict.kind is Kind.FAILED:
        raise ApplicationError(str(verdict.body.get("message")), str(verdict.body.get("traceback")))
    if verdict.kind is not Kind.READY:
        raise unexplained(pool.app_name, describe_status(status), None, holdings.stacks)


def _start(launch: Launch, gifts: dict[int, int]) -> int:
    try:
        return launch.start(gifts)
    except OSError as problem:
        raise PreforkError(f"cannot fork: {problem.strerror}") from problem


def _hear(channel: socket.socket, pid: int, end: float) -> Message | None:
    """The first word of the process itself, or the end of it; None if neither came in time."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        if not waiting.poll(left * 1000):
            continue
        message = wire.receive_report(channel)
        if message is not None and (message is ENDED or message.pid == pid):
            return message
    return None


def _send_home(channel: socket.socket, pid: int) -> None:
    """Let it end in order, as far as it wants to."""
    with suppress(OSError):
        wire.send(channel, Kind.LEAVE)
    descriptor = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.poll(_FAREWELL * 1000)
    finally:
        os.close(descriptor)

"""What a server has besides its pools: pid file, control socket, launcher, banner, manager. Made before, gone after.

In the order of a start: everything is looked at before any process is started; when every pool serves, first the pid
file is written, then it is said, then the launcher may go. At the end: the pid file, the socket, and whoever waited
for the end is told last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prefork.config.model import Config
from prefork.errors import PreforkError
from prefork.log import Logger
from prefork.master.background import Background
from prefork.master.banner import announce, banner
from prefork.master.control import Door
from prefork.master.loop import Master
from prefork.master.notices import Notices
from prefork.master.reload import Reloads
from prefork.master.scaling import Scaling
from prefork.system.control import open_door
from prefork.system.daemon import Link
from prefork.system.handover import left_over
from prefork.system.notify import Notifier
from prefork.system.paths import absolute
from prefork.system.pidfile import PidFile
from prefork.system.runtime import choose_path, sweep

__all__ = ["surrounded"]

_OFF: Final = "off"
_CHATTY: Final = ("debug", "info")


@contextmanager
def surrounded(
    master: Master,
    config: Config,
    logger: Logger,
    link: Link | None,
    reloads: Reloads | None = None,
    scaling: Scaling | None = None,
) -> Iterator[None]:
    """Give a master its surroundings for as long as the block lasts. ``link`` leads to the launcher, if there is one.

    ``reloads`` and ``scaling`` are what orders of these kinds go to. Raises PreforkError where one that was asked for
    cannot be had.
    """
    pid_file = None if config.pid_file is None else PidFile(config.pid_file)
    if pid_file is not None:
        pid_file.check()
        master.at_serving(pid_file.write)
    door, path = _open_door(master, config, logger)
    for hands in master.pools:
        hands.holdings.listener.note_control(path)
    if reloads is not None:
        reloads.control = path
    if door is not None:
        door.offer(reloads, scaling)
    console = _is_console(config)
    master.at_serving(lambda: _say(master, console))
    _warn_of_unused(master, logger)
    notifier = Notifier.of(os.environ, os.getpid())
    if notifier:
        notices = Notices(master, notifier, logger)
        if reloads is not None:
            reloads.notice = notices.reload
    if link is not None:
        Background(master, link, logger)
        master.at_serving(lambda: link.serving(*_lines(master)))
    try:
        yield
    finally:
        notifier.close()
        if pid_file is not None:
            pid_file.remove()
        if door is not None:
            door.close()


def _open_door(master: Master, config: Config, logger: Logger) -> tuple[Door | None, str]:
    """The control socket, and its path; "off" where there is none."""
    if config.control_socket == _OFF:
        return None, _OFF
    if config.control_socket is not None:
        path = absolute(config.control_socket)
        return Door(master, *open_door(path), logger), path
    chosen = choose_path(os.environ)
    if chosen is None:
        problem = "neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR names a directory that is ours to write to"
    else:
        sweep(Path(chosen).parent)
        try:
            return Door(master, *open_door(chosen), logger), chosen
        except PreforkError as error:
            problem = str(error)
    message = f"{problem}: there is no control socket, and of preforkctl only get and wait work; name one"
    logger.warning("no_control_socket", message=f"{message} with --control-socket, or say off")
    return None, _OFF


def _warn_of_unused(master: Master, logger: Logger) -> None:
    """Who connects to a listener that was passed and that no pool has waits for ever."""
    listeners = [hands.holdings.listener for hands in master.pools]
    used = [listener.fileno() for listener in listeners if listener.inherited]
    for giver, passed in left_over(os.environ, os.getpid(), used):
        logger.warning(
            "listener_unused",
            descriptor=passed.descriptor,
            name=passed.name,
            message=f"{passed} was passed and no pool listens there, so whoever connects waits; a pool with the socket "
            f"{giver}:{passed.name} would",
        )


def _say(master: Master, console: bool) -> None:
    if not console:
        for hands in master.pools:
            announce(hands)
        return
    master.say("".join(f"{line}\n" for line in _lines(master)))


def _lines(master: Master) -> list[str]:
    return [line for hands in master.pools for line in banner(hands)]


def _is_console(config: Config) -> bool:
    """Whether the log is read by a person as it comes, and wants to hear of a start."""
    if config.log_level not in _CHATTY or config.error_log != "stderr":
        return False
    return config.log_format == "console" or (config.log_format == "auto" and os.isatty(2))

"""The composition root: the only file that knows every part, and puts them together.

`run` takes a configuration to a served socket and back; `serve` is the same from Python, with keywords. What can be
found wrong before the first process is started is found here.
"""

from __future__ import annotations

import os
import resource
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

import prefork
from prefork.config.load import from_keywords, keywords_again
from prefork.config.model import Config, PoolConfig
from prefork.errors import AddressInUse, ConfigurationError, PreforkError
from prefork.log import Logger, make_logger
from prefork.master.assembly import Assembly, address_of, claim, logical_directory, look_over, naming
from prefork.master.healing import Healer
from prefork.master.holdings import Holdings
from prefork.master.logs import Logs
from prefork.master.loop import Master
from prefork.master.publish import Publisher
from prefork.master.reload import Reloads
from prefork.master.scaling import Scaling
from prefork.master.stops import Stops
from prefork.master.surroundings import surrounded
from prefork.master.trial import check_places, try_import
from prefork.master.weighing import Weighing
from prefork.system import handover
from prefork.system.address import AddressKind
from prefork.system.bulletin import Bulletin
from prefork.system.daemon import Link, fill_standard_streams, launch, redirect_output
from prefork.system.identity import Identity, root_warning, set_title
from prefork.system.listener import Listener
from prefork.system.logplaces import STANDARD, SYSLOG
from prefork.system.processes import leave_process
from prefork.system.scoreboard import slots_for
from prefork.zygote import Zygote

__all__ = ["Verdict", "check", "run", "serve"]

_Again = Callable[[], Config] | None


def serve(app: str | Callable[..., Any] | None = None, **options: Any) -> int:
    """Serve an application until the process is told to stop; returns the exit status.

    ``app`` is "module:callable" as on the command line, or a callable. A name is imported in a process of its own,
    fresh from the disk; a callable is forked as it stands, with all that this process has loaded.
    ``options`` have the names and meanings of the command line: ``serve("mysite.wsgi", socket="/run/mysite/app.sock",
    max_children=8)``. The environment is read as there. ``config="prefork.toml"`` names a configuration file, which may
    name the application.

    To be called in the main thread (signals arrive nowhere else). Raises PreforkError, whose ``exit_status`` says what
    a command should end with.
    """
    again = keywords_again(app, options, os.environ, logical_directory())
    return run(from_keywords(app, options, os.environ), again)


def run(config: Config, again: Callable[[], Config] | None = None) -> int:
    """Serve what ``config`` asks for until told to stop; returns the exit status.

    ``again`` is asked for the configuration at every reload, and raises PreforkError for one that cannot be; without
    it a reload serves new code by the same configuration. In the background (``daemonize``) this process is the
    launcher: it waits, and returns 0 when every pool serves. Raises PreforkError when serving cannot begin.
    """
    if threading.current_thread() is not threading.main_thread():
        raise PreforkError("prefork must run in the main thread: signals arrive nowhere else")
    fill_standard_streams()
    if not config.daemonize:
        return _run(config, None, again)
    if config.error_log in STANDARD:
        raise ConfigurationError(
            "a server in the background has no terminal to write to: expected error_log to be a path or syslog, "
            f"found {config.error_log}"
        )
    launcher = os.getpid()
    link = launch(_kept(config))
    return 0 if link is None else _run_in_background(config, link, launcher, again)


def _kept(config: Config) -> list[int] | None:
    """What stays open in the background: inherited listeners; everything, where a program brought its application."""
    if not all(isinstance(pool.app, str) for pool in config.pools):
        return None
    kept = []
    for pool in config.pools:
        with naming(pool, config):
            kept.append(address_of(pool))
    return [address.descriptor for address in kept if address.kind is AddressKind.INHERITED]


def _run_in_background(config: Config, link: Link, launcher: int, again: _Again) -> NoReturn:
    """The daemon's whole life: whatever called `run` goes on in the launcher alone."""
    handover.follow(os.environ, launcher)
    status = PreforkError.exit_status
    try:
        status = _run(config, link, again)
        link.failed(PreforkError("the server was stopped before it served"))  # after it has, nobody listens any more
    except PreforkError as error:
        link.failed(error)
        status = error.exit_status
    except BaseException as error:  # noqa: BLE001 - whatever it is, the launcher has to learn of it
        link.failed(error, traceback.format_exc())
    leave_process(status)


def _run(config: Config, link: Link | None, again: _Again) -> int:
    before = _open_descriptors() - {-1 if link is None else link.fileno()}
    logs = Logs(config)
    try:
        if link is not None and config.error_log != SYSLOG:
            redirect_output(logs.error.fileno())
        logger = make_logger(logs.error, level=config.log_level, format=config.log_format)
        try:
            return _supervise(_Start(config, again, logs, logger, link, before))
        except PreforkError as error:
            # Whoever has the address may be the server that writes to this log; the launcher says it.
            if link is not None and not isinstance(error, AddressInUse):
                logger.error("not_started", error=str(error), traceback=getattr(error, "traceback", ""))
            raise
    finally:
        logs.close()


@dataclass(frozen=True, slots=True)
class _Start:
    """What a server starts with."""

    config: Config
    again: _Again
    logs: Logs
    logger: Logger
    link: Link | None
    before: frozenset[int]  # what was open before it


def _supervise(start: _Start) -> int:
    config, logger = start.config, start.logger
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    bulletin = Bulletin()
    assembly = Assembly(logical_directory(), files, _become_zygote(start.before), bulletin)
    identities, launches = [], []
    for pool in config.pools:
        with naming(pool, config):
            identities.append(assembly.identity(pool))
            launches.append(assembly.launch(config, pool, identities[-1]))
    listeners = _claim_all(config)
    stack = ExitStack()
    try:
        # Nothing is said before the sockets are ours: the log may be that of the server that has them.
        _warn(config, identities, logger)
        # Two descriptors a worker live in the master; the workers get the limit that we found.
        resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
        stack.callback(_lower_file_limit, files[0])
        start.logs.begin(config.pools, logger)
        master = Master(logger, start.logs)
        for how, listener in zip(launches, listeners, strict=True):
            hands = assembly.performer(master, how, listener, start.logs.of(how.pool.name), logger)
            hands.overtime.report_to(start.logs.slowlog(how.pool.name))
            master.add(hands)
        stack.callback(Healer(master).close)
        master.at_beat(Stops(master).beat)
        master.at_beat(Weighing(master).beat)
        Publisher(master, bulletin, logger)
        stack.callback(bulletin.close)
        reloads = Reloads(master, assembly, config, start.again, start.logs, logger)
        stack.enter_context(surrounded(master, config, logger, start.link, reloads, Scaling(master, logger)))
    except BaseException:
        stack.close()
        for listener in listeners:
            listener.close()
        raise
    set_title("prefork: master " + " ".join(str(listener) for listener in listeners))
    logger.info("starting", version=prefork.__version__, pid=os.getpid(), pools=[pool.name for pool in config.pools])
    with stack:
        return master.run()


def _lower_file_limit(soft: int) -> None:
    """As it was found; the hard limit stays as it is, which somebody may have lowered meanwhile (prlimit)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def _claim_all(config: Config) -> list[Listener]:
    """Every pool's listener, or none of them."""
    listeners: list[Listener] = []
    try:
        for pool in config.pools:
            with naming(pool, config):
                listeners.append(claim(pool, listeners))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _warn(config: Config, identities: list[Identity | None], logger: Logger) -> None:
    for sentence in config.warnings:
        logger.warning("configuration_warning", message=sentence)
    for pool, identity in zip(config.pools, identities, strict=True):
        for warning in _root_warnings(pool, identity):
            logger.warning("running_as_root", pool=pool.name, message=warning)


def _root_warnings(pool: PoolConfig, identity: Identity | None) -> list[str]:
    """The pool of the status pages runs as the first one does, of which it is said."""
    warning = None if pool.internal else root_warning(identity)
    return [] if warning is None else [warning]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `check` found out: about whom ("pool www"), why it would not serve (None: it would), and what is odd."""

    subject: str
    problem: PreforkError | None
    warnings: tuple[str, ...] = ()


def check(config: Config) -> Iterator[Verdict]:
    """See whether `run` would serve: users, paths, the sockets' places, the applications' import, pool by pool.

    An application is imported as the user it would run as, in a process of its own, and then left alone. A server that
    serves this very configuration is not disturbed, and is no obstacle. Nothing stays behind. Of the server itself
    something is said only if there is something to say.
    """
    try:
        check_places(config)
    except PreforkError as problem:
        yield Verdict("server", problem)
    for pool in config.pools:
        warnings: list[str] = []
        try:
            _check_pool(config, pool, warnings)
        except PreforkError as problem:
            yield Verdict(f"pool {pool.name}", problem, tuple(warnings))
        else:
            yield Verdict(f"pool {pool.name}", None, tuple(warnings))


def _check_pool(config: Config, pool: PoolConfig, warnings: list[str]) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    assembly = Assembly(logical_directory(), files, _become_zygote(frozenset()))
    identity = assembly.identity(pool)
    warnings += _root_warnings(pool, identity)
    listener = look_over(pool)
    warnings += listener.warnings
    if not isinstance(pool.app, str):
        return  # it is imported already
    holdings = Holdings(listener, slots_for(pool.max_children))
    try:
        try_import(assembly.launch(config, pool, identity), holdings)
    finally:
        holdings.close()


def _open_descriptors() -> frozenset[int]:
    return frozenset(int(entry) for entry in os.listdir("/proc/self/fd"))


def _become_zygote(before: frozenset[int]) -> Callable[[Mapping[int, int], Any], None]:
    """How the fork of a callable's zygote goes on: with what was open before the server was, and what it is given."""

    def become_zygote(gifts: Mapping[int, int], app: Any) -> None:
        for number in (1, 2):
            if number in gifts:
                os.dup2(gifts[number], number)
        kept = {descriptor for place, descriptor in gifts.items() if place > 2}
        for descriptor in _open_descriptors() - before - kept:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the one that listed them
        Zygote(gifts).live(app)

    return become_zygote

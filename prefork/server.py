"""The composition root: the only file that knows every part, and puts them together.

`run` takes a configuration to a served socket and back; `serve` is the same from Python, with keywords. What can be
found wrong before the first process is started is found here.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import prefork
from prefork.config.load import from_keywords
from prefork.config.model import Config, PoolConfig
from prefork.errors import AddressInUse, ConfigurationError, PreforkError
from prefork.log import Logger, make_logger
from prefork.master.holdings import Holdings
from prefork.master.launch import Launch
from prefork.master.logs import Logs
from prefork.master.loop import Master
from prefork.master.output import Outputs
from prefork.master.perform import Performer
from prefork.master.pool import Pool
from prefork.master.surroundings import surrounded
from prefork.master.trial import check_places, try_import
from prefork.system.address import AddressKind
from prefork.system.daemon import Link, fill_standard_streams, launch, redirect_output
from prefork.system.identity import Identity, check_readable, resolve, root_warning, set_title
from prefork.system.limits import ResourceLimits
from prefork.system.listener import Listener, parse_address
from prefork.system.logplaces import STANDARD, SYSLOG
from prefork.system.paths import absolute
from prefork.system.processes import leave_process
from prefork.system.scoreboard import slots_for
from prefork.zygote import Zygote

__all__ = ["Verdict", "check", "run", "serve"]


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
    return run(from_keywords(app, options, os.environ))


def run(config: Config) -> int:
    """Serve what ``config`` asks for until told to stop; returns the exit status.

    In the background (``daemonize``) this process is the launcher: it waits, and returns 0 when every pool serves.
    Raises PreforkError when serving cannot begin.
    """
    if threading.current_thread() is not threading.main_thread():
        raise PreforkError("prefork must run in the main thread: signals arrive nowhere else")
    fill_standard_streams()
    if not config.daemonize:
        return _run(config, None)
    if config.error_log in STANDARD:
        raise ConfigurationError(
            "a server in the background has no terminal to write to: expected error_log to be a path or syslog, "
            f"found {config.error_log}"
        )
    link = launch(_kept(config))
    return 0 if link is None else _run_in_background(config, link)


def _kept(config: Config) -> list[int] | None:
    """What stays open in the background: inherited listeners; everything, where a program brought its application."""
    if not all(isinstance(pool.app, str) for pool in config.pools):
        return None
    addresses = [parse_address(pool.socket) for pool in config.pools]
    return [address.descriptor for address in addresses if address.kind is AddressKind.INHERITED]


def _run_in_background(config: Config, link: Link) -> NoReturn:
    """The daemon's whole life: whatever called `run` goes on in the launcher alone."""
    status = PreforkError.exit_status
    try:
        status = _run(config, link)
        link.failed(PreforkError("the server was stopped before it served"))  # after it has, nobody listens any more
    except PreforkError as error:
        link.failed(error)
        status = error.exit_status
    except BaseException as error:  # noqa: BLE001 - whatever it is, the launcher has to learn of it
        link.failed(error, traceback.format_exc())
    leave_process(status)


def _run(config: Config, link: Link | None) -> int:
    before = _open_descriptors() - {-1 if link is None else link.fileno()}
    logs = Logs(config)
    try:
        if link is not None and config.error_log != SYSLOG:
            redirect_output(logs.error.fileno())
        logger = make_logger(logs.error, level=config.log_level, format=config.log_format)
        try:
            return _supervise(config, link, logs, logger, before)
        except PreforkError as error:
            if link is not None:
                logger.error("not_started", error=str(error), traceback=getattr(error, "traceback", ""))
            raise
    finally:
        logs.close()


def _supervise(config: Config, link: Link | None, logs: Logs, logger: Logger, before: frozenset[int]) -> int:
    identities = []
    for pool in config.pools:
        with _naming(pool, config):
            identities.append(_identity(pool))
    listeners = _claim_all(config)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    stack = ExitStack()
    try:
        # Nothing is said before the sockets are ours: the log may be that of the server that has them.
        _warn(config, identities, logger)
        # Two descriptors a worker live in the master; the workers get the limit that we found.
        resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
        logs.begin(config.pools, logger)
        master = Master(logger, logs)
        for pool, identity, listener in zip(config.pools, identities, listeners, strict=True):
            how = Launch(config, pool, identity, _directory(pool), files, _become_zygote(before))
            holdings = Holdings(listener, slots_for(pool.max_children), logs.of(pool.name))
            master.add(_performer(pool, holdings, how, logger.bind(pool=pool.name), master))
        stack.enter_context(surrounded(master, config, logger, link))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    set_title("prefork: master " + " ".join(str(listener) for listener in listeners))
    logger.info("starting", version=prefork.__version__, pid=os.getpid(), pools=[pool.name for pool in config.pools])
    try:
        with stack:
            return master.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


def _claim_all(config: Config) -> list[Listener]:
    """Every pool's listener, or none of them."""
    listeners: list[Listener] = []
    try:
        for pool in config.pools:
            with _naming(pool, config):
                listeners.append(_claim(pool))
        _check_inherited(listeners)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _warn(config: Config, identities: list[Identity | None], logger: Logger) -> None:
    for sentence in config.warnings:
        logger.warning("configuration_warning", message=sentence)
    for pool, identity in zip(config.pools, identities, strict=True):
        warning = root_warning(identity)
        if warning is not None:
            logger.warning("running_as_root", pool=pool.name, message=warning)


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
    identity = _identity(pool)
    warnings += [warning for warning in (root_warning(identity),) if warning]
    listener = _look_over(pool)
    warnings += listener.warnings
    if not isinstance(pool.app, str):
        return  # it is imported already
    holdings = Holdings(listener, slots_for(pool.max_children))
    try:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        try_import(Launch(config, pool, identity, _directory(pool), files, _become_zygote(frozenset())), holdings)
    finally:
        holdings.close()


def _identity(pool: PoolConfig) -> Identity | None:
    """Who the application runs as; raises where that user could not even load it."""
    identity = resolve(pool.user, pool.group)
    ResourceLimits(pool.rlimit_files, pool.rlimit_core, pool.no_new_privs).check()
    check_readable(identity, sys.executable, "the interpreter")
    check_readable(identity, str(Path(prefork.__file__).parent), "the package prefork")
    check_readable(identity, _directory(pool), "the application's directory")
    return identity


@contextmanager
def _naming(pool: PoolConfig, config: Config) -> Iterator[None]:
    """What goes wrong with one of several pools is told with its name."""
    try:
        yield
    except PreforkError as problem:
        if len(config.pools) > 1:
            problem.args = (f"pool {pool.name}: {problem}",)
        raise


def _claim(pool: PoolConfig) -> Listener:
    listener = Listener.claim(parse_address(pool.socket), **_access(pool))
    try:
        _check_exposure(pool, listener)
    except BaseException:
        listener.close()
        raise
    return listener


def _look_over(pool: PoolConfig) -> Listener:
    """What `_claim` would find, without a trace: a port is bound and let go, and one that is in use may be by us."""
    address = parse_address(pool.socket)
    if address.kind is AddressKind.TCP:
        with suppress(AddressInUse), closing(_claim(pool)) as listener:
            return listener
    return Listener.prepare(address, **_access(pool))


def _check_exposure(pool: PoolConfig, listener: Listener) -> None:
    """Whoever can send CGI parameters can be anybody: not for strangers."""
    if pool.protocol == "fastcgi" and listener.is_public and not pool.allowed_addresses:
        raise ConfigurationError(
            f'socket {listener}: with protocol = "fastcgi" whoever can connect can claim to be any user; expected '
            "allowed_addresses (the proxy's address), a loopback address, or a Unix socket"
        )
    if pool.allowed_addresses and not listener.is_tcp:
        raise ConfigurationError(
            f"socket {listener}: allowed_addresses are for TCP; a Unix socket has socket_mode and socket_group"
        )


def _access(pool: PoolConfig) -> dict[str, Any]:
    return {
        "mode": pool.socket_mode,
        "owner": pool.socket_owner,
        "group": pool.socket_group,
        "backlog": pool.backlog,
    }


def _check_inherited(listeners: list[Listener]) -> None:
    """Two pools may not share a socket; paths and names are told apart by their claims, descriptors only here."""
    inodes: dict[int, Listener] = {}
    for listener in listeners:
        if listener.inherited:
            other = inodes.setdefault(listener.inode, listener)
            if other is not listener:
                raise ConfigurationError(
                    f"{other} and {listener} are the same socket: each pool needs a listener of its own"
                )


def _performer(pool: PoolConfig, holdings: Holdings, launch: Launch, logger: Logger, master: Master) -> Performer:
    book = Pool(
        pool.name,
        pool.app_name,
        max_children=pool.max_children,
        slots=holdings.scoreboard.slots,
        boot_timeout=pool.boot_timeout,
        graceful_timeout=pool.graceful_timeout,
        inherited=holdings.listener.inherited,
        silent=holdings.listener.is_tcp,
    )
    if pool.catch_output:
        holdings.outputs = Outputs(logger, master.attend, master.dismiss, book.pid_in)
    for warning in holdings.listener.warnings:
        logger.warning("socket_warning", socket=str(holdings.listener), message=warning)
    return Performer(book, holdings, launch, logger, master.watch, master.unwatch)


def _directory(pool: PoolConfig) -> str:
    """The application's directory as text: a symlink on the way is followed by each zygote, not here."""
    # Not normalised: ".." after a symlink means the parent of its target.
    return _logical_directory() if pool.chdir == os.curdir else absolute(pool.chdir, _logical_directory())


def _logical_directory() -> str:
    """The current directory by the name the shell knows it under, symlinks and all (pwd -L)."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, os.curdir):
            return named
    except OSError:
        pass
    return os.getcwd()


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

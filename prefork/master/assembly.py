"""How the parts of a pool are found and put together: at a start, for a check, and at a reload alike.

What can be found wrong before a process is started is found here, in the order in which it is asked for: who the
application runs as, where it lies, where clients connect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefork
from prefork.config.model import Config, PoolConfig
from prefork.errors import AddressInUse, ConfigurationError, PreforkError
from prefork.log import Logger
from prefork.master.holdings import Holdings
from prefork.master.launch import Launch
from prefork.master.loop import Master
from prefork.master.output import Outputs
from prefork.master.perform import Performer
from prefork.master.places import pythonpath_of
from prefork.master.pool import Pool
from prefork.master.rules import rules_of
from prefork.system import handover
from prefork.system.address import Address, AddressKind, parse_address
from prefork.system.bulletin import Bulletin
from prefork.system.channel import Place
from prefork.system.identity import Identity, check_readable, resolve
from prefork.system.limits import ResourceLimits
from prefork.system.listener import Listener
from prefork.system.logfile import LogFile
from prefork.system.paths import absolute
from prefork.system.scoreboard import slots_for

__all__ = ["Assembly", "access_of", "address_of", "check_exposure", "claim", "logical_directory", "look_over", "naming"]


@dataclass(frozen=True, slots=True)
class Assembly:
    """What all pools of a server have in common, for as long as it lives."""

    base: str  # the directory it was started in, by its text
    files: tuple[int, int]  # RLIMIT_NOFILE as the master found it
    become_zygote: Callable[[Mapping[int, int], Any], None]  # for an application that was given as a callable
    bulletin: Bulletin | None = None  # what pools that show the status are given

    def directory(self, pool: PoolConfig) -> str:
        """The application's directory as text: a symlink on the way is followed by each zygote, not here."""
        # Not normalised: ".." after a symlink means the parent of its target.
        return self.base if pool.chdir == os.curdir else absolute(pool.chdir, self.base)

    def identity(self, pool: PoolConfig) -> Identity | None:
        """Who the application runs as; raises where that user could not even load it."""
        identity = resolve(pool.user, pool.group)
        ResourceLimits(pool.rlimit_files, pool.rlimit_core, pool.no_new_privs).check()
        check_readable(identity, sys.executable, "the interpreter")
        check_readable(identity, str(Path(prefork.__file__).parent), "the package prefork")
        check_readable(identity, self.directory(pool), "the application's directory")
        for file in self._beginning(pool):
            check_readable(identity, file, "the application's file", read_only=True)
        return identity

    def _beginning(self, pool: PoolConfig) -> list[str]:
        """What the import of an application begins with: its packages and its module, where they are first found."""
        if not isinstance(pool.app, str):
            return []
        parts = pool.app.partition(":")[0].split(".")
        for root in (*pythonpath_of(pool, self.base), self.directory(pool)):
            places = [os.path.join(root, *parts[:depth]) for depth in range(1, len(parts) + 1)]
            packages = [os.path.join(place, "__init__.py") for place in places]
            # A package goes before a module of the same name beside it.
            files = packages if os.path.exists(packages[-1]) else [*packages, f"{places[-1]}.py"]
            if found := [file for file in files if os.path.exists(file)]:
                return found
        return []

    def launch(self, config: Config, pool: PoolConfig, identity: Identity | None) -> Launch:
        """How the zygotes of a pool are started."""
        return Launch(config, pool, identity, self.base, self.directory(pool), self.files, self.become_zygote)

    def bulletin_for(self, pool: PoolConfig) -> Bulletin | None:
        """What a pool that shows the status is given; None for others."""
        return self.bulletin if pool.internal or pool.status_path is not None else None

    def performer(
        self, master: Master, launch: Launch, listener: Listener, logs: Mapping[Place, LogFile], logger: Logger
    ) -> Performer:
        """The hands of a pool. They hold the listener from now on."""
        config = launch.pool
        holdings = Holdings(listener, slots_for(config.max_children), logs)
        pool = Pool(
            config.name,
            config.app_name,
            rules=rules_of(config),
            slots=holdings.scoreboard.slots,
            inherited=listener.inherited,
            silent=listener.is_tcp,
        )
        logger = logger.bind(pool=pool.name)
        holdings.bulletin = self.bulletin_for(config)
        holdings.outputs = Outputs(logger, master.attend, master.dismiss, pool.pid_in)
        for warning in listener.warnings:
            logger.warning("socket_warning", socket=str(listener), message=warning)
        return Performer(pool, holdings, launch, logger, master.watch, master.unwatch)


def logical_directory() -> str:
    """The current directory by the name the shell knows it under, symlinks and all (pwd -L)."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, os.curdir):
            return named
    except OSError:
        pass
    return os.getcwd()


@contextmanager
def naming(pool: PoolConfig, config: Config) -> Iterator[None]:
    """What goes wrong with one of several pools is told with its name."""
    try:
        yield
    except PreforkError as problem:
        if len(config.pools) > 1:
            problem.args = (f"pool {pool.name}: {problem}",)
        raise


def address_of(pool: PoolConfig) -> Address:
    """Where a pool listens, with the number of the descriptor where the environment knows it."""
    return handover.find(parse_address(pool.socket), pool.name, os.environ, os.getpid())


def access_of(pool: PoolConfig) -> dict[str, Any]:
    """What a pool asks of its listener: the keywords of `Listener.claim`."""
    return {
        "mode": pool.socket_mode,
        "owner": pool.socket_owner,
        "group": pool.socket_group,
        "backlog": pool.backlog,
    }


def claim(pool: PoolConfig, others: Iterable[Listener] = (), *, patient: bool = True) -> Listener:
    """The listener of a pool, which is none of the others; ``patient``: a server that has been killed is waited for."""
    address = address_of(pool)
    if address.kind is AddressKind.INHERITED:
        _check_unshared(address, others)
    listener = Listener.claim(address, **access_of(pool), patient=patient)
    try:
        if pool.internal:
            listener.await_words()  # two workers show the pages, and browsers connect in advance
        check_exposure(pool, listener)
    except BaseException:
        listener.close()
        raise
    return listener


def look_over(pool: PoolConfig) -> Listener:
    """What `claim` would find, without a trace: a port is bound and let go, and one that is in use may be by us."""
    address = parse_address(pool.socket)
    if address.kind is AddressKind.TCP:
        with suppress(AddressInUse), closing(claim(pool)) as listener:
            return listener
    return Listener.prepare(address, **access_of(pool))


def check_exposure(pool: PoolConfig, listener: Listener) -> None:
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


def _check_unshared(address: Address, others: Iterable[Listener]) -> None:
    """Two pools may not share a socket; paths and names are told apart by their claims, descriptors only here."""
    for other in others:
        if other.inherited and handover.same_socket(address.descriptor, other.fileno()):
            raise ConfigurationError(
                f"{other} and {address} are the same socket: each pool needs a listener of its own, by a number or a "
                "name of its own (fd://N, systemd:NAME, starter:ADDRESS)"
            )

"""Before a reload begins: everything that can be refused is looked at, and what every pool is brought is made.

No process is started here and nothing that serves is changed. What fails, leaves nothing behind.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError, PreforkError
from prefork.log import Logger
from prefork.master.assembly import Assembly, access_of, address_of, check_exposure, claim, naming
from prefork.master.launch import Launch
from prefork.master.logs import Logs
from prefork.master.loop import Master
from prefork.master.perform import Coming, Performer
from prefork.master.rules import check_room, rules_of
from prefork.system.listener import Change, Listener

__all__ = ["Prepared", "Preparation"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One pool of the configuration to come, and what it is brought."""

    hands: Performer
    coming: Coming
    is_new: bool  # the master does not know it yet; its hands hold its listener, which is not open


@dataclass(frozen=True, slots=True)
class Preparation:
    """Who prepares the reloads of a master."""

    master: Master
    assembly: Assembly
    logs: Logs
    logger: Logger

    def prepare(self, config: Config) -> list[Prepared]:
        """What the pools of a configuration are brought; the logs are prepared as well. Raises PreforkError."""
        known = {hands.pool.name: hands for hands in self.master.pools}
        try:
            launches = self._launches(config, known)
            with ExitStack() as undo:
                self.logs.prepare(config.pools)
                undo.callback(self.logs.abandon)
                prepared: list[Prepared] = []
                for pool, launch in zip(config.pools, launches, strict=True):
                    with naming(pool, config):
                        prepared.append(self._pool(launch, known.get(pool.name), prepared, undo))
                undo.pop_all()
        except OSError as problem:  # descriptors, memory: nothing that was asked for is wrong
            raise PreforkError(f"a reload cannot begin now: {problem.strerror}") from problem
        return prepared

    def _launches(self, config: Config, known: dict[str, Performer]) -> list[Launch]:
        """Users, directories and numbers."""
        launches = []
        for pool in config.pools:
            with naming(pool, config):
                if pool.name in known:
                    check_room(pool, known[pool.name].pool.slots)
                launches.append(self.assembly.launch(config, pool, self.assembly.identity(pool)))
        return launches

    def _pool(self, launch: Launch, hands: Performer | None, others: list[Prepared], undo: ExitStack) -> Prepared:
        pool, logs = launch.pool, self.logs.of(launch.pool.name, coming=True)
        if hands is None:
            listener = self._claim(pool, others, undo)
            hands = self.assembly.performer(self.master, launch, listener, logs, self.logger)
            undo.callback(hands.holdings.close)
            return Prepared(hands, Coming(launch, rules_of(pool), logs), is_new=True)
        change: Change | None = None
        other: Listener | None = None
        if hands.holdings.listener.is_at(address_of(pool)):
            check_exposure(pool, hands.holdings.listener)
            change = hands.holdings.listener.check_change(**access_of(pool))
        else:
            other = self._claim(pool, others, undo)
        return Prepared(hands, Coming(launch, rules_of(pool), logs, change, other), is_new=False)

    def _claim(self, pool: PoolConfig, others: list[Prepared], undo: ExitStack) -> Listener:
        """Another listener than those there are, given back if the reload does not begin."""
        address = address_of(pool)
        for hands in self.master.pools:
            if hands.pool.name != pool.name and hands.holdings.listener.is_at(address):
                # Whoever waits there is still to be answered by the pool that has it.
                raise ConfigurationError(
                    f"socket {pool.socket} is that of the pool {hands.pool.name}; expected another one, or two "
                    "reloads: one that takes it from that pool, and one that gives it to this"
                )
            if hands.holdings.listener.overlaps(address):
                raise ConfigurationError(
                    f"socket {pool.socket} cannot be had beside {hands.holdings.listener}, where the pool "
                    f"{hands.pool.name} listens: expected a restart, another port, or two reloads, the first of which "
                    "gives that up"
                )
        taken = [hands.holdings.listener for hands in self.master.pools]
        taken += [other.coming.listener or other.hands.holdings.listener for other in others]
        listener = claim(pool, taken, patient=False)
        undo.callback(listener.close)
        return listener

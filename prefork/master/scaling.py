"""Other numbers for pools that serve: by order (``preforkctl scale``), and one worker more or less by signal.

They hold until the next reload, which goes back to the configuration. Pools of our own stay as they are.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from prefork.config.model import PoolConfig
from prefork.config.scaling import SCALABLE, scaled
from prefork.errors import ConfigurationError, PreforkError
from prefork.log import Logger
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.master.rules import check_room, rules_of
from prefork.policy.model import Phase
from prefork.system.control import Scale

__all__ = ["Scaling"]

_LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at whether an order is done."""

_ENDING: Final = "the server is being stopped"


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """An order whose numbers hold, and whose workers are not there yet; ``then`` hears of the end of it."""

    numbers: Mapping[str, Mapping[str, Any]]  # by pool: what it ordered
    failures: Mapping[str, PreforkError | None]  # by pool: the start that had failed last before
    until: float
    then: Callable[[str], None]


class Scaling:
    """Changes the numbers of a master's pools. Made before it runs."""

    def __init__(self, master: Master, logger: Logger) -> None:
        self._master = master
        self._logger = logger
        self._unsettled: list[_Unsettled] = []
        master.at_beat(self._beat)
        master.at_signal(signal.SIGTTIN, lambda _now: self._step(+1, "SIGTTIN"))
        master.at_signal(signal.SIGTTOU, lambda _now: self._step(-1, "SIGTTOU"))

    def order(self, scales: Iterable[Scale], **source: Any) -> dict[str, dict[str, Any]]:
        """Change what is named, all of it or nothing; returns the numbers that hold now, by pool.

        Raises ConfigurationError.
        """
        wanted: dict[str, dict[str, str]] = {}
        pools = {hands.pool.name: hands for hands in self._pools()}
        for scale in scales:
            wanted.setdefault(self._name(scale.pool, pools), {})[scale.name] = scale.value
        changed = {}
        for name, said in wanted.items():
            changed[name] = scaled(pools[name].launch.pool, said)
            check_room(changed[name], pools[name].pool.slots)
        for name, pool in changed.items():
            self._change(pools[name], pool, cause="scale", **source)
        return {name: _numbers(pool) for name, pool in changed.items()}

    def settle(self, names: Iterable[str], then: Callable[[str], None], now: float) -> None:
        """Call ``then`` once these pools have the workers that their numbers ask for: with "", or with why not.

        Whoever is busy may be one too many still: he has been asked to leave, and takes no further connection.
        """
        pools = {hands.pool.name: hands for hands in self._master.pools if hands.pool.name in names}
        until = now + max((hands.pool.rules.boot_timeout for hands in pools.values()), default=0.0)
        numbers = {name: _numbers(hands.launch.pool) for name, hands in pools.items()}
        failures = {name: hands.pool.last_failure for name, hands in pools.items()}
        self._unsettled.append(_Unsettled(numbers, failures, until, then))

    def _beat(self, now: float) -> float | None:
        for order in list(self._unsettled):
            pools = {hands.pool.name: hands for hands in self._master.pools if hands.pool.phase is None}
            verdicts = {self._verdict(name, pools.get(name), order, late=now >= order.until) for name in order.numbers}
            if None not in verdicts:
                self._unsettled.remove(order)
                order.then("; ".join(sorted(filter(None, verdicts))))
        return now + _LOOK_AGAIN if self._unsettled else None

    def _verdict(self, name: str, hands: Performer | None, order: _Unsettled, *, late: bool) -> str | None:
        """Why a pool will not have its workers; "" if it has them, None if it is to be looked at again."""
        is_ending = self._master.phase in (Phase.DRAINING, Phase.KILLING, Phase.ENDED)
        if hands is None:
            return _ENDING if is_ending else f"pool {name}: a reload has removed it"
        pool, rules = hands.pool, hands.pool.rules
        if _numbers(hands.launch.pool) != order.numbers[name]:
            return f"pool {name}: other numbers hold by now, by a reload or another order"
        serving = [worker for worker in pool.workers.values() if worker.ready is not None and worker.listening]
        taking = sum(worker.retired is None and worker.stopped is None for worker in serving)
        least = {"static": rules.max_children, "dynamic": min(rules.min_spare, rules.max_children)}.get(rules.pm, 0)
        if least <= taking <= rules.max_children:
            return ""
        if is_ending:
            return _ENDING
        if pool.last_failure is not None and pool.last_failure is not order.failures[name]:
            return f"pool {name}: the numbers hold, and a new worker cannot start: {pool.last_failure}"
        bound = f"at least {least}" if taking < least else f"at most {rules.max_children}"
        return f"pool {name}: the numbers hold, and {taking} workers take connections, not {bound}" if late else None

    def _pools(self) -> list[Performer]:
        if self._master.phase in (Phase.DRAINING, Phase.KILLING, Phase.ENDED):
            raise ConfigurationError(_ENDING)
        if self._master.phase is Phase.RELOADING:
            raise ConfigurationError("a reload is under way, which goes back to the configuration: scale after it")
        return [hands for hands in self._master.pools if hands.pool.phase is None and not hands.launch.pool.internal]

    @staticmethod
    def _name(said: str | None, pools: dict[str, Performer]) -> str:
        if said is None and len(pools) == 1:
            return next(iter(pools))
        if said is None:
            raise ConfigurationError(f"several pools serve; expected POOL:NAME=VALUE with one of {', '.join(pools)}")
        if said not in pools:
            raise ConfigurationError(f"no pool {said} serves; expected one of {', '.join(pools)}")
        return said

    def _step(self, by: int, cause: str) -> None:
        """One worker more or less for every pool that can have it; refused where none can."""
        changed: list[tuple[Performer, PoolConfig]] = []
        refusals: list[ConfigurationError] = []
        try:
            pools = self._pools()
        except ConfigurationError as error:
            pools, refusals = [], [error]
        for hands in pools:
            try:
                changed.append((hands, self._resized(hands, by)))
            except ConfigurationError as error:
                refusals.append(error)
        for hands, pool in changed:
            self._change(hands, pool, cause=cause)
        if refusals and not changed:
            self._logger.warning("scale_refused", cause=cause, error=str(refusals[0]))

    @staticmethod
    def _resized(hands: Performer, by: int) -> PoolConfig:
        pool = replace(hands.launch.pool, max_children=hands.launch.pool.max_children + by)
        if pool.max_children < 1:
            raise ConfigurationError("max_children 0: expected at least one worker; SIGTERM stops the server")
        check_room(pool, hands.pool.slots)
        return pool

    @staticmethod
    def _change(hands: Performer, pool: PoolConfig, *, cause: str, **source: Any) -> None:
        before = hands.launch.pool
        hands.launch = replace(hands.launch, pool=pool)
        hands.pool.rules = rules_of(pool)
        changes = {key: getattr(pool, key) for key in SCALABLE if getattr(pool, key) != getattr(before, key)}
        hands.logger.info("scaled", cause=cause, **source, changed=changes)


def _numbers(pool: PoolConfig) -> dict[str, Any]:
    return {key: getattr(pool, key) for key in SCALABLE}

"""The log files of a server: opened before anything else, renewed on demand, their losses reported."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError, PreforkError
from prefork.log import Logger, make_logger, report_losses, watch_losses
from prefork.policy.access_format import parse
from prefork.system.channel import Place
from prefork.system.logfile import LogFile
from prefork.system.logplaces import is_at, open_anew, open_log

__all__ = ["Logs"]

_Name = tuple[str, str]  # pool, option

_LAST_WAIT: Final = 1_000  # milliseconds, at the very end, for a reader that is behind


class Logs:
    """The error log of a server, and the access logs and slowlogs of its pools."""

    def __init__(self, config: Config) -> None:
        """Open the error log. Raises `ConfigurationError` or `PermissionProblem`."""
        self.error = open_log(config.error_log, "error_log")
        # In the background, standard output and error are this file too.
        self.error.followers = (1, 2)
        self._opened: dict[_Name, LogFile] = {}
        self._coming: dict[_Name, LogFile] = {}  # what a reload brings; those that stay are in both
        self._logger: Logger | None = None
        self._format = config.log_format

    def begin(self, pools: Iterable[PoolConfig], logger: Logger) -> None:
        """Open the pools' logs; from now on losses are reported to ``logger``. Raises as the construction does."""
        self._logger = logger
        watch_losses(self.error, logger, own=True)
        self._opened = self._open(pools)

    def prepare(self, pools: Iterable[PoolConfig]) -> None:
        """Open what a reload will write to, beside what is written to now. Raises as the construction does."""
        self._coming = self._open(pools)

    def commit(self) -> None:
        """What was prepared is what is written to; who still writes to another file does so to its own descriptor."""
        before, self._opened, self._coming = self._opened, self._coming, {}
        _close(before, self._opened)

    def abandon(self) -> None:
        """What was prepared is not needed."""
        coming, self._coming = self._coming, {}
        _close(coming, self._opened)

    def _open(self, pools: Iterable[PoolConfig]) -> dict[_Name, LogFile]:
        """The logs of these pools, those that are open already as they are."""
        opened: dict[_Name, LogFile] = {}
        try:
            for pool in pools:
                if pool.access_log is not None:
                    _check_format(pool.access_log_format)
                for option, place in (("access_log", pool.access_log), ("slowlog", pool.slowlog)):
                    if place is None:
                        continue
                    log = self._opened.get((pool.name, option))
                    if log is None or not is_at(log, place):
                        log = open_log(place, option)
                    opened[pool.name, option] = log
        except BaseException:
            _close(opened, self._opened)
            raise
        return opened

    def of(self, pool: str, *, coming: bool = False) -> Mapping[Place, LogFile]:
        """What the processes of a pool are given; with ``coming`` those of the generation that a reload brings."""
        logs = {Place.ERROR_LOG: self.error}
        access = (self._coming if coming else self._opened).get((pool, "access_log"))
        if access is not None:
            logs[Place.ACCESS_LOG] = access
        return logs

    def slowlog(self, pool: str) -> Logger | None:
        """What writes to a pool's slowlog; None where it has none."""
        log = self._opened.get((pool, "slowlog"))
        if log is None:
            return None
        if self._logger is not None:
            watch_losses(log, self._logger.bind(pool=pool), own=False)
        return make_logger(log, format=self._format, pool=pool)

    def reopen(self, logger: Logger, hand_out: Callable[[], None]) -> list[str]:
        """Open every log that has a path anew and hand them out; returns what could not be opened.

        Such a one goes on in its old file. What is logged about it is logged when everybody has the new ones.
        """
        problems = []
        renewed = []
        for log, option in self._all().items():
            if not log.path:
                continue
            try:
                log.replace(open_anew(log.path, option))
                renewed.append(log.name)
            except (PreforkError, OSError) as error:  # nothing about a log is worth the server's end
                problems.append(str(error))
        hand_out()
        for problem in problems:
            logger.error("log_not_reopened", error=problem)
        logger.info("logs_reopened", logs=renewed)
        return problems

    def tend(self, logger: Logger) -> None:
        """Say what was lost, if that can be said again: once a round of the master's loop."""
        if self.error.lost:
            report_losses(self.error, logger)

    def close(self) -> None:
        """Let go of them; what the last events lost is said, if the log takes it within a second."""
        if self.error.lost and self._logger is not None:
            waiting = select.poll()
            waiting.register(self.error.fileno(), select.POLLOUT)
            waiting.poll(_LAST_WAIT)
            report_losses(self.error, self._logger)
        for log in self._all():
            log.close()

    def _all(self) -> dict[LogFile, str]:
        """Every log, and the option that names it."""
        named = (*self._opened.items(), *self._coming.items())
        return {self.error: "error_log", **{log: option for (_, option), log in named}}


def _check_format(text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise ConfigurationError(f"access_log_format: expected {error}; found {text!r}") from None


def _close(logs: Mapping[_Name, LogFile], kept: Mapping[_Name, LogFile]) -> None:
    for log in logs.values():
        if log not in kept.values():
            log.close()

"""The log files of a server: opened before anything else, renewed on demand, their losses reported."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError, PreforkError
from prefork.log import Logger, report_losses, watch_losses
from prefork.policy.access_format import parse
from prefork.system.channel import Place
from prefork.system.logfile import LogFile
from prefork.system.logplaces import open_anew, open_log

__all__ = ["Logs"]

_LAST_WAIT: Final = 1_000  # milliseconds, at the very end, for a reader that is behind


class Logs:
    """The error log of a server and the access logs of its pools."""

    def __init__(self, config: Config) -> None:
        """Open the error log. Raises `ConfigurationError` or `PermissionProblem`."""
        self.error = open_log(config.error_log, "error_log")
        # In the background, standard output and error are this file too.
        self.error.followers = (1, 2)
        self._access: dict[str, LogFile] = {}
        self._logger: Logger | None = None

    def begin(self, pools: Iterable[PoolConfig], logger: Logger) -> None:
        """Open the access logs; from now on losses are reported to ``logger``. Raises as the construction does."""
        self._logger = logger
        watch_losses(self.error, logger, own=True)
        for pool in pools:
            if pool.access_log is not None:
                try:
                    parse(pool.access_log_format)
                except ValueError as error:
                    raise ConfigurationError(
                        f"access_log_format: expected {error}; found {pool.access_log_format!r}"
                    ) from None
                self._access[pool.name] = open_log(pool.access_log, "access_log")

    def of(self, pool: str) -> Mapping[Place, LogFile]:
        """What the processes of a pool are given."""
        logs = {Place.ERROR_LOG: self.error}
        if pool in self._access:
            logs[Place.ACCESS_LOG] = self._access[pool]
        return logs

    def reopen(self, logger: Logger, hand_out: Callable[[], None]) -> list[str]:
        """Open every log that has a path anew and hand them out; returns what could not be opened.

        Such a one goes on in its old file. What is logged about it is logged when everybody has the new ones.
        """
        problems = []
        renewed = []
        for log in (self.error, *self._access.values()):
            if not log.path:
                continue
            try:
                log.replace(open_anew(log.path, "error_log" if log is self.error else "access_log"))
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
        for log in (self.error, *self._access.values()):
            log.close()

"""What the service manager (systemd) is told of a server: its phases and reloads, a line of status, that it is alive.

Phases and reloads are told as they change; a reload is over when whoever asked for it is told so. Everything else goes
out with the beat of the master's loop, so that a master that hangs falls silent, which is what a watchdog is for.
"""

from __future__ import annotations

from typing import Final

from prefork.log import Logger
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.master.reload import Asker, Outcome
from prefork.master.report import shown
from prefork.policy.model import IDLE, Phase
from prefork.system.notify import Notifier

__all__ = ["Notices"]

_STATUS_PAUSE: Final = 3.0
"""Seconds between two lines of status in the same phase."""

_GLANCE: Final = 1.0
"""Seconds between two looks, where there was nothing new: under load the loop turns far more often."""

_PATIENCE: Final = 30.0
"""Seconds that the manager is asked for while the server starts or stops, which has limits of its own."""

_ASK_AGAIN: Final = 10.0


class Notices:
    """Ties a notifier to a master's life, from its start on."""

    def __init__(self, master: Master, notifier: Notifier, logger: Logger) -> None:
        self._master = master
        self._notifier = notifier
        self._logger = logger
        self._told = ""
        self._status_at = 0.0
        self._alive_at = 0.0
        self._ask_at = 0.0
        self._failing = False
        self._served = False
        self._reloads = 0  # under way, or waiting
        self._reload_error = ""  # of the last one
        master.at_phase(self._enter)
        master.at_beat(self._beat)

    def _enter(self, phase: Phase) -> None:
        match phase:
            case Phase.SERVING if not self._served:
                self._served = True
                self._notifier.ready()
                if self._reloads:  # ordered before there was anything to reload
                    self._notifier.reloading()
            case Phase.DRAINING | Phase.KILLING:
                self._notifier.stopping()
            case Phase.ENDED:
                self._notifier.status("stopped")
        self._status_at = self._ask_at = 0.0

    def reload(self, asker: Asker) -> Asker:
        """A reload was asked for: tell so, and when ``asker`` is told what became of it, tell that as well."""
        self._reloads += 1
        self._notifier.reloading()

        def answer(outcome: Outcome) -> None:
            asker(outcome)
            self._reloads -= 1
            self._reload_error = outcome.error
            if not self._reloads and self._master.phase in (Phase.SERVING, Phase.RELOADING):
                self._notifier.ready()

        return answer

    def _beat(self, now: float) -> float | None:
        """Say what is due; returns when the manager has to hear from us at the latest."""
        notifier = self._notifier
        notifier.settle()
        if now >= self._status_at:
            text, self._status_at = self._status(), now + _GLANCE
            if text != self._told:
                self._told = text if notifier.status(text) else ""
                self._status_at = now + _STATUS_PAUSE
        if self._master.phase in (Phase.BOOTING, Phase.DRAINING) and now >= self._ask_at:
            notifier.extend(_PATIENCE)
            self._ask_at = now + _ASK_AGAIN
        self._complain()
        if notifier.watched is None:
            return None
        if now >= self._alive_at:
            notifier.watchdog()
            self._alive_at = now + notifier.watched / 2
        return self._alive_at

    def _status(self) -> str:
        pools = shown(self._master)
        match self._master.phase:
            case Phase.BOOTING:
                return f"loading {', '.join(hands.pool.app_name for hands in pools)}"
            case Phase.SERVING | Phase.RELOADING:
                before = "reloading; " if self._reloads else ""
                after = f"; the last reload failed: {self._reload_error}" if self._reload_error else ""
                return f"{before}{_work(pools)}{after}"
            case _:
                return f"stopping; {_workers(sum(len(hands.pool.workers) for hands in self._master.pools))} left"

    def _complain(self) -> None:
        """Tell the log, once, of a manager that does not listen."""
        failing = bool(self._notifier.problem)
        if failing and not self._failing:
            self._logger.warning(
                "manager_not_told",
                error=self._notifier.problem,
                message="NOTIFY_SOCKET leads to nobody who listens: the service manager does not know our state",
            )
        self._failing = failing


def _work(pools: list[Performer]) -> str:
    """What the workers do, and how many connections wait for them."""
    if len(pools) != 1:
        return "; ".join(f"{hands.pool.name}: {_work([hands])}" for hands in pools)
    (hands,) = pools
    states = hands.holdings.scoreboard.states()
    workers = list(hands.pool.workers.values())
    idle = sum(states[worker.slot] == IDLE for worker in workers)
    waiting = f", {hands.pool.waiting} waiting" if hands.pool.waiting is not None else ""
    return f"{_workers(len(workers))}: {len(workers) - idle} busy, {idle} idle{waiting}"


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"

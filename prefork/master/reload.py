"""Reloads: the configuration read anew, and the code of every pool replaced, all of it or nothing.

What can be refused is refused before a process is started: the configuration, users, paths, logs, new listeners. Then
the policy brings a coming generation beside the serving one (`prefork.policy.reload`), and says when all of it has
proved itself, or that some of it has not. At the commit the listeners are opened or changed, which is the last that
can fail; everything after it is bookkeeping. From then on the old workers are replaced, and whoever asked is answered
when none of them can begin another request; or when it is plain that the new code's further workers do not start, so
that their mend, another reload, does not wait for them.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from prefork.config.changes import Changes, compare
from prefork.config.internal import keep_names
from prefork.config.model import Config
from prefork.errors import ApplicationError, PreforkError
from prefork.log import Logger
from prefork.master.assembly import Assembly
from prefork.master.logs import Logs
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.master.preparation import Preparation
from prefork.policy.lifecycle import Command
from prefork.policy.model import Phase
from prefork.policy.reload import is_outdated, silent_at
from prefork.system.channel import Place
from prefork.system.identity import set_title
from prefork.system.listener import Change

__all__ = ["Asker", "Outcome", "Reloads"]

_LOOK_AGAIN: Final = 0.02
_MOST_CODES: Final = 2
"""Codes that may drain at once: a reload waits until the older of two is gone."""

_FAILED_STARTS: Final = 3
"""Starts of the new code, after the commit, that come to nothing before the reload is called stalled."""

_A_MOMENT: Final = 0.001
"""Seconds after the last worker was asked to leave before the states are believed."""

_CALLABLE: Final = (
    "the application was given as a callable, which is forked as it stands: there is nothing to import anew; serve it "
    "by its name (module:callable) to reload it, or restart the program"
)
_ENDING: Final = "the server is being stopped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a reload, for whoever asked for it."""

    error: str = ""  # why it changed nothing; empty: it is done
    traceback: str = ""  # of the application
    seconds: float = 0.0
    generations: dict[str, int] = field(default_factory=dict)  # by pool


Asker = Callable[[Outcome], None]


@dataclass(slots=True)
class _Reload:
    """One reload under way."""

    askers: list[Asker]
    began: float
    changes: Changes
    kept: list[Performer]
    added: list[Performer]
    committed: bool = False
    asked_since: float | None = None  # since when every outdated worker has been asked to leave
    unasked: int = 0  # workers that were still to be asked, at the last look
    moved: float = 0.0  # when that changed


class Reloads:
    """Carries out the reloads of a master, one at a time. Made before it runs."""

    def __init__(
        self,
        master: Master,
        assembly: Assembly,
        config: Config,
        again: Callable[[], Config] | None,
        logs: Logs,
        logger: Logger,
    ) -> None:
        self.config = config  # what holds now, but for orders that change a number or two
        self.control = "off"  # where orders are taken, to be noted beside every socket
        self.notice: Callable[[Asker], Asker] = lambda asker: asker  # who is to know of every order and its outcome
        self._master = master
        self._assembly = assembly
        self._again = again
        self._logs = logs
        self._logger = logger
        self._preparation = Preparation(master, assembly, logs, logger)
        self._waiting: list[Asker] = []  # for the next one
        self._reload: _Reload | None = None
        master.entrust(self)
        master.at_beat(self._beat)
        master.at_phase(self._enter)
        master.at_signal(signal.SIGHUP, lambda _now: self.order(lambda _outcome: None, cause="SIGHUP"))

    def order(self, asker: Asker, *, cause: str, **source: Any) -> None:
        """Reload as soon as that can be; ``asker`` is called with what became of it. Who waits together, shares one."""
        asker = self.notice(asker)
        refusal = ""
        if self._master.phase in (Phase.DRAINING, Phase.KILLING, Phase.ENDED):
            refusal = _ENDING
        elif not all(isinstance(pool.app, str) for pool in self.config.pools):
            refusal = _CALLABLE
        if refusal:
            self._logger.warning("reload_refused", cause=cause, **source, error=refusal)
            asker(Outcome(refusal))
            return
        self._logger.info("reload_ordered", cause=cause, **source)
        self._waiting.append(asker)

    # what the loop calls

    def _beat(self, now: float) -> float | None:
        """Once a round: begin what waits, and see whether what was committed is done."""
        if self._reload is not None and self._reload.committed:
            again = self._settle(self._reload, now)
            if again is not None:
                return again
        if self._waiting and self._may_begin():
            self._begin(now)
            return now
        return None

    def _enter(self, phase: Phase) -> None:
        """A stop goes before a reload."""
        if phase not in (Phase.DRAINING, Phase.KILLING, Phase.ENDED):
            return
        reload, now = self._reload, time.monotonic()
        if reload is not None and reload.committed:
            self._reload = None
            _answer(reload.askers, Outcome(_ENDING))
        elif reload is not None:
            self._give_up(reload, PreforkError(_ENDING), now)
        waiting, self._waiting = self._waiting, []
        _answer(waiting, Outcome(_ENDING))

    def commit(self, now: float) -> None:
        """Every pool's next generation has proved itself: it serves."""
        reload = self._reload
        assert reload is not None
        try:
            self._change_listeners(reload)
        except PreforkError as error:
            self._give_up(reload, error, now)
            return
        except OSError as error:
            self._give_up(reload, PreforkError(f"the listeners cannot be changed: {error.strerror}"), now)
            return
        for hands in (*reload.kept, *reload.added):
            coming = hands.coming
            hands.commit(now)
            warnings: tuple[str, ...] = ()
            if coming is not None and coming.listener is not None:
                hands.replace_listener(coming.listener)
                warnings = coming.listener.warnings
            elif coming is not None and coming.change is not None:
                warnings = coming.change.warnings
            hands.holdings.listener.note_control(self.control)
            for warning in warnings:
                hands.logger.warning("socket_warning", socket=str(hands.holdings.listener), message=warning)
        for hands in reload.added:
            hands.pool.open = True
            listener = str(hands.holdings.listener)
            hands.logger.info("pool_added", socket=listener, app=hands.pool.app_name)
        for hands in self._master.pools:
            if hands.pool.name in reload.changes.removed:
                # Its log is let go of; its workers have their own descriptors.
                hands.holdings.logs = {Place.ERROR_LOG: self._logs.error}
                hands.pool.enters(Phase.DRAINING, now)
        self._logs.commit()
        for hands in self._master.pools:
            hands.overtime.report_to(self._logs.slowlog(hands.pool.name))
        self.config = reload.changes.config
        reload.committed = True
        self._master.order(Command.COMMITTED)
        set_title("prefork: master " + " ".join(str(hands.holdings.listener) for hands in self._serving()))

    def abandon(self, where: str, now: float) -> None:
        """The next generation of a pool has failed: nothing has changed."""
        reload = self._reload
        assert reload is not None
        for hands in (*reload.kept, *reload.added):
            if hands.pool.rejection is not None:
                self._give_up(reload, hands.pool.rejection, now, hands.pool.name)
                return
        self._give_up(reload, PreforkError(f"the new generation failed in {where}"), now)

    # beginning

    def _may_begin(self) -> bool:
        pools = [hands.pool for hands in self._master.pools]
        return (
            self._master.phase is Phase.SERVING
            and self._reload is None
            and all(pool.phase is None and pool.codes_draining < _MOST_CODES for pool in pools)
        )

    def _begin(self, now: float) -> None:
        askers, self._waiting = self._waiting, []
        try:
            again = self.config if self._again is None else self._again()
            changes = compare(self.config, keep_names(again, self.config))
            prepared = self._preparation.prepare(changes.config)
        except PreforkError as error:
            self._refuse(askers, error)
            return
        except Exception as error:  # noqa: BLE001 - a mistake of ours in here must not end a server that serves
            self._refuse(askers, ApplicationError(f"{type(error).__name__}: {error}", traceback.format_exc()))
            return
        reload = self._reload = _Reload(askers, now, changes, [], [])
        for pool in prepared:
            if pool.is_new:
                pool.hands.pool.enters(Phase.BOOTING, now)
                self._master.add(pool.hands)
                reload.added.append(pool.hands)
            else:
                # At once: its next zygote is given it.
                bulletin = self._assembly.bulletin_for(pool.coming.launch.pool)
                pool.hands.holdings.bulletin = bulletin or pool.hands.holdings.bulletin
                reload.kept.append(pool.hands)
            pool.hands.take(pool.coming)
        self._tell(changes)
        self._master.order(Command.RELOAD)

    def _refuse(self, askers: list[Asker], error: PreforkError) -> None:
        """It cannot begin: no pool has been given anything that it would have to give up."""
        for hands in self._master.pools:
            hands.ledger.failed_reloads += 1
        self._fail(askers, error)

    def _tell(self, changes: Changes) -> None:
        for sentence in changes.config.warnings:
            if sentence not in self.config.warnings:
                self._logger.warning("configuration_warning", message=sentence)
        if changes.restart:
            options = list(changes.restart)
            message = "these are the server's as a whole: a reload leaves them as they are, a restart changes them"
            self._logger.warning("restart_needed", options=options, message=message)
        facts = {
            "changed": list(changes.options),
            "added": [pool.name for pool in changes.added],
            "removed": list(changes.removed),
        }
        self._logger.info("reloading", **{name: names for name, names in facts.items() if names})

    # deciding

    def _change_listeners(self, reload: _Reload) -> None:
        """Open the new listeners and change those that stay; all of it, or it raises PreforkError and nothing is."""
        undo: list[Callable[[], None]] = []
        try:
            for hands in (*reload.kept, *reload.added):
                if hands in reload.added:
                    hands.holdings.listener.open()
                    undo.append(hands.holdings.listener.shut)
                elif hands.coming is not None and hands.coming.listener is not None:
                    hands.coming.listener.open()
                    undo.append(hands.coming.listener.shut)
            for hands in reload.kept:
                if hands.coming is not None and hands.coming.change is not None:
                    listener = hands.holdings.listener
                    before = Change(listener.access, listener.backlog)
                    undo.append(lambda listener=listener, before=before: listener.apply(before))  # type: ignore[misc]
                    listener.apply(hands.coming.change)
        except (PreforkError, OSError):
            for step in reversed(undo):
                try:
                    step()
                except (PreforkError, OSError) as problem:
                    self._logger.error("listener_not_restored", error=str(problem))
            raise

    def _give_up(self, reload: _Reload, error: PreforkError, now: float, pool: str = "") -> None:
        for hands in (*reload.kept, *reload.added):
            coming = hands.coming
            hands.give_up(now)
            if coming is not None and coming.listener is not None:
                coming.listener.close()
        for hands in reload.added:
            hands.pool.enters(Phase.KILLING, now)
        self._logs.abandon()
        self._reload = None
        self._master.order(Command.GIVEN_UP)
        self._fail(reload.askers, error, pool if len(reload.changes.config.pools) > 1 else "")

    def _fail(self, askers: list[Asker], error: PreforkError, pool: str = "") -> None:
        text = f"pool {pool}: {error}" if pool else str(error)
        trace = error.traceback if isinstance(error, ApplicationError) else ""
        self._logger.error("reload_failed", error=text, traceback=trace, message="what served before serves on")
        _answer(askers, Outcome(text, trace))

    # being done

    def _settle(self, reload: _Reload, now: float) -> float | None:
        """See whether any worker with old code can begin another request; None: the reload is done, or over."""
        if self._is_stalled(reload, now):
            self._stall(reload)
            return None
        silent = now
        for hands in reload.kept:
            pool, states = hands.pool, hands.holdings.scoreboard.states()
            at = silent_at(pool.workers.values(), states, pool.cutoff, pool.listener, now)
            if at is None:
                reload.asked_since = None
                return now + _LOOK_AGAIN
            silent = max(silent, at)
        if reload.asked_since is None:
            reload.asked_since = now
        silent = max(silent, reload.asked_since + _A_MOMENT)
        if now < silent:
            return silent
        self._reload = None
        seconds = round(now - reload.began, 3)
        generations = {hands.pool.name: hands.pool.current for hands in self._serving()}
        self._logger.info("reloaded", generations=generations, seconds=seconds)
        _answer(reload.askers, Outcome(seconds=seconds, generations=generations))
        return None

    def _is_stalled(self, reload: _Reload, now: float) -> bool:
        """Whether those that still have to be asked to leave have no successors, for whatever reason."""
        pools = [hands.pool for hands in reload.kept]
        unasked = sum(
            worker.retired is None and is_outdated(worker, pool.cutoff, pool.listener)
            for pool in pools
            for worker in pool.workers.values()
        )
        if unasked != reload.unasked:
            reload.unasked, reload.moved = unasked, now
        if not unasked:
            return False
        failures = max(pool.failed_starts for pool in pools)
        # One may take so long to come, where the room for it is held by another that has to leave first.
        patience = max(pool.rules.boot_timeout + pool.rules.graceful_timeout for pool in pools)
        return failures >= (1 if self._waiting else _FAILED_STARTS) or now >= reload.moved + patience

    def _stall(self, reload: _Reload) -> None:
        self._reload = None
        failure = next((hands.pool.last_failure for hands in reload.kept if hands.pool.last_failure is not None), None)
        why = "its workers do not start" if failure is None else str(failure)
        left = (
            "1 worker of the code before serves"
            if reload.unasked == 1
            else (f"{reload.unasked} workers of the code before serve")
        )
        text = f"the new code serves, and does not get any further: {why}; {left} on beside it: mend it, and reload"
        trace = failure.traceback if isinstance(failure, ApplicationError) else ""
        self._logger.error("reload_stalled", error=text, traceback=trace, workers=reload.unasked)
        _answer(reload.askers, Outcome(text, trace))

    def _serving(self) -> list[Performer]:
        return [hands for hands in self._master.pools if hands.pool.phase is None]


def _answer(askers: list[Asker], outcome: Outcome) -> None:
    for asker in askers:
        asker(outcome)

"""The master's loop: wait, collect facts, plan, perform. Its only place to block is `select`.
The master never imports the application, never trusts what processes below tell it, and forks only inside
`Performer`. Whatever it does not hear of (a lost hint, a missed signal) it sees at the next heartbeat.
"""

from __future__ import annotations

import selectors
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from prefork.errors import PreforkError
from prefork.log import Logger
from prefork.master.deaths import bury
from prefork.master.faults import Faults
from prefork.master.hear import hear, hear_last_words
from prefork.master.holdings import Channel
from prefork.master.logs import Logs
from prefork.master.perform import Performer
from prefork.master.queues import Queues
from prefork.policy import deadlines, lifecycle, saturation
from prefork.policy.lifecycle import Command
from prefork.policy.model import (
    IDLE,
    Abandon,
    Action,
    Commit,
    End,
    Memory,
    OpenListener,
    Phase,
    ShutListener,
    Snapshot,
    StartZygote,
)
from prefork.policy.plan import plan
from prefork.system import processes
from prefork.system.listener import Listener
from prefork.system.oom import OomWatch
from prefork.system.wakeup import Wakeup

__all__ = ["Master", "Transaction"]

_COMMANDS: Final = {
    signal.SIGTERM: Command.TERM,
    signal.SIGQUIT: Command.QUIT,
    signal.SIGINT: Command.INT,
}
# Signals whose meaning others bring (`Master.at_signal`); one without must not end the server by its default action.
_OPEN: Final = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2)
_NO_MEANING: Final = "to reload: SIGHUP or preforkctl reload; a new version of prefork wants a restart"

# A signal that comes just before accept(2) does nothing, so it is repeated, once a round.
_WAKES: Final = 5

_T = TypeVar("_T")

_CHANGES_THE_PICTURE: Final = (OpenListener, ShutListener, StartZygote, Commit, Abandon)
"""Actions after which the next plan may have more to do at once."""


class Transaction(Protocol):
    """What becomes of a reload when it is decided."""

    def commit(self, now: float) -> None:
        """Every pool's next generation has proved itself."""

    def abandon(self, where: str, now: float) -> None:
        """One has failed."""


class Master:
    """Supervises pools until they are told to stop."""

    def __init__(self, logger: Logger, logs: Logs | None = None) -> None:
        self.started = time.time()
        self._pools: list[Performer] = []
        self._at_serving: list[Callable[[], None]] = []
        self._at_beat: list[Callable[[float], float | None]] = []
        self._at_phase: list[Callable[[Phase], None]] = []
        self._at_signal: dict[signal.Signals, Callable[[float], None]] = {}
        self._transaction: Transaction | None = None
        self._logger = logger
        self._logs = logs
        self._watched: dict[Listener, Performer] = {}  # listeners that wake the master
        self._wakes = 0  # rounds of the loop in which idle workers are still woken to take renewed logs
        self._selector = selectors.DefaultSelector()
        self._queues = Queues()
        self._oom = OomWatch.of_this_process()
        self._phase = Phase.BOOTING
        self._phase_since = time.monotonic()
        self._memory = Memory()
        self._failure: PreforkError | None = None
        self._faults = Faults(logger)

    def add(self, hands: Performer) -> None:
        """One more pool to supervise."""
        self._pools.append(hands)
        self.attend(hands.holdings.doorbell, partial(self._rung, hands))

    def at_serving(self, call: Callable[[], None]) -> None:
        """Call this, in turn, once every pool serves; before `run`. A PreforkError it raises makes the start fail."""
        self._at_serving.append(call)

    def at_beat(self, call: Callable[[float], float | None]) -> None:
        """Call this with the time once a round of the loop, hence at least once a second; before `run`.

        It may return a time before which it has to be called again.
        """
        self._at_beat.append(call)

    def at_phase(self, call: Callable[[Phase], None]) -> None:
        """Call this with each phase that the server enters; before `run`."""
        self._at_phase.append(call)

    def at_signal(self, number: signal.Signals, call: Callable[[float], None]) -> None:
        """Call this with the time when one of SIGHUP, SIGTTIN, SIGTTOU, SIGUSR2 comes; before `run`."""
        self._at_signal[number] = call

    def entrust(self, transaction: Transaction) -> None:
        """Let this one carry out what is decided about reloads; before `run`."""
        self._transaction = transaction

    @property
    def pools(self) -> Iterable[Performer]:
        """Those that are supervised."""
        return tuple(self._pools)

    @property
    def phase(self) -> Phase:
        """Where the server is in its life."""
        return self._phase

    def order(self, command: Command, **source: Any) -> None:
        """Obey a command that did not come as a signal; ``source`` goes into the log."""
        self._step(command, time.monotonic(), **source)

    def reopen_logs(self) -> list[str]:
        """Open all log files anew, in every process and without restarting one; returns what could not be opened.

        A log that cannot be opened goes on in its old file. When this returns, no worker begins another line in a
        file that was replaced.
        """
        return [] if self._logs is None else self._logs.reopen(self._logger, self._hand_out_logs)

    def _hand_out_logs(self) -> None:
        for hands in self._pools:
            hands.renew_logs()
        self._wakes = _WAKES

    def _tend_logs(self) -> None:
        if self._logs is not None:
            self._logs.tend(self._logger)
        for hands in self._pools:
            if hands.settle_logs():
                self._wakes = _WAKES
        if self._wakes:
            self._wakes -= 1
            for hands in self._pools:
                hands.wake_idle()

    def say(self, text: str) -> None:
        """Write lines for a person into the error log, as they are; like events, they wait for no terminal."""
        if self._logs is not None:
            self._logs.error.write(text.encode("utf-8", "backslashreplace"))

    def attend(self, source: Any, call: Callable[[float], None], events: int = selectors.EVENT_READ) -> None:
        """Call this with the time whenever a descriptor is ready. Once more for the same one: instead of before."""
        try:
            self._selector.modify(source, events, call)
        except KeyError:
            self._selector.register(source, events, call)

    def dismiss(self, source: Any) -> None:
        """The end of `attend`, before the descriptor is closed."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):  # never attended; and closed already
            pass

    def watch(self, hands: Performer, channel: Channel) -> None:
        """Listen to a channel."""
        self.attend(channel.end, partial(hear, hands, channel))

    def unwatch(self, _hands: Performer, channel: Channel) -> None:
        """Stop listening to a channel."""
        self.dismiss(channel.end)

    def run(self) -> int:
        """Serve until told to stop; returns the exit status. Raises the PreforkError that kept a pool from starting."""
        wakeup = Wakeup((signal.SIGCHLD, signal.SIGUSR1, *_COMMANDS, *_OPEN))
        processes.become_subreaper()
        try:
            self._selector.register(wakeup, selectors.EVENT_READ)
            self._loop(wakeup)
        finally:
            self._release()
            wakeup.close()
            processes.become_subreaper(False)
        if self._failure is not None:
            raise self._failure
        return 0

    def _loop(self, wakeup: Wakeup) -> None:
        wake_at = 0.0
        while self._phase is not Phase.ENDED:
            events = self._selector.select(max(0.0, wake_at - time.monotonic()))
            now = time.monotonic()
            for key, _ in events:
                # An earlier event of this round may have closed it, and its number may be somebody else's already.
                if key.data is not None and self._selector.get_map().get(key.fd) is key:
                    self._contain(key.data, now)
            for pid, status in processes.reap(partial(self._contain, self._hear_last_words)):
                any(self._contain(bury, hands, pid, status, now, self._oom) for hands in self._pools)
            for number in wakeup.take():
                self._contain(self._obey, number, now)
            due = [at for beat in self._at_beat if (at := self._contain(beat, now)) is not None]
            self._contain(self._tend_logs)
            self._contain(self._notice, now)
            wake_at = min([self._plan_and_perform(now), *due])
            tended = [self._contain(hands.tend, now) for hands in self._pools]
            wake_at = min([wake_at, *(at for at in tended if at is not None)])
            self._faults.pause()

    def _contain(self, call: Callable[..., _T], *arguments: Any) -> _T | None:
        """Call something that must not end a server that serves, whatever it raises: that is logged.

        While the server starts nothing is contained: a start that goes wrong has to fail.
        """
        try:
            return call(*arguments)
        except Exception as error:
            if self._phase is Phase.BOOTING:
                raise
            self._faults.tell(error, time.monotonic())
            return None

    def _rung(self, hands: Performer, now: float) -> None:
        doorbell = hands.holdings.doorbell
        doorbell.answer()
        hands.holdings.control.arm_doorbell(False)
        doorbell.arm_at = now + saturation.LOOK_AGAIN

    def _hear_last_words(self, pid: int) -> None:
        hear_last_words(self._pools, pid, time.monotonic())

    def _obey(self, number: signal.Signals, now: float) -> None:
        if number in _COMMANDS:
            self._step(_COMMANDS[number], now)
        elif number == signal.SIGUSR1:
            self.reopen_logs()
        elif number in self._at_signal:
            self._at_signal[number](now)
        elif number in _OPEN:
            self._logger.warning("signal_refused", signal=number.name, message=_NO_MEANING)

    def _notice(self, now: float) -> None:
        """Turn facts about the pools into commands."""
        if self._phase is Phase.BOOTING and all(hands.pool.open for hands in self._pools):
            self._serve(now)
        for hands in list(self._pools):
            failure, hands.pool.failure = hands.pool.failure, None
            if failure is not None and self._phase is Phase.BOOTING:
                self._failure = failure
                self._step(Command.FAILED, now)
            if hands.pool.phase in (Phase.DRAINING, Phase.KILLING) and hands.pool.is_empty:
                self._remove(hands)

    def _remove(self, hands: Performer) -> None:
        """The end of a pool that a reload has removed, or has not added after all."""
        self._pools.remove(hands)
        self.dismiss(hands.holdings.doorbell)
        hands.holdings.listener.shut()
        hands.holdings.close()
        if hands.pool.phase is Phase.DRAINING:
            hands.logger.info("pool_removed", socket=str(hands.holdings.listener))

    def _serve(self, now: float) -> None:
        try:
            for call in self._at_serving:
                call()
        except PreforkError as error:
            self._failure = error
            self._step(Command.FAILED, now)
        else:
            self._step(Command.SERVES, now)

    def _step(self, command: Command, now: float, **source: Any) -> None:
        phase = lifecycle.step(self._phase, command)
        if phase is self._phase:
            return
        self._phase, self._phase_since = phase, now
        match phase:
            case Phase.DRAINING:
                patience = max(hands.launch.pool.graceful_timeout for hands in self._pools)
                message = f"what runs or waits has {patience:g} s; a SIGINT, or preforkctl stop --now, ends it at once"
                self._logger.info("stopping", cause=command.value, phase=phase.value, **source, message=message)
            case Phase.KILLING if command is not Command.FAILED:
                self._logger.info("stopping", cause=command.value, phase=phase.value, **source)
            case Phase.ENDED if self._failure is None:
                self._logger.info("stopped")
        for call in self._at_phase:
            self._contain(call, phase)

    def _plan_and_perform(self, now: float) -> float:
        decision = plan(self._snapshot(now), self._memory)
        self._memory = decision.memory
        self._contain(self._watch_listeners, decision.watch)
        for action in decision.actions:
            self._contain(self._perform, action, now)
        if any(isinstance(action, _CHANGES_THE_PICTURE) for action in decision.actions):
            return now
        # A doorbell that was rung a moment ago is armed again soon, not at the next beat: until then nobody can ring.
        unarmed = (hands.holdings.doorbell.arm_at for hands in self._pools if hands.pool.open)
        return min([decision.wake_at, *(at for at in unarmed if at > now)])

    def _perform(self, action: Action, now: float) -> None:
        if isinstance(action, End):
            self._step(Command.EMPTY, now)
        elif isinstance(action, Commit | Abandon):
            self._decide(action, now)
        else:
            self._of(action.pool).perform(action, now)

    def _watch_listeners(self, names: frozenset[str]) -> None:
        """Let the listeners of these pools, and no others, wake the master: nobody there would accept at once."""
        if not names and not self._watched:
            return
        wanted = {hands.holdings.listener: hands for hands in self._pools if hands.pool.name in names}
        for listener in self._watched.keys() - wanted.keys():
            del self._watched[listener]
            self.dismiss(listener)
        for listener in wanted.keys() - self._watched.keys():
            self.attend(listener, partial(self._connected, wanted[listener]))
            self._watched[listener] = wanted[listener]

    def _connected(self, hands: Performer, _now: float) -> None:
        hands.pool.readable = True

    def _decide(self, verdict: Commit | Abandon, now: float) -> None:
        assert self._transaction is not None, "nobody reloads"
        if isinstance(verdict, Commit):
            self._transaction.commit(now)
        else:
            self._transaction.abandon(verdict.reason, now)

    def _phase_of(self, hands: Performer) -> tuple[Phase, float]:
        """Where a pool is in its life: its own way, unless the server is further."""
        own = hands.pool.phase
        if own is None or self._phase in (Phase.KILLING, Phase.ENDED):
            return self._phase, self._phase_since
        return own, hands.pool.phase_since

    def _of(self, name: str) -> Performer:
        return next(hands for hands in self._pools if hands.pool.name == name)

    def _snapshot(self, now: float) -> Snapshot:
        views = []
        for hands in self._pools:
            pool, holdings = hands.pool, hands.holdings
            # Armed first, then looked at: a worker that leaves idleness in between rings for nothing.
            if pool.open and now >= holdings.doorbell.arm_at:
                holdings.control.arm_doorbell(True)
            # Before the queue: a connection that is accepted in between is missed, and seen at the next look; the
            # other way round it would be counted twice, and forked for.
            states = holdings.scoreboard.states()
            queue = self._queues.read(hands) if pool.open else None
            waiting, limit = (queue.waiting, queue.limit) if queue is not None else (None, None)
            behind = holdings.count_earlier(self._queues.diagnosis, pool.listeners_served)
            holdings.control.wait(bool(waiting or behind))
            holdings.control.watch(now < holdings.watched_until)
            if len(pool.workers) - states.count(IDLE) > hands.ledger.most_active:
                hands.ledger.was_active(pool.active(states))
            due = deadlines.is_due(pool.rules, self._memory.of(pool.name), now)
            running = holdings.requests(states, hands.overtime.stacks.sought) if due else None
            views.append(pool.view(*self._phase_of(hands), states, waiting, limit, behind, running))
        return Snapshot(now, self._phase, self._phase_since, tuple(views))

    def _release(self) -> None:
        """Let go of everything; whoever is still there is killed, which after an orderly stop is nobody."""
        for hands in self._pools:
            hands.kill_everyone()
            hands.holdings.listener.shut()
            hands.holdings.close()
        self._selector.close()
        self._queues.close()

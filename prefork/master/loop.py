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
from typing import Any, Final

from prefork.errors import PreforkError
from prefork.log import Logger
from prefork.master.deaths import bury
from prefork.master.hear import hear
from prefork.master.holdings import Channel
from prefork.master.logs import Logs
from prefork.master.perform import Performer
from prefork.policy import lifecycle, saturation
from prefork.policy.lifecycle import Command
from prefork.policy.model import End, Memory, OpenListener, Phase, ShutListener, Snapshot, StartZygote
from prefork.policy.plan import plan
from prefork.system import processes
from prefork.system.sockdiag import SocketDiagnosis
from prefork.system.wakeup import Wakeup

__all__ = ["Master"]

_COMMANDS: Final = {
    signal.SIGTERM: Command.TERM,
    signal.SIGQUIT: Command.QUIT,
    signal.SIGINT: Command.INT,
}
# A signal without a meaning in this version must not end the server by its default action either.
_FIXED: Final = "this version has a fixed number of workers: restart the server with another max_children"
_REFUSED: Final = {
    signal.SIGHUP: "this version does not reload: restart the server",
    signal.SIGUSR2: "this version does not upgrade itself: restart the server",
    signal.SIGTTIN: _FIXED,
    signal.SIGTTOU: _FIXED,
}

# A signal that comes just before accept(2) does nothing, so it is repeated, once a round.
_WAKES: Final = 5

_CHANGES_THE_PICTURE: Final = (OpenListener, ShutListener, StartZygote)
"""Actions after which the next plan may have more to do at once."""


class Master:
    """Supervises pools until they are told to stop."""

    def __init__(self, logger: Logger, logs: Logs | None = None) -> None:
        self.started = time.time()
        self._pools: list[Performer] = []
        self._at_serving: list[Callable[[], None]] = []
        self._at_beat: list[Callable[[float], None]] = []
        self._logger = logger
        self._logs = logs
        self._wakes = 0  # rounds of the loop in which idle workers are still woken to take renewed logs
        self._selector = selectors.DefaultSelector()
        self._queues = SocketDiagnosis()
        self._phase = Phase.BOOTING
        self._phase_since = time.monotonic()
        self._memory = Memory()
        self._failure: PreforkError | None = None

    def add(self, hands: Performer) -> None:
        """One more pool to supervise; before `run`."""
        self._pools.append(hands)

    def at_serving(self, call: Callable[[], None]) -> None:
        """Call this, in turn, once every pool serves; before `run`. A PreforkError it raises makes the start fail."""
        self._at_serving.append(call)

    def at_beat(self, call: Callable[[float], None]) -> None:
        """Call this with the time once a round of the loop, hence at least once a second; before `run`."""
        self._at_beat.append(call)

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
        except KeyError:
            pass

    def watch(self, hands: Performer, channel: Channel) -> None:
        """Listen to a channel."""
        self.attend(channel.end, partial(hear, hands, channel))

    def unwatch(self, _hands: Performer, channel: Channel) -> None:
        """Stop listening to a channel."""
        self.dismiss(channel.end)

    def run(self) -> int:
        """Serve until told to stop; returns the exit status. Raises the PreforkError that kept a pool from starting."""
        wakeup = Wakeup((signal.SIGCHLD, signal.SIGUSR1, *_COMMANDS, *_REFUSED))
        processes.become_subreaper()
        try:
            self._selector.register(wakeup, selectors.EVENT_READ)
            for hands in self._pools:
                self.attend(hands.holdings.doorbell, partial(self._rung, hands))
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
                if key.data is not None:
                    key.data(now)
            for pid, status in processes.reap(self._hear_last_words):
                any(bury(hands, pid, status, now) for hands in self._pools)
            for number in wakeup.take():
                self._obey(number, now)
            for beat in self._at_beat:
                beat(now)
            self._tend_logs()
            self._notice(now)
            wake_at = self._plan_and_perform(now)

    def _rung(self, hands: Performer, now: float) -> None:
        doorbell = hands.holdings.doorbell
        doorbell.answer()
        hands.holdings.control.arm_doorbell(False)
        doorbell.arm_at = now + saturation.LOOK_AGAIN

    def _hear_last_words(self, pid: int) -> None:
        """Read the channels before a stranger is reaped: he may have said hello, and died, since they were read."""
        if any(pid == hands.pool.zygote_pid or hands.pool.slot_of(pid) is not None for hands in self._pools):
            return
        now = time.monotonic()
        for hands in self._pools:
            for channel in [hands.holdings.zygote, *hands.holdings.workers.values()]:
                if channel is not None:
                    hear(hands, channel, now)

    def _obey(self, number: signal.Signals, now: float) -> None:
        if number in _COMMANDS:
            self._step(_COMMANDS[number], now)
        elif number == signal.SIGUSR1:
            self.reopen_logs()
        elif number in _REFUSED:
            self._logger.warning("signal_refused", signal=number.name, message=_REFUSED[number])

    def _notice(self, now: float) -> None:
        """Turn facts about the pools into commands."""
        if self._phase is Phase.BOOTING and all(hands.pool.open for hands in self._pools):
            self._serve(now)
        for hands in self._pools:
            failure, hands.pool.failure = hands.pool.failure, None
            if failure is not None and self._phase is Phase.BOOTING:
                self._failure = failure
                self._step(Command.FAILED, now)

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

    def _plan_and_perform(self, now: float) -> float:
        decision = plan(self._snapshot(now), self._memory)
        self._memory = decision.memory
        for action in decision.actions:
            if isinstance(action, End):
                self._step(Command.EMPTY, now)
            else:
                self._of(action.pool).perform(action, now)
        if any(isinstance(action, _CHANGES_THE_PICTURE) for action in decision.actions):
            return now
        return decision.wake_at

    def _of(self, name: str) -> Performer:
        return next(hands for hands in self._pools if hands.pool.name == name)

    def _snapshot(self, now: float) -> Snapshot:
        views = []
        for hands in self._pools:
            pool, holdings = hands.pool, hands.holdings
            # Armed first, then looked at: a worker that leaves idleness in between rings for nothing.
            if pool.open and now >= holdings.doorbell.arm_at:
                holdings.control.arm_doorbell(True)
            queue = holdings.listener.queue(self._queues) if pool.open else None
            waiting, limit = (queue.waiting, queue.limit) if queue is not None else (None, None)
            views.append(pool.view(holdings.scoreboard.states(), waiting, limit))
        return Snapshot(now, self._phase, self._phase_since, tuple(views))

    def _release(self) -> None:
        """Let go of everything; whoever is still there is killed, which after an orderly stop is nobody."""
        for hands in self._pools:
            hands.kill_everyone()
            hands.holdings.listener.shut()
            hands.holdings.close()
        self._selector.close()
        self._queues.close()

"""Action → system call: what was decided is done here, and nothing is decided.

One `Performer` a pool. Every method does one action, tells the bookkeeping, and says in the log what matters to an
operator. A system call that fails leaves the bookkeeping as it was; the next plan sees what is still missing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Final, Protocol

from prefork.errors import PreforkError
from prefork.log import Logger
from prefork.master.holdings import Channel, Holdings
from prefork.master.launch import Launch
from prefork.master.pool import Pool
from prefork.policy import model
from prefork.policy.saturation import describe
from prefork.system import channel as wire
from prefork.system.channel import Kind, Place
from prefork.system.processes import RETIRE_SIGNAL

__all__ = ["HasDescriptor", "Performer", "Watch"]

_AT_WORK: Final = (model.RUNNING, model.WRITING, model.FINISHING)

_FULL_SOCKET: Final = "connects are refused (EAGAIN; nginx: 11: Resource temporarily unavailable)"
_FULL_PORT: Final = "connects are not answered: clients try again after a second (nginx: upstream timed out)"

Watch = Callable[["Performer", Channel], None]


class HasDescriptor(Protocol):
    """A socket, a listener."""

    def fileno(self) -> int:
        """The descriptor's number."""
        ...


class Performer:
    """The hands of one pool."""

    def __init__(
        self, pool: Pool, holdings: Holdings, launch: Launch, logger: Logger, watch: Watch, unwatch: Watch
    ) -> None:
        self.pool = pool
        self.holdings = holdings
        self.launch = launch
        self.logger = logger
        self._watch = watch
        self._unwatch = unwatch
        self._owed: list[Channel] = []  # who could not be given the renewed logs yet
        self._owing_told = False
        self._methods: dict[type[Any], Callable[[Any, float], None]] = {
            model.StartZygote: self._start_zygote,
            model.KillZygote: self._kill_zygote,
            model.ReleaseZygote: self._release_zygote,
            model.OpenListener: self._open_listener,
            model.ShutListener: self._shut_listener,
            model.Fork: self._fork,
            model.Listen: self._listen,
            model.Retire: self._retire,
            model.SignalRetired: self._signal_retired,
            model.Terminate: self._terminate,
            model.Kill: self._kill,
            model.QueueFull: self._queue_full,
            model.QueueEnded: self._queue_ended,
        }

    def perform(self, action: model.Action, now: float) -> None:
        """Do one action."""
        self._methods[type(action)](action, now)

    def drop(self, channel: Channel) -> None:
        """Close a channel and forget it."""
        self._unwatch(self, channel)
        channel.end.close()
        if channel.slot is None:
            if self.holdings.zygote is channel:
                self.holdings.zygote = None
        elif self.holdings.workers.get(channel.slot) is channel:
            del self.holdings.workers[channel.slot]

    def kill_everyone(self) -> None:
        """The last resort, when the loop itself has failed."""
        for pid in (self.pool.zygote_pid, *(worker.pid for worker in self.pool.workers.values())):
            self._send_signal(pid, signal.SIGKILL)

    # the zygote

    def _start_zygote(self, action: model.StartZygote, now: float) -> None:
        if self.holdings.zygote is not None:
            self.drop(self.holdings.zygote)
        above, below = wire.open_pair()
        output: tuple[int, ...] = ()
        try:
            output = self.holdings.output_of(None)
            pid = self.launch.start({**self.holdings.gifts(below.fileno()), **self._standard(output)})
        except (PreforkError, OSError) as error:
            above.close()
            failure = error if isinstance(error, PreforkError) else PreforkError(f"cannot fork: {error.strerror}")
            self.pool.start_failed(failure)
            self.logger.error("zygote_not_started", error=str(failure))
            return
        finally:
            below.close()
            for descriptor in output:
                os.close(descriptor)
        self.pool.zygote_started(pid, now)
        self.holdings.zygote = Channel(above, None)
        self._watch(self, self.holdings.zygote)
        settings = self.launch.settings(generation=self.pool.generation, slots=self.pool.slots, load=action.load)
        self._tell(self.holdings.zygote, Kind.SETTINGS, settings)

    def _standard(self, output: tuple[int, ...]) -> dict[int, int]:
        """What the application prints to, by number; nothing where that is what we print to."""
        if output:
            return {1: output[0], 2: output[1]}
        error_log = self.holdings.logs.get(Place.ERROR_LOG)
        return {2: error_log.fileno()} if error_log is not None and error_log.path and error_log.is_file else {}

    def _kill_zygote(self, action: model.KillZygote, _now: float) -> None:
        self._send_signal(self.pool.zygote_pid, signal.SIGKILL, action.reason)

    def _release_zygote(self, _action: model.ReleaseZygote, now: float) -> None:
        if self.holdings.zygote is not None:
            self._tell(self.holdings.zygote, Kind.LEAVE)
        self.pool.zygote_leaving(now)

    # the listener

    def _open_listener(self, _action: model.OpenListener, _now: float) -> None:
        try:
            self.holdings.listener.open()
        except PreforkError as error:
            self.pool.failure = error
            return
        self.pool.open = True

    def _shut_listener(self, _action: model.ShutListener, _now: float) -> None:
        self.holdings.listener.shut()
        self.pool.shut = True

    # workers

    def _fork(self, action: model.Fork, now: float) -> None:
        zygote = self.holdings.zygote
        if zygote is None:
            return
        output: tuple[int, ...] = ()
        try:
            output = self.holdings.output_of(action.slot)
            above, below = wire.open_pair()
        except OSError as error:
            for descriptor in output:
                os.close(descriptor)
            self.logger.error("fork_failed", slot=action.slot, error=error.strerror)
            return
        self.holdings.prepare_slot(action.slot)
        with below:
            told = self._tell(zygote, Kind.FORK, {"slot": action.slot}, below, *output)
        for descriptor in output:
            os.close(descriptor)
        if not told:
            above.close()
            self.holdings.free_slot(action.slot)
            return
        channel = Channel(above, action.slot)
        try:
            self._watch(self, channel)
        except OSError as error:  # fs.epoll.max_user_watches, memory: the worker finds nobody to say hello to
            above.close()
            self.holdings.free_slot(action.slot)
            self.logger.error("fork_failed", slot=action.slot, error=error.strerror)
            return
        self.holdings.workers[action.slot] = channel
        if zygote in self._owed:
            self._owed.append(channel)  # it is born with the logs that the zygote has
        self.pool.forked(action.slot, now)

    def _listen(self, action: model.Listen, _now: float) -> None:
        channel = self.holdings.workers.get(action.slot)
        if channel is not None and self._tell(channel, Kind.LISTEN, {}, self.holdings.listener):
            self.pool.listening(action.slot)

    def _retire(self, action: model.Retire, now: float) -> None:
        worker = self.pool.workers[action.slot]
        self.holdings.control.retire(action.slot, True)
        channel = self.holdings.workers.get(action.slot)
        if channel is not None and not worker.listening:
            self._tell(channel, Kind.LEAVE)
        self.pool.retired(action.slot, now)

    def _signal_retired(self, action: model.SignalRetired, now: float) -> None:
        self._send_signal(self.pool.workers[action.slot].pid, RETIRE_SIGNAL)
        self.pool.signalled(action.slot, now)

    def _terminate(self, action: model.Terminate, now: float) -> None:
        self._send_signal(self.pool.workers[action.slot].pid, signal.SIGTERM)
        self.pool.terminated(action.slot, now)

    def _kill(self, action: model.Kill, _now: float) -> None:
        pid = self.pool.workers[action.slot].pid
        if pid:
            self._send_signal(pid, signal.SIGKILL, action.reason)
            return
        # Nobody is known who could be killed. Should one show after all, its channel is closed, and it ends by that.
        channel = self.holdings.workers.get(action.slot)
        if channel is not None:
            self.drop(channel)
        self.pool.not_forked(action.slot)
        self.holdings.free_slot(action.slot)
        self.logger.warning("worker_not_started", slot=action.slot, cause=action.reason)

    def renew_logs(self) -> None:
        """Give everybody the logs that were opened anew. Nobody is restarted."""
        self._owed = [each for each in (self.holdings.zygote, *self.holdings.workers.values()) if each is not None]
        self._owing_told = False
        self._hand_out_logs()
        self.holdings.control.renew_logs()

    def settle_logs(self) -> bool:
        """Try again where the logs could not be handed out; True when somebody got them now: who idles must look."""
        if not self._owed:
            return False
        before = len(self._owed)
        self._hand_out_logs()
        if self._owed and not self._owing_told:
            self._owing_told = True
            self.logger.warning(
                "logs_not_handed_out",
                processes=len(self._owed),
                slots=[channel.slot for channel in self._owed if channel.slot is not None],
                message="they take no messages, and write to the old files until they do",
            )
        if len(self._owed) == before:
            return False
        self.holdings.control.renew_logs()
        return True

    def _hand_out_logs(self) -> None:
        renewed = {int(place): log for place, log in self.holdings.logs.items() if log.path}
        living = (self.holdings.zygote, *self.holdings.workers.values())
        body = {"logs": list(renewed)}
        self._owed = [
            channel
            for channel in self._owed
            if renewed and channel in living and not self._tell(channel, Kind.LOGS, body, *renewed.values())
        ]

    def wake_idle(self) -> None:
        """Make idle workers look at the control page: they let go of a log that was replaced."""
        for worker in self.pool.workers.values():
            if worker.listening and self.holdings.scoreboard.state(worker.slot) == model.IDLE:
                self._send_signal(worker.pid, RETIRE_SIGNAL)

    # reports

    def _queue_full(self, action: model.QueueFull, now: float) -> None:
        listening = [worker for worker in self.pool.workers.values() if worker.listening]
        busy = [w for w in listening if self.holdings.scoreboard.state(w.slot) != model.IDLE]
        # In any other state the slot still shows the request before.
        at_work = [w for w in busy if self.holdings.scoreboard.state(w.slot) in _AT_WORK]
        running = [self.holdings.running(worker.slot, now) for worker in at_work]
        self.logger.warning(
            "queue_full",
            waiting=action.waiting,
            limit=action.limit,
            busy=len(busy),
            workers=len(listening),
            running=describe([request for request in running if request is not None]),
            message=_FULL_PORT if self.holdings.listener.is_tcp else _FULL_SOCKET,
        )

    def _queue_ended(self, action: model.QueueEnded, _now: float) -> None:
        self.logger.warning(
            "queue_full_ended",
            full_for=round(action.full_for, 3),
            peak=action.peak,
            limit=action.limit,
            message=f"the queue was full for at least {action.full_for:.1f} s",
        )

    # the last step of each

    def _tell(
        self, channel: Channel, kind: Kind, body: dict[str, Any] | None = None, *descriptors: HasDescriptor | int
    ) -> bool:
        """Send a message; False when the other side is gone or has too much unread."""
        try:
            numbers = (each if isinstance(each, int) else each.fileno() for each in descriptors)
            wire.send(channel.end, kind, body, tuple(numbers))
        except OSError as error:
            self.logger.debug("message_not_sent", kind=kind.name, slot=channel.slot, error=error.strerror)
            return False
        return True

    def _send_signal(self, pid: int, number: int, reason: str | None = None) -> None:
        if pid <= 0:
            return
        if reason is not None:
            self.holdings.kill_reasons[pid] = reason
        # Not reaped by us yet, so the number is still its own. A program that we are a library of may have reaped it.
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:  # it has become another user's, by executing a setuid program
            self.logger.error("signal_not_sent", pid=pid, signal=number, error=error.strerror)

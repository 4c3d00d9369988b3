"""Action → system call: what was decided is done here, and nothing is decided.

One `Performer` a pool. Every method does one action, tells the bookkeeping, and says in the log what matters to an
operator. A system call that fails leaves the bookkeeping as it was; the next plan sees what is still missing.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from prefork.errors import PreforkError
from prefork.log import Logger
from prefork.master.episodes import Episodes
from prefork.master.holdings import Channel, Holdings
from prefork.master.launch import Launch
from prefork.master.ledger import Ledger
from prefork.master.output import standard_streams
from prefork.master.overtime import Overtime
from prefork.master.pool import Pool
from prefork.master.sampling import Sampler
from prefork.policy import model
from prefork.system import channel as wire
from prefork.system.channel import Kind, Place
from prefork.system.listener import Change, Listener
from prefork.system.logfile import LogFile
from prefork.system.processes import LOOK_SIGNAL

__all__ = ["Coming", "HasDescriptor", "Performer", "Watch"]

Watch = Callable[["Performer", Channel], None]


class HasDescriptor(Protocol):
    """A socket, a listener."""

    def fileno(self) -> int:
        """The descriptor's number."""
        ...


@dataclass(frozen=True, slots=True)
class Coming:
    """What a reload brings to a pool."""

    launch: Launch
    rules: model.Rules
    logs: Mapping[Place, LogFile]
    change: Change | None = None  # of the listener it has
    listener: Listener | None = None  # another one, claimed


class Performer:
    """The hands of one pool."""

    def __init__(
        self, pool: Pool, holdings: Holdings, launch: Launch, logger: Logger, watch: Watch, unwatch: Watch
    ) -> None:
        self.pool = pool
        self.holdings = holdings
        self.launch = launch
        self.logger = logger
        self.coming: Coming | None = None
        self.ledger = Ledger()
        self.overtime = Overtime(pool, holdings, self.ledger, logger, self._send_signal, lambda: self.launch.places)
        self.sampler = Sampler(pool, holdings, self.overtime.stacks)
        self._episodes = Episodes(pool, holdings, self.ledger, logger, self.sampler, lambda: self.launch.places)
        self._watch = watch
        self._unwatch = unwatch
        self._logs_of: dict[int, Mapping[Place, LogFile]] = {}  # by generation, where they are not the pool's
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
            model.DumpStack: self.overtime.dump_stack,
            model.TimeOut: self.overtime.time_out,
            model.SlowUnseen: self.overtime.slow_unseen,
            model.QueueFull: self._episodes.queue_full,
            model.QueueEnded: self._episodes.queue_ended,
            model.Saturated: self._episodes.saturated,
            model.SampleStacks: self._episodes.sample_stacks,
            model.SaturationEnded: self._episodes.saturation_ended,
        }

    def perform(self, action: model.Action, now: float) -> None:
        """Do one action."""
        self._methods[type(action)](action, now)

    def tend(self, now: float) -> float:
        """Go on with what takes several looks; returns when to look again."""
        self.overtime.stacks.tend(now)
        again = self._episodes.tend(now)
        return min(again, self.overtime.stacks.tend(now))  # of those that were asked for just now

    def drop(self, channel: Channel) -> None:
        """Close a channel and forget it."""
        self._unwatch(self, channel)
        channel.end.close()
        if channel.slot is None:
            if self.holdings.zygotes.get(channel.generation) is channel:
                del self.holdings.zygotes[channel.generation]
        elif self.holdings.workers.get(channel.slot) is channel:
            del self.holdings.workers[channel.slot]

    def kill_everyone(self) -> None:
        """The last resort, when the loop itself has failed."""
        zygotes = [self.pool.zygote_pid(generation) for generation in self.pool.zygotes]
        for pid in (*zygotes, *(worker.pid for worker in self.pool.workers.values())):
            self._send_signal(pid, signal.SIGKILL)

    # reloads

    def take(self, coming: Coming) -> None:
        """Begin a reload of this pool: its next zygote is started with what is coming."""
        self.coming = coming
        self.pool.reload_begun(coming.rules)

    def give_up(self, now: float) -> None:
        """End the reload of this pool: whatever was coming is killed, and nothing has changed."""
        generation = self.pool.given_up(now)
        self.coming = None
        self.ledger.failed_reloads += 1
        self._kill_zygote(model.KillZygote(self.pool.name, generation, model.STOPPED_LOADING), now)
        for worker in list(self.pool.workers.values()):
            if generation and worker.generation == generation:
                self.pool.retired(worker.slot, now)
                self._kill(model.Kill(self.pool.name, worker.slot, model.STOPPED_LOADING), now)

    def app_name_of(self, generation: int) -> str:
        """The name of the application that a generation loads."""
        coming = self.coming if generation == self.pool.coming else None
        return self.pool.app_name if coming is None else coming.launch.pool.app_name

    def commit(self, now: float) -> None:
        """End the reload of this pool: what was coming is what serves. The listener is somebody else's business."""
        coming = self.coming
        assert coming is not None
        if coming.logs.get(Place.ACCESS_LOG) is not self.holdings.logs.get(Place.ACCESS_LOG):
            # Who still runs the code before must not write its lines into another file than it was told.
            error_log = {Place.ERROR_LOG: self.holdings.logs[Place.ERROR_LOG]}
            self._logs_of |= dict.fromkeys((channel.generation for channel in self.holdings.channels), error_log)
        self._logs_of.pop(self.pool.coming, None)
        self.launch, self.holdings.logs, self.coming = coming.launch, coming.logs, None
        self.ledger.reloads += 1
        before = self.pool.committed(coming.launch.pool.app_name)
        if before in self.pool.zygotes:
            self._release_zygote(model.ReleaseZygote(self.pool.name, before), now)

    # the zygotes

    def _start_zygote(self, action: model.StartZygote, now: float) -> None:
        launch, logs = self.launch, self.holdings.logs
        if action.coming and self.coming is not None:
            launch, logs = self.coming.launch, self.coming.logs
        generation = self.pool.generation + 1
        try:
            channel, pid = self._spawn_zygote(launch, logs, generation)
        except (PreforkError, OSError) as error:
            failure = error if isinstance(error, PreforkError) else PreforkError(f"cannot fork: {error.strerror}")
            self.pool.start_failed(failure, coming=action.coming)
            self.logger.error("zygote_not_started", error=str(failure))
            return
        self.pool.zygote_started(pid, now, coming=action.coming)
        self.holdings.zygotes[generation] = channel
        if action.coming:
            self._logs_of[generation] = logs
        settings = launch.settings(generation=generation, slots=self.pool.slots, load=action.load)
        self._tell(channel, Kind.SETTINGS, settings)

    def _spawn_zygote(self, launch: Launch, logs: Mapping[Place, LogFile], generation: int) -> tuple[Channel, int]:
        """A new zygote: its channel, which is watched, and its pid. What it raises leaves nothing behind."""
        with ExitStack() as undo, ExitStack() as given:
            above, below = wire.open_pair()
            given.callback(below.close)
            undo.callback(above.close)
            channel = Channel(above, None, generation)
            self._watch(self, channel)
            undo.callback(self._unwatch, self, channel)
            output = self._output_of(launch, -generation)
            for descriptor in output:
                given.callback(os.close, descriptor)
            gifts = self.holdings.gifts(below.fileno(), logs)
            pid = launch.start({**gifts, **standard_streams(logs, output)})
            undo.pop_all()
        return channel, pid

    def _output_of(self, launch: Launch, place: int) -> tuple[int, ...]:
        return self.holdings.output_of(place) if launch.pool.catch_output else ()

    def _kill_zygote(self, action: model.KillZygote, _now: float) -> None:
        self._send_signal(self.pool.zygote_pid(action.generation), signal.SIGKILL, action.reason)

    def _release_zygote(self, action: model.ReleaseZygote, now: float) -> None:
        channel = self.holdings.zygotes.get(action.generation)
        if channel is not None:
            self._tell(channel, Kind.LEAVE)
        self.pool.zygote_leaving(action.generation, now)

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

    def replace_listener(self, successor: Listener) -> None:
        """Serve another listener, which is open, from now on; who waits at the one before is still served."""
        self.holdings.replace_listener(self.pool.listener, successor)
        self.pool.listener_replaced(inherited=successor.inherited, silent=successor.is_tcp)

    # workers

    def _fork(self, action: model.Fork, now: float) -> None:
        zygote = self.holdings.zygotes.get(action.generation)
        if zygote is None:
            return
        is_coming = self.coming is not None and action.generation == self.pool.coming
        launch = self.coming.launch if is_coming and self.coming is not None else self.launch
        luck = random.random()
        output: tuple[int, ...] = ()
        try:
            page = self.holdings.open_page(action.slot)
            output = self._output_of(launch, action.slot)
            above, below = wire.open_pair()
        except OSError as error:
            for descriptor in output:
                os.close(descriptor)
            self.logger.error("fork_failed", slot=action.slot, error=error.strerror)
            return
        self.holdings.prepare_slot(action.slot)
        with below:
            body = {"slot": action.slot, "canary": action.canary, "requests": launch.requests(luck)}
            told = self._tell(zygote, Kind.FORK, body, below, page, *output)
        for descriptor in output:
            os.close(descriptor)
        if not told:
            above.close()
            self.holdings.free_slot(action.slot)
            return
        channel = Channel(above, action.slot, action.generation)
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
        self.pool.forked(action.slot, action.generation, now, luck)

    def _listen(self, action: model.Listen, _now: float) -> None:
        channel = self.holdings.workers.get(action.slot)
        if channel is None:
            return
        # Whoever served the queue of an earlier listener may have died over it: then it is this one's.
        number = self.holdings.listener_owed(self.pool.listeners_served)
        listener = self.holdings.listener if number is None else self.holdings.earlier[number]
        if self._tell(channel, Kind.LISTEN, {}, listener):
            self.pool.listening(action.slot, number)

    def _retire(self, action: model.Retire, now: float) -> None:
        worker = self.pool.workers[action.slot]
        self.holdings.control.retire(action.slot, True)
        channel = self.holdings.workers.get(action.slot)
        if channel is not None and not worker.listening:
            self._tell(channel, Kind.LEAVE)
        self.pool.retired(action.slot, now)
        if action.reason:
            age = round(now - worker.forked, 3)
            self.logger.info("worker_recycled", slot=action.slot, pid=worker.pid, age=age, reason=action.reason)

    def _signal_retired(self, action: model.SignalRetired, now: float) -> None:
        self._send_signal(self.pool.workers[action.slot].pid, LOOK_SIGNAL)
        self.pool.signalled(action.slot, now)

    def _terminate(self, action: model.Terminate, now: float) -> None:
        self._send_signal(self.pool.workers[action.slot].pid, signal.SIGTERM)
        self.pool.terminated(action.slot, now)

    def _kill(self, action: model.Kill, now: float) -> None:
        if action.number and not self.overtime.ends(action, now):
            return  # the request has come to an end
        pid = self.pool.workers[action.slot].pid
        if pid:
            self._send_signal(pid, signal.SIGKILL, action.reason)
            return
        # Nobody is known who could be killed. Should one show after all, its channel is closed, and it ends by that.
        channel = self.holdings.workers.get(action.slot)
        if channel is not None:
            self.drop(channel)
        worker = self.pool.workers[action.slot]
        if worker.generation == self.pool.coming and worker.retired is None:
            name = self.app_name_of(worker.generation)
            self.pool.fails(worker.generation, PreforkError(f"{name}: no worker could be forked: {action.reason}"))
        self.pool.not_forked(action.slot)
        self.holdings.free_slot(action.slot)
        report = self.logger.debug if action.reason == model.STOPPED_LOADING else self.logger.warning
        report("worker_not_started", slot=action.slot, cause=action.reason)

    def renew_logs(self) -> None:
        """Give everybody the logs that were opened anew. Nobody is restarted."""
        self._owed = self.holdings.channels
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
        living = self.holdings.channels
        generations = {channel.generation for channel in living}
        self._logs_of = {generation: logs for generation, logs in self._logs_of.items() if generation in generations}
        self._owed = [channel for channel in self._owed if channel in living and not self._hand_logs(channel)]

    def _hand_logs(self, channel: Channel) -> bool:
        """Give a process its logs; False when it takes no messages."""
        logs = self._logs_of.get(channel.generation, self.holdings.logs)
        renewed = {int(place): log for place, log in logs.items() if log.path}
        return not renewed or self._tell(channel, Kind.LOGS, {"logs": list(renewed)}, *renewed.values())

    def wake_idle(self) -> None:
        """Make idle workers look at the control page: they let go of a log that was replaced."""
        for worker in self.pool.workers.values():
            if worker.listening and self.holdings.scoreboard.state(worker.slot) == model.IDLE:
                self._send_signal(worker.pid, LOOK_SIGNAL)

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

"""A worker's life: be adopted, get the application and the listener, accept until told to leave.

The worker blocks in accept(2) and nowhere else while idle. It leaves in one of three ways, none of which can drop a
connection that was already accepted:

* the master shuts the listener down: accept fails with EINVAL once the queue is empty;
* the master sets the retire flag and sends `LOOK_SIGNAL`: the handler points the listening descriptor at a socket
  that is not listening, and the accept that is retried after the interruption (PEP 475) fails with EINVAL;
* the retire flag is seen before the next accept.

Nothing is raised from that signal's handler while connections are accepted: an exception there, between the system
call that dequeued a connection and the store of its number, would lose that connection. Only into the application's
code may it raise, when a request has taken too long (`prefork.worker.deadline`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from prefork import hooks
from prefork.errors import ApplicationError
from prefork.policy.model import IDLE, READING, RETIRING, STARTING
from prefork.system import channel
from prefork.system.channel import Kind, Order, Place
from prefork.system.controlpage import LOG_EPOCH
from prefork.system.logfile import LogFile
from prefork.system.processes import LOOK_SIGNAL, die_with_parent, leave_process
from prefork.system.scoreboard import Slot
from prefork.system.signalstack import make_room
from prefork.system.stacks import StackPage, watched_import
from prefork.worker import application as loader
from prefork.worker.canary import prove
from prefork.worker.door import Door
from prefork.worker.exchange import Exchange
from prefork.worker.hooking import WorkerHooks, load_hooks
from prefork.worker.inside import Paths, within
from prefork.worker.limits import Limits
from prefork.worker.logs import AccessSettings, WorkerLogs, take_logs

__all__ = ["Birth", "Worker", "live"]

# What accept(2) reports for a connection that died in the queue, or on TCP for the network beneath it.
_PASSING: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM}
)
# Out of something: worth another try, not at full speed.
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SCARCITY_PAUSE: Final = 0.1
# This process's own descriptors are used up, and nobody but the application can have done that: it will not get better.
_MOST_EMFILE: Final = 10


@dataclass(frozen=True, slots=True)
class Birth:
    """All that a worker is born with."""

    master: int
    slot: int
    slots: int
    generation: int
    channel: int
    stack: int  # the page for its own stack, when the master wants to see it
    gifts: Mapping[int, int]  # the zygote's descriptors, by `Place`
    pool: str  # its name
    app: str  # where it still has to be loaded
    hooks: str | None  # a module to import after it
    inside: Paths  # what is answered without it
    boot_timeout: float
    canary: str  # a path to answer before it counts as ready; empty: none
    requests: int  # after so many it asks to be replaced; 0: never
    protocol: str
    allowed_addresses: Sequence[str]
    forwarded_allow: Sequence[str]
    limits: Limits
    multiprocess: bool
    logs: Mapping[Place, LogFile]
    access: AccessSettings


def live(birth: Birth, application: Any, logger: Any) -> None:
    """The whole life of a worker process, from the moment the master is its parent. Does not return."""
    die_with_parent(birth.master)
    worker = Worker(birth, application, logger)
    status = 70
    try:
        status = worker.run()
    finally:
        if worker.is_known:  # else the slot may have been given to another meanwhile
            worker.slot.enter(RETIRING)
        try:
            worker.leave()
        finally:
            leave_process(status)


class Worker:
    """One process, one listener, one request at a time."""

    def __init__(self, birth: Birth, application: Any, logger: Any) -> None:
        self._birth = birth
        self._application = application
        self._logger = logger.bind(slot=birth.slot)
        self._channel = socket.socket(fileno=birth.channel)
        self._channel.settimeout(None)  # an application may have called socket.setdefaulttimeout
        self.slot = Slot(
            birth.slot,
            birth.slots,
            birth.gifts[Place.SCOREBOARD],
            birth.gifts[Place.CONTROL],
            birth.gifts[Place.DOORBELL],
            birth.generation,
            IDLE,
        )
        # Mapped, and each mapping keeps a descriptor of its own.
        os.close(birth.gifts[Place.SCOREBOARD])
        os.close(birth.gifts[Place.CONTROL])
        self._logs = WorkerLogs(birth.logs, self._channel, self.slot)
        self._stack = StackPage(birth.stack)
        self._shown = self.slot.dump
        self._looking = False
        self._deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener: socket.socket | None = None
        self._exchange: Exchange | None = None
        self._hooks = WorkerHooks(birth.slot, birth.generation, birth.pool)
        self._is_copy = False
        self._scarce = 0
        self._spends = birth.requests > 0
        self._spent_at = self.slot.requests + birth.requests
        self.is_known = False  # the master was told that the slot is ours

    def run(self) -> int:
        """Serve until told to leave; returns the exit status."""
        self._logs.begin(self._logger)
        signal.signal(LOOK_SIGNAL, self._look)
        self._stack.let_force()
        make_room()
        os.register_at_fork(after_in_child=self._forget)
        channel.send(self._channel, Kind.HELLO)
        self.is_known = True
        self.slot.enter(STARTING)
        if not self._prepare():
            return ApplicationError.exit_status
        channel.send(self._channel, Kind.READY)
        order = self._next_order()
        if order is None or order.kind is not Kind.LISTEN:
            return 0
        self._listener = socket.socket(fileno=order.descriptors[0])
        self._listener.settimeout(None)
        self._logs.watch()
        birth = self._birth
        door = Door(birth.protocol, birth.allowed_addresses, birth.forwarded_allow, self._listener)
        self._exchange = Exchange(
            within(self._application, birth.inside),
            self.slot,
            self._logger,
            self._birth.limits,
            multiprocess=self._birth.multiprocess,
            access_log=self._logs.access_log(self._birth.access, self._birth.master),
            door=door,
            tap=birth.gifts[Place.TAP],
        )
        return self._accept(self._listener, self._exchange)

    def _next_order(self) -> Order | None:
        while True:
            order = channel.receive_order(self._channel)
            if order is None or order.kind is not Kind.LOGS:
                return order
            take_logs(order, self._birth.logs)

    def leave(self) -> None:
        """The application's last calls, when no connection is left; those of atexit come after them."""
        if not self._is_copy:
            self._hooks.stop(self._logger)
            self._logs.end()

    def _prepare(self) -> bool:
        """Have the application, and let it prepare this worker; False if it cannot."""
        if self._application is not None and not hooks.AT_START and not self._birth.canary:
            self._hooks.start()
            return True
        try:
            with watched_import(self._birth.stack, self._birth.boot_timeout):
                if self._application is None:
                    self._application = loader.load(self._birth.app)
                    if self._birth.hooks is not None:
                        load_hooks(self._birth.hooks)
                self._hooks.start()
                if self._birth.canary:
                    prove(self._application, self._birth.canary)
        except ApplicationError as error:
            body = {"message": channel.shorten(str(error)), "traceback": channel.shorten(error.traceback)}
            channel.send(self._channel, Kind.FAILED, body)
            return False
        return True

    def _accept(self, listener: socket.socket, exchange: Exchange) -> int:
        accept = listener._accept  # type: ignore[attr-defined]  # noqa: SLF001 - the number is all that is needed
        slot = self.slot
        logs = self._logs
        # Not "while not exchange.leave": an unconditional jump is where CPython 3.11 learns to run a loop fast.
        while True:
            if exchange.leave:
                break
            if slot.control[LOG_EPOCH] != logs.seen:
                logs.look()
            if not slot.offer():
                break
            try:
                descriptor, address = accept()
            except OSError as error:
                if self._is_over(error, listener.fileno()):
                    break
                continue
            self._scarce = 0
            slot.leave_idle(READING)
            exchange.serve(descriptor, address)
            if self._is_copy:
                # The application forked, and its child came back out of the application as if it were the worker.
                os._exit(0)
            if logs.troubled() and not logs.may_stay():
                self._logger.error("log_closed", message="a log is no longer ours; the worker leaves and is replaced")
                break
            if self._spends and slot.requests >= self._spent_at:
                self._ask_for_successor()
        return 0

    def _ask_for_successor(self) -> None:
        """Tell the master, once, that this worker has begun as many requests as it should; it serves on until then."""
        self._spends = False
        with contextlib.suppress(OSError):  # the application closed the channel, or the master listens no longer
            channel.send(self._channel, Kind.SPENT)

    def _is_over(self, error: OSError, listener: int) -> bool:
        """Whether accept(2) will never succeed again."""
        if error.errno == errno.EINVAL:
            return True
        if error.errno in _PASSING:
            return False
        if error.errno == errno.EAGAIN:
            # Another holder of an inherited listener made it non-blocking; the flag is shared by all of them.
            os.set_blocking(listener, True)
            return False
        if error.errno in _SCARCE and not (error.errno == errno.EMFILE and self._scarce >= _MOST_EMFILE):
            self._scarce += 1
            self.slot.enter(READING)  # it does not wait for connections, and must not pass for one that does
            if self._scarce.bit_count() == 1:  # the first, and each time that their number has doubled
                self._logger.error("accept_failed", error=os.strerror(error.errno), pause=_SCARCITY_PAUSE)
            time.sleep(_SCARCITY_PAUSE)
            return False
        self._logger.error("accept_failed", error=str(error), message="the worker leaves and is replaced")
        return True

    def _look(self, _number: int, frame: FrameType | None) -> None:
        """The handler of `LOOK_SIGNAL`: what of the control page concerns this worker? Raises `RequestTimeout`."""
        if self._looking:
            return  # a signal within its own handler
        exchange = self._exchange
        self._looking = True
        try:
            if self._listener is not None:
                self._logs.look()
                if self.slot.retire:
                    os.dup2(self._deaf.fileno(), self._listener.fileno(), inheritable=False)
            while self._shown != self.slot.dump:
                self._shown = self.slot.dump
                if exchange is None:
                    self._stack.show(frame, 0, "")
                else:
                    self._stack.show(frame, exchange.deadline.number, exchange.request_id)
                    exchange.deadline.tell_peer()
        finally:
            self._looking = False
        if exchange is not None:
            exchange.deadline.interrupt(frame)

    def _forget(self) -> None:
        """In a child that the application forked: let go of everything that makes this process a worker.

        The child may live long. It must keep neither the queue nor the connection nor the channel open, must not
        write to the slot, and must not answer the request a second time.
        """
        self._is_copy = True
        hooks.enter_worker(None)
        signal.signal(LOOK_SIGNAL, _no_op)
        self._stack.close()
        if self._exchange is not None:
            self._exchange.abandon()
        for held in (self._channel, self._deaf, self._listener):
            if held is not None:
                held.close()
        self._logs.forget()
        self.slot.forget()
        for place in (Place.DOORBELL, Place.STACKS, Place.TAP):
            with contextlib.suppress(OSError):
                os.close(self._birth.gifts[place])


def _no_op(_number: int, _frame: FrameType | None) -> None:
    pass

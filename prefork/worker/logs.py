"""The logs of one worker, and how they are renewed without anybody being restarted.

The master opens a log anew, sends the descriptors down every channel, and then changes the log epoch in the control
page. A worker compares that byte before it writes a line and before it waits for a connection, and takes what was sent.
One that waits already is woken to do the same, so that a rotated file is not held open by who has nothing to write.

The channel is read only once the worker has its listener: before, its orders are waited for in their turn.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from prefork.log import watch_losses
from prefork.policy.access_format import AccessFormat
from prefork.system import channel as wire
from prefork.system.channel import Kind, Order, Place
from prefork.system.controlpage import LOG_EPOCH
from prefork.system.logfile import LogFile
from prefork.system.scoreboard import Slot
from prefork.worker.accesslog import AccessLog

__all__ = ["AccessSettings", "WorkerLogs", "take_logs"]


@dataclass(frozen=True)
class AccessSettings:
    """What every worker of a pool writes to its access log."""

    pool: str
    format: AccessFormat
    suppress: tuple[str, ...]


def take_logs(order: Order, logs: Mapping[Place, LogFile]) -> None:
    """Put what a LOGS message carries behind the logs of this process.

    A process that is out of descriptors gets fewer than were sent (unix(7), MSG_CTRUNC): what is missing is as good as
    stolen, and the process must be replaced, for its log is not the one that is kept.
    """
    for place in order.body["logs"][len(order.descriptors) :]:
        if place in logs:
            logs[place].stolen = True
    for place, descriptor in zip(order.body["logs"], order.descriptors, strict=False):
        log = logs.get(place)
        if log is None:
            os.close(descriptor)
        else:
            log.replace(descriptor)


@final
class WorkerLogs:
    """What a worker writes to: the error log, and the access log if there is one.

    ``seen`` is the log epoch of what was taken last.
    """

    def __init__(self, logs: Mapping[Place, LogFile], channel: socket.socket, slot: Slot) -> None:
        self._logs = logs
        self._error = logs[Place.ERROR_LOG]
        self._access = logs.get(Place.ACCESS_LOG)
        self._channel = channel
        self._slot = slot
        self.seen = -1  # an epoch that never is: what came before the listener may still be unread
        self._renewing = False

    def begin(self, logger: Any) -> None:
        """In a new worker: what could not be written before was not its."""
        for log in self._logs.values():
            log.start_over()
            watch_losses(log, logger, own=log is self._error)

    def watch(self) -> None:
        """From now on look at the epoch before every line."""
        for log in self._logs.values():
            log.before = self.look

    def access_log(self, settings: AccessSettings, parent: int) -> AccessLog | None:
        """The access log, where one is kept."""
        if self._access is None:
            return None
        return AccessLog(
            self._access,
            settings.format,
            settings.suppress,
            pool=settings.pool,
            slot=self._slot.number,
            parent=parent,
        )

    def look(self) -> None:
        """Take what the master sent, if the epoch says that it did."""
        if self._slot.control[LOG_EPOCH] != self.seen and not self._renewing:
            self._renew()

    def _renew(self) -> None:
        # A signal handler looks as well: in between, it must not put an older file behind a newer one.
        self._renewing = True
        try:
            while self._slot.control[LOG_EPOCH] != self.seen:
                # First the number, then the messages: they are all sent before it changes.
                self.seen = self._slot.control[LOG_EPOCH]
                self._drain()
        finally:
            self._renewing = False

    def _drain(self) -> None:
        while True:
            try:
                order = wire.receive_order(self._channel, wait=False)
            except OSError:  # no more; or the application closed the channel
                return
            if order is None:
                return  # the master is gone, and so will be this worker
            if order.kind is Kind.LOGS:
                take_logs(order, self._logs)

    def may_stay(self) -> bool:
        """After a request: whether the logs are still ours; says what was lost, where that can be said again."""
        if self._error.lost and self._error.on_recovery is not None:
            self._error.on_recovery(self._error)
        return not any(log.stolen for log in self._logs.values())

    def end(self) -> None:
        """Before the worker ends: what was lost is not to be forgotten with it."""
        for log in self._logs.values():
            if log.lost and log.on_recovery is not None:
                log.on_recovery(log)

    def troubled(self) -> bool:
        """Whether `may_stay` has anything to look at."""
        access = self._access
        return self._error.lost > 0 or self._error.stolen or (access is not None and (access.lost > 0 or access.stolen))

    def forget(self) -> None:
        """In a child that the application forked."""
        for log in self._logs.values():
            log.forget()

"""The zygote: a fresh interpreter that imports the application once, and forks warm workers from then on.

Started by the master in an interpreter of its own, with exactly the descriptors of `Place` besides the standard
ones; everything else it has to know comes as the first message on its channel. It never accepts a connection, never
outlives the master, and leaves every decision to it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NoReturn

from setproctitle import setproctitle

from prefork import __version__
from prefork.errors import ApplicationError
from prefork.log import Logger, make_logger
from prefork.policy.access_format import parse
from prefork.system import bulletin, channel
from prefork.system.channel import Kind, Order, Place
from prefork.system.logfile import LogFile
from prefork.system.logplaces import adopt, open_log
from prefork.system.processes import die_with_parent, fork_away, leave_process
from prefork.system.stacks import watched_import
from prefork.worker import application as loader
from prefork.worker import loop
from prefork.worker.hooking import load_hooks
from prefork.worker.inside import Paths
from prefork.worker.limits import Limits
from prefork.worker.logs import AccessSettings, take_logs
from prefork.worker.metrics import share_metrics

__all__ = ["IGNORED", "Settings", "Zygote", "main"]

IGNORED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that mean something to the master only; a terminal sends some of them to the whole process group."""


_FORKED_AT_ONCE: Final = 8
"""Workers that are forked together: one process between them and the zygote serves them all."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The first message on the channel."""

    master: int
    version: str
    pool: str
    app: str
    hooks: str | None  # a module
    title: str
    status_path: str  # empty: none
    ping_path: str  # empty: none
    ping_response: str
    generation: int
    slots: int
    load: bool  # import the application here; else each worker does
    fork_anyway: bool  # whatever the import leaves behind
    directory: str
    pythonpath: list[str]
    warmup: list[str]
    boot_timeout: float  # of a worker that loads the application itself
    canary: str  # a path; empty: none
    boot_deadline: float  # of this zygote, on the monotonic clock, which all processes share
    max_children: int
    log_level: str
    log_format: str
    error_log: str  # its name
    access_log: str | None
    access_log_format: str
    access_log_suppress: list[str]
    catch_output: bool
    protocol: str
    allowed_addresses: list[str]
    forwarded_allow: list[str]
    max_header_size: int
    max_header_count: int
    max_body_size: int | None
    header_timeout: float
    body_timeout: float
    body_min_rate: int
    write_timeout: float
    write_min_rate: int
    queue_timeout: float | None
    request_timeout: float | None
    skip_abandoned: bool


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler, because SIG_IGN would be inherited by the programs that the application starts."""


def main() -> NoReturn:
    """Entry point of an exec'ed zygote."""
    gifts: dict[int, int] = {}
    for place in Place:
        try:
            os.set_inheritable(place, False)
        except OSError:
            continue  # nobody asked for an access log
        gifts[place] = int(place)
    Zygote(gifts).live(None)


class Zygote:
    """The process between the master and its workers."""

    def __init__(self, gifts: Mapping[int, int]) -> None:
        self._gifts = gifts
        self._channel = socket.socket(fileno=gifts[Place.CHANNEL])
        self._channel.settimeout(None)
        if Place.BULLETIN in gifts:
            bulletin.lend(gifts[Place.BULLETIN], gifts[Place.BULLETIN_BELL])
        self._logs: dict[Place, LogFile] = {}

    def live(self, application: Any) -> NoReturn:
        """The whole life; with an ``application`` there is nothing to import. Never returns."""
        for number in IGNORED:
            signal.signal(number, _ignore)
        order = channel.receive_order(self._channel)
        if order is None:
            os._exit(0)
        settings = Settings(**order.body)
        die_with_parent(settings.master)
        setproctitle(f"prefork: zygote {settings.title}")
        self._open_logs(settings)
        logger = make_logger(
            self._logs[Place.ERROR_LOG], level=settings.log_level, format=settings.log_format, pool=settings.pool
        )
        status = 0
        try:
            application = self._prepare(settings, application, logger)
            self._serve_forks(settings, application, logger)
        except ApplicationError as error:
            body = {"message": channel.shorten(str(error)), "traceback": channel.shorten(error.traceback)}
            self._tell(Kind.FAILED, body)
            status = error.exit_status
        leave_process(status)

    def _open_logs(self, settings: Settings) -> None:
        given = self._gifts.get(Place.ERROR_LOG)
        error = open_log("stderr", "error_log") if given is None else adopt(given, settings.error_log)
        self._logs[Place.ERROR_LOG] = error
        if settings.catch_output:
            # Each line on its way when it is printed: the reader is a pipe now, which Python would fill first.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        else:
            error.followers = (1, 2)
        access = self._gifts.get(Place.ACCESS_LOG)
        if access is not None and settings.access_log is not None:
            self._logs[Place.ACCESS_LOG] = adopt(access, settings.access_log)

    def _prepare(self, settings: Settings, application: Any, logger: Logger) -> Any:
        _check_version(settings.version)
        loader.enter(settings.directory, settings.pythonpath)
        share_metrics(settings.generation)
        if application is not None or settings.load:
            application = self._load(settings, application, logger)
        left = loader.leftovers(own=(0, 1, 2, self._channel.fileno(), *(log.fileno() for log in self._logs.values())))
        # What the import printed is not to be printed again by every worker.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        unfit = left.unfit if application is not None else []
        if application is not None and left.native_threads:
            logger.info("native_threads", count=left.native_threads, message="workers are forked without them")
        if unfit and settings.fork_anyway:
            logger.warning("forked_anyway", reasons=unfit, message="workers are forked without these threads")
            unfit = []
        gc.collect()
        # What was loaded so far is not looked at by the collector again, so its pages stay shared.
        gc.freeze()
        self._tell(Kind.READY, {"loaded": application is not None, "unfit": unfit})
        return application

    def _load(self, settings: Settings, application: Any, logger: Logger) -> Any:
        with watched_import(self._gifts[Place.STACKS], settings.boot_deadline - time.monotonic()):
            if application is None:
                application = loader.load(settings.app)
            if settings.hooks is not None:
                load_hooks(settings.hooks)
            for path in settings.warmup:
                _warm_up(application, path, logger)
        return application

    def _tell(self, kind: Kind, body: dict[str, Any]) -> None:
        try:
            channel.send(self._channel, kind, body)
        except OSError:
            leave_process(0)  # the master is gone, or listens to this zygote no longer

    def _serve_forks(self, settings: Settings, application: Any, logger: Logger) -> None:
        order = channel.receive_order(self._channel)
        while order is not None and order.kind is not Kind.LEAVE:
            following = None
            if order.kind is Kind.LOGS:
                take_logs(order, self._logs)
                if any(log.stolen for log in self._logs.values()):
                    return  # its workers would inherit the old file: the master starts another zygote
            elif order.kind is Kind.FORK:
                forks, following = self._gather(order)
                self._fork(forks, settings, application, logger)
            order = channel.receive_order(self._channel) if following is None else following

    def _gather(self, order: Order) -> tuple[list[Order], Order | None]:
        """An order to fork with those that have come behind it; and the first other order, if it came."""
        forks = [order]
        while len(forks) < _FORKED_AT_ONCE:
            try:
                following = channel.receive_order(self._channel, wait=False)
            except BlockingIOError:
                return forks, None
            if following is None or following.kind is not Kind.FORK:
                return forks, following
            forks.append(following)
        return forks, None

    def _fork(self, orders: list[Order], settings: Settings, application: Any, logger: Logger) -> None:
        descriptors = [descriptor for order in orders for descriptor in order.descriptors]
        try:
            number = fork_away(len(orders))
        except OSError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            for order in orders:
                self._tell(Kind.NOT_FORKED, {"slot": int(order.body["slot"]), "error": error.strerror})
            return
        mine = None if number is None else orders[number]
        for descriptor in descriptors:
            if mine is None or descriptor not in mine.descriptors:
                os.close(descriptor)
        if mine is not None:
            self._become_worker(mine, settings, application, logger)

    def _become_worker(self, order: Order, settings: Settings, application: Any, logger: Logger) -> None:
        """What this process does from now on; does not return."""
        slot, (workers_end, stack, *output) = int(order.body["slot"]), order.descriptors
        self._channel.close()
        setproctitle(f"prefork: worker {settings.title} #{slot}")
        for number, descriptor in zip((1, 2), output, strict=False):
            os.dup2(descriptor, number)
            os.close(descriptor)
        loop.live(self._birth(settings, order.body, workers_end, stack), application, logger)

    def _birth(self, settings: Settings, asked: Mapping[str, Any], workers_end: int, stack: int) -> loop.Birth:
        return loop.Birth(
            master=settings.master,
            slot=int(asked["slot"]),
            slots=settings.slots,
            generation=settings.generation,
            channel=workers_end,
            stack=stack,
            gifts=self._gifts,
            pool=settings.pool,
            app=settings.app,
            hooks=settings.hooks,
            inside=Paths(settings.pool, settings.status_path, settings.ping_path, settings.ping_response),
            boot_timeout=settings.boot_timeout,
            canary=settings.canary if asked["canary"] else "",
            requests=int(asked["requests"]),
            protocol=settings.protocol,
            allowed_addresses=settings.allowed_addresses,
            forwarded_allow=settings.forwarded_allow,
            limits=Limits(
                max_header_size=settings.max_header_size,
                max_header_count=settings.max_header_count,
                max_body_size=settings.max_body_size,
                header_timeout=settings.header_timeout,
                body_timeout=settings.body_timeout,
                body_min_rate=settings.body_min_rate,
                write_timeout=settings.write_timeout,
                write_min_rate=settings.write_min_rate,
                queue_timeout=settings.queue_timeout,
                request_timeout=settings.request_timeout,
                skip_abandoned=settings.skip_abandoned,
                max_connections=settings.max_children,
            ),
            multiprocess=settings.max_children > 1,
            logs=self._logs,
            access=AccessSettings(
                settings.pool, parse(settings.access_log_format), tuple(settings.access_log_suppress)
            ),
        )


def _check_version(wanted: str) -> None:
    if wanted != __version__:
        raise ApplicationError(
            f"the master is prefork {wanted} and the installed package is {__version__}; "
            "stop the server and start it again to use the new one"
        )


def _warm_up(application: Any, path: str, logger: Logger) -> None:
    try:
        status = loader.warm_up(application, path)
    except Exception:  # noqa: BLE001 - the application's, in a request like any other
        logger.warning("warmup_failed", path=path, traceback=traceback.format_exc())
        return
    if status[:1] in ("2", "3"):
        logger.debug("warmed_up", path=path, status=status)
    else:
        hint = loader.unwelcome(status)
        logger.warning("warmup_failed", path=path, status=status, **({"message": hint} if hint else {}))


if __name__ == "__main__":
    main()

"""What a worker tells of its connections and requests: events, counters in its slot, lines of the access log."""

from __future__ import annotations

import time
import traceback
from typing import Any, Final, final

from prefork.errors import ClientDisconnected, ProtocolError, RequestTimeout
from prefork.policy.model import (
    ABANDONED,
    BAD_REQUESTS,
    CLIENT_TIMEOUTS,
    QUEUE_TIMEOUTS,
    REFUSED_PEERS,
    SOFT_TIMEOUTS,
)
from prefork.protocol.codec import plain_text
from prefork.protocol.request import Request
from prefork.system.peers import unpack_peer
from prefork.system.scoreboard import Slot
from prefork.worker.accesslog import AccessLog
from prefork.worker.deadline import strip
from prefork.worker.queueing import QueueTime
from prefork.worker.transfer import Transfer
from prefork.worker.wsgi import Response

__all__ = ["Notes", "stems_from"]

# What nginx's log calls a client that left before it was answered.
_CLIENT_LEFT: Final = 499


@final
class Notes:
    """One worker's. ``began`` is always when a connection or request came, in monotonic seconds."""

    def __init__(self, slot: Slot, logger: Any, access_log: AccessLog | None) -> None:
        self._slot = slot
        self._logger = logger
        self._access_log = access_log
        self._strangers = 0  # connections from addresses that may not connect

    # -- connections without a request

    def stranger(self, address: Any) -> None:
        """A connection came from an address that may not connect."""
        self._slot.count(REFUSED_PEERS)
        self._strangers += 1
        if self._strangers.bit_count() == 1:  # the first, and every time that their number has doubled
            self._logger.warning("address_refused", address=str(address[0]), refused=self._strangers)

    def unusable(self, descriptor: int, error: OSError) -> None:
        """What was accepted is no connection."""
        self._logger.error("connection_unusable", descriptor=descriptor, error=str(error))

    def strange_protocol(self, reason: str, peer: bytes) -> None:
        """A connection begins as nothing that is spoken here."""
        self._slot.count(BAD_REQUESTS)
        self._logger.warning("protocol_refused", reason=reason, peer=unpack_peer(peer))

    def bad_head(self, error: ProtocolError, peer: bytes) -> None:
        """A request's head breaks the rules of its protocol."""
        self._slot.count(BAD_REQUESTS)
        self._logger.warning("bad_request", reason=str(error), status=error.status, peer=unpack_peer(peer))

    def slow_head(self, error: ClientDisconnected, peer: bytes) -> None:
        """A request's head did not come in time."""
        self._slot.count(CLIENT_TIMEOUTS)
        self._logger.warning("header_timeout", reason=str(error), peer=unpack_peer(peer))

    def no_request(self, status: int, sent: int, began: float) -> None:
        """Something was answered that was no request, or not; ``sent`` are bytes of the answer's body."""
        self._slot.move(0, sent)
        if self._access_log is not None:
            self._access_log.record(None, status, sent, began, "")

    def left(self, error: ClientDisconnected, request_id: str) -> None:
        """The client left where nobody minds."""
        self._logger.debug("client_disconnected", reason=str(error), request_id=request_id)

    def left_in_head(self) -> None:
        """The client sends no more, and its request's head has not ended."""
        self._logger.debug("client_disconnected", reason="closed before the end of the request's head")

    # -- requests that are not run

    def abandoned(self, request: Request, request_id: str, began: float) -> None:
        """Its client left while it waited for a worker."""
        self._slot.count(ABANDONED)
        self._logger.debug("request_abandoned", method=request.method, uri=request.uri, request_id=request_id)
        if self._access_log is not None:
            self._access_log.record(request, _CLIENT_LEFT, 0, began, request_id)

    def late(self, request: Request, request_id: str, queue: QueueTime) -> None:
        """It waited for a worker longer than it may."""
        self._slot.count(QUEUE_TIMEOUTS)
        if queue.refused.bit_count() == 1:  # the first, and every time that their number has doubled
            self._logger.warning(
                "queue_timeout",
                waited=round(queue.waited, 3),
                queue_timeout=queue.timeout,
                refused=queue.refused,
                method=request.method,
                uri=request.uri,
                request_id=request_id,
            )

    def too_large(self, request: Request, request_id: str, allowed: int | None) -> None:
        """Its body is announced larger than it may be."""
        self._logger.warning(
            "body_too_large",
            size=request.content_length,
            max_body_size=allowed,
            uri=request.uri,
            request_id=request_id,
        )

    def refused(self, request: Request, status: int, request_id: str, began: float) -> None:
        """It was not run, but answered by a response of our own, whole."""
        sent = _plain_size(request, status)
        self._slot.move(0, sent)
        if self._access_log is not None:
            self._access_log.record(request, status, sent, began, request_id)

    # -- requests that are run

    def begin(self) -> None:
        """One begins."""
        if self._access_log is not None:
            self._access_log.begin()

    def answered(self, request: Request, response: Response, transfer: Transfer, request_id: str, began: float) -> None:
        """It is over; how it was answered is told by the response, or by what became of it."""
        own = transfer.own_status
        sent = _plain_size(request, own) if own else response.sent if transfer.started else 0
        self._slot.finish(time.monotonic() - began, transfer.received, sent)
        if self._access_log is not None:
            if own:
                self._access_log.record(request, own, sent, began, request_id)
            elif transfer.started:
                self._access_log.record(request, response.status, sent, began, request_id, response.fields)
            else:
                self._access_log.record(request, _CLIENT_LEFT, 0, began, request_id)
        if response.complaint:
            self._logger.warning(
                "response_length",
                reason=response.complaint,
                uri=request.uri,
                method=request.method,
                request_id=request_id,
            )
        if transfer.surplus:
            self._logger.warning("body_surplus", size=transfer.surplus, uri=request.uri, request_id=request_id)

    def failed(self, error: BaseException, transfer: Transfer, request: Request, request_id: str) -> None:
        """The application ended in an exception, its own or one that a client is the cause of."""
        facts: dict[str, Any] = {"method": request.method, "uri": request.uri, "request_id": request_id}
        if not transfer.interrupted or not stems_from(error, ClientDisconnected):
            self._logger.error("request_failed", traceback=_describe(error), **facts)
        elif transfer.refusal:
            self._logger.warning("body_refused", reason=str(error), status=transfer.refusal, **facts)
        else:
            self._logger.debug("client_disconnected", reason=str(error), **facts)

    def timed_out(
        self,
        timeout: RequestTimeout,
        error: BaseException | None,
        request: Request,
        request_id: str,
        began: float,
        allowed: float | None,
    ) -> None:
        """It took too long, and its application was told so. ``error`` is what the application ended in, if it did."""
        passed_on = error is not None and stems_from(error, RequestTimeout)
        shown = error if error is not None and passed_on else timeout
        strip(shown)
        self._slot.count(SOFT_TIMEOUTS)
        self._logger.warning(
            "request_timeout",
            method=request.method,
            uri=request.uri,
            request_id=request_id,
            elapsed=round(time.monotonic() - began, 3),
            request_timeout=allowed,
            caught=not passed_on,
            traceback=_describe(shown),
        )

    def slow_reader(self, request: Request, request_id: str, complaint: str) -> None:
        """Its client took the response too slowly; the connection counts that."""
        self._logger.warning(
            "write_timeout", reason=complaint, method=request.method, uri=request.uri, request_id=request_id
        )

    def task_failed(self, error: BaseException, request_id: str) -> None:
        """What was to be run after a response ended in an exception."""
        self._logger.error("after_response_failed", traceback=_describe(error), request_id=request_id)

    def fault(self, request_id: str) -> None:
        """The exception at hand is a fault of ours."""
        self._logger.error("exchange_failed", traceback=traceback.format_exc(), request_id=request_id)


def _plain_size(request: Request, status: int) -> int:
    return 0 if request.method == "HEAD" else len(plain_text(status))


def stems_from(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an exception is one of this kind, or was raised because of one."""
    for _ in range(20):  # chains may be cyclic
        if error is None:
            return False
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 — an exception of the application may do anything when it is looked at
        return f"{type(error).__name__} (its traceback cannot be formatted)"

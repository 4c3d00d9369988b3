"""One accepted connection, from its first byte to its end: protocol, application, answer, close.

* One request a connection. A peer that asked for more (KEEP_CONN) gets its answer with an end that makes it close,
  and a moment to do so; a request that arrives instead is served.
* No fault of a client or of the application leaves `Exchange.serve`. An exception before the response has begun is
  answered with 500 and no details; later it makes the response visibly broken. Either way there is one log event.
* An application that raises what is no `Exception` (SystemExit, KeyboardInterrupt, GeneratorExit), or that runs out of
  memory, may have left anything half done: it is answered like the others, but the worker takes no more
  connections (`Exchange.leave`).
* A connection that closes without having sent anything is a probe, and no event.

The usual request costs accept(2), recv(2), send(2), close(2) and no other system call.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from prefork import hooks
from prefork.errors import ClientDisconnected, ProtocolError
from prefork.policy.model import FINISHING, READING, RUNNING
from prefork.protocol import codec, detect, fastcgi, http1
from prefork.protocol.codec import Codec, HeadLimits, plain_text
from prefork.protocol.request import Request
from prefork.system.scoreboard import Slot
from prefork.worker.accesslog import AccessLog
from prefork.worker.clock import HttpDate
from prefork.worker.connection import Connection, Peer
from prefork.worker.door import Door
from prefork.worker.limbo import Limbo
from prefork.worker.stream import Errors, FileWrapper, Input
from prefork.worker.transfer import BodyLimits, Transfer
from prefork.worker.wsgi import Response, close_result

__all__ = ["CLOSE_SECONDS", "Exchange", "Limits"]

# How long a peer that keeps connections may take to close this one after its answer (nginx: 78 microseconds).
CLOSE_SECONDS: Final = 0.2

# What nginx's log calls a client that left before it was answered.
_CLIENT_LEFT: Final = 499

# An id that somebody else gave the request: what proxies and tracers make theirs of, and nothing that needs quoting.
_GIVEN_ID: Final = re.compile(r"[0-9A-Za-z._~+/=:@-]{1,128}")


@dataclass(frozen=True)
class Limits:
    """What one request may ask of a worker: bytes and numbers, and seconds of waiting for its client."""

    max_header_size: int = 65_536
    max_header_count: int = 200
    max_body_size: int | None = None
    header_timeout: float = 10.0  # from the first wait to the end of the head
    body_timeout: float = 30.0  # between two pieces
    write_timeout: float = 30.0  # between two pieces
    max_connections: int = 1  # what GET_VALUES answers for FCGI_MAX_CONNS: the pool's max_children


@final
class Exchange:
    """Serves the connections of one worker, one at a time. To be made in the worker's own process."""

    def __init__(
        self,
        application: Callable[..., Any],
        slot: Slot,
        logger: Any,
        limits: Limits,
        *,
        multiprocess: bool,
        door: Door | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.leave = False
        self._application = application
        self._slot = slot
        self._logger = logger
        self._limits = limits
        self._door = Door() if door is None else door
        self._access_log = access_log
        self._request_id = ""  # of the request at hand, or the one just answered
        self._began = 0.0  # when the connection, then its request came; monotonic
        self._limbo = Limbo()
        self._refused = 0  # connections from addresses that may not connect
        self._date = HttpDate().now
        self._head_limits = HeadLimits(limits.max_header_size, limits.max_header_count, limits.max_connections)
        self._body_limits = BodyLimits(limits.max_body_size, limits.body_timeout)
        self._errors = Errors(logger)
        self._connections: dict[int, Connection] = {}
        self._connection: Connection | None = None
        self._afterwards: list[Callable[[], Any]] = []
        self._id_prefix = f"{os.getpid():x}-{time.time_ns() // 1_000_000:x}-"
        self._count = 0
        self._base: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.errors": self._errors,
            "wsgi.multithread": False,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "prefork.after_response": self.after_response,
            "prefork.worker_slot": slot.number,
        }
        hooks.lend(self.after_response)

    def after_response(self, callable: Callable[[], Any]) -> None:
        """``environ["prefork.after_response"]``: see `prefork.hooks.after_response`."""
        if self._connection is None:
            raise RuntimeError("after_response() needs a request that is being served; there is none")
        self._afterwards.append(callable)

    def abandon(self) -> None:
        """In a process that the application forked: the client is the parent's, forget everything about it.

        Closes the copy of the connection's descriptor and leaves the connection itself alone.
        """
        if self._connection is not None:
            self._connection.close()
        self._afterwards = []
        self.close()

    def close(self) -> None:
        """No more connections: let go of the descriptor numbers that were used for them."""
        for connection in self._connections.values():
            connection.forget()
        self._connections = {}
        self._limbo.close()
        hooks.lend(None)

    def serve(self, descriptor: int, address: Any = "") -> None:
        """Serve one accepted connection, from an address as accept(2) tells it, to its end and close it."""
        if not self._door.admits(address):
            self._turn_away(descriptor, address)
            return
        if self._limbo.kept:
            self._limbo.release()
        try:
            connection = self._open(descriptor)
        except OSError as error:
            self._logger.error("connection_unusable", descriptor=descriptor, error=str(error))
            return
        self._connection = connection
        self._request_id = ""
        try:
            self._converse(connection, address)
        except ClientDisconnected as error:
            self._logger.debug("client_disconnected", reason=str(error), request_id=self._request_id)
        # A fault of ours, or what a signal handler of the application raised: this worker is not to be trusted.
        except BaseException:  # noqa: BLE001
            self._logger.error("exchange_failed", traceback=traceback.format_exc(), request_id=self._request_id)
            self.leave = True
        finally:
            if connection.unending:
                self._limbo.keep(connection.descriptor)
            connection.close()
        if self._afterwards:
            self._run_afterwards()
        self._connection = None

    def _open(self, descriptor: int) -> Connection:
        connection = self._connections.get(descriptor)
        if connection is None:
            connection = Connection(descriptor, self._slot, self._limits.write_timeout)
            self._connections[descriptor] = connection
        connection.begin()
        return connection

    def _turn_away(self, descriptor: int, address: Any) -> None:
        os.close(descriptor)
        self._refused += 1
        if self._refused.bit_count() == 1:  # the first, and every time that their number has doubled
            self._logger.warning("address_refused", address=str(address[0]), refused=self._refused)

    def _converse(self, connection: Connection, address: Any) -> None:
        if self._access_log is not None:
            self._began = time.monotonic()
        connection.allow(self._limits.header_timeout)
        data = connection.receive()
        if not data:
            return
        protocol = self._door.protocol(data[0])
        reader: Codec
        if protocol == detect.FASTCGI:
            reader = fastcgi.Reader(self._head_limits)
        elif protocol == detect.HTTP:
            reader = http1.Reader(self._head_limits, self._door.origin(address), self._date)
        else:
            self._refuse_protocol(connection, data[0])
            return
        while True:
            reader.receive(data)
            request = self._read_head(connection, reader)
            if request is None or not self._answer(connection, reader, request):
                return
            if self.leave or self._slot.retire:
                return  # the answer is whole; a peer that goes on talking must not keep this worker from leaving
            self._slot.enter(FINISHING)
            data = connection.wait_for_close(CLOSE_SECONDS)
            if not data:
                return
            self._slot.enter(READING)
            reader.release()
            connection.allow(self._limits.header_timeout)

    def _refuse_protocol(self, connection: Connection, first: int) -> None:
        refusal = detect.refuse(self._door.speaks, first)
        self._logger.warning("protocol_refused", reason=refusal.reason)
        if refusal.answer:
            connection.send([refusal.answer], len(refusal.answer))
            connection.swallow()
        if self._access_log is not None:
            self._access_log.record(None, 400, 0, self._began, "")

    def _read_head(self, connection: Connection, reader: Codec) -> Request | None:
        """The next request; None when there will be none."""
        try:
            while True:
                event = reader.next_event()
                if event == codec.REQUEST:
                    return reader.request
                replies = reader.take_replies()
                if replies:
                    connection.send([replies], len(replies))
                if event == codec.REFUSED:
                    connection.swallow()
                    return None
                data = connection.receive()
                if not data:
                    self._logger.debug("client_disconnected", reason="closed before the end of the request's head")
                    return None
                reader.receive(data)
        except ProtocolError as error:
            self._logger.warning("bad_request", reason=str(error), status=error.status)
            status = error.status
        except ClientDisconnected as error:
            if not connection.timed_out:
                raise
            self._logger.warning("header_timeout", reason=str(error))
            status = 408
        if reader.answerable:
            _send_plain(connection, reader, status)
            connection.swallow()
        if self._access_log is not None:
            self._access_log.record(None, status, len(plain_text(status)) if reader.answerable else 0, self._began, "")
        return None

    def _answer(self, connection: Connection, reader: Codec, request: Request) -> bool:
        """Answer one request; whether the peer may send another on this connection."""
        began = time.monotonic()
        self._slot.begin(RUNNING, request.method, request.uri, began)
        request_id = self._request_id = self._identify(request)
        self._errors.begin(request_id)
        if self._access_log is not None:
            self._began = began
            self._access_log.begin()
        transfer = Transfer(connection, reader, self._errors, self._body_limits, request.content_length)
        if request.content_length > self._body_limits.max_size >= 0:
            self._logger.warning(
                "body_too_large",
                size=request.content_length,
                max_body_size=self._limits.max_body_size,
                uri=request.uri,
                request_id=request_id,
            )
            _send_plain(connection, reader, 413, with_body=request.method != "HEAD")
            if self._access_log is not None:
                transfer.own_status = 413
                self._log_access(self._access_log, Response(transfer, request.method), transfer, request, request_id)
            transfer.drain()
            return False
        self._run(transfer, request, request_id)
        if transfer.broken or transfer.gone or not connection.open:
            return False
        if not transfer.complete:  # aborted: END_REQUEST is still owed
            transfer.send(b"", [], 0, True)
        if reader.keep_connection and transfer.skip_body():
            return not transfer.gone
        if not reader.body_ended:
            self._slot.enter(FINISHING)
        transfer.drain()
        return False

    def _identify(self, request: Request) -> str:
        """The request's id: the proxy's (a parameter of its own, else the header that came through it), or ours."""
        environ = request.environ
        given: Any = environ.get("REQUEST_ID") or environ.get("HTTP_X_REQUEST_ID")
        if given and _GIVEN_ID.fullmatch(given) is not None:
            found: str = given
            return found
        self._count += 1
        return self._id_prefix + str(self._count)

    def _log_access(
        self, log: AccessLog, response: Response, transfer: Transfer, request: Request, request_id: str
    ) -> None:
        """The line of an answered request; how it was answered is told by the response, or by what became of it."""
        status, sent, fields = response.status, response.sent, response.fields
        if transfer.own_status:
            status, fields = transfer.own_status, ""
            sent = 0 if request.method == "HEAD" else len(plain_text(status))
        elif not transfer.started:
            status, sent, fields = _CLIENT_LEFT, 0, ""
        log.record(request, status, sent, self._began, request_id, fields)

    def _run(self, transfer: Transfer, request: Request, request_id: str) -> None:
        """Run the application and send what it answers, or what its failure makes of the answer."""
        response = Response(transfer, request.method)
        body = Input(transfer)
        environ = request.environ
        environ.update(self._base)
        environ["wsgi.input"] = body
        environ["wsgi.url_scheme"] = request.scheme
        environ["prefork.request_id"] = request_id
        if self._door.is_unix:
            environ["prefork.peer"] = Peer(transfer.connection)
        try:
            result = self._application(environ, response.start_response)
            try:
                response.deliver(result)
            finally:
                close_result(result)
        except BaseException as error:  # noqa: BLE001 — the application's boundary: whatever it raises ends here
            self._failed(error, transfer, request, request_id)
        body.finish()
        self._errors.flush()
        if self._access_log is not None:
            self._log_access(self._access_log, response, transfer, request, request_id)
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

    def _failed(self, error: BaseException, transfer: Transfer, request: Request, request_id: str) -> None:
        """The application ended in an exception: log it, and answer what can still be answered."""
        facts: dict[str, Any] = {"method": request.method, "uri": request.uri, "request_id": request_id}
        if not transfer.interrupted or not _stems_from_client(error):
            self._logger.error("request_failed", traceback=_describe(error), **facts)
        elif transfer.refusal:
            self._logger.warning("body_refused", reason=str(error), status=transfer.refusal, **facts)
        else:
            self._logger.debug("client_disconnected", reason=str(error), **facts)
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            self.leave = True
        if transfer.gone or transfer.aborted or transfer.complete or transfer.broken:
            return
        try:
            if transfer.started:
                transfer.break_off()
            else:
                transfer.send_plain(transfer.refusal or 500, request.method != "HEAD")
        except ClientDisconnected as gone:
            self._logger.debug("client_disconnected", reason=str(gone), **facts)

    def _run_afterwards(self) -> None:
        self._slot.enter(FINISHING)
        while self._afterwards:
            task = self._afterwards.pop(0)
            try:
                task()
            except BaseException as error:  # noqa: BLE001 — as for the application itself
                self._logger.error("after_response_failed", traceback=_describe(error), request_id=self._request_id)
                if not isinstance(error, Exception) or isinstance(error, MemoryError):
                    self.leave = True


def _send_plain(connection: Connection, reader: Codec, status: int, *, with_body: bool = True) -> None:
    answer = reader.encode_plain(status, with_body)
    connection.send(answer, sum(map(len, answer)))


def _stems_from_client(error: BaseException | None) -> bool:
    """Whether an exception is, or was raised because of, the client's disconnection."""
    for _ in range(20):  # chains may be cyclic
        if error is None:
            return False
        if isinstance(error, ClientDisconnected):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 — an exception of the application may do anything when it is looked at
        return f"{type(error).__name__} (its traceback cannot be formatted)"

"""One accepted connection, from its first byte to its end: protocol, application, answer, close.

* One request a connection. A peer that asked for more (KEEP_CONN) gets its answer with an end that makes it close,
  and a moment to do so; a request that arrives instead is served.
* No fault of a client or of the application leaves `Exchange.serve`. An exception before the response has begun is
  answered with 500 and no details; later it makes the response visibly broken. Either way there is one log event.
* An application that raises what is no `Exception` (SystemExit, KeyboardInterrupt, GeneratorExit), or that runs out of
  memory, may have left anything half done: it is answered like the others, but the worker takes no more
  connections (`Exchange.leave`). So does one that took too long (`RequestTimeout`, answered with 504).
* A connection that closes without having sent anything is a probe, and no event.

The usual request costs accept(2), recv(2), send(2), close(2) and no other system call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final, final

from prefork import hooks
from prefork.errors import ClientDisconnected, ProtocolError, RequestTimeout
from prefork.policy.model import FINISHING, READING, RUNNING
from prefork.protocol import codec, detect, fastcgi, http1
from prefork.protocol.codec import Codec, HeadLimits, plain_text
from prefork.protocol.fastcgi_params import CGI_VARIABLES, Decoder
from prefork.protocol.request import Request
from prefork.system.controlpage import TAP, WAITING, WATCHED
from prefork.system.scoreboard import Slot
from prefork.worker.accesslog import AccessLog
from prefork.worker.clock import HttpDate
from prefork.worker.connection import Connection
from prefork.worker.deadline import Deadline
from prefork.worker.door import Door
from prefork.worker.environ import environ_of
from prefork.worker.limbo import Limbo
from prefork.worker.limits import Limits
from prefork.worker.notes import Notes, stems_from
from prefork.worker.peer import Peer
from prefork.worker.queueing import QueueTime
from prefork.worker.request_ids import RequestIds
from prefork.worker.stream import Errors, Input
from prefork.worker.tap import Tap
from prefork.worker.transfer import BodyLimits, Transfer
from prefork.worker.wsgi import Response, close_result

__all__ = ["CLOSE_SECONDS", "Exchange"]

# How long a peer that keeps connections may take to close this one after its answer (nginx: 78 microseconds).
CLOSE_SECONDS: Final = 0.2


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
        tap: int = -1,
    ) -> None:
        self.leave = False
        self._application = application
        self._slot = slot
        self._limits = limits
        self._door = Door() if door is None else door
        self._notes = Notes(slot, logger, access_log)
        self._logs_access = access_log is not None
        self._tap = Tap(slot, tap)
        self._request_id = ""  # of the request at hand, or the one just answered
        self._began = 0.0  # when the connection, then its request came; monotonic
        self._limbo = Limbo()
        self._date = HttpDate().now
        self._head_limits = HeadLimits(limits.max_header_size, limits.max_header_count, limits.max_connections)
        self._body_limits = BodyLimits(limits.max_body_size, limits.body_timeout, limits.body_min_rate)
        self._queue = QueueTime(limits.queue_timeout)
        self.deadline = Deadline(slot, limits.request_timeout)
        self._errors = Errors(logger, self.deadline)
        self._connections: dict[int, Connection] = {}
        self._connection: Connection | None = None
        self._afterwards: list[Callable[[], Any]] = []
        self._ids = RequestIds()
        self._base = environ_of(self._errors, self.after_response, self.deadline, slot.number, multiprocess)
        self._decoder = Decoder(limits.max_header_count + CGI_VARIABLES, self._base, limits.max_header_count)
        self._reader = fastcgi.Reader(self._head_limits, self._decoder)
        hooks.lend(self.after_response, self.deadline.extend)

    def after_response(self, callable: Callable[[], Any]) -> None:
        """``environ["prefork.after_response"]``: see `prefork.hooks.after_response`."""
        if self._connection is None:
            raise RuntimeError("after_response() needs a request that is being served; there is none")
        self._afterwards.append(callable)

    @property
    def request_id(self) -> str:
        """Of the request at hand, or the one just answered."""
        return self._request_id

    def abandon(self) -> None:
        """In a process that the application forked: the client is the parent's, forget everything about it.

        Closes the copy of the connection's descriptor and leaves the connection itself alone.
        """
        if self._connection is not None:
            self._connection.close()
        self._afterwards = []
        self.deadline.end()
        self.close()

    def close(self) -> None:
        """No more connections: let go of the descriptor numbers that were used for them."""
        for connection in self._connections.values():
            connection.forget()
        self._connections = {}
        self._limbo.close()
        self._tap.close()
        hooks.lend(None, None)

    def serve(self, descriptor: int, address: Any = "") -> None:
        """Serve one accepted connection, from an address as accept(2) tells it, to its end and close it."""
        if self._door.is_guarded and not self._door.admits(address):
            os.close(descriptor)
            self._notes.stranger(address)
            return
        if self._limbo.kept:
            self._limbo.release()
        connection = self._connections.get(descriptor)
        if connection is None:
            connection = self._open(descriptor)
            if connection is None:
                return
        connection.begin(self._limits.header_timeout, self._door.peer(address))
        self._connection = connection
        self._request_id = ""
        try:
            self._converse(connection, address)
        except ClientDisconnected as error:
            self._notes.left(error, self._request_id)
        # A fault of ours, or what a signal handler of the application raised: this worker is not to be trusted.
        except BaseException:  # noqa: BLE001
            self._notes.fault(self._request_id)
            self.leave = True
        finally:
            if connection.unending:
                self._limbo.keep(connection.descriptor)
            connection.close()
            if not self._reader.renew():
                self._reader = fastcgi.Reader(self._head_limits, self._decoder)
        if self._afterwards:
            self._run_afterwards()
        self._connection = None

    def _open(self, descriptor: int) -> Connection | None:
        """For the first connection that has this number; None if it cannot be used."""
        limits = self._limits
        try:
            connection = Connection(descriptor, self._slot, limits.write_timeout, limits.write_min_rate)
        except OSError as error:
            self._notes.unusable(descriptor, error)
            return None
        self._connections[descriptor] = connection
        return connection

    def _converse(self, connection: Connection, address: Any) -> None:
        if self._logs_access:
            self._began = time.monotonic()
        try:
            data = connection.receive()
        except ClientDisconnected as error:
            if not connection.timed_out:
                raise
            self._notes.slow_head(error, connection.ask_peer())
            self._tap.refuse(connection, 0, str(error))
            return
        if not data:
            return
        protocol = self._door.by_first_byte[data[0]]
        reader: Codec = self._reader
        if protocol == detect.HTTP:
            reader = http1.Reader(self._head_limits, self._door.origin(address), self._date, self._base)
        elif protocol != detect.FASTCGI:
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
            if self._logs_access:
                self._began = time.monotonic()
            reader.release()
            connection.allow(self._limits.header_timeout)

    def _refuse_protocol(self, connection: Connection, first: int) -> None:
        refusal = detect.refuse(self._door.speaks, first)
        self._notes.strange_protocol(refusal.reason, connection.ask_peer())
        self._tap.refuse(connection, 400, refusal.reason)
        if refusal.answer:
            connection.send([refusal.answer], len(refusal.answer))
            connection.swallow()
        self._notes.no_request(400, 0, self._began)

    def _read_head(self, connection: Connection, reader: Codec) -> Request | None:
        """The next request; None when there will be none."""
        try:
            while True:
                event = reader.next_event()
                if event == codec.REQUEST and not reader.owes:
                    return reader.request
                replies = reader.take_replies()
                if replies:
                    connection.send([replies], len(replies))
                if event == codec.REQUEST:
                    return reader.request
                if event == codec.REFUSED:
                    connection.swallow()
                    return None
                data = connection.receive()
                if not data:
                    self._notes.left_in_head()
                    self._tap.refuse(connection, 0, "the client left before the end of its request's head")
                    return None
                reader.receive(data)
        except ProtocolError as error:
            self._notes.bad_head(error, connection.ask_peer())
            status, reason = error.status, str(error)
        except ClientDisconnected as error:
            if not connection.timed_out:
                raise
            self._notes.slow_head(error, connection.ask_peer())
            status, reason = 408, str(error)
        self._tap.refuse(connection, status if reader.answerable else 0, reason)
        if reader.answerable:
            _send_plain(connection, reader, status)
            connection.swallow()
        self._notes.no_request(status, len(plain_text(status)) if reader.answerable else 0, self._began)
        return None

    def _answer(self, connection: Connection, reader: Codec, request: Request) -> bool:
        """Answer one request; whether the peer may send another on this connection."""
        began = time.monotonic()
        queue = self._queue
        queue.measure(request.environ, began)
        if queue.waited >= 0.0:
            self._slot.wait(queue.waited)
        if self._slot.control[WAITING] and self._limits.skip_abandoned and connection.is_abandoned():
            self._request_id = self._ids.choose(request.environ)
            self._notes.abandoned(request, self._request_id, self._began)
            self._tap.turn_away(connection, reader, request, self._request_id, 0, "its client left while it waited")
            return False
        if queue.waited > queue.timeout:
            return self._refuse_late(connection, reader, request)
        peer = connection.ask_peer() if self._slot.control[WATCHED] else connection.peer
        self._slot.begin(RUNNING, request.method, request.uri, began, queue.waited, request.content_length, peer)
        request_id = self._request_id = self._ids.choose(request.environ)
        self._errors.request_id = request_id
        if self._errors.pending:
            self._errors.discard()
        if self._logs_access:
            self._notes.begin()
        transfer = Transfer(connection, reader, self._errors, self._body_limits, request.content_length)
        if request.content_length > self._body_limits.max_size >= 0:
            self._notes.too_large(request, request_id, self._limits.max_body_size)
            self._tap.turn_away(connection, reader, request, request_id, 413, "its body is too large (max_body_size)")
            _send_plain(connection, reader, 413, with_body=request.method != "HEAD")
            self._notes.refused(request, 413, request_id, began)
            transfer.drain()
            return False
        self._run(transfer, request, request_id, began)
        if transfer.broken or transfer.gone or not connection.open:
            if connection.stalled:
                self._notes.slow_reader(request, request_id, connection.complaint)
            return False
        if not transfer.complete:  # aborted: END_REQUEST is still owed
            transfer.send(b"", [], 0, True)
        if reader.keep_connection and transfer.skip_body():
            return not transfer.gone
        if transfer.interrupted or not reader.is_over():
            self._drain(transfer)
        return False

    def _drain(self, transfer: Transfer) -> None:
        if not transfer.reader.body_ended:
            self._slot.enter(FINISHING)
        transfer.drain()

    def _refuse_late(self, connection: Connection, reader: Codec, request: Request) -> bool:
        """It waited longer than it may: answer so, without running it; returns as `_answer`."""
        queue = self._queue
        queue.refused += 1
        request_id = self._request_id = self._ids.choose(request.environ)
        self._errors.begin(request_id)
        self._notes.late(request, request_id, queue)
        reason = f"it waited {queue.waited:.3f} s for a worker (queue_timeout)"
        self._tap.turn_away(connection, reader, request, request_id, 503, reason)
        transfer = Transfer(connection, reader, self._errors, self._body_limits, request.content_length)
        transfer.send_plain(503, request.method != "HEAD", f"Retry-After: {queue.retry_after}\r\n")
        self._notes.refused(request, 503, request_id, self._began)
        if reader.keep_connection and transfer.skip_body():
            return not transfer.gone
        self._drain(transfer)
        return False

    def _run(self, transfer: Transfer, request: Request, request_id: str, began: float) -> None:
        """Run the application and send what it answers, or what its failure makes of the answer."""
        if self._slot.control[TAP]:
            self._tap.begin(transfer.connection, transfer.reader, request, request_id, began, self._queue.waited)
            transfer.tap = self._tap
        deadline = self.deadline
        response = Response(transfer, request.method, deadline)
        body = Input(transfer, deadline)
        environ = request.environ
        environ["wsgi.input"] = body
        environ["wsgi.url_scheme"] = request.scheme
        environ["prefork.request_id"] = request_id
        if self._door.is_unix:
            environ["prefork.peer"] = Peer(transfer.connection)
        deadline.begin(transfer.connection, began)
        try:
            deadline.in_server = False
            result = self._application(environ, response.start_response)
            deadline.in_server = True
            try:
                response.deliver(result)
            finally:
                deadline.in_server = True
                if type(result) is not list:
                    close_result(result)
        except BaseException as error:  # noqa: BLE001 — the application's boundary: whatever it raises ends here
            deadline.end()
            if transfer.connection.overdue is not None:
                self._note_timeout(transfer.connection.overdue, error, request, request_id, began)
            self._failed(error, transfer, request, request_id)
        else:
            deadline.end()
            if transfer.connection.overdue is not None:
                self._note_timeout(transfer.connection.overdue, None, request, request_id, began)
        body.finish()
        if self._errors.unfinished:
            self._errors.flush()
        self._notes.answered(request, response, transfer, request_id, began)
        if transfer.tap is not None:
            transfer.tell_end()

    def _failed(self, error: BaseException, transfer: Transfer, request: Request, request_id: str) -> None:
        """The application ended in an exception: log it, and answer what can still be answered."""
        late = transfer.connection.overdue is not None and stems_from(error, RequestTimeout)
        if not late:  # else it was noted
            self._notes.failed(error, transfer, request, request_id)
        if transfer.tap is not None:
            transfer.tap.failure = type(error).__name__
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            self.leave = True
        if transfer.gone or transfer.aborted or transfer.complete or transfer.broken:
            return
        try:
            if transfer.started:
                transfer.break_off()
            else:
                transfer.send_plain(504 if late else transfer.refusal or 500, request.method != "HEAD")
        except ClientDisconnected as gone:
            self._notes.left(gone, request_id)

    def _note_timeout(
        self, timeout: RequestTimeout, error: BaseException | None, request: Request, request_id: str, began: float
    ) -> None:
        self._notes.timed_out(timeout, error, request, request_id, began, self._limits.request_timeout)
        self.leave = True

    def _run_afterwards(self) -> None:
        self._slot.enter(FINISHING)
        while self._afterwards:
            task = self._afterwards.pop(0)
            try:
                task()
            except BaseException as error:  # noqa: BLE001 — as for the application itself
                self._notes.task_failed(error, self._request_id)
                if not isinstance(error, Exception) or isinstance(error, MemoryError):
                    self.leave = True


def _send_plain(connection: Connection, reader: Codec, status: int, *, with_body: bool = True) -> None:
    answer = reader.encode_plain(status, with_body)
    connection.send(answer, sum(map(len, answer)))

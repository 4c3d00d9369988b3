"""One accepted connection: bytes in, bytes out, every wait bounded.

* Reads and writes are tried first (``MSG_DONTWAIT``) and waited for only when that fails: a small request and its
  small response cost one recv(2) and one send(2), and no clock is read for them.
* Only waiting for the client counts against its time (`Pace`): what an application takes between two writes is not
  the client's slowness.
* Writes never raise SIGPIPE (``MSG_NOSIGNAL``): an application may have reset that signal.
* A `Connection` belongs to a descriptor *number* and is used again for the next connection that gets this number
  (accept(2) returns the lowest free one, nearly always the same), because a new socket object costs a getsockname(2).
* However a client goes away, or is cut off, that is `ClientDisconnected`: an OSError, also inside the application.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from typing import Final, final

from prefork.errors import ClientDisconnected, RequestTimeout
from prefork.policy.model import CLIENT_TIMEOUTS, RUNNING, WRITING
from prefork.policy.pace import Pace
from prefork.system.peers import UCRED
from prefork.system.scoreboard import Slot
from prefork.system.untaken import untaken

__all__ = ["AGAIN", "DRAIN_BYTES", "DRAIN_SECONDS", "Connection"]

AGAIN: Final = 0.9
"""Seconds after which an application that went on after a `RequestTimeout` gets the next; the master signals it once a
second."""

# Twice the largest STDIN record of nginx (32 KiB), and the largest record of all with its header.
_RECEIVE_SIZE: Final = 65_552
# Up to here one copy is cheaper than a list of buffers for sendmsg(2).
_JOIN_SIZE: Final = 65_536
_MAX_BUFFERS: Final = 1_024  # IOV_MAX, limits.h

_RECEIVE_FLAGS: Final = int(socket.MSG_DONTWAIT)
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
# How much of an unread request is read and thrown away before closing, so that the peer reads our response instead of
# a reset. nginx's own figure is 30 s, without a bound on bytes (lingering_time); a worker is worth more.
DRAIN_SECONDS: Final = 2.0
DRAIN_BYTES: Final = 67_108_864

# A client that makes room for more of its response within this time is not slow: nothing is measured and no clock is
# read. Of one that is too slow, and still takes some, no more often than this is asked how much.
_GLANCE: Final = 0.25  # seconds

_SOL_SOCKET: Final = int(socket.SOL_SOCKET)
_SO_PEERCRED: Final = int(socket.SO_PEERCRED)
_UCRED_SIZE: Final = UCRED.size

_GONE: Final = select.POLLHUP | select.POLLERR

_RESET: Final = struct.pack("ii", 1, 0)  # struct linger, socket(7): on, no seconds

_CLOSED: Final = "the connection is closed"

# What a descriptor that the application closed, or closed and used again, answers.
_STOLEN: Final = (errno.EBADF, errno.ENOTSOCK)


@final
class Connection:
    """The connections that have one descriptor number, one after the other.

    ``timed_out`` says that the peer was too slow in sending, ``stalled`` that it was too slow in receiving, which
    ``complaint`` tells in words. ``until`` is when the request at hand must be over (monotonic seconds; 0: never): a
    wait for its body or for room for its response that lasts so long raises `RequestTimeout`. Whoever sets it takes it
    back when the application has ended. ``overdue`` is the last one that was raised; from then on, ``until`` is
    `AGAIN` seconds later.
    """

    def __init__(self, descriptor: int, slot: Slot, write_timeout: float, write_min_rate: int = 0) -> None:
        self.descriptor = descriptor
        self.serial = 0  # which connection of this number it is
        self.peer = b""
        self.open = False
        self.timed_out = False
        self.stalled = False
        self.complaint = ""
        self.stolen = False
        self.unending = False
        self.until = 0.0
        self.overdue: RequestTimeout | None = None
        self._slot = slot
        self._write_timeout = write_timeout
        self._write_min_rate = write_min_rate
        self._glance = min(_GLANCE, write_timeout / 4)
        self._output: Pace | None = None
        self._output_serial = 0  # whose pace that is
        self._socket = socket.socket(fileno=descriptor)
        # An application's socket.setdefaulttimeout() would put a poll(2) before every call.
        self._socket.settimeout(None)
        self._readable = select.poll()
        self._readable.register(descriptor, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._patience = 0.0
        self._deadline = 0.0
        self._blocking = True

    def begin(self, patience: float = 0.0, peer: bytes = b"") -> None:
        """A new connection has this number now, from a peer that is known or not; see `allow` and `ask_peer`."""
        self.serial += 1
        self.peer = peer
        self.open = True
        self.timed_out = False
        self.stalled = False
        self.stolen = False
        self.unending = False
        self.until = 0.0
        self.overdue = None
        self._blocking = True
        self._patience = patience
        self._deadline = 0.0

    def forget(self) -> None:
        """Let go of the number without closing it: it may be somebody else's by now."""
        self.open = False
        self._socket.detach()

    def allow(self, seconds: float) -> None:
        """How long the calls of `receive` from now on may wait, all together; counted from the first wait."""
        self._patience = seconds
        self._deadline = 0.0

    def receive(self) -> bytes:
        """What the peer sent; ``b""`` when it will send no more. Raises `ClientDisconnected`."""
        while True:
            if not self.open:
                raise ClientDisconnected(_CLOSED)
            try:
                data: bytes = self._socket.recv(_RECEIVE_SIZE, _RECEIVE_FLAGS)
            except BlockingIOError:
                self._wait_for_input()
                continue
            except OSError as error:
                raise self._lost(error) from error
            return data

    def receive_now(self) -> bytes | None:
        """As `receive`, but None instead of waiting."""
        self._check_open()
        try:
            return self._socket.recv(_RECEIVE_SIZE, _RECEIVE_FLAGS)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from error

    def _wait_for_input(self) -> None:
        now = time.monotonic()
        if self._deadline == 0.0:
            self._deadline = now + self._patience
        if now >= self._deadline or not self._readable.poll((self._deadline - now) * 1000):
            self.timed_out = True
            raise ClientDisconnected(f"the client sent nothing for {self._patience:g} s")

    def receive_body(self, pace: Pace) -> bytes:
        """As `receive`, but the client may take as long as its pace allows. Raises `RequestTimeout`, too."""
        while True:
            data = self.receive_now()
            if data is not None:
                pace.moved(len(data))
                return data
            if not self._wait(self._readable, pace, pace.left):  # nothing, and nothing has moved meanwhile
                if not self.timed_out:
                    self.timed_out = True
                    self._slot.count(CLIENT_TIMEOUTS)
                sent = "nothing" if pace.stands_still else f"less than {pace.min_rate} bytes a second"
                raise ClientDisconnected(f"the client sent {sent} of its body and is {pace.timeout:g} s behind")

    def _wait(self, poll: select.poll, pace: Pace, seconds: float) -> bool:
        """Wait for the client; False if that was in vain. Raises `RequestTimeout` when the request's time is over."""
        began = time.monotonic()
        until = self.until
        bounded = 0.0 < until < began + seconds
        if bounded:
            seconds = until - began
        seconds = max(0.0, seconds)
        ready = poll.poll(seconds * 1000)
        # That this process was stopped, or had no processor, is not the client's fault.
        pace.waited(min(time.monotonic() - began, seconds))
        if ready:
            return True
        if bounded:
            raise self.time_out("the request took longer than it may (request_timeout), waiting for its client")
        return False

    def time_out(self, reason: str) -> RequestTimeout:
        """What to raise when the request's time is over; the application has a moment for its cleaning up."""
        self.until = time.monotonic() + AGAIN
        error = self.overdue = RequestTimeout(reason)
        return error

    def send(self, buffers: list[bytes | memoryview], size: int) -> None:
        """Send all of the buffers, ``size`` bytes or a little more. Raises `ClientDisconnected`."""
        if not self.open:
            raise ClientDisconnected(_CLOSED)
        if size <= _JOIN_SIZE:
            data = b"".join(buffers)
            try:
                sent: int = self._socket.send(data, _SEND_FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise self._lost(error) from error
            if sent == len(data):
                return
            buffers = [memoryview(data)[sent:]]
            self._wait_for_room()
        first = 0
        while True:
            sent = self._send_list(buffers[first : first + _MAX_BUFFERS])
            while first < len(buffers) and sent >= len(buffers[first]):
                sent -= len(buffers[first])
                first += 1
            if first == len(buffers):
                return
            if sent:
                buffers[first] = memoryview(buffers[first])[sent:]
            self._wait_for_room()

    def _send_list(self, buffers: list[bytes | memoryview]) -> int:
        try:
            return self._socket.sendmsg(buffers, (), _SEND_FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error

    def _wait_for_room(self) -> None:
        """Wait until the peer has taken something; the master sees this worker as writing meanwhile."""
        self._slot.enter(WRITING)
        try:
            glance = self._glance
            if self.until:
                glance = max(0.0, min(glance, self.until - time.monotonic()))
            if not self._writable.poll(glance * 1000):
                self._wait_for_slow_peer(glance)
        finally:
            self._slot.enter(RUNNING)

    def _wait_for_slow_peer(self, waited: float) -> None:
        pace = self._output
        if pace is None or self._output_serial != self.serial:
            pace = self._output = Pace(self._write_timeout, self._write_min_rate)
            self._output_serial = self.serial
        pace.waited(waited)
        left = self._untaken()
        while not self._wait(self._writable, pace, max(pace.left, self._glance)):
            before, left = left, self._untaken()
            pace.moved(before - left)
            if pace.left <= 0.0:
                self._give_up(pace)
        pace.moved(left - self._untaken())

    def _untaken(self) -> int:
        try:
            return untaken(self._socket)
        except OSError as error:
            raise self._lost(error) from error

    def _give_up(self, pace: Pace) -> None:
        self.stalled = True
        self._slot.count(CLIENT_TIMEOUTS)
        taken = "nothing" if pace.stands_still else f"less than {pace.min_rate} bytes a second"
        self.complaint = f"the client took {taken} of the response and is {pace.timeout:g} s behind"
        raise ClientDisconnected(self.complaint)

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send a piece of a file by sendfile(2); returns how much of it could be read. Raises `ClientDisconnected`.

        Not for a process in which SIGPIPE has its default action: sendfile(2) knows no MSG_NOSIGNAL.
        """
        self._check_open()
        if self._blocking:  # sendfile(2) knows no MSG_DONTWAIT either
            os.set_blocking(self.descriptor, False)
            self._blocking = False
        done = 0
        while done < count:
            try:
                sent = os.sendfile(self.descriptor, descriptor, offset + done, count - done)
            except BlockingIOError:
                self._wait_for_room()
                continue
            except (BrokenPipeError, ConnectionError) as error:
                raise self._lost(error) from error
            except OSError:  # a file that can be read but not mapped (EINVAL), or not even that (EIO)
                data = _read_at(descriptor, min(count - done, _JOIN_SIZE), offset + done)
                self.send([data], len(data))
                sent = len(data)
            if sent == 0:
                break
            done += sent
        return done

    def is_abandoned(self) -> bool:
        """Whether the peer has closed the connection; one that only ended its own sending has not.

        On TCP the two cannot be told apart, and the answer is no, unless the peer reset the connection.
        """
        ready = self._readable.poll(0)
        return len(ready) > 0 and ready[0][1] & _GONE != 0

    def wait_for_close(self, seconds: float) -> bytes:
        """Give the peer time to close; what it sent instead, or ``b""``."""
        if not self.open or not self._readable.poll(seconds * 1000):
            return b""
        try:
            return self.receive_now() or b""
        except ClientDisconnected:
            return b""

    def shut_output(self) -> None:
        """Tell the peer that nothing more follows, while what it still sends can be read."""
        if self.open:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it is gone already

    def swallow(self) -> None:
        """End the output, then read and throw away what the peer still sends, within bounds, until it closes."""
        self.shut_output()
        self.allow(DRAIN_SECONDS)
        budget = DRAIN_BYTES
        try:
            while budget > 0:
                data = self.receive()
                if not data:
                    return
                budget -= len(data)
        except ClientDisconnected:
            return

    def ask_peer(self) -> bytes:
        """``peer``: who connected, packed (`prefork.system.peers`). Asked for once a connection; empty if unknown."""
        if not self.peer and self.open:
            try:
                self.peer = self._socket.getsockopt(_SOL_SOCKET, _SO_PEERCRED, _UCRED_SIZE)
            except OSError:
                pass  # the application closed the descriptor
        return self.peer

    def close(self) -> None:
        """Close the descriptor, once, and only while it is still ours."""
        if self.open:
            self.open = False
            if not self.stolen:
                try:
                    os.close(self.descriptor)
                except OSError:
                    self.stolen = True

    def spoil_end(self) -> None:
        """See that the peer does not take the end of this connection for an orderly one.

        By a reset, where the socket has one (TCP); else it is ``unending``: to be kept open.
        """
        if self.open and self._socket.family == socket.AF_UNIX:
            self.unending = True
        elif self.open:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _check_open(self) -> None:
        if not self.open:
            raise ClientDisconnected(_CLOSED)

    def _lost(self, error: OSError) -> ClientDisconnected:
        if error.errno in _STOLEN:
            self.stolen = True
            self.open = False
            return ClientDisconnected(f"the application closed descriptor {self.descriptor}, which was the client's")
        return ClientDisconnected(f"the client closed the connection ({os.strerror(error.errno or 0)})")


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, size, offset)
    except OSError:
        return b""

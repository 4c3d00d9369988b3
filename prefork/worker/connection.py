"""One accepted connection: bytes in, bytes out, every wait bounded.

* Reads and writes are tried first (``MSG_DONTWAIT``) and waited for only when that fails: a small request and its
  small response cost one recv(2) and one send(2), and no clock is read for them.
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
from collections.abc import Iterator
from typing import Any, Final, final

from prefork.errors import ClientDisconnected
from prefork.policy.model import RUNNING, WRITING
from prefork.system.scoreboard import Slot

__all__ = ["DRAIN_BYTES", "DRAIN_SECONDS", "Connection", "Peer"]

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

_UCRED: Final = struct.Struct("iII")  # struct ucred, unix(7)

_RESET: Final = struct.pack("ii", 1, 0)  # struct linger, socket(7): on, no seconds

# What a descriptor that the application closed, or closed and used again, answers.
_STOLEN: Final = (errno.EBADF, errno.ENOTSOCK)


@final
class Connection:
    """The connections that have one descriptor number, one after the other."""

    def __init__(self, descriptor: int, slot: Slot, write_timeout: float) -> None:
        self.descriptor = descriptor
        self.serial = 0  # which connection of this number it is
        self.open = False
        self.timed_out = False
        self.stolen = False
        self.unending = False
        self._slot = slot
        self._write_timeout = write_timeout
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

    def begin(self) -> None:
        """A new connection has this number now."""
        self.serial += 1
        self.open = True
        self.timed_out = False
        self.stolen = False
        self.unending = False
        self._blocking = True

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
            data = self.receive_now()
            if data is not None:
                return data
            self._wait_for_input()

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

    def send(self, buffers: list[bytes | memoryview], size: int) -> None:
        """Send all of the buffers, ``size`` bytes or a little more. Raises `ClientDisconnected`."""
        self._check_open()
        if size <= _JOIN_SIZE:
            data = b"".join(buffers)
            sent = self._send_some(data)
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

    def _send_some(self, data: bytes) -> int:
        try:
            return self._socket.send(data, _SEND_FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error

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
        ready = self._writable.poll(self._write_timeout * 1000)
        self._slot.enter(RUNNING)
        if not ready:
            self.timed_out = True
            raise ClientDisconnected(f"the client took nothing of the response for {self._write_timeout:g} s")

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

    def credentials(self) -> tuple[int, int, int]:
        """pid, uid and gid of the process that connected (SO_PEERCRED, unix(7))."""
        self._check_open()
        pid, uid, gid = _UCRED.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return pid, uid, gid

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
            raise ClientDisconnected("the connection is closed")

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


@final
class Peer:
    """``environ["prefork.peer"]``: the process at the other end, normally nginx. Asked for when first used.

    Has ``pid``, ``uid`` and ``gid``, and is a sequence of the three. Raises `ClientDisconnected` when it is used for
    the first time after the connection was closed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._serial = connection.serial
        self._known: tuple[int, int, int] | None = None

    def _ask(self) -> tuple[int, int, int]:
        known = self._known
        if known is None:
            if self._serial != self._connection.serial:
                raise ClientDisconnected("the connection is closed")
            known = self._known = self._connection.credentials()
        return known

    @property
    def pid(self) -> int:
        """The process that called connect(2), as this process's pid namespace knows it (0: not at all)."""
        return self._ask()[0]

    @property
    def uid(self) -> int:
        """Its effective user at that moment."""
        return self._ask()[1]

    @property
    def gid(self) -> int:
        """Its effective group at that moment."""
        return self._ask()[2]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return self._ask()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ask())

    def __repr__(self) -> str:
        try:
            return "Peer(pid={}, uid={}, gid={})".format(*self._ask())
        except OSError:
            return "Peer(closed)"

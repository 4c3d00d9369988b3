"""Soft timeouts at random moments, one request after another, and what came of each. Prints JSON.

The real `Exchange` in the process's first thread, over a socket pair, with applications of every kind; a timer's signal
takes the place of the master's. Whatever the moment, it must hold that: what the application returned is closed exactly
once and to its end, callables for after the response run to their end, no exception ever passes through our own code,
and the client gets the whole answer, a whole 504, or one that is visibly broken. Arguments: how many timeouts, a seed.
"""

from __future__ import annotations

import functools
import io
import json
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from prefork.errors import ProtocolError, RequestTimeout
from prefork.policy.model import IDLE, SOFT_TIMEOUTS
from prefork.protocol.fastcgi_client import ResponseReader, encode_request, encode_stdin
from prefork.system.controlpage import ControlPage
from prefork.system.scoreboard import Scoreboard, Slot
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits

PIECES = 40
BODY = b"a line of the request\n" * 2_000
CHUNK = b"x" * 500
WHOLE = CHUNK * PIECES
LARGE = bytes(400_000)  # more than a socket takes whose other end does not read
TYPE = [("Content-Type", "text/plain")]

Call = Callable[["Fate", Any, dict[str, Any], Any], Any]


def work(rounds: int = 60) -> int:
    """Python that a signal may interrupt at any of its instructions."""
    total = 0
    for number in range(rounds):
        total += len(str(number))
    return total


@dataclass
class Fate:
    """What became of one request's result and of its callables."""

    returned: bool = False  # set by the application's last instruction before its return
    closings: int = 0
    closed: int = 0
    registered: int = 0
    afterwards: int = 0
    open: bool = False  # the application's own resource, guarded by its finally

    def close(self) -> None:
        self.closings += 1
        work()
        self.closed += 1

    def after(self) -> None:
        work()
        self.afterwards += 1


@dataclass
class Result:
    """An application's result, and its close()."""

    fate: Fate
    chunks: Any

    def __iter__(self) -> Any:
        return iter(self.chunks)

    def close(self) -> None:
        close = getattr(self.chunks, "close", None)
        if close is not None:
            close()
        self.fate.close()


class Stepwise(Result):
    """One that is its own iterator."""

    left: int = PIECES

    def __iter__(self) -> Stepwise:
        return self

    def __next__(self) -> bytes:
        work(10)
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return CHUNK


class File(io.BytesIO):
    """A file without a descriptor, for wsgi.file_wrapper."""

    fate: Fate

    def read(self, size: int | None = -1) -> bytes:
        work(10)
        return super().read(min(size or 0, 2_000))

    def close(self) -> None:
        if not self.closed:
            self.fate.close()
        super().close()


# -- applications. ``result`` was made before the request, so that none is lost between its making and its naming.


def pieces() -> Iterator[bytes]:
    for _ in range(PIECES):
        work(10)
        yield CHUNK


def guarded(fate: Fate) -> Iterator[bytes]:
    fate.open = True
    try:
        yield from pieces()
    finally:
        fate.open = False


def returning(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    work()
    start_response("200 OK", TYPE)
    work()
    fate.returned = True
    return result


def writing(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    write = start_response("200 OK", TYPE)
    for _ in range(PIECES):
        write(CHUNK)
        work(10)
    fate.returned = True
    return result


def reading(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    source = environ["wsgi.input"]
    first = source.read(1_000)
    for _ in range(500):
        source.readline()
    rest = source.readlines(5_000) + list(source)
    assert len(first) + sum(map(len, rest)) < len(BODY)
    start_response("200 OK", TYPE)
    fate.returned = True
    return result


def complaining(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    for number in range(30):
        environ["wsgi.errors"].write(f"line {number}\n")
    start_response("200 OK", TYPE)
    fate.returned = True
    return result


def registering(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    for _ in range(5):
        fate.registered += 1
        environ["prefork.after_response"](fate.after)
    work()
    start_response("200 OK", TYPE)
    fate.returned = True
    return result


def tidying(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    fate.open = True
    try:
        work(300)
        start_response("200 OK", TYPE)
        work(300)
    finally:
        fate.open = False
    fate.returned = True
    return result


def wrapping(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", TYPE)
    wrapper = environ["wsgi.file_wrapper"](result)
    work()
    fate.returned = True
    return wrapper


def sleeping(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", TYPE)
    time.sleep(0.0005)
    fate.returned = True
    return result


def flooding(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    write = start_response("200 OK", TYPE)
    work()
    write(LARGE)
    fate.returned = True
    return result


def waiting(fate: Fate, result: Any, environ: dict[str, Any], start_response: Any) -> Any:
    work()
    environ["wsgi.input"].read()
    raise AssertionError("there was no end of the body to be read")


class Real:
    """A file with a descriptor, which leaves by sendfile(2)."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._file.write(WHOLE)
        self._file.seek(0)
        self.read = self._file.read

    def close(self) -> None:
        self._fate.close()
        self._file.close()


def file(fate: Fate) -> File:
    made = File(WHOLE)
    made.fate = fate
    return made


@dataclass(frozen=True)
class Kind:
    """One kind of application: how it is called, what it returns, and what the client sends."""

    call: Call
    result: Callable[[Fate], Any]
    body: bytes = b""
    expected: bytes = WHOLE
    sends_all: bool = True


def chunks(fate: Fate) -> Result:
    return Result(fate, [CHUNK] * PIECES)


KINDS = {
    "list": Kind(returning, chunks),
    "generator": Kind(returning, lambda fate: Result(fate, pieces())),
    "generator with finally": Kind(returning, lambda fate: Result(fate, guarded(fate))),
    "iterator": Kind(returning, lambda fate: Stepwise(fate, None)),
    "iterator in C": Kind(returning, lambda fate: Result(fate, map(bytes.upper, pieces())), expected=WHOLE.upper()),
    "write": Kind(writing, lambda fate: Result(fate, [])),
    "write, then chunks": Kind(writing, chunks, expected=WHOLE * 2),
    "input": Kind(reading, chunks, BODY),
    "errors": Kind(complaining, chunks),
    "after_response": Kind(registering, chunks),
    "finally": Kind(tidying, chunks),
    "file": Kind(wrapping, file),
    "real file": Kind(wrapping, Real),
    "sleep": Kind(sleeping, chunks),
    "a client that takes nothing": Kind(flooding, chunks, expected=LARGE + WHOLE),
    "a client that sends nothing": Kind(waiting, chunks, BODY, sends_all=False),
}


@dataclass
class Log:
    """A logger that remembers one request's events, and works in Python as a real one does."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    begun: int = 0

    def clear(self) -> None:
        self.events.clear()
        self.begun = 0

    def __getattr__(self, level: str) -> Callable[..., None]:
        def log(event: str, **fields: Any) -> None:
            self.begun += 1
            work(20)
            self.events.append((event, fields))

        return log


class Bench:
    """A worker without its loop."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.scoreboard, self.control = Scoreboard(64), ControlPage(64)
        self.slot = Slot(3, 64, self.scoreboard.descriptor, self.control.descriptor, -1, 1, IDLE)
        self.log = Log()
        self.raised_in: list[FrameType] = []
        self.handles = False
        self.client: socket.socket | None = None  # one that never sends all that it announced
        self.exchanges = {soft: self._exchange(soft) for soft in (None, 1e-6, 0.0003, 0.001)}
        self.exchange = self.exchanges[None]
        self.outcomes: Counter[str] = Counter()
        signal.signal(signal.SIGALRM, self._interrupt)

    def _exchange(self, soft: float | None) -> Exchange:
        return Exchange(print, self.slot, self.log, Limits(request_timeout=soft), multiprocess=True)

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        deadline = self.exchange.deadline
        if self.client is not None and self.log.events:
            self.client.shutdown(socket.SHUT_WR)  # it has been answered: nobody need wait for the rest of its body
            self.client = None
        if self.handles:
            return  # a signal within its own handler, whose frame is no application's
        self.handles = True
        try:
            deadline.interrupt(frame)
        except RequestTimeout:
            if frame is not None:
                self.raised_in.append(frame)
            raise
        finally:
            self.handles = False

    def serve(self, name: str, soft: float | None, after: float) -> float:
        """One request; the signals begin ``after`` so many seconds. Returns what it took."""
        kind, fate = KINDS[name], Fate()
        result = kind.result(fate)
        exchange = self.exchange = self.exchanges[soft]
        # functools.partial is a call in C: no frame lies between ours and the application's.
        exchange._application = functools.partial(kind.call, fate, result)
        self.log.clear()
        self.raised_in.clear()
        self.control.time_out(3, self.slot.requests + 1)
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(request(kind))
            number = theirs.detach()
            self.client = None if kind.sends_all else ours
            began = time.monotonic()
            if soft is not None:
                signal.setitimer(signal.ITIMER_REAL, after, self.chance.uniform(50e-6, 300e-6))
            exchange.serve(number)
            signal.setitimer(signal.ITIMER_REAL, 0)
            took = time.monotonic() - began
            timed_out = self._judge(name, fate, ours)
        self.outcomes[name] += timed_out
        return took

    def _judge(self, name: str, fate: Fate, client: socket.socket) -> bool:
        kind, exchange = KINDS[name], self.exchange
        events = [event for event, _ in self.log.events if event not in ("wsgi_errors", "client_disconnected")]
        timed_out = "request_timeout" in events
        assert events == ["request_timeout"] * timed_out, (name, self.log.events)
        assert len(self.log.events) == self.log.begun, name
        assert fate.closings == fate.closed == int(fate.returned), (name, fate)
        assert fate.afterwards == fate.registered, (name, fate)
        assert not fate.open, name
        assert exchange.leave is timed_out
        exchange.leave = False
        deadline = exchange.deadline
        assert (deadline.number, deadline.inside, deadline.in_server) == (0, 0, True), name
        outcome = answer(client)
        if outcome is None:
            assert timed_out, name
            self.outcomes["broken off"] += 1
        elif outcome[0].startswith(b"Status: 504"):
            assert timed_out, name
            assert outcome[1].startswith(b"504 "), name
            self.outcomes["504"] += 1
        else:
            assert outcome[1] == kind.expected, name
            self.outcomes["answered"] += 1
        for frame in self.raised_in:
            self.outcomes["raised by the signal"] += 1
            where = (frame.f_code.co_filename, frame.f_code.co_qualname)
            assert "/prefork/" not in where[0] or where[1] in ("FileWrapper.__next__", "Response._send_each"), where
        return timed_out


def request(kind: Kind) -> bytes:
    params = {"REQUEST_METHOD": "POST" if kind.body else "GET", "SCRIPT_NAME": "/"}
    if kind.body:
        params["CONTENT_LENGTH"] = str(len(kind.body))
    stdin = encode_stdin(kind.body) if kind.body and kind.sends_all else b""
    return encode_request(params) + stdin + (encode_stdin(b"") if kind.sends_all else b"")


def answer(client: socket.socket) -> tuple[bytes, bytes] | None:
    """Head and body of a whole answer; None of one that is visibly broken."""
    reader = ResponseReader()
    try:
        while data := client.recv(1 << 20):
            reader.receive(data)
    except (ProtocolError, ConnectionError):
        return None
    if not reader.ended:
        return None
    head, _, body = bytes(reader.stdout).partition(b"\r\n\r\n")
    return head, body


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    bench = Bench(seed)
    finishing = [name for name, kind in KINDS.items() if kind.sends_all and kind.call is not flooding]
    usual = {name: min(bench.serve(name, None, 0) for _ in range(5)) for name in finishing}
    total = bench.scoreboard.total(SOFT_TIMEOUTS)
    assert total == 0
    tried = done = 0
    names = list(KINDS)
    while done < count:
        name = bench.chance.choice(names)
        soft = bench.chance.choice((1e-6, 0.0003, 0.001))
        bench.serve(name, soft, max(1e-6, bench.chance.uniform(0, 1.2 * usual.get(name, 0.001))))
        tried += 1
        done = bench.scoreboard.total(SOFT_TIMEOUTS)
    assert sum(bench.outcomes[name] for name in names) == done
    print(json.dumps({"timeouts": done, "requests": tried, **bench.outcomes}))  # noqa: T201


if __name__ == "__main__":
    main()

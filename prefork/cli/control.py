"""preforkctl: talking to a running server.

``get`` and ``wait`` go through the server's own socket, the way a web server does, so what they find is what the web
server would. An exit status of 0 means that it is so; 1 that it is not, with the reason on stderr; 64 that the
command could not be understood.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

import prefork
from prefork.cli.cgi import Answer, complaint, request_params
from prefork.cli.client import client_address, connect, received
from prefork.cli.console import Failure, finish
from prefork.config.arguments import Parser
from prefork.config.values import duration, spell_duration
from prefork.errors import ProtocolError, UsageError
from prefork.protocol import fastcgi_records as records
from prefork.protocol.fastcgi_client import ResponseReader, encode_request
from prefork.system.address import Address

__all__ = ["main"]

_NAME: Final = "preforkctl"
_NO_SOCKET: Final = """\
no socket: expected one of
  --socket /run/mysite/app.sock   the path the server was started with, or its @name
  SOCK_PATH=/run/mysite/app.sock  in the environment, or PREFORK_SOCKET, which wins over it"""

# How often `wait` looks: soon at first, since a server may be up in a moment, and never often enough to cost anything.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.2

_REFUSALS: Final = {
    records.CANT_MPX_CONN: "it takes one request per connection",
    records.OVERLOADED: "it is overloaded",
    records.UNKNOWN_ROLE: "it is no responder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command (``sys.argv`` by default) and return its exit status; never raises but ``SystemExit``."""
    return finish(_NAME, lambda: _control(sys.argv[1:] if argv is None else argv))


def _control(argv: Sequence[str]) -> int:
    words = _parser().parse_args(argv)
    address = client_address(_socket(getattr(words, "socket", None), os.environ))
    if words.command == "get":
        return _get(address, words)
    return _wait(address, _seconds(words.timeout))


# --- the command line -------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    shared = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--socket", metavar="ADDRESS", help="the server's socket, a path or @name (SOCK_PATH)")
    parser = Parser(
        prog=_NAME,
        description="Talk to a running prefork through its socket, as a web server does.",
        parents=[shared],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"prefork {prefork.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    text = "send one request and print the answer's body; exit 0 for 2xx and 3xx, else 1"
    get = commands.add_parser("get", parents=[shared], allow_abbrev=False, help=text, description=text)
    get.add_argument("path", metavar="PATH", help="what to ask for: a path that begins with /, perhaps with a query")
    get.add_argument("-H", "--header", metavar="NAME:VALUE", action="append", default=[], help="a header; repeatable")
    get.add_argument("--method", metavar="METHOD", help="the request's method (GET, with --data POST)")
    get.add_argument("--data", metavar="FILE", help="send this file as the body; - is the standard input")
    get.add_argument("--include", action="store_true", help="print status and headers before the body")
    text = "wait until the server serves; exit 0 when it does, 1 with the reason when the time is up"
    wait = commands.add_parser("wait", parents=[shared], allow_abbrev=False, help=text, description=text)
    wait.add_argument("--timeout", metavar="TIME", default="60s", help="how long: 250ms, 30s, 5m or seconds (60s)")
    return parser


def _socket(said: str | None, environ: Mapping[str, str]) -> str:
    """The socket to talk to, from where prefork-serve would take it."""
    text = said or environ.get("PREFORK_SOCKET") or environ.get("SOCK_PATH")
    if not text:
        raise UsageError(_NO_SOCKET)
    return text


def _seconds(text: str) -> float:
    try:
        return duration()(text)
    except ValueError as problem:
        raise UsageError(f"--timeout: expected {problem}, found {text!r}") from None


# --- get --------------------------------------------------------------------------------------------------------------


def _get(address: Address, words: argparse.Namespace) -> int:
    """One request; its body goes to stdout, what the application says on STDERR to stderr, each as it arrives."""
    method = words.method or ("GET" if words.data is None else "POST")
    with _body(words.data) as (body, length):
        params = request_params(method, words.path, words.header, length, body is not None)
        answer, reader = Answer(), ResponseReader()
        with connect(address) as connection:
            try:
                for data in received(connection, encode_request(params), body):
                    try:
                        reader.receive(data)
                    finally:  # what came before the first wrong byte is right
                        _pass_on(answer, reader, include=words.include)
                    if reader.ended:
                        break
            except ProtocolError as problem:
                raise Failure(f"the response is broken: {problem}{_so_far(answer)}") from None
            except Failure as problem:
                raise Failure(f"{problem}{_so_far(answer)}") from None
    wrong = _judge(method, answer, reader)
    if wrong:
        raise Failure(wrong)
    return 0


def _pass_on(answer: Answer, reader: ResponseReader, *, include: bool) -> None:
    """Write what has arrived to where it belongs, and forget it: a download may be larger than memory."""
    if reader.stderr:
        _write(sys.stderr.buffer, bytes(reader.stderr))
        reader.stderr.clear()
    if reader.stdout:
        before = answer.status
        body = answer.take(bytes(reader.stdout))
        reader.stdout.clear()
        if include and answer.status and not before:
            lines = [f"{answer.status} {answer.reason}".rstrip(), *(f"{name}: {text}" for name, text in answer.headers)]
            body = "\n".join([*lines, "", ""]).encode("latin-1") + body
        _write(sys.stdout.buffer, body)


def _judge(method: str, answer: Answer, reader: ResponseReader) -> str | None:
    """What is wrong with the answer as a whole, or nothing."""
    if not reader.ended:
        return f"the server closed the connection before the end of the response{_so_far(answer)}"
    if reader.protocol_status != records.REQUEST_COMPLETE:
        reason = _REFUSALS.get(reader.protocol_status, f"status {reader.protocol_status}")
        return f"the server refused the request: {reason}"
    wrong = complaint(method, answer)
    if wrong:
        return f"the response is broken: {wrong}"
    if not 200 <= answer.status < 400:
        return f"the answer is {answer.status} {answer.reason}".rstrip()
    return None


def _so_far(answer: Answer) -> str:
    if not answer.status:
        return " (no complete head had arrived)"
    return f" (after status {answer.status} and {answer.received} bytes of the body)"


@contextmanager
def _body(name: str | None) -> Iterator[tuple[int | None, int | None]]:
    """The body's descriptor and, for a regular file, its length."""
    if name is None:
        yield None, None
        return
    try:
        descriptor = os.dup(0) if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
    except OSError as problem:
        raise UsageError(f"--data: {name} cannot be read: {problem.strerror}") from None
    try:
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"--data: expected a file, found the directory {name}")
        yield descriptor, _remaining(descriptor, status)
    finally:
        os.close(descriptor)


def _remaining(descriptor: int, status: os.stat_result) -> int | None:
    """What is left to read of a regular file: the standard input may have been read in part."""
    if not stat.S_ISREG(status.st_mode):
        return None
    return max(0, status.st_size - os.lseek(descriptor, 0, os.SEEK_CUR))


# --- wait -------------------------------------------------------------------------------------------------------------


def _wait(address: Address, patience: float) -> int:
    """Ask until a worker answers. What is asked is FastCGI's own question, which no application ever sees."""
    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            _ask_values(address, max(end - time.monotonic(), _FIRST_PAUSE))
            return 0
        except Failure as problem:
            if time.monotonic() + pause >= end:
                raise Failure(f"not serving after {spell_duration(patience)}: {problem}") from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _ask_values(address: Address, patience: float) -> None:
    """One GET_VALUES and its answer. Raises `Failure`."""
    reader = ResponseReader()
    end = time.monotonic() + patience
    with connect(address) as connection:
        try:
            connection.sendall(
                records.encode_record(records.GET_VALUES, 0, records.encode_pairs([(b"FCGI_MAX_CONNS", b"")]))
            )
            while not reader.values:
                connection.settimeout(max(end - time.monotonic(), 0.001))
                data = connection.recv(4096)
                if not data:
                    raise Failure(f"{address}: the connection was closed without an answer")
                reader.receive(data)
        except TimeoutError:
            raise Failure(f"{address}: connected, but no worker answers: all are busy, or hang") from None
        except ConnectionError as problem:
            raise Failure(f"{address}: the connection broke: {problem.strerror}") from None
        except ProtocolError as problem:
            raise Failure(f"{address}: what listens there speaks no FastCGI ({problem})") from None


# --- output -----------------------------------------------------------------------------------------------------------


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()

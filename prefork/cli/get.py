"""``preforkctl get``: one request through the server's own socket, as a web server would send it."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, Final

from prefork.cli.cgi import OWN_HOST, Answer, complaint, request_params
from prefork.cli.client import connect, received
from prefork.cli.console import Failure
from prefork.errors import ProtocolError, UsageError
from prefork.protocol import fastcgi_client, http1_client
from prefork.protocol import fastcgi_records as records
from prefork.system.address import Address, AddressKind

__all__ = ["get"]

_Reader = fastcgi_client.ResponseReader | http1_client.ResponseReader
_Language = tuple[_Reader, bytes, Callable[[bytes], bytes]]

_BAD_REQUEST: Final = 400
_STRANGER: Final = (
    f" (asked with Host: {OWN_HOST}; where the application checks the host, as Django by ALLOWED_HOSTS, name one that "
    'it answers: -H "Host: …")'
)
_REFUSALS: Final = {
    records.CANT_MPX_CONN: "it takes one request per connection",
    records.OVERLOADED: "it is overloaded",
    records.UNKNOWN_ROLE: "it is no responder",
}


def get(address: Address, words: argparse.Namespace, patience: float) -> int:
    """One request; its body goes to stdout, what the application says on STDERR to stderr, each as it arrives.

    A server that is silent for ``patience`` seconds is given up. Raises `Failure`.
    """
    method = words.method or ("GET" if words.data is None else "POST")
    with _body(words.data) as (body, length):
        params = request_params(method, words.path, words.header, length, body is not None)
        answer = Answer()
        reader, opening, encode = _language(words.protocol, address, params, body is not None)
        with connect(address) as connection:
            try:
                for data in received(connection, opening, body, encode, patience):
                    try:
                        reader.receive(data)
                    finally:  # what came before the first wrong byte is right
                        _pass_on(answer, reader, include=words.include)
                    if reader.ended:
                        break
                reader.closed()
            except ProtocolError as problem:
                raise _failure(answer, f"{_why(reader, answer, problem)}{_so_far(answer)}") from None
            except Failure as problem:
                raise _failure(answer, f"{problem}{_so_far(answer)}") from None
    wrong = _judge(params, answer, reader)
    if wrong:
        raise _failure(answer, wrong)
    return 0


def _language(protocol: str | None, address: Address, params: Mapping[str, str], body: bool) -> _Language:
    """How the request is said: what takes the answer apart, what opens the request, what wraps its body."""
    if (protocol or ("http" if address.kind is AddressKind.TCP else "fastcgi")) == "fastcgi":
        return fastcgi_client.ResponseReader(), fastcgi_client.encode_request(params), fastcgi_client.encode_stdin
    chunked = body and not params["CONTENT_LENGTH"]
    reader = http1_client.ResponseReader(params["REQUEST_METHOD"])
    return reader, http1_client.encode_request(params, body=body), partial(http1_client.encode_body, chunked=chunked)


def _pass_on(answer: Answer, reader: _Reader, *, include: bool) -> None:
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


def _judge(params: Mapping[str, str], answer: Answer, reader: _Reader) -> str | None:
    """What is wrong with the answer as a whole, or nothing."""
    if not reader.ended:
        return f"the server closed the connection before the end of the response{_so_far(answer)}"
    if reader.protocol_status != records.REQUEST_COMPLETE:
        reason = _REFUSALS.get(reader.protocol_status, f"status {reader.protocol_status}")
        return f"the server refused the request: {reason}"
    wrong = complaint(params["REQUEST_METHOD"], answer)
    if wrong:
        return f"the response is broken: {wrong}"
    if not 200 <= answer.status < 400:
        stranger = answer.status == _BAD_REQUEST and params["HTTP_HOST"] == OWN_HOST
        return f"the answer is {answer.status} {answer.reason}".rstrip() + (_STRANGER if stranger else "")
    return None


def _why(reader: _Reader, answer: Answer, problem: ProtocolError) -> str:
    """What is wrong with a response; a record of version 255 is how prefork breaks off one that it cannot finish."""
    if answer.status and isinstance(reader, fastcgi_client.ResponseReader) and str(problem).endswith("byte 255"):
        return "the server broke the response off: request_failed or response_length in its log says why"
    return f"the response is broken: {problem}"


def _failure(answer: Answer, message: str) -> Failure:
    """The message on a line of its own, where a body that was printed has not ended its last."""
    if answer.received and not answer.ends_line and sys.stdout.isatty():
        _write(sys.stdout.buffer, b"\n")
    return Failure(message)


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


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()

"""The demo application, held to the WSGI specification by its own validator."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import prefork.demo
from prefork.demo import application

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
PATHS = ("/", "/slow", "/hang", "/crash", "/env", "/upload", "/stream")


@dataclass
class Answer:
    """What the application answered, chunk by chunk."""

    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        return b"".join(self.chunks).decode()


def ask(
    path: str = "/",
    query: str = "",
    method: str = "GET",
    *,
    body: Any = None,
    extra: Mapping[str, Any] | None = None,
    **environ: Any,
) -> Answer:
    """One request through the validator."""
    answer = Answer()
    environ |= {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    environ = {"SCRIPT_NAME": "", **environ, **(extra or {})}
    if body is not None:
        environ["wsgi.input"] = body
    setup_testing_defaults(environ)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.status = status
        answer.headers = dict(headers)

    chunks = validator(application)(environ, start_response)
    answer.chunks.extend(chunks)
    with contextlib.suppress(AttributeError):
        chunks.close()  # type: ignore[attr-defined]
    return answer


def test_front_page() -> None:
    """The front page links to every other one, below wherever it is mounted, and says who answered."""
    answer = ask(extra={"SCRIPT_NAME": "/a'b", "prefork.worker_slot": 3}, HTTP_ACCEPT=BROWSER)
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"worker 3 (process {os.getpid()})" in answer.text
    assert [path for path in PATHS[1:] if f"<a href='/a&#x27;b{path}" not in answer.text] == []


@pytest.mark.parametrize("accept", [{}, {"HTTP_ACCEPT": "*/*"}])
def test_front_page_in_a_terminal(accept: dict[str, str]) -> None:
    """Who does not ask for HTML gets lines to read, which name every other page."""
    answer = ask(extra={"prefork.worker_slot": 3}, **accept)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith(f"It works. Answered by worker 3 (process {os.getpid()}).\n\n/slow?s=2 ")
    lines = answer.text.splitlines()
    assert [path for path in PATHS[1:] if not any(line.startswith(path) for line in lines)] == []
    assert "<" not in answer.text
    assert answer.text.endswith("\n")


def test_front_page_elsewhere() -> None:
    """Under another server it knows no worker, and an empty path is the front page."""
    text = ask("", SCRIPT_NAME="/app", HTTP_ACCEPT=BROWSER).text
    assert f"Answered by process {os.getpid()}." in text


@pytest.mark.parametrize("path", PATHS[:2] + PATHS[4:])
def test_length(path: str) -> None:
    """Every page that knows its length says it."""
    answer = ask(path, "s=0")
    assert answer.status == "200 OK"
    if path != "/stream":
        assert answer.headers["Content-Length"] == str(len(answer.text.encode()))


def test_unknown_page() -> None:
    """A page that is not there is named as the browser meant it, with those that are."""
    answer = ask("/größe".encode().decode("latin-1"))
    assert answer.status == "404 Not Found"
    assert answer.text == f"No page '/größe' here. There are: {', '.join(PATHS)}\n"


def test_slow() -> None:
    """It sleeps for the seconds asked for, and says so."""
    assert ask("/slow", "s=0.001").text == f"Slept 0.001 s in process {os.getpid()}.\n"


@pytest.mark.parametrize("number", ["", "x", "nan", "inf", "-1", "3601", "1,5"])
def test_bad_number(number: str) -> None:
    """A number that is none, or out of bounds, is the client's mistake."""
    answer = ask("/slow", f"s={number}")
    assert answer.status == "400 Bad Request"
    assert answer.text == f"s: expected a number from 0 to 3600, found {number!r}\n"


def test_last_number_counts() -> None:
    """Of two numbers of one name the last counts."""
    assert ask("/slow", "s=x&s=0").status == "200 OK"


class _Seen(Exception):
    """The application was seen where it hangs."""


def test_hang() -> None:
    """It hangs in Python, where a signal handler runs and a stack can be read."""

    def look(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_name == "_hang":
            raise _Seen

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        with pytest.raises(_Seen):
            ask("/hang")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_crash() -> None:
    """It ends its process by SIGABRT: no exception, no exit handler."""
    program = (
        "import atexit; from prefork.demo import application as a; atexit.register(print, 'exit handler');"
        "a({'PATH_INFO': '/crash'}, None)"
    )

    def no_core() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=no_core,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "")


def test_env() -> None:
    """It shows what the server told it, sorted, as Python values."""
    lines = ask("/env", "a=b", HTTP_X_TEST="größe").text.splitlines()
    assert "QUERY_STRING = 'a=b'" in lines
    assert "HTTP_X_TEST = 'größe'" in lines
    assert lines == sorted(lines)


# --- upload and stream ------------------------------------------------------------------------------------------------


def counted(data: bytes) -> str:
    return f"bytes {len(data)}\nsha256 {hashlib.sha256(data).hexdigest()}\n"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 200_000])
def test_upload(method: str, size: int) -> None:
    """What is sent is counted and hashed, up to its announced length and not a byte further."""
    data = os.urandom(size)
    answer = ask("/upload", method=method, body=io.BytesIO(data + b"next request"), CONTENT_LENGTH=str(size))
    assert answer.text == counted(data)


def test_upload_of_unknown_length() -> None:
    """Where the server marks the end of a body, its length need not be known."""
    data = os.urandom(100_000)
    answer = ask("/upload", method="POST", body=io.BytesIO(data), extra={"wsgi.input_terminated": True})
    assert answer.text == counted(data)


def test_upload_without_length() -> None:
    """Where it does not, no length means no body: reading on might wait for ever."""
    assert ask("/upload", method="POST", body=io.BytesIO(b"xyz")).text == counted(b"")


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("x", "CONTENT_LENGTH: expected a number, found 'x'\n"),
        ("٣", "CONTENT_LENGTH: expected a number, found '٣'\n"),
        ("70000", "the body ended 65000 bytes before its CONTENT_LENGTH of 70000\n"),
    ],
)
def test_bad_upload(length: str, message: str) -> None:
    """A length that is none, and a body that is shorter, are the client's mistakes."""
    environ = {"REQUEST_METHOD": "PUT", "PATH_INFO": "/upload", "wsgi.input": io.BytesIO(bytes(5000))}
    answer = Answer()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.status = status

    # Not through the validator: it refuses such a length before the application sees it.
    answer.chunks.extend(application({**environ, "CONTENT_LENGTH": length}, start_response))
    assert (answer.status, answer.text) == ("400 Bad Request", message)


def test_upload_form() -> None:
    """A browser finds a form that posts here."""
    answer = ask("/upload")
    assert "<form method=post enctype=multipart/form-data>" in answer.text
    assert ask("/upload", method="HEAD").headers == answer.headers


def test_upload_method() -> None:
    """Other methods are refused with those that are allowed."""
    answer = ask("/upload", method="DELETE")
    assert answer.status == "405 Method Not Allowed"
    assert answer.headers["Allow"] == "GET, HEAD, POST, PUT"


def test_stream() -> None:
    """Pieces leave one by one, each of the size asked for and unlike the others."""
    chunks = ask("/stream", "n=12&kb=2").chunks
    assert [len(chunk) for chunk in chunks] == [2048] * 12
    assert len(set(chunks)) == 12
    assert all(chunk.startswith(b"piece ") and chunk.endswith(b".\n") for chunk in chunks)


def test_stream_of_lines() -> None:
    """Without a size a piece is a line; with a pause they take their time."""
    assert ask("/stream", "n=2&s=0.001").chunks == [b"piece 0\n", b"piece 1\n"]


def test_stream_is_lazy() -> None:
    """Nothing is made before it is asked for, so a download of any size costs no memory."""
    pieces = application(
        {"PATH_INFO": "/stream", "QUERY_STRING": "n=1000000&kb=1024"},
        lambda status, headers, exc_info=None: lambda data: None,
    )
    assert isinstance(pieces, Iterator)
    assert len(next(pieces)) == 2**20


def test_only_the_standard_library() -> None:
    """The demo runs wherever Python runs: it imports nothing of prefork and nothing installed."""
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); print([name for name in sys.modules if 'prefork' in name])"
    )

    path = str(Path(prefork.demo.__file__))
    done = subprocess.run([sys.executable, "-ISc", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""preforkctl against servers that answer well, badly, or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import PATIENCE, environment
from prefork.cli import orders, probing
from prefork.cli.control import main
from prefork.protocol import fastcgi_records as records
from prefork.protocol.fastcgi_client import encode_request
from scripted import END, answering, body_of, read_request, serving, stderr, stdout, values

OK = stdout(b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nhello\n")

Capture = pytest.CaptureFixture[bytes]


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "app.sock"


def get(path: Path, script: Callable[[socket.socket], None], *words: str) -> int:
    with serving(path, script):
        return main(["--socket", str(path), "get", *words])


def said(capsysbinary: Capture) -> tuple[bytes, str]:
    out, err = capsysbinary.readouterr()
    return out, err.decode()


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND; see preforkctl --help"),
        (["stat"], "COMMAND: invalid choice: 'stat'; did you mean status? (choose from "),
        (["upgrade"], "invalid choice: 'upgrade': this version does not replace its own master: a restart does"),
        (["get", "--socket", "x"], "the following arguments are required: PATH; see preforkctl get --help"),
        (["get", "/", "--sock", "x"], "unrecognized arguments: --sock x; see preforkctl --help"),
        (["get", "/", "--socket", "fd://3"], "fd://3 names a descriptor"),
        (["get", "x", "--socket", "x"], "PATH: expected a path that begins with /, found 'x'"),
        (["get", "/", "--socket", "x", "-H", "A"], "-H: expected NAME:VALUE on one line, found 'A'"),
        (["get", "/", "--socket", "x", "--data", "/nowhere"], "--data: /nowhere cannot be read: No such file"),
        (["get", "/", "--socket", "x", "--data", "/"], "--data: expected a file, found the directory /"),
        (["get", "/", "--socket", ":8000"], "socket :8000: expected host and port"),
        (["status", "--socket", ":8000"], "socket :8000: expected host and port"),
        (["get", "/", "--socket", "x", "--timeout", "1w"], "--timeout: expected a duration such as 250ms"),
        (["wait", "--socket", "x", "--timeout", "1w"], "--timeout: expected a duration such as 250ms"),
    ],
)
def test_usage(words: list[str], message: str, capsysbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that cannot be understood is 64 and says what would be."""
    monkeypatch.delenv("SOCK_PATH", raising=False)
    assert main(words) == 64
    out, err = said(capsysbinary)
    assert err.startswith("preforkctl: ")
    assert message in err
    assert out == b""


def test_no_server_to_be_found(monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture) -> None:
    """Without a name it is the only server that runs; where none does, that is said with the ways to name one."""
    monkeypatch.delenv("SOCK_PATH", raising=False)
    monkeypatch.setattr(orders, "find_doors", lambda _environ: [])
    for words in (["get", "/"], ["status"], ["stop"], ["ping"], ["wait", "--timeout", "1ms"]):
        assert main(words) == 1
        assert "is asked by its socket (get, wait); name one:\n  --socket" in said(capsysbinary)[1]


FULL = (
    "2026/11/20 10:00:00 [error] 7#7: *1 connect() to unix:/run/app.sock failed (11: Resource temporarily unavailable) "
    'while connecting to upstream, client: 127.0.0.1, server: x, request: "GET / HTTP/1.1", '
    'upstream: "fastcgi://unix:/run/app.sock:", host: "x"\n'
)


@pytest.mark.parametrize(("line", "told"), [(FULL, True), (FULL.replace("11: R", "2: R"), False), ("", False)])
def test_a_log_that_no_server_was_asked_about(
    line: str, told: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture
) -> None:
    """What could have been matched with a server's memory and was not, is told with the reason, beside the findings."""
    monkeypatch.delenv("SOCK_PATH", raising=False)
    monkeypatch.setattr(orders, "find_doors", lambda _environ: [])
    (folder / "error.log").write_text(line)
    assert main(["explain", str(folder / "error.log")]) == 0
    message = said(capsysbinary)[1]
    assert message.startswith("not matched with what held the workers: no server's control socket was found") is told
    assert bool(message) is told


def takes_json(command: str) -> bool:
    """Whether the command's own help has --json."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        main([command, "--help"])
    return "--json" in shown.getvalue()


def test_own_arguments(monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture) -> None:
    """Without arguments it takes the process's own."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["preforkctl", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    text = said(capsysbinary)[0].decode()
    assert text.startswith("usage: preforkctl")
    assert "0 it is so, or done; 1 not" in text
    with_json = re.search(r"^(ping,.*?)\s+print\s+JSON with", text, re.DOTALL | re.MULTILINE)
    assert with_json is not None
    commands = re.findall(r"^    ([a-z-]+) ", text, re.MULTILINE)
    assert commands
    assert set(re.findall(r"[a-z]+", with_json[1])) - {"and"} == {name for name in commands if takes_json(name)}
    assert max(map(len, text.splitlines())) < 80


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["--socket", "{}", "get", "/"], {"SOCK_PATH": "/nowhere"}),
        (["get", "/", "--socket", "{}"], {"PREFORK_SOCKET": "/nowhere"}),
        (["get", "/"], {"SOCK_PATH": "{}"}),
        (["get", "/"], {"PREFORK_SOCKET": "{}", "SOCK_PATH": "/nowhere"}),
        (["get", "/"], {"PREFORK_SOCKET": "", "SOCK_PATH": "{}"}),
    ],
)
def test_socket_from(
    words: list[str], environ: dict[str, str], path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture
) -> None:
    """The socket is named before or after the command, or in the variables that prefork-serve reads."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(path))
    with serving(path, answering(OK + END)):
        assert main([word.format(path) for word in words]) == 0
    assert said(capsysbinary) == (b"hello\n", "")


# --- get --------------------------------------------------------------------------------------------------------------


def test_get(path: Path, capsysbinary: Capture) -> None:
    """The body goes to standard output as it is, what the application complains about to standard error."""
    assert get(path, answering(stderr(b"careful\n") + OK + stdout(b"\xff\0") + END), "/") == 0
    assert said(capsysbinary) == (b"hello\n\xff\0", "careful\n")


def test_include(path: Path, capsysbinary: Capture) -> None:
    """Status and headers come before the body when asked for, once."""
    assert get(path, answering(OK + stdout(b"more") + END), "/", "--include") == 0
    assert said(capsysbinary)[0] == b"200 OK\nContent-Type: text/plain\n\nhello\nmore"


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"302 Found", b"399 Odd"])
def test_good_status(status: bytes, path: Path) -> None:
    """2xx and 3xx are success."""
    assert get(path, answering(stdout(b"Status: " + status + b"\n\n") + END), "/") == 0


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "503", "100 Continue"])
def test_bad_status(status: str, path: Path, capsysbinary: Capture) -> None:
    """Every other status is a failure by name; the body is still printed."""
    assert get(path, answering(stdout(f"Status: {status}\n\nsorry\n".encode()) + END), "/") == 1
    assert said(capsysbinary) == (b"sorry\n", f"preforkctl: the answer is {status}\n")


@pytest.mark.parametrize(("words", "hint"), [((), True), (("-H", "Host: shop.example"), False)])
def test_refused_host(words: tuple[str, ...], hint: bool, path: Path, capsysbinary: Capture) -> None:
    """A 400 may be for the host that was asked, where nobody named one."""
    assert get(path, answering(stdout(b"Status: 400 Bad Request\n\n") + END), "/", *words) == 1
    err = said(capsysbinary)[1]
    assert err.startswith("preforkctl: the answer is 400 Bad Request")
    assert ("asked with Host: localhost" in err and "ALLOWED_HOSTS" in err) is hint


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "the server closed the connection before the end of the response (no complete head had arrived)"),
        (
            OK,
            "the server closed the connection before the end of the response {CUT}",
        ),
        (
            OK + b"\xff" * 8,
            "the server broke the response off: request_failed or response_length in its log says why {CUT}",
        ),
        (
            OK + b"\xfe" * 8,
            "the response is broken: a FastCGI record begins with version 1, found byte 254 {CUT}",
        ),
        (
            b"\xff" * 8,
            (
                "the response is broken: a FastCGI record begins with version 1, found byte 255 "
                "(no complete head had arrived)"
            ),
        ),
        (END, "the response is broken: the response ended before its head did"),
        (
            stdout(b"oops\n\n") + END,
            "the response is broken: expected a header line, found 'oops' (no complete head had arrived)",
        ),
        (
            stdout(b"Content-Length: 3\n\nhello\n") + END,
            "the response is broken: the body has 6 bytes, but its Content-Length is 3",
        ),
        (
            records.encode_end_request(1, records.OVERLOADED),
            "the server refused the request: it is overloaded",
        ),
        (records.encode_end_request(1, 9), "the server refused the request: status 9"),
    ],
)
def test_broken(answer: bytes, message: str, path: Path, capsysbinary: Capture) -> None:
    """A response that is not whole is a failure that says in what way, after what of it could be used."""
    assert get(path, answering(answer), "/") == 1
    out, err = said(capsysbinary)
    assert err == f"preforkctl: {message.format(CUT='(after status 200 and 6 bytes of the body)')}\n"
    assert out in (b"hello\n", b"")


@pytest.mark.parametrize(
    ("body", "terminal", "out"),
    [
        (b"hello", True, b"hello\n"),
        (b"hello\n", True, b"hello\n"),
        (b"", True, b""),
        (b"hello", False, b"hello"),
    ],
)
def test_message_after_a_body(
    body: bytes, terminal: bool, out: bytes, path: Path, capsysbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the message has a line of its own; a file gets the body's bytes and no others."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert get(path, answering(stdout(b"Status: 500 Oops\n\n" + body) + END), "/") == 1
    assert said(capsysbinary) == (out, "preforkctl: the answer is 500 Oops\n")


def test_reset(path: Path, capsysbinary: Capture) -> None:
    """A server that closes on unread bytes resets the connection."""

    def script(connection: socket.socket) -> None:
        connection.recv(1)

    assert get(path, script, "/") == 1
    assert "the connection broke: Connection reset by peer (no complete head had arrived)" in said(capsysbinary)[1]


def test_unreachable(path: Path, capsysbinary: Capture) -> None:
    """Without a server it is a failure with the reason."""
    assert main(["get", "/", "--socket", str(path)]) == 1
    assert said(capsysbinary)[1] == (
        f"preforkctl: {path}: there is no such file: the server is not started, or listens elsewhere\n"
    )


def test_silence(monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture) -> None:
    """A server that says nothing is not waited for any longer than was said."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(OK)  # there from the beginning: no pause of this process is a silence before it
        monkeypatch.setattr("prefork.cli.get.connect", lambda _address: ours)
        status = main(["--socket", "/app.sock", "get", "/", "--timeout", "100ms"])
    assert status == 1
    out, err = said(capsysbinary)
    assert out == b"hello\n"
    assert "no answer for 100ms: every worker is busy, or the application hangs (after status 200" in err


def request_of(path: Path, *words: str) -> bytes:
    requests: list[bytes] = []

    def script(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(OK + END)

    assert get(path, script, *words) == 0
    return requests[0]


def pairs_of(request: bytes) -> dict[bytes, bytes]:
    """The parameters: one record of them follows the 16 bytes of BEGIN_REQUEST."""
    return dict(records.decode_pairs(request[24 : 24 + int.from_bytes(request[20:22], "big")]))


def test_request(path: Path) -> None:
    """Method, target and headers arrive as a web server would send them."""
    request = request_of(path, "/a?b=c", "--method", "OPTIONS", "-H", "X-A: 1", "-H", "Host: h")
    pairs = pairs_of(request)
    expected = {
        b"REQUEST_METHOD": b"OPTIONS",
        b"SCRIPT_NAME": b"/a",
        b"QUERY_STRING": b"b=c",
        b"HTTP_X_A": b"1",
        b"HTTP_HOST": b"h",
    }
    assert expected == {name: pairs[name] for name in expected}
    assert request.startswith(encode_request({})[:16])


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_data(size: int, path: Path, folder: Path) -> None:
    """A file is posted whole, with its length."""
    data = os.urandom(size)
    (folder / "data").write_bytes(data)
    request = request_of(path, "/", "--data", str(folder / "data"))
    assert body_of(request) == data
    assert pairs_of(request)[b"CONTENT_LENGTH"] == str(size).encode()
    assert pairs_of(request)[b"REQUEST_METHOD"] == b"POST"


def test_data_from_a_pipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard input is sent as it comes, without a length when nobody knows it."""
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)
    keep = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        request = request_of(path, "/", "--data", "-", "--method", "PUT")
    finally:
        os.dup2(keep, 0)
        os.close(keep)
    assert body_of(request) == b"from a pipe"
    assert pairs_of(request)[b"CONTENT_LENGTH"] == b""
    assert pairs_of(request)[b"REQUEST_METHOD"] == b"PUT"


def test_pieces_arrive_as_they_come(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of the body is on standard output before the next one exists."""
    reading, writing = os.pipe()
    pieces: list[bytes] = []

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(stdout(b"A: b\n\none"))
        pieces.append(os.read(reading, 100))
        connection.sendall(stdout(b"two") + END)
        pieces.append(os.read(reading, 100))

    with io.TextIOWrapper(os.fdopen(writing, "wb")) as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert get(path, script, "/") == 0
    os.close(reading)
    assert pieces == [b"one", b"two"]


def test_reader_gone(path: Path) -> None:
    """When nobody reads the output any more, that is no fault of the connection: it ends without a word."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    reading, writing = os.pipe()
    os.close(reading)
    program = "import sys; from prefork.cli.control import main; sys.exit(main())"
    with serving(path, script), os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program, "get", "/", "--socket", str(path)],
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment({}),
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


# --- wait -------------------------------------------------------------------------------------------------------------


def test_wait(path: Path, capsysbinary: Capture) -> None:
    """A server that answers FastCGI's own question serves; no application is asked."""
    with serving(path, values):
        assert main(["wait", "--socket", str(path)]) == 0
    assert said(capsysbinary) == (b"", "")


def test_wait_for_http(path: Path) -> None:
    """A worker that speaks HTTP alone answers in HTTP, and has answered."""
    with serving(path, speak_http):
        assert main(["wait", "--socket", str(path)]) == 0


def test_wait_for_a_port() -> None:
    """On TCP it is asked in HTTP, in a version that no application will see."""
    questions: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                questions.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["wait", "--socket", f"127.0.0.1:{listener.getsockname()[1]}"]) == 0
        thread.join()
    assert questions[0].startswith(b"GET / HTTP/9.9\r\n")


def test_wait_for_a_start(path: Path) -> None:
    """A socket that is not there yet is waited for."""
    started = threading.Event()

    def start() -> None:
        with serving(path, values):
            started.wait()

    thread = threading.Thread(target=start)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # refuses, so that the first look cannot succeed
        results: list[int] = []
        waiting = threading.Thread(target=lambda: results.append(main(["wait", "--socket", str(path)])))
        waiting.start()
        path.unlink()
        thread.start()
        waiting.join()
    started.set()
    thread.join()
    assert results == [0]


def close(connection: socket.socket) -> None:
    connection.recv(4096)


def reset(connection: socket.socket) -> None:
    connection.recv(1)  # closing on what was not read resets


def hold(connection: socket.socket) -> None:
    while connection.recv(4096):  # until the client gives up
        pass


def speak_nonsense(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"hello\r\n\r\n")


def speak_http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (close, "the connection was closed without an answer"),
        (reset, "the connection broke: Connection reset by peer"),
        (hold, "connected, but no worker answers: all are busy, or hang"),
        (speak_nonsense, "what listens there speaks neither FastCGI nor HTTP (a FastCGI record begins with version 1"),
    ],
)
def test_wait_in_vain(
    script: Callable[[socket.socket], None],
    message: str,
    path: Path,
    capsysbinary: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the time is up, the last thing that went wrong is the reason."""
    if script is not hold:  # one try, that has the time that this machine needs
        monkeypatch.setattr(probing, "_FIRST_PAUSE", PATIENCE)
    with serving(path, script):
        assert main(["wait", "--timeout", "10ms", "--socket", str(path)]) == 1
    assert said(capsysbinary)[1].startswith(f"preforkctl: not serving after 10ms: {path}: {message}")


def test_wait_without_server(path: Path, capsysbinary: Capture) -> None:
    """So it is when nothing ever appears."""
    assert main(["wait", "--timeout", "50ms", "--socket", str(path)]) == 1
    assert "not serving after 50ms" in said(capsysbinary)[1]

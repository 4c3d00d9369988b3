"""The access log: what every token shows, what no client can do to a line, and what each ending of a request leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.policy.access_format import parse
from prefork.protocol.codec import plain_text
from prefork.protocol.fastcgi_client import encode_request
from prefork.protocol.request import Request
from prefork.system.logfile import LogFile
from prefork.system.logplaces import open_log
from prefork.system.zone import keep_zone
from prefork.worker.accesslog import AccessLog
from prefork.worker.accesstokens import escape
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits
from wire import EOF, PLAIN, Desk, get, hello, post

Lines = Callable[[], list[str]]


class Book:
    """An access log that is read back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.log"
        self.file: LogFile = open_log(str(self.path), "access_log")

    def log(self, format: str, *suppress: str) -> AccessLog:
        return AccessLog(self.file, parse(format), suppress, pool="www", slot=3, parent=77)

    def take(self) -> list[str]:
        text = self.path.read_bytes().decode()
        assert text == "" or text.endswith("\n")
        os.truncate(self.path, 0)
        return text.split("\n")[:-1]

    def line(self, format: str, request: Request | None = None, **facts: Any) -> str:
        """The one line of one request."""
        facts = {"status": 200, "sent": 1234, "began": time.monotonic(), "request_id": "id-1", **facts}
        self.log(format).record(request, **facts)
        (line,) = self.take()
        return line


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path)
    yield book
    book.file.close()


def request(method: str = "GET", uri: str = "/a/b?x=1&y=2", length: int = -1, **params: Any) -> Request:
    environ = {
        "REMOTE_ADDR": "192.0.2.7",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "443",
        **params,
    }
    return Request(environ, method, uri, length, "https")


# --- tokens


@pytest.mark.parametrize(
    ("format", "shown"),
    [
        ("%h", "192.0.2.7"),
        ("%R", "192.0.2.7"),
        ("apache:%l", "-"),
        ("php-fpm:%l", "0"),
        ("%u", "-"),
        ("%m", "GET"),
        ("%s", "200"),
        ("%>s", "200"),
        ("%b", "1234"),
        ("%B", "1234"),
        ("%H", "HTTP/1.1"),
        ("%U", "/a/b"),
        ("apache:%r", "GET /a/b?x=1&y=2 HTTP/1.1"),
        ("php-fpm:%r", "/a/b"),
        ("php-fpm:%q", "x=1&y=2"),
        ("php-fpm:%r%Q%q", "/a/b?x=1&y=2"),
        ("apache:%q", "?x=1&y=2"),
        ("%v", "example.org"),
        ("apache:%p", "443"),
        ("%f", "-"),
        ("%n", "www"),
        ("%L", "id-1"),
        ("apache:%P", "{pid}"),
        ("php-fpm:%p", "{pid}"),
        ("php-fpm:%P", "77"),
        ("%{SERVER_NAME}e", "example.org"),
        ("%{NOTHING}e", "-"),
        ("%{Referer}i", "-"),
        ("%{X-Kind}o", "a, b"),
        ("%{Nothing}o", "-"),
        ("%% %m", "% GET"),
        ("100%% of %m", "100% of GET"),
        ("caf\xe9 %m", "caf\xe9 GET"),
    ],
)
def test_tokens(book: Book, format: str, shown: str) -> None:
    """One by one."""
    shown = shown.replace("{pid}", str(os.getpid()))
    assert book.line(format, request(), fields="X-Kind: a\r\nY: 1\r\nx-kind: b\r\n") == shown


def test_request_headers(book: Book) -> None:
    """By their names in HTTP; the two that CGI names otherwise as well."""
    line = book.line(
        "%{User-Agent}i %{content-type}i %{X_Y}i",
        request(HTTP_USER_AGENT="curl/8", CONTENT_TYPE="text/plain", HTTP_X_Y="z"),
    )
    assert line == "curl/8 text/plain z"


def test_nothing_sent_and_a_length(book: Book) -> None:
    """Apache's %b has a dash for nothing, %B a zero; php-fpm's %l is the request's length."""
    assert book.line("php-fpm:%b %B %l", request("POST", length=12), sent=0) == "- 0 12"


def test_durations(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds and milliseconds with three digits as php-fpm has them, Apache's whole."""
    monkeypatch.setattr(time, "monotonic", lambda: 1_001.5)
    shown = book.line("apache:%d %{mili}d %{micro}d %T %D %{ms}T", request(), began=1_000.0)
    assert shown == "1.500 1500.000 1500000 1 1500000 1500"


def test_times(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the request came, and for %T when its line was written; months in English, the zone as an offset.

    It is that of the server, whatever the application makes of its own.
    """
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    keep_zone.cache_clear()
    try:
        monkeypatch.setattr(time, "time", lambda: 1_700_000_000.25)
        monkeypatch.setattr(time, "monotonic", lambda: 1_000.0)
        began = 990.0
        assert book.line("apache:%t", request(), began=began) == "[15/Nov/2023:03:43:10 +0530]"
        assert book.line("php-fpm:%t", request(), began=began) == "15/Nov/2023:03:43:10 +0530"
        assert book.line("php-fpm:%T %{%M}t", request(), began=began) == "15/Nov/2023:03:43:20 +0530 43"
        assert book.line("apache:%{%Y}t", request(), began=began) == "2023"
        for zone in ("Asia/Kolkata", "America/New_York"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            log = book.log("%t %{%s %%s %z}t")
            for _ in range(2):  # the second is remembered
                log.record(request(), 200, 0, began, "")
            assert book.take() == ["15/Nov/2023:03:43:10 +0530 1699999990 %s +0530"] * 2
    finally:
        monkeypatch.undo()
        time.tzset()
        keep_zone.cache_clear()


def test_processor_and_memory(book: Book) -> None:
    """Measured only where the format asks; the share of the time, as php-fpm counts it."""
    log = book.log("%C %{user}C %{system}C %M %{kilo}M %{mega}M")
    spent, began = time.process_time(), time.monotonic()
    log.begin()
    while time.process_time() - spent < 0.05:
        pass
    worked = time.monotonic() - began
    log.record(request(), 200, 0, began, "")
    least = 0.05 / (time.monotonic() - began)
    most = (time.process_time() - spent) / worked
    (line,) = book.take()
    total, user, system, size, kilo, mega = map(float, line.split())
    assert 90 * least <= total <= 110 * most  # a tenth for what the kernel counts more coarsely
    assert total == pytest.approx(user + system, abs=0.02)
    assert kilo == pytest.approx(size // 1024, rel=0.01)
    assert mega == pytest.approx(size // 1048576, rel=0.01)
    log.record(request(), 200, 0, began, "")  # not begun: nothing is known
    assert book.take()[0].startswith("0.00 0.00 0.00 ")


def test_no_look_at_the_clockwork_unless_asked(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """getrusage(2) costs what a request of ours costs; combined does without."""
    monkeypatch.setattr("resource.getrusage", lambda who: pytest.fail("asked"))
    log = book.log("combined")
    log.begin()
    log.record(request(), 200, 0, 0.0, "")
    assert len(book.take()) == 1


def test_combined_and_common(book: Book) -> None:
    """As every log analyser knows them."""
    shown = request(REMOTE_USER="ann", HTTP_REFERER="https://example.org/", HTTP_USER_AGENT="Mozilla/5.0 (X11)")
    when = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    start = rf'192\.0\.2\.7 - ann {when} "GET /a/b\?x=1&y=2 HTTP/1\.1" 200 1234'
    assert re.fullmatch(start, book.line("common", shown))
    assert re.fullmatch(start + r' "https://example\.org/" "Mozilla/5\.0 \(X11\)"', book.line("combined", shown))
    assert re.fullmatch(r'- - - \[.*\] "-" 400 - "-" "-"', book.line("combined", None, status=400, sent=0))


def test_json(book: Book) -> None:
    """One object a line; numbers are numbers, what is not known is null, UTF-8 is text."""
    found = json.loads(book.line("json", request(uri="/caf\xc3\xa9", HTTP_REFERER='"\\\x00', HTTP_USER_AGENT="\xff")))
    stamp, duration = found.pop("timestamp"), found.pop("duration")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp)
    assert 0 <= duration < 1
    assert found == {
        "level": "info",
        "event": "access",
        "pool": "www",
        "slot": 3,
        "pid": os.getpid(),
        "status": 200,
        "bytes": 1234,
        "remote_addr": "192.0.2.7",
        "remote_user": None,
        "method": "GET",
        "uri": "/café",
        "protocol": "HTTP/1.1",
        "host": None,
        "referer": '"\\\x00',
        "user_agent": "\xff",
        "request_id": "id-1",
    }


# --- what no client can do


ANYTHING = st.text(alphabet=st.characters(max_codepoint=255), max_size=40)


@given(ANYTHING)
def test_escaped_text_is_printable_and_says_all(text: str) -> None:
    """Printable ASCII, no quote that is not escaped, and every byte can be had back."""
    shown = escape(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert re.fullmatch(r'(?:[^"\\]|\\["\\]|\\x[0-9a-f]{2})*', shown)
    back = re.sub(r"\\(?:x(..)|(.))", lambda found: found[2] or chr(int(found[1], 16)), shown)
    assert back == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('a "b"', r"a \"b\""),
        ("\\", r"\\"),
        ("a\r\nb\t\x00\x7f", r"a\x0d\x0ab\x09\x00\x7f"),
        ("caf\xe9", r"caf\xe9"),
        ("€", r"\xe2\x82\xac"),  # only an application can have put it there
        ("\udcff", r"\xed\xb3\xbf"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """As Apache writes them."""
    assert escape(text) == shown


@pytest.mark.parametrize("format", ["combined", "json", '%R - %u %t "%m %r%Q%q" %s "%{HTTP_HOST}e" "%{A}o"'])
def test_no_request_writes_a_second_line_or_ends_a_quote(tmp_path_factory: pytest.TempPathFactory, format: str) -> None:
    """Whatever bytes there are in a request, or in what the application made of it."""
    book = Book(tmp_path_factory.mktemp("log"))

    @given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
    def check(method: str, uri: str, value: str, user: str) -> None:
        line = book.line(
            format,
            request(method, uri, HTTP_REFERER=value, HTTP_USER_AGENT=value, HTTP_HOST=value, REMOTE_USER=user),
            fields=f"A: {value}\r\n",
        )
        if format == "json":
            assert json.loads(line)["status"] == 200
        else:
            assert line.isascii()
            assert line.isprintable()
            assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) == 6

    check()
    book.file.close()


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "shown"), [(7, "7"), (None, "-"), (Unspeakable(), "?"), ("", "-"), (b'"', "b'\\\"'")]
)
def test_what_an_application_puts_into_its_environ(book: Book, value: object, shown: str) -> None:
    """It is shown if it can be."""
    assert book.line("%u", request(REMOTE_USER=value)) == shown


# --- what is not logged


@pytest.mark.parametrize(
    ("asked", "status", "logged"),
    [
        (request(uri="/ping"), 200, False),
        (request("HEAD", uri="/ping"), 204, False),
        (request(uri="/ping", length=0), 200, False),
        (request(uri="/ping"), 503, True),
        (request(uri="/ping"), 302, True),
        (request(uri="/ping?x"), 200, True),
        (request(uri="/ping?"), 200, True),
        (request(uri="/ping/"), 200, True),
        (request(uri="/pin"), 200, True),
        (request("POST", uri="/ping"), 200, True),
        (request(uri="/ping", length=1), 200, True),
        (None, 200, True),
    ],
)
def test_suppression(book: Book, asked: Request | None, status: int, logged: bool) -> None:
    """Exactly this path, asked for plainly, answered well: nothing an attacker could hide behind."""
    book.log("%s", "/ping", "/pong?").record(asked, status, 0, 0.0, "")
    assert book.take() == [str(status)] * logged


# --- with an exchange


def exchange_of(desk: Desk, book: Book, application: Any, format: str, limits: Limits | None = None) -> Exchange:
    made = Exchange(
        application, desk.slot, desk.log, limits or Limits(), multiprocess=True, access_log=book.log(format)
    )
    desk.exchanges.append(made)
    return made


def asked(desk: Desk, book: Book, application: Any, data: bytes, limits: Limits | None = None) -> list[str]:
    """Serve one connection; the lines it left."""
    exchange = exchange_of(desk, book, application, '%h "%m %U" %s %B', limits)
    with desk.client(exchange) as client:
        client.send(data)
        try:
            client.answer()
        except Exception:  # noqa: BLE001 - broken on purpose
            pass
    return book.take()


def crash(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise RuntimeError


def crash_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b"12345"
    raise RuntimeError


def short(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("201 Created", [("Content-Length", "100")])
    return [b"1234567"]


@pytest.mark.parametrize(
    ("application", "data", "line"),
    [
        (hello, get(), '- "GET /" 200 5'),
        (hello, get(REMOTE_ADDR="192.0.2.9", REQUEST_METHOD="HEAD"), '192.0.2.9 "HEAD /" 200 0'),
        (crash, get(), '- "GET /" 500 26'),
        (crash, get(REQUEST_METHOD="HEAD"), '- "HEAD /" 500 0'),
        (crash_late, get(), '- "GET /" 200 5'),
        (short, get(), '- "GET /" 201 7'),
        (hello, post(b"x" * 100), f'- "POST /" 413 {len(plain_text(413))}'),
        (hello, encode_request({"REQUEST_METHOD": "G T"}) + EOF, '- "- -" 400 16'),
        (hello, b"\x16\x03\x01", '- "- -" 400 0'),
    ],
)
def test_every_answer_has_its_line(desk: Desk, book: Book, application: Any, data: bytes, line: str) -> None:
    """Also our own answers, broken ones, and those to what was no request."""
    assert asked(desk, book, application, data, Limits(max_body_size=50)) == [line]


def test_a_probe_has_no_line(desk: Desk, book: Book) -> None:
    """A connection without a byte is no request."""
    with desk.client(exchange_of(desk, book, hello, "%s")):
        pass
    assert book.take() == []


def test_a_client_that_left(desk: Desk, book: Book) -> None:
    """499, as nginx has it, where nothing of an answer was sent."""

    def read(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        pytest.fail("read it all")

    with desk.client(exchange_of(desk, book, read, "%s %B")) as client:
        client.send(encode_request({"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/", "CONTENT_LENGTH": "10"}))
        client.socket.close()
    (line,) = book.take()
    assert line in ("499 0", "400 16")  # 400 where the end of the body was seen before the reset


def test_a_head_that_takes_too_long(desk: Desk, book: Book) -> None:
    """408, and how long it was waited for."""
    exchange = exchange_of(desk, book, hello, "%s %d", Limits(header_timeout=0.05))
    with desk.client(exchange, get()[:-16]) as client:
        client.answer()
    (line,) = book.take()
    status, seconds = line.split()
    assert (status, float(seconds) >= 0.05) == ("408", True)


SYSTEM_CALLS = """
import os, socket, sys
from prefork.policy.access_format import parse
from prefork.system.logplaces import open_log
from prefork.worker.accesslog import AccessLog
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits
from wire import Desk, get, hello
desk = Desk()
log = AccessLog(open_log(sys.argv[2], "access_log"), parse(sys.argv[3]), ("/ping",), pool="www", slot=1, parent=2)
exchange = Exchange(hello, desk.slot, desk.log, Limits(), multiprocess=True, access_log=log)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
for turn in range(4):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(get(SCRIPT_NAME="/ping" if sys.argv[4:] else "/"))
    os.write(2, b"begin")
    descriptor, _ = listener._accept()
    exchange.serve(descriptor)
    os.write(2, b"end")
    assert client.recv(1000).startswith(bytes((1, 6)))
    client.close()
"""


@pytest.mark.tool("strace")
@pytest.mark.parametrize(
    ("format", "more", "expected"),
    [
        ("combined", (), ["write"]),
        ("json", (), ["write"]),
        ("%C", (), ["getrusage", "getrusage", "write"]),
        ("combined", ("suppressed",), []),
    ],
)
def test_system_calls(tmp_path: Path, format: str, more: tuple[str, ...], expected: list[str]) -> None:
    """A line costs one write(2), and what its format asks for; a suppressed one costs nothing."""
    trace = tmp_path / "trace"
    script = ["-c", SYSTEM_CALLS, str(tmp_path / "s"), str(tmp_path / "a.log"), format, *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = ["strace", "-o", str(trace), sys.executable, *script]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    calls = [line.split("(")[0] if "begin" not in line else "begin" for line in trace.read_text().splitlines()]
    last = len(calls) - 1 - calls[::-1].index("begin")
    end = calls.index("write", last + len(expected) + 4 + 1)
    found = calls[last + 1 : end]
    assert sorted(found) == sorted(["accept4", "recvfrom", "sendto", "close", *expected])
    if expected:
        assert found.index("sendto") < found.index("write")  # the client does not wait for it


@pytest.mark.parametrize(
    ("params", "taken"),
    [
        ({"HTTP_X_REQUEST_ID": "7b2e-9f_A.z"}, "7b2e-9f_A.z"),
        ({"REQUEST_ID": "proxy", "HTTP_X_REQUEST_ID": "client"}, "proxy"),
        ({"HTTP_X_REQUEST_ID": "Root=1-67891233-abc/+:@~="}, "Root=1-67891233-abc/+:@~="),
        ({"HTTP_X_REQUEST_ID": "x" * 128}, "x" * 128),
        ({"HTTP_X_REQUEST_ID": "x" * 129}, None),
        ({"HTTP_X_REQUEST_ID": 'a"b'}, None),
        ({"HTTP_X_REQUEST_ID": "a b"}, None),
        ({"HTTP_X_REQUEST_ID": "a\n"}, None),
        ({"HTTP_X_REQUEST_ID": ""}, None),
        ({}, None),
    ],
)
def test_request_ids(desk: Desk, book: Book, params: dict[str, str], taken: str | None) -> None:
    """The proxy's or the client's where it is harmless, else ours: the same in environ, in events, and in the line."""
    seen = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["prefork.request_id"])
        raise RuntimeError

    with desk.client(exchange_of(desk, book, application, "%L")) as client:
        client.send(get(**params))
        client.answer()
    (found,) = book.take()
    assert [found] == seen == [event["request_id"] for event in desk.log.named("request_failed")]
    assert found == taken or (taken is None and re.fullmatch(r"[0-9a-f]+-[0-9a-f]+-1", found))

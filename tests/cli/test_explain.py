"""`preforkctl explain`: lines of nginx's error log become causes and mends."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.cli.explain import as_text, as_values, explain
from prefork.cli.meanings import meaning_of
from prefork.cli.nginx_log import Complaint, read_line

_OTHERS = ', client: ::1, server: , request: "GET / HTTP/1.1", upstream: "{}", host: "a"'
_FULL = "connect() to unix:/run/app.sock failed (11: Resource temporarily unavailable) while connecting to upstream"
_GONE = "connect() to unix:/run/app.sock failed (2: No such file or directory) while connecting to upstream"
_FACTS = (
    ', client: 192.0.2.7, server: example.org, request: "GET /orders?page=2 HTTP/1.1", '
    'upstream: "fastcgi://unix:/run/app.sock:", host: "example.org"'
)


def line(message: str, facts: str = _FACTS, time: str = "2026/11/20 12:00:01") -> str:
    return f"{time} [error] 812#812: *7 {message}{facts}\n"


def complaint(message: str) -> Complaint:
    found = read_line(line(message))
    assert found is not None
    return found


def test_a_line_is_read_into_its_facts() -> None:
    read = read_line(
        line(
            "connect() to unix:/run/app.sock failed (11: Resource temporarily unavailable) while connecting to upstream"
        )
    )
    assert read is not None
    assert (read.time, read.level, read.errno) == (datetime(2026, 11, 20, 12, 0, 1), "error", 11)  # noqa: DTZ001
    assert (read.upstream, read.request) == ("/run/app.sock", "GET /orders?page=2 HTTP/1.1")
    assert read.method_and_path == "GET /orders"
    assert read.message.startswith("connect() to unix:/run/app.sock failed")
    assert read.message.endswith("while connecting to upstream")


@pytest.mark.parametrize(
    ("facts", "upstream"),
    [
        (
            ', client: ::1, server: , request: "GET / HTTP/1.1", upstream: "http://127.0.0.1:8000/x", host: "a"',
            "127.0.0.1:8000",
        ),
        (
            ', client: ::1, server: , request: "GET / HTTP/1.1", upstream: "http://[::1]:8000/x", host: "a"',
            "[::1]:8000",
        ),
        (
            ', client: ::1, server: , request: "GET / HTTP/1.1", upstream: "http://unix:/run/a.sock:/x", host: "a"',
            "/run/a.sock",
        ),
        ("", ""),
    ],
)
def test_the_upstream_is_a_path_or_a_port(facts: str, upstream: str) -> None:
    read = read_line(line("upstream prematurely closed connection", facts))
    assert read is not None
    assert read.upstream == upstream


@pytest.mark.parametrize(
    ("request_line", "upstream", "path"),
    [
        ("GET /p/slow HTTP/1.1", "fastcgi://unix:/run/app.sock", "/run/app.sock"),
        ("GET /p/slow HTTP/1.1", "http://unix:/run/app.sock/slow", "/run/app.sock"),
        ("GET /p/slow?at=1:2 HTTP/1.1", "http://unix:/run/app.sock/slow?at=1:2", "/run/app.sock"),
        ("GET /p/slow HTTP/1.1", "http://unix:/run/shop/front/p/slow", "/run/shop/front"),
        ("GET /p/slow HTTP/1.1", "http://unix:/run/shop/front/slow", "/run/shop/front"),
        ("GET / HTTP/1.1", "http://unix:/run/shop/front/", "/run/shop/front"),
        ("GET /a HTTP/1.1", "http://unix:/run/x.sock/get/y.sock", "/run/x.sock"),
        ("GET /a HTTP/1.1", "http://unix:/run/front/other", "/run/front/other"),  # it cannot be told
        ("GET /a HTTP/1.1", "http://unix:/a", "/a"),
        ("GET /a HTTP/1.1", "http://unix:/run/app.sock:/a", "/run/app.sock"),
        ("GET /a HTTP/1.1", "http://unix:/run/front:/a", "/run/front"),
    ],
)
def test_a_timeout_has_no_colon_between_socket_and_uri(request_line: str, upstream: str, path: str) -> None:
    """nginx has let go of the connection by then, and leaves the colon out that it writes everywhere else."""
    facts = f', client: ::1, server: , request: "{request_line}", upstream: "{upstream}", host: "a"'
    read = read_line(line("upstream timed out (110: Connection timed out) while reading response header", facts))
    assert read is not None
    assert read.upstream == path


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (
            "connect() to unix:/a failed (11: Resource temporarily unavailable) while connecting to upstream",
            "queue_full",
        ),
        (_GONE, "no_socket"),
        ("connect() to unix:/a failed (13: Permission denied) while connecting to upstream", "forbidden"),
        ("connect() to unix:/a failed (111: Connection refused) while connecting to upstream", "refused"),
        ("connect() failed (111: Connection refused) while connecting to upstream", "refused"),
        ("connect() to unix:/a failed (24: Too many open files) while connecting to upstream", "too_many_files"),
        ("recv() failed (104: Connection reset by peer) while reading response header from upstream", "reset"),
        ("readv() failed (104: Connection reset by peer) while reading upstream", "reset"),
        ("writev() failed (32: Broken pipe) while sending request to upstream", "write_failed"),
        ("upstream prematurely closed connection while reading response header from upstream", "closed_early"),
        ("upstream prematurely closed FastCGI stdout while reading response header from upstream", "closed_early"),
        ("upstream sent unsupported FastCGI protocol version: 255 while reading upstream", "broken_off"),
        ("upstream sent too big header while reading response header from upstream", "header_too_big"),
        (
            "upstream timed out (110: Connection timed out) while reading response header from upstream",
            "answer_timed_out",
        ),
        ("upstream timed out (110: Connection timed out) while connecting to upstream", "connect_timed_out"),
        ('FastCGI sent in stderr: "oops" while reading response header from upstream', "stderr"),
        ("upstream sent no valid HTTP/1.0 header while reading response header from upstream", "other_protocol"),
        ("upstream sent unsupported FastCGI protocol version: 72 while reading response header", "other_protocol"),
        ("no live upstreams while connecting to upstream", "no_live_upstreams"),
        ("client intended to send too large body: 9 bytes", "body_too_large"),
        (
            "client prematurely closed connection, so upstream connection is closed too",
            "visitor_left",
        ),
        ("an upstream response is buffered to a temporary file /x while reading upstream", "buffered_to_file"),
    ],
)
def test_each_complaint_has_its_meaning(message: str, key: str) -> None:
    meaning = meaning_of(complaint(message))
    assert meaning is not None
    assert meaning.key == key
    assert meaning.cause
    assert meaning.mend


def test_complaints_of_one_kind_about_one_socket_are_one_finding() -> None:
    """A thousand lines say: what, how often, from when to when, about which requests."""
    lines = [line(_FULL, time=f"2026/11/20 12:00:{second:02}") for second in range(30)]
    others = ["2026/11/20 12:00:00 [notice] 1#1: signal 15 received\n", "not a log line\n"]
    findings = explain([*lines, line(_GONE), *others])
    counts = [(finding.meaning.key, finding.count) for finding in findings.found]
    assert counts == [("queue_full", 30), ("no_socket", 1)]
    assert findings.foreign == 2
    values = as_values(findings)["findings"][0]
    assert (values["first"], values["last"]) == ("2026-11-20T12:00:00", "2026-11-20T12:00:29")
    assert values["requests"] == {"GET /orders": 30}
    text = as_text(findings)
    assert text.startswith("30 × the listen queue was full")
    assert "12:00:00 to 12:00:29" in text


def test_what_is_not_known_is_shown_as_it_is() -> None:
    findings = explain([line("something new happened")])
    assert findings.found == []
    assert findings.unknown == ["something new happened"]
    assert "1 × not known here" in as_text(findings)


def test_a_log_without_complaints_says_so() -> None:
    assert as_text(explain(["2026/11/20 12:00:00 [notice] 1#1: start worker processes\n"])).startswith("no line")


def test_strangers_text_does_not_leave_its_line() -> None:
    """A request's path is whatever a stranger sent; on a terminal it must not act."""
    facts = _FACTS.replace("/orders", "/\x1b[2Jx")
    text = as_text(explain([line("upstream prematurely closed connection", facts)]))
    assert "\x1b" not in text
    assert all(character == "\n" or character.isprintable() for character in text)


@given(st.text(max_size=300))
def test_no_line_is_too_strange(text: str) -> None:
    as_text(explain([text, line(text), line("connect() to unix:", text), f"2026/99/99 12:00:01 [e] 1#1: *1 {text}"]))


def test_memory_is_bounded_by_kinds_not_by_lines() -> None:
    lines = (line("upstream prematurely closed connection", _FACTS.replace("/orders", f"/o{n}")) for n in range(5_000))
    (finding,) = explain(lines).found
    assert finding.count == 5_000
    assert len(finding.requests) == 1_000

from __future__ import annotations

from typing import Any

import pytest

from prefork.worker import headers
from prefork.worker.headers import check_fields, check_status


@pytest.mark.parametrize("status", ["200 OK", "404", "299 ", "503 Bäh", "200 Something else"])
def test_statuses(status: str) -> None:
    """Three digits from 200 on, and any reason or none."""
    assert check_status(status) == status


@pytest.mark.parametrize("status", ["", "OK", "20", "2000 OK", "199 x", "100 Continue", "200 a\nb", "200 a\0", "200 €"])
def test_bad_statuses(status: str) -> None:
    """1xx is the server's, the rest is nobody's."""
    with pytest.raises(ValueError, match="status"):
        check_status(status)


@pytest.mark.parametrize("status", [200, b"200 OK", None])
def test_a_status_is_text(status: Any) -> None:
    """Another type is named."""
    with pytest.raises(TypeError, match=type(status).__name__):
        check_status(status)


def test_lines() -> None:
    """Fields keep their order and spelling, repeated ones included; Content-Length is read."""
    fields = [("Set-Cookie", "a"), ("x-odd!", "é\t"), ("content-length", "12"), ("Set-Cookie", "b")]
    text = "Set-Cookie: a\r\nx-odd!: é\t\r\ncontent-length: 12\r\nSet-Cookie: b\r\n"
    assert check_fields(fields, True) == (text, 12)
    assert check_fields(iter(fields), True) == (text, 12)
    assert check_fields([], True) == ("", -1)


def test_length_is_left_out_where_it_must_not_be() -> None:
    """A 204 has no Content-Length."""
    assert check_fields([("Content-Length", "0"), ("ETag", "x")], False) == ("ETag: x\r\n", -1)


def test_length_twice() -> None:
    """The same twice is sent once; different ones are an error."""
    assert check_fields([("Content-Length", "1"), ("content-length", "1")], True)[1] == 1
    with pytest.raises(ValueError, match="twice"):
        check_fields([("Content-Length", "1"), ("Content-Length", "2")], True)


@pytest.mark.parametrize("value", ["", "-1", "+1", "1 ", "1_0", "²", "9" * 19])
def test_bad_lengths(value: str) -> None:
    """A plain decimal number or an error."""
    with pytest.raises(ValueError, match="Content-Length"):
        check_fields([("Content-Length", value)], True)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", "a\0"])
def test_names_are_tokens(name: str) -> None:
    """Anything else could be read as something else."""
    with pytest.raises(ValueError, match="token"):
        check_fields([(name, "x")], True)


@pytest.mark.parametrize("name", ["Status", "status", "Connection", "Transfer-Encoding", "TE", "Keep-Alive", "Upgrade"])
def test_fields_of_the_server_and_the_proxy(name: str) -> None:
    """The application cannot speak for the connection between the proxy and its client."""
    with pytest.raises(ValueError, match=name):
        check_fields([(name, "x")], True)


@pytest.mark.parametrize("name", ["Location", "X-Other", "Content-Length"])
@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nSet-Cookie: b", "a\0"])
def test_no_line_can_be_smuggled_in(name: str, value: str) -> None:
    """CR, LF and NUL are an error that names the header, never sent."""
    with pytest.raises(ValueError, match=f"{name} contains CR, LF or NUL"):
        check_fields([("ETag", "x"), (name, value)], True)


def test_text_outside_latin_1() -> None:
    """PEP 3333: native strings hold latin-1; the header is named."""
    with pytest.raises(ValueError, match="X-Price contains characters outside latin-1"):
        check_fields([("X-Price", "5 €")], True)


@pytest.mark.parametrize("field", [(b"ETag", "x"), ("ETag", b"x"), ("ETag", 5), ("Content-Length", 5), (None, "x")])
def test_types(field: tuple[Any, Any]) -> None:
    """Bytes and numbers are errors, not silently turned into text."""
    with pytest.raises(TypeError, match="must be a str"):
        check_fields([field], True)


class Chameleon(str):
    """A str whose text is another when it is formatted."""

    def __str__(self) -> str:
        return "a\r\nSet-Cookie: evil"

    def __format__(self, spec: str) -> str:
        return str(self)


@pytest.mark.parametrize("field", [("ETag", "harmless"), ("Content-Length", "5"), ("Content-Type", "text/plain")])
def test_a_str_that_changes_when_it_is_formatted(field: tuple[str, str]) -> None:
    """What is checked is what is sent, whatever was sent before."""
    name, value = field
    check_fields([field], True)
    for disguised in ((name, Chameleon(value)), (Chameleon(name), value)):
        with pytest.raises(ValueError, match="shows itself as something else than its value"):
            check_fields([disguised], True)


class Shy(str):
    """A str that shows itself as another one, which is harmless."""

    def __str__(self) -> str:
        return "other"

    def __format__(self, spec: str) -> str:
        return str(self)


def test_what_is_sent_does_not_depend_on_what_was_sent_before() -> None:
    """A line that is known is that of its own name and value only."""
    for _ in range(2):
        assert check_fields([("Vary", "Cookie")], True)[0] == "Vary: Cookie\r\n"
        assert check_fields([("Vary", Shy("Cookie"))], True)[0] == "Vary: other\r\n"
        assert check_fields([["Vary", "Cookie"]], True)[0] == "Vary: Cookie\r\n"
        assert check_fields([("vary", "Cookie")], True)[0] == "vary: Cookie\r\n"
        with pytest.raises(TypeError, match="must be a str"):
            check_fields([("Vary", ["Cookie"])], True)


def test_few_fields_are_known_and_none_of_one_client() -> None:
    """The memory is bounded, and holds no cookies, places, lengths, fields of the application's own, or long values."""
    unknown = [("Set-Cookie", "a"), ("Location", "/"), ("X-Own", "x"), ("Vary", "x" * headers._LONGEST_KNOWN)]
    for number in range(3 * headers._MOST_KNOWN):
        fields = [("Content-Type", f"text/x-{number}"), ("Content-Length", str(number)), *unknown]
        lines, length = check_fields(fields, True)
        assert (lines.split("\r\n")[:2], length) == ([": ".join(field) for field in fields[:2]], number)
        assert 0 < len(headers._KNOWN) <= headers._MOST_KNOWN
    assert {name for name, _ in headers._KNOWN} == {"Content-Type"}
    headers._KNOWN.clear()

from __future__ import annotations

from typing import Any

import pytest

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
    assert check_fields(fields, may_have_length=True) == (text, 12)
    assert check_fields(iter(fields), may_have_length=True) == (text, 12)
    assert check_fields([], may_have_length=True) == ("", -1)


def test_length_is_left_out_where_it_must_not_be() -> None:
    """A 204 has no Content-Length."""
    assert check_fields([("Content-Length", "0"), ("ETag", "x")], may_have_length=False) == ("ETag: x\r\n", -1)


def test_length_twice() -> None:
    """The same twice is sent once; different ones are an error."""
    assert check_fields([("Content-Length", "1"), ("content-length", "1")], may_have_length=True)[1] == 1
    with pytest.raises(ValueError, match="twice"):
        check_fields([("Content-Length", "1"), ("Content-Length", "2")], may_have_length=True)


@pytest.mark.parametrize("value", ["", "-1", "+1", "1 ", "1_0", "²", "9" * 19])
def test_bad_lengths(value: str) -> None:
    """A plain decimal number or an error."""
    with pytest.raises(ValueError, match="Content-Length"):
        check_fields([("Content-Length", value)], may_have_length=True)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", "a\0"])
def test_names_are_tokens(name: str) -> None:
    """Anything else could be read as something else."""
    with pytest.raises(ValueError, match="token"):
        check_fields([(name, "x")], may_have_length=True)


@pytest.mark.parametrize("name", ["Status", "status", "Connection", "Transfer-Encoding", "TE", "Keep-Alive", "Upgrade"])
def test_fields_of_the_server_and_the_proxy(name: str) -> None:
    """The application cannot speak for the connection between the proxy and its client."""
    with pytest.raises(ValueError, match=name):
        check_fields([(name, "x")], may_have_length=True)


@pytest.mark.parametrize("name", ["Location", "X-Other", "Content-Length"])
@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nSet-Cookie: b", "a\0"])
def test_no_line_can_be_smuggled_in(name: str, value: str) -> None:
    """CR, LF and NUL are an error that names the header, never sent."""
    with pytest.raises(ValueError, match=f"{name} contains CR, LF or NUL"):
        check_fields([("ETag", "x"), (name, value)], may_have_length=True)


def test_text_outside_latin_1() -> None:
    """PEP 3333: native strings hold latin-1; the header is named."""
    with pytest.raises(ValueError, match="X-Price contains characters outside latin-1"):
        check_fields([("X-Price", "5 €")], may_have_length=True)


@pytest.mark.parametrize("field", [(b"ETag", "x"), ("ETag", b"x"), ("ETag", 5), ("Content-Length", 5), (None, "x")])
def test_types(field: tuple[Any, Any]) -> None:
    """Bytes and numbers are errors, not silently turned into text."""
    with pytest.raises(TypeError, match="must be a str"):
        check_fields([field], may_have_length=True)


class Chameleon(str):
    """A str whose text is another when it is formatted."""

    def __str__(self) -> str:
        return "a\r\nSet-Cookie: evil"

    def __format__(self, spec: str) -> str:
        return str(self)


def test_a_str_that_changes_when_it_is_formatted() -> None:
    """What is checked is what is sent."""
    with pytest.raises(ValueError, match="changes its value"):
        check_fields([("ETag", Chameleon("harmless"))], may_have_length=True)

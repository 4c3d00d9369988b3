"""Formats of the access log, taken apart: every token, both dialects, everything that is no format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.policy.access_format import NAMED, AccessFormat, Piece, parse


def one(template: str) -> tuple[str, str]:
    """The only piece of a template."""
    (piece,) = parse(template).pieces
    return piece.what, piece.argument


@pytest.mark.parametrize(
    ("token", "php", "apache"),
    [
        # what both mean alike, or only one of them knows
        ("%m", ("method", ""), ("method", "")),
        ("%s", ("status", ""), ("status", "")),
        ("%>s", ("status", ""), ("status", "")),
        ("%u", ("user", ""), ("user", "")),
        ("%f", ("script", ""), ("script", "")),
        ("%L", ("request_id", ""), ("request_id", "")),
        ("%{HTTP_HOST}e", ("variable", "HTTP_HOST"), ("variable", "HTTP_HOST")),
        ("%{Location}o", ("response_header", "Location"), ("response_header", "Location")),
        ("%{Referer}i", ("request_header", "Referer"), ("request_header", "Referer")),
        ("%h", ("remote_addr", ""), ("remote_addr", "")),
        ("%a", ("remote_addr", ""), ("remote_addr", "")),
        ("%b", ("bytes_or_nothing", ""), ("bytes_or_nothing", "")),
        ("%B", ("bytes", ""), ("bytes", "")),
        ("%D", ("duration", "micro"), ("duration", "micro")),
        ("%H", ("protocol", ""), ("protocol", "")),
        ("%U", ("path", ""), ("path", "")),
        ("%v", ("server_name", ""), ("server_name", "")),
        ("%V", ("server_name", ""), ("server_name", "")),
        ("%C", ("cpu", "total"), ("cpu", "total")),
        ("%{system}C", ("cpu", "system"), ("cpu", "system")),
        ("%d", ("duration", "seconds"), ("duration", "seconds")),
        ("%{mili}d", ("duration", "milli"), ("duration", "milli")),
        ("%{microseconds}d", ("duration", "micro"), ("duration", "micro")),
        ("%M", ("memory", "1"), ("memory", "1")),
        ("%{kilo}M", ("memory", "1024"), ("memory", "1024")),
        ("%{megabytes}M", ("memory", "1048576"), ("memory", "1048576")),
        ("%n", ("pool", ""), ("pool", "")),
        ("%Q", ("question_mark", ""), ("question_mark", "")),
        ("%R", ("remote_addr", ""), ("remote_addr", "")),
        ("%%", ("literal", "%"), ("literal", "%")),
        # what they mean differently
        ("%l", ("length", ""), ("nothing", "")),
        ("%p", ("pid", ""), ("server_port", "")),
        ("%P", ("parent_pid", ""), ("pid", "")),
        ("%q", ("query", ""), ("question_and_query", "")),
        ("%r", ("path", ""), ("request_line", "")),
        ("%t", ("begun", ""), ("begun_bracketed", "")),
        ("%{%H:%M}t", ("begun", "%H:%M"), ("begun_bracketed", "%H:%M")),
        ("%T", ("written", ""), ("whole_seconds", "seconds")),
    ],
)
def test_every_token(token: str, php: tuple[str, str], apache: tuple[str, str]) -> None:
    """In each dialect, when the template says which it is."""
    assert one(f"php-fpm:{token}") == php
    assert one(f"apache:{token}") == apache


def test_units_of_apaches_seconds() -> None:
    """%{ms}T and %{us}T, as Apache 2.4 has them."""
    assert one("apache:%{ms}T") == ("whole_seconds", "milli")
    assert one("apache:%{us}T") == ("whole_seconds", "micro")


@pytest.mark.parametrize(
    ("template", "meaning"),
    [
        ('%R - %u %t "%m %r" %s', "path"),  # php-fpm's default
        ("%r", "path"),
        ('%h %l %u %t "%r" %>s %b', "request_line"),
        ('%r "%{User-Agent}i"', "request_line"),
        ("apache:%R %r", "request_line"),
        ("php-fpm:%h %r", "path"),
    ],
)
def test_the_dialect_is_recognised(template: str, meaning: str) -> None:
    """By the tokens that only one of them has, or by its word."""
    assert meaning in [piece.what for piece in parse(template).pieces]


def test_both_at_once_need_a_word() -> None:
    """Where a token is ambiguous; elsewhere they stand side by side."""
    with pytest.raises(ValueError, match='begins with "apache:" or "php-fpm:": %r means something else'):
        parse("%h %R %r")
    assert [piece.what for piece in parse("%h %R").pieces] == ["remote_addr", "literal", "remote_addr"]


def test_named_formats() -> None:
    """Each is what its template says; JSON has no pieces."""
    assert parse("json") == AccessFormat((), json=True)
    for name, template in NAMED.items():
        assert parse(name) == parse(template)
    assert parse("common").pieces[:4] == (
        Piece("remote_addr"),
        Piece("literal", " "),
        Piece("nothing"),
        Piece("literal", " "),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "combined, common, json, or a template"),
        ("combind", r"did you mean combined\?"),
        ("%y", "and %y is none"),
        ("100%", r"%% for a percent sign, and a token after any other % \(character 4\)"),
        ("%s % x", r"\(character 4\)"),
        ("%{Referer", r"\(character 1\)"),
        ("%{}i", r"a name in the braces of %\{\}i"),
        ("%i", "a name in the braces of %i"),
        ("%{a b}i", "a name in the braces"),
        ("%{weeks}d", r"seconds, .* in the braces of %\{weeks\}d"),
        ("%{weeks}C", "total, user, system in the braces"),
        ("%{x}m", r"%m, which takes nothing in braces, instead of %\{x\}m"),
        ("%{x}%", "instead of"),
        ("%s\n", "one line"),
        ("%s\0", "one line"),
    ],
)
def test_what_is_no_format(text: str, expected: str) -> None:
    """A message that says what was expected."""
    with pytest.raises(ValueError, match=expected):
        parse(text)


def test_tabs_are_allowed() -> None:
    """Labelled values, separated by tabs, are a usual format."""
    assert parse("host:%h\tstatus:%s").pieces[2] == Piece("literal", "\tstatus:")


@given(st.text(alphabet="%{}>smrdTt:apche -", max_size=30))
def test_anything_is_a_format_or_an_error(text: str) -> None:
    """Nothing else is raised, and every character of a template is accounted for."""
    try:
        pieces = parse(text).pieces
    except ValueError:
        return
    assert pieces

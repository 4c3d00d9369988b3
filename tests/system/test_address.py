"""Addresses as text."""

from __future__ import annotations

import pytest

from prefork.errors import ConfigurationError
from prefork.system.address import Address, AddressKind, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/app/app.sock", Address("/run/app/app.sock", AddressKind.PATH, name="/run/app/app.sock")),
        ("app.sock", Address("app.sock", AddressKind.PATH, name="app.sock")),
        ("./8000", Address("./8000", AddressKind.PATH, name="./8000")),
        ("/run/app/a:80", Address("/run/app/a:80", AddressKind.PATH, name="/run/app/a:80")),
        ("@app", Address("@app", AddressKind.ABSTRACT, name="app")),
        ("@app:80", Address("@app:80", AddressKind.ABSTRACT, name="app:80")),
        ("fd://0", Address("fd://0", AddressKind.INHERITED, descriptor=0)),
        ("fd://17", Address("fd://17", AddressKind.INHERITED, descriptor=17)),
        ("systemd", Address("systemd", AddressKind.INHERITED, giver="systemd")),
        ("systemd:web", Address("systemd:web", AddressKind.INHERITED, name="web", giver="systemd")),
        ("systemd:80", Address("systemd:80", AddressKind.INHERITED, name="80", giver="systemd")),
        ("./systemd", Address("./systemd", AddressKind.PATH, name="./systemd")),
        ("starter", Address("starter", AddressKind.INHERITED, giver="starter")),
        ("starter:8000", Address("starter:8000", AddressKind.INHERITED, name="8000", giver="starter")),
        (
            "starter:/run/a=b;c",
            Address("starter:/run/a=b;c", AddressKind.INHERITED, name="/run/a=b;c", giver="starter"),
        ),
        ("starter:[::1]:80", Address("starter:[::1]:80", AddressKind.INHERITED, name="[::1]:80", giver="starter")),
        ("127.0.0.1:8000", Address("127.0.0.1:8000", AddressKind.TCP, name="127.0.0.1", port=8000)),
        ("localhost:0", Address("localhost:0", AddressKind.TCP, name="localhost", port=0)),
        ("my-host.example:80", Address("my-host.example:80", AddressKind.TCP, name="my-host.example", port=80)),
        ("[::1]:65535", Address("[::1]:65535", AddressKind.TCP, name="::1", port=65535)),
        ("[fe80::1%eth0]:80", Address("[fe80::1%eth0]:80", AddressKind.TCP, name="fe80::1%eth0", port=80)),
    ],
)
def test_the_kinds_are_told_apart(text: str, address: Address) -> None:
    """Every legal text gives its kind and name, and the text itself back."""
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected a path"),
        ("a\0b", "expected a path"),
        ("@", "needs a name"),
        ("fd://", "number"),
        ("fd://x", "number"),
        ("fd://-1", "number"),
        ("fd://99999999999", "number"),
        (":8000", "expected host and port"),
        ("*:8000", "expected host and port"),
        ("[]:8000", "expected host and port"),
        ("[::1]", "expected host and port"),
        ("::1", "expected host and port"),
        ("10.0.0.1", "expected host and port"),
        ("localhost:", "expected host and port"),
        ("[::1]:", "expected host and port"),
        ("localhost:123456", "expected host and port"),
        ("localhost:65536", "expected a port up to 65535"),
        ("http://localhost:80/", "expected the address alone: localhost:80"),
        ("tcp://", "expected the address alone: host:port"),
        ("8000", "127.0.0.1:8000 or fd://8000"),
        ("unix:/run/app.sock", "the path alone is meant: /run/app.sock"),
        ("unix:///run/app.sock", "the path alone is meant: /run/app.sock"),
        ("systemd:", "FileDescriptorName="),
        ("systemd:a:b", "FileDescriptorName="),
        ("starter:", "address that start_server was given"),
        ("/run/app/", "names a directory; expected a file in it, as /run/app/app.sock"),
        ("/run/app/..", "names a directory"),
    ],
)
def test_everything_else_is_refused_by_name(text: str, part: str) -> None:
    """What is no address of this version is an error that says what it looks like, or what to write."""
    with pytest.raises(ConfigurationError) as problem:
        parse_address(text)
    assert part in str(problem.value)

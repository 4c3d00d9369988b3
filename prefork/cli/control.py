"""preforkctl: talking to a running server.

``get`` and ``wait`` go through the server's own socket, the way a web server does, so what they find is what the web
server would. An exit status of 0 means that it is so; 1 that it is not, with the reason on stderr; 64 that the
command could not be understood.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import prefork
from prefork.cli.client import client_address
from prefork.cli.console import finish
from prefork.cli.get import get
from prefork.cli.probing import wait_until_served
from prefork.config.arguments import Parser
from prefork.config.values import duration
from prefork.errors import UsageError

__all__ = ["main"]

_NAME: Final = "preforkctl"
_NO_SOCKET: Final = """\
no socket: expected one of
  --socket /run/mysite/app.sock   the path the server was started with, or its @name
  SOCK_PATH=/run/mysite/app.sock  in the environment, or PREFORK_SOCKET, which wins over it"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command (``sys.argv`` by default) and return its exit status; never raises but ``SystemExit``."""
    return finish(_NAME, lambda: _control(sys.argv[1:] if argv is None else argv))


def _control(argv: Sequence[str]) -> int:
    words = _parser().parse_args(argv)
    address = client_address(_socket(getattr(words, "socket", None), os.environ))
    if words.command == "get":
        return get(address, words)
    return wait_until_served(address, _seconds(words.timeout))


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
    one = commands.add_parser("get", parents=[shared], allow_abbrev=False, help=text, description=text)
    one.add_argument("path", metavar="PATH", help="what to ask for: a path that begins with /, perhaps with a query")
    one.add_argument("-H", "--header", metavar="NAME:VALUE", action="append", default=[], help="a header; repeatable")
    one.add_argument("--method", metavar="METHOD", help="the request's method (GET, with --data POST)")
    one.add_argument("--data", metavar="FILE", help="send this file as the body; - is the standard input")
    one.add_argument("--include", action="store_true", help="print status and headers before the body")
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

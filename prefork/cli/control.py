"""preforkctl: talking to a running server.

``get`` and ``wait`` go through the server's own socket, the way a web server does, so what they find is what the web
server would. ``status``, ``stop``, ``ping`` and ``reopen-logs`` are orders, which go over its control socket. An exit
status of 0 means that it is so, or done; 1 that it is not, with the reason on stderr; 64 that the command could not be
understood.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import prefork
from prefork.cli.client import client_address
from prefork.cli.console import finish, printable
from prefork.cli.get import get
from prefork.cli.orders import find_door, give
from prefork.cli.pinging import only_address, ping_through, wait_for_server
from prefork.cli.probing import wait_until_served
from prefork.cli.status import as_json, as_text
from prefork.config.arguments import Parser
from prefork.config.values import duration
from prefork.errors import ConfigurationError, UsageError
from prefork.system.address import parse_address

__all__ = ["main"]

_NAME: Final = "preforkctl"
_ABOUT: Final = """\
Talk to a running prefork: through its socket, as a web server does (get, wait,
ping --through), and over its control socket (status, stop, ping, reopen-logs).

The server is the one that serves --socket (else PREFORK_SOCKET, else
SOCK_PATH), or whose control socket is --control; when nothing is named, the
only one that runs and takes orders from you."""
_NOTES: Final = """\
status and ping print JSON with --json. preforkctl COMMAND --help tells more.

exit status:
  0 it is so, or done; 1 not, with the reason on standard error; 64 the command
  is not understood"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command (``sys.argv`` by default) and return its exit status; never raises but ``SystemExit``."""
    return finish(_NAME, lambda: _control(sys.argv[1:] if argv is None else argv))


def _control(argv: Sequence[str]) -> int:
    words = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = words.run
    return command(words)


# --- the commands -----------------------------------------------------------------------------------------------------


def _get(words: argparse.Namespace) -> int:
    control, served = _control_path(words), _served(words, os.environ)
    if served is None or (control is not None and not hasattr(words, "socket")):
        served = only_address(give(find_door(control, None, os.environ), "ping"))
    return get(client_address(served), words, _seconds(words.timeout))


def _wait(words: argparse.Namespace) -> int:
    control, served, patience = _control_path(words), _served(words, os.environ), _seconds(words.timeout)
    if control is None and served is not None:
        return wait_until_served(client_address(served), patience)
    return wait_for_server(control, os.environ, patience)


def _ping(words: argparse.Namespace) -> int:
    control, served = _control_path(words), _served(words, os.environ)
    patience = _seconds(words.timeout)
    answer = give(find_door(control, served, os.environ), "ping", patience=patience)
    if words.through:
        ping_through(answer, None if control is not None else served, patience)
    line = f"prefork {answer['version']}, pid {answer['pid']}, {answer['phase']}"
    _print(answer, words.json, lambda: printable(line))
    return 0


def _status(words: argparse.Namespace) -> int:
    answer = give(find_door(_control_path(words), _served(words, os.environ), os.environ), "status")
    _print(answer, words.json, lambda: as_text(answer))
    return 0


def _stop(words: argparse.Namespace) -> int:
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)
    give(door, "stop", now=words.now, patience=None)
    return 0


def _reopen_logs(words: argparse.Namespace) -> int:
    give(find_door(_control_path(words), _served(words, os.environ), os.environ), "reopen-logs")
    return 0


def _print(answer: Mapping[str, Any], as_it_is: bool, text: Callable[[], str]) -> None:
    print(as_json(answer) if as_it_is else text(), flush=True)


# --- the command line -------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    shared = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument(
        "--socket", metavar="ADDRESS", help="its socket: a path, @name or host:port (PREFORK_SOCKET, SOCK_PATH)"
    )
    shared.add_argument("--control", metavar="PATH", help="the server's control socket")
    parser = Parser(
        prog=_NAME,
        description=_ABOUT,
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"prefork {prefork.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name, parents=[shared], allow_abbrev=False, help=text, description=text
        )
        command.set_defaults(run=run)
        return command

    _describe_asking(add)
    _describe_orders(add)
    return parser


def _describe_asking(add: Callable[..., argparse.ArgumentParser]) -> None:
    one = add("get", _get, "send one request and print the answer's body; exit 0 for 2xx and 3xx, else 1")
    one.add_argument("path", metavar="PATH", help="what to ask for: a path that begins with /, perhaps with a query")
    one.add_argument("-H", "--header", metavar="NAME:VALUE", action="append", default=[], help="a header; repeatable")
    one.add_argument("--method", metavar="METHOD", help="the request's method (GET, with --data POST)")
    one.add_argument(
        "--protocol", choices=("fastcgi", "http"), help="how it is sent (fastcgi, but to a TCP address http)"
    )
    one.add_argument("--data", metavar="FILE", help="send this file as the body; - is the standard input")
    one.add_argument(
        "--timeout", metavar="TIME", default="60s", help="how long the server may be silent: 250ms, 30s, 5m (60s)"
    )
    one.add_argument("--include", action="store_true", help="print status and headers before the body")
    wait = add(
        "wait", _wait, "wait until the server serves; exit 0 when it does, 1 with the reason when the time is up"
    )
    wait.add_argument("--timeout", metavar="TIME", default="60s", help="how long: 250ms, 30s, 5m or seconds (60s)")


def _describe_orders(add: Callable[..., argparse.ArgumentParser]) -> None:
    ping = add("ping", _ping, "see whether the master answers; exit 0 if it does")
    ping.add_argument(
        "--through",
        action="store_true",
        help="go through the server's sockets, too: they must still be its own, and a worker must answer",
    )
    ping.add_argument("--timeout", metavar="TIME", default="5s", help="how long each answer may take (5s)")
    status = add("status", _status, "show the pools, their queues, their workers and what these run")
    for command in (ping, status):
        command.add_argument("--json", action="store_true", help="print the answer as JSON")
    add(
        "reopen-logs",
        _reopen_logs,
        "open all log files anew, after they were renamed; exit 0 when every worker has them",
    )
    stop = add("stop", _stop, "stop the server in order; exit 0 when its last process is gone")
    stop.add_argument("--now", action="store_true", help="do not wait for requests that run or wait")


def _served(words: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The socket that the server serves, from where prefork-serve would take it. Raises `UsageError` for none."""
    said: str | None = getattr(words, "socket", None)
    served = said or environ.get("PREFORK_SOCKET") or environ.get("SOCK_PATH") or None
    try:
        if served is not None:
            parse_address(served)
    except ConfigurationError as problem:
        raise UsageError(str(problem)) from None
    return served


def _control_path(words: argparse.Namespace) -> str | None:
    said: str | None = getattr(words, "control", None)
    return said


def _seconds(text: str) -> float:
    try:
        return duration()(text)
    except ValueError as problem:
        raise UsageError(f"--timeout: expected {problem}, found {text!r}") from None

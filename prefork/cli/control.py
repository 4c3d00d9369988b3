"""preforkctl: talking to a running server.

``get`` and ``wait`` go through the server's own socket, the way a web server does, so what they find is what the web
server would. ``explain`` reads a file. All others are orders, which go over the server's control socket. An exit status
of 0 means that it is so, or done; 1 that it is not, with the reason on stderr; 64 that the command could not be
understood.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import prefork
from prefork.cli.client import client_address
from prefork.cli.console import Failure, finish, printable
from prefork.cli.explain import as_text as findings_as_text
from prefork.cli.explain import as_values, explain
from prefork.cli.get import get
from prefork.cli.orders import find_door, give
from prefork.cli.past import episodes_as_text, slow_as_text
from prefork.cli.pinging import only_address, ping_through, wait_for_server
from prefork.cli.probing import wait_until_served
from prefork.cli.recalling import Episode, recall
from prefork.cli.showing import FORMATS, put, show, watch
from prefork.cli.stacks import as_text as stacks_as_text
from prefork.cli.status import as_json
from prefork.cli.tap import Sight, tap
from prefork.cli.top import top
from prefork.config.arguments import Parser
from prefork.config.options import BY_KEY
from prefork.config.scaling import SCALABLE
from prefork.config.values import duration
from prefork.errors import ConfigurationError, UsageError
from prefork.system.address import parse_address
from prefork.system.control import Scale

__all__ = ["main"]

_NAME: Final = "preforkctl"
_ABOUT: Final = """\
Talk to a running prefork: through its socket, as a web server does (get, wait,
ping --through), and over its control socket (all others but explain, which
reads a log).

The server is the one that serves --socket (else PREFORK_SOCKET, else
SOCK_PATH), or whose control socket is --control; when nothing is named, the
only one that runs and takes orders from you."""
_NOTES: Final = """\
ping, status, stacks, slow, saturation, reload, scale, tap and explain print
JSON with --json. preforkctl COMMAND --help tells more.

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
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)

    def ask() -> str:
        return show(give(door, "status"), form=words.format, full=words.full, as_it_is=words.json)

    if words.watch:
        return watch(ask)
    put(ask())
    return 0


def _stacks(words: argparse.Namespace) -> int:
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)
    answer = give(door, "stacks", pid=words.pid)
    _print(answer, words.json, lambda: stacks_as_text(answer))
    return 0


def _slow(words: argparse.Namespace) -> int:
    answer = give(find_door(_control_path(words), _served(words, os.environ), os.environ), "slow")
    _print(answer, words.json, lambda: slow_as_text(answer))
    return 0


def _saturation(words: argparse.Namespace) -> int:
    answer = give(find_door(_control_path(words), _served(words, os.environ), os.environ), "saturation")
    _print(answer, words.json, lambda: episodes_as_text(answer))
    return 0


def _top(words: argparse.Namespace) -> int:
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)
    return top(lambda: give(door, "status"))


def _tap(words: argparse.Namespace) -> int:
    if words.place is not None:
        words.socket = words.place
    served = _served(words, os.environ)
    sight = Sight(words.bodies, words.unmasked, words.uri, words.brief, words.json)
    return tap(find_door(_control_path(words), served, os.environ), served, sight)


def _stop(words: argparse.Namespace) -> int:
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)
    give(door, "stop", now=words.now, patience=None)
    return 0


def _reload(words: argparse.Namespace) -> int:
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)
    patience = None if words.timeout is None else _seconds(words.timeout)
    answer = give(door, "reload", patience=patience, late="the reload goes on, and the log will say what came of it")
    pools = ", ".join(f"{name} is generation {number}" for name, number in answer["generations"].items())
    _print(answer, words.json, lambda: printable(f"reloaded in {answer['seconds']:.1f} s: {pools}"))
    return 0


def _scale(words: argparse.Namespace) -> int:
    scales = tuple(_number(text, words.pool) for text in words.numbers)
    door = find_door(_control_path(words), _served(words, os.environ), os.environ)
    answer = give(door, "scale", scales=scales, patience=None)
    _print(answer, words.json, lambda: "\n".join(_numbers(*item) for item in answer["pools"].items()))
    return 0


def _number(text: str, pool: str | None) -> Scale:
    """One of the words of `scale`: NAME=VALUE or POOL:NAME=VALUE."""
    said, equals, value = text.partition("=")
    named, colon, name = said.rpartition(":")
    if not equals or not name:
        raise UsageError(f"expected NAME=VALUE or POOL:NAME=VALUE, such as max_children=8; found {text!r}")
    return Scale(named if colon else pool, name, value)


def _numbers(pool: str, numbers: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {BY_KEY[name].spell(value)}" for name, value in numbers.items() if value is not None)
    return printable(f"{pool}: {said}")


def _reopen_logs(words: argparse.Namespace) -> int:
    give(find_door(_control_path(words), _served(words, os.environ), os.environ), "reopen-logs")
    return 0


def _explain(words: argparse.Namespace) -> int:
    episodes, unasked = _remembered(words)
    if words.log != "-":
        try:
            with open(words.log, encoding="utf-8", errors="replace") as lines:
                findings = explain(lines, episodes)
        except OSError as problem:
            raise Failure(f"{words.log}: {problem.strerror}") from None
    else:
        lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
        findings = explain(lines, episodes)
    _print(as_values(findings), words.json, lambda: findings_as_text(findings))
    if unasked and any(finding.meaning.of_saturation for finding in findings.found):
        print(f"not matched with what held the workers: {unasked}", file=sys.stderr)
    return 0


def _remembered(words: argparse.Namespace) -> tuple[list[Episode], str]:
    """The saturations that the server remembers, or why there is none to be asked: the log may come from elsewhere."""
    control, served = _control_path(words), _served(words, os.environ)
    try:
        answer = give(find_door(control, served, os.environ), "saturation")
        return recall(answer, meant=control is not None or served is not None), ""
    except Failure as failure:  # none, or several
        return [], str(failure)
    except (KeyError, TypeError, ValueError):
        return [], "the server's answer cannot be read; is it another version?"


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
    _describe_tap(add)
    return parser


def _describe_asking(add: Callable[..., argparse.ArgumentParser]) -> None:
    one = add("get", _get, "send one request and print the answer's body; exit 0 for 2xx and 3xx, else 1")
    one.add_argument("path", metavar="PATH", help="what to ask for: a path that begins with /, perhaps with a query")
    one.add_argument(
        "-H",
        "--header",
        metavar="NAME:VALUE",
        action="append",
        default=[],
        help="a header, as Host: example.com in place of localhost; repeatable",
    )
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
    text = (
        "say what the upstream lines of nginx's error log mean here, and what to do; where a server is found, also "
        "which of them are from a saturation that it remembers"
    )
    told = add("explain", _explain, text)
    told.add_argument(
        "log", metavar="FILE", nargs="?", default="-", help="nginx's error log; - is the standard input (-)"
    )
    told.add_argument("--json", action="store_true", help="print what was found as JSON")


def _describe_orders(add: Callable[..., argparse.ArgumentParser]) -> None:
    ping = add("ping", _ping, "see whether the master answers; exit 0 if it does")
    ping.add_argument(
        "--through",
        action="store_true",
        help="go through the server's sockets, too: they must still be its own, and a worker must answer",
    )
    ping.add_argument("--timeout", metavar="TIME", default="5s", help="how long each answer may take (5s)")
    status = add("status", _status, "show the pools, their queues, their workers and what these run")
    form = status.add_mutually_exclusive_group()
    form.add_argument("--format", choices=FORMATS, help="as the status pages show it, under php-fpm's names")
    status.add_argument(
        "--full", action="store_true", help="with --format: the workers, too; otherwise they are shown always"
    )
    status.add_argument("--watch", action="store_true", help="again every second, until interrupted")
    add("top", _top, "show pools, queues and workers live, in the terminal, until q or Ctrl-C")
    stacks = add("stacks", _stacks, "show where the busy workers stand, by the line of the application, or one worker")
    stacks.add_argument("pid", metavar="PID", type=int, nargs="?", help="only this worker, busy or not")
    slow = add("slow", _slow, "show the last slow requests, with their stacks")
    past = add("saturation", _saturation, "show when every worker was busy and connections waited, and what held them")
    form.add_argument(
        "--json", action="store_true", help="what is shown without --format, as JSON under the server's own names"
    )
    for command in (ping, stacks, slow, past):
        command.add_argument("--json", action="store_true", help="print the answer as JSON")
    add(
        "reopen-logs",
        _reopen_logs,
        "open all log files anew, after they were renamed; exit 0 when every worker has them",
    )
    reload = add(
        "reload",
        _reload,
        "read the configuration anew and replace the code, without losing a request; exit 0 when no request that is "
        "sent from then on is answered by the code before, 1 with the reason when nothing was changed",
    )
    reload.add_argument("--timeout", metavar="TIME", help="how long to wait for that (as long as it takes)")
    reload.add_argument("--json", action="store_true", help="print the pools' generations and the seconds as JSON")
    scale = add(
        "scale", _scale, "change how many workers a pool has, until the next reload; exit 0 when they are there"
    )
    scale.add_argument(
        "numbers", metavar="NAME=VALUE", nargs="+", help=f"POOL:NAME=VALUE where several serve; {', '.join(SCALABLE)}"
    )
    scale.add_argument("--pool", metavar="NAME", help="the pool of those that name none")
    scale.add_argument("--json", action="store_true", help="print the numbers that hold now as JSON")
    stop = add("stop", _stop, "stop the server in order; exit 0 when its last process is gone")
    stop.add_argument("--now", action="store_true", help="do not wait for requests that run or wait")


def _describe_tap(add: Callable[..., argparse.ArgumentParser]) -> None:
    shown = add("tap", _tap, "show everything that passes over the socket, decoded, live, with secrets masked")
    shown.add_argument("place", metavar="SOCKET", nargs="?", help="the same as --socket")
    shown.add_argument("--uri", metavar="PREFIX", default="", help="only requests whose URIs begin so")
    shown.add_argument("--bodies", action="store_true", help="the first 4 KiB of each body, too")
    shown.add_argument("--brief", action="store_true", help="no parameters, headers and bodies")
    shown.add_argument("--unmasked", action="store_true", help="do not mask secrets; the server's log says who did")
    shown.add_argument("--json", action="store_true", help="print one JSON object a line")


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

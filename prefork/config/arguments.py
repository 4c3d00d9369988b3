"""The command line of prefork-serve: argparse, its help, and what it does not understand.

Knows names and shapes only; what the words mean is for `prefork.config.load`. argparse itself never judges a value
and never exits: what it cannot understand becomes a `UsageError` that names the nearest thing that exists.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, Final, NoReturn

import prefork
from prefork.config.model import Config, PoolConfig
from prefork.config.options import APP, GROUPS, OPTIONS, Option
from prefork.errors import UsageError

__all__ = ["Parser", "parse"]

_ABOUT: Final = "Serve a WSGI application to nginx: FastCGI, a Unix socket, warm workers."

_NOTES: Final = """\
TIME is 250ms, 30s, 5m, 1h or plain seconds; SIZE is 64K, 256M, 1G or plain
bytes. Defaults stand in parentheses.

Every option is also a variable: PREFORK_MAX_CHILDREN=8 for --max-children 8
(several PATHs or NAME=VALUEs in one variable are separated as in a shell). The
command line wins over the environment. SOCK_PATH is the socket when nothing
else names one.

exit status:
  0 stopped cleanly, 64 usage, 69 address in use by a live server, 70 internal
  error, 77 permission denied, 78 configuration, also an application that
  cannot be imported

example:
  prefork-serve mysite.wsgi:application --socket /run/mysite/app.sock
  prefork-serve prefork.demo --socket /tmp/demo.sock --workers 4
"""

# What people type who come from elsewhere.
_ELSEWHERE: Final = {"-b": "--socket", "--bind": "--socket", "-w": "--workers", "--processes": "--workers"}


def parse(argv: Sequence[str]) -> dict[str, list[str]]:
    """The options said on a command line, each with its uses in order; of an option that is no list, the last.

    Raises `UsageError`; ``--help`` and ``--version`` print and raise ``SystemExit(0)``.
    """
    parser = _parser()
    found, rest = parser.parse_known_args(list(argv))
    for word in rest:
        if word.startswith("-"):
            raise UsageError(_unknown(word.partition("=")[0]))
    if rest:
        raise UsageError(f"expected one APP, found {found.app!r} and {rest[0]!r}; see prefork-serve --help")
    return {key: value if isinstance(value, list) else [value] for key, value in vars(found).items()}


class Parser(argparse.ArgumentParser):
    """argparse that raises `UsageError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Say what argparse found, without its jargon."""
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="prefork-serve",
        usage="prefork-serve APP --socket ADDRESS [options]",
        description=_ABOUT,
        epilog=_NOTES,
        formatter_class=_formatter,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    general = parser.add_argument_group("general")
    general.add_argument(APP.key, metavar=APP.metavar, nargs="?", help=APP.help)
    general.add_argument("-h", "--help", action="help", help="show this and exit")
    general.add_argument("--version", action="version", version=_version(), help="show the version and exit")
    defaults = _defaults()
    for group in GROUPS:
        section = parser.add_argument_group(group)
        for option in OPTIONS:
            if option.group == group:
                section.add_argument(
                    option.flag,
                    dest=option.key,
                    metavar=option.metavar,
                    action="append" if option.many else "store",
                    help=_help(option, defaults.get(option.key)),
                )
    return parser


def _version() -> str:
    return f"prefork {prefork.__version__}, Python {platform.python_version()}"


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28)


def _defaults() -> dict[str, Any]:
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in (*fields(PoolConfig), *fields(Config))
    }


def _help(option: Option, default: Any) -> str:
    text = option.help.replace("%", "%%")
    if default is MISSING or not default or text.endswith(")"):
        return text
    return f"{text} ({option.spell(default)})"


def _unknown(word: str) -> str:
    names = [option.flag for option in OPTIONS] + ["--help", "--version"]
    match = _ELSEWHERE.get(word) or next(iter(get_close_matches(word, names, 1)), None)
    return f"unknown option {word}{f'; did you mean {match}?' if match else ''} (see prefork-serve --help)"

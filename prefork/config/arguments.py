"""The command line of prefork-serve: argparse, its help, and what it does not understand.

Knows names and shapes only; what the words mean is for `prefork.config.load`. argparse itself never judges a value
and never exits: what it cannot understand becomes a `UsageError` that names the nearest thing that exists.
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NoReturn

import prefork
from prefork.config.option import Option
from prefork.config.options import APP, GROUPS, OPTIONS, default_text, defaults
from prefork.config.sources import near
from prefork.errors import UsageError

__all__ = ["CommandLine", "Parser", "Task", "parse"]

_ABOUT: Final = "Serve a WSGI application to nginx, by FastCGI or HTTP, with warm workers."

_NOTES: Final = """\
TIME is 250ms, 30s, 5m, 1h or plain seconds; SIZE is 64K, 256M, 1G or plain
bytes; octal digits for MODE and MASK. Defaults stand in parentheses. What takes
several values may be repeated. An option without a value is a switch: --no- and
its name turns off what a file turned on.

Every option is also a variable, PREFORK_MAX_CHILDREN=8 for --max-children 8
(several PATHs or NAME=VALUEs in one are separated as in a shell; a switch is on
or off), and a key of the file, max_children = 8, below [pool.NAME] or, if it is
the server's, at the top. The command line wins over the environment, that over
the file. PREFORK_CONFIG names the file, SOCK_PATH the socket when nothing else
does. docs/configuration.md tells all of it.

exit status:
  0 stopped cleanly, 64 usage, 69 address in use by a live server, 70 internal
  error, 77 permission denied, 78 configuration, also an application that
  cannot be imported

example:
  prefork-serve mysite.wsgi:application --socket /run/mysite/app.sock
  prefork-serve prefork.demo --socket ./demo.sock --workers 4
  prefork-serve --config /etc/prefork.toml --check
"""

# How argparse puts it, before and since Python 3.12.
_CHOICE: Final = re.compile(r"invalid choice: '(?P<found>[^']*)' \(choose from (?P<among>.*)\)")
_CHOSEN: Final = re.compile(r"[\w-]+")

_USAGE: Final = """\
prefork-serve APP --socket ADDRESS [options]
       prefork-serve --config FILE [options]"""


class Task(Enum):
    """What the command is asked to do."""

    SERVE = auto()
    CHECK = auto()
    SHOW = auto()


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What a command line says: the task, the file, and each option with its uses in order (the last, if no list)."""

    task: Task
    file: str | None
    uses: dict[str, list[str]]


def parse(argv: Sequence[str]) -> CommandLine:
    """Understand a command line (without the program's name).

    Raises `UsageError`; ``--help`` and ``--version`` print and raise ``SystemExit(0)``.
    """
    parser = _parser()
    found, rest = parser.parse_known_args(list(argv))
    for word in rest:
        if word.startswith("-"):
            raise UsageError(_unknown(word.partition("=")[0]))
    if rest:
        raise UsageError(f"expected one APP, found {found.app!r} and {rest[0]!r}; see prefork-serve --help")
    said = vars(found)
    task = said.pop("task", Task.SERVE)
    files = said.pop("config", [None])
    if len(files) > 1:
        raise UsageError(
            f"--config is said twice, {files[0]} and {files[1]}: expected one file; it may include the other "
            '(include = "NAME")'
        )
    return CommandLine(
        task, files[0], {key: value if isinstance(value, list) else [value] for key, value in said.items()}
    )


class Parser(argparse.ArgumentParser):
    """argparse that raises `UsageError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Say what argparse found, without its jargon."""
        said = message.removeprefix("argument ").replace(": ignored explicit argument ", " takes no value, found ")
        if choice := _CHOICE.search(said):
            said = said.replace(" (choose", f"{near(choice['found'], _CHOSEN.findall(choice['among']))} (choose", 1)
        raise UsageError(f"{said}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="prefork-serve",
        usage=_USAGE,
        description=_ABOUT,
        epilog=_NOTES,
        formatter_class=_formatter,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_general(parser)
    known = defaults()
    for group in GROUPS:
        section = parser.add_argument_group(group)
        for option in OPTIONS:
            if option.group == group:
                _add(section, option, _help(option, known))
    return parser


def _add_general(parser: argparse.ArgumentParser) -> None:
    general = parser.add_argument_group("general")
    general.add_argument(APP.key, metavar=APP.metavar, nargs="?", help=APP.help)
    general.add_argument("-h", "--help", action="help", help="show this and exit")
    general.add_argument("--version", action="version", version=_version(), help="show the version and exit")
    general.add_argument("--config", metavar="FILE", action="append", help="read options from this TOML file")
    tasks = general.add_mutually_exclusive_group()
    tasks.add_argument(
        "--check",
        dest="task",
        action="store_const",
        const=Task.CHECK,
        help="see whether this would serve, the import of the application included, and exit with 0 or 78 (64 where "
        "no application or socket is named)",
    )
    tasks.add_argument(
        "--show-config",
        dest="task",
        action="store_const",
        const=Task.SHOW,
        help="show what is in effect, as TOML, and where each value comes from",
    )


def _add(section: argparse._ArgumentGroup, option: Option, text: str) -> None:
    if option.switch:
        section.add_argument(option.flag, dest=option.key, action="store_const", const="on", help=text)
        section.add_argument(
            option.off_flag, dest=option.key, action="store_const", const="off", help=argparse.SUPPRESS
        )
        return
    action = "append" if option.many else "store"
    section.add_argument(option.flag, dest=option.key, metavar=option.metavar, action=action, help=text)


def _version() -> str:
    return f"prefork {prefork.__version__}, Python {platform.python_version()}"


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28)


def _help(option: Option, known: Mapping[str, Any]) -> str:
    default = "" if option.switch and not known[option.key] else default_text(option, known)
    if option.computed:
        default += f"; here {option.spell(known[option.key])}"
    text = option.help + (f" ({default})" if default else "")
    return text.replace("%", "%%")


def _unknown(word: str) -> str:
    actions = ("--help", "--version", "--config", "--check", "--show-config")
    names = [APP.metavar, *(option.flag for option in OPTIONS), *actions]
    if word in names:
        return f"{word} behind -- is no option: expected the options before it, and at most APP behind"
    return f"unknown option {word}{near(word, names)} (see prefork-serve --help)"

"""The table of options: every name, once.

An option has one name everywhere: ``max_children`` is ``--max-children`` on the command line,
``PREFORK_MAX_CHILDREN`` in the environment and ``max_children=`` in Python. Defaults stand in the model, not here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from prefork.config.values import (
    Reader,
    choice,
    duration,
    matching,
    number,
    octal,
    optional,
    size,
    spell_duration,
    spell_size,
)

__all__ = ["APP", "BY_KEY", "GROUPS", "OPTIONS", "Option", "Splitter", "whole"]

Splitter = Callable[[str], list[str]]


def whole(text: str) -> list[str]:
    """One item: the text as it is."""
    return [text]


def _words(text: str) -> list[str]:
    """Words as a shell splits them, so that one with spaces can be quoted."""
    try:
        return shlex.split(text)
    except ValueError:
        raise ValueError("words, with every quote closed") from None


def _colons(text: str) -> list[str]:
    return [part for part in text.split(":") if part]


@dataclass(frozen=True, slots=True)
class Option:
    """One thing the operator may say.

    An option with ``many`` may be said several times; ``from_flag`` and ``from_variable`` take apart what one use
    on the command line and one environment variable hold. ``spell`` writes the model's default for the help.
    """

    key: str
    group: str
    metavar: str
    read: Reader
    help: str
    spell: Callable[[Any], str] = str
    many: bool = False
    from_flag: Splitter = whole
    from_variable: Splitter = whole

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return "PREFORK_" + self.key.upper()


_PRINTABLE: Final = r"[^\x00-\x1f\x7f]+"
_IDENTITY: Final = matching(_PRINTABLE, "a name or a number")
_NAME: Final = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_WORKERS: Final = number(1, 10_000)

APP: Final = Option(
    "app",
    "",
    "APP",
    # "wsgi.py" is a well-formed module name and never what is meant.
    matching(
        rf"(?!.*\.py(:|$)){_NAME}(:{_NAME}(\(\))?)?",
        "module:callable, module:factory() or module, dotted as in an import and without .py",
    ),
    "module:callable, module:factory(), or module alone for its application or app",
)

_LISTENER: Final = (
    Option(
        "socket",
        "listener",
        "ADDRESS",
        matching(_PRINTABLE, "a path, @name or fd://N"),
        "a path, @name for the abstract namespace, or fd://N for a listening socket inherited as descriptor N; "
        "said twice, two pools with the same options",
        many=True,
    ),
    Option("socket_mode", "listener", "MODE", octal(0o777), "permissions of the socket, octal (0660)"),
    Option("socket_owner", "listener", "USER", _IDENTITY, "owner of the socket, name or number (whoever starts it)"),
    Option("socket_group", "listener", "GROUP", _IDENTITY, "group of the socket, name or number (the starter's)"),
    Option(
        "backlog",
        "listener",
        "N",
        number(0, 2**31 - 1),
        "connections that may wait for a worker; the kernel allows at most net.core.somaxconn",
    ),
)

_PROCESSES: Final = (
    Option(
        "pm",
        "processes",
        "MANAGER",
        matching("static", "static, the one process manager of this version"),
        "static: a fixed number of workers",
    ),
    Option("max_children", "processes", "N", _WORKERS, "workers, each serving one request at a time"),
    Option("workers", "processes", "N", _WORKERS, "short for --pm static --max-children N"),
    Option(
        "preload",
        "processes",
        "WHEN",
        choice("auto", "always", "never"),
        "import the application once and fork the workers from there: always, never (each worker imports for "
        "itself), or auto: unless the import leaves threads or connections behind",
    ),
    Option(
        "warmup",
        "processes",
        "PATH",
        matching(r"/[^\x00-\x20\x7f]*", "a path that begins with / and has no spaces"),
        "request this path before the workers are forked; may be repeated",
        many=True,
        from_variable=_words,
    ),
)

_DEADLINES: Final = (
    Option(
        "graceful_timeout",
        "deadlines",
        "TIME",
        duration(),
        "how long a stop waits for requests that run or wait in the queue",
        spell_duration,
    ),
    Option(
        "boot_timeout",
        "deadlines",
        "TIME",
        duration(least=0.1),
        "how long the application may take to be imported",
        spell_duration,
    ),
)

_LIMITS: Final = (
    Option(
        "max_header_size",
        "limits",
        "SIZE",
        size(least=1024, most=64 * 1024**2),
        "all headers and parameters of a request together; more is answered 431",
        spell_size,
    ),
    Option(
        "max_header_count",
        "limits",
        "N",
        number(1, 100_000),
        "headers of a request, beyond those every request has; more is answered 431",
    ),
    Option(
        "max_body_size",
        "limits",
        "SIZE",
        optional(size(least=1)),
        "body of a request; a larger one is answered 413 (off)",
    ),
)

_IDENTITIES: Final = (
    Option("user", "identity", "USER", _IDENTITY, "run the application as this user, name or number (unchanged)"),
    Option("group", "identity", "GROUP", _IDENTITY, "run the application as this group (the user's own)"),
    Option(
        "chdir",
        "identity",
        "DIR",
        matching(r"[^\x00]+", "a directory"),
        "where the application works and is imported from; entered anew at every load (the current directory)",
    ),
    Option("umask", "identity", "MASK", octal(0o777), "umask of the application, octal (unchanged)"),
    Option(
        "env",
        "identity",
        "NAME=VALUE",
        matching(r"[^=\x00]+=[^\x00]*", "NAME=VALUE"),
        "set a variable for the application; may be repeated",
        many=True,
        from_variable=_words,
    ),
    Option(
        "pythonpath",
        "identity",
        "DIR[:DIR]",
        matching(r"[^\x00]+", "a directory"),
        "directories to import from before all others; may be repeated",
        many=True,
        from_flag=_colons,
        from_variable=_colons,
    ),
    Option(
        "name",
        "identity",
        "NAME",
        matching(r"[A-Za-z0-9._-]{1,64}", "letters, digits, dots, dashes or underscores, at most 64"),
        "the pool's name in the log; a second pool is NAME-2",
    ),
)

_LOGS: Final = (
    Option("log_level", "logs", "LEVEL", choice("debug", "info", "warning", "error"), "the least that is logged"),
    Option(
        "log_format",
        "logs",
        "FORMAT",
        choice("auto", "console", "json"),
        "console, json, or auto: console on a terminal, else json",
    ),
)

GROUPS: Final = ("listener", "processes", "deadlines", "limits", "identity", "logs")
OPTIONS: Final = (*_LISTENER, *_PROCESSES, *_DEADLINES, *_LIMITS, *_IDENTITIES, *_LOGS)
BY_KEY: Final = {option.key: option for option in (APP, *OPTIONS)}

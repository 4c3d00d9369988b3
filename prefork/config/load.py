"""Command line, environment and keywords into a `Config`.

Three steps, the same for every source: *gather* what was said under which name, as text; let the stronger source win
option by option (command line over environment over default); *read* the winners into values and combine them. So
a value that lost is never judged, and every message names the option or variable that somebody really wrote.

Nothing here looks at the system: whether a user, a directory or a module exists is found out by whoever needs it.

Errors are `UsageError` for a command line that cannot be understood, and `ConfigurationError` for values, variables
and combinations that cannot be. They never leave as anything else.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from prefork.config.model import Config, PoolConfig
from prefork.config.options import APP, BY_KEY, OPTIONS, Option, Splitter, whole
from prefork.errors import ConfigurationError, UsageError
from prefork.system.address import parse_address

__all__ = ["from_arguments", "from_keywords"]

_PREFIX: Final = "PREFORK_"
# Ours, but read by setup.py when the package is built.
_BUILD_VARIABLES: Final = frozenset({"PREFORK_COMPILE"})
# Kubernetes sets these in every container beside a service that is called "prefork", as Docker did for links.
_SERVICE_VARIABLES: Final = re.compile(r"PREFORK_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

_WRITE_BITS: Final = 0o222
_OCTAL_KEYS: Final = ("socket_mode", "umask")
_SERVER_KEYS: Final = frozenset(field.name for field in fields(Config)) - {"pools"}

_NO_APP: Final = (
    "no application: expected APP as module:callable, e.g. prefork-serve mysite.wsgi:application --socket "
    "/run/mysite/app.sock (PREFORK_APP in the environment will do too; prefork.demo is one to try)"
)
_NO_SOCKET: Final = """\
no socket: expected one of
  --socket /run/mysite/app.sock   a path in a directory that the web server may enter
  --socket @mysite                a name in the abstract namespace
  --socket fd://3                 a listening socket inherited from the parent process
  SOCK_PATH=/run/mysite/app.sock  in the environment, or PREFORK_SOCKET, which wins over it"""


@dataclass(frozen=True, slots=True)
class _Said:
    """What one source says about one option: under which name, in which words, and how one of these comes apart."""

    name: str
    texts: tuple[str, ...]
    split: Splitter = whole


_Source = dict[str, _Said]


def from_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration that a command line (without the program's name) and an environment ask for.

    ``--help`` and ``--version`` print and raise ``SystemExit(0)``.

    Raises:
        UsageError: the command line cannot be understood, or names no application or no socket.
        ConfigurationError: a value, a variable or a combination that cannot be.
    """
    from prefork.config.arguments import parse  # argparse is for the command line alone

    said = _settled({key: _from_flag(BY_KEY[key], uses) for key, uses in parse(argv).items()})
    return _configure({**_from_environment(environ), **said}, environ)


def from_keywords(
    app: str | Callable[..., Any] | None, keywords: Mapping[str, object], environ: Mapping[str, str]
) -> Config:
    """The configuration that ``serve(app, **keywords)`` asks for: like the command line, with Python's values.

    Numbers may be numbers, repeatable options lists or tuples, ``env`` a mapping; ``None`` counts as not said.
    ``app`` may be the callable itself.

    Raises:
        UsageError: there is no application or no socket.
        ConfigurationError: a keyword, a value or a combination that cannot be.
    """
    said: _Source = {}
    for key, value in keywords.items():
        if key not in BY_KEY or key == APP.key:
            raise ConfigurationError(f"unknown option {key}{_near(key, (option.key for option in OPTIONS))}")
        if value is not None:
            said[key] = _from_value(BY_KEY[key], value)
    if isinstance(app, str):
        said[APP.key] = _Said("app", (app,))
    source = {**_from_environment(environ), **_settled(said)}
    return _configure(source, environ, app if callable(app) else None)


def _from_flag(option: Option, uses: Sequence[str]) -> _Said:
    return _Said(option.metavar if option is APP else option.flag, tuple(uses), option.from_flag)


def _from_value(option: Option, value: object) -> _Said:
    """A Python value in the words of the command line, so that there is one set of rules."""
    name = f"{option.key}="
    if isinstance(value, Mapping):
        return _Said(name, tuple(f"{key}={item}" for key, item in value.items()))
    if option.many and isinstance(value, (list, tuple)):
        return _Said(name, tuple(str(item) for item in value))
    if option.key in _OCTAL_KEYS and isinstance(value, int):
        return _Said(name, (f"{value:o}",))
    return _Said(name, (str(value),), option.from_flag)


def _from_environment(environ: Mapping[str, str]) -> _Source:
    """Every ``PREFORK_`` variable; an empty one counts as not set."""
    by_variable = {option.variable: option for option in BY_KEY.values()}
    said: _Source = {}
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or not environ[variable]:
            continue
        option = by_variable.get(variable)
        if option is not None:
            said[option.key] = _Said(variable, (environ[variable],), option.from_variable)
        elif variable not in _BUILD_VARIABLES and not _SERVICE_VARIABLES.fullmatch(variable):
            near = _near(variable.removeprefix(_PREFIX), (key.upper() for key in BY_KEY), _PREFIX)
            raise ConfigurationError(
                f"{variable} in the environment names no option{near} (unset it, or see prefork-serve --help)"
            )
    return _settled(said)


def _settled(said: _Source) -> _Source:
    """One source with ``workers`` resolved into what it is short for."""
    workers = said.pop("workers", None)
    if workers is None:
        return said
    other = said.get("max_children")
    if other is not None:
        raise ConfigurationError(
            f"{workers.name} {_shown(workers.texts)} and {other.name} {_shown(other.texts)} both set the number of "
            f"workers: expected one of them, leave out {other.name}"
        )
    return {"pm": _Said(workers.name, ("static",)), **said, "max_children": workers}


def _configure(said: _Source, environ: Mapping[str, str], application: Callable[..., Any] | None = None) -> Config:
    """The winners, read, checked together and laid out as pools."""
    if application is None and APP.key not in said:
        raise UsageError(_NO_APP)
    if environ.get("SOCK_PATH"):
        said = {"socket": _Said("SOCK_PATH", (environ["SOCK_PATH"],)), **said}
    if "socket" not in said or not said["socket"].texts:
        raise UsageError(_NO_SOCKET)
    values = {key: _read(BY_KEY[key], saying) for key, saying in said.items()}
    if application is not None:
        values[APP.key] = application
    _check_mode(said, values)
    _check_warmup(said, values)
    server = {key: values.pop(key) for key in _SERVER_KEYS if key in values}
    return Config(pools=_pools(said["socket"].name, values), **server)


def _read(option: Option, said: _Said) -> Any:
    values = []
    for text in said.texts:
        item = text
        try:
            for item in said.split(text):
                values.append(option.read(item))
        except ValueError as problem:
            raise ConfigurationError(f"{said.name}: expected {problem}, found {item!r}") from None
    if option.key == "env":
        return dict(str(value).split("=", 1) for value in values)
    return tuple(values) if option.many else values[-1]


def _check_mode(said: _Source, values: Mapping[str, Any]) -> None:
    mode = values.get("socket_mode", _WRITE_BITS)
    if not mode & _WRITE_BITS:
        raise ConfigurationError(
            f"{said['socket_mode'].name}: expected a mode with write permission for somebody, found {mode:04o}; "
            "connecting to a socket takes write permission on it: 0660 lets its group in"
        )


def _check_warmup(said: _Source, values: Mapping[str, Any]) -> None:
    if values.get("warmup") and values.get("preload") == "never":
        raise ConfigurationError(
            f"{said['warmup'].name} {said['warmup'].texts[0]} cannot go with {said['preload'].name} never: nothing is "
            "imported before the workers are forked, so nothing can be warmed; expected auto or always"
        )


def _pools(name: str, values: dict[str, Any]) -> tuple[PoolConfig, ...]:
    """One pool a socket, alike but for socket and name; the first keeps the name when a second joins it."""
    sockets: tuple[str, ...] = values.pop("socket")
    for socket in sockets:
        parse_address(socket)  # judges the text alone, and early: nothing has been started yet
    places = [posixpath.normpath(socket) for socket in sockets]
    for number, socket in enumerate(sockets):
        if places[number] in places[:number]:
            raise ConfigurationError(f"{name} {socket} is said twice: expected a socket of its own for every pool")
    first = PoolConfig(**{**values, "socket": sockets[0]})
    others = (
        PoolConfig(**{**values, "socket": socket, "name": f"{first.name}-{number}"})
        for number, socket in enumerate(sockets[1:], 2)
    )
    return (first, *others)


def _near(wrong: str, right: Iterable[str], prefix: str = "") -> str:
    """The question whether something else was meant, or nothing."""
    from difflib import get_close_matches  # only ever needed by a mistake

    return "".join(f"; did you mean {prefix}{match}?" for match in get_close_matches(wrong, list(right), 1))


def _shown(texts: Iterable[str]) -> str:
    return " ".join(texts)

"""Command line, environment, files and keywords into a `Config`.

Three steps, the same for every source: *gather* what was said under which name, as text (`prefork.config.sources`,
`prefork.config.file`); let the stronger source win option by option (command line over environment over file over
default); *read* the winners into values and combine them. So a value that lost is never judged, and every message
names the option, the variable or the key that somebody really wrote.

What the command line and the environment say about a pool they say about every pool, except what tells pools apart:
application, socket and name. These go with a file only if it describes one pool, or none.

Nothing here looks at the system but for the files: whether a user, a directory or a module exists is found out by
whoever needs it. Errors are `UsageError` for a command line that cannot be understood, `PermissionProblem` for a file
that may not be read, and `ConfigurationError`. They never leave as anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from prefork.config.contradictions import check_pool, check_server
from prefork.config.file import Written, read_files
from prefork.config.internal import status_pool
from prefork.config.model import Config, PoolConfig
from prefork.config.option import Option
from prefork.config.options import APP, BY_KEY, SERVER_KEYS
from prefork.config.sources import CONFIG_VARIABLE, Said, Source, from_environment, from_flags, words_of
from prefork.errors import ConfigurationError, UsageError
from prefork.system.paths import absolute

if TYPE_CHECKING:  # argparse is for the command line alone
    from prefork.config.arguments import CommandLine

__all__ = ["Loaded", "arguments_again", "from_arguments", "from_keywords", "keywords_again"]

# What tells pools apart, and so cannot be said of several at once.
_OWN: Final = ("app", "socket", "name")

_NO_APP: Final = (
    "no application: expected APP as module:callable, e.g. prefork-serve mysite.wsgi:application --socket "
    "/run/mysite/app.sock (PREFORK_APP in the environment will do too; prefork.demo is one to try)"
)
_NO_SOCKET: Final = """\
no socket: expected one of
  --socket /run/mysite/app.sock   a path in a directory that the web server may enter
  --socket @mysite                a name in the abstract namespace
  --socket 127.0.0.1:8000         an address and a port, for HTTP
  --socket systemd                a listening socket that systemd passed (starter: Server::Starter; fd://3: anybody)
  SOCK_PATH=/run/mysite/app.sock  in the environment, or PREFORK_SOCKET, which wins over it"""

_NEEDED: Final = (("app", _NO_APP, '"mysite.wsgi:application"'), ("socket", _NO_SOCKET, '"/run/mysite/app.sock"'))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and who said what of it: ``pools`` goes with the pools of ``config``, one for one."""

    config: Config
    server: Source
    pools: tuple[Source, ...]


def from_arguments(line: CommandLine, environ: Mapping[str, str]) -> Loaded:
    """The configuration that a command line, an environment and the file that either of them names ask for.

    Raises:
        UsageError: there is no application, or no socket, and no file that could name one.
        ConfigurationError: a value, a variable, a key or a combination that cannot be.
        PermissionProblem: a file that may not be read.
    """
    return _load(from_flags(line.uses), (line.file, "--config"), environ, None)


def from_keywords(
    app: str | Callable[..., Any] | None, keywords: Mapping[str, object], environ: Mapping[str, str]
) -> Config:
    """The configuration that ``serve(app, **keywords)`` asks for: like the command line, with Python's values.

    Numbers may be numbers, repeatable options lists or tuples, ``env`` a mapping; ``None`` counts as not said.
    ``app`` may be the callable itself. ``config`` names a configuration file. Raises as `from_arguments`.
    """
    if app is not None and not isinstance(app, str) and not callable(app):
        raise ConfigurationError(f'app: expected "module:callable" or a callable, found {app!r:.80}')
    said = words_of({key: value for key, value in keywords.items() if key != "config"})
    if isinstance(app, str):
        said[APP.key] = Said("app", "app", (app,))
    file = keywords.get("config")
    return _load(said, (None if file is None else str(file), "config="), environ, app if callable(app) else None).config


def arguments_again(line: CommandLine, environ: Mapping[str, str], base: str) -> Callable[[], Config]:
    """How the same command line is understood at a later time: the environment as it is now, the file as it is then.

    A file that was named from the current directory is looked for in ``base``, which is that directory by its text:
    where it is a symbolic link, it is followed anew.
    """
    again = replace(line, file=None if line.file is None else absolute(line.file, base))
    kept = _kept(environ, base)
    return lambda: from_arguments(again, kept).config


def keywords_again(
    app: str | Callable[..., Any] | None, keywords: Mapping[str, object], environ: Mapping[str, str], base: str
) -> Callable[[], Config]:
    """The same as `arguments_again`, for what `from_keywords` understands."""
    said = dict(keywords)
    if said.get("config") is not None:
        said["config"] = absolute(str(said["config"]), base)
    kept = _kept(environ, base)
    return lambda: from_keywords(app, said, kept)


def _kept(environ: Mapping[str, str], base: str) -> dict[str, str]:
    kept = dict(environ)
    if kept.get(CONFIG_VARIABLE):
        kept[CONFIG_VARIABLE] = absolute(kept[CONFIG_VARIABLE], base)
    return kept


def _load(
    above: Source, file: tuple[str | None, str], environ: Mapping[str, str], application: Callable[..., Any] | None
) -> Loaded:
    """Everything that was said, by strength, laid out as a server and its pools."""
    above = {**from_environment(environ), **above}
    if application is not None:
        above[APP.key] = Said("app", "app", ())
    written, asked_by = _written(file, environ)
    _refuse_ambiguous(above, written, asked_by)
    server = {key: said for key, said in {**written.server, **above}.items() if key in SERVER_KEYS}
    own = {key: said for key, said in above.items() if key not in SERVER_KEYS}
    pools: list[PoolConfig] = []
    sources: list[Source] = []
    warnings: list[str] = []
    for table in written.pools.values() or ({},):
        source: Source = {**table, **own}
        if environ.get("SOCK_PATH") and len(written.pools) < 2:
            source = {"socket": Said("SOCK_PATH", "SOCK_PATH", (environ["SOCK_PATH"],)), **source}
        _check_complete(source, asked_by, bool(written.pools))
        for pool in _pools(source, application):
            warnings += check_pool({**server, **source}, pool)
            pools.append(pool)
            sources.append(source)
    values = {key: _read(BY_KEY[key], said) for key, said in server.items()}
    config = Config(pools=tuple(pools), warnings=tuple(dict.fromkeys(warnings)), **values)
    check_server(config, server, sources)
    if config.status_listen is not None:
        config = replace(config, pools=(*config.pools, status_pool(config, config.status_listen)))
    return Loaded(config, server, tuple(sources))


def _written(file: tuple[str | None, str], environ: Mapping[str, str]) -> tuple[Written, str]:
    """What the files say, and who named them."""
    path, asked_by = file
    if path is None:
        path, asked_by = environ.get(CONFIG_VARIABLE) or None, CONFIG_VARIABLE
    if path is None:
        return Written(), ""
    return read_files(path, asked_by), f"{asked_by} {path}"


def _refuse_ambiguous(above: Source, written: Written, asked_by: str) -> None:
    if len(written.pools) < 2:
        return
    for key in _OWN:
        if key in above:
            raise ConfigurationError(
                f"{above[key]} is said beside {asked_by}, which describes {len(written.pools)} pools "
                f"({', '.join(written.pools)}): expected {key} in the file, at the pool it is meant for"
            )


def _pools(source: Source, application: Callable[..., Any] | None) -> list[PoolConfig]:
    """One pool a socket, alike but for socket and name; the first keeps the name when a second joins it."""
    values = {key: _read(BY_KEY[key], said) for key, said in source.items() if key != APP.key or application is None}
    if application is not None:
        values[APP.key] = application
    sockets: tuple[str, ...] = values.pop("socket")
    first = PoolConfig(**values, socket=sockets[0])
    others = [
        replace(first, socket=socket, name=f"{first.name}-{number}") for number, socket in enumerate(sockets[1:], 2)
    ]
    return [first, *others]


def _check_complete(source: Source, asked_by: str, from_table: bool) -> None:
    """See that a pool has what only somebody can say; ``asked_by`` is who named a file, if anybody did."""
    for key, missing, example in _NEEDED:
        if key in source and (source[key].texts or key == APP.key):
            continue
        if from_table:
            raise ConfigurationError(f"{source['name'].name}: expected {key}, found none; add a line {key} = {example}")
        raise UsageError(
            f"{missing}\n({asked_by} describes no pool; one begins with [pool.NAME])" if asked_by else missing
        )


def _read(option: Option, said: Said) -> Any:
    values = []
    for text in said.texts:
        item = text
        try:
            for item in said.split(text):
                values.append(option.read(item))
        except ValueError as problem:
            found = repr(item) if said.quoted else item
            raise ConfigurationError(f"{said.name}: expected {problem}, found {found}") from None
    if option.key == "env":
        return dict(str(value).split("=", 1) for value in values)
    return tuple(values) if option.many else values[-1]

"""Configuration files: TOML tables into sources, with the files that they include.

* Keys at the top of a file are the server's; each table ``[pool.NAME]`` is a pool.
* ``include`` takes one pattern or a list of them, relative to the file they stand in. The order is that of the
  patterns, and by name within one. A pattern may match nothing; a plain name must exist. No file is read twice.
* Nothing is said twice: a later file redefines neither a key of the server nor a pool.

Every error names the file and the key or table. tomllib tells lines only of what is no TOML.
"""

from __future__ import annotations

import glob
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prefork.config.option import Option, whole
from prefork.config.options import BY_KEY, SERVER_KEYS
from prefork.config.sources import Said, Source, is_list, near, settled, texts_of
from prefork.errors import ConfigurationError, PermissionProblem

__all__ = ["Written", "read_files"]

_INCLUDE: Final = "include"
_POOL: Final = "pool"
_NAME: Final = "name"
_ENV: Final = "env"
_POOL_KEYS: Final = frozenset(BY_KEY) - SERVER_KEYS

# A decimal number as the value of some key, at the beginning of a line or within an inline table.
_DECIMAL: Final = re.compile(r"(?:^|[{,])[ \t]*[\"']?(\w+)[\"']?[ \t]*=[ \t]*\+?(?:0(?!o)|[1-9])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Written:
    """What a configuration file says, with all that it includes."""

    server: Source = field(default_factory=dict)
    pools: dict[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    """One file: its name as the operator knows it, its tables, and the keys whose value is a decimal number in it."""

    name: str
    tables: Mapping[str, Any]
    decimals: frozenset[str]


def read_files(path: str, asked_by: str) -> Written:
    """Read a configuration file and what it includes; ``asked_by`` is who named it ("--config").

    Raises `ConfigurationError`, or `PermissionProblem` for a file that may not be read.
    """
    written = Written()
    for file in _files(path, asked_by, (), {}):
        for key, said in _server(file).items():
            if key in written.server:
                raise ConfigurationError(
                    f"{said.name} is set already, by {written.server[key].name}: expected it in one file only"
                )
            written.server[key] = said
        for name, source in _pools(file):
            if name in written.pools:
                raise ConfigurationError(
                    f"{source[_NAME].name} is there already, as {written.pools[name][_NAME].name}: "
                    "expected each pool in one file only"
                )
            written.pools[name] = source
    return written


# --- files ------------------------------------------------------------------------------------------------------------


def _files(path: str, asked_by: str, above: tuple[str, ...], read: dict[str, str]) -> Iterator[_File]:
    """A file, then those it includes. ``above`` are those on the way here, ``read`` all so far, with who asked."""
    real = os.path.realpath(path)
    if real in above:
        way = " → ".join((*above[above.index(real) :], real))
        raise ConfigurationError(f"{asked_by} {path} leads back to itself: {way}; take one of them out")
    if real in read:
        raise ConfigurationError(f"{asked_by} {path}: that file is read already, by {read[real]}; include it once")
    read[real] = asked_by
    file = _parse(path, asked_by)
    yield file
    for pattern in _patterns(file):
        for found in _matches(file.name, pattern):
            yield from _files(found, f"{file.name}: include", (*above, real), read)


def _parse(path: str, asked_by: str) -> _File:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = stream.read()
        return _File(path, tomllib.loads(text), frozenset(_DECIMAL.findall(text)))
    except PermissionError as problem:
        raise PermissionProblem(
            f"{asked_by} {path}: {problem.strerror}; let the user who starts the server read it"
        ) from None
    except OSError as problem:
        raise ConfigurationError(f"{asked_by} {path}: expected a TOML file, found: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise ConfigurationError(
            f"{path}: expected UTF-8, found a byte that is none at offset {problem.start}"
        ) from None
    except (ValueError, RecursionError) as problem:
        raise ConfigurationError(
            f'{path}: expected TOML, found: {problem}. A text stands in quotes (key = "text"), a list in brackets, a '
            "table under its [name]"
        ) from None


def _patterns(file: _File) -> list[str]:
    value = file.tables.get(_INCLUDE, [])
    patterns = value if isinstance(value, list) else [value]
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern or "\0" in pattern:
            raise ConfigurationError(
                f"{file.name}: include: expected a path, a pattern or a list of them, found {value!r}"
            )
    return patterns


def _matches(name: str, pattern: str) -> list[str]:
    whole_pattern = os.path.join(glob.escape(os.path.dirname(name)), pattern)
    if not glob.has_magic(pattern):
        return [os.path.join(os.path.dirname(name), pattern)]
    return sorted(glob.glob(whole_pattern))


# --- tables -----------------------------------------------------------------------------------------------------------


def _server(file: _File) -> Source:
    said: Source = {}
    for key, value in file.tables.items():
        if key in (_INCLUDE, _POOL):
            continue
        name = f"{file.name}: {key}"
        if key not in SERVER_KEYS:
            raise ConfigurationError(f"{name}: {_not_the_servers(key, value)}")
        said[key] = _said(file, name, file.name, BY_KEY[key], value)
    return said


def _not_the_servers(key: str, value: object) -> str:
    if key in _POOL_KEYS:
        return "this is an option of a pool: expected it below a line [pool.NAME]"
    if isinstance(value, Mapping):
        names = [name for name, inner in value.items() if isinstance(inner, Mapping)]
        return f"unknown table; a pool is written [pool.{names[0] if names else key}]"
    hint = near(key, (*SERVER_KEYS, _INCLUDE, *_POOL_KEYS))
    return f"unknown option{hint or '; see prefork-serve --help for those there are'}"


def _pools(file: _File) -> Iterator[tuple[str, Source]]:
    tables = file.tables.get(_POOL, {})
    if not isinstance(tables, Mapping):
        raise ConfigurationError(f"{file.name}: pool: expected tables [pool.NAME], found {tables!r}")
    for name, table in tables.items():
        where = f"{file.name}: [pool.{name}]"
        if not isinstance(table, Mapping):
            raise ConfigurationError(
                f"{file.name}: [pool] {name}: expected a table for every pool, as [pool.www], found {table!r}"
            )
        said = {key: _in_pool(file, where, key, value) for key, value in table.items()}
        yield name, settled({_NAME: Said(where, where, (name,)), **said})


def _in_pool(file: _File, where: str, key: str, value: object) -> Said:
    name = f"{where} {key}"
    if key == _NAME:
        raise ConfigurationError(f"{name}: a pool has its name from its table; write [pool.{value}] instead")
    if key in SERVER_KEYS or key == _INCLUDE:
        raise ConfigurationError(
            f"{name}: this is an option of the whole server: expected it at the top of the file, before the first table"
        )
    if isinstance(value, Mapping) and key != _ENV:
        for inner in value:  # "pm.max_children = 3" is a table to TOML
            hint = near(f"{key}.{inner}", _POOL_KEYS)
            if hint:
                raise ConfigurationError(f"{name}.{inner}: unknown option{hint}")
    if key not in BY_KEY:
        hint = near(key, _POOL_KEYS) or "; see prefork-serve --help for those there are"
        raise ConfigurationError(f"{name}: unknown option{hint}")
    return _said(file, name, where, BY_KEY[key], value)


# --- values -----------------------------------------------------------------------------------------------------------


def _said(file: _File, name: str, origin: str, option: Option, value: object) -> Said:
    expected = _expected(option, value)
    if expected:
        raise ConfigurationError(f"{name}: expected {expected}, found {_shown(value)}")
    if option.octal and isinstance(value, int) and option.key in file.decimals:
        raise ConfigurationError(
            f'{name}: expected octal digits, found a decimal number; write "0{value}" (in quotes) or 0o{value}'
        )
    split = whole if is_list(value) else option.from_flag
    return Said(name, origin, texts_of(option, value), split, quoted=not isinstance(value, int | float))


def _expected(option: Option, value: object) -> str:
    """What should stand there instead; empty if the value has a form that the option's reader can judge."""
    if option.switch:
        return "" if isinstance(value, bool | str) else "true or false"
    if option.key == _ENV:
        plain = isinstance(value, Mapping) and all(_is_plain(item) for item in value.values())
        return "" if plain else 'a table of texts, as { NAME = "value" }'
    if option.many and option.key != "socket":
        plain = all(_is_plain(item) for item in value) if isinstance(value, list) else _is_plain(value)
        return "" if plain else "a text or a list of texts"
    if option.key == "socket" and isinstance(value, list):
        return "one address (every other one has a pool of its own)"
    return "" if _is_plain(value) else _own(option, value)


def _own(option: Option, value: object) -> str:
    """What the option itself expects, where it can say so of this value."""
    try:
        if not isinstance(value, Mapping):
            option.read(_shown(value))
    except ValueError as problem:
        return str(problem)
    return "a text or a number"


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value as its author wrote it, more or less."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "a table" if isinstance(value, Mapping) else repr(value)

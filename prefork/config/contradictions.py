"""What may be said and cannot be meant: each rule looks at one pool, or at the whole, and at who said what.

A combination that has no meaning is a `ConfigurationError`; one that is only odd is a warning, returned for the log.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Final

from prefork.config.model import Config, PoolConfig
from prefork.config.sources import Source
from prefork.errors import ConfigurationError
from prefork.system.address import AddressKind, parse_address

__all__ = ["check_pool", "check_server"]

_WRITE_BITS: Final = 0o222

_PLACES: Final[tuple[str, ...]] = ()
"""Options of the server that are paths of files."""


def check_pool(said: Source, pool: PoolConfig) -> list[str]:
    """Raise for what contradicts itself within a pool; return the warnings."""
    _check_address(said, pool)
    _check_mode(said, pool)
    _check_warmup(said, pool)
    return []


def check_server(config: Config, said: Source, pools: Sequence[Source]) -> list[str]:
    """The same for what the pools and the server are together."""
    _check_places(config, said, pools)
    return []


def _check_address(said: Source, pool: PoolConfig) -> None:
    """The address's text, and that nobody wants to change what has no file or belongs to somebody else."""
    try:
        address = parse_address(pool.socket)  # judges the text alone, and early: nothing has been started yet
    except ConfigurationError as problem:
        raise ConfigurationError(f"{said['socket'].name}: {problem}") from None
    if address.kind is AddressKind.PATH:
        return
    for key in ("socket_mode", "socket_owner", "socket_group"):
        if getattr(pool, key) is not None:
            why = "belongs to its giver" if address.kind is AddressKind.INHERITED else "has no file"
            raise ConfigurationError(
                f"{said[key]} means nothing for the socket {pool.socket}, which {why}: leave it out, or name a path"
            )


def _check_mode(said: Source, pool: PoolConfig) -> None:
    if pool.socket_mode is not None and not pool.socket_mode & _WRITE_BITS:
        raise ConfigurationError(
            f"{said['socket_mode'].name}: expected a mode with write permission for somebody, found "
            f"{pool.socket_mode:04o}; connecting to a socket takes write permission on it: 0660 lets its group in"
        )


def _check_warmup(said: Source, pool: PoolConfig) -> None:
    if pool.warmup and pool.preload == "never":
        raise ConfigurationError(
            f"{said['warmup']} cannot go with {said['preload']}: nothing is imported before the workers are forked, "
            "so nothing can be warmed; expected preload auto or always"
        )


def _check_places(config: Config, said: Source, pools: Sequence[Source]) -> None:
    """No file has two purposes, and no socket two pools."""
    taken: dict[str, str] = {}
    for place, name in _places(config, said, pools):
        normal = posixpath.normpath(place)
        if normal in taken:
            raise ConfigurationError(
                f"{name}: {place} is said twice, here and by {taken[normal]}: expected a path of its own for each"
            )
        taken[normal] = name


def _places(config: Config, said: Source, pools: Sequence[Source]) -> Iterator[tuple[str, str]]:
    for key in _PLACES:
        if key in said:
            yield getattr(config, key), said[key].name
    for pool, source in zip(config.pools, pools, strict=True):
        yield pool.socket, source["socket"].name

"""What may be said and cannot be meant: each rule looks at one pool, or at the whole, and at who said what.

A combination that has no meaning is a `ConfigurationError`; one that is only odd is a warning, returned for the log.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from typing import Final

from prefork.config.model import Config, PoolConfig
from prefork.config.sources import Source
from prefork.errors import ConfigurationError
from prefork.system.address import SYSTEMD, Address, AddressKind, parse_address
from prefork.system.paths import absolute

__all__ = ["check_pool", "check_server"]

_WRITE_BITS: Final = 0o222

# What the managers do not look at.
_MEANINGLESS: Final = {
    "static": (
        "min_spare_servers",
        "max_spare_servers",
        "start_servers",
        "max_spawn_rate",
        "process_idle_timeout",
    ),
    "ondemand": ("min_spare_servers", "max_spare_servers", "start_servers"),
}

_STREAMS: Final = ("stderr", "-")
_NO_PATHS: Final = (*_STREAMS, "syslog")


def check_pool(said: Source, pool: PoolConfig) -> list[str]:
    """Raise for what contradicts itself within a pool; return the warnings."""
    _check_address(said, pool)
    _check_mode(said, pool)
    _check_warmup(said, pool)
    _check_spares(said, pool)
    _check_on_demand(said, pool)
    _check_deadlines(said, pool)
    _check_believed(said, pool)
    _check_inside(said, pool)
    return list(_without_effect(said, pool))


def check_server(config: Config, said: Source, pools: Sequence[Source]) -> None:
    """Raise for what the pools and the server cannot be together."""
    _check_status(config, said)
    _check_places(config, said, pools)
    _check_background(config, said, pools)


def _address(said: Source, key: str, text: str) -> Address:
    """What an address comes to: its text alone is judged, and early, when nothing has been started yet."""
    try:
        return parse_address(text)
    except ConfigurationError as problem:
        raise ConfigurationError(f"{said[key].name}: {problem}") from None


def _check_address(said: Source, pool: PoolConfig) -> None:
    """The address's text, and that nobody wants to change what has no file or belongs to somebody else."""
    address = _address(said, "socket", pool.socket)
    if pool.allowed_addresses and address.kind in (AddressKind.PATH, AddressKind.ABSTRACT):
        raise ConfigurationError(
            f"{said['allowed_addresses']} means nothing for the socket {pool.socket}, to which nobody connects by TCP: "
            "leave it out; who may connect to a Unix socket is said by socket_mode and socket_group"
        )
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


def _check_spares(said: Source, pool: PoolConfig) -> None:
    """The numbers of `dynamic` in their order, as far as somebody said them; the others make room."""
    if pool.pm != "dynamic":
        return
    order = ("min_spare_servers", "start_servers", "max_spare_servers", "max_children")
    found = [key for key in order if key in said or key == "max_children"]
    for lesser, greater in pairwise(found):
        if getattr(pool, lesser) > getattr(pool, greater):
            other = said.get(greater, f"{greater} {getattr(pool, greater)}, the default")
            raise ConfigurationError(
                f"{said[lesser]} cannot go with {other}: expected min_spare_servers ≤ start_servers ≤ "
                "max_spare_servers ≤ max_children"
            )


def _check_on_demand(said: Source, pool: PoolConfig) -> None:
    if pool.pm == "ondemand" and pool.preload == "never":
        raise ConfigurationError(
            f"{said['pm']} cannot go with {said['preload']}: every first request would wait for an import; expected "
            "preload auto or always, or pm dynamic"
        )


def _check_deadlines(said: Source, pool: PoolConfig) -> None:
    soft, hard = pool.request_timeout, pool.request_terminate_timeout
    if soft is not None and hard is not None and hard <= soft:
        raise ConfigurationError(
            f"{said['request_terminate_timeout']} cannot go with {said['request_timeout']}: the worker would be killed "
            "before its request is interrupted; expected request_terminate_timeout to be longer, with time to clean up"
        )


def _check_status(config: Config, said: Source) -> None:
    if config.status_listen is not None:
        _address(said, "status_listen", config.status_listen)


def _check_background(config: Config, said: Source, pools: Sequence[Source]) -> None:
    if not config.daemonize:
        return
    if config.error_log in _STREAMS:
        found = said.get("error_log", "error_log stderr, the default")
        raise ConfigurationError(
            f"{said['daemonize'].name} cannot go with {found}: in the background there is no terminal to write to; "
            "expected error_log to be a path or syslog"
        )
    for pool, source in zip(config.pools, pools, strict=True):
        if pool.access_log in _STREAMS:
            raise ConfigurationError(
                f"{said['daemonize'].name} cannot go with {source['access_log']}: in the background there is no "
                "standard output; expected a path or syslog"
            )


def _check_believed(said: Source, pool: PoolConfig) -> None:
    if "none" in pool.forwarded_allow and len(pool.forwarded_allow) > 1:
        raise ConfigurationError(f"{said['forwarded_allow']} believes nobody and somebody: leave out none, or the rest")


def _check_inside(said: Source, pool: PoolConfig) -> None:
    if pool.ping_path is not None and pool.ping_path == pool.status_path:
        raise ConfigurationError(
            f"{said['ping_path']} cannot go with {said['status_path']}: one of them would never be answered; expected "
            "two paths"
        )


def _without_effect(said: Source, pool: PoolConfig) -> Iterator[str]:
    defaults = {field.name: field.default for field in fields(PoolConfig)}
    others = _MEANINGLESS.get(pool.pm, ())
    useless = {
        "access_log_format": (pool.access_log is None, "has no access_log"),
        "access_log_suppress": (pool.access_log is None, "has no access_log"),
        "forwarded_allow": (pool.protocol == "fastcgi", "speaks no HTTP"),
        "max_requests_jitter": (not pool.max_requests, "has no max_requests"),
        "ping_response": (pool.ping_path is None, "has no ping_path"),
        "slowlog": (pool.request_slowlog_timeout is None, "has no request_slowlog_timeout"),
        **dict.fromkeys(others, (True, f"has pm {pool.pm}")),
    }
    for key, (holds, why) in useless.items():
        if holds and key in said and getattr(pool, key) != defaults[key]:
            yield f"{said[key]} means nothing for the pool {pool.name}, which {why}"
    yield from _too_late(said, pool)


def _too_late(said: Source, pool: PoolConfig) -> Iterator[str]:
    """A slow request is logged while it runs; the default is not worth a word."""
    slow = pool.request_slowlog_timeout
    if slow is None or "request_slowlog_timeout" not in said:
        return
    for key in ("request_timeout", "request_terminate_timeout"):
        end = getattr(pool, key)
        if end is not None and slow >= end:
            yield (
                f"{said['request_slowlog_timeout']} means nothing for the pool {pool.name}: {said[key]} ends a request "
                "before it is slow"
            )
            return


def _check_places(config: Config, said: Source, pools: Sequence[Source]) -> None:
    """No file has two purposes, and no socket two pools. Logs may share a file."""
    taken: dict[str, str] = {}
    for place, name, shared in (*_places(config, said, pools), *_logs(config, said, pools)):
        normal = _normal(place)
        if normal in taken:
            raise ConfigurationError(
                f"{name}: {place} is said twice, here and by {taken[normal]}: expected a path of its own for each"
            )
        if not shared:
            taken[normal] = name


def _normal(place: str) -> str:
    with suppress(OSError):  # the current directory was deleted
        place = absolute(place)
    return posixpath.normpath(place)


_Place = tuple[str, str, bool]  # the path, who said it, whether others may say it as well


def _places(config: Config, said: Source, pools: Sequence[Source]) -> Iterator[_Place]:
    for pool, source in zip(config.pools, pools, strict=True):
        if pool.socket != SYSTEMD:  # which stands for another socket in each pool: the one with its name
            yield pool.socket, source["socket"].name, False
    if config.pid_file is not None:
        yield config.pid_file, said["pid_file"].name, False
    if config.status_listen is not None:
        yield config.status_listen, said["status_listen"].name, False
    if config.control_socket not in (None, "off"):
        yield str(config.control_socket), said["control_socket"].name, False


def _logs(config: Config, said: Source, pools: Sequence[Source]) -> Iterator[_Place]:
    if "error_log" in said and config.error_log not in _NO_PATHS:
        yield config.error_log, said["error_log"].name, True
    for pool, source in zip(config.pools, pools, strict=True):
        if pool.access_log is not None and pool.access_log not in _NO_PATHS:
            yield pool.access_log, source["access_log"].name, True
        if pool.slowlog is not None:
            yield pool.slowlog, source["slowlog"].name, True

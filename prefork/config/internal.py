"""Pools of our own: what the operator does not describe, but asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError
from prefork.system.address import AddressKind, parse_address

__all__ = ["STATUS", "keep_names", "status_pool"]

STATUS: Final = "status"

_WORKERS: Final = 2  # one may be busy with a client that reads slowly


def status_pool(config: Config, address: str) -> PoolConfig:
    """The pool that serves the status pages at ``address``.

    It runs as whoever the first pool runs as: never as root where that does not, and with leave to use what nginx uses.
    """
    first = config.pools[0]
    names = {pool.name for pool in config.pools}
    name = STATUS
    while name in names:
        name = f"prefork-{name}"
    return PoolConfig(
        app="prefork.status.served:application",
        socket=address,
        name=name,
        protocol="http",
        pm="static",
        max_children=_WORKERS,
        user=first.user,
        group=first.group,
        socket_owner=None,
        socket_group=first.socket_group if parse_address(address).kind is AddressKind.PATH else None,
        header_timeout=5.0,
        body_timeout=5.0,
        write_timeout=5.0,
        request_slowlog_timeout=None,
        request_timeout=5.0,
        request_terminate_timeout=10.0,
        max_body_size=1024,
        internal=True,
    )


def keep_names(config: Config, before: Config) -> Config:
    """The configuration to come, with the status pages under the name that they have ``before``, if both have them.

    Raises ConfigurationError for a pool that shall have that name.
    """
    kept = next((pool.name for pool in before.pools if pool.internal), None)
    if kept is None or not any(pool.internal for pool in config.pools):
        return config
    if any(pool.name == kept and not pool.internal for pool in config.pools):
        raise ConfigurationError(
            f"[pool.{kept}]: this is the name of the pool of the status pages, which serves: expected another name, or "
            "a restart"
        )
    return replace(config, pools=tuple(replace(pool, name=kept) if pool.internal else pool for pool in config.pools))

"""What another configuration means for a server that runs: pools by name, and what only a restart can change."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from prefork.config.model import Config, PoolConfig
from prefork.config.options import SERVER_KEYS

__all__ = ["Changes", "compare"]


_POOLS: Final = frozenset({"status_listen"})
"""Options of the server that are a pool of their own, which comes and goes like the others."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The way from one configuration to another."""

    config: Config  # what is to hold afterwards: the pools of the other one, and what the server is as it was
    kept: tuple[PoolConfig, ...]  # pools of names that are there already, as they shall be
    added: tuple[PoolConfig, ...]
    removed: tuple[str, ...]  # names
    options: tuple[str, ...]  # those that differ, as pool.option
    restart: tuple[str, ...]  # those of the server as a whole that differ: they stay as they were


def compare(before: Config, after: Config) -> Changes:
    """The way from ``before`` to ``after``."""
    known = {pool.name: pool for pool in before.pools}
    wanted = {pool.name for pool in after.pools}
    kept = tuple(pool for pool in after.pools if pool.name in known)
    own = {key: getattr(before, key) for key in SERVER_KEYS - _POOLS}
    return Changes(
        config=replace(after, **own),
        kept=kept,
        added=tuple(pool for pool in after.pools if pool.name not in known),
        removed=tuple(name for name in known if name not in wanted),
        options=tuple(f"{pool.name}.{key}" for pool in kept for key in _differences(known[pool.name], pool)),
        restart=tuple(sorted(key for key in own if getattr(after, key) != own[key])),
    )


def _differences(before: PoolConfig, after: PoolConfig) -> list[str]:
    return [each.name for each in fields(PoolConfig) if getattr(before, each.name) != getattr(after, each.name)]

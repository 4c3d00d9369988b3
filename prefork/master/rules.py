"""What the policy gets to know of a pool's configuration: the numbers, with every default filled in."""

from __future__ import annotations

from prefork.config.model import PoolConfig
from prefork.errors import ConfigurationError
from prefork.policy.model import Rules

__all__ = ["check_room", "rules_of"]


def rules_of(pool: PoolConfig) -> Rules:
    """The rules that a pool's configuration comes to."""
    spares = pool.spares
    return Rules(
        pm=pool.pm,
        max_children=pool.max_children,
        min_spare=spares.least,
        max_spare=spares.most,
        start=spares.start,
        spawn_rate=pool.max_spawn_rate,
        idle_timeout=pool.process_idle_timeout,
        surge=pool.surge,
        boot_timeout=pool.boot_timeout,
        graceful_timeout=pool.graceful_timeout,
        max_memory=pool.max_memory,
        max_lifetime=pool.max_worker_lifetime,
        canary=pool.canary is not None,
        slow=pool.request_slowlog_timeout,
        soft=pool.request_timeout,
        hard=pool.request_terminate_timeout,
    )


def check_room(pool: PoolConfig, slots: int) -> None:
    """See that the pages of a pool that serves, with so many ``slots``, have room for its workers and one successor.

    Raises ConfigurationError.
    """
    if pool.max_children >= slots:
        raise ConfigurationError(
            f"max_children {pool.max_children} is more than there is room for: expected less than {slots}, which was "
            "set when the server was started (four times max_children, 64 at least); restart it to have more"
        )

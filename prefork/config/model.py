"""What the operator asked for, as frozen values with their defaults and units.

Durations are float seconds, sizes are bytes, modes are integers. The defaults stand here and nowhere else.
A value that is ``None`` was not given: the part that uses it says what that means.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Config", "PoolConfig", "default_max_children"]


def default_max_children() -> int:
    """Four workers a usable CPU (``sched_getaffinity(2)``), at least 2 and at most 32."""
    return max(2, min(32, 4 * len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """One pool: one listener, the workers behind it, and their limits (php-fpm's word and meaning)."""

    app: str | Callable[..., Any]  # "module:callable", "module:factory()", "module", or the callable itself
    socket: str  # path, "@abstract" or "fd://N"
    name: str = "www"

    # listener
    socket_mode: int | None = None  # None: 0660; an inherited socket refuses one
    socket_owner: str | None = None  # name or number; None: unchanged
    socket_group: str | None = None
    backlog: int = 4096  # clamped by the kernel to net.core.somaxconn

    # processes
    pm: str = "static"
    max_children: int = field(default_factory=default_max_children)
    preload: str = "auto"  # auto, always, never
    warmup: tuple[str, ...] = ()  # paths requested in the zygote before it forks

    # deadlines, in seconds
    graceful_timeout: float = 25.0
    boot_timeout: float = 60.0

    # limits, in bytes and numbers
    max_header_size: int = 65_536
    max_header_count: int = 200
    max_body_size: int | None = None

    # identity
    user: str | None = None
    group: str | None = None
    chdir: str = "."  # kept as text: every zygote enters it anew
    umask: int | None = None  # of the zygote and workers; None: inherited
    env: Mapping[str, str] = field(default_factory=dict)  # added to the application's environment
    pythonpath: tuple[str, ...] = ()

    @property
    def app_name(self) -> str:
        """The application as the operator wrote it, or the callable's qualified name."""
        if isinstance(self.app, str):
            return self.app
        return f"{getattr(self.app, '__module__', '?')}:{getattr(self.app, '__qualname__', type(self.app).__name__)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole server: its pools, and what belongs to the master alone."""

    pools: tuple[PoolConfig, ...]
    log_level: str = "info"  # debug, info, warning, error
    log_format: str = "auto"  # auto: console on a terminal, else json

"""What the operator asked for, as frozen values with their defaults and units.

Durations are float seconds, sizes are bytes, modes are integers. The defaults stand here and nowhere else.
A value that is ``None`` was not given: the part that uses it says what that means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefork.system.cpus import usable_cpus

__all__ = ["Config", "PoolConfig", "default_max_children"]


def default_max_children() -> int:
    """Four workers a usable CPU (affinity and cgroup quota), at least 2 and at most 32."""
    return max(2, min(32, 4 * usable_cpus().usable))


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
    protocol: str = "auto"  # auto, fastcgi, http
    allowed_addresses: tuple[str, ...] = ()  # networks that may connect by TCP; empty: all
    forwarded_allow: tuple[str, ...] = ("unix", "127.0.0.0/8", "::1")  # whose X-Forwarded-* headers are believed

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
    rlimit_files: int | None = None  # descriptors of a worker; None: inherited
    rlimit_core: int | None = None  # bytes of a core dump; -1: unlimited; None: inherited
    no_new_privs: bool = False  # prctl(2): programs with set-user-ID bits get no rights
    clear_env: bool = False  # the application sees env and little else
    env: Mapping[str, str] = field(default_factory=dict)  # added to the application's environment
    pythonpath: tuple[str, ...] = ()

    # logs
    access_log: str | None = None  # path, "-" for standard output, "syslog"; None: none
    access_log_format: str = "combined"
    access_log_suppress: tuple[str, ...] = ()  # paths whose successes are not logged
    catch_output: bool = False  # what the application prints goes into the log

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
    error_log: str = "stderr"  # "stderr", "syslog", or a path
    daemonize: bool = False
    pid_file: str | None = None
    control_socket: str | None = None  # path, or "off"; None: chosen by the server
    warnings: tuple[str, ...] = ()  # what is odd about all this, in sentences; for the log, once

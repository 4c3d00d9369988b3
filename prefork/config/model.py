"""What the operator asked for, as frozen values with their defaults and units.

Durations are float seconds, sizes are bytes, modes are integers. The defaults stand here and nowhere else.
A value that is ``None`` was not given: the part that uses it says what that means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefork.system.cpus import usable_cpus

__all__ = ["Config", "PoolConfig", "Spares", "default_max_children"]


def default_max_children() -> int:
    """Four workers a usable CPU (affinity and cgroup quota), at least 2 and at most 32."""
    return max(2, min(32, 4 * usable_cpus().usable))


def _first(said: int | None, default: int) -> int:
    return default if said is None else said


def _given(*said: int | None) -> list[int]:
    return [number for number in said if number is not None]


class Spares(NamedTuple):
    """What the manager `dynamic` keeps, in workers: php-fpm's numbers. Where one was not said, it fits the others."""

    least: int  # min_spare_servers: with fewer idle workers, some are forked
    most: int  # max_spare_servers: with more idle workers, some leave
    start: int  # start_servers: forked when the pool begins to serve


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """One pool: one listener, the workers behind it, and their limits (php-fpm's word and meaning)."""

    app: str | Callable[..., Any]  # "module:callable", "module:factory()", "module", or the callable itself
    socket: str  # path, "@abstract", "host:port", "fd://N", "systemd[:NAME]" or "starter[:ADDRESS]"
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
    pm: str = "dynamic"  # dynamic, static, ondemand
    max_children: int = field(default_factory=default_max_children)
    min_spare_servers: int | None = None  # idle workers; None: see `spares`
    max_spare_servers: int | None = None  # idle workers; None: see `spares`
    start_servers: int | None = None  # workers; None: see `spares`
    max_spawn_rate: int = 32  # workers a second by which a pool grows
    process_idle_timeout: float = 10.0  # seconds without need before a worker leaves
    max_requests: int = 0  # requests of a worker before it is replaced; 0: without end
    max_requests_jitter: float = 0.1  # share of max_requests that chance takes off it
    max_memory: int | None = None  # bytes of private memory of a worker; None: without limit
    max_worker_lifetime: float | None = None  # seconds; None: without limit
    preload: str = "auto"  # auto, always, never
    warmup: tuple[str, ...] = ()  # paths requested in the zygote before it forks
    canary: str | None = None  # path that the first worker of a new generation must answer; None: none
    reload_surge: int | None = None  # workers above max_children; None: see `surge`

    # deadlines, in seconds; None: without limit
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    body_min_rate: int = 500  # bytes a second; 0: none
    write_timeout: float = 30.0
    write_min_rate: int = 500  # bytes a second; 0: none
    queue_timeout: float | None = None
    skip_abandoned: bool = True  # a request whose client has left is not run
    request_slowlog_timeout: float | None = 10.0
    request_timeout: float | None = None
    request_terminate_timeout: float | None = None
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
    hooks: str | None = None  # a module, imported after the application

    # logs
    access_log: str | None = None  # path, "-" for standard output, "syslog"; None: none
    access_log_format: str = "combined"
    access_log_suppress: tuple[str, ...] = ()  # paths whose successes are not logged
    slowlog: str | None = None  # path; None: the error log
    catch_output: bool = False  # what the application prints goes into the log

    # control
    status_path: str | None = None  # where the pool itself shows its status; None: nowhere
    ping_path: str | None = None  # where it answers by itself; None: nowhere
    ping_response: str = "pong"

    internal: bool = False  # one of ours, which shows the others

    @property
    def spares(self) -> Spares:
        """What `dynamic` keeps; where nothing was said: 2, max_children // 2, least + (most - least) // 2.

        A number that was said moves those that were not, and none exceeds max_children, which may be lowered while
        the server runs.
        """
        ceiling, start_said = self.max_children, self.start_servers
        least = _first(self.min_spare_servers, min((2, *_given(self.max_spare_servers, start_said))))
        least = min(least, ceiling)
        most = _first(self.max_spare_servers, max((ceiling // 2, *_given(start_said))))
        most = max(least, min(most, ceiling))
        start = _first(start_said, least + (most - least) // 2)
        return Spares(least, most, max(least, min(start, most)))

    @property
    def surge(self) -> int:
        """Workers allowed above max_children while generations overlap: reload_surge, or as many again."""
        return self.max_children if self.reload_surge is None else self.reload_surge

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
    status_listen: str | None = None  # path or host:port of the status pages; None: none
    warnings: tuple[str, ...] = ()  # what is odd about all this, in sentences; for the log, once

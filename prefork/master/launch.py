"""How a zygote is started: the one place where privileges are given up, and where everything it gets is listed."""

from __future__ import annotations

import os
import pwd
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import prefork
from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError
from prefork.master.places import places_of, pythonpath_of
from prefork.policy.culprits import Places
from prefork.system.channel import LARGEST_MESSAGE, weight
from prefork.system.handover import FOR_US
from prefork.system.identity import Identity, become, user_name
from prefork.system.limits import ResourceLimits
from prefork.system.processes import execute, spawn

__all__ = ["Launch"]

# -P keeps the current directory off the path of the fresh interpreter until the zygote, as the right user, has entered
# the right one. The package is found where the master found it, even when it is not installed.
_BOOTSTRAP: Final = (
    "import sys; home = sys.argv[1]; home in sys.path or sys.path.insert(0, home); "
    "from prefork.zygote import main; main()"
)

_KEPT: Final = frozenset({"PATH", "LANG", "LANGUAGE", "TZ"})
"""What `clear_env` leaves, besides LC_*, HOME, USER and LOGNAME. php-fpm leaves HOME and USER alone."""

_MOST_SETTINGS: Final = LARGEST_MESSAGE - 64
"""Bytes; with room for what differs from one generation to the next."""

_LISTS: Final = ("pythonpath", "warmup", "access_log_suppress", "allowed_addresses", "forwarded_allow")


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything about a pool's zygotes that does not change from one generation to the next."""

    config: Config
    pool: PoolConfig
    identity: Identity | None
    base: str  # the directory the server was started in: absolute, symlinks kept
    directory: str  # the application's, likewise
    files: tuple[int, int]  # RLIMIT_NOFILE as the master found it
    become_zygote: Callable[[Mapping[int, int], Any], None]  # for an application that was given as a callable
    places: Places = field(init=False, compare=False)  # where its code is, as links lead when this is made

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` where a zygote could not be told its settings."""
        object.__setattr__(self, "places", places_of(self.pool, self.base, self.directory))
        size = weight(self.settings(generation=2**63, slots=2**31, load=True))
        if size > _MOST_SETTINGS:
            longest = max(_LISTS, key=lambda name: weight(list(getattr(self.pool, name))))
            raise ConfigurationError(
                f"the settings of the pool take {size} bytes; expected at most {_MOST_SETTINGS}: shorten its longest "
                f"list, {longest} ({len(getattr(self.pool, longest))} entries)"
            )

    def settings(self, *, generation: int, slots: int, load: bool) -> dict[str, Any]:
        """The first message to the zygote."""
        return {
            "master": os.getpid(),
            "version": prefork.__version__,
            "pool": self.pool.name,
            "app": self.pool.app if isinstance(self.pool.app, str) else "",
            "hooks": self.pool.hooks,
            "title": self.pool.app_name,
            "status_path": self.pool.status_path or "",
            "ping_path": self.pool.ping_path or "",
            "ping_response": self.pool.ping_response,
            "generation": generation,
            "slots": slots,
            "load": load and self.pool.preload != "never",
            "fork_anyway": self.pool.preload == "always" or not isinstance(self.pool.app, str),
            "directory": self.directory,
            "pythonpath": list(pythonpath_of(self.pool, self.base)),
            "warmup": list(self.pool.warmup),
            "boot_timeout": self.pool.boot_timeout,
            "canary": self.pool.canary or "",
            "boot_deadline": time.monotonic() + self.pool.boot_timeout,
            "max_children": self.pool.max_children,
            "log_level": self.config.log_level,
            "log_format": self.config.log_format,
            "error_log": self.config.error_log,
            "access_log": self.pool.access_log,
            "access_log_format": self.pool.access_log_format,
            "access_log_suppress": list(self.pool.access_log_suppress),
            "catch_output": self.pool.catch_output,
            "protocol": self.pool.protocol,
            "allowed_addresses": list(self.pool.allowed_addresses),
            "forwarded_allow": list(self.pool.forwarded_allow),
            "max_header_size": self.pool.max_header_size,
            "max_header_count": self.pool.max_header_count,
            "max_body_size": self.pool.max_body_size,
            "header_timeout": self.pool.header_timeout,
            "body_timeout": self.pool.body_timeout,
            "body_min_rate": self.pool.body_min_rate,
            "write_timeout": self.pool.write_timeout,
            "write_min_rate": self.pool.write_min_rate,
            "queue_timeout": self.pool.queue_timeout,
            "request_timeout": self.pool.request_timeout,
            "skip_abandoned": self.pool.skip_abandoned,
        }

    def requests(self, luck: float) -> int:
        """How many requests a worker begins before it is replaced; 0: without end.

        ``luck``, 0 to 1, takes up to max_requests_jitter off, so that workers of one age do not all leave at once.
        """
        most = self.pool.max_requests
        return max(1, most - int(most * self.pool.max_requests_jitter * luck)) if most else 0

    @property
    def limits(self) -> ResourceLimits:
        """What its processes may use."""
        return ResourceLimits(self.pool.rlimit_files, self.pool.rlimit_core, self.pool.no_new_privs)

    def start(self, gifts: Mapping[int, int]) -> int:
        """Start a zygote; returns its pid. Raises PreforkError, or OSError when there is no process to be had."""
        if isinstance(self.pool.app, str):
            arguments = [sys.executable, "-P", "-c", _BOOTSTRAP, str(Path(prefork.__file__).parents[1])]
            return execute(arguments, self.environment(os.environ), gifts, self._prepare)

        def child() -> None:
            self._prepare()
            environment = self.environment(os.environ)
            os.environ.clear()
            os.environ.update(environment)
            self.become_zygote(gifts, self.pool.app)

        return spawn(child)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What the application finds in its environment.

        With ``clear_env`` only what a program cannot do without: where programs and its user's home are, and which
        language and time zone to write in. Nothing that somebody put there for the master, or for the shell before it.
        Never what a parent tells the server: it names descriptors that the application has not.
        """
        environment = {name: value for name, value in inherited.items() if name not in FOR_US}
        if self.pool.clear_env:
            environment = {name: value for name, value in inherited.items() if name in _KEPT or name.startswith("LC_")}
            environment.setdefault("PATH", os.defpath)
        if self.identity is not None or self.pool.clear_env:
            # As login(1), systemd's User= and php-fpm do: a library that looks for ~ must not find root's.
            uid = os.geteuid() if self.identity is None else self.identity.uid
            environment["USER"] = environment["LOGNAME"] = (
                user_name(uid) if self.identity is None else self.identity.user
            )
            try:
                environment["HOME"] = pwd.getpwuid(uid).pw_dir
            except KeyError:
                environment["HOME"] = "/"
        environment.update(self.pool.env)
        return environment

    def _prepare(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.files)
        self.limits.apply()
        if self.pool.umask is not None:
            os.umask(self.pool.umask)
        if self.identity is not None:
            become(self.identity)

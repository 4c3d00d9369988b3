"""How a zygote is started: the one place where privileges are given up, and where everything it gets is listed."""

from __future__ import annotations

import os
import pwd
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import prefork
from prefork.config.model import Config, PoolConfig
from prefork.system.identity import Identity, become
from prefork.system.processes import execute, spawn

__all__ = ["Launch"]

# -P keeps the current directory off the path of the fresh interpreter until the zygote, as the right user, has entered
# the right one. The package is found where the master found it, even when it is not installed.
_BOOTSTRAP: Final = (
    "import sys; home = sys.argv[1]; home in sys.path or sys.path.insert(0, home); "
    "from prefork.zygote import main; main()"
)


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything about a pool's zygotes that does not change from one generation to the next."""

    config: Config
    pool: PoolConfig
    identity: Identity | None
    directory: str  # absolute, symlinks kept
    files: tuple[int, int]  # RLIMIT_NOFILE as the master found it
    become_zygote: Callable[[Mapping[int, int], Any], None]  # for an application that was given as a callable

    def settings(self, *, generation: int, slots: int, load: bool) -> dict[str, Any]:
        """The first message to the zygote."""
        return {
            "master": os.getpid(),
            "version": prefork.__version__,
            "pool": self.pool.name,
            "app": self.pool.app if isinstance(self.pool.app, str) else "",
            "title": self.pool.app_name,
            "generation": generation,
            "slots": slots,
            "load": load and self.pool.preload != "never",
            "fork_anyway": self.pool.preload == "always" or not isinstance(self.pool.app, str),
            "directory": self.directory,
            "pythonpath": list(self.pool.pythonpath),
            "warmup": list(self.pool.warmup),
            "boot_timeout": self.pool.boot_timeout,
            "boot_deadline": time.monotonic() + self.pool.boot_timeout,
            "max_children": self.pool.max_children,
            "log_level": self.config.log_level,
            "log_format": self.config.log_format,
            "max_header_size": self.pool.max_header_size,
            "max_header_count": self.pool.max_header_count,
            "max_body_size": self.pool.max_body_size,
        }

    def start(self, gifts: Mapping[int, int]) -> int:
        """Start a zygote; returns its pid. Raises PreforkError, or OSError when there is no process to be had."""
        if isinstance(self.pool.app, str):
            arguments = [sys.executable, "-P", "-c", _BOOTSTRAP, str(Path(prefork.__file__).parents[1])]
            return execute(arguments, self.environment(os.environ), gifts, self._prepare)

        def child() -> None:
            self._prepare()
            os.environ.update(self.environment(os.environ))
            self.become_zygote(gifts, self.pool.app)

        return spawn(child)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What the application finds in its environment."""
        environment = dict(inherited)
        if self.identity is not None:
            # As login(1), systemd's User= and php-fpm do: a library that looks for ~ must not find root's.
            environment["USER"] = environment["LOGNAME"] = self.identity.user
            try:
                environment["HOME"] = pwd.getpwuid(self.identity.uid).pw_dir
            except KeyError:
                environment["HOME"] = "/"
        environment.update(self.pool.env)
        return environment

    def _prepare(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.files)
        if self.pool.umask is not None:
            os.umask(self.pool.umask)
        if self.identity is not None:
            become(self.identity)

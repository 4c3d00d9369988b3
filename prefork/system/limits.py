"""Resource limits and privileges of the processes that run the application (setrlimit(2), prctl(2)).

Checked when the server starts, set between fork and exec: the master keeps its own.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Final

from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system.identity import user_name
from prefork.system.processes import forbid_new_privileges

__all__ = ["UNLIMITED", "ResourceLimits"]

UNLIMITED: Final = -1

_MOST_FILES: Final = "/proc/sys/fs/nr_open"


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What a pool's processes may use. None leaves a limit as the master found it.

    ``files`` descriptors a process (RLIMIT_NOFILE); ``core`` bytes of a core dump (RLIMIT_CORE), -1 for no limit.
    With ``no_new_privs`` no program they start gains rights by set-user-ID bits or file capabilities.
    """

    files: int | None = None
    core: int | None = None
    no_new_privs: bool = False

    def check(self) -> None:
        """See that `apply` will succeed. Raises `ConfigurationError` or `PermissionProblem`."""
        if self.files is not None:
            with open(_MOST_FILES) as text:
                most = int(text.read())
            if self.files > most:
                raise ConfigurationError(
                    f"rlimit_files {self.files}: the kernel allows at most {most} (sysctl fs.nr_open raises it)"
                )
            _check(resource.RLIMIT_NOFILE, self.files, "rlimit_files")
        if self.core is not None:
            _check(resource.RLIMIT_CORE, self.core, "rlimit_core")

    def apply(self) -> None:
        """Set them for this process and all it will start. Before root is given up: raising a limit takes it."""
        for kind, value in ((resource.RLIMIT_NOFILE, self.files), (resource.RLIMIT_CORE, self.core)):
            if value is not None:
                resource.setrlimit(kind, (value, value))
        if self.no_new_privs:
            forbid_new_privileges()


def _check(kind: int, wanted: int, name: str) -> None:
    """Raising a hard limit takes CAP_SYS_RESOURCE, which root may lack in a container: tried, and undone."""
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or (wanted != UNLIMITED and wanted <= hard):
        return
    try:
        resource.setrlimit(kind, (soft, wanted))
    except (OSError, ValueError):  # ValueError is EPERM here: "not allowed to raise maximum limit"
        raise PermissionProblem(
            f"{name} {wanted}: {user_name(os.geteuid())} may not exceed the hard limit, {hard}: start as root, or "
            "raise it where the server is started (systemd: LimitNOFILE=, LimitCORE=; else ulimit -H)"
        ) from None
    resource.setrlimit(kind, (soft, hard))

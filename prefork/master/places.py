"""Where a pool's application stands in the file system, and where what is not: looked at when a launch is made.

Not later: a report must not wait for the application's file system, and a link that leads nowhere by then is no matter.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import prefork
from prefork.config.model import PoolConfig
from prefork.policy.culprits import Places
from prefork.system.paths import absolute

__all__ = ["places_of", "pythonpath_of"]

_HOME: Final = Path(prefork.__file__).parent


def pythonpath_of(pool: PoolConfig, base: str) -> tuple[str, ...]:
    """A pool's pythonpath, from the directory in which the server was started. Links are not followed."""
    return tuple(absolute(folder, base) for folder in pool.pythonpath)


def places_of(pool: PoolConfig, base: str, directory: str) -> Places:
    """For an application that works in ``directory``. Links are followed as they lead now; raises nothing."""
    roots = (directory, *pythonpath_of(pool, base))
    package = pool.app_name.partition(":")[0].partition(".")[0]
    if package == prefork.__name__:  # prefork.demo: what runs around it does not show in a stack
        return Places(_both((*roots, str(_HOME.parent))), package, _library())
    return Places(_both(roots), package, _both((*_library(), str(_HOME))))


@cache
def _library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return _both((paths["stdlib"], paths["platstdlib"]))


def _both(folders: Iterable[str]) -> tuple[str, ...]:
    """Directories as they are named, and where they really are: a file may be known by either."""
    return tuple(dict.fromkeys(path for folder in folders for path in (folder, os.path.realpath(folder))))

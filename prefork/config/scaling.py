"""The numbers of a pool that an order may change while it serves, read and judged as the configuration is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from prefork.config.model import PoolConfig
from prefork.config.options import BY_KEY
from prefork.config.sources import near
from prefork.errors import ConfigurationError

__all__ = ["SCALABLE", "scaled"]

SCALABLE: Final = (
    "pm",
    "max_children",
    "min_spare_servers",
    "max_spare_servers",
    "max_spawn_rate",
    "process_idle_timeout",
    "max_memory",
    "max_worker_lifetime",
    "reload_surge",
)
"""What the master alone looks at, so that no process has to be told."""

_INSTEAD: Final = {"workers": "the number of workers is changed by `preforkctl scale max_children=N`"}

# Each at most the next, where it was said; max_children may be lowered below the others, which then count as it.
_ORDER: Final = (
    ("min_spare_servers", "max_spare_servers"),
    ("min_spare_servers", "max_children"),
    ("max_spare_servers", "max_children"),
)


def scaled(pool: PoolConfig, said: Mapping[str, str]) -> PoolConfig:
    """A pool with other numbers: ``said`` by the names of options, in the words of the command line.

    Raises `ConfigurationError` for a name that is none of `SCALABLE`, and for values that cannot be.
    """
    values = {key: _read(key, text) for key, text in ((_key(name), text) for name, text in said.items())}
    changed = replace(pool, **values)
    for lesser, greater in _ORDER:
        low, high = getattr(changed, lesser), getattr(changed, greater)
        is_said = lesser in values or (greater in values and greater != "max_children")
        if is_said and low is not None and high is not None and low > high:
            raise ConfigurationError(
                f"{lesser} {low} cannot go with {greater} {high}: expected min_spare_servers ≤ max_spare_servers ≤ "
                "max_children"
            )
    if changed.pm == "ondemand" and changed.preload == "never":
        raise ConfigurationError(
            "pm ondemand cannot go with preload never: every first request would wait for an import"
        )
    return changed


def _key(name: str) -> str:
    key = name.replace("-", "_")
    if key in SCALABLE:
        return key
    if key in BY_KEY:
        mend = _INSTEAD.get(key, f"{name} is changed in the configuration and by `preforkctl reload`")
        raise ConfigurationError(f"scale does not change {name}: {mend}")
    raise ConfigurationError(f"{name} is no option{near(key, SCALABLE)}; expected one of {', '.join(SCALABLE)}")


def _read(key: str, text: str) -> Any:
    try:
        return BY_KEY[key].read(text)
    except ValueError as problem:
        raise ConfigurationError(f"{key}: expected {problem}, found {text!r}") from None

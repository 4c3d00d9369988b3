"""Pools of our own, and the names that they keep."""

from __future__ import annotations

import pytest

from prefork.config.internal import keep_names
from prefork.config.model import Config, PoolConfig
from prefork.errors import ConfigurationError


def config_of(*names: str, pages: str = "") -> Config:
    """Pools of these names, and perhaps one of our own."""
    pools = tuple(PoolConfig(app="app:application", socket=f"@{name}", name=name) for name in names)
    own = (PoolConfig(app="app:application", socket="@pages", name=pages, internal=True),) if pages else ()
    return Config(pools=pools + own)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (config_of("www", pages="status"), config_of("www", pages="status"), ["www", "status"]),
        (config_of("status", pages="prefork-status"), config_of("www", pages="status"), ["www", "prefork-status"]),
        (config_of("www", pages="status"), config_of("www"), ["www"]),
        (config_of("www", pages="status"), config_of("www", "status"), ["www", "status"]),
        (config_of("www"), config_of("status", pages="prefork-status"), ["status", "prefork-status"]),
    ],
)
def test_the_pages_keep_their_name(before: Config, after: Config, kept: list[str]) -> None:
    """For as long as they serve, whatever they would be called at a start."""
    assert [pool.name for pool in keep_names(after, before).pools] == kept


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (config_of("www", pages="status"), config_of("www", "status", pages="prefork-status")),
        (config_of("status", pages="prefork-status"), config_of("prefork-status", pages="status")),
    ],
)
def test_a_name_that_they_have(before: Config, after: Config) -> None:
    """Is nobody else's until a restart, or a reload without them."""
    with pytest.raises(ConfigurationError, match="the name of the pool of the status pages"):
        keep_names(after, before)

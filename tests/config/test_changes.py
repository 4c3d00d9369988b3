"""From one configuration to another: pools by name, and what only a restart changes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from prefork.config.changes import Changes, compare
from prefork.config.model import Config, PoolConfig
from prefork.config.options import SERVER_KEYS


def pool(name: str = "www", **options: Any) -> PoolConfig:
    return PoolConfig(**{"app": "app", "socket": f"@{name}", "name": name, "max_children": 4, **options})


BEFORE = Config(pools=(pool(), pool("api")))


def test_nothing() -> None:
    """The same configuration is no change, and everything is kept: its code may be another."""
    assert compare(BEFORE, BEFORE) == Changes(BEFORE, BEFORE.pools, (), (), (), ())


def test_pools_are_told_apart_by_name() -> None:
    """Not by their place in the file, nor by their sockets."""
    after = Config(pools=(pool("new"), pool("www", backlog=7, app="other")))
    changes = compare(BEFORE, after)
    assert (changes.kept, changes.added, changes.removed) == (after.pools[1:], after.pools[:1], ("api",))
    assert changes.options == ("www.app", "www.backlog")
    assert changes.config == after


@pytest.mark.parametrize("key", sorted(SERVER_KEYS - {"status_listen"}))  # that one is a pool
def test_what_belongs_to_the_server_stays(key: str) -> None:
    """It is named, and what is to hold has it as it was; the pools' changes are taken all the same."""
    other: dict[str, Any] = {key: not getattr(BEFORE, key) if key == "daemonize" else "other"}
    changes = compare(BEFORE, Config(pools=(pool(umask=0o27),), **other))
    assert (changes.restart, changes.options) == ((key,), ("www.umask",))
    assert changes.config == Config(pools=(pool(umask=0o27),))


def test_every_field_of_the_server_is_one_of_these() -> None:
    """A new one has to be decided about."""
    assert {field.name for field in fields(Config)} == SERVER_KEYS | {"pools", "warnings"}


def test_warnings_are_those_of_the_new_one() -> None:
    """They are about its values."""
    assert compare(BEFORE, Config(pools=BEFORE.pools, warnings=("odd",))).config.warnings == ("odd",)

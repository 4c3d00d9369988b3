"""Numbers that an order changes: read and judged as the configuration is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prefork.config.model import PoolConfig
from prefork.config.options import BY_KEY
from prefork.config.scaling import SCALABLE, scaled
from prefork.errors import ConfigurationError
from prefork.master.rules import rules_of

POOL = PoolConfig(app="app", socket="@x", max_children=8, min_spare_servers=2, max_spare_servers=4)


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ({}, {}),
        ({"max_children": "20"}, {"max_children": 20}),
        ({"max-children": "20"}, {"max_children": 20}),
        ({"min_spare_servers": "3", "max_spare_servers": "8"}, {"min_spare_servers": 3, "max_spare_servers": 8}),
        ({"pm": "ondemand", "process_idle_timeout": "2m"}, {"pm": "ondemand", "process_idle_timeout": 120.0}),
        ({"max_memory": "1G"}, {"max_memory": 1024**3}),
        ({"max_worker_lifetime": "off"}, {"max_worker_lifetime": None}),
        # Fewer workers than spares are what a night is like: the spares count as so many.
        ({"max_children": "1"}, {"max_children": 1}),
    ],
)
def test_what_can_be(said: dict[str, str], changes: dict[str, Any]) -> None:
    """In the words of the command line, with or without underscores."""
    assert scaled(POOL, said) == replace(POOL, **changes)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"max_children": "0"}, "max_children: expected"),
        ({"max_children": ""}, "max_children: expected"),
        ({"pm": "sometimes"}, "pm: expected"),
        ({"process_idle_timeout": "soon"}, "process_idle_timeout: expected"),
        ({"min_spare_servers": "5"}, "min_spare_servers 5 cannot go with max_spare_servers 4"),
        ({"max_spare_servers": "1"}, "min_spare_servers 2 cannot go with max_spare_servers 1"),
        ({"max_spare_servers": "9"}, "max_spare_servers 9 cannot go with max_children 8"),
        ({"socket_mode": "0600"}, "socket_mode is changed in the configuration and by `preforkctl reload`"),
        ({"workers": "3"}, "scale does not change workers: the number of workers is changed by `preforkctl scale max_"),
        ({"max_childern": "3"}, "max_childern is no option; did you mean max_children?"),
        ({"": "3"}, "is no option"),
    ],
)
def test_what_cannot_be(said: dict[str, str], message: str) -> None:
    """With what was expected and found."""
    with pytest.raises(ConfigurationError) as caught:
        scaled(POOL, said)
    assert message in str(caught.value)


def test_on_demand_without_a_preloaded_application() -> None:
    """As in the configuration."""
    with pytest.raises(ConfigurationError, match="pm ondemand cannot go with preload never"):
        scaled(replace(POOL, preload="never"), {"pm": "ondemand"})


def test_what_can_be_scaled_is_what_the_master_looks_at_alone() -> None:
    """Each is an option, and each makes a difference to the rules."""
    others: dict[str, Any] = {"pm": "static", "max_memory": 1, "max_worker_lifetime": 1.0}
    for key in SCALABLE:
        assert key in BY_KEY
        other = others[key] if key in others else 1 + (getattr(POOL, key) or 0)
        changed: dict[str, Any] = {key: other}
        assert rules_of(replace(POOL, **changed)) != rules_of(POOL), key

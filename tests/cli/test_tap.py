"""Which pool `preforkctl tap` looks at."""

from __future__ import annotations

import os
from typing import Any

import pytest

from prefork.cli.console import Failure
from prefork.cli.tap import pool_at


def answer(*paths: str) -> dict[str, Any]:
    pools = [{"pool": os.path.basename(path), "socket": path, "path": path, "address": path} for path in paths]
    return {"pid": 812, "pools": pools}


TCP = {"pool": "web", "socket": "127.0.0.1:8000", "path": None, "address": "127.0.0.1:8000"}
INHERITED = {"pool": "old", "socket": "fd 3", "path": None, "address": None}


@pytest.mark.parametrize(
    ("pools", "served", "noted", "found"),
    [
        (answer("/run/a"), None, None, "a"),
        (answer("/run/a"), "/run/a", None, "a"),
        (answer("/run/a", "/run/b"), "/run/b", None, "b"),
        (answer("/run/a", "/run/b"), "/run/../run/b", None, "b"),
        (answer("/run/a", "/run/b"), "/var/run/b", "/run/b", "b"),
        ({"pid": 812, "pools": [*answer("/run/a")["pools"], TCP]}, "127.0.0.1:8000", None, "web"),
        ({"pid": 812, "pools": [INHERITED]}, None, None, "old"),
    ],
)
def test_the_pool_that_is_meant(pools: dict[str, Any], served: str | None, noted: str | None, found: str) -> None:
    """By the socket, as it is called by whomever; or the only one."""
    assert pool_at(pools, served, noted) == found


@pytest.mark.parametrize(
    ("pools", "served", "reason"),
    [
        (answer("/run/a", "/run/b"), None, "--socket /run/a\n  --socket /run/b"),
        (answer("/run/a"), "/run/status", "/run/status: no application is served there by pid 812"),
    ],
)
def test_no_pool_is_guessed(pools: dict[str, Any], served: str | None, reason: str) -> None:
    """One that is not served is none, and of several one must be named."""
    with pytest.raises(Failure, match=reason):
        pool_at(pools, served)

"""The model: its defaults, and what it says about itself."""

from __future__ import annotations

import dataclasses

import pytest

from prefork.config.model import Config, PoolConfig, default_max_children
from prefork.system.cpus import usable_cpus


class _Callable:
    def __call__(self) -> None: ...


def test_defaults() -> None:
    """The promised defaults hold without anybody saying anything."""
    pool = PoolConfig(app="app", socket="/run/app.sock")
    expected = {
        "name": "www",
        "backlog": 4096,
        "pm": "static",
        "max_children": default_max_children(),
        "preload": "auto",
        "graceful_timeout": 25.0,
        "boot_timeout": 60.0,
        "max_header_size": 65_536,
        "max_header_count": 200,
        "max_body_size": None,
        "chdir": ".",
        "umask": None,
        "socket_mode": None,
    }
    assert expected == {key: getattr(pool, key) for key in expected}
    assert (Config(pools=(pool,)).log_level, Config(pools=(pool,)).log_format) == ("info", "auto")


def test_default_number_of_workers() -> None:
    """Four workers a CPU that this process may use, within 2 and 32."""
    assert default_max_children() == min(32, max(2, 4 * usable_cpus().usable))


def test_frozen() -> None:
    """A configuration never changes under the feet of those who hold it."""
    pool = PoolConfig(app="app", socket="/run/app.sock")
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.backlog = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("mysite.wsgi:application", "mysite.wsgi:application"),
        (test_defaults, f"{__name__}:test_defaults"),
        (_Callable(), f"{__name__}:_Callable"),
    ],
)
def test_app_name(app: object, name: str) -> None:
    """The application is called as it was written, a callable by where it is defined."""
    assert name == PoolConfig(app=app, socket="/run/app.sock").app_name  # type: ignore[arg-type]

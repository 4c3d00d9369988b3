"""The model: its defaults, and what it says about itself."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.config.model import Config, PoolConfig, Spares, default_max_children
from prefork.system.cpus import usable_cpus


class _Callable:
    def __call__(self) -> None: ...


def test_defaults() -> None:
    """The promised defaults hold without anybody saying anything."""
    pool = PoolConfig(app="app", socket="/run/app.sock")
    expected = {
        "name": "www",
        "backlog": 4096,
        "pm": "dynamic",
        "max_children": default_max_children(),
        "preload": "auto",
        "graceful_timeout": 25.0,
        "boot_timeout": 60.0,
        "max_spawn_rate": 32,
        "process_idle_timeout": 10.0,
        "max_requests": 0,
        "max_requests_jitter": 0.1,
        "max_memory": None,
        "max_worker_lifetime": None,
        "canary": None,
        "surge": default_max_children(),
        "header_timeout": 10.0,
        "body_timeout": 30.0,
        "body_min_rate": 500,
        "write_timeout": 30.0,
        "write_min_rate": 500,
        "queue_timeout": None,
        "skip_abandoned": True,
        "request_slowlog_timeout": 10.0,
        "request_timeout": None,
        "request_terminate_timeout": None,
        "slowlog": None,
        "hooks": None,
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


def pool(ceiling: int, least: int | None = None, most: int | None = None, start: int | None = None) -> PoolConfig:
    return PoolConfig(
        app="app",
        socket="s",
        max_children=ceiling,
        min_spare_servers=least,
        max_spare_servers=most,
        start_servers=start,
    )


@pytest.mark.parametrize(
    ("said", "spares"),
    [
        (pool(1), (1, 1, 1)),
        (pool(2), (2, 2, 2)),
        (pool(3), (2, 2, 2)),
        (pool(8), (2, 4, 3)),
        (pool(32), (2, 16, 9)),
        # what was said moves the others
        (pool(32, least=20), (20, 20, 20)),
        (pool(32, most=1), (1, 1, 1)),
        (pool(32, start=1), (1, 16, 1)),
        (pool(32, start=30), (2, 30, 30)),
        (pool(32, least=4, most=8), (4, 8, 6)),
        (pool(32, least=4, most=8, start=5), (4, 8, 5)),
        (pool(32, least=1, most=32, start=2), (1, 32, 2)),
        # a limit that was lowered since cuts them down
        (pool(3, least=4, most=8, start=5), (3, 3, 3)),
        (pool(5, least=4, most=8, start=8), (4, 5, 5)),
    ],
)
def test_spares(said: PoolConfig, spares: tuple[int, int, int]) -> None:
    """php-fpm's numbers with php-fpm's formula; those nobody said make room for those somebody did."""
    assert said.spares == Spares(*spares)


_SAID = st.none() | st.integers(1, 40)


@given(ceiling=st.integers(1, 40), least=_SAID, most=_SAID, start=_SAID)
def test_spares_are_in_order(ceiling: int, least: int | None, most: int | None, start: int | None) -> None:
    """Whatever was said: 1 <= least <= start <= most <= max_children."""
    spares = pool(ceiling, least, most, start).spares
    assert 1 <= spares.least <= spares.start <= spares.most <= ceiling


def test_surge() -> None:
    """As many workers again as there may be, unless somebody said less."""
    assert pool(8).surge == 8
    assert dataclasses.replace(pool(8), reload_surge=1).surge == 1


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

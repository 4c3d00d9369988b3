"""Options about the number of workers, their lives, and the time that requests may take."""

from __future__ import annotations

from typing import Final

from prefork.config.model import PoolConfig
from prefork.config.option import Option, by_words
from prefork.config.values import (
    choice,
    duration,
    limit,
    matching,
    number,
    optional,
    share,
    size,
    spell_duration,
    spell_share,
    spell_size,
    spell_switch,
    switch,
)

__all__ = ["DEADLINES", "PROCESSES"]

_WORKERS: Final = number(1, 10_000)
_PATH: Final = matching(r"/[^\x00-\x20\x7f]*", "a path that begins with / and has no spaces")
_RATE: Final = size(least=0, most=1024**3)
_DEADLINE: Final = limit(duration(least=0.01))


def _spare(pool: PoolConfig, number: int) -> int | str:
    return number if pool.pm == "dynamic" else f"not with pm {pool.pm}"


PROCESSES: Final = (
    Option(
        "pm",
        "processes",
        "MANAGER",
        choice("dynamic", "static", "ondemand"),
        "dynamic: as many workers as the load needs; static: always max_children; ondemand: none until somebody "
        "connects",
    ),
    Option(
        "max_children",
        "processes",
        "N",
        _WORKERS,
        "workers, each serving one request at a time",
        computed="4 a usable CPU, at least 2, at most 32",
    ),
    Option("workers", "processes", "N", _WORKERS, "short for pm static with max_children N"),
    Option(
        "min_spare_servers",
        "processes",
        "N",
        _WORKERS,
        "idle workers that pm dynamic keeps for those who come next; with fewer, it forks",
        unset="2, or max_children if that is less",
        effective=lambda pool: _spare(pool, pool.spares.least),
    ),
    Option(
        "max_spare_servers",
        "processes",
        "N",
        _WORKERS,
        "idle workers that pm dynamic keeps at most; of more, one at a time leaves",
        unset="half of max_children, at least min_spare_servers",
        effective=lambda pool: _spare(pool, pool.spares.most),
    ),
    Option(
        "start_servers",
        "processes",
        "N",
        _WORKERS,
        "workers that pm dynamic starts with",
        unset="in the middle between min_spare_servers and max_spare_servers",
        effective=lambda pool: _spare(pool, pool.spares.start),
    ),
    Option(
        "max_spawn_rate",
        "processes",
        "N",
        _WORKERS,
        "workers a second by which a pool grows at most (pm dynamic and ondemand)",
    ),
    Option(
        "process_idle_timeout",
        "processes",
        "TIME",
        duration(least=0.1),
        "how long more workers than needed must have been idle before one leaves (pm dynamic and ondemand)",
        spell_duration,
    ),
    Option(
        "max_requests",
        "processes",
        "N",
        number(0, 10**9),
        "requests after which a worker is replaced; it serves on until its successor is ready; 0: no end",
    ),
    Option(
        "max_requests_jitter",
        "processes",
        "SHARE",
        share,
        "of max_requests, what chance takes off it at most, worker by worker, so that not all are replaced at once",
        spell_share,
    ),
    Option(
        "max_memory",
        "processes",
        "SIZE",
        limit(size(least=1024**2)),
        "private memory of a worker; one beyond it is replaced between two requests, at an age of 10 s or more, or "
        "sooner where it has grown to twice as much",
        spell_size,
        unset="off",
    ),
    Option(
        "max_worker_lifetime",
        "processes",
        "TIME",
        limit(duration(least=1.0)),
        "age of a worker at which another replaces it",
        spell_duration,
        unset="off",
    ),
    Option(
        "preload",
        "processes",
        "WHEN",
        choice("auto", "always", "never"),
        "import the application once and fork the workers from there: always, never (each worker imports for "
        "itself), or auto: unless the import leaves threads or connections behind",
    ),
    Option(
        "warmup",
        "processes",
        "PATH",
        _PATH,
        "request this path, with Host: localhost, before the workers are forked",
        many=True,
        from_variable=by_words,
    ),
    Option(
        "canary",
        "processes",
        "PATH",
        optional(_PATH),
        "request this path, with Host: localhost, in the first worker of newly loaded code: unless the answer is 2xx "
        "or 3xx, that code does not serve",
        unset="off",
    ),
    Option(
        "reload_surge",
        "processes",
        "N",
        _WORKERS,
        "processes allowed above max_children while new workers take the place of old ones",
        unset="max_children",
        effective=lambda pool: pool.surge,
    ),
)

DEADLINES: Final = (
    Option(
        "header_timeout",
        "deadlines",
        "TIME",
        duration(least=0.1),
        "how long a client may take to send the head of its request",
        spell_duration,
    ),
    Option(
        "body_timeout",
        "deadlines",
        "TIME",
        duration(least=0.1),
        "how long a client may send nothing while its body is awaited",
        spell_duration,
    ),
    Option(
        "body_min_rate",
        "deadlines",
        "SIZE",
        _RATE,
        "bytes a second below which a client that sends its body counts as standing still; 0: any byte will do",
        spell_size,
    ),
    Option(
        "write_timeout",
        "deadlines",
        "TIME",
        duration(least=0.1),
        "how long a client may take nothing of a response that is ready",
        spell_duration,
    ),
    Option(
        "write_min_rate",
        "deadlines",
        "SIZE",
        _RATE,
        "bytes a second below which a client that takes a response counts as standing still; 0: any byte will do",
        spell_size,
    ),
    Option(
        "queue_timeout",
        "deadlines",
        "TIME",
        _DEADLINE,
        "a request that has waited longer for a worker, by the proxy's X-Request-Start or REQUEST_START, is answered "
        "503 and not run",
        spell_duration,
        unset="off",
    ),
    Option(
        "skip_abandoned",
        "deadlines",
        "",
        switch,
        "while connections wait, do not run requests whose client has left",
        spell_switch,
        switch=True,
    ),
    Option(
        "request_slowlog_timeout",
        "deadlines",
        "TIME",
        _DEADLINE,
        "a request that runs longer is logged as slow, with what its worker executes",
        spell_duration,
        unset="off",
    ),
    Option(
        "request_timeout",
        "deadlines",
        "TIME",
        _DEADLINE,
        "a request that runs longer is interrupted by an exception (RequestTimeout) and answered 504",
        spell_duration,
        unset="off",
    ),
    Option(
        "request_terminate_timeout",
        "deadlines",
        "TIME",
        _DEADLINE,
        "the worker of a request that runs longer is killed",
        spell_duration,
        unset="off",
    ),
    Option(
        "graceful_timeout",
        "deadlines",
        "TIME",
        duration(),
        "how long a stop waits for requests that run or wait in the queue",
        spell_duration,
    ),
    Option(
        "boot_timeout",
        "deadlines",
        "TIME",
        duration(least=0.1),
        "how long the application may take to be imported",
        spell_duration,
    ),
)

"""A status as a server gives it, and what a test changes about it."""

from __future__ import annotations

from typing import Any

__all__ = ["process_of", "status_of"]


def process_of(**changes: Any) -> dict[str, Any]:
    """A worker that runs a request."""
    return {
        "pid": 4711,
        "state": "Running",
        "start time": 1_760_000_000,
        "start since": 60,
        "requests": 12,
        "request duration": 250_000,
        "request method": "GET",
        "request uri": "/orders?page=2",
        "content length": 70,
        "user": None,
        "script": "mysite.wsgi:application",
        "last request cpu": None,
        "last request memory": None,
        "slot": 0,
        "generation": 1,
        "request start": 1_760_003_598.25,
        "peer": [640, 33, 33],
        "request queue duration": 1_500,
        "last request duration": 30_000,
        "bytes received": 1_000,
        "bytes sent": 200_000,
        "cpu seconds": 1.5,
        "memory": 30_000_000,
        **changes,
    }


def status_of(**changes: Any) -> dict[str, Any]:
    """A pool with every field."""
    return {
        "pool": "www",
        "process manager": "dynamic",
        "start time": 1_760_000_000,
        "start since": 3600,
        "accepted conn": 123_456,
        "listen queue": 3,
        "max listen queue": 7,
        "listen queue len": 128,
        "idle processes": 1,
        "active processes": 1,
        "total processes": 2,
        "max active processes": 2,
        "max children reached": 4,
        "slow requests": 5,
        "phase": "serving",
        "application": "mysite.wsgi:application",
        "socket": "/run/mysite/app.sock",
        "generation": 1,
        "max children": 8,
        "saturated since": None,
        "saturation episodes": 1,
        "queue full episodes": 0,
        "queue full seconds": 0.0,
        "abandoned requests": 0,
        "bad requests": 2,
        "refused peers": 0,
        "timeouts": {"soft": 1, "queue": 2},
        "deaths": {"killed by SIGKILL": 1},
        "reloads": 1,
        "failed reloads": 0,
        "bytes received": 1_000,
        "bytes sent": 2_000_000,
        "request seconds": {"bounds": [0.01, 0.1, 1.0], "counts": [10, 5, 1, 0], "sum": 1.25},
        "queue seconds": {"bounds": [0.01, 0.1, 1.0], "counts": [0, 0, 0, 0], "sum": 0.0},
        "processes": [process_of()],
        **changes,
    }

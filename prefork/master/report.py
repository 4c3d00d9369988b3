"""The state of a server as plain values, for whoever asks: php-fpm's fields under php-fpm's names, and our own.

What workers say of themselves comes from their pages and is passed on as it was read: numbers are bounded there, text
may be anything.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

import prefork
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.policy.model import FINISHING, IDLE, RUNNING, WRITING, SlotState, Worker

__all__ = ["describe_listeners", "describe_server"]

_AT_WORK: Final = (RUNNING, WRITING, FINISHING)
_STATES: Final = {int(state): state.name.lower() for state in SlotState}


def describe_server(master: Master, now: float) -> dict[str, Any]:
    """The whole server. ``now`` is monotonic; times in the result are Unix times and seconds."""
    return {
        "version": prefork.__version__,
        "pid": os.getpid(),
        "phase": master.phase.value,
        "start time": int(master.started),
        "start since": round(time.time() - master.started, 3),
        "pools": [_pool(hands, now) for hands in master.pools],
    }


def describe_listeners(master: Master) -> dict[str, Any]:
    """Who this is, and what leads to it: all that a client needs to find its way through a listener."""
    return {
        "version": prefork.__version__,
        "pid": os.getpid(),
        "phase": master.phase.value,
        "pools": [_door(hands) for hands in master.pools],
    }


def _door(hands: Performer) -> dict[str, Any]:
    """What leads to a pool, and what is spoken there."""
    listener, protocol = hands.holdings.listener, hands.launch.pool.protocol
    named = None if listener.inherited else str(listener)
    return {
        "pool": hands.pool.name,
        "socket": str(listener),
        "path": listener.path,
        "file": listener.file,
        "address": listener.path or listener.port or named,
        "protocol": "http" if protocol == "http" or (protocol == "auto" and listener.is_tcp) else "fastcgi",
    }


def _pool(hands: Performer, now: float) -> dict[str, Any]:
    pool, holdings = hands.pool, hands.holdings
    workers = sorted(pool.workers.values(), key=lambda worker: worker.slot)
    states = holdings.scoreboard.states()
    idle = sum(states[worker.slot] == IDLE for worker in workers)
    return {
        "pool": pool.name,
        "process manager": hands.launch.pool.pm,
        "socket": str(holdings.listener),
        "application": pool.app_name,
        "generation": pool.generation,
        "max children": pool.max_children,
        "accepted conn": holdings.scoreboard.total_requests(),
        "listen queue": pool.waiting,
        "max listen queue": pool.most_waiting,
        "listen queue len": holdings.listener.backlog if pool.limit is None else pool.limit,
        "idle processes": idle,
        "active processes": len(workers) - idle,
        "total processes": len(workers),
        "processes": [_process(hands, worker, states[worker.slot], now) for worker in workers],
    }


def _process(hands: Performer, worker: Worker, state: int, now: float) -> dict[str, Any]:
    record = hands.holdings.scoreboard.read(worker.slot)
    # A slot shows the request before until the next one is read.
    running = hands.holdings.running(worker.slot, now) if state in _AT_WORK else None
    return {
        "pid": worker.pid,
        "slot": worker.slot,
        "state": _STATES.get(state, "unknown"),
        "generation": worker.generation,
        "start since": round(now - worker.forked, 3),
        "requests": max(0, record.requests - hands.holdings.requests_before.get(worker.slot, 0)),
        "request duration": None if running is None else int(running.seconds * 1_000_000),
        "request method": None if running is None else running.method,
        "request uri": None if running is None else running.uri,
    }

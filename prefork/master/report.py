"""The state of a server as plain values, for whoever asks: php-fpm's fields under php-fpm's names, and our own.

What workers say of themselves comes from their pages and is passed on as it was read: numbers are bounded there, text
may be anything. `prefork.status.fields` says what each field means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, Final

import prefork
from prefork.master.holdings import as_running
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.policy import model
from prefork.policy.model import FINISHING, IDLE, RUNNING, WRITING, Worker
from prefork.system.listener import Standing
from prefork.system.records import BOUNDS, Account

__all__ = [
    "STATES",
    "describe_episodes",
    "describe_listeners",
    "describe_pools",
    "describe_recent",
    "describe_server",
    "describe_slow",
    "find_problems",
    "note_look",
    "shown",
]

_AT_WORK: Final = (RUNNING, WRITING, FINISHING)
_AT_REST: Final = (IDLE, model.RETIRING)
_NOTHING: Final = Account()

STATES: Final = {
    model.FREE: "Free",
    model.STARTING: "Starting",
    model.IDLE: "Idle",
    model.READING: "Reading headers",
    model.RUNNING: "Running",
    model.WRITING: "Writing",
    model.FINISHING: "Finishing",
    model.RETIRING: "Ending",
}
"""What a worker does, in php-fpm's words where it has one."""

_LOOK_LASTS: Final = 60.0
"""Seconds; whoever watches looks again before."""

_STUCK: Final = 10.0
"""Seconds after which a pool of which every worker runs a request for longer is no healthy one."""


def describe_server(master: Master, now: float) -> dict[str, Any]:
    """The whole server. ``now`` is monotonic; times in the result are Unix times and seconds."""
    return {
        "version": prefork.__version__,
        "pid": os.getpid(),
        "phase": master.phase.value,
        "start time": int(master.started),
        "start since": round(time.time() - master.started, 3),
        "pools": describe_pools(master, now),
    }


def note_look(master: Master, now: float) -> None:
    """Somebody looks at the status: from now on, and for a while, workers tell what costs them a system call."""
    for hands in master.pools:
        hands.holdings.watched_until = now + _LOOK_LASTS


def describe_pools(master: Master, now: float) -> list[dict[str, Any]]:
    """All pools but our own."""
    return [_pool(master, hands, now) for hands in shown(master)]


def describe_recent(master: Master) -> dict[str, list[dict[str, Any]]]:
    """What happened lately in all pools, by kind, the newest last."""
    deaths = [{"pool": hands.pool.name, **each} for hands in shown(master) for each in hands.ledger.dead_workers]
    return {"episodes": _episodes(master), "slow": _slow(master), "deaths": deaths}


def describe_slow(master: Master) -> dict[str, Any]:
    """The requests that were slow lately."""
    return {"slow": _slow(master)}


def describe_episodes(master: Master) -> dict[str, Any]:
    """When pools were saturated, lately and now, and what leads to them: proxies know them by that."""
    pools = [
        {
            "pool": hands.pool.name,
            "socket": str(hands.holdings.listener),
            "path": hands.holdings.listener.path,
            "address": hands.holdings.listener.entrance,
            "episodes": hands.ledger.saturations,
        }
        for hands in shown(master)
    ]
    return {"pools": pools, "episodes": _episodes(master)}


def _episodes(master: Master) -> list[dict[str, Any]]:
    return [_episode(hands, each) for hands in shown(master) for each in hands.ledger.episodes]


def _episode(hands: Performer, record: dict[str, Any]) -> dict[str, Any]:
    now = {} if record["seconds"] is not None else {"peak": max(record["peak"], hands.pool.waiting or 0)}
    return {"pool": hands.pool.name, **record, **now}


def _slow(master: Master) -> list[dict[str, Any]]:
    return [{"pool": hands.pool.name, **each} for hands in shown(master) for each in hands.ledger.slow_requests]


def describe_listeners(master: Master) -> dict[str, Any]:
    """Who this is, and what leads to it: all that a client needs to find its way through a listener."""
    return {
        "version": prefork.__version__,
        "pid": os.getpid(),
        "phase": master.phase.value,
        "pools": [_door(hands) for hands in shown(master)],
    }


def find_problems(master: Master, now: float) -> list[str]:
    """Why clients of a server that serves would not be answered."""
    if master.phase not in (model.Phase.SERVING, model.Phase.RELOADING):
        return [f"the server is {master.phase.value}"]
    return [f"pool {hands.pool.name}: {problem}" for hands in shown(master) for problem in _problems(hands, now)]


def _problems(hands: Performer, now: float) -> Iterable[str]:
    listener, pool = hands.holdings.listener, hands.pool
    if not pool.open:
        yield "its listener is not open"
        return
    if listener.path is not None and listener.standing() is not Standing.OURS:
        yield f"{listener.path} does not lead to the socket any more"
    workers = [worker for worker in pool.workers.values() if worker.listening and worker.retired is None]
    if not workers and (pool.rules.pm != "ondemand" or pool.waiting):
        yield "no worker takes connections"
    states = hands.holdings.scoreboard.states()
    if workers and all(states[worker.slot] in _AT_WORK for worker in workers):
        running = [hands.holdings.running(worker.slot, now) for worker in workers]
        seconds = [0.0 if request is None else request.seconds for request in running]
        if min(seconds) >= _STUCK and len(workers) >= pool.rules.max_children:
            yield f"every worker is stuck: the requests they run have lasted {min(seconds):.0f} s and more"


def shown(master: Master) -> list[Performer]:
    """All pools but our own."""
    return [hands for hands in master.pools if not hands.launch.pool.internal]


def _door(hands: Performer) -> dict[str, Any]:
    """What leads to a pool, and what is spoken there."""
    listener, protocol = hands.holdings.listener, hands.launch.pool.protocol
    return {
        "pool": hands.pool.name,
        "socket": str(listener),
        "path": listener.path,
        "file": listener.file,
        "address": listener.entrance,
        "protocol": "http" if protocol == "http" or (protocol == "auto" and listener.is_tcp) else "fastcgi",
    }


def _pool(master: Master, hands: Performer, now: float) -> dict[str, Any]:
    pool, holdings, ledger = hands.pool, hands.holdings, hands.ledger
    workers = sorted(pool.workers.values(), key=lambda worker: worker.slot)
    states = holdings.scoreboard.states()
    idle = sum(states[worker.slot] == IDLE for worker in workers)
    totals = holdings.scoreboard.totals()
    epoch = time.time() - now
    holdings.loads.look([worker.pid for worker in workers if worker.pid], now)
    return {
        "pool": pool.name,
        "process manager": pool.rules.pm,
        "start time": int(master.started),
        "start since": max(0, int(time.time() - master.started)),
        "accepted conn": totals.requests,
        "listen queue": pool.waiting,
        "max listen queue": pool.most_waiting,
        "listen queue len": holdings.listener.limit if pool.limit is None else pool.limit,
        "idle processes": idle,
        "active processes": len(workers) - idle,
        "total processes": len(workers),
        "max active processes": max(ledger.most_active, pool.active(states)),
        "max children reached": pool.ceilings,
        "slow requests": ledger.slow,
        "phase": (master.phase if pool.phase is None else pool.phase).value,
        "application": pool.app_name,
        "socket": str(holdings.listener),
        "generation": pool.current,
        "max children": pool.rules.max_children,
        "saturated since": None if ledger.saturated_since is None else int(ledger.saturated_since),
        "saturation episodes": ledger.saturations,
        "queue full episodes": ledger.queue_full,
        "queue full seconds": round(ledger.full_seconds, 3),
        "abandoned requests": totals.counters[model.ABANDONED],
        "bad requests": totals.counters[model.BAD_REQUESTS],
        "refused peers": totals.counters[model.REFUSED_PEERS],
        "timeouts": {
            "queue": totals.counters[model.QUEUE_TIMEOUTS],
            "client": totals.counters[model.CLIENT_TIMEOUTS],
            "soft": totals.counters[model.SOFT_TIMEOUTS],
            "hard": ledger.terminated,
        },
        "deaths": dict(ledger.deaths),
        "reloads": ledger.reloads,
        "failed reloads": ledger.failed_reloads,
        "bytes received": totals.received,
        "bytes sent": totals.sent,
        "request seconds": _histogram(totals.ran, totals.ran_seconds),
        "queue seconds": _histogram(totals.waited, totals.waited_seconds),
        "processes": [_process(hands, worker, states[worker.slot], now, epoch) for worker in workers],
    }


def _histogram(counts: tuple[int, ...], seconds: float) -> dict[str, Any]:
    return {"bounds": BOUNDS, "counts": counts, "sum": round(seconds, 6)}


def _process(hands: Performer, worker: Worker, state: int, now: float, epoch: float) -> dict[str, Any]:
    """One worker; ``epoch`` is when the monotonic clock was 0, in Unix time.

    As in php-fpm, whoever rests shows the request before. What one request took of processor and memory is not known.
    """
    holdings, slot = hands.holdings, worker.slot
    record = holdings.scoreboard.read(slot)
    account, before = holdings.scoreboard.account(slot), holdings.account_before.get(slot, _NOTHING)
    load = holdings.loads.of(worker.pid)
    requests = max(0, record.requests - holdings.requests_before.get(slot, 0))
    running = as_running(record, now) if state in _AT_WORK or (state in _AT_REST and requests) else None
    seconds = None if running is None else running.seconds if state in _AT_WORK else account.last
    return {
        "pid": worker.pid,
        "state": STATES.get(state, "unknown"),
        "start time": int(epoch + worker.forked),
        "start since": max(0, int(now - worker.forked)),
        "requests": requests,
        "request duration": _microseconds(seconds),
        "request method": None if running is None else running.method,
        "request uri": None if running is None else running.uri,
        "content length": None if running is None else record.length,
        "user": None,
        "script": hands.pool.app_name,
        "last request cpu": None,
        "last request memory": None,
        "slot": slot,
        "generation": worker.generation,
        "request start": None if running is None else round(epoch + record.started, 3),
        "peer": None if running is None else record.peer,
        "request queue duration": None if running is None else _microseconds(record.waited),
        "last request duration": _microseconds(account.last) if account.last else None,
        "bytes received": max(0, account.received - before.received),
        "bytes sent": max(0, account.sent - before.sent),
        "cpu seconds": None if load is None else load.cpu_seconds,
        "memory": None if load is None else load.memory,
    }


def _microseconds(seconds: float | None) -> int | None:
    """As php-fpm counts durations."""
    return None if seconds is None else int(seconds * 1_000_000)

"""Where workers stand, as plain values, for whoever asks: all that are busy, or one by its pid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prefork.errors import ProtocolError
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.master.report import STATES, shown
from prefork.master.sampling import Look, Sample
from prefork.policy.culprits import Places, culprit, group
from prefork.policy.model import Worker

__all__ = ["look_at_all", "look_at_one"]

_Then = Callable[[dict[str, Any]], None]


def look_at_all(master: Master, then: _Then, now: float) -> None:
    """Call ``then`` with the stacks of the busy workers of all pools, soon."""
    found: dict[str, dict[str, Any]] = {}
    pools = shown(master)

    def seen(hands: Performer, sample: Sample, _now: float) -> None:
        found[hands.pool.name] = _describe(hands, sample)
        if len(found) == len(pools):
            then({"pools": [found[hands.pool.name] for hands in pools]})

    for hands in pools:
        hands.sampler.take(partial(seen, hands), now)
    if not pools:
        then({"pools": []})


def look_at_one(master: Master, pid: int, then: _Then, now: float) -> None:
    """Call ``then`` with the stack of one worker, busy or not. Raises `ProtocolError` if no worker has this pid."""
    hands, worker = _find(master, pid)
    places = hands.launch.places

    def seen(look: Look) -> None:
        then({"pools": [{"pool": hands.pool.name, "stacks": [_look(look, places)]}]})

    hands.sampler.look_at(worker, seen, now)


def _find(master: Master, pid: int) -> tuple[Performer, Worker]:
    for hands in master.pools:
        slot = hands.pool.slot_of(pid)
        if slot is not None:
            return hands, hands.pool.workers[slot]
    raise ProtocolError(f"{pid} is no worker of this server")


def _describe(hands: Performer, sample: Sample) -> dict[str, Any]:
    places = hands.launch.places
    groups = group({}, sample.sightings(places), places)
    return {
        "pool": hands.pool.name,
        "workers": sample.workers,
        "busy": sample.busy,
        "listen queue": hands.pool.waiting,
        "groups": [
            {"count": each.count, "where": each.where, "span": each.span, "example": each.example, "pids": each.members}
            for each in groups
        ],
        "stacks": [_look(look, places) for look in sample.looks],
    }


def _look(look: Look, places: Places) -> dict[str, Any]:
    stack, request = look.stack, look.request
    return {
        "pid": look.pid,
        "slot": look.slot,
        "state": STATES.get(look.state, "unknown"),
        "method": None if request is None else request.method,
        "uri": None if request is None else request.uri,
        "seconds": None if request is None else round(request.seconds, 3),
        "id": "" if stack is None or request is None else stack.request_id,
        "answered": stack is not None,
        "forced": stack is not None and stack.forced,
        "frames": [] if stack is None else [_frame(call, places) for call in stack.frames],
        "culprit": None if stack is None else _index(look, places),
    }


def _frame(call: Any, places: Places) -> dict[str, Any]:
    return {
        "file": call.file,
        "shown": places.shorten(call.file),
        "line": call.line,
        "function": call.function,
    }


def _index(look: Look, places: Places) -> int | None:
    """Which frame is the application's innermost, counted from the inside."""
    assert look.stack is not None
    found = culprit(look.stack.frames, places)
    return next((index for index, call in enumerate(look.stack.frames) if call is found), None)

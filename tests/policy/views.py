"""What the policy looks at, with defaults: a pool that serves, and what a test changes about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from prefork.policy.model import (
    FREE,
    IDLE,
    Action,
    Decision,
    Memory,
    Phase,
    PoolMemory,
    PoolView,
    Rules,
    Snapshot,
    Worker,
    Zygote,
    ZygoteState,
)
from prefork.policy.plan import plan

__all__ = ["NAME", "NOW", "decide", "pool_of", "slots_of", "snapshot_of", "states_of", "worker_of", "zygote_of"]

NAME: Final = "www"
NOW: Final = 1_000.0

_OF_RULES: Final = {field.name for field in dataclasses.fields(Rules)}


def worker_of(slot: int = 0, **changes: Any) -> Worker:
    """A worker that has served for long, unless ``changes`` say otherwise."""
    facts: dict[str, Any] = {
        "slot": slot,
        "generation": 1,
        "forked": NOW - 100,
        "pid": 500 + slot,
        "ready": NOW - 99,
        "listener": 1,
    }
    return Worker(**{**facts, **changes})


def zygote_of(state: ZygoteState = ZygoteState.READY, **changes: Any) -> Zygote:
    """A zygote that was started long ago and holds the application."""
    facts: dict[str, Any] = {
        "generation": 1,
        "state": state,
        "started": NOW - 200,
        "changed": NOW - 199,
        "loaded": True,
    }
    return Zygote(**{**facts, **changes})


def states_of(workers: Iterable[Worker], changes: Mapping[int, int] | None = None, slots: int = 64) -> bytes:
    """The state bytes: idle for each worker, and ``changes`` by slot."""
    states = bytearray([FREE] * slots)
    for worker in workers:
        states[worker.slot] = IDLE
    for slot, state in (changes or {}).items():
        states[slot] = state
    return bytes(states)


def pool_of(*workers: Worker, **changes: Any) -> PoolView:
    """A static pool that has served for long with these workers and wants no others; ``changes`` also of its rules."""
    limits = {"max_children": max(1, len(workers)), "boot_timeout": 60.0, "graceful_timeout": 25.0}
    rules = Rules(**{**limits, **{name: changes.pop(name) for name in _OF_RULES & changes.keys()}})
    facts: dict[str, Any] = {
        "name": NAME,
        "rules": rules,
        "phase": Phase.SERVING,
        "phase_since": NOW - 300,
        "slots": 64,
        "workers": workers,
        "states": states_of(workers, slots=max([64, *(worker.slot + 1 for worker in workers)])),
        "zygote": zygote_of(),
        "open": True,
        "verified": True,
        "waiting": 0,
        "limit": 100,
    }
    return PoolView(**{**facts, **changes})


def snapshot_of(*pools: PoolView, phase: Phase = Phase.SERVING, since: float = NOW - 300, now: float = NOW) -> Snapshot:
    """These pools in one phase."""
    return Snapshot(now, phase, since, tuple(replace(pool, phase=phase, phase_since=since) for pool in pools))


def decide(
    *pools: PoolView, phase: Phase = Phase.SERVING, since: float = NOW - 300, memory: PoolMemory | None = None
) -> Decision:
    """What is planned for these pools; ``memory`` is that of the pool named www."""
    return plan(snapshot_of(*pools, phase=phase, since=since), Memory() if memory is None else Memory({NAME: memory}))


def slots_of(kind: type[Any], actions: Iterable[Action]) -> list[int]:
    """The slots of all actions of one kind, in order."""
    return [action.slot for action in actions if isinstance(action, kind)]

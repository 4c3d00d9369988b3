"""How often workers are weighed."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefork.master import weighing
from prefork.master.loop import Master
from prefork.master.pool import Pool
from prefork.master.weighing import Weighing
from prefork.policy.model import Rules


def pool_of(workers: int, max_memory: int | None = 1) -> Pool:
    pool = Pool("www", "app", rules=Rules(max_children=workers, max_memory=max_memory), slots=workers, inherited=False)
    for slot in range(workers):
        pool.forked(slot, 1, 0.0)
        if slot:  # the first was asked for and has not come yet
            pool.adopted(slot, 1_000_000 + slot)
    return pool


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1), (2, 1), (201, 1), (202, 2), (1_000, 5)])
def test_all_have_their_turn(workers: int, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second, or every few in a large pool; never more than two hundred at once, nor one that has no pid."""
    asked: list[int] = []

    def weigh(pid: int) -> int:
        asked.append(pid)
        return pid

    monkeypatch.setattr(weighing, "private_memory", weigh)
    pools = [pool_of(workers), pool_of(3, max_memory=None)]
    master = cast(Master, SimpleNamespace(pools=[SimpleNamespace(pool=pool) for pool in pools]))
    scale, most = Weighing(master), 0
    for second in range(seconds):
        before = len(asked)
        for moment in (0.0, 0.5, 0.9):
            scale.beat(second + moment)
        most = max(most, len(asked) - before)
    assert sorted(asked) == [1_000_000 + slot for slot in range(1, workers)]
    assert most <= 200
    assert [worker.memory for worker in pools[0].workers.values()][1:] == sorted(asked)
    assert {worker.memory for worker in pools[1].workers.values()} == {0}


def test_who_is_ready_is_weighed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it serves anybody, so that what it grows by later is known; once, and two hundred in a round.

    What it weighed while it loaded the application says nothing.
    """
    asked: list[int] = []

    def weigh(pid: int) -> int:
        asked.append(pid)
        return 7

    monkeypatch.setattr(weighing, "private_memory", weigh)
    pool = pool_of(302)
    scale = Weighing(cast(Master, SimpleNamespace(pools=[SimpleNamespace(pool=pool)])))
    scale.beat(1.0)
    pool.weighs(5, 3)
    del asked[:]
    for slot in range(1, 302):
        pool.ready(slot, 1.0)
    counts = []
    for _ in range(3):
        scale.beat(1.5)
        counts.append(len(asked))
    assert counts == [200, 301, 301]
    pool.weighs(5, 8)
    assert (pool.workers[5].newborn, pool.workers[5].memory) == (7, 8)


def test_a_real_process_weighs_something() -> None:
    """Megabytes for a Python; nothing for one that is gone."""
    pool: Any = pool_of(2)
    pool.adopted(0, os.getpid())
    Weighing(cast(Master, SimpleNamespace(pools=[SimpleNamespace(pool=pool)]))).beat(1.0)
    assert pool.workers[0].memory > 2**20
    assert pool.workers[1].memory == 0

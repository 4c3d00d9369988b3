"""The managers under load, in simulated time: how soon a pool grows, how it shrinks, and how often it forks."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.load import Load
from prefork.policy.model import Saturated, SaturationEnded

MINUTES = 10


def dynamic(max_children: int = 32, **rules: Any) -> Load:
    """A pool with the defaults of the options, unless ``rules`` say otherwise."""
    least, most = min(2, max_children), max(2, max_children // 2)
    facts: dict[str, Any] = {
        "pm": "dynamic",
        "max_children": max_children,
        "min_spare": least,
        "max_spare": most,
        "start": least + (most - least) // 2,
        "surge": max_children,
    }
    return Load(**{**facts, **rules})


def ondemand(max_children: int = 32, **rules: Any) -> Load:
    return Load(**{"pm": "ondemand", "max_children": max_children, "surge": max_children, **rules})


def sine(load: Load, period: float, low: float, high: float, seconds: float = 0.5) -> None:
    """Ten minutes of requests at random, of which between ``low`` and ``high`` are at work at once."""
    chance, at = random.Random(period), 5.0
    while at < 5 + 60 * MINUTES:
        busy = low + (high - low) * (1 - math.cos(2 * math.pi * at / period)) / 2
        at += chance.expovariate(busy / seconds)
        load.at(at, lambda: load.send(1, seconds))
    load.run(5 + 60 * MINUTES)


def blips(load: Load, seconds: float) -> None:
    """Thirty short requests at once, every second for ten minutes."""
    for second in range(60 * MINUTES):
        load.at(5 + second, lambda: load.send(30, seconds))
    load.run(5 + 60 * MINUTES)


# growing


def test_a_crowd_is_answered_at_once() -> None:
    """32 requests of one second at once, two workers at the start, 32 allowed: all within 1.3 s (php-fpm: 5.0 s)."""
    load = dynamic(start=2)
    load.run(5)
    assert load.taking == 2
    load.send(32, 1.0)
    load.run(7)
    assert len(load.latencies) == 32
    assert max(load.latencies) < 1.3
    assert load.taking == 32
    assert not load.reports, "who were enough are not too few"


def test_an_application_that_each_worker_loads_alone_grows_as_well() -> None:
    """Two seconds to load, so the crowd has its answers after little more than three."""
    load = dynamic(start=2, loads_alone=2.0)
    load.run(10)
    assert load.taking == 2
    load.send(32, 1.0)
    load.run(20)
    assert len(load.latencies) == 32
    assert max(load.latencies) < 3.3


def test_growth_is_bounded_by_the_spawn_rate() -> None:
    """What a second allows at once, then so many a second."""
    load = dynamic(64, start=2, spawn_rate=8)
    load.run(5)
    before = len(load.forks)
    load.send(64, 10.0)
    load.run(5.5)
    assert 8 <= len(load.forks) - before <= 12
    load.run(8)
    assert 8 * 3 <= len(load.forks) - before <= 8 * 4
    assert load.most_forks(1.0, since=5.5) <= 9


def test_without_a_reading_of_the_queue_a_pool_grows_by_its_spares() -> None:
    """Nobody idle is all that is known: twice min_spare in a tenth of a second, again and again."""
    load = dynamic(start=2, readable=False)
    load.run(5)
    load.send(32, 1.0)
    load.run(15)
    assert len(load.latencies) == 32
    assert max(load.latencies) < 2.5


@pytest.mark.parametrize("readable", [True, False])
def test_ondemand_forks_for_everybody_who_waits(readable: bool) -> None:
    """Nobody at the start; a worker for each connection, at once; and nobody again when nobody came for the hold.

    Where the queue cannot be read, one after the other.
    """
    load = ondemand(readable=readable)
    load.run(5)
    assert (load.taking, load.forks, load.pool.open) == (0, [], True)
    load.send(5, 1.0)
    load.run(8)
    assert len(load.latencies) == 5
    assert max(load.latencies) < (1.05 if readable else 1.3)
    assert load.taking == len(load.forks) == 5
    load.run(15)
    assert load.taking == 5, "not before ten seconds without need"
    load.run(40)
    assert load.taking == 0
    load.send(1, 0.1)
    load.run(41)
    assert max(load.latencies[5:]) < 0.15


def test_a_pool_ondemand_sleeps_until_somebody_comes() -> None:
    """With nobody there, nothing but the beat, once a second."""
    load = ondemand()
    load.run(5)
    before = load.plans
    load.run(105)
    assert load.plans - before <= 101


def test_a_worker_is_added_while_others_are_busy_for_long() -> None:
    """The doorbell rang long ago, and rings no more: the listener itself wakes the master."""
    for load in (ondemand(), dynamic(start=2)):
        load.run(5)
        load.send(4, 60.0)
        load.run(10.0)
        load.send(8, 0.1)
        load.run(12.0)
        assert len(load.latencies) == 8
        assert max(load.latencies) < 0.2


# not growing


@pytest.mark.parametrize(("seconds", "most"), [(0.001, 5), (0.002, 5), (0.003, 8)])
def test_blips_cost_no_forks_to_speak_of(seconds: float, most: int) -> None:
    """They are gone before a new worker could help."""
    load = dynamic(start=2)
    blips(load, seconds)
    assert len(load.latencies) == 30 * 60 * MINUTES
    assert len(load.forks) < most
    assert max(load.latencies) < 0.1


def test_blips_are_no_reason_to_fork_and_leave_by_turns() -> None:
    """Nor with few spares: whoever was forked once is used once a second, and stays."""
    for load in (dynamic(start=2, max_spare=2), ondemand()):
        blips(load, 0.005)
        assert load.most_forks(60, since=60) == 0
        assert not load.retirements


# shrinking


@pytest.mark.parametrize("manager", ["dynamic", "ondemand"])
def test_a_burst_and_then_silence(manager: str) -> None:
    """After the hold one worker after the other leaves, until those are left that may be idle."""
    load = dynamic(start=2, max_spare=4) if manager == "dynamic" else ondemand()
    rest = 4 if manager == "dynamic" else 0
    load.run(5)
    load.send(32, 1.0)
    load.run(6.5)
    ended = load.now
    load.run(120)
    assert load.taking == rest
    assert len(load.retirements) == len(load.forks) - rest
    assert min(load.retirements) > ended + 9
    pauses = [later - earlier for earlier, later in zip(load.retirements, load.retirements[1:], strict=False)]
    assert min(pauses) > 0.04
    assert max(pauses) < 1.5
    assert max(load.retirements) < ended + 10 + 35


@pytest.mark.parametrize("idle_timeout", [0.1, 1.0, 60.0])
def test_the_hold_is_process_idle_timeout(idle_timeout: float) -> None:
    """Also where that is shorter than the master's beat, or much longer."""
    load = ondemand(idle_timeout=idle_timeout)
    load.run(5)
    load.send(3, 0.5)
    load.run(5.5 + idle_timeout)
    assert not load.retirements
    load.run(5.7 + idle_timeout * 1.25)
    assert load.retirements
    load.run(10 + idle_timeout * 1.25)
    assert load.taking == 0


# neither


@pytest.mark.parametrize("period", [20, 40, 60, 120, 300])
@pytest.mark.parametrize(
    ("rules", "most"), [({}, 20), ({"max_spare": 4, "start": 2}, 40), ({"pm": "ondemand"}, 40)], ids=str
)
def test_a_sine_costs_few_forks(period: int, rules: dict[str, Any], most: int) -> None:
    """Ten minutes between 1 and 16 busy workers of 32 allowed: forks a minute stay below ``most``, and nobody waits.

    php-fpm's rules, once a second, fork as often in this world, and let a hundred times as many connections wait.
    """
    load = dynamic(**rules)
    sine(load, period, 1, 16)
    assert load.most_forks(60, since=65) <= most
    assert load.most_forks(60) <= 50
    assert load.unanswered == 0
    waited = sum(latency > 0.5 + 0.02 for latency in load.latencies)
    assert waited < 0.01 * len(load.latencies)


@pytest.mark.parametrize("rules", [{}, {"max_spare": 4}, {"pm": "ondemand"}], ids=str)
def test_steady_load_converges(rules: dict[str, Any]) -> None:
    """Requests at equal distances: after the first seconds nobody is forked and nobody leaves."""
    load = dynamic(start=2, **rules)
    for number in range(60 * MINUTES * 20):
        load.at(5 + number / 20, lambda: load.send(1, 0.39))
    load.run(5 + 60 * MINUTES)
    assert load.most_forks(60, since=30) == 0
    assert not [at for at in load.retirements if at > 60]
    assert max(load.latencies) < 0.6


# the ceiling


def test_a_saturation_is_an_episode() -> None:
    """Told once when it has lasted a moment, and once when it is over, with the longest queue and how long it was."""
    load = dynamic(4, start=4, min_spare=1, max_spare=4)
    load.run(5)
    load.send(20, 1.0)
    load.run(30)
    reached, left = load.reports
    assert isinstance(reached, Saturated)
    assert isinstance(left, SaturationEnded)
    assert (reached.max_children, reached.waiting, left.peak, left.max_children) == (4, 16, 16, 4)
    assert 3.9 <= left.lasted <= 4.1
    load.send(20, 1.0)
    load.run(60)
    assert [type(report) for report in load.reports] == [Saturated, SaturationEnded] * 2


def test_a_load_that_goes_on_and_off_is_one_episode() -> None:
    """Less than a second between two queues is no end."""
    load = Load(pm="static", max_children=2)
    for number in range(20):
        load.at(5 + number, lambda: load.send(4, 0.3))
    load.run(60)
    assert [type(report) for report in load.reports] == [Saturated, SaturationEnded]


# replacing


@pytest.mark.parametrize("surge", [0, 1, 3, 8])
@pytest.mark.parametrize("pm", ["static", "dynamic", "ondemand"])
def test_a_reload_under_load(pm: str, surge: int) -> None:
    """No connection waits behind those that run, and there are never more processes than max_children + surge."""
    load = Load(pm=pm, max_children=8, min_spare=2, max_spare=4, start=4, surge=surge)
    for number in range(400):
        load.at(5 + number / 20, lambda: load.send(1, 0.2))
    load.at(6, lambda: load.send(2, 5.0))
    load.at(10, load.reload)
    load.run(40)
    assert len(load.latencies) == 402
    assert sum(latency > 0.45 for latency in load.latencies) == 2
    assert load.most_processes <= 8 + max(1, surge)
    assert load.generations <= {2}
    assert load.pool.cutoff == 2


@pytest.mark.parametrize("pm", ["dynamic", "ondemand"])
def test_a_new_generation_is_as_large_as_the_pool_was(pm: str) -> None:
    """Not max_children: what was enough before the reload."""
    load = dynamic(32, pm=pm, start=3, max_spare=4, idle_timeout=60.0)
    load.run(5)
    load.send(3, 1.0)
    load.run(10)
    before, forked = load.taking, len(load.forks)
    load.reload()
    load.run(15)
    assert load.taking == before
    assert len(load.forks) == forked + max(1, before)
    assert load.generations == {2}


@pytest.mark.parametrize("pm", ["static", "dynamic", "ondemand"])
def test_another_listener_has_its_own_workers_at_once(pm: str) -> None:
    """Those of the one before answer who waits there, then leave; no more processes than with a reload."""
    load = Load(pm=pm, max_children=4, min_spare=1, max_spare=4, start=4, surge=4)
    load.run(5)
    load.send(12, 1.0)
    load.run(5.5)
    load.replace_listener()
    load.send(1, 0.1)
    load.run(6.0)
    assert 0.1 <= load.latencies[0] < 0.2
    load.run(30)
    assert len(load.latencies) == 13
    assert {worker.listener for worker in load.pool.workers.values()} <= {2}
    assert load.most_processes <= 8


def test_a_queue_whose_workers_all_died_is_not_lost() -> None:
    """Another worker is given the earlier listener."""
    load = Load(pm="static", max_children=1, surge=2)
    load.run(5)
    load.send(3, 1.0)
    load.run(5.5)
    load.replace_listener()
    load.strand()
    load.run(10)
    assert len(load.latencies) == 2, "all but the one in the worker that died"
    assert load.unanswered == 0
    assert load.taking == 1


@pytest.mark.parametrize("surge", [0, 1, 8])
def test_recycling_interrupts_nobody(surge: int) -> None:
    """Each worker serves ten requests; its successor is there before it leaves."""
    load = Load(pm="static", max_children=4, surge=surge, max_requests=10)
    for number in range(1_000):
        load.at(5 + number / 50, lambda: load.send(1, 0.05))
    load.run(30)
    assert len(load.latencies) == 1_000
    assert max(load.latencies) < 0.07
    assert len(load.forks) >= 60
    assert load.taking == 4
    assert load.most_processes <= 4 + max(1, surge)


def test_lifetimes_do_not_end_at_once() -> None:
    """Workers forked together leave within a tenth of max_lifetime, one after the other."""
    load = Load(pm="static", max_children=8, surge=1, max_lifetime=100.0)
    load.run(108)
    assert len(load.retirements) == 8
    assert load.retirements[-1] - load.retirements[0] > 5
    assert load.taking == 8


# anything at all

ACTS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 20), st.sampled_from([0.001, 0.1, 1.0, 4.0])),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 2.0, 12.0]), st.none()),
    st.tuples(st.just("scale"), st.integers(1, 20), st.none()),
    st.tuples(st.just("reload"), st.integers(1, 20), st.sampled_from(["static", "dynamic", "ondemand"])),
    st.tuples(st.just("listener"), st.none(), st.none()),
    st.tuples(st.just("death"), st.integers(0, 20), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(
    pm=st.sampled_from(["static", "dynamic", "ondemand"]),
    max_children=st.integers(1, 16),
    spares=st.lists(st.integers(1, 16), min_size=3, max_size=3).map(sorted),
    surge=st.integers(0, 16),
    idle_timeout=st.sampled_from([0.1, 1.0, 10.0]),
    spawn_rate=st.sampled_from([1, 4, 32]),
    max_requests=st.sampled_from([0, 0, 1, 7]),
    readable=st.booleans(),
    acts=st.lists(ACTS, max_size=8),
)
def test_whatever_comes_the_pool_comes_to_rest(
    acts: list[tuple[str, Any, Any]], max_requests: int, readable: bool, spares: list[int], **rules: Any
) -> None:
    """Every plan on the way keeps the rules (`policy.simulator.check`).

    At the end everybody was answered, the pool has the size its manager wants, all workers have the last code and the
    current listener, and nothing changes any more.
    """
    load = Load(
        readable=readable, max_requests=max_requests, min_spare=spares[0], start=spares[1], max_spare=spares[2], **rules
    )
    load.run(1)
    sent, lost = 0, 0
    for act, first, second in acts:
        match act:
            case "send":
                load.send(first, second)
                sent += first
            case "wait":
                load.run(load.now + first)
            case "scale":
                load.change(max_children=first)
            case "reload" if not load.pool.reloads:
                load.reload(max_children=first, pm=second)
            case "listener":
                load.replace_listener()
            case "death":
                lost += load.kill(first)
    while len(load.latencies) < sent - lost:
        load.run(load.now + 5.0)
        assert load.now < 1 + 15 * 12 + 15 * 20 * 5
    load.run(load.now + 60)
    assert len(load.latencies) == sent - lost
    assert load.unanswered == 0
    limits = load.pool.rules
    match limits.pm:
        case "static":
            assert load.taking == limits.max_children
        case "dynamic":
            least, most = (min(spare, limits.max_children) for spare in (limits.min_spare, limits.max_spare))
            assert least <= load.taking <= max(most, least)
        case _:
            assert load.taking == 0
    assert {worker.listener for worker in load.pool.workers.values()} <= {load.pool.listener}
    assert load.generations <= set(range(load.pool.cutoff, load.pool.generation + 1))
    assert len(load.pool.workers) == load.taking
    forks, retirements = len(load.forks), len(load.retirements)
    load.run(load.now + 30)
    assert (len(load.forks), len(load.retirements)) == (forks, retirements)

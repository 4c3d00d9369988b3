"""The whole policy: each rule where rules meet, and what holds of every plan, by Hypothesis."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.simulator import Script, Simulator, check
from policy.views import NAME, NOW, decide, pool_of, slots_of, snapshot_of, states_of, worker_of, zygote_of
from prefork.policy.lifecycle import Command
from prefork.policy.model import (
    IDLE,
    RETIRING,
    RUNNING,
    Action,
    End,
    Ended,
    Fork,
    Kill,
    KillZygote,
    Listen,
    Memory,
    OpenListener,
    Phase,
    PoolMemory,
    PoolView,
    QueueEnded,
    QueueFull,
    ReleaseZygote,
    Retire,
    ShutListener,
    SignalRetired,
    Snapshot,
    StartZygote,
    Terminate,
    Worker,
    Zygote,
    ZygoteState,
)
from prefork.policy.plan import HEARTBEAT, plan

LOADING, READY, FAILED, LEAVING = ZygoteState.LOADING, ZygoteState.READY, ZygoteState.FAILED, ZygoteState.LEAVING
BOOTING, SERVING, DRAINING, KILLING = Phase.BOOTING, Phase.SERVING, Phase.DRAINING, Phase.KILLING
BACKING_OFF = PoolMemory(failures=3, not_before=NOW + 0.2)


def test_a_pool_in_order_is_left_alone() -> None:
    """Everybody idle, nothing in the queue: no action, and the next look at the heartbeat."""
    decision = decide(pool_of(worker_of(0), worker_of(1)))
    assert (decision.actions, decision.wake_at) == ((), NOW + HEARTBEAT)


def test_without_pools_there_is_nothing_to_do() -> None:
    """Serving nobody waits for the next beat."""
    decision = decide(phase=SERVING)
    assert (decision.actions, decision.wake_at, decision.memory) == ((), NOW + HEARTBEAT, Memory({}))


# the zygote

KILL_LOADING = KillZygote(NAME, "stopped while loading the application")
KILL_SLOW = KillZygote(NAME, "boot_timeout (60 s)")
KILL_UNFIT = KillZygote(NAME, "unfit to fork from")
KILL_LATE = KillZygote(NAME, "did not end in order")
BLANK = StartZygote(NAME, load=False)
LATE = {"changed": NOW - 5}

ZYGOTES: list[tuple[str, Phase, Zygote | None, PoolMemory, list[Action], float]] = [
    ("none, booting", BOOTING, None, PoolMemory(), [StartZygote(NAME, load=True)], 0.0),
    ("none, serving", SERVING, None, PoolMemory(), [StartZygote(NAME, load=True)], 0.0),
    ("none, backing off", SERVING, None, BACKING_OFF, [], NOW + 0.2),
    ("none, draining", DRAINING, None, PoolMemory(), [], NOW + 1),
    ("none, killing", KILLING, None, PoolMemory(), [], NOW + 1),
    ("loading", BOOTING, zygote_of(LOADING, started=NOW - 59.5), PoolMemory(), [], NOW + 0.5),
    ("loading for too long", BOOTING, zygote_of(LOADING, started=NOW - 60), PoolMemory(), [KILL_SLOW], NOW + 1),
    ("loading, draining", DRAINING, zygote_of(LOADING, started=NOW), PoolMemory(), [KILL_LOADING], NOW + 1),
    ("loading, killing", KILLING, zygote_of(LOADING), PoolMemory(), [KillZygote(NAME, "stopped at once")], NOW + 1),
    ("unfit", SERVING, zygote_of(unfit=True), PoolMemory(), [KILL_UNFIT, BLANK], NOW + 1),
    ("unfit, backing off", SERVING, zygote_of(unfit=True), BACKING_OFF, [], NOW + 0.2),
    ("unfit, draining", DRAINING, zygote_of(unfit=True), PoolMemory(), [KILL_UNFIT], NOW + 1),
    ("failed", SERVING, zygote_of(FAILED, changed=NOW - 4.5), PoolMemory(), [], NOW + 0.5),
    ("failed, hanging", SERVING, zygote_of(FAILED, **LATE), PoolMemory(), [KILL_LATE], NOW + 1),
    ("leaving", DRAINING, zygote_of(LEAVING, changed=NOW - 4.5), PoolMemory(), [], NOW + 0.5),
    ("leaving, hanging", DRAINING, zygote_of(LEAVING, **LATE), PoolMemory(), [KILL_LATE], NOW + 1),
    ("ready, draining", DRAINING, zygote_of(), PoolMemory(), [ReleaseZygote(NAME)], NOW + 1),
    ("ready, killing", KILLING, zygote_of(), PoolMemory(), [KillZygote(NAME, "stopped at once")], NOW + 1),
]


@pytest.mark.parametrize(
    ("phase", "zygote", "memory", "actions", "wake_at"), [z[1:] for z in ZYGOTES], ids=[z[0] for z in ZYGOTES]
)
def test_the_zygote(
    phase: Phase,
    zygote: Zygote | None,
    memory: PoolMemory,
    actions: list[Action],
    wake_at: float,
) -> None:
    """Started where the back-off allows it, replaced when unfit, killed when late, released at the end."""
    pool = pool_of(zygote=zygote, max_children=1, verified=False, open=False)
    decision = decide(pool, phase=phase, since=NOW - 5, memory=memory)
    assert [action for action in decision.actions if action != End()] == actions
    if wake_at:
        assert decision.wake_at == pytest.approx(wake_at)


def test_a_zygote_stays_while_workers_drain() -> None:
    """They may all die with connections still waiting; only after graceful_timeout nobody is forked any more."""
    pool = pool_of(worker_of(), shut=True)
    assert ReleaseZygote(NAME) not in decide(pool, phase=DRAINING, since=NOW - 24).actions
    assert ReleaseZygote(NAME) in decide(pool, phase=DRAINING, since=NOW - 25).actions


def test_connections_that_wait_for_nobody_get_a_worker_even_while_draining() -> None:
    """The last worker died, two connections wait: two forks; and the zygote is not released."""
    pool = pool_of(max_children=4, shut=True, waiting=2)
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == (Fork(NAME, 0), Fork(NAME, 1))


def test_a_worker_that_was_forked_while_draining_may_start() -> None:
    """It is not killed for not being ready while connections wait for it, and then gets the listener."""
    starting = worker_of(0, forked=NOW, ready=None, listening=False)
    pool = pool_of(starting, max_children=4, shut=True, waiting=1)
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == ()
    ready = worker_of(0, forked=NOW, ready=NOW, listening=False)
    pool = pool_of(ready, max_children=4, shut=True, waiting=1)
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == (Listen(NAME, 0),)


@pytest.mark.parametrize(
    ("facts", "killed"),
    [
        ({"pid": 0, "forked": NOW - 60}, True),
        ({"pid": 0, "forked": NOW - 59}, False),
        ({"pid": 7, "forked": NOW - 60}, False),
        ({"pid": 0, "forked": NOW - 60, "generation": 0}, False),
    ],
)
def test_a_zygote_that_does_not_fork_is_replaced(facts: dict[str, Any], killed: bool) -> None:
    """A worker that never showed within boot_timeout is given up, and the zygote that owes it with it."""
    pool = pool_of(worker_of(0, ready=None, listening=False, **facts))
    actions = decide(pool).actions
    assert (KillZygote(NAME, "forked nobody within boot_timeout (60 s)") in actions) is killed


# sizes

FORKS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("all that are missing", {"max_children": 3}, [1, 2]),
    ("no more than 32 at once", {"max_children": 40}, list(range(1, 33))),
    ("no more than there are slots", {"max_children": 40, "slots": 3}, [1, 2]),
    ("none without a zygote", {"max_children": 3, "zygote": None}, []),
    ("none from one that loads", {"max_children": 3, "zygote": zygote_of(LOADING, started=NOW)}, []),
    ("none from an unfit one", {"max_children": 3, "zygote": zygote_of(unfit=True)}, []),
    ("none from one that leaves", {"max_children": 3, "zygote": zygote_of(LEAVING, changed=NOW)}, []),
    ("none if nobody is missing", {"max_children": 1}, []),
]


@pytest.mark.parametrize(("changes", "slots"), [f[1:] for f in FORKS], ids=[f[0] for f in FORKS])
def test_forks(changes: dict[str, Any], slots: list[int]) -> None:
    """Free slots from the lowest up, as many as are missing, from a zygote that can."""
    assert slots_of(Fork, decide(pool_of(worker_of(0), **changes)).actions) == slots


def test_forks_that_did_not_fit_are_asked_for_soon() -> None:
    """A tenth of a beat later."""
    assert decide(pool_of(worker_of(0), max_children=40)).wake_at == pytest.approx(NOW + 0.1)


def test_forks_wait_for_the_back_off() -> None:
    """Until its very end, and not longer."""
    pool = pool_of(worker_of(0), max_children=2)
    early = decide(pool, memory=BACKING_OFF)
    assert (early.actions, early.wake_at) == ((), NOW + 0.2)
    assert decide(pool, memory=PoolMemory(failures=3, not_before=NOW)).actions == (Fork(NAME, 1),)


def test_the_youngest_of_too_many_retire() -> None:
    """And nobody is forked; the next plan follows at once, because it reminds them."""
    pool = pool_of(worker_of(0, forked=NOW - 1), worker_of(1), worker_of(2, forked=NOW - 2), max_children=1)
    decision = decide(pool)
    assert (decision.actions, decision.wake_at) == ((Retire(NAME, 0), Retire(NAME, 2)), NOW)


def test_a_deserter_is_taken_at_its_word() -> None:
    """A worker that says it leaves is retired, so that another can be forked at once."""
    worker = worker_of(0)
    assert decide(pool_of(worker, states=states_of([worker], {0: RETIRING}))).actions == (Retire(NAME, 0),)


# failures


def test_ends_that_were_not_expected_count() -> None:
    """And those that were do not; the memory says from when on there may be another start."""
    ended = (Ended(None, expected=False), Ended(NOW - 1, expected=True), Ended(None, expected=False))
    assert decide(pool_of(ended=ended, max_children=1)).memory.of(NAME) == PoolMemory(failures=2, not_before=NOW + 0.1)


@pytest.mark.parametrize(
    ("workers", "zygote", "forgiven"),
    [
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], zygote_of(), True),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 0.9)], zygote_of(), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=None)], zygote_of(), False),
        ([worker_of(0, ready=NOW - 1)], zygote_of(), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], zygote_of(changed=NOW - 0.9), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], zygote_of(LOADING, started=NOW), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], None, False),
    ],
)
def test_a_full_house_that_lasts_ends_the_series(workers: list[Worker], zygote: Zygote | None, forgiven: bool) -> None:
    """When every worker there should be, and the zygote, has been ready for a second, the failures are history.

    Workers alone do not end it: those that serve on say nothing about why the next zygote fails.
    """
    before = PoolMemory(failures=5, not_before=NOW - 3)
    memory = decide(pool_of(*workers, max_children=2, zygote=zygote), memory=before).memory.of(NAME)
    assert memory.failures == (0 if forgiven else 5)


# listeners


def test_no_listener_opens_before_every_pool_has_a_worker() -> None:
    """The path of the first does not appear while the second may still fail."""
    one = pool_of(worker_of(0, listening=False), open=False)
    other = pool_of(worker_of(0, forked=NOW, ready=None, listening=False), name="other", open=False)
    assert decide(one, other, phase=BOOTING).actions == ()
    other = pool_of(worker_of(0, listening=False), name="other", open=False)
    assert decide(one, other, phase=BOOTING).actions == (OpenListener(NAME), OpenListener("other"))
    opened = pool_of(worker_of(0), open=True)
    assert decide(opened, other, phase=BOOTING).actions == (OpenListener("other"),)


@pytest.mark.parametrize(
    ("facts", "changes", "listens"),
    [
        ({}, {}, True),
        ({"ready": None}, {}, False),
        ({"listening": True}, {}, False),
        ({"retired": NOW}, {}, False),
        ({}, {"open": False}, False),
    ],
)
def test_who_gets_the_listener(facts: dict[str, Any], changes: dict[str, Any], listens: bool) -> None:
    """A ready worker that has none yet and was not asked to leave, once it is open."""
    pool = pool_of(worker_of(0, **{"listening": False, "forked": NOW, **facts}), **changes)
    assert (Listen(NAME, 0) in decide(pool).actions) is listens


def test_a_worker_that_does_not_get_ready_is_killed() -> None:
    """At boot_timeout, not before, and is asked for nothing else in that plan."""
    pool = pool_of(worker_of(0, forked=NOW - 59.9, ready=None, listening=False), open=False)
    early = decide(pool, phase=BOOTING)
    assert early.actions == ()
    assert early.wake_at == pytest.approx(NOW + 0.1)
    for phase in (BOOTING, DRAINING, KILLING):
        late = worker_of(0, forked=NOW - 60, ready=None, listening=False)
        pool = pool_of(late, open=False, zygote=None, waiting=None)
        told = [action for action in decide(pool, phase=phase).actions if getattr(action, "slot", None) == 0]
        assert told == [Kill(NAME, 0, "boot_timeout (60 s)")]


# stopping


def test_a_listener_of_our_own_wakes_its_workers_itself() -> None:
    """It is shut once, and nobody is retired while anything waits or may wait: the queue is answered first."""
    assert decide(pool_of(worker_of(), waiting=1), phase=DRAINING, since=NOW).actions == (ShutListener(NAME),)
    assert decide(pool_of(worker_of(), shut=True, waiting=1), phase=DRAINING, since=NOW).actions == ()
    assert decide(pool_of(worker_of(), shut=True, waiting=None), phase=DRAINING, since=NOW).actions == ()


def test_who_is_still_there_when_the_queue_is_empty_is_told_to_leave() -> None:
    """A peer that keeps its connection busy with one request after another must not keep its worker."""
    told = decide(pool_of(worker_of(), shut=True, waiting=0), phase=DRAINING, since=NOW).actions
    assert told == (Retire(NAME, 0),)


@pytest.mark.parametrize("changes", [{"inherited": True}, {"open": False}])
def test_others_have_to_be_asked(changes: dict[str, Any]) -> None:
    """Workers of an inherited listener, or of one that never opened, would wait for ever."""
    told = decide(pool_of(worker_of(0), worker_of(1, retired=NOW), shut=True, **changes), phase=DRAINING).actions
    assert slots_of(Retire, told) == [0]


def test_a_listener_whose_end_is_silent_is_watched() -> None:
    """TCP: workers are asked to leave when it is shut and nobody waits any more, and not a moment before."""
    busy = pool_of(worker_of(), silent=True, waiting=2)
    assert decide(busy, phase=DRAINING, since=NOW).actions == (ShutListener(NAME),)
    waited = decide(replace(busy, shut=True), phase=DRAINING, since=NOW)
    assert (slots_of(Retire, waited.actions), waited.wake_at < NOW + 0.1) == ([], True)
    for waiting in (0, None):
        done = decide(replace(busy, shut=True, waiting=waiting), phase=DRAINING, since=NOW)
        assert slots_of(Retire, done.actions) == [0]


def test_the_end() -> None:
    """When no process of any pool is left, and only when stopping."""
    nobody, somebody, zygote = pool_of(zygote=None, shut=True), pool_of(worker_of(), zygote=None), pool_of()
    for phase in (DRAINING, KILLING):
        assert decide(nobody, phase=phase).actions == (End(),)
        assert End() not in decide(nobody, somebody, phase=phase).actions
        assert End() not in decide(zygote, nobody, phase=phase).actions
    for phase in (BOOTING, SERVING):
        assert End() not in decide(nobody, phase=phase).actions


# the queue


def test_a_full_queue_is_reported_and_watched() -> None:
    """The episode is remembered from plan to plan, and looked at again soon."""
    decision = decide(pool_of(worker_of(), waiting=101))
    assert (decision.actions, decision.wake_at) == ((QueueFull(NAME, 101, 100),), NOW + 0.05)
    after = plan(snapshot_of(pool_of(worker_of()), now=NOW + 1), decision.memory)
    assert after.actions == (QueueEnded(NAME, 0.0, 101, 100),)


def test_while_everybody_is_busy_the_queue_is_looked_at_often() -> None:
    """Twenty times a second."""
    worker = worker_of()
    assert decide(pool_of(worker, states=states_of([worker], {0: RUNNING}))).wake_at == NOW + 0.05


# anything at all

MOMENTS = st.floats(NOW - 200, NOW)


@st.composite
def workers_of_any_kind(draw: st.DrawFn) -> tuple[Worker, ...]:
    """Up to a dozen workers in any condition, possible or not."""
    return tuple(
        Worker(
            slot=slot,
            generation=draw(st.integers(0, 3)),
            forked=draw(MOMENTS),
            pid=draw(st.sampled_from([0, 500 + slot])),
            ready=draw(st.none() | MOMENTS),
            listening=draw(st.booleans()),
            retired=draw(st.none() | MOMENTS),
            signals=draw(st.integers(0, 1_000)),
            signalled=draw(MOMENTS),
            terminated=draw(st.none() | MOMENTS),
        )
        for slot in draw(st.lists(st.integers(0, 15), unique=True, max_size=12))
    )


POOLS = st.builds(
    PoolView,
    name=st.just(NAME),
    max_children=st.integers(1, 40),
    slots=st.just(16),
    boot_timeout=st.floats(0.001, 100),
    graceful_timeout=st.floats(0, 100),
    workers=workers_of_any_kind(),
    states=st.binary(min_size=16, max_size=16),
    zygote=st.none()
    | st.builds(
        Zygote,
        generation=st.integers(1, 3),
        state=st.sampled_from(ZygoteState),
        started=MOMENTS,
        changed=MOMENTS,
        loaded=st.booleans(),
        unfit=st.booleans(),
    ),
    open=st.booleans(),
    shut=st.booleans(),
    inherited=st.booleans(),
    silent=st.booleans(),
    verified=st.booleans(),
    ended=st.lists(st.builds(Ended, st.none() | MOMENTS, st.booleans()), max_size=40).map(tuple),
    waiting=st.none() | st.integers(0, 2**32),
    limit=st.none() | st.integers(0, 2**32),
)
MEMORIES = st.builds(
    PoolMemory,
    failures=st.integers(0, 10**9),
    not_before=st.floats(0, NOW + 30),
    full_since=st.none() | MOMENTS,
    full_seen=MOMENTS,
    full_peak=st.integers(0, 2**32),
)


@given(pool=POOLS, phase=st.sampled_from(Phase), since=MOMENTS, memory=MEMORIES)
def test_every_plan_keeps_the_rules(pool: PoolView, phase: Phase, since: float, memory: PoolMemory) -> None:
    """Whatever is in the snapshot, and whatever bytes in the scoreboard: `check`; the back-off stays within 30 s."""
    snapshot = Snapshot(NOW, phase, since, (pool,))
    decision = plan(snapshot, Memory({NAME: memory}))
    check(snapshot, decision)
    assert decision.memory.of(NAME).not_before <= NOW + 30


@given(pool=POOLS, phase=st.sampled_from(Phase), since=MOMENTS, memory=MEMORIES)
def test_a_plan_depends_on_its_arguments_alone(pool: PoolView, phase: Phase, since: float, memory: PoolMemory) -> None:
    """The same snapshot and memory give the same decision."""
    snapshot = Snapshot(NOW, phase, since, (pool,))
    assert plan(snapshot, Memory({NAME: memory})) == plan(snapshot, Memory({NAME: memory}))


# whole lives

ZYGOTE_KINDS = ["ready", "blank", "unfit", "fails", "hangs", "dies", "refused", "deaf"]
WORKER_KINDS = ["good", "good", "slow", "crashes", "hangs", "lost", "stuck", "leaves"]


def _for_ever(kinds: list[str]) -> Iterator[str]:
    return itertools.chain(kinds, itertools.repeat(kinds[-1]))


@st.composite
def lives(draw: st.DrawFn) -> Simulator:
    """A pool whose processes do whatever processes do."""
    garbage = draw(st.lists(st.binary(min_size=16, max_size=16), max_size=5))
    script = Script(
        zygotes=_for_ever(draw(st.lists(st.sampled_from(ZYGOTE_KINDS), min_size=1, max_size=6))),
        workers=_for_ever(draw(st.lists(st.sampled_from(WORKER_KINDS), min_size=1, max_size=12))),
        garbage=itertools.cycle(garbage) if garbage else None,
        load=draw(st.sampled_from([0.01, 0.5, 2.9])),
        heard=itertools.cycle(draw(st.lists(st.booleans(), min_size=1, max_size=5))),
        waiting=itertools.cycle(draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))),
    )
    inherited, silent = draw(st.booleans()), draw(st.booleans())
    return Simulator(script, max_children=draw(st.integers(1, 6)), inherited=inherited, silent=silent)


@settings(max_examples=300, deadline=None)
@given(life=lives(), before=st.floats(0, 40), stop=st.sampled_from([Command.TERM, Command.QUIT, Command.INT]))
def test_a_graceful_stop_ends(life: Simulator, before: float, stop: Command) -> None:
    """Whenever it comes and whatever the processes do: within graceful_timeout and a few seconds nobody is left.

    On the way every plan keeps the rules, and the loop never spins.
    """
    life.run(before)
    life.command(stop)
    life.run(5.0 + 7.0)
    assert life.phase is Phase.ENDED
    assert (life.pool.workers, life.pool.zygote) == ({}, None)


@settings(max_examples=200, deadline=None)
@given(life=lives(), before=st.floats(0, 40), draining=st.floats(0, 6))
def test_a_second_int_ends_it_now(life: Simulator, before: float, draining: float) -> None:
    """Within a second of the second one, whoever hangs."""
    life.run(before)
    life.command(Command.INT)
    life.run(draining)
    life.command(Command.INT)
    life.run(1.5)
    assert life.phase is Phase.ENDED
    assert (life.pool.workers, life.pool.zygote) == ({}, None)


def test_a_quiet_life() -> None:
    """One zygote, a fork for each worker, each given the listener once; shut, retired, released and ended in order."""
    life = Simulator(Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good"])), max_children=3)
    life.run(30)
    life.command(Command.TERM)
    life.run(30)
    assert [type(action) for _, action in life.performed] == [
        StartZygote, Fork, Fork, Fork, OpenListener, Listen, Listen, Listen, ShutListener,
        Retire, Retire, Retire, ReleaseZygote, End,
    ]  # fmt: skip
    assert life.now < 1_000 + 30 + 1


def test_an_application_that_cannot_be_forked_is_served_all_the_same() -> None:
    """The unfit zygote is replaced by a blank one, once, and each worker loads for itself."""
    life = Simulator(Script(zygotes=_for_ever(["unfit"]), workers=_for_ever(["good"])), max_children=2)
    life.run(30)
    assert [action for _, action in life.performed if isinstance(action, StartZygote)] == [
        StartZygote(NAME, load=True),
        StartZygote(NAME, load=False),
    ]
    assert life.phase is SERVING
    assert [worker.listening for worker in life.pool.workers.values()] == [True, True]


def test_a_first_start_that_fails_ends_the_server() -> None:
    """Without a listener ever having been opened."""
    for kind in ("fails", "dies", "refused", "hangs"):
        life = Simulator(Script(zygotes=_for_ever([kind]), workers=_for_ever(["good"])))
        life.run(10)
        assert life.phase is Phase.ENDED, kind
        assert not [action for _, action in life.performed if isinstance(action, OpenListener | Fork)]


@pytest.mark.parametrize("kind", ["fails", "dies", "refused", "hangs"])
def test_a_later_start_that_fails_is_tried_again_with_patience(kind: str) -> None:
    """The server lives on; within ten minutes there are few tries, the last of them half a minute apart or less."""
    life = Simulator(Script(zygotes=_for_ever(["ready", kind]), workers=_for_ever(["good"])), max_children=2)
    life.run(10)
    life._zygote_gone(life.pool.zygote_pid)
    life.run(600)
    starts = [at for at, action in life.performed if isinstance(action, StartZygote)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert life.phase is SERVING
    assert len(starts) < 35
    assert 25 < pauses[-1] < 36
    assert [worker.listening for worker in life.pool.workers.values()] == [True, True]


def test_workers_that_crash_at_once_are_forked_with_patience() -> None:
    """All of them, all the time: the tries thin out to one round in half a minute."""
    life = Simulator(Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good", "crashes"])), max_children=4)
    life.run(600)
    rounds = sorted({at for at, action in life.performed if isinstance(action, Fork)})
    assert life.phase is SERVING
    assert len(rounds) < 35
    assert 25 < rounds[-1] - rounds[-2] <= 31


def test_a_stroke_of_the_pen_does_not_cost_half_a_minute() -> None:
    """All workers die at once, and for good reason only once: a second later they are all back."""
    life = Simulator(Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good"])), max_children=6)
    life.run(0.6)
    for worker in list(life.pool.workers.values()):
        life._worker_gone(worker.pid)
    life.run(1)
    assert [worker.listening for worker in life.pool.workers.values()] == [True] * 6


def test_a_zygote_that_stops_forking_is_replaced() -> None:
    """Its workers serve on, a new generation forks what is missing."""
    script = Script(zygotes=_for_ever(["ready", "deaf", "ready"]), workers=_for_ever(["good"]))
    life = Simulator(script, max_children=2)
    life.run(10)
    life._zygote_gone(life.pool.zygote_pid)
    life._worker_gone(next(iter(life.pool.workers.values())).pid)
    life.run(10)
    assert life.pool.generation == 3
    assert [worker.listening for worker in life.pool.workers.values()] == [True, True]


def test_retirement_meets_a_worker_that_hears_one_reminder_in_ten() -> None:
    """The repeat is the mechanism: it leaves within seconds, and is neither terminated nor killed."""
    heard = itertools.cycle([False] * 6 + [True])
    script = Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good"]), heard=heard)
    life = Simulator(script, max_children=1, inherited=True)
    life.run(10)
    life.command(Command.TERM)
    life.run(2)
    assert life.phase is Phase.ENDED
    assert sum(isinstance(action, SignalRetired) for _, action in life.performed) == 7
    assert not [action for _, action in life.performed if isinstance(action, Terminate | Kill)]
    assert life.states[0] != IDLE

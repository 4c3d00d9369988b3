"""The ladder a leaving worker goes down."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NAME, NOW, pool_of, states_of, worker_of
from prefork.policy.model import IDLE, RETIRING, RUNNING, Action, Kill, Phase, SignalRetired, Terminate
from prefork.policy.retirement import TERMINATE_TO_KILL, step_down

GRACEFUL = "graceful_timeout (25 s)"
LOADING = "stopped while loading the application"
SINCE = NOW - 10  # of the phase
LIMIT = NOW + 15  # and graceful_timeout later

REMIND, TERMINATE = SignalRetired(NAME, 0), Terminate(NAME, 0)
BUSY: dict[str, Any] = {"states": bytes([RUNNING])}

CASES: list[tuple[str, Phase, dict[str, Any], dict[str, Any], Action | None, float]] = [
    # phase, worker, pool, action, when to look again
    ("killing", Phase.KILLING, {}, {}, Kill(NAME, 0, "stopped at once"), NOW + 1),
    ("killing a loading one", Phase.KILLING, {"ready": None}, {}, Kill(NAME, 0, "stopped at once"), NOW + 1),
    ("draining a loading one", Phase.DRAINING, {"ready": None}, {}, Kill(NAME, 0, LOADING), NOW + 1),
    ("draining one that the queue waits for", Phase.DRAINING, {"ready": None}, {"waiting": 1}, None, LIMIT),
    ("retiring a loading one", Phase.SERVING, {"ready": None, "retired": NOW - 1}, {}, REMIND, NOW + 0.02),
    ("terminated", Phase.SERVING, {"retired": NOW - 30, "terminated": NOW - 0.4}, {}, None, NOW + 0.6),
    ("long terminated", Phase.SERVING, {"retired": NOW, "terminated": NOW - 1}, {}, Kill(NAME, 0, GRACEFUL), NOW + 1),
    (
        "terminated while stopped",
        Phase.SERVING,
        {"retired": NOW, "terminated": NOW - 1, "stopped": NOW - 30},
        {},
        Kill(NAME, 0, f"{GRACEFUL} while stopped (SIGSTOP)"),
        NOW + 1,
    ),
    ("retired for long", Phase.SERVING, {"retired": NOW - 25}, {}, TERMINATE, NOW + TERMINATE_TO_KILL),
    ("recycled, still at work", Phase.SERVING, {"retired": NOW - 99}, BUSY, None, NOW + 1),
    ("replaced, still at work", Phase.SERVING, {"retired": NOW - 99}, {**BUSY, "cutoff": 2}, TERMINATE, NOW + 1),
    ("stopped at work", Phase.SERVING, {"retired": NOW - 99, "stopped": NOW - 99}, BUSY, TERMINATE, NOW + 1),
    ("leaving too long", Phase.SERVING, {"retired": NOW - 99}, {"states": bytes([RETIRING])}, TERMINATE, NOW + 1),
    ("at work at a stop", Phase.DRAINING, {}, {**BUSY, "graceful_timeout": 10.0}, TERMINATE, NOW + 1),
    ("draining for long", Phase.DRAINING, {}, {"graceful_timeout": 10.0}, TERMINATE, NOW + TERMINATE_TO_KILL),
    ("draining, its listener wakes it", Phase.DRAINING, {}, {}, None, LIMIT),
    ("retired and busy", Phase.SERVING, {"retired": NOW - 5}, {"states": bytes([RUNNING])}, None, NOW + 20),
    ("retired and mad", Phase.SERVING, {"retired": NOW - 5}, {"states": bytes([255])}, None, NOW + 20),
    ("first reminder", Phase.SERVING, {"retired": NOW}, {}, REMIND, NOW + 0.02),
    ("reminded just now", Phase.SERVING, {"retired": NOW - 1, "signals": 1, "signalled": NOW}, {}, None, NOW + 0.02),
    ("reminded, due", Phase.SERVING, {"retired": NOW, "signals": 1, "signalled": NOW - 0.02}, {}, REMIND, NOW + 0.02),
    ("third reminder", Phase.SERVING, {"retired": NOW - 1, "signals": 3, "signalled": NOW}, {}, None, NOW + 0.08),
    ("hundredth", Phase.SERVING, {"retired": NOW - 5, "signals": 99, "signalled": NOW}, {}, None, NOW + 1),
    ("near the limit", Phase.SERVING, {"retired": NOW - 24.9, "signals": 9, "signalled": NOW}, {}, None, NOW + 0.1),
    ("draining and retired", Phase.DRAINING, {"retired": NOW - 50}, {}, REMIND, NOW + 0.02),
]  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "of_worker", "of_pool", "action", "again"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_each_rung(
    phase: Phase, of_worker: dict[str, Any], of_pool: dict[str, Any], action: Action | None, again: float
) -> None:
    """Reminded while it says that it is idle, terminated at graceful_timeout, killed a second later."""
    worker = worker_of(0, **of_worker)
    pool = pool_of(worker, phase=phase, phase_since=SINCE, **of_pool)
    actions, wake_at = step_down(pool, worker, NOW)
    assert list(actions) == ([] if action is None else [action])
    assert wake_at == pytest.approx(again)


@given(
    phase=st.sampled_from([Phase.SERVING, Phase.DRAINING, Phase.KILLING]),
    ready=st.none() | st.floats(0, NOW),
    retired=st.floats(0, NOW),
    signals=st.integers(0, 10**6),
    signalled=st.floats(0, NOW),
    terminated=st.none() | st.floats(0, NOW),
    state=st.integers(0, 255),
    waiting=st.integers(0, 3),
)
def test_there_is_always_a_next_look(state: int, phase: Phase, waiting: int, **facts: Any) -> None:
    """Whatever is known of a worker: at most one action, and a next look that lies ahead."""
    worker = worker_of(0, **facts)
    pool = pool_of(worker, states=bytes([state]), waiting=waiting, phase=phase, phase_since=SINCE)
    actions, wake_at = step_down(pool, worker, NOW)
    assert len(actions) <= 1
    assert NOW < wake_at <= NOW + 25


def test_the_whole_ladder_of_one_that_does_not_hear() -> None:
    """Twenty milliseconds, doubling, then once a second; SIGTERM at the limit; SIGKILL a second later."""
    now, worker = NOW, worker_of(0, retired=NOW)
    reminders, killed = [], None
    while killed is None:
        pool = pool_of(worker, graceful_timeout=5.0, states=states_of([worker], {0: IDLE}))
        actions, wake_at = step_down(pool, worker, now)
        for action in actions:
            match action:
                case SignalRetired():
                    reminders.append(now - NOW)
                    worker = worker_of(0, retired=NOW, signals=worker.signals + 1, signalled=now)
                case Terminate():
                    worker = worker_of(0, retired=NOW, terminated=now)
                case _:
                    killed = now - NOW
        now = wake_at
    assert reminders == pytest.approx([0, 0.02, 0.06, 0.14, 0.30, 0.62, 1.26, 2.26, 3.26, 4.26])
    assert killed == pytest.approx(6.0)

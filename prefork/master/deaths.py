"""What is made of a process that has ended: the bookkeeping, the cause in words, and what it ran."""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from prefork.errors import ApplicationError
from prefork.master.perform import Performer
from prefork.policy.model import IDLE, RETIRING, STOPPED_AT_ONCE, STOPPED_LOADING, SlotState, ZygoteState
from prefork.system.oom import OomWatch
from prefork.system.processes import describe_status
from prefork.system.stacks import read_page

__all__ = ["bury", "unexplained"]


_ASKED_FOR: Final = (STOPPED_AT_ONCE, STOPPED_LOADING)
_BY_ITSELF: Final = "by itself: its request_failed, log_closed or accept_failed says why, or somebody shut its listener"


def bury(hands: Performer, pid: int, status: int, now: float, oom: OomWatch | None = None) -> bool:
    """A child has been reaped; False if it was none of this pool's. ``oom`` may know who killed it."""
    reason = hands.holdings.kill_reasons.pop(pid, None)
    if not os.WIFSIGNALED(status):
        reason = None  # it ended by itself before our signal came
    generation = hands.pool.generation_of(pid)
    if generation is None and hands.pool.slot_of(pid) is None:
        return False
    why = reason
    if why is None and oom is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        why = oom.explain()
    cause = describe_status(status) + (f": {why}" if why else "")
    if generation is not None:
        _bury_zygote(hands, pid, generation, cause, reason)
    else:
        _bury_worker(hands, pid, status, cause, reason, now)
    return True


def _bury_zygote(hands: Performer, pid: int, generation: int, cause: str, reason: str | None) -> None:
    pool = hands.pool
    hands.holdings.leave_output(-generation)
    zygote = pool.zygote_ended(generation)
    channel = hands.holdings.zygotes.get(generation)
    if channel is not None:
        hands.drop(channel)
    if zygote is None or zygote.state in (ZygoteState.LEAVING, ZygoteState.FAILED) or zygote.unfit:
        return
    if zygote.state is ZygoteState.LOADING or generation == pool.coming:
        pool.fails(generation, unexplained(hands.app_name_of(generation), cause, reason, hands.holdings.stacks))
    report = hands.logger.debug if reason in _ASKED_FOR else hands.logger.warning
    report("zygote_died", pid=pid, generation=generation, cause=cause)


def _bury_worker(hands: Performer, pid: int, status: int, cause: str, reason: str | None, now: float) -> None:
    pool, holdings = hands.pool, hands.holdings
    slot = pool.slot_of(pid)
    assert slot is not None
    state, request = holdings.scoreboard.state(slot), holdings.running(slot, now)
    expected = status == 0 and (pool.shut or pool.serves_earlier(slot) or slot in holdings.timed_out)
    holdings.leave_output(slot)
    worker = pool.ended(pid, expected=expected, ours=reason is not None)
    assert worker is not None
    channel = holdings.workers.get(slot)
    if channel is not None:
        hands.drop(channel)
    zygote, page = pool.zygotes.get(worker.generation), holdings.pages.get(slot)
    failure = unexplained(
        hands.app_name_of(worker.generation), cause, reason, page, loaded=zygote is not None and zygote.loaded
    )
    holdings.free_slot(slot)
    facts: dict[str, Any] = {"slot": slot, "pid": pid, "age": round(now - worker.forked, 3)}
    if status == 0 and (expected or worker.retired is not None):
        hands.logger.debug("worker_left", **facts)
        return
    if worker.failed:
        return  # it said why
    if status == 0 and state == RETIRING and worker.listening:
        # Out of its loop, in order, after what it has told of itself: nothing was lost, and it is replaced.
        hands.logger.info("worker_left", **facts, reason=_BY_ITSELF)
        return
    if reason in _ASKED_FOR and (state == IDLE or not worker.listening):
        hands.logger.debug("worker_left", **facts)  # it had nothing in hand
        return
    if request is not None and state in (SlotState.RUNNING, SlotState.WRITING):
        facts |= {"request": f"{request.method} {request.uri}", "elapsed": round(request.seconds, 3)}
    hands.ledger.died(cause, pid=pid, slot=slot, request=facts.get("request", ""))
    hands.logger.warning("worker_died", cause=cause, **facts)
    if worker.generation == pool.coming or (worker.ready is None and pool.failure is None):
        pool.fails(worker.generation, failure)


def unexplained(
    name: str, cause: str, reason: str | None, page: int | None, *, loaded: bool = False
) -> ApplicationError:
    """The error for a process that was to serve the application ``name``, and is gone without a word.

    ``cause`` is how it ended, ``reason`` why we killed it, if we did; ``page`` is where it may have left its stack.
    ``loaded`` says that it had the application from the start: a worker, which has hooks and a canary before it.
    """
    if reason is None or not reason.startswith("boot_timeout"):
        process = "a new worker ended before it could serve" if loaded else "the process that was importing it ended"
        return ApplicationError(f"{name}: {process}: {cause}")
    if loaded:
        what = f"a new worker was not ready within {reason}: on_worker_start or the canary takes longer; mend that"
    else:
        what = f"importing it took longer than {reason}; mend the import"
    return ApplicationError(
        f"{name}: {what}, or allow more with --boot-timeout", "" if page is None else read_page(page)
    )

"""What processes below say, and what is believed of it.

Every message here comes from a process that runs the application's code, so it is read as from a stranger: a pid
counts only when the kernel named it and it is a child of ours, a kind counts only from whoever may say it, and whoever
talks too much is not listened to any longer. Nothing here raises for what was received.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from prefork.errors import ApplicationError, PreforkError
from prefork.master.holdings import Channel
from prefork.master.perform import Performer
from prefork.policy.model import KillZygote, Zygote, ZygoteState
from prefork.system import channel as wire
from prefork.system.channel import ENDED, Kind, Message
from prefork.system.processes import is_our_child

__all__ = ["hear", "hear_last_words"]

_AT_ONCE: Final = 64
"""Messages read from one channel before the others get their turn."""

_MOST_FROM_WORKER: Final = 8
"""HELLO, READY or FAILED, SPENT; the rest is forgiveness."""

_UNHEARD: Final = (
    "could not be forked, or ended before it could be heard; "
    "the limits on processes and memory are the first place to look (ulimit -a, dmesg)"
)

_MOST_TEXT: Final = 20_000


def hear(hands: Performer, channel: Channel, now: float) -> None:
    """Read what has arrived on a channel."""
    for _ in range(_AT_ONCE):
        message = wire.receive_report(channel.end)
        if message is None:
            return
        channel.heard += 1
        if message is ENDED:
            _ended(hands, channel)
            return
        if channel.slot is None:
            understood = _zygote_says(hands, channel.generation, message, now)
        else:
            understood = _worker_says(hands, channel, channel.slot, message, now)
        if not understood:
            _refuse(hands, channel, message)
            return


def hear_last_words(pools: Sequence[Performer], pid: int, now: float) -> None:
    """Read what a child has said since the channels were read, before it is reaped: why it ends, perhaps.

    A stranger may be any worker that is awaited: it may have said hello, and died.
    """
    for hands in pools:
        generation, slot = hands.pool.generation_of(pid), hands.pool.slot_of(pid)
        if generation is not None or slot is not None:
            own = hands.holdings.zygotes.get(generation or 0) if slot is None else hands.holdings.workers.get(slot)
            if own is not None:
                hear(hands, own, now)
            return
    for hands in pools:
        for awaited in hands.pool.awaited:
            if (channel := hands.holdings.workers.get(awaited)) is not None:
                hear(hands, channel, now)


def _zygote_says(hands: Performer, generation: int, message: Message, now: float) -> bool:
    pool = hands.pool
    zygote = pool.zygotes.get(generation)
    if zygote is None or message.pid != pool.zygote_pid(generation):
        return False
    match message.kind:
        case Kind.READY if zygote.state is ZygoteState.LOADING:
            _zygote_ready(hands, zygote, message.body, now)
        case Kind.FAILED if zygote.state is ZygoteState.LOADING:
            pool.zygote_failed(generation, _failure(hands, generation, message.body), now)
        case Kind.READY | Kind.FAILED if zygote.state is ZygoteState.LEAVING:
            pass  # it was given up while it said so
        case Kind.NOT_FORKED:
            # The end of the worker's channel frees the slot: the zygote has closed the other end.
            hands.logger.error("fork_failed", error=_text(message.body.get("error")))
        case _:
            return False
    return True


def _zygote_ready(hands: Performer, zygote: Zygote, body: dict[str, Any], now: float) -> None:
    seconds = now - zygote.started
    reasons = body.get("unfit")
    unfit = [_text(reason) for reason in reasons] if isinstance(reasons, list) else []
    loaded = body.get("loaded") is True
    hands.pool.zygote_ready(zygote.generation, loaded=loaded, unfit=bool(unfit), now=now)
    if unfit:
        hands.logger.warning(
            "preload_refused",
            reasons=unfit,
            import_seconds=round(seconds, 3),
            message="each worker imports the application for itself: that time at every start of one, and memory "
            "that workers could have shared (--preload always forks all the same)",
        )
    else:
        message = f"application imported in {seconds:.1f} s" if loaded else "each worker imports the application"
        hands.logger.info(
            "zygote_ready", generation=zygote.generation, loaded=loaded, seconds=round(seconds, 3), message=message
        )


def _text(value: object) -> str:
    return str(value)[:_MOST_TEXT]


def _failure(hands: Performer, generation: int, body: dict[str, Any]) -> ApplicationError:
    error = ApplicationError(_text(body.get("message")), _text(body.get("traceback")))
    if hands.pool.open and generation != hands.pool.coming:  # of a reload, or of a start: that says it
        hands.logger.error("application_failed", error=str(error), traceback=error.traceback)
    return error


def _worker_says(hands: Performer, channel: Channel, slot: int, message: Message, now: float) -> bool:
    pool = hands.pool
    worker = pool.workers.get(slot)
    if worker is None or channel.heard > _MOST_FROM_WORKER:
        return False
    if message.kind is Kind.HELLO and not worker.pid:
        known = pool.slot_of(message.pid) is not None or pool.generation_of(message.pid) is not None
        if known or not is_our_child(message.pid):
            return False
        pool.adopted(slot, message.pid)
        return True
    if not worker.pid or message.pid != worker.pid:
        return False
    if message.kind is Kind.SPENT and worker.listening and not worker.spent:
        # Of a pool without such a limit it is a worker from before the last reload, which leaves anyway.
        pool.spent(slot, f"max_requests ({hands.launch.pool.max_requests or 'of before'})")
        return True
    if worker.ready is not None:
        return False
    if message.kind is Kind.READY:
        pool.ready(slot, now)
        return True
    if message.kind is Kind.FAILED:
        pool.failed(slot, _failure(hands, worker.generation, message.body))
        return True
    return False


def _refuse(hands: Performer, channel: Channel, message: Message) -> None:
    """Stop listening to a channel. A worker that has its listener can do without it; another one ends by itself."""
    kind = message.kind.name if message.kind is not None else "malformed"
    hands.logger.warning("message_refused", slot=channel.slot, pid=message.pid, kind=kind, heard=channel.heard)
    hands.drop(channel)
    if channel.slot is None:
        # Without its channel a zygote forks nobody, and it need not notice.
        hands.perform(KillZygote(hands.pool.name, channel.generation, "not understood any more"), 0.0)
        return
    worker = hands.pool.workers.get(channel.slot)
    if worker is not None and not worker.pid:
        hands.pool.not_forked(channel.slot)
        hands.holdings.free_slot(channel.slot)


def _ended(hands: Performer, channel: Channel) -> None:
    hands.drop(channel)
    if channel.slot is None:
        return
    pool = hands.pool
    worker = pool.workers.get(channel.slot)
    if worker is not None and not worker.pid:
        # It never said hello: there is nobody to reap, only a slot to free.
        if worker.generation == pool.coming or (not pool.open and pool.failure is None):
            pool.fails(worker.generation, PreforkError(f"{pool.app_name}: a worker {_UNHEARD}"))
        pool.not_forked(channel.slot)
        hands.holdings.free_slot(channel.slot)
        hands.logger.warning("worker_not_started", slot=channel.slot, cause=f"it {_UNHEARD}")

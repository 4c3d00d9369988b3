"""What is said when a pool has too much to do: a full listen queue, every worker at work, and the end of either."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from prefork.log import Logger
from prefork.master.holdings import Holdings
from prefork.master.ledger import Ledger
from prefork.master.pool import Pool
from prefork.master.sampling import Sample, Sampler
from prefork.policy import model
from prefork.policy.culprits import Group, Places, group, others, span
from prefork.policy.saturation import describe
from prefork.system.records import BOUNDS

__all__ = ["Episodes"]

_AT_WORK: Final = (model.RUNNING, model.WRITING, model.FINISHING)

_FULL_SOCKET: Final = "connects are refused (EAGAIN; nginx: 11: Resource temporarily unavailable)"
_FULL_PORT: Final = "connects are not answered: clients try again after a second (nginx: upstream timed out)"


_APART: Final = 0.15
"""Seconds between two looks at the workers: whoever stands still for so long, stands."""

_BETWEEN_NOTES: Final = 0.5
"""Seconds between two looks at who had waited: a queue may fill and empty often."""

_NEVER: Final = float("inf")


@dataclass(slots=True)
class _Episode:
    """One that lasts."""

    begun: model.Saturated
    began: float  # Unix time
    record: dict[str, Any]  # in the ledger
    waited: tuple[int, ...]  # how many requests had waited how long by then (`BOUNDS`)
    told: bool = False
    first: Sample | None = None  # of two, while the second is awaited
    look_at: float = _NEVER  # when that is due
    groups: list[Group] = field(default_factory=list)  # of the look that found most workers in one place
    waits: list[float] = field(default_factory=list)  # the shortest and the longest that was seen of a request
    waiting: bool = True  # when it was looked last
    note_at: float = 0.0  # the earliest time to look again how long those had waited that left the queue


class Episodes:
    """The reporter of one pool."""

    def __init__(
        self,
        pool: Pool,
        holdings: Holdings,
        ledger: Ledger,
        logger: Logger,
        sampler: Sampler,
        places: Callable[[], Places],
    ) -> None:
        self._pool = pool
        self._holdings = holdings
        self._ledger = ledger
        self._logger = logger
        self._sampler = sampler
        self._places = places
        self._episode: _Episode | None = None
        self._full_since: float | None = None  # monotonic; None: the queue is not full

    def queue_full(self, action: model.QueueFull, now: float) -> None:
        """The listen queue is full: by whom, as far as the workers say."""
        holdings = self._holdings
        listening = [worker for worker in self._pool.workers.values() if worker.listening]
        busy = [w for w in listening if holdings.scoreboard.state(w.slot) != model.IDLE]
        # In any other state the slot still shows the request before.
        at_work = [w for w in busy if holdings.scoreboard.state(w.slot) in _AT_WORK]
        running = [holdings.running(worker.slot, now) for worker in at_work]
        self._ledger.queue_full += 1
        self._full_since = now
        self._logger.warning(
            "queue_full",
            waiting=action.waiting,
            limit=action.limit,
            busy=len(busy),
            workers=len(listening),
            running=describe([request for request in running if request is not None]),
            message=_FULL_PORT if holdings.listener.is_tcp else _FULL_SOCKET,
        )

    def queue_ended(self, action: model.QueueEnded, _now: float) -> None:
        """It has room again."""
        self._ledger.queue_ended(action.full_for)
        self._full_since = None
        self._logger.warning(
            "queue_full_ended",
            full_for=round(action.full_for, 3),
            peak=action.peak,
            limit=action.limit,
            message=f"the queue was full for at least {action.full_for:.1f} s",
        )

    def saturated(self, action: model.Saturated, now: float) -> None:
        """Connections wait though max_children workers are at work: look twice where these stand, then report it."""
        self._pool.ceilings += 1
        began = time.time() - (now - action.since)
        self._ledger.saturations += 1
        self._ledger.saturated_since = began
        if action.quiet:
            return
        record = self._ledger.episode(began, action.peak, action.limit)
        self._episode = _Episode(action, began, record, self._holdings.scoreboard.totals().waited)
        self._look(self._episode, now)

    def sample_stacks(self, action: model.SampleStacks, now: float) -> None:
        """It lasts: the picture may have changed."""
        episode = self._episode
        if episode is not None:
            episode.record["peak"], episode.record["full_seconds"] = action.peak, round(action.full_for, 3)
            self._look(episode, now)

    def saturation_ended(self, action: model.SaturationEnded, _now: float) -> None:
        """They are enough again."""
        self._ledger.saturated_since = None
        episode, self._episode = self._episode, None
        if episode is None or action.quiet:
            return
        self._note_waits(episode)
        if not episode.told:
            if episode.first is not None:
                self._picture(episode, None, episode.first)
            self._report(episode, episode.first)
        record = episode.record
        record["seconds"], record["peak"] = round(action.lasted, 3), action.peak
        record["full_seconds"] = round(action.full_for, 3)
        message = f"connections waited for {action.lasted:.1f} s, at most {action.peak} at once"
        if action.full_for:
            message += f"; the queue was full for at least {action.full_for:.1f} s"
        self._logger.warning(
            "saturation_ended",
            max_children=action.max_children,
            peak=action.peak,
            limit=action.limit,
            lasted=record["seconds"],
            full_for=record["full_seconds"],
            workers=record["workers"],
            groups=_texts(episode.groups, record["workers"]),
            **_waited(record),
            message=message,
        )

    def tend(self, now: float) -> float:
        """Go on with what was begun; returns when to look again."""
        pool, episode = self._pool, self._episode
        if self._full_since is not None and (pool.waiting or 0) > (pool.limit or 0):
            self._ledger.queue_full_for = now - self._full_since
        if episode is not None:
            self._watch_queue(episode, now)
            if episode.first is not None and now >= episode.look_at:
                episode.look_at = _NEVER
                self._sampler.take(partial(self._seen_again, episode), now)
        return min(self._sampler.tend(now), _NEVER if episode is None else episode.look_at)

    def _look(self, episode: _Episode, now: float) -> None:
        if episode.first is None:
            self._sampler.take(partial(self._seen, episode, now), now)

    def _seen(self, episode: _Episode, asked: float, sample: Sample, now: float) -> None:
        episode.first = sample
        episode.look_at = max(now, asked + _APART)

    def _seen_again(self, episode: _Episode, sample: Sample, _now: float) -> None:
        if episode is not self._episode:
            return  # it is over
        first, episode.first = episode.first, None
        self._picture(episode, first, sample)
        self._note_waits(episode)
        if not episode.told:
            self._report(episode, sample)

    def _picture(self, episode: _Episode, first: Sample | None, second: Sample) -> None:
        """Remember where the workers stood, if more of them than ever before stood in one place."""
        places = self._places()
        groups = group({} if first is None else first.sightings(places), second.sightings(places), places)
        if groups and (not episode.groups or _rank(groups) >= _rank(episode.groups)):
            episode.groups = groups
            episode.record["workers"] = sum(each.count for each in groups)
            episode.record["groups"] = [_values(each) for each in others(groups)[0]]

    def _watch_queue(self, episode: _Episode, now: float) -> None:
        """When it empties, the workers have those who had waited longest: for as long as they run."""
        before, episode.waiting = episode.waiting, bool(self._pool.waiting)
        if before and not episode.waiting and now >= episode.note_at:
            episode.note_at = now + _BETWEEN_NOTES
            self._note_waits(episode)

    def _note_waits(self, episode: _Episode) -> None:
        """How long requests that were begun meanwhile had waited, as far as the proxy stamps them.

        What workers run is exact. Those who are gone by now are in the account, which knows of each within bounds.
        """
        for slot in self._pool.workers:
            said = self._holdings.scoreboard.read(slot)
            if said.waited is not None and said.started >= episode.begun.since:
                episode.waits = [min([said.waited, *episode.waits]), max([said.waited, *episode.waits])]
        counts = zip(self._holdings.scoreboard.totals().waited, episode.waited, strict=True)
        counted = [bucket for bucket, (after, before) in enumerate(counts) if after > before]
        if counted and (not episode.waits or counted[-1] > bisect_left(BOUNDS, episode.waits[1])):
            over = counted[-1] == len(BOUNDS)
            episode.record["waited"] = f"over {BOUNDS[-1]:g} s" if over else f"up to {BOUNDS[counted[-1]]:g} s"
        elif episode.waits:
            episode.record["waited"] = span(episode.waits)

    def _report(self, episode: _Episode, sample: Sample | None) -> None:
        episode.told = True
        begun, record = episode.begun, episode.record
        extra: dict[str, Any] = {}
        if sample is not None:
            extra |= {"workers": sample.workers, "busy": sample.busy}
        if begun.untold:
            extra["untold"] = begun.untold
        self._logger.warning(
            "saturated",
            waiting=begun.waiting,
            limit=begun.limit,
            peak=max(begun.peak, self._pool.waiting or 0),
            max_children=begun.max_children,
            since=datetime.fromtimestamp(episode.began, tz=UTC).isoformat(timespec="milliseconds"),
            **extra,
            groups=_texts(episode.groups, record["workers"]),
            **_waited(record),
            message="every worker is busy and connections wait",
        )


def _texts(groups: Sequence[Group], workers: int) -> list[str]:
    """The groups for people, the one that holds most workers first."""
    told, rest = others(groups)
    return [*(each.text(workers) for each in told), *([f"{rest} other{'s' if rest != 1 else ''}"] if rest else [])]


def _rank(groups: Sequence[Group]) -> tuple[bool, int]:
    return groups[0].known, groups[0].count


def _waited(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"waited": record["waited"]} if record["waited"] else {}


def _values(each: Group) -> dict[str, Any]:
    return {"count": each.count, "where": each.where, "span": each.span, "example": each.example}

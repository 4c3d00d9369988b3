"""What is done about requests that take too long, once that is decided (`prefork.policy.deadlines`).

A slow one is reported with its stack. One that must stop is told so through the control page. One that is ended is
looked at for the last time, and its worker is killed, unless it has come to an end in that very moment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from prefork.log import Logger
from prefork.master.holdings import Holdings
from prefork.master.ledger import Ledger
from prefork.master.pool import Pool
from prefork.master.stacks import Stacks
from prefork.policy.culprits import Places, stack_text
from prefork.policy.model import DumpStack, Kill, SlowUnseen, TimeOut
from prefork.policy.saturation import RunningRequest
from prefork.system.processes import LOOK_SIGNAL
from prefork.system.stacks import Stack

__all__ = ["Overtime"]

_NOT_THE_APPLICATION: Final = "no Python code of the application runs: most likely it waits for its client"


class Overtime:
    """The requests of one pool that take too long."""

    def __init__(
        self,
        pool: Pool,
        holdings: Holdings,
        ledger: Ledger,
        logger: Logger,
        signal: Callable[[int, int], None],
        places: Callable[[], Places],
    ) -> None:
        self._slow_logger = logger
        self.stacks = Stacks(pool, holdings, signal)
        self._pool = pool
        self._holdings = holdings
        self._ledger = ledger
        self._logger = logger
        self._signal = signal  # pid, number
        self._places = places
        self._last: dict[int, tuple[int, Stack | None]] = {}  # by slot: the request's number and its last stack

    def report_to(self, slowlog: Logger | None) -> None:
        """Where slow requests are reported from now on; None: the error log."""
        self._slow_logger = self._logger if slowlog is None else slowlog

    def dump_stack(self, action: DumpStack, now: float) -> None:
        """Find out where a worker stands."""
        slot, number = action.slot, action.number
        request = self._running(slot, number, now)
        if request is None:
            return
        if action.last:
            self._last[slot] = (number, None)
            self.stacks.request(slot, partial(self._keep, slot, number), now)
        else:
            self._ledger.slow += 1
            self.stacks.request(slot, partial(self._report, self._facts(slot, number, request)), now)

    def time_out(self, action: TimeOut, now: float) -> None:
        """Tell the application to stop."""
        if self._running(action.slot, action.number, now) is not None:
            self._holdings.timed_out.add(action.slot)
            self._holdings.control.time_out(action.slot, action.number)
            self._signal(self._pool.pid_in(action.slot), LOOK_SIGNAL)

    def slow_unseen(self, action: SlowUnseen, _now: float) -> None:
        """Report how many slow requests were not looked at."""
        self._ledger.slow += action.count
        self._slow_logger.warning(
            "requests_slow", count=action.count, message="more requests were slow at once than stacks are looked at"
        )

    def ends(self, action: Kill, now: float) -> bool:
        """Whether the request that a worker shall be killed for still runs; if so, it is reported."""
        request = self._running(action.slot, action.number, now)
        number, stack = self._last.pop(action.slot, (0, None))
        if request is None:
            return False
        facts = self._facts(action.slot, action.number, request)
        self._ledger.terminated += 1
        self._logger.error(
            "request_terminated",
            **facts,
            reason=action.reason,
            **self._shown(stack if number == action.number else None),
        )
        return True

    def _running(self, slot: int, number: int, now: float) -> RunningRequest | None:
        if not self._holdings.runs(slot, number):
            return None
        return self._holdings.running(slot, now) or RunningRequest("?", "?", 0.0)  # it lies about its start

    def _facts(self, slot: int, number: int, request: RunningRequest) -> dict[str, Any]:
        return {
            "method": request.method,
            "uri": request.uri,
            "elapsed": round(request.seconds, 3),
            "slot": slot,
            "pid": self._pool.pid_in(slot),
            "request": number,
        }

    def _keep(self, slot: int, number: int, stack: Stack | None) -> None:
        if slot in self._last:
            self._last[slot] = (number, stack)

    def _report(self, facts: dict[str, Any], stack: Stack | None) -> None:
        # Where it stands with something else by now says nothing about this one.
        if stack is not None and not stack.forced and stack.number != facts["request"]:
            stack = None
        if stack is not None and stack.request_id:
            facts["request_id"] = stack.request_id
        shown = self._shown(stack)
        self._slow_logger.warning("request_slow", **facts, **shown)
        self._ledger.was_slow(facts, shown["stack"])

    def _shown(self, stack: Stack | None) -> dict[str, Any]:
        """A stack as fields of an event."""
        if stack is None:
            return {"stack": ""}
        if not stack.frames:
            return {"stack": "", "message": _NOT_THE_APPLICATION}
        return {"stack": stack_text(stack.frames, self._places()), **({"forced": True} if stack.forced else {})}

"""Taps: who looks at the traffic of which pool.

The traffic never comes here. The client gets the reading end of the pool's pair, the workers write into the other, and
all that the master does is to tell the workers so, and to take that back as soon as the client's connection ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from prefork.errors import ProtocolError
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.system.control import Wish, encode_answer
from prefork.system.tap import BODIES, ON, UNMASKED, lend

__all__ = ["Taps"]


@dataclass(frozen=True, slots=True)
class _Loan:
    hands: Performer
    pid: int
    uid: int
    since: float


class Taps:
    """All taps of a server, by the clients that have them."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._loans: dict[Hashable, _Loan] = {}

    def __len__(self) -> int:
        return len(self._loans)

    def begin(
        self, client: Hashable, wish: Wish, end: socket.socket, now: float, *, peer_pid: int, peer_uid: int
    ) -> None:
        """Answer a client by what it wishes to have. Raises `ProtocolError`."""
        hands = self._choose(wish.pool)
        name, holdings = hands.pool.name, hands.holdings
        other = next((loan for loan in self._loans.values() if loan.hands is hands), None)
        if other is not None:
            raise ProtocolError(f"pool {name} is tapped by pid {other.pid} (uid {other.uid}) already: one at a time")
        if holdings.tap.is_broken:
            raise ProtocolError(f"a process of pool {name} has shut down the way that a tap goes: a reload mends it")
        holdings.tap.empty()
        # First: a client that knows of its tap would miss what is asked before the workers know.
        holdings.control.tap(ON | (BODIES if wish.bodies else 0) | (UNMASKED if wish.unmasked else 0))
        answer: dict[str, Any] = {"ok": True, "pid": os.getpid(), "pool": name, "socket": str(holdings.listener)}
        try:
            lend(end, encode_answer(answer)[0], holdings.tap.reading)
        except OSError as problem:
            holdings.control.tap(0)
            raise ProtocolError(f"the descriptor could not be handed over: {problem.strerror}") from None
        self._loans[client] = _Loan(hands, peer_pid, peer_uid, now)
        report = hands.logger.warning if wish.unmasked else hands.logger.info
        report("tap_begun", peer_pid=peer_pid, peer_uid=peer_uid, bodies=wish.bodies, unmasked=wish.unmasked)

    def end(self, client: Hashable, now: float) -> None:
        """A client has gone, or has to; of no meaning for one that has no tap."""
        loan = self._loans.pop(client, None)
        if loan is None:
            return
        if loan.hands in self._master.pools:  # else its pages are closed
            loan.hands.holdings.control.tap(0)
            loan.hands.holdings.tap.empty()
        self._report_end(loan, now)

    def close(self, now: float) -> None:
        """The end: no worker is left."""
        for loan in self._loans.values():
            self._report_end(loan, now)
        self._loans.clear()

    @staticmethod
    def _report_end(loan: _Loan, now: float) -> None:
        hands = loan.hands
        seconds = round(now - loan.since, 3)
        hands.logger.info("tap_ended", peer_pid=loan.pid, peer_uid=loan.uid, seconds=seconds)

    def lapsed(self) -> list[Hashable]:
        """Clients of pools that are no more."""
        if not self._loans:
            return []
        pools = self._master.pools
        return [client for client, loan in self._loans.items() if loan.hands not in pools]

    def _choose(self, name: str | None) -> Performer:
        pools = [hands for hands in self._master.pools if not hands.launch.pool.internal or hands.pool.name == name]
        if name is not None:
            pools = [hands for hands in pools if hands.pool.name == name]
        if len(pools) != 1:
            known = ", ".join(hands.pool.name for hands in self._master.pools)
            raise ProtocolError(f"expected the name of one pool, of {known}; found {name!r}")
        return pools[0]

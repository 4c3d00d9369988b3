"""The listen queues of a master's pools, as the kernel tells; where it does not tell, that is said once a pool.

Nothing takes the place of the kernel's word: a queue whose length is unknown is shown as unknown, and what its length
decides (saturation, clients that left) is not decided.
"""

from __future__ import annotations

from typing import Final

from prefork.master.perform import Performer
from prefork.system.sockdiag import QueueReading, SocketDiagnosis

__all__ = ["Queues"]

_PATIENCE: Final = 3  # misses in a row: one alone may be a kernel that was late
_MESSAGE: Final = (
    "the status shows its length as unknown, and saturation cannot be seen; the kernel tells it over netlink "
    "(sock_diag(7)): see that no sandbox forbids socket(AF_NETLINK), that the module unix_diag can be loaded, and that "
    "a socket that was passed is of our own network namespace"
)


class Queues:
    """One way to ask, for all pools."""

    def __init__(self) -> None:
        self.diagnosis = SocketDiagnosis()
        self._misses: dict[str, int] = {}  # by pool, in a row; once it was said: so many, for ever

    def read(self, hands: Performer) -> QueueReading | None:
        """The queue of a pool whose listener is open; None: unknown."""
        name = hands.pool.name
        reading = hands.holdings.listener.queue(self.diagnosis)
        misses = self._misses.get(name, 0)
        if misses < _PATIENCE:
            self._misses[name] = misses + 1 if reading is None else 0
            if self._misses[name] == _PATIENCE:
                socket = str(hands.holdings.listener)
                hands.logger.warning("queue_unknown", socket=socket, reason=self.diagnosis.problem, message=_MESSAGE)
        return reading

    def close(self) -> None:
        """No more questions."""
        self.diagnosis.close()

"""Clients that ask without pause while something happens to the server, and remember all that went wrong.

Unlike a benchmark they are gentle, a few milliseconds between two requests of one client, since they stand for load and
are not to make it: whatever is refused, reset, cut short or answered wrongly is kept, with the moment it happened.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

from harness.processes import PATIENCE, wait_until

__all__ = ["Crowd"]

_PAUSE = 0.005
_AFTER_LOSS = 0.2


class Crowd:
    """``ask`` is called by each client again and again, with a number that grows; what it returns is counted.

    An exception of it, an assertion included, is a lost request. As a context manager the clients run inside the block.
    """

    def __init__(self, ask: Callable[[int], str], clients: int = 8) -> None:
        self.lost: list[str] = []
        self.answers: Counter[str] = Counter()
        self._ask = ask
        self._over = threading.Event()
        self._changed = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _run(self, number: int) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                answer = self._ask(number)
            except Exception as problem:  # noqa: BLE001 - each of them is what is looked for
                with self._changed:
                    self.lost.append(
                        f"{number} after {time.monotonic() - begun:.3f} s: {type(problem).__name__} {problem}"
                    )
                self._over.wait(_AFTER_LOSS)
            else:
                with self._changed:
                    self.answers[answer] += 1
            number += len(self._threads)
            self._over.wait(_PAUSE)

    @property
    def answered(self) -> int:
        """How many requests were answered so far."""
        with self._changed:
            return self.answers.total()

    def wait(self, more: int, answer: str = "") -> None:
        """Until that many more requests were answered, with that answer if one is given."""

        def count() -> int:
            with self._changed:
                return self.answers[answer] if answer else self.answers.total()

        before = count()
        wait_until(lambda: count() >= before + more or self.lost, what=f"{more} more answers {answer}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let everybody have the answer that they wait for, and ask no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "a client waits for an answer that does not come"

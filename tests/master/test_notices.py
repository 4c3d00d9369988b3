"""What a service manager hears from a server, with a master that the test plays and a clock that it moves."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from master.hands import NOW, Hands, Recorder, hands_of
from prefork.master.notices import Notices
from prefork.master.reload import Outcome
from prefork.policy.model import IDLE, RUNNING, Phase
from prefork.system.notify import Notifier

READY = f"READY=1\nMAINPID={os.getpid()}"


class House:
    """A server, its notices, and a manager that hears them."""

    def __init__(self, folder: Path, pools: tuple[Hands, ...], watchdog: float | None) -> None:
        self.path = str(folder / "notify")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(self.path)
        self.manager.setblocking(False)
        self.notifier = Notifier(self.path, watchdog)
        self.log = Recorder()
        self.pools = pools
        self.phase = Phase.BOOTING
        self.now = NOW
        self._phases: list[Callable[[Phase], None]] = []
        self._beats: list[Callable[[float], float | None]] = []
        self.notices = Notices(self, self.notifier, self.log)  # type: ignore[arg-type]

    def at_phase(self, call: Callable[[Phase], None]) -> None:
        self._phases.append(call)

    def at_beat(self, call: Callable[[float], float | None]) -> None:
        self._beats.append(call)

    def enter(self, phase: Phase) -> list[str]:
        """Move on; what is heard of it at once."""
        self.phase = phase
        for call in self._phases:
            call(phase)
        return self.heard()

    def beat(self, later: float = 0.0) -> list[str]:
        """One beat, some seconds later; what is heard of it."""
        self.now += later
        (self.due,) = [beat(self.now) for beat in self._beats]
        return self.heard()

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.manager.recv(65_536).decode())
            except BlockingIOError:
                return messages

    def busy(self, *states: int) -> None:
        """So many workers in the first pool, and what they do."""
        hands = self.pools[0]
        for slot, state in enumerate(states):
            if slot not in hands.pool.workers:
                hands.pool.forked(slot, 1, NOW)
            hands.holdings.scoreboard.set_state(slot, state)


@contextmanager
def house(folder: Path, *, pools: int = 1, watchdog: float | None = None) -> Iterator[House]:
    with ExitStack() as stack:
        hands = tuple(stack.enter_context(hands_of()) for _ in range(pools))
        found = House(folder, hands, watchdog)
        stack.enter_context(found.manager)
        yield found
        found.notifier.close()


def test_a_life(folder: Path) -> None:
    """Ready when it serves and not before, stopping once it has begun to."""
    with house(folder) as server:
        assert server.beat() == ["STATUS=loading app:application", "EXTEND_TIMEOUT_USEC=30000000"]
        assert server.enter(Phase.SERVING) == [READY]
        server.busy(IDLE, RUNNING)
        assert server.beat() == ["STATUS=2 workers: 1 busy, 1 idle"]
        assert server.enter(Phase.DRAINING) == ["STOPPING=1"]
        assert server.beat() == ["STATUS=stopping; 2 workers left", "EXTEND_TIMEOUT_USEC=30000000"]
        assert server.enter(Phase.ENDED) == ["STATUS=stopped"]


def test_a_reload_is_over_when_whoever_asked_is_told(folder: Path) -> None:
    """Not when the new code is there, which is a moment earlier; the next start of a phase says nothing of it."""
    with house(folder) as server:
        server.enter(Phase.SERVING)
        server.busy(IDLE)
        server.beat()
        told: list[Outcome] = []
        answer = server.notices.reload(told.append)
        (reloading,) = server.heard()
        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert server.enter(Phase.RELOADING) == []
        assert server.beat() == ["STATUS=reloading; 1 worker: 0 busy, 1 idle"]
        assert server.enter(Phase.SERVING) == []
        answer(Outcome())
        assert (server.heard(), told) == ([READY], [Outcome()])
        assert server.beat(3.0) == ["STATUS=1 worker: 0 busy, 1 idle"]


def test_a_reload_ordered_before_the_start_is_over_does_not_delay_it(folder: Path) -> None:
    """Ready first, and then again."""
    with house(folder) as server:
        answer = server.notices.reload(lambda _outcome: None)
        server.heard()
        ready, reloading = server.enter(Phase.SERVING)
        assert (ready, reloading.partition("\n")[0]) == (READY, "RELOADING=1")
        server.enter(Phase.RELOADING)
        server.enter(Phase.SERVING)
        answer(Outcome())
        assert server.heard() == [READY]


def test_a_reload_that_fails_is_over_as_well(folder: Path) -> None:
    """The status says why, until one succeeds; of two that wait the last one ends it."""
    with house(folder) as server:
        server.enter(Phase.SERVING)
        server.beat()
        first, second = (server.notices.reload(lambda _outcome: None) for _ in range(2))
        server.heard()
        first(Outcome("no such\nmodule"))
        assert server.heard() == []
        second(Outcome("no such\nmodule"))
        assert server.heard() == [READY]
        assert server.beat(3.0) == ["STATUS=0 workers: 0 busy, 0 idle; the last reload failed: no such module"]
        server.notices.reload(lambda _outcome: None)(Outcome())
        server.heard()
        assert server.beat(3.0) == ["STATUS=0 workers: 0 busy, 0 idle"]


def test_a_stop_goes_before_a_reload(folder: Path) -> None:
    """Whoever asked is told, and systemd does not take the server for ready again."""
    with house(folder) as server:
        server.enter(Phase.SERVING)
        answer = server.notices.reload(lambda _outcome: None)
        server.heard()
        assert server.enter(Phase.DRAINING) == ["STOPPING=1"]
        answer(Outcome("the server is being stopped"))
        assert server.heard() == []


@pytest.mark.parametrize("phase", [Phase.BOOTING, Phase.DRAINING])
def test_time_is_asked_for_while_it_starts_or_stops(folder: Path, phase: Phase) -> None:
    """Again and again, since its own limits may be longer than the manager's; never while it serves."""
    with house(folder) as server:
        server.enter(phase)
        asked = [any("EXTEND" in word for word in server.beat(1.0)) for _ in range(21)]
        assert [place for place, did in enumerate(asked) if did] == [0, 10, 20]
        server.enter(Phase.SERVING)
        assert not any("EXTEND" in word for _ in range(20) for word in server.beat(1.0))


def test_the_status_is_kept_current_and_not_repeated(folder: Path) -> None:
    """At most every three seconds, and only what is new."""
    with house(folder) as server:
        server.enter(Phase.SERVING)
        server.busy(IDLE)
        server.pools[0].pool.waiting = 7
        assert server.beat() == ["STATUS=1 worker: 0 busy, 1 idle, 7 waiting"]
        server.busy(RUNNING)
        assert server.beat(2.9) == []
        assert server.beat(0.1) == ["STATUS=1 worker: 1 busy, 0 idle, 7 waiting"]
        assert [server.beat(10.0) for _ in range(5)] == [[]] * 5


def test_each_pool_has_its_part_of_the_status(folder: Path) -> None:
    """By name."""
    with house(folder, pools=2) as server:
        server.pools[1].pool.name = "api"
        server.enter(Phase.SERVING)
        server.busy(IDLE, IDLE)
        assert server.beat() == ["STATUS=www: 2 workers: 0 busy, 2 idle; api: 0 workers: 0 busy, 0 idle"]


def test_the_status_is_that_of_the_applications(folder: Path) -> None:
    """A pool of our own, which shows the pages, has no part in it, but is one more to wait for at the end."""
    with house(folder, pools=2) as server:
        pages = server.pools[1]
        pages.launch = replace(pages.launch, pool=replace(pages.launch.pool, internal=True))
        pages.pool.forked(0, 1, NOW)
        assert server.beat()[0] == "STATUS=loading app:application"
        server.enter(Phase.SERVING)
        server.busy(IDLE)
        assert server.beat() == ["STATUS=1 worker: 0 busy, 1 idle"]
        server.enter(Phase.DRAINING)
        assert server.beat()[0] == "STATUS=stopping; 2 workers left"


def test_signs_of_life_come_at_half_of_the_time(folder: Path) -> None:
    """However often the loop turns; the loop learns when it is wanted next."""
    with house(folder, watchdog=3.0) as server:
        server.enter(Phase.SERVING)
        assert "WATCHDOG=1" in server.beat()
        assert server.due == NOW + 1.5
        assert server.beat(1.4) == []
        assert server.due == NOW + 1.5
        assert server.beat(0.1) == ["WATCHDOG=1"]
        assert server.due == NOW + 3.0


def test_who_is_not_watched_is_not_wanted_before_the_next_beat(folder: Path) -> None:
    """The loop's own rhythm is enough."""
    with house(folder) as server:
        assert "WATCHDOG=1" not in server.beat()
        assert server.due is None


def test_a_manager_that_is_away_is_told_of_when_it_is_back(folder: Path) -> None:
    """One warning an absence; what was to be known of the state is said late."""
    with house(folder) as server:
        os.rename(server.path, server.path + "-away")
        assert server.enter(Phase.SERVING) == []
        server.beat()
        server.beat(1.0)
        ((level, name, facts),) = server.log.events
        assert (level, name, facts["error"]) == ("warning", "manager_not_told", "No such file or directory")
        os.rename(server.path + "-away", server.path)
        assert server.beat(2.0) == [READY, "STATUS=0 workers: 0 busy, 0 idle"]
        server.beat(1.0)
        assert len(server.log.events) == 1

"""Reloads, step by step, with a loop that the test turns and a policy that it plays."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apart import living
from master.hands import Hands, Recorder, hands_of
from master.test_control import Loop
from prefork.config.model import Config, PoolConfig
from prefork.errors import ApplicationError, ConfigurationError, PreforkError
from prefork.master.launch import Launch
from prefork.master.logs import Logs
from prefork.master.reload import Outcome, Reloads
from prefork.policy import lifecycle
from prefork.policy.lifecycle import Command
from prefork.policy.model import FINISHING, IDLE, RUNNING, Phase
from prefork.system import abstract, probe
from prefork.system.listener import Listener, parse_address


class Master(Loop):
    """A loop that knows phases, signals and who carries reloads out."""

    def __init__(self, *pools: Hands) -> None:
        super().__init__(*pools)
        self.pools: list[Hands] = list(pools)  # type: ignore[assignment]
        self.signals: dict[int, Callable[[float], None]] = {}
        self._at_phase: list[Callable[[Phase], None]] = []

    def entrust(self, reloads: Reloads) -> None:
        self.reloads = reloads

    def at_phase(self, call: Callable[[Phase], None]) -> None:
        self._at_phase.append(call)

    def at_signal(self, number: int, call: Callable[[float], None]) -> None:
        self.signals[number] = call

    def add(self, hands: Hands) -> None:
        self.pools.append(hands)

    def order(self, command: Command, **source: Any) -> None:
        super().order(command, **source)
        phase = lifecycle.step(self.phase, command)
        if phase is not self.phase:
            self.phase = phase
            for call in self._at_phase:
                call(phase)

    def after(self, seconds: float) -> None:
        """One round, so much later."""
        self.now += seconds
        self.turn(1)


class Assembly:
    """Finds nothing wrong, and makes launches that start nobody."""

    def identity(self, _pool: PoolConfig) -> None:
        return None

    def bulletin_for(self, _pool: PoolConfig) -> None:
        return None

    def launch(self, config: Config, pool: PoolConfig, _identity: None) -> Launch:
        return Launch(config, pool, None, "/", "/", (1024, 1024), lambda _gifts, _app: None)


class Scene:
    """One pool that serves with one worker, and whoever asks for reloads."""

    def __init__(self, folder: Path, hands: Hands, listener: Listener) -> None:
        self.hands = hands
        hands.holdings.listener.close()
        hands.holdings.listener = listener
        config = replace(hands.launch.pool, socket=listener.address.text, app="one:app")
        hands.launch = replace(hands.launch, pool=config)
        self.config = Config(pools=(config,))
        self.next: Config | PreforkError = self.config
        self.master = Master(hands)
        self.log = Recorder()
        self.logs = Logs(Config(pools=(), error_log=str(folder / "log")))
        self.outcomes: list[Outcome] = []
        self.reloads = Reloads(
            self.master,  # type: ignore[arg-type]
            Assembly(),  # type: ignore[arg-type]
            self.config,
            self._again,
            self.logs,
            self.log,  # type: ignore[arg-type]
        )
        hands.pool.zygote_started(1, 0.0)
        hands.pool.zygote_ready(1, loaded=True, unfit=False, now=0.0)
        hands.pool.open = True
        self.worker(0, 1)

    def _again(self) -> Config:
        if isinstance(self.next, PreforkError):
            raise self.next
        return self.next

    def worker(self, slot: int, generation: int, *, listener: bool = True) -> None:
        """A worker that is ready."""
        self.hands.pool.forked(slot, generation, 0.0)
        self.hands.pool.ready(slot, 0.0)
        if listener:
            self.hands.pool.listening(slot)
        self.hands.holdings.scoreboard.set_state(slot, IDLE)

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            self.reloads.order(self.outcomes.append, cause="reload", peer_pid=7)

    def bring(self, slot: int) -> None:
        """What the policy would have done: a zygote of the next generation, and its worker."""
        pool = self.hands.pool
        generation = pool.zygote_started(2, self.master.now, coming=True)
        pool.zygote_ready(generation, loaded=True, unfit=False, now=self.master.now)
        self.worker(slot, generation, listener=False)

    def names(self) -> list[str]:
        return self.log.names()


@pytest.fixture
def scene(folder: Path) -> Iterator[Scene]:
    with scene_in(folder) as found:
        yield found


@contextmanager
def scene_in(folder: Path) -> Iterator[Scene]:
    listener = Listener.claim(parse_address(str(folder / "a.sock")), mode=0o600)
    listener.open()
    with hands_of() as hands:
        # Nobody is to be signalled: the pids are made up.
        hands._send_signal = lambda *_: None  # type: ignore[method-assign]
        scene = Scene(folder, hands, listener)
        try:
            yield scene
        finally:
            hands.holdings.listener.shut()
            scene.logs.close()


def test_a_reload_from_the_order_to_its_answer(scene: Scene) -> None:
    """It begins in the next round; it is committed; it is answered when the old worker is silent for certain."""
    scene.ask()
    assert (scene.names(), scene.master.ordered) == (["reload_ordered"], [])
    scene.master.after(0)
    assert (scene.names()[1:], scene.master.phase) == (["reloading"], Phase.RELOADING)
    assert scene.log.events[1][2] == {}  # nothing but the code
    assert scene.hands.pool.reloads
    scene.bring(1)
    scene.reloads.commit(scene.master.now)
    assert (scene.master.phase, scene.hands.pool.current, scene.hands.pool.cutoff) == (Phase.SERVING, 2, 2)
    scene.master.after(1)
    assert scene.outcomes == []  # nobody has asked the old worker to leave
    scene.hands.pool.retired(0, scene.master.now)
    scene.master.after(1)
    assert scene.outcomes == []  # it still waits for connections
    scene.hands.holdings.scoreboard.set_state(0, RUNNING)
    scene.master.after(1)
    assert scene.outcomes == []  # only now all that can be seen is good, and a moment has to pass
    scene.master.after(0.0005)
    assert scene.outcomes == []
    scene.master.after(0.0015)
    assert scene.outcomes == [Outcome(seconds=3.002, generations={"www": 2})]
    assert scene.log.events[-1] == ("info", "reloaded", {"generations": {"www": 2}, "seconds": 3.002})


def test_a_worker_whose_peer_may_go_on_is_waited_for(scene: Scene) -> None:
    """As long as it listens to that peer after it was asked to leave."""
    scene.ask()
    scene.master.after(0)
    scene.bring(1)
    scene.reloads.commit(scene.master.now)
    scene.hands.pool.retired(0, scene.master.now)
    scene.hands.holdings.scoreboard.set_state(0, FINISHING)
    for seconds in (0.01, 0.1, 0.15):
        scene.master.after(seconds)
        assert scene.outcomes == []
    scene.master.after(0.05)
    assert len(scene.outcomes) == 1


def test_orders_are_shared(scene: Scene) -> None:
    """Those that wait together; one that comes later gets a reload of its own, after that."""
    scene.ask(2)
    scene.master.after(0)
    scene.ask(3)
    scene.master.after(0)
    assert scene.names().count("reloading") == 1
    scene.bring(1)
    scene.reloads.commit(scene.master.now)
    scene.hands.pool.not_forked(0)
    scene.master.after(0)
    scene.master.after(0.01)
    assert len(scene.outcomes) == 2
    assert (scene.names().count("reloading"), scene.master.phase) == (2, Phase.RELOADING)


def test_a_third_code_waits_until_the_first_is_gone(scene: Scene) -> None:
    """Two codes drain at most."""
    pool = scene.hands.pool
    for slot in (1, 2):
        scene.ask()
        scene.master.after(0)
        scene.bring(slot)
        scene.reloads.commit(scene.master.now)
        for old in range(slot):
            pool.retired(old, scene.master.now)
            scene.hands.holdings.scoreboard.set_state(old, RUNNING)
        pool.listening(slot)
        scene.master.after(0)
        scene.master.after(0.01)
    assert (len(scene.outcomes), pool.codes_draining) == (2, 2)
    scene.ask()
    scene.master.after(9)
    assert scene.names().count("reloading") == 2
    pool.not_forked(0)
    scene.master.after(0)
    assert scene.names().count("reloading") == 3


def test_new_code_whose_further_workers_do_not_start(scene: Scene) -> None:
    """After three that came to nothing it is said that both codes serve, and why; the next reload can begin."""
    scene.ask()
    scene.master.after(0)
    scene.bring(1)
    scene.reloads.commit(scene.master.now)
    pool = scene.hands.pool
    for _ in range(2):
        pool.fails(2, ApplicationError("the port is taken", "Traceback …"))
        scene.master.after(1)
    assert scene.outcomes == []
    pool.fails(2, ApplicationError("the port is taken", "Traceback …"))
    scene.master.after(1)
    outcome = scene.outcomes.pop()
    assert outcome.error.startswith("the new code serves, and does not get any further: the port is taken; 1 worker ")
    assert outcome.traceback == "Traceback …"
    assert scene.names()[-1] == "reload_stalled"
    scene.ask()
    scene.master.after(1)
    assert scene.names()[-1] == "reloading"


def test_a_reload_that_waits_supersedes_one_that_does_not_get_further(scene: Scene) -> None:
    """One failure is enough then; without any it has the time that a worker may take to come, and another to leave."""
    for failures, patience in ((1, 0), (0, 85)):
        scene.ask()
        scene.master.after(0)
        scene.bring(failures + 1)
        scene.reloads.commit(scene.master.now)
        scene.ask()
        scene.master.after(1)
        assert scene.names()[-1] == "reload_ordered"
        for _ in range(failures):
            scene.hands.pool.fails(scene.hands.pool.current, PreforkError("the port is taken"))
        if patience:
            scene.master.after(patience - 1)
            assert scene.names()[-1] == "reload_ordered"
        scene.master.after(1)
        assert len(scene.outcomes) == 1
        assert ("the port is taken" in scene.outcomes.pop().error) == (failures > 0)
        assert scene.names()[-1] == "reloading"
        scene.reloads.abandon("pool www", scene.master.now)
        scene.outcomes.clear()


def test_every_worker_that_is_replaced_begins_the_wait_anew(scene: Scene) -> None:
    """A roll may take as long as it has to."""
    scene.worker(3, 1)
    scene.ask()
    scene.master.after(0)
    scene.bring(1)
    scene.reloads.commit(scene.master.now)
    scene.master.after(0)
    scene.master.after(80)
    scene.hands.pool.retired(3, scene.master.now)
    scene.master.after(0)
    scene.master.after(80)
    assert scene.outcomes == []
    scene.master.after(6)
    assert "1 worker of the code before serves on" in scene.outcomes[0].error


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.KILLING, Phase.ENDED])
def test_a_server_that_stops_refuses(scene: Scene, phase: Phase) -> None:
    """At once, with that reason; by signal, the log has it."""
    scene.master.phase = phase
    scene.ask()
    scene.master.signals[signal.SIGHUP](0.0)
    assert scene.outcomes == [Outcome("the server is being stopped")]
    assert scene.names() == ["reload_refused"] * 2


def test_a_callable_is_refused(scene: Scene) -> None:
    """There is nothing to import anew."""
    callable_pool = replace(scene.config.pools[0], app=lambda *_: [])
    scene.reloads.config = Config(pools=(callable_pool,))
    scene.ask()
    assert "was given as a callable" in scene.outcomes[0].error


def test_in_the_boot_it_waits(scene: Scene) -> None:
    """Until the server serves."""
    scene.master.phase = Phase.BOOTING
    scene.ask()
    scene.master.after(1)
    assert scene.names() == ["reload_ordered"]
    scene.master.phase = Phase.SERVING
    scene.master.after(1)
    assert scene.names() == ["reload_ordered", "reloading"]


@pytest.mark.parametrize("command", [Command.TERM, Command.STOP_NOW])
@pytest.mark.parametrize("committed", [False, True])
def test_a_stop_goes_before_it(scene: Scene, command: Command, committed: bool) -> None:
    """Who asked for it hears so, whether it was under way, nearly done or waiting."""
    scene.ask()
    scene.master.after(0)
    scene.bring(1)
    if committed:
        scene.reloads.commit(scene.master.now)
    scene.ask()
    scene.master.order(command)
    assert [outcome.error for outcome in scene.outcomes] == ["the server is being stopped"] * 2
    assert (scene.hands.pool.reloads, scene.hands.pool.coming) == (False, 0)
    scene.master.after(1)
    assert len(scene.outcomes) == 2


def test_a_configuration_that_cannot_be_read(scene: Scene) -> None:
    """Nothing is begun."""
    scene.next = ConfigurationError("p.toml: expected more")
    scene.ask()
    scene.master.after(0)
    assert scene.outcomes == [Outcome("p.toml: expected more")]
    assert (scene.master.phase, scene.names()) == (Phase.SERVING, ["reload_ordered", "reload_failed"])
    assert (scene.hands.ledger.reloads, scene.hands.ledger.failed_reloads) == (0, 1)


def test_nothing_that_goes_wrong_ends_a_server_that_serves(scene: Scene, folder: Path) -> None:
    """Neither a want of descriptors nor a mistake of ours; what was claimed until then is given back."""
    scene.next = Config(pools=(replace(scene.config.pools[0], socket=str(folder / "b.sock")),))
    really = scene.hands.holdings.listener.is_at
    for problem, said in (
        (OSError(24, "Too many open files"), "a reload cannot begin now: Too many open files"),
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    ):

        def is_at(*_: object, problem: Exception = problem) -> bool:
            raise problem

        scene.hands.holdings.listener.is_at = is_at  # type: ignore[method-assign, assignment]
        scene.ask()
        scene.master.after(0)
        assert scene.outcomes.pop().error == said
        assert scene.master.phase is Phase.SERVING
    scene.hands.holdings.listener.is_at = really  # type: ignore[method-assign]
    scene.ask()
    scene.master.after(0)
    assert scene.master.phase is Phase.RELOADING
    scene.reloads.abandon("pool www", scene.master.now)


def test_what_is_abandoned_leaves_nothing(scene: Scene, folder: Path) -> None:
    """The first reason is told, with its traceback; claims and logs are given back, and the next reload finds them."""
    pool = scene.config.pools[0]
    other = replace(pool, socket=str(folder / "b.sock"), access_log=str(folder / "access"))
    for _ in range(2):
        scene.next = Config(pools=(other,))
        scene.ask()
        scene.master.after(0)
        scene.bring(1)
        scene.hands.pool.fails(scene.hands.pool.coming, ApplicationError("no", "Traceback …"))
        scene.reloads.abandon("pool www", scene.master.now)
        scene.hands.pool.zygote_ended(scene.hands.pool.generation)
        assert scene.outcomes.pop() == Outcome("no", "Traceback …")
        assert (scene.master.phase, scene.hands.launch.pool, scene.hands.coming) == (Phase.SERVING, pool, None)
        assert list(scene.logs.of("www")) == list(scene.logs.of("www", coming=True))
        scene.hands.pool.workers.pop(1, None)
    assert not (folder / "b.sock").exists()


def test_a_listener_that_cannot_be_changed_at_the_commit(scene: Scene, folder: Path) -> None:
    """What was changed before it is changed back, and the reload fails."""
    scene.next = Config(pools=(replace(scene.config.pools[0], socket_mode=0o666),))
    scene.ask()
    scene.master.after(0)
    scene.bring(1)
    really = scene.hands.holdings.listener.apply
    seen: list[int] = []

    def apply(change: Any) -> None:
        really(change)
        seen.append(stat.S_IMODE(os.lstat(folder / "a.sock").st_mode))
        if len(seen) == 1:
            raise PreforkError("the disk is read-only now")

    scene.hands.holdings.listener.apply = apply  # type: ignore[method-assign]
    scene.reloads.commit(scene.master.now)
    assert (seen, scene.outcomes) == ([0o666, 0o600], [Outcome("the disk is read-only now")])
    assert (scene.hands.pool.current, scene.master.phase) == (1, Phase.SERVING)


def test_another_listener(scene: Scene, folder: Path) -> None:
    """Opened at the commit; the one before is kept for who waits there."""
    scene.next = Config(pools=(replace(scene.config.pools[0], socket=str(folder / "b.sock")),))
    scene.ask()
    scene.master.after(0)
    scene.bring(1)
    assert not (folder / "b.sock").exists()
    scene.reloads.commit(scene.master.now)
    assert (folder / "b.sock").exists()
    assert not (folder / "a.sock").exists()
    assert (scene.hands.pool.listener, list(scene.hands.holdings.earlier)) == (2, [1])


@pytest.fixture
def tcp_scene(scene: Scene) -> Scene:
    """The pool listens on a port of 127.0.0.1."""
    listener = Listener.claim(parse_address("127.0.0.1:0"))
    number = int(listener.port.rpartition(":")[2])
    listener.address = parse_address(listener.port)
    listener.open()
    scene.hands.holdings.listener.shut()
    scene.hands.holdings.listener.close()
    scene.hands.holdings.listener = listener
    scene.next = Config(pools=(replace(scene.config.pools[0], socket=f"localhost:{number}", protocol="http"),))
    return scene


def test_another_spelling_of_the_same_address(tcp_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is no other listener."""
    found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    tcp_scene.ask()
    tcp_scene.master.after(0)
    assert (tcp_scene.names()[-1], tcp_scene.outcomes) == ("reloading", [])
    coming = tcp_scene.hands.coming
    assert coming is not None
    assert coming.listener is None
    tcp_scene.reloads.abandon("pool www", tcp_scene.master.now)


def test_an_address_that_holds_the_one_before(tcp_scene: Scene) -> None:
    """Cannot be bound beside it: that is said, and not that the port is asked for twice."""
    listener = tcp_scene.hands.holdings.listener
    pool = replace(tcp_scene.config.pools[0], socket=f"0.0.0.0:{listener.port.rpartition(':')[2]}", protocol="http")
    tcp_scene.next = Config(pools=(pool,))
    tcp_scene.ask()
    tcp_scene.master.after(0)
    said = f"socket {pool.socket} cannot be had beside {listener}, where the pool www listens: expected a restart"
    assert said in tcp_scene.outcomes[0].error


LOCK = """
from prefork.system.ownership import PathLock
lock = PathLock(sys.argv[1])
ready(str(os.getpid()))
hold()
"""


@pytest.mark.parametrize("address", ["{folder}/b.sock", "@prefork-{pid}", "locked"])
def test_nobody_is_waited_for(scene: Scene, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the end of a server that was killed: the master has others to look after, and can be asked again."""
    monkeypatch.setattr(probe, "is_orphan", lambda _finding: True)
    monkeypatch.setattr(abstract, "is_orphan", lambda _finding: True)
    monkeypatch.setattr(
        "prefork.system.probe.time.sleep", lambda seconds: pytest.fail(f"the master sleeps for {seconds} s")
    )
    text = str(folder / "b.sock") if address == "locked" else address.format(folder=folder, pid=os.getpid())
    scene.next = Config(pools=(replace(scene.config.pools[0], socket=text),))
    with ExitStack() as others:
        if address == "locked":
            others.enter_context(living(LOCK, text))
        else:
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.bind(text.replace("@", "\0"))
            other.listen()
        scene.ask()
        scene.master.after(0)
    assert ("is claimed by" if address == "locked" else "is asked for twice") in scene.outcomes[0].error


def test_a_name_that_the_status_pages_have(scene: Scene) -> None:
    """Is refused for that reason."""
    scene.reloads.config = with_pages(scene.config, "status")
    scene.next = with_pages(Config(pools=(replace(scene.config.pools[0], name="status"),)), "prefork-status")
    scene.ask()
    scene.master.after(0)
    assert "[pool.status]: this is the name of the pool of the status pages" in scene.outcomes[0].error


def with_pages(config: Config, name: str) -> Config:
    """The same, with status pages under this name."""
    pages = replace(config.pools[0], name=name, socket="127.0.0.1:0", internal=True)
    return replace(config, pools=(*config.pools, pages))


def test_what_needs_a_restart_is_said_once_and_kept(scene: Scene) -> None:
    """And configuration warnings are told where they are new."""
    scene.next = replace(scene.config, log_level="debug", warnings=("odd",))
    for _ in range(2):
        scene.ask()
        scene.master.after(0)
        scene.bring(1)
        scene.reloads.commit(scene.master.now)
        scene.hands.pool.workers.clear()
        scene.master.after(0)
        scene.master.after(0.01)
    warnings = [facts for level, event, facts in scene.log.events if event == "configuration_warning"]
    assert warnings == [{"message": "odd"}]
    restarts = [facts["options"] for _, event, facts in scene.log.events if event == "restart_needed"]
    assert restarts == [["log_level"]] * 2
    assert scene.reloads.config.log_level == "info"


def test_more_workers_than_there_is_room_for(scene: Scene) -> None:
    """Refused before anything is begun."""
    scene.next = Config(pools=(replace(scene.config.pools[0], max_children=64),))
    scene.ask()
    scene.master.after(0)
    assert "more than there is room for: expected less than 64" in scene.outcomes[0].error
    assert scene.master.phase is Phase.SERVING

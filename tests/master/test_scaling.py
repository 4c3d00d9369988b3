"""Other numbers for pools that serve: all of them or none, and one more or less by signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from master.hands import Hands, Recorder, hands_of
from master.test_reload import Master
from prefork.errors import ConfigurationError
from prefork.master.scaling import Scaling
from prefork.policy.model import Phase
from prefork.system.control import Scale


class Scene:
    """Two pools, and who changes their numbers."""

    def __init__(self, *pools: Hands) -> None:
        self.pools = pools
        for hands, name in zip(pools, ("www", "api"), strict=True):
            hands.pool.name = name
            hands.launch = replace(hands.launch, pool=replace(hands.launch.pool, name=name))
        self.master = Master(*pools)
        self.log = Recorder()
        self.scaling = Scaling(self.master, self.log)  # type: ignore[arg-type]

    def numbers(self) -> list[tuple[int, int]]:
        return [(hands.pool.rules.max_children, hands.launch.pool.max_children) for hands in self.pools]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with hands_of(max_children=4) as first, hands_of(max_children=4) as second:
        yield Scene(first, second)


def test_all_of_an_order(scene: Scene) -> None:
    """What it names, of the pools it names; rules and configuration say the same, and the log has it."""
    scales = [Scale("www", "max_children", "8"), Scale("www", "max_spawn_rate", "5"), Scale("api", "pm", "static")]
    held = scene.scaling.order(scales, peer_pid=7)
    assert scene.numbers() == [(8, 8), (4, 4)]
    assert (held["www"]["max_children"], held["www"]["pm"], held["api"]["pm"]) == (8, "dynamic", "static")
    facts = {"cause": "scale", "peer_pid": 7, "changed": {"max_children": 8, "max_spawn_rate": 5}}
    assert scene.pools[0].log.events == [("info", "scaled", facts)]


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([Scale("www", "max_children", "8"), Scale("api", "max_children", "0")], "max_children: expected"),
        ([Scale("www", "max_children", "8"), Scale("api", "max_children", "64")], "room for: expected less than 64"),
        ([Scale("www", "max_children", "8"), Scale("web", "max_children", "8")], "no pool web serves"),
        ([Scale("www", "max_children", "8"), Scale(None, "max_children", "8")], "several pools serve"),
    ],
)
def test_or_none(scene: Scene, scales: list[Scale], message: str) -> None:
    """The first that cannot be keeps all from being."""
    with pytest.raises(ConfigurationError, match=message):
        scene.scaling.order(scales)
    assert (scene.numbers(), scene.pools[0].log.events) == ([(4, 4), (4, 4)], [])


def test_the_only_pool_needs_no_name() -> None:
    """Pools that come or go do not count."""
    with hands_of(max_children=4) as only, hands_of(max_children=4) as leaving:
        scene = Scene(only, leaving)
        leaving.pool.enters(Phase.DRAINING, 0.0)
        scene.scaling.order([Scale(None, "max_children", "5")])
        assert scene.numbers() == [(5, 5), (4, 4)]


def test_signals(scene: Scene) -> None:
    """One more, one less, for each; never none, and never more than there is room for."""
    scene.master.signals[signal.SIGTTIN](0.0)
    assert scene.numbers() == [(5, 5), (5, 5)]
    for _ in range(9):
        scene.master.signals[signal.SIGTTOU](0.0)
    assert scene.numbers() == [(1, 1), (1, 1)]
    assert scene.log.events[0][1:] == (
        "scale_refused",
        {"cause": "SIGTTOU", "error": "max_children 0: expected at least one worker; SIGTERM stops the server"},
    )
    for _ in range(99):
        scene.master.signals[signal.SIGTTIN](0.0)
    assert scene.numbers() == [(63, 63), (63, 63)]


def test_a_signal_moves_whoever_can_be_moved() -> None:
    """A pool with one worker keeps it, and keeps no other from having fewer."""
    with hands_of(max_children=1) as small, hands_of(max_children=8) as large:
        scene = Scene(small, large)
        scene.master.signals[signal.SIGTTOU](0.0)
        assert (scene.numbers(), scene.log.names()) == ([(1, 1), (7, 7)], [])


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU])
def test_pools_of_our_own_stay_as_they_are(scene: Scene, number: int) -> None:
    """A status pool is nobody's to scale, and no reason to ask for a name."""
    pages = scene.pools[1]
    pages.launch = replace(pages.launch, pool=replace(pages.launch.pool, internal=True))
    scene.scaling.order([Scale(None, "max_children", "9")])
    scene.master.signals[number](0.0)
    assert scene.numbers() == [(10 if number == signal.SIGTTIN else 8,) * 2, (4, 4)]
    with pytest.raises(ConfigurationError, match="no pool api serves; expected one of www"):
        scene.scaling.order([Scale("api", "max_children", "9")])


def test_a_reload_under_way(scene: Scene) -> None:
    """Would take back what was answered with success."""
    scene.master.phase = Phase.RELOADING
    with pytest.raises(ConfigurationError, match="a reload is under way"):
        scene.scaling.order([Scale("www", "max_children", "8")])
    scene.master.signals[signal.SIGTTIN](0.0)
    assert (scene.numbers(), scene.log.names()) == ([(4, 4), (4, 4)], ["scale_refused"])


def test_a_server_that_stops(scene: Scene) -> None:
    """Has its number of workers."""
    scene.master.phase = Phase.DRAINING
    with pytest.raises(ConfigurationError, match="is being stopped"):
        scene.scaling.order([Scale("www", "max_children", "8")])
    scene.master.signals[signal.SIGTTIN](0.0)
    assert scene.log.names() == ["scale_refused"]


def serve(hands: Hands, *slots: int) -> None:
    """Workers that accept connections, in these slots."""
    for slot in slots:
        hands.pool.forked(slot, 1, 0.0)
        hands.pool.adopted(slot, 900 + slot)
        hands.pool.ready(slot, 0.0)
        hands.pool.listening(slot)


@pytest.mark.parametrize(("pm", "least"), [("static", 4), ("dynamic", 2), ("ondemand", 0)])
def test_an_order_is_done_when_its_workers_are_there(scene: Scene, pm: str, least: int) -> None:
    """All of them, the spares, or nobody; and not one more than max_children takes connections."""
    hands, told = scene.pools[0], list[str]()
    scene.scaling.order([Scale("www", "pm", pm)])
    scene.scaling.settle(["www"], told.append, scene.master.now)
    for slot in range(least):
        scene.master.after(0.1)
        assert told == []
        serve(hands, slot)
    scene.master.after(0.1)
    assert told == [""]
    serve(hands, *range(least, 6))
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.after(0.1)
    assert told == [""]
    hands.pool.retired(0, 0.0)
    hands.pool.retired(5, 0.0)
    scene.master.after(0.1)
    assert told == ["", ""]


def test_an_order_whose_workers_do_not_come(scene: Scene) -> None:
    """Who ordered hears why: they cannot start, they are late, or the server is being stopped."""
    hands, told = scene.pools[0], list[str]()
    scene.scaling.order([Scale("www", "pm", "static")])
    scene.scaling.settle(["www"], told.append, scene.master.now)
    hands.pool.fails(hands.pool.current, ConfigurationError("no database"))
    scene.master.after(0.1)
    assert told.pop() == "pool www: the numbers hold, and a new worker cannot start: no database"
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.after(hands.pool.rules.boot_timeout - 1)
    assert told == []
    scene.master.after(1)
    assert told.pop() == "pool www: the numbers hold, and 0 workers take connections, not at least 4"
    serve(hands, *range(5))
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.after(hands.pool.rules.boot_timeout)
    assert told.pop() == "pool www: the numbers hold, and 5 workers take connections, not at most 4"
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.phase = Phase.DRAINING
    scene.master.after(0.1)
    assert told.pop() == "the server is being stopped"


def test_an_order_that_was_overtaken(scene: Scene) -> None:
    """A reload went back to the configuration, or somebody said other numbers: who ordered these hears it."""
    hands, told = scene.pools[0], list[str]()
    scene.scaling.order([Scale("www", "pm", "static")])
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.after(0.1)
    assert told == []
    hands.launch = replace(hands.launch, pool=replace(hands.launch.pool, max_children=1))
    scene.master.after(0.1)
    assert told == ["pool www: other numbers hold by now, by a reload or another order"]


def test_an_order_for_a_pool_that_is_gone(scene: Scene) -> None:
    """A reload that came next has removed it: there is nothing to wait for, and the order came to nothing."""
    told = list[str]()
    scene.scaling.settle(["www", "api"], told.append, scene.master.now)
    serve(scene.pools[1], 0, 1)
    scene.pools[0].pool.enters(Phase.DRAINING, 0.0)
    scene.master.after(0.1)
    assert told.pop() == "pool www: a reload has removed it"
    scene.scaling.settle(["www", "api"], told.append, scene.master.now)
    del scene.master.pools[0]
    scene.master.after(0.1)
    assert told.pop() == "pool www: a reload has removed it"


def test_an_order_for_a_pool_that_is_gone_with_the_server(scene: Scene) -> None:
    """Then no reload was it."""
    told = list[str]()
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.phase = Phase.DRAINING
    del scene.master.pools[0]
    scene.master.after(0.1)
    assert told == ["the server is being stopped"]


def test_a_start_that_failed_and_one_that_did_not(scene: Scene) -> None:
    """One that gets ready forgets the failures before; the next failure is heard of all the same."""
    hands, told = scene.pools[0], list[str]()
    hands.pool.fails(hands.pool.current, ConfigurationError("before"))
    scene.scaling.order([Scale("www", "pm", "static")])
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.after(0.1)
    assert told == []
    serve(hands, 0)
    hands.pool.fails(hands.pool.current, ConfigurationError("after"))
    scene.master.after(0.1)
    assert told == ["pool www: the numbers hold, and a new worker cannot start: after"]


def test_a_stopped_worker_takes_no_connection(scene: Scene) -> None:
    """Who was stopped (SIGSTOP) is none of those that the numbers ask for, until he goes on."""
    hands, told = scene.pools[0], list[str]()
    serve(hands, 0, 1)
    hands.pool.stopped(0, 0.0)
    scene.scaling.settle(["www"], told.append, scene.master.now)
    scene.master.after(0.1)
    assert told == []
    hands.pool.stopped(0, None)
    scene.master.after(0.1)
    assert told == [""]

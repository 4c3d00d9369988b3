"""Where many workers stand at once, and what is reported of it: by stacks that the test makes up, and its own clock."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from master.hands import NOW, SLOTS, Hands, hands_of
from prefork.config.model import Config, PoolConfig
from prefork.master.episodes import Episodes
from prefork.master.launch import Launch
from prefork.master.ledger import Ledger
from prefork.master.sampling import LONGER, MOST, TIME, Look, Sample, Sampler, spread
from prefork.master.stacks import Then
from prefork.policy.culprits import Places
from prefork.policy.model import (
    FINISHING,
    IDLE,
    READING,
    RUNNING,
    WRITING,
    QueueEnded,
    QueueFull,
    SampleStacks,
    Saturated,
    SaturationEnded,
)
from prefork.system.scoreboard import Slot
from prefork.system.stacks import Frame, Stack

NEVER = float("inf")
FETCH = Frame("/srv/shop/db.py", 88, "fetch_user")
VIEW = Frame("/srv/shop/views.py", 31, "orders")
PLACES = Places(roots=("/srv",))


class Asked:
    """Stands for the stacks: remembers who was asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.open: dict[int, list[Then]] = {}

    def request(self, slot: int, then: Then, _now: float) -> None:
        self.open.setdefault(slot, []).append(then)

    def answer(self, slot: int, stack: Stack | None) -> None:
        for then in self.open.pop(slot):
            then(stack)


class Bench:
    """A pool whose workers are played by the test."""

    def __init__(self, hands: Hands, workers: int) -> None:
        self.hands = hands
        self.asked = Asked()
        self.sampler = Sampler(hands.pool, hands.holdings, self.asked)  # type: ignore[arg-type]
        self.got: list[tuple[Sample, float]] = []
        self.slots: dict[int, Slot] = {}
        for number in range(workers):
            hands.worker_in(number)[1].close()
            hands.pool.adopted(number, 100 + number)
            hands.pool.listening(number)
            holdings = hands.holdings
            self.slots[number] = Slot(
                number,
                SLOTS,
                holdings.scoreboard.descriptor,
                holdings.control.descriptor,
                holdings.doorbell.descriptor,
                1,
                IDLE,
            )
            self.slots[number].enter(IDLE)

    def run(self, number: int, uri: str = "/orders", seconds: float = 2.0, state: int = RUNNING) -> None:
        self.slots[number].begin(state, "GET", uri, NOW - seconds)

    def take(self, now: float = NOW) -> None:
        self.sampler.take(lambda sample, at: self.got.append((sample, at)), now)

    def stand(self, number: int, *frames: Frame, forced: bool = False, request: int | None = None) -> None:
        """The worker answers."""
        number_said = self.slots[number].requests if request is None else request
        self.asked.answer(number, Stack(frames, 0 if forced else number_said, forced=forced))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with bench_of(4) as made:
        yield made


@contextmanager
def bench_of(workers: int) -> Iterator[Bench]:
    with hands_of() as hands:
        made = Bench(hands, workers)
        yield made
        for slot in made.slots.values():  # else their pages might go with the collector, in the midst of another test
            slot.forget()


# samples


def test_a_sample_of_all_that_are_busy(bench: Bench) -> None:
    """It is complete when the last has answered; who is idle is not asked."""
    for number in (0, 2, 3):
        bench.run(number)
    assert bench.sampler.tend(NOW) == NEVER
    bench.take()
    assert sorted(bench.asked.open) == [0, 2, 3]
    bench.stand(3, VIEW)
    bench.stand(0, FETCH, VIEW)
    assert bench.sampler.tend(NOW + 0.1) == NOW + TIME
    assert bench.got == []
    bench.stand(2, FETCH, forced=True)
    assert bench.sampler.tend(NOW + 0.2) == NEVER
    ((sample, at),) = bench.got
    assert (at, sample.workers, sample.busy) == (NOW + 0.2, 4, 3)
    assert [(look.slot, look.pid, look.number) for look in sample.looks] == [(0, 100, 1), (2, 102, 1), (3, 103, 1)]
    sightings = sample.sightings(PLACES)
    assert {pid: each.call for pid, each in sightings.items()} == {100: FETCH, 102: FETCH, 103: VIEW}
    assert (sightings[100].request, sightings[100].seconds) == ("GET /orders", 2.0)


def test_who_asks_meanwhile_gets_the_same(bench: Bench) -> None:
    bench.run(0)
    bench.take()
    bench.take(NOW + 0.1)
    assert [len(askers) for askers in bench.asked.open.values()] == [1]
    bench.stand(0, VIEW)
    bench.sampler.tend(NOW + 0.1)
    assert len(bench.got) == 2
    assert bench.got[0] == bench.got[1]


def test_nobody_is_busy(bench: Bench) -> None:
    bench.take()
    assert bench.sampler.tend(NOW) == NEVER
    assert bench.got == [(Sample(4, 0, ()), NOW)]


def test_who_does_not_answer_is_counted(bench: Bench) -> None:
    """With what he runs. An answer that comes later is nobody's any more."""
    for number in range(3):
        bench.run(number)
    bench.take()
    bench.stand(0, VIEW)
    bench.stand(1, VIEW)
    assert bench.sampler.tend(NOW + TIME) == NEVER
    ((sample, _),) = bench.got
    look = sample.looks[2]
    assert (look.stack, look.number, look.request and look.request.uri) == (None, 1, "/orders")
    sighting = look.sighting(PLACES)
    assert (sighting.doing, sighting.known, sighting.request) == ("an unknown place (no answer)", False, "GET /orders")
    bench.stand(2, VIEW)
    assert (len(bench.got), sample.looks[2]) == (1, look)


def test_where_most_are_silent_they_are_waited_for(bench: Bench) -> None:
    """Workers that compute, and have too few processors; not for ever."""
    for number in range(3):
        bench.run(number)
    bench.take()
    bench.stand(0, VIEW)
    assert bench.sampler.tend(NOW + TIME) == NOW + LONGER
    assert bench.sampler.tend(NOW + LONGER - 0.1) == NOW + LONGER
    bench.asked.answer(1, None)
    assert bench.sampler.tend(NOW + LONGER - 0.1) == NEVER
    ((sample, _),) = bench.got
    assert [look.stack is not None for look in sample.looks] == [True, False, False]
    bench.take()
    assert bench.sampler.tend(NOW + LONGER) == NEVER
    assert [look.stack for look in bench.got[1][0].looks] == [None] * 3


def test_many_workers_are_not_all_looked_at() -> None:
    """Some of all slots."""
    chosen = spread(range(1_000), MOST)
    assert len(chosen) == MOST
    assert {later - earlier for earlier, later in itertools.pairwise(chosen)} <= {15, 16}
    assert spread(range(MOST), MOST) == list(range(MOST))


@pytest.mark.parametrize(
    ("state", "doing", "known"),
    [
        (READING, "a wait for the rest of a request's head", True),
        (WRITING, "a wait for a client to take its response", True),
        (FINISHING, "what comes after a response", True),
        (RUNNING, "no call of the application", False),
        (255, "the pause between two requests", False),
    ],
)
def test_workers_without_a_call_of_the_application(bench: Bench, state: int, doing: str, known: bool) -> None:
    bench.run(0, state=state)
    bench.take()
    bench.stand(0)
    bench.sampler.tend(NOW)
    sighting = bench.got[0][0].looks[0].sighting(PLACES)
    assert (sighting.call, sighting.doing, sighting.known) == (None, doing, known)


def test_a_worker_that_has_gone_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stack is of is what the worker itself says; nothing is said of a request that is over, or not begun."""
    monkeypatch.setattr(time, "monotonic", lambda: NOW + 1)

    def seen(number: int) -> tuple[int, str | None]:
        bench.sampler.tend(NOW)
        (look,) = (look for look in bench.got[-1][0].looks if look.slot == number)
        return look.number, None if look.request is None else look.request.uri

    bench.run(0, "/first")
    bench.take()
    bench.stand(0, VIEW, request=0)  # between two requests
    assert seen(0) == (0, None)
    bench.take()
    bench.run(0, "/second")
    bench.stand(0, VIEW, request=1)  # it answered, and went on since
    assert seen(0) == (1, "/first")
    bench.take()
    bench.run(0, "/third")
    bench.stand(0, VIEW)  # it went on, and answered
    assert seen(0) == (3, "/third")
    bench.take()
    bench.run(0, "/fourth")
    bench.stand(0, VIEW, forced=True)  # of whatever it ran then
    assert seen(0) == (0, None)
    bench.take()
    bench.stand(0, VIEW, request=77)  # as it says
    assert seen(0) == (77, None)
    bench.slots[0].enter(FINISHING)
    bench.take()
    bench.stand(0, VIEW, request=0)  # after its response
    assert seen(0) == (4, "/fourth")


def test_one_worker_busy_or_not(bench: Bench) -> None:
    """A slot still shows the request before while its worker is idle."""
    looks: list[Look] = []
    bench.run(1, "/before", state=IDLE)
    for number in (0, 1):
        bench.sampler.look_at(bench.hands.pool.workers[number], looks.append, NOW)
        bench.stand(number, request=0)
    assert [(look.pid, look.state, look.number, look.request) for look in looks] == [
        (100, IDLE, 0, None),
        (101, IDLE, 0, None),
    ]


def test_where_the_application_stands() -> None:
    """Below its directory and its paths, by both of their names; the standard library and the server are foreign."""
    import prefork

    with hands_of(pythonpath=("lib", "/opt/more")) as hands:
        places = hands.launch.places
        assert {"/", "/lib", "/opt/more"} <= set(places.roots)
        assert places.package == "app"
        assert not places.is_application(prefork.__file__)
        assert not places.is_application(json_file())
        assert places.is_application(__file__)


def test_paths_count_from_where_the_server_is_started(folder: Path) -> None:
    """Not from the application's directory: the zygote and the places have the same ones."""
    pool = PoolConfig(app="app:application", socket="@x", max_children=1, pythonpath=("lib", "./../more"))
    base, files = str(folder), (1024, 1024)
    launch = Launch(Config(pools=(pool,)), pool, None, base, f"{base}/current", files, lambda _gifts, _app: None)
    told = launch.settings(generation=1, slots=64, load=True)["pythonpath"]
    assert told == [f"{base}/lib", f"{base}/../more"]
    assert set(launch.places.roots) >= {f"{base}/current", *told}
    assert f"{base}/current/lib" not in launch.places.roots


def test_the_demo_is_an_application() -> None:
    """Though it comes with the server; wherever that is installed."""
    import prefork.demo

    pool = PoolConfig(app="prefork.demo", socket="@x", max_children=1)
    places = Launch(Config(pools=(pool,)), pool, None, "/", "/", (1024, 1024), lambda _gifts, _app: None).places
    assert places.is_application(prefork.demo.__file__)
    assert not places.is_application(json_file())
    assert places.shorten(prefork.demo.__file__) == "prefork/demo.py"


def test_a_directory_that_leads_to_itself_is_no_matter(folder: Path) -> None:
    """Nor one that is changed after the launch was made: a report does not look at the file system any more."""
    (folder / "release").mkdir()
    (folder / "current").symlink_to("release")
    launch = launch_in(str(folder / "current"))
    assert launch.places.roots == (str(folder / "current"), os.path.realpath(folder / "release"))
    (folder / "current").unlink()
    (folder / "current").symlink_to("current")
    assert str(folder / "current") in launch_in(str(folder / "current")).places.roots
    assert launch.places.is_application(os.path.realpath(folder / "release" / "app.py"))


def launch_in(directory: str) -> Launch:
    pool = PoolConfig(app="app:application", socket="@x", max_children=1)
    return Launch(Config(pools=(pool,)), pool, None, "/", directory, (1024, 1024), lambda _gifts, _app: None)


def json_file() -> str:
    import json

    return json.__file__


# episodes


class Story(Bench):
    """An episode as it is reported."""

    def __init__(self, hands: Hands, workers: int) -> None:
        super().__init__(hands, workers)
        self.ledger = Ledger()
        log: Any = hands.log
        self.episodes = Episodes(hands.pool, hands.holdings, self.ledger, log, self.sampler, lambda: PLACES)

    def begin(self, **changes: Any) -> None:
        facts: dict[str, Any] = {"waiting": 3, "limit": 20, "max_children": 4, "since": NOW - 0.1, "peak": 5}
        self.episodes.saturated(Saturated("www", **{**facts, **changes}), NOW)

    def look(self, now: float, *stand: Frame) -> None:
        """All who are asked answer, at both looks."""
        for moment in (now, now + 0.2):
            self.episodes.tend(moment)
            for number, frame in zip(sorted(self.asked.open), stand, strict=True):
                self.stand(number, frame)
            self.episodes.tend(moment)

    def end(self, **changes: Any) -> None:
        facts: dict[str, Any] = {"lasted": 11.24, "peak": 21, "limit": 20, "max_children": 4, "full_for": 9.81}
        self.episodes.saturation_ended(SaturationEnded("www", **{**facts, **changes}), NOW + 12)

    def lasts(self) -> bool:
        """Whether the books say that it lasts."""
        return self.ledger.saturated_since is not None

    @property
    def told(self) -> list[tuple[str, dict[str, Any]]]:
        return [(event, facts) for _, event, facts in self.hands.log.events]


@pytest.fixture
def story() -> Iterator[Story]:
    with hands_of() as hands:
        made = Story(hands, 4)
        for number in range(4):
            made.run(number)
        yield made


def test_an_episode_from_its_begin_to_its_end(story: Story) -> None:
    """Looked at twice before it is told; again while it lasts; the end has the look that found most in one place."""
    story.begin(untold=7)
    assert (story.ledger.saturations, story.hands.pool.ceilings) == (1, 1)
    assert story.lasts()
    assert story.told == []
    story.look(NOW, FETCH, FETCH, VIEW, FETCH)
    ((name, facts),) = story.told
    assert name == "saturated"
    assert facts["groups"] == [
        "3 of 4 in shop/db.py:88 fetch_user, 2.2 s, e.g. GET /orders",
        "1 of 4 in shop/views.py:31 orders, 2.2 s, e.g. GET /orders",
    ]
    assert facts["message"] == "every worker is busy and connections wait"  # and no group: those are told once
    assert {name: facts[name] for name in ("waiting", "limit", "peak", "workers", "busy", "untold")} == {
        "waiting": 3,
        "limit": 20,
        "peak": 5,
        "workers": 4,
        "busy": 4,
        "untold": 7,
    }
    (record,) = story.ledger.episodes
    assert (record["seconds"], record["peak"], record["workers"]) == (None, 5, 4)
    for moment, stand in ((1, (FETCH,) * 4), (3, (VIEW, VIEW, FETCH, FETCH))):
        story.episodes.sample_stacks(SampleStacks("www", peak=9, full_for=0.5), NOW + moment)
        story.look(NOW + moment, *stand)
        assert (record["peak"], record["full_seconds"]) == (9, 0.5)
    assert len(story.told) == 1
    story.end()
    name, facts = story.told[1]
    assert name == "saturation_ended"
    assert facts["groups"] == ["4 of 4 in shop/db.py:88 fetch_user, 3.2 s, e.g. GET /orders"]
    assert (facts["lasted"], facts["peak"], facts["full_for"]) == (11.24, 21, 9.81)
    assert facts["message"].endswith("; the queue was full for at least 9.8 s")
    assert not story.lasts()
    assert record == {
        "start": record["start"],
        "seconds": 11.24,
        "peak": 21,
        "limit": 20,
        "full_seconds": 9.81,
        "workers": 4,
        "groups": [
            {"count": 4, "where": "shop/db.py:88 fetch_user", "span": "3.2 s", "example": "GET /orders"},
        ],
        "waited": "",
    }


def test_one_that_is_over_before_it_was_looked_at_twice(story: Story) -> None:
    """It is told with what is known; a look that comes too late changes nothing."""
    story.begin()
    story.episodes.tend(NOW)
    for number in range(4):
        story.stand(number, FETCH)
    story.episodes.tend(NOW + 0.1)
    story.episodes.tend(NOW + 0.2)
    story.end(full_for=0.0)
    assert [name for name, _ in story.told] == ["saturated", "saturation_ended"]
    assert story.told[0][1]["groups"] == ["4 of 4 in shop/db.py:88 fetch_user, 2.0 s, e.g. GET /orders"]
    assert story.told[1][1]["message"] == "connections waited for 11.2 s, at most 21 at once"
    for number in range(4):
        story.stand(number, VIEW)
    story.episodes.tend(NOW + 20)
    assert story.ledger.episodes[0]["groups"][0]["where"] == "shop/db.py:88 fetch_user"
    assert len(story.told) == 2


def test_one_that_is_over_before_it_was_looked_at(story: Story) -> None:
    story.begin()
    story.end()
    (_, begun), (_, ended) = story.told
    assert (begun["groups"], begun["message"], ended["groups"]) == ([], "every worker is busy and connections wait", [])
    assert "busy" not in begun


def test_one_of_too_many_is_only_counted(story: Story) -> None:
    """No event, no stack, no record."""
    story.begin(quiet=True)
    assert story.asked.open == {}
    assert story.lasts()
    story.episodes.sample_stacks(SampleStacks("www", 1, 0.0), NOW)
    story.end(quiet=True)
    assert (story.told, list(story.ledger.episodes)) == ([], [])
    assert (story.ledger.saturations, story.lasts(), story.hands.pool.ceilings) == (1, False, 1)


def test_how_long_requests_had_waited(story: Story) -> None:
    """Of those that began meanwhile, where the proxy stamps them."""
    story.begin()
    story.slots[0].begin(RUNNING, "GET", "/", NOW - 5, 99.0)  # before
    story.slots[1].begin(RUNNING, "GET", "/", NOW + 1, 0.52)
    story.look(NOW + 1, FETCH, FETCH, FETCH, FETCH)
    assert story.told[0][1]["waited"] == "0.5 s"
    story.slots[2].begin(RUNNING, "GET", "/", NOW + 5, 3.14)
    story.end()
    assert story.told[1][1]["waited"] == story.ledger.episodes[0]["waited"] == "0.5–3.1 s"


@pytest.mark.parametrize(
    ("longest", "told"), [(4.5, "up to 5 s"), (0.004, "0.1 s"), (0.3, "up to 0.5 s"), (99.0, "over 60 s")]
)
def test_who_had_waited_and_is_gone_is_told(story: Story, longest: float, told: str) -> None:
    """A slot shows one request, and those that came out of the queue may be over when it is read: the account knows."""
    story.slots[0].wait(50.0)  # before
    story.begin()
    story.slots[0].wait(longest)
    story.slots[1].wait(0.1)
    story.slots[1].begin(RUNNING, "GET", "/", NOW + 11, 0.1)
    story.end()
    assert story.told[-1][1]["waited"] == story.ledger.episodes[0]["waited"] == told


def test_who_leaves_the_queue_is_looked_at_as_it_empties(story: Story) -> None:
    """Then the workers have them, and the next ones have not waited."""
    story.begin()
    for waiting in (3, 0):
        story.hands.pool.waiting = waiting
        story.slots[1].begin(RUNNING, "GET", "/", NOW + 4, 4.5)
        story.episodes.tend(NOW + 4)
    story.slots[1].begin(RUNNING, "GET", "/", NOW + 5, 0.0)
    story.end()
    assert story.told[-1][1]["waited"] == "0.0–4.5 s"


def test_a_queue_that_is_full_counts_while_it_is(story: Story) -> None:
    """By the last look at which it was, so that the number only grows; with what came before."""
    pool, ledger = story.hands.pool, story.ledger
    for before in (0.0, 3.0):
        pool.waiting, pool.limit = 21, 20
        story.episodes.queue_full(QueueFull("www", 21, 20), NOW)
        assert ledger.full_seconds == before
        story.episodes.tend(NOW + 2)
        assert ledger.full_seconds == before + 2
        pool.waiting = None
        story.episodes.tend(NOW + 3)
        assert ledger.full_seconds == before + 2
        pool.waiting = 20
        story.episodes.queue_ended(QueueEnded("www", 3.0, 21, 20), NOW + 4)
        story.episodes.tend(NOW + 4)
        assert ledger.full_seconds == before + 3
    assert ledger.queue_full == 2


@pytest.mark.parametrize(("workers", "last"), [(8, "3 others"), (6, "1 other")])
def test_many_groups_are_few_lines(story: Story, workers: int, last: str) -> None:
    """Five, and how many others there are."""
    with hands_of() as hands:
        many = Story(hands, workers)
        for number in range(workers):
            many.run(number)
        many.begin()
        many.look(NOW, *(Frame("/srv/shop/db.py", line, "f") for line in range(workers)))
        assert len(many.told[0][1]["groups"]) == 6
        assert many.told[0][1]["groups"][-1] == last
        assert len(many.ledger.episodes[0]["groups"]) == 5
    assert story.told == []

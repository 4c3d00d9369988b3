"""The door for orders: who may speak, what is answered, and that nobody keeps the master waiting."""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apart import NOBODY, run_apart
from master.hands import Hands, Recorder, hands_of
from prefork.errors import ConfigurationError
from prefork.master import control
from prefork.master.control import Door
from prefork.master.reload import Outcome
from prefork.policy.lifecycle import Command
from prefork.policy.model import IDLE, RUNNING, Phase
from prefork.status.fields import FIELDS
from prefork.system.control import LARGEST_ORDER, connect, open_door
from prefork.system.scoreboard import Slot


class Loop:
    """What a door needs of a master; the test turns it."""

    def __init__(self, *pools: Hands) -> None:
        self.pools = pools
        self.phase = Phase.SERVING
        self.started = time.time()
        self.now = time.monotonic()  # as the workers' stamps, however long the machine has been up
        self.ordered: list[tuple[Command, dict[str, Any]]] = []
        self.problems: list[str] = []
        self.selector = selectors.PollSelector()  # has no descriptor, which the collector would close at any moment
        self._beats: list[Callable[[float], None]] = []

    def attend(self, source: Any, call: Callable[[float], None], events: int = selectors.EVENT_READ) -> None:
        try:
            self.selector.modify(source, events, call)
        except KeyError:
            self.selector.register(source, events, call)

    def dismiss(self, source: Any) -> None:
        try:
            self.selector.unregister(source)
        except KeyError:
            pass

    def at_beat(self, call: Callable[[float], None]) -> None:
        self._beats.append(call)

    def order(self, command: Command, **source: Any) -> None:
        self.ordered.append((command, source))

    def reopen_logs(self) -> list[str]:
        return self.problems

    def turn(self, times: int = 4) -> None:
        """So many rounds, of which none waits."""
        for _ in range(times):
            for key, _ in self.selector.select(0):
                key.data(self.now)
            for beat in self._beats:
                beat(self.now)


class House:
    """A door, the loop it is in, and clients of it."""

    def __init__(self, path: str, *pools: Hands) -> None:
        self.path = path
        self.loop = Loop(*pools)
        self.log = Recorder()
        self.door = Door(self.loop, *open_door(path), self.log)  # type: ignore[arg-type]
        self.loop.turn()

    def client(self) -> socket.socket:
        found = connect(self.path)
        found.setblocking(False)
        self.loop.turn()
        return found

    def ask(self, data: bytes | str | dict[str, Any]) -> dict[str, Any]:
        """One order and its answer, read to the end."""
        data = json.dumps(data) if isinstance(data, dict) else data
        with self.client() as client:
            client.send(data if isinstance(data, bytes) else data.encode())
            answer = b""
            for _ in range(1000):
                self.loop.turn()
                while (piece := read(client)) is not None:
                    answer += piece
                    if not piece:
                        found: dict[str, Any] = json.loads(answer)
                        return found
        raise AssertionError("no end of the answer")

    @property
    def open(self) -> bool:
        """Whether it takes connections now."""
        return any(key.fileobj is self.door._door for key in self.loop.selector.get_map().values())


def read(client: socket.socket) -> bytes | None:
    """What is there: None for nothing, b"" for the end."""
    try:
        return client.recv(1_000_000)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


@contextmanager
def house(folder: Path, *pools: Hands) -> Iterator[House]:
    found = House(str(folder / "control.sock"), *pools)
    try:
        yield found
    finally:
        if found.door._door.fileno() >= 0:
            found.door.close()
        found.loop.selector.close()


# what is answered


def test_ping_says_what_leads_to_the_server(folder: Path) -> None:
    """Who it is, where it is in its life, and its listeners."""
    with hands_of() as hands, house(folder, hands) as it:
        answer = it.ask({"command": "ping"})
        assert (answer["ok"], answer["pid"], answer["phase"]) == (True, os.getpid(), "serving")
        assert answer["pools"] == [
            {
                "pool": "www",
                "socket": str(hands.holdings.listener),
                "path": None,
                "file": None,
                "address": str(hands.holdings.listener),
                "protocol": "fastcgi",
            }
        ]


_TEXTS = ("process manager", "application", "socket", "phase")


def test_status_counts_and_names(folder: Path) -> None:
    """php-fpm's fields, and what each worker runs; times are seconds but for the request's, in microseconds."""
    with hands_of() as hands, house(folder, hands) as it:
        held = hands.holdings
        pages = held.scoreboard.descriptor, held.control.descriptor, held.doorbell.descriptor
        before = Slot(3, 64, *pages, 1, IDLE)
        for _ in range(5):
            before.begin(RUNNING, "GET", "/before", time.monotonic())
        for slot in (2, 3):
            held.prepare_slot(slot)
            hands.pool.forked(slot, 1, time.monotonic() - 10)
            hands.pool.adopted(slot, 100 + slot)
        Slot(2, 64, *pages, 1, IDLE).enter(IDLE)
        Slot(3, 64, *pages, 1, IDLE).begin(RUNNING, "POST", "/a?b\x1b", time.monotonic() - 2)
        hands.pool.view(Phase.SERVING, 0.0, b"", 3, 4096)
        hands.pool.view(Phase.SERVING, 0.0, b"", 1, 4096)
        (pool,) = it.ask({"command": "status"})["pools"]
        processes = pool.pop("processes")
        expected = {
            "pool": "www",
            "process manager": "dynamic",
            "application": "app:application",
            "generation": 0,
            "max children": 4,
            "accepted conn": 6,
            "listen queue": 1,
            "max listen queue": 3,
            "listen queue len": 4096,
            "idle processes": 1,
            "active processes": 1,
            "total processes": 2,
        }
        assert {key: pool[key] for key in expected} == expected
        assert {field.key for field in FIELDS if field.metric} >= pool.keys() - {"pool", *_TEXTS}
        assert [(p["slot"], p["pid"], p["state"], p["requests"]) for p in processes] == [
            (2, 102, "Idle", 0),
            (3, 103, "Running", 1),
        ]
        assert [p["request uri"] for p in processes] == [None, "/a?b\x1b"]
        assert 2_000_000 <= processes[1]["request duration"] < 60_000_000
        assert all(10 <= p["start since"] < 60 for p in processes)


def test_where_workers_stand(folder: Path) -> None:
    """Answered when they have, or have been given up; one of them by its pid, also when it is idle."""
    with hands_of() as hands, house(folder, hands) as it:
        it.loop.at_beat(hands.tend)  # type: ignore[arg-type]
        nobody = {"pool": "www", "workers": 0, "busy": 0, "listen queue": None, "groups": [], "stacks": []}
        assert it.ask({"command": "stacks"}) == {"ok": True, "pools": [nobody]}
        hands.worker_in(2)[1].close()
        assert it.ask({"command": "stacks", "pid": 7}) == {"ok": False, "error": "7 is no worker of this server"}
        hands.pool.adopted(2, 2**22 + 1)  # no process has this pid
        hands.pool.listening(2)
        (one,) = it.ask({"command": "stacks", "pid": 2**22 + 1})["pools"][0]["stacks"]
        silent = {"pid": 2**22 + 1, "slot": 2, "state": "Starting", "answered": False, "forced": False, "frames": []}
        assert silent.items() <= one.items()
        (pool,) = it.ask({"command": "stacks"})["pools"]
        assert (pool["workers"], pool["busy"], pool["stacks"]) == (1, 1, [one])
        assert pool["groups"][0]["pids"] == [2**22 + 1]


def test_what_is_remembered(folder: Path) -> None:
    """Slow requests and episodes; of one that lasts, the queue as it is now if that is longer."""
    with hands_of() as hands, house(folder, hands) as it:
        leads = str(hands.holdings.listener)
        pools = [{"pool": "www", "socket": leads, "path": None, "address": leads, "episodes": 0}]
        assert it.ask({"command": "saturation"}) == {"ok": True, "pools": pools, "episodes": []}
        assert it.ask({"command": "slow"}) == {"ok": True, "slow": []}
        facts = {"elapsed": 1.5, "method": "GET", "uri": "/a", "pid": 7, "slot": 1}
        hands.ledger.was_slow(facts, "/a.py:1 f")
        (slow,) = it.ask({"command": "slow"})["slow"]
        assert (slow["pool"], slow["seconds"], slow["stack"]) == ("www", 1.5, "/a.py:1 f")
        record = hands.ledger.episode(1_000.0, 5, 20)
        for waiting, peak in ((None, 5), (3, 5), (9, 9)):
            hands.pool.waiting = waiting
            (episode,) = it.ask({"command": "saturation"})["episodes"]
            assert (episode["pool"], episode["seconds"], episode["peak"]) == ("www", None, peak)
        record["seconds"] = 2.0
        assert it.ask({"command": "saturation"})["episodes"][0]["peak"] == 5


def test_a_state_out_of_range_and_an_unknown_queue(folder: Path) -> None:
    """What a worker wrote is shown as unknown; what the kernel did not say as nothing, with our own limit."""
    with hands_of() as hands, house(folder, hands) as it:
        hands.pool.forked(0, 1, time.monotonic())
        hands.holdings.scoreboard.set_state(0, 200)
        (pool,) = it.ask({"command": "status"})["pools"]
        assert pool["processes"][0]["state"] == "unknown"
        assert (pool["listen queue"], pool["listen queue len"]) == (None, hands.holdings.listener.backlog)


@pytest.mark.parametrize(
    "data",
    ["", "[", "{}", '{"command": "halt"}', "x" * (LARGEST_ORDER + 1), b"\xff\0", '{"command": "stop", "now": 2}'],
)
def test_what_is_no_order_is_answered_with_an_error(folder: Path, data: str | bytes) -> None:
    """And with nothing else; an empty message is the end of a conversation."""
    with house(folder) as it:
        if data == "":
            with it.client() as client:
                client.send(b"")
                it.loop.turn()
                assert read(client) == b""
        else:
            answer = it.ask(data)
            assert (answer.pop("ok"), list(answer)) == (False, ["error"])
        assert it.loop.ordered == []


def test_an_order_for_another_server_is_refused(folder: Path) -> None:
    """A lock file may outlive its server, and the pid in a control socket's name be used again."""
    with house(folder) as it:
        for command in ("ping", "status", "stop"):
            answer = it.ask({"command": command, "socket": "/run/other.sock"})
            assert answer == {"ok": False, "error": f"this server (pid {os.getpid()}) does not serve /run/other.sock"}
        assert it.loop.ordered == []


@pytest.mark.parametrize(("now", "command"), [(False, Command.STOP), (True, Command.STOP_NOW)])
def test_stop_is_answered_at_the_end(folder: Path, now: bool, command: Command) -> None:
    """When nothing is left; however long that takes, and the socket is gone by then."""
    with house(folder) as it, it.client() as client:
        client.send(json.dumps({"command": "stop", "now": now}).encode())
        it.loop.turn()
        it.loop.now += 3600
        it.loop.turn()
        assert read(client) is None
        it.door.close()
        assert (json.loads(read(client) or b""), read(client)) == ({"ok": True}, b"")
        assert it.loop.ordered == [(command, {"peer_pid": os.getpid(), "peer_uid": os.geteuid()})]
        assert not os.path.exists(it.path)


def test_who_waits_for_the_stop_may_leave(folder: Path) -> None:
    """Or say more than is asked for: both end the conversation, and not the stop."""
    with house(folder) as it:
        for last in (b"", b"more"):
            client = it.client()
            client.send(b'{"command": "stop"}')
            it.loop.turn()
            if last:
                client.send(last)
                it.loop.turn()
                assert read(client) == b""
            client.close()
            it.loop.turn()
        assert len(it.loop.ordered) == 2
        assert it.door._leavers == []


@pytest.mark.parametrize("problems", [[], ["error_log: the directory is gone"]])
def test_reopen_logs_says_what_could_not_be(folder: Path, problems: list[str]) -> None:
    """All of them, or an error that names those that were not."""
    with house(folder) as it:
        it.loop.problems = problems
        answer = it.ask({"command": "reopen-logs"})
        assert answer == ({"ok": False, "error": problems[0]} if problems else {"ok": True})


# who may speak


@pytest.mark.root
def test_strangers_are_not_heard(folder: Path) -> None:
    """Even where the file's mode would let them: the kernel's word on who it is counts."""
    with house(folder) as it:
        os.chmod(it.path, 0o666)
        script = (
            "from prefork.system.control import connect\nclient = connect(sys.argv[1])\n"
            'client.send(b\'{"command": "stop"}\')\nready()'
        )
        run_apart(script, it.path, user=NOBODY)
        it.loop.turn()
        assert it.log.names() == ["order_refused"]
        assert it.log.events[0][2]["peer_uid"] == NOBODY
        assert it.loop.ordered == []
        assert it.ask({"command": "ping"})["ok"] is True


# nobody keeps the master waiting


def test_silence_is_endured_for_a_while(folder: Path) -> None:
    """Then it is over, also for one that does not take its answer; others are served meanwhile."""
    with house(folder) as it, it.client() as client:
        assert it.ask({"command": "ping"})["ok"] is True
        it.loop.now += control._PATIENCE - 0.1
        it.loop.turn()
        assert read(client) is None
        it.loop.now += 0.2
        it.loop.turn()
        assert read(client) == b""


def test_an_answer_that_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger than any buffer: it is kept until it is taken, piece by piece, or the time is up."""
    huge = {"text": "x" * 3_000_000}
    monkeypatch.setattr(control, "describe_listeners", lambda _master: huge)
    with house(folder) as it:
        assert it.ask({"command": "ping"}) == {"ok": True, **huge}
        with it.client() as client:
            client.send(b'{"command": "ping"}')
            it.loop.turn(100)
            it.loop.now += control._PATIENCE + 0.1
            it.loop.turn()
            assert it.door._clients == set()
            taken = b""
            while piece := read(client):
                taken += piece
            assert 0 < len(taken) < 3_000_000
        with it.client() as client:
            client.send(b'{"command": "ping"}')
            it.loop.turn()
        it.loop.turn()
        assert it.door._clients == set()


def test_so_many_at_once(folder: Path) -> None:
    """The next ones wait outside until there is room again, and cost nothing meanwhile."""
    with house(folder) as it, ExitStack() as stack:
        clients = [stack.enter_context(it.client()) for _ in range(control._MOST_CLIENTS)]
        it.loop.turn(20)
        assert (len(it.door._clients), it.open) == (control._MOST_CLIENTS, False)
        late = stack.enter_context(it.client())
        late.send(b'{"command": "ping"}')
        it.loop.turn()
        assert read(late) is None
        clients[0].close()
        it.loop.turn()
        assert json.loads(read(late) or b"")["ok"] is True


def test_without_a_descriptor_the_door_is_shut_for_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than tried again and again as fast as the loop turns."""
    with house(folder) as it, ExitStack() as stack:

        def refuse(_socket: socket.socket) -> Any:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", refuse)
            client = stack.enter_context(it.client())
            it.loop.turn(20)
            assert (it.log.names(), it.open) == (["order_not_taken"], False)
        client.send(b'{"command": "ping"}')
        it.loop.now += control._PATIENCE + 0.1
        it.loop.turn()
        assert json.loads(read(client) or b"")["ok"] is True


def test_a_client_that_has_left_in_the_queue(folder: Path) -> None:
    """Is accepted and forgotten."""
    with house(folder) as it:
        for _ in range(3):
            connect(it.path).close()
        it.loop.turn(10)
        assert (it.door._clients, it.log.names()) == (set(), [])


def test_descriptors_are_not_taken(folder: Path) -> None:
    """The kernel discards what a client sends along."""
    with house(folder) as it, it.client() as client:
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(client, [b'{"command": "ping"}'], [0] * 100)
        it.loop.turn()
        assert json.loads(read(client) or b"")["ok"] is True
        assert len(os.listdir("/proc/self/fd")) <= before


_STEPS = st.one_of(
    st.tuples(st.just("open"), st.just(b"")),
    st.tuples(st.just("say"), st.binary(max_size=100)),
    st.tuples(
        st.just("say"),
        st.sampled_from([b'{"command": "ping"}', b'{"command": "status"}', b'{"command": "stop"}', b"[" * 5000]),
    ),
    st.tuples(st.sampled_from(["read", "close", "half", "wait"]), st.just(b"")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 3), _STEPS), max_size=60))
def test_whatever_clients_do(folder: Path, steps: list[tuple[int, tuple[str, bytes]]]) -> None:
    """In whatever order: no exception, no client beyond the bound, and a fresh one is served at once."""
    with house(folder) as it:
        clients: dict[int, socket.socket] = {}
        for number, (step, data) in steps:
            client = clients.get(number)
            if client is None or step == "open":
                if client is not None:
                    client.close()
                clients[number] = it.client()
            else:
                try:
                    _act(client, step, data)
                except OSError:
                    pass
            it.loop.now += 10 if step == "wait" else 0
            it.loop.turn()
            assert len(it.door._clients) <= control._MOST_CLIENTS
        assert it.ask({"command": "ping"})["ok"] is True
        for client in clients.values():
            client.close()
        it.loop.turn()
        assert it.door._clients == set()


def _act(client: socket.socket, step: str, data: bytes) -> None:
    if step == "say":
        client.send(data)
    elif step == "read":
        read(client)
    elif step == "half":
        client.shutdown(socket.SHUT_WR)
    elif step == "close":
        client.shutdown(socket.SHUT_RDWR)


def test_a_deleted_socket_is_made_anew(folder: Path) -> None:
    """With its mode, once a second; who is being served is served on, and the end removes the new one."""
    (folder / "run").mkdir()
    with hands_of() as hands, house(folder / "run", hands) as it:
        early = it.client()
        os.unlink(it.path)
        it.loop.now += 2
        it.loop.turn()
        assert it.log.names() == ["control_socket_renewed"]
        assert os.lstat(it.path).st_mode & 0o7777 == 0o600
        assert it.ask({"command": "ping"})["ok"]
        early.send(b'{"command": "ping"}')
        it.loop.turn()
        assert json.loads(early.recv(100_000))["ok"]
        early.close()
        it.door.close()
        assert not os.path.lexists(it.path)


def test_a_deleted_directory_is_waited_for(folder: Path) -> None:
    """Told once; what others put at the path is left alone, and so is the door that nobody can find."""
    (folder / "run").mkdir()
    with hands_of() as hands, house(folder / "run", hands) as it:
        os.unlink(it.path)
        (folder / "run").rmdir()
        for _ in range(5):
            it.loop.now += 2
            it.loop.turn()
        assert it.log.names() == ["control_socket_lost"]
        (folder / "run").mkdir()
        Path(it.path).write_text("precious")
        it.loop.now += 2
        it.loop.turn()
        assert Path(it.path).read_text() == "precious"
        os.unlink(it.path)
        it.loop.now += 2
        it.loop.turn()
        assert it.log.names() == ["control_socket_lost", "control_socket_renewed"]
        assert it.ask({"command": "ping"})["ok"]


@pytest.fixture
def lone(folder: Path) -> Iterator[House]:
    """A door without a pool."""
    with house(folder) as found:
        yield found


class Reloads:
    """Takes orders to reload, and answers when the test says so."""

    def __init__(self) -> None:
        self.askers: list[Callable[[Outcome], None]] = []
        self.source: dict[str, Any] = {}

    def order(self, asker: Callable[[Outcome], None], **source: Any) -> None:
        self.askers.append(asker)
        self.source = source


def test_a_reload_is_answered_when_it_is_done(lone: House) -> None:
    """However long that takes; or with why it failed. Who has hung up meanwhile gets nothing."""
    reloads = Reloads()
    lone.door.offer(reloads, None)  # type: ignore[arg-type]
    with lone.client() as first, lone.client() as second, lone.client() as third:
        for client in (first, second, third):
            client.send(b'{"command": "reload"}')
            lone.loop.turn()
        third.close()
        lone.loop.now += 3600
        lone.loop.turn()
        assert (read(first), read(second)) == (None, None)
        assert reloads.source == {"cause": "reload", "peer_pid": os.getpid(), "peer_uid": os.geteuid()}
        done, failed, nobody = reloads.askers
        done(Outcome(seconds=1.5, generations={"www": 2}))
        failed(Outcome("no module", "Traceback"))
        nobody(Outcome(seconds=1.5))
        lone.loop.turn()
        assert json.loads(read(first) or b"") == {"ok": True, "seconds": 1.5, "generations": {"www": 2}}
        assert json.loads(read(second) or b"") == {"ok": False, "error": "no module", "traceback": "Traceback"}
        assert (read(first), read(second), len(lone.door._clients)) == (b"", b"", 0)


def test_a_reload_that_is_refused_is_answered_at_once(lone: House) -> None:
    """Also from within its own order."""
    reloads = Reloads()
    reloads.order = lambda asker, **_: asker(Outcome("not now"))  # type: ignore[method-assign]
    lone.door.offer(reloads, None)  # type: ignore[arg-type]
    assert lone.ask({"command": "reload"}) == {"ok": False, "error": "not now", "traceback": ""}


def test_orders_that_nobody_takes(lone: House) -> None:
    """A door that leads to nobody says so."""
    assert lone.ask({"command": "reload"})["error"] == "nobody here takes orders to reload"
    order = {"command": "scale", "scales": [[None, "max_children", "3"]]}
    assert lone.ask(order)["error"] == "expected at least one number to change"


def test_a_scale_is_answered_with_what_holds(lone: House) -> None:
    """Once the workers are there, or with why that cannot be."""

    class Scaling:
        end = ""

        def settle(self, names: Any, then: Callable[[str], None], _now: float) -> None:
            assert list(names) == ["www"]
            then(self.end)

        def order(self, scales: Any, **source: Any) -> dict[str, Any]:
            if scales[0].value == "0":
                raise ConfigurationError("too few")
            return {"www": {"said": [(scale.pool, scale.name, scale.value) for scale in scales], **source}}

    scaling = Scaling()
    lone.door.offer(None, scaling)  # type: ignore[arg-type]
    answer = lone.ask({"command": "scale", "scales": [["www", "max_children", "3"], [None, "pm", "static"]]})
    assert answer["ok"] is True
    assert answer["pools"]["www"]["said"] == [["www", "max_children", "3"], [None, "pm", "static"]]
    assert answer["pools"]["www"]["peer_pid"] == os.getpid()
    refused = lone.ask({"command": "scale", "scales": [[None, "max_children", "0"]]})
    assert refused == {"ok": False, "error": "too few"}
    scaling.end = "no worker starts"
    failed = lone.ask({"command": "scale", "scales": [["www", "max_children", "3"]]})
    assert failed == {"ok": False, "error": "no worker starts"}
    assert lone.ask({"command": "scale"})["error"] == "expected at least one number to change"

"""What the master does about a path that does not lead to its socket any more, beat by beat."""

from __future__ import annotations

import itertools
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apart import NOBODY, living, run_apart
from master.hands import NOW, Hands, hands_of
from prefork.errors import PermissionProblem
from prefork.master.healing import LONGEST_PAUSE, Healer, Watch
from prefork.policy.model import Listen
from prefork.system.channel import receive_order
from prefork.system.filewatch import FileWatch
from prefork.system.listener import Listener, parse_address
from prefork.system.sockdiag import SocketDiagnosis

TAKE = """
from prefork.system.ownership import PathLock
lock = PathLock(sys.argv[1])
ready(str(os.getpid()))
hold()
"""

LISTEN = """
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(3)
ready(str(os.getpid()))
hold()
"""


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "app.sock")


@pytest.fixture
def hands(path: str) -> Iterator[Hands]:
    """A pool that serves a path."""
    with hands_of() as hands:
        serve(hands, path)
        yield hands
        hands.holdings.listener.shut()


def serve(hands: Hands, address: str) -> None:
    hands.holdings.listener.close()
    hands.holdings.listener = Listener.claim(parse_address(address))
    hands.holdings.listener.open()
    hands.pool.open = True


def watch_of(hands: Hands) -> Watch:
    """Its watch, without hints from the kernel."""
    hints = FileWatch()
    hints.close()
    return Watch(hands, hints)


def told(hands: Hands) -> list[str]:
    """The events since this was last asked."""
    names = [name for name in hands.log.names() if name.startswith(("socket_", "lock_"))]
    hands.log.events.clear()
    return names


def fact(hands: Hands, name: str, key: str) -> Any:
    return next(facts[key] for _, event, facts in hands.log.events if event == name)


def serves(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def test_nothing_is_done_while_all_is_well(hands: Hands) -> None:
    """However often it is looked at."""
    watch, before = watch_of(hands), hands.holdings.listener
    for beat in range(5):
        watch.look(NOW + beat)
    assert told(hands) == []
    assert hands.holdings.listener is before


def test_a_deleted_socket_is_made_anew_at_the_next_look(hands: Hands, path: str) -> None:
    """The current one has the next number, the one before is kept until nobody serves it and nobody waits there."""
    watch, old = watch_of(hands), hands.holdings.listener
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(path)
        hands.worker_in(3)[1].close()
        hands.pool.listening(3)
        os.unlink(path)
        watch.look(NOW)
        assert told(hands) == ["socket_vanished", "socket_renewed"]
        assert serves(path)
        assert (hands.pool.listener, hands.holdings.earlier) == (2, {1: old})
        assert hands.pool.serves_earlier(3)
        diagnosis = SocketDiagnosis()
        assert hands.holdings.count_earlier(diagnosis) == 1
        hands.pool.retired(3, NOW)
        watch.look(NOW + 1)
        assert hands.holdings.earlier == {1: old}  # somebody waits
        old._socket.accept()[0].close()  # type: ignore[union-attr]
        assert hands.holdings.count_earlier(diagnosis) == 0
        diagnosis.close()
        watch.look(NOW + 2)
    assert hands.holdings.earlier == {}
    assert told(hands) == []


def test_a_listener_is_kept_until_it_was_counted(hands: Hands, path: str) -> None:
    """A look that comes between its replacement and the next count closes nothing: somebody may wait there."""
    watch, diagnosis = watch_of(hands), SocketDiagnosis()
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(path)
        os.unlink(path)
        watch.look(NOW)
        watch.look(NOW + 1)
        assert list(hands.holdings.earlier) == [1]
        assert hands.holdings.count_earlier(diagnosis) == 1
        hands.holdings.earlier[1]._socket.accept()[0].close()  # type: ignore[union-attr]
        os.unlink(path)
        watch.look(NOW + 2)
        assert list(hands.holdings.earlier) == [1, 2]
        assert hands.holdings.count_earlier(diagnosis) == 0
        watch.look(NOW + 3)
        assert hands.holdings.earlier == {}
    diagnosis.close()


def test_a_queue_of_unknown_length_is_served_before_it_is_closed(hands: Hands, path: str) -> None:
    """Without sock_diag: whoever serves it goes on to its end; if nobody does, somebody is sent to look."""
    watch, diagnosis, holdings = watch_of(hands), SocketDiagnosis(), hands.holdings
    diagnosis.close()
    os.unlink(path)
    watch.look(NOW)
    for beat in (1, 2):
        assert holdings.count_earlier(diagnosis, ()) == 1
        watch.look(NOW + beat)
        assert (list(holdings.earlier), holdings.listener_owed(())) == ([1], 1)
    hands.worker_in(3)[1].close()
    hands.pool.listening(3, 1)
    assert holdings.count_earlier(diagnosis, hands.pool.listeners_served) is None
    watch.look(NOW + 3)
    assert (list(holdings.earlier), holdings.listener_owed((1,))) == ([1], None)
    hands.pool.not_forked(3)
    assert holdings.count_earlier(diagnosis, hands.pool.listeners_served) is None
    watch.look(NOW + 4)
    assert holdings.earlier == {}
    assert holdings.count_earlier(diagnosis, ()) is None


def test_the_queue_of_a_listener_without_workers_goes_to_the_next_worker(hands: Hands, path: str) -> None:
    """One is enough; the others get the current listener. Retired, a worker is none that serves it."""

    def given(slot: int) -> int:
        _, end = hands.worker_in(slot)
        hands.holdings.count_earlier(diagnosis)
        hands.perform(Listen("www", slot), NOW)
        order = receive_order(end)
        end.close()
        assert order is not None
        (descriptor,) = order.descriptors
        inode = os.fstat(descriptor).st_ino
        os.close(descriptor)
        return inode

    old, diagnosis = hands.holdings.listener, SocketDiagnosis()
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(path)
        os.unlink(path)
        watch_of(hands).look(NOW)
        new = hands.holdings.listener
        assert [given(slot) for slot in range(3)] == [old.inode, new.inode, new.inode]
        assert [hands.pool.workers[slot].listener for slot in range(3)] == [1, 2, 2]
        hands.pool.retired(0, NOW)
        assert given(3) == old.inode
        hands.pool.retired(3, NOW)
        old._socket.accept()[0].close()  # type: ignore[union-attr]
        assert given(4) == new.inode
    diagnosis.close()


def test_every_deletion_is_told(hands: Hands, path: str) -> None:
    """One event each, and as many listeners."""
    watch = watch_of(hands)
    for number in range(2, 5):
        os.unlink(path)
        watch.look(NOW + number)
        assert told(hands) == ["socket_vanished", "socket_renewed"]
        assert hands.pool.listener == number


def test_what_others_put_there_is_left_alone_and_told_once(hands: Hands, path: str) -> None:
    """Told again when it is something else; when it goes, the socket is made anew."""
    watch = watch_of(hands)
    os.unlink(path)
    Path(path).write_text("precious")
    for beat in range(5):
        watch.look(NOW + beat)
    assert fact(hands, "socket_taken", "found") == "a plain file"
    assert told(hands) == ["socket_taken"]
    assert Path(path).read_text() == "precious"
    os.unlink(path)
    os.mkdir(path)
    for beat in range(5):
        watch.look(NOW + beat)
    assert fact(hands, "socket_taken", "found") == "a directory"
    assert told(hands) == ["socket_taken"]
    os.rmdir(path)
    watch.look(NOW)
    assert told(hands) == ["socket_renewed"]
    assert serves(path)
    assert hands.pool.listener == 2


def test_a_foreign_server_is_named(hands: Hands, path: str) -> None:
    """By its pid; dead, it is a socket that nobody listens on, which is not ours to remove either."""
    watch = watch_of(hands)
    os.unlink(path)
    with living(LISTEN, path) as (_, pid):
        watch.look(NOW)
        assert fact(hands, "socket_taken", "found") == f"the socket of a live server, pid {pid}"
        assert told(hands) == ["socket_taken"]
    for kind, found in (
        (socket.SOCK_DGRAM, "a socket of another type"),
        (socket.SOCK_STREAM, "a socket that nobody listens on"),
    ):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(path)
            watch.look(NOW)
        watch.look(NOW)
        assert fact(hands, "socket_taken", "found") == found
        assert told(hands) == ["socket_taken"]
    os.unlink(path)
    watch.look(NOW)
    assert serves(path)


def test_ours_in_its_old_place_again_is_no_news_but_the_next_theft_is(hands: Hands, path: str) -> None:
    """Renamed away, replaced, renamed back, replaced again."""
    watch = watch_of(hands)
    for _ in range(2):
        os.rename(path, path + ".aside")
        os.symlink("elsewhere", path)
        watch.look(NOW)
        assert fact(hands, "socket_taken", "found") == "a symbolic link"
        assert told(hands) == ["socket_taken"]
        os.rename(path + ".aside", path)
        watch.look(NOW)
        assert told(hands) == []
    assert hands.pool.listener == 1


def test_a_directory_that_is_gone_is_told_once_and_used_as_soon_as_it_is_back(
    hands: Hands, folder: Path, path: str
) -> None:
    """Whatever the pauses have grown to; with its lock, which nobody else gets then."""
    watch = watch_of(hands)
    os.unlink(path)
    os.unlink(path + ".lock")
    folder.rmdir()
    for beat in range(100):
        watch.look(NOW + beat)
    assert fact(hands, "socket_not_renewed", "error").startswith(
        f"the socket's directory {folder} does not exist: create"
    )
    assert told(hands) == ["socket_vanished", "socket_not_renewed"]
    folder.mkdir()
    watch.look(NOW + 100.5)
    assert told(hands) == ["socket_renewed"]
    assert serves(path)
    assert run_apart(TAKE, path).startswith(f"AddressInUse {path} is claimed by a running server, pid {os.getpid()},")


def test_pauses_grow_while_nothing_changes(hands: Hands, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2, 4 … to 30 seconds; another reason is told, the same one is not."""
    watch = watch_of(hands)
    tried: list[int] = []
    reasons = ["Too many open files"]

    def refuse(_listener: Listener) -> Listener:
        tried.append(beat)
        raise PermissionProblem(reasons[-1])

    monkeypatch.setattr(Listener, "renew", refuse)
    os.unlink(path)
    for beat in range(200):
        watch.look(NOW + beat)
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert set(pauses[5:]) == {int(LONGEST_PAUSE)}
    assert told(hands) == ["socket_vanished", "socket_not_renewed"]
    reasons.append("No space left on device")
    for beat in range(200, 300):
        watch.look(NOW + beat)
    assert told(hands) == ["socket_not_renewed"]
    monkeypatch.undo()
    watch.look(NOW + 400)
    assert told(hands) == ["socket_renewed"]


@pytest.mark.root
def test_permission_that_comes_back_is_used_at_once(folder: Path) -> None:
    """Told once while it lasts, whatever else is going on in the directory."""
    script = (
        "sys.path.insert(0, sys.argv[2])\n"
        "from master.hands import hands_of\n"
        "from master.test_healing import serve, serves, told, watch_of\n"
        "path = sys.argv[1]\n"
        "with hands_of() as hands:\n"
        "    serve(hands, path)\n"
        "    watch = watch_of(hands)\n"
        "    os.unlink(path)\n"
        "    os.chmod(os.path.dirname(path), 0o555)\n"
        "    for beat in range(50):\n"
        "        watch.look(1000.0 + beat)\n"
        "    print(*told(hands))\n"
        "    os.chmod(os.path.dirname(path), 0o755)\n"
        "    watch.look(1050.1)\n"
        "    print(*told(hands), serves(path))\n"
        "    os.chmod(os.path.dirname(path), 0)\n"
        "    for beat in range(50):\n"
        "        watch.look(1100.0 + beat)\n"
        "    print(*told(hands))\n"
        "    os.chmod(os.path.dirname(path), 0o755)\n"
        "    watch.look(1200.0)\n"
        "    print(*told(hands), serves(path))\n"
    )
    (folder / "deep").mkdir()
    os.chown(folder / "deep", NOBODY, NOBODY)
    tests = str(Path(__file__).parents[1])
    assert run_apart(script, str(folder / "deep" / "app.sock"), tests, user=NOBODY).splitlines() == [
        "socket_vanished socket_not_renewed",
        "socket_renewed True",
        "socket_hidden",
        "True",
    ]


def test_a_deleted_lock_file_is_made_anew(hands: Hands, path: str) -> None:
    """The path is claimed again before another server has it; the socket itself is not touched."""
    watch = watch_of(hands)
    os.unlink(path + ".lock")
    watch.look(NOW)
    assert told(hands) == ["lock_renewed"]
    watch.look(NOW + 1)
    assert told(hands) == []
    assert run_apart(TAKE, path).startswith("AddressInUse")
    assert hands.pool.listener == 1


def test_who_claimed_the_path_meanwhile_has_it_until_he_leaves(hands: Hands, path: str) -> None:
    """No socket is put under another server's feet; asked every second, told once."""
    watch = watch_of(hands)
    os.unlink(path + ".lock")
    with living(TAKE, path) as (_, pid):
        watch.look(NOW)
        os.unlink(path)
        for beat in range(1, 50):
            watch.look(NOW + beat)
        assert f"pid {pid}," in fact(hands, "socket_not_renewed", "error")
        assert told(hands) == ["socket_not_renewed", "socket_vanished"]
        assert not os.path.lexists(path)
    watch.look(NOW + 50)
    assert told(hands) == ["socket_renewed"]


def test_an_inherited_path_is_only_told_of(path: str) -> None:
    """Once when it goes, once when something else stands there; it is its owner's to mend."""
    with hands_of() as hands, socket.socket(socket.AF_UNIX) as owner:
        owner.bind(path)
        owner.listen(3)
        serve(hands, f"fd://{os.dup(owner.fileno())}")
        watch = watch_of(hands)
        watch.look(NOW)
        os.unlink(path)
        for beat in range(5):
            watch.look(NOW + beat)
        assert "it belongs to whoever passed it" in fact(hands, "socket_vanished", "message")
        assert told(hands) == ["socket_vanished"]
        Path(path).touch()
        for beat in range(5):
            watch.look(NOW + beat)
        assert told(hands) == ["socket_taken"]
        assert hands.pool.listener == 1


@pytest.mark.parametrize(("open_", "shut"), [(False, False), (True, True)])
def test_before_it_serves_and_after_it_stopped_nothing_is_made(
    hands: Hands, path: str, open_: bool, shut: bool
) -> None:
    """A path that is gone is then as it should be."""
    os.unlink(path)
    hands.pool.open, hands.pool.shut = open_, shut
    watch_of(hands).look(NOW)
    assert told(hands) == []
    assert not os.path.lexists(path)


class FakeMaster:
    """As much of a master as a healer meets."""

    def __init__(self) -> None:
        self.pools: list[Hands] = []
        self.beats: list[Any] = []
        self.attended: dict[Any, Any] = {}

    def at_beat(self, call: Any) -> None:
        self.beats.append(call)

    def at_serving(self, call: Any) -> None:
        self.serving = call

    def attend(self, source: Any, call: Any) -> None:
        self.attended[source] = call

    def round(self, now: float) -> float | None:
        """What is ready, then the beat."""
        for source in select.select(list(self.attended), [], [], 0)[0]:
            self.attended[source](now)
        (beat,) = self.beats
        due: float | None = beat(now)
        return due


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    master = FakeMaster()
    healer = Healer(master)  # type: ignore[arg-type]
    yield master
    healer.close()


def test_all_pools_are_looked_at_a_few_times_a_second(hands: Hands, path: str, master: FakeMaster) -> None:
    """However often the loop goes round; a pool that comes with a reload is looked at, too."""
    master.round(NOW)
    os.unlink(path)
    master.pools = [hands]
    assert master.round(NOW + 0.1) is None
    assert not os.path.lexists(path)
    master.round(NOW + 0.2)
    assert serves(path)
    os.unlink(path)
    master.round(NOW + 0.3)
    assert not os.path.lexists(path)
    master.round(NOW + 0.5)
    assert told(hands) == ["socket_vanished", "socket_renewed"] * 2


def test_a_hint_wakes_the_loop_and_hastens_the_next_look(hands: Hands, path: str, master: FakeMaster) -> None:
    """At once where the last look is long ago, else as soon as that may be; also when a foreign file goes."""

    def is_hinted() -> bool:
        return bool(select.select(list(master.attended), [], [], 0)[0])

    master.round(NOW)
    master.pools = [hands]
    master.serving()
    assert not is_hinted()
    os.unlink(path)
    assert is_hinted()
    assert master.round(NOW + 0.05) == NOW + 0.2
    assert not is_hinted()
    assert master.round(NOW + 0.2) is None
    assert serves(path)
    Path(path + ".other").touch()
    os.rename(path + ".other", path)
    assert is_hinted()
    for number in (1, 2):  # with the second look, the last of the one that was deleted is known, too
        master.round(NOW + number)
    assert not is_hinted()
    os.unlink(path)
    assert is_hinted()
    master.round(NOW + 3)
    assert told(hands) == ["socket_vanished", "socket_renewed", "socket_taken", "socket_renewed"]
    assert serves(path)

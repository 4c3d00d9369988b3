"""The listener's life: claim, open, shut, close; with real clients, real neighbours, real deaths."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apart import NOBODY, living, run_apart
from harness import wait_until
from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem, PreforkError
from prefork.system.abstract import claim_name
from prefork.system.listener import Listener, Standing, parse_address
from prefork.system.sockdiag import QueueReading, SocketDiagnosis

CLAIM = """
listener = Listener.claim(parse_address(sys.argv[1]))
print("claimed")
"""

SERVE = """
listener = Listener.claim(parse_address(sys.argv[1]), backlog=1)
listener.open()
ready(str(os.getpid()))
hold()
"""

# A master with a worker that holds its listener and dies, as by its death signal, a little later than it.
MASTER = """
listener = Listener.claim(parse_address(sys.argv[1]))
listener.open()
if os.fork():
    ready(str(os.getpid()))
    hold()
accept = socket.socket(fileno=listener.fileno()).accept
accept()  # the probe of the next master
os._exit(0)
"""

Claim = Callable[..., Listener]


@pytest.fixture
def claim() -> Iterator[Claim]:
    """Listeners that are shut and closed at the test's end."""
    made = []

    def claim(text: object, **options: object) -> Listener:
        made.append(Listener.claim(parse_address(str(text)), **options))  # type: ignore[arg-type]
        return made[-1]

    yield claim
    for listener in made:
        listener.shut()
        listener.close()


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "app.sock")


@pytest.fixture
def name() -> str:
    return f"@prefork-test-{os.getpid()}"


def connect(address: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        client.close()
        raise
    return client


def accept(listener: Listener) -> None:
    descriptor = os.dup(listener.fileno())
    with socket.socket(fileno=descriptor) as duplicate:
        duplicate.accept()[0].close()


def serves(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def test_the_path_exists_only_when_it_serves(claim: Claim, folder: Path, path: str) -> None:
    """After the claim there is a lock and no socket; after open it takes connections, with its mode."""
    listener = claim(path)
    assert os.listdir(folder) == ["app.sock.lock"]
    with pytest.raises(PreforkError, match="not open"):
        listener.fileno()
    listener.open()
    assert serves(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert (str(listener), listener.path, listener.inherited) == (path, path, False)


def test_a_relative_path_keeps_its_meaning(
    claim: Claim, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken from the directory of the claim, wherever the process goes afterwards."""
    monkeypatch.chdir(folder)
    listener = claim("app.sock")
    monkeypatch.chdir("/")
    listener.open()
    assert serves(path)
    assert (str(listener), listener.path) == ("app.sock", path)
    listener.shut()
    assert not os.path.lexists(path)


def test_the_final_stop_refuses_new_and_serves_queued(claim: Claim, path: str) -> None:
    """Queued connections are accepted, then accept(2) fails with EINVAL; the path is gone, the lock file stays."""
    listener = claim(path)
    listener.open()
    clients = [connect(path) for _ in range(3)]
    os.link(path, path + ".alias")  # the name goes with the stop; this one shows what the socket itself says
    listener.shut()
    listener.shut()
    with pytest.raises(FileNotFoundError):
        connect(path)
    with pytest.raises(ConnectionRefusedError):
        connect(path + ".alias")
    for client in clients:
        accept(listener)
        client.close()
    with pytest.raises(OSError) as ended:
        accept(listener)
    assert ended.value.errno == errno.EINVAL
    listener.close()
    listener.close()
    assert os.path.exists(path + ".lock")


def test_a_successor_at_the_path_survives_our_stop(claim: Claim, path: str) -> None:
    """What another process put there is not ours to unlink."""
    listener = claim(path)
    listener.open()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path + ".new")
        other.listen(1)
        os.rename(path + ".new", path)
        listener.shut()
        listener.close()
        assert serves(path)


def test_a_closed_listener_unlinks_nothing(claim: Claim, path: str) -> None:
    """close is for processes that leave the socket to others."""
    listener = claim(path)
    listener.open()
    listener.close()
    assert os.path.lexists(path)
    with pytest.raises(PreforkError, match="not open"):
        listener.fileno()


def test_what_was_closed_is_not_opened(claim: Claim, path: str, name: str) -> None:
    """Without its claim a listener would be a thief."""
    for text in (path, name):
        listener = claim(text)
        listener.close()
        with pytest.raises(PreforkError, match="was closed"):
            listener.open()
    assert not os.path.lexists(path)


def test_start_stop_start_on_the_same_path(claim: Claim, path: str) -> None:
    """A stop leaves nothing in the way of the next start."""
    for _ in range(3):
        listener = claim(path)
        listener.open()
        assert serves(path)
        listener.shut()
        listener.close()


def test_two_pools_on_one_path_are_refused(claim: Claim, path: str) -> None:
    """Under any spelling, before and after the first opens; the first is not harmed."""
    first = claim(path)
    for _ in range(2):
        with pytest.raises(AddressInUse, match="twice in one server"):
            claim(path.replace("/app.sock", "/../" + Path(path).parent.name + "/app.sock"))
        first.open() if not os.path.lexists(path) else None
    assert run_apart(CLAIM, path).startswith(f"AddressInUse {path} is claimed by a running server, pid {os.getpid()},")
    assert serves(path)


def test_a_claim_without_a_socket_yet_keeps_others_out(claim: Claim, path: str) -> None:
    """While the application is loaded, too."""
    claim(path)
    assert run_apart(CLAIM, path).startswith("AddressInUse")


def test_a_live_server_is_named_by_pid(claim: Claim, path: str) -> None:
    """The one that runs goes on, whether it is one of ours or not."""
    with living(SERVE, path) as (_, pid):
        with pytest.raises(AddressInUse, match=rf"pid {pid},"):
            claim(path)
        os.unlink(path + ".lock")  # as a stranger's server, which has none
        with pytest.raises(AddressInUse, match=rf"in use by a live server, pid {pid}:"):
            claim(path)
        assert serves(path)


def test_after_kill_9_the_next_start_succeeds(claim: Claim, path: str) -> None:
    """Although a worker of the dead master still holds its listener for a moment."""
    with living(MASTER, path) as (master, _):
        master.send_signal(signal.SIGKILL)
        master.wait()
        listener = claim(path)
        listener.open()
        assert serves(path)


def test_after_kill_9_an_abstract_name_is_free_again(claim: Claim, name: str) -> None:
    """The same without a lock: the name is waited for."""
    with living(MASTER, name) as (master, _):
        master.send_signal(signal.SIGKILL)
        master.wait()
        listener = claim(name)
        listener.open()
        assert serves(name)


def test_abstract_names_are_claimed_before_they_listen(claim: Claim, name: str) -> None:
    """A second claim is refused at once, and a client sees nothing until open."""
    listener = claim(name)
    assert not serves(name)
    assert run_apart(CLAIM, name).startswith(f"AddressInUse {name} is in use by a live server, pid {os.getpid()}")
    with pytest.raises(AddressInUse, match="twice in one server"):
        claim(name)
    listener.open()
    assert serves(name)
    assert listener.path is None
    assert listener.warnings == ()
    listener.shut()
    assert not serves(name)
    listener.close()
    assert run_apart(CLAIM, name) == "claimed"


@pytest.mark.parametrize("text", ["@prefork-test-access", "fd://99"])
@pytest.mark.parametrize(("option", "value"), [("mode", 0o660), ("owner", "root"), ("group", "root")])
def test_only_files_have_mode_and_owner(claim: Claim, text: str, option: str, value: object) -> None:
    """An abstract or inherited socket with one is an error that names the option."""
    with pytest.raises(ConfigurationError, match=f"socket_{option} means nothing for it"):
        claim(text, **{option: value})


def test_over_long_names_are_refused(claim: Claim, folder: Path) -> None:
    """Paths and abstract names alike, with length and limit; nothing is left."""
    for text in (f"{folder}/{'x' * 107}", "@" + "x" * 108):
        with pytest.raises(ConfigurationError, match=r"bytes long, .* at most 107"):
            claim(text)
    assert os.listdir(folder) == []
    claim(f"@{os.getpid()}".ljust(108, "x"))


def test_what_the_kernel_says_of_a_name_is_passed_on() -> None:
    """Besides "taken", which is looked into."""
    with pytest.raises(PermissionProblem, match="cannot be made: AF_UNIX path too long"):
        claim_name("x" * 200)


@pytest.mark.parametrize("backlog", [0, -1])
def test_a_backlog_that_admits_nobody_is_refused(claim: Claim, path: str, backlog: int) -> None:
    """Zero and less are no queue."""
    with pytest.raises(ConfigurationError, match=f"backlog {backlog}: expected"):
        claim(path, backlog=backlog)
    assert not os.path.lexists(path + ".lock")


def test_the_backlog_is_what_the_kernel_applies(claim: Claim, path: str, name: str) -> None:
    """Clamped to somaxconn with a warning that has both numbers; else as asked, without one."""
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    diagnosis = SocketDiagnosis()
    clamped = claim(name, backlog=2**40)
    clamped.open()
    exact = claim(path, backlog=7)
    exact.open()
    readings = [diagnosis.queue(listener.inode) for listener in (clamped, exact)]
    diagnosis.close()
    assert readings == [QueueReading(0, limit), QueueReading(0, 7)]
    assert [clamped.backlog, exact.backlog] == [limit, 7]
    (warning,) = clamped.warnings
    assert str(2**40) in warning
    assert f"net.core.somaxconn = {limit}:" in warning


def test_a_cleaned_place_is_warned_of(claim: Claim, path: str) -> None:
    """The folder of these tests is under /tmp."""
    (warning,) = claim(path, backlog=1).warnings
    assert "systemd-tmpfiles" in warning


def test_a_failed_open_leaves_what_was_there(claim: Claim, folder: Path, path: str) -> None:
    """Something that came to the path since the claim is not touched, and no socket appears."""
    listener = claim(path)
    Path(path).write_text("precious")
    with pytest.raises(AddressInUse):
        listener.open()
    listener.shut()
    assert Path(path).read_text() == "precious"
    assert sorted(os.listdir(folder)) == ["app.sock", "app.sock.lock"]


def test_a_failed_listen_leaves_nothing(claim: Claim, path: str) -> None:
    """Whatever listen(2) fails of, the path is free afterwards, and so is the claim."""
    listener = claim(path)
    listener.backlog = 2**40
    with pytest.raises(OverflowError):
        listener.open()
    assert not os.path.lexists(path)
    assert run_apart(CLAIM, path) == "claimed"


def test_a_failed_claim_releases_everything(claim: Claim, folder: Path, path: str) -> None:
    """No descriptor, no lock."""
    Path(path).write_text("precious")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigurationError, match="not a socket"):
        claim(path)
    assert os.listdir("/proc/self/fd") == before
    os.unlink(path)
    assert run_apart(CLAIM, path) == "claimed"


def test_descriptors_close_on_exec(claim: Claim, path: str) -> None:
    """Neither the listener nor the lock reaches a program that is executed."""
    listener = claim(path)
    listener.open()
    assert listener._lock is not None
    assert not os.get_inheritable(listener.fileno())
    assert not os.get_inheritable(listener._lock.descriptor)


def test_an_inherited_socket_is_used_and_left_as_it_is(claim: Claim, path: str) -> None:
    """It serves from the claim on; our stop neither shuts it nor removes its path."""
    with socket.socket(socket.AF_UNIX) as giver:
        giver.bind(path)
        giver.listen(3)
        listener = claim(f"fd://{giver.fileno()}", backlog=2**40)
        listener.open()
        assert (listener.inherited, listener.limit) == (True, None)
        assert listener.inode == os.fstat(giver.fileno()).st_ino
        assert listener.path == listener.entrance == path
        assert listener.warnings == ()
        listener.shut()
        listener.close()
        client = connect(path)
        giver.accept()[0].close()
        client.close()


def test_an_inherited_abstract_socket_has_no_path(claim: Claim, name: str) -> None:
    """There is nothing in the file system to judge; its name leads to it."""
    with socket.socket(socket.AF_UNIX) as giver:
        giver.bind("\0" + name[1:])
        giver.listen(3)
        listener = claim(f"fd://{giver.fileno()}")
        assert (listener.path, listener.entrance) == (None, name)


def test_what_leads_to_a_listener(claim: Claim, path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As --socket takes it; a passed socket may have been bound to a path that means something to its giver alone."""
    assert claim(path).entrance == path
    assert claim(name).entrance == name
    port = claim("127.0.0.1:0")
    assert port.entrance == port.port != ""
    with socket.socket() as giver:
        giver.listen(3)
        assert claim(f"fd://{giver.fileno()}").entrance == f"0.0.0.0:{giver.getsockname()[1]}"
    with socket.socket(socket.AF_UNIX) as giver:
        monkeypatch.chdir(os.path.dirname(path))
        giver.bind("relative.sock")
        giver.listen(3)
        assert claim(f"fd://{giver.fileno()}").entrance is None


def test_too_many_open_files_are_our_error(path: str, name: str) -> None:
    """At the claim and at open, with nothing left at the path."""
    script = (
        "import resource\n"
        "listener = Listener.claim(parse_address(sys.argv[1]))\n"
        "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))\n"
        "for attempt in (listener.open, lambda: Listener.claim(parse_address(sys.argv[2]))):\n"
        "    try:\n"
        "        attempt()\n"
        "    except PreforkError as problem:\n"
        "        print(type(problem).__name__, problem)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, before)\n"
    )
    assert run_apart(script, path, name).splitlines() == [
        f"PermissionProblem the socket {path} cannot be made: Too many open files",
        f"PermissionProblem the socket {name} cannot be claimed: Too many open files",
    ]
    assert not os.path.lexists(path)


# the living listener


def queue(listener: Listener) -> QueueReading | None:
    diagnosis = SocketDiagnosis()
    reading = listener.queue(diagnosis)
    diagnosis.close()
    return reading


def end_of_queue(listener: Listener) -> int:
    """How many can be accepted until accept(2) fails with EINVAL."""
    for count in itertools.count():
        try:
            accept(listener)
        except OSError as ended:
            if ended.errno != errno.EINVAL:
                raise
            return count
    raise AssertionError


def test_where_the_path_leads(claim: Claim, folder: Path, path: str) -> None:
    """To us, to nothing, to somebody else, and to us again; a directory that is a file leads nowhere."""
    listener = claim(path)
    listener.open()
    assert listener.standing() is Standing.OURS
    os.rename(path, path + ".aside")
    assert listener.standing() is Standing.GONE
    places: list[Callable[[], None]] = [Path(path).touch, Path(path).mkdir, lambda: os.symlink(path + ".aside", path)]
    for put in places:
        put()
        assert listener.standing() is Standing.TAKEN
        Path(path).rmdir() if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    os.rename(path + ".aside", path)
    assert listener.standing() is Standing.OURS
    aside = folder.with_name(folder.name + ".aside")
    folder.rename(aside)
    assert listener.standing() is Standing.GONE
    folder.touch()
    assert listener.standing() is Standing.GONE
    folder.unlink()
    aside.rename(folder)
    assert listener.standing() is Standing.OURS


@pytest.mark.root
def test_a_path_that_may_not_be_looked_at(folder: Path) -> None:
    """Not the same as one that leads to nothing."""
    (folder / "deep").mkdir(mode=0o777)
    (folder / "deep").chmod(0o777)
    script = (
        "listener = Listener.claim(parse_address(sys.argv[1]))\n"
        "listener.open()\n"
        "os.chmod(sys.argv[2], 0)\n"
        "print(listener.standing().name)\n"
        "listener.close()\n"
    )
    os.chown(folder / "deep", NOBODY, NOBODY)
    assert run_apart(script, str(folder / "deep" / "app.sock"), str(folder / "deep"), user=NOBODY) == "HIDDEN"


def test_what_has_no_path_always_stands(claim: Claim, name: str) -> None:
    """Abstract names and ports cannot be deleted."""
    for text in (name, "127.0.0.1:0"):
        listener = claim(text)
        listener.open()
        assert listener.standing() is Standing.OURS
        assert listener.is_claimed
        listener.claim_again()
        with pytest.raises(PreforkError, match="not ours to be made anew"):
            listener.renew()


def test_an_inherited_path_is_watched_and_never_made_anew(claim: Claim, path: str) -> None:
    """It is the owner's; where he has removed it before the start, there is nothing to watch."""
    with socket.socket(socket.AF_UNIX) as giver:
        giver.bind(path)
        giver.listen(3)
        listener = claim(f"fd://{giver.fileno()}")
        assert listener.standing() is Standing.OURS
        os.unlink(path)
        assert listener.standing() is Standing.GONE
        with pytest.raises(PreforkError, match="not ours to be made anew"):
            listener.renew()
        late = claim(f"fd://{giver.fileno()}")
        assert (late.path, late.standing()) == (path, Standing.OURS)


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o606])
def test_a_deleted_path_is_bound_anew_and_loses_nobody(claim: Claim, path: str, umask: int, mode: int) -> None:
    """The queue of the old one is served to its end; newcomers meet the new one, with its mode from the beginning."""
    before = os.umask(umask)
    try:
        old = claim(path, mode=mode, backlog=16)
        old.open()
        early = [connect(path) for _ in range(3)]
        os.unlink(path)
        new = old.renew()
    finally:
        os.umask(before)
    old.give_way()
    late = [connect(path) for _ in range(2)]
    assert stat.S_IMODE(os.lstat(path).st_mode) == mode
    assert (new.standing(), new.is_claimed, str(new), new.path, new.backlog) == (Standing.OURS, True, path, path, 16)
    assert (queue(old), queue(new)) == (QueueReading(3, 16), QueueReading(2, 16))
    assert end_of_queue(old) == 3
    for _ in late:
        accept(new)
    assert run_apart(CLAIM, path).startswith(f"AddressInUse {path} is claimed by a running server, pid {os.getpid()},")
    old.close()
    assert serves(path)
    for client in early + late:
        client.close()
    new.shut()
    new.close()
    assert not os.path.lexists(path)
    assert run_apart(CLAIM, path) == "claimed"


def test_who_waits_for_room_at_a_deleted_path_is_let_in_by_the_new_socket(claim: Claim, path: str) -> None:
    """A blocking connect to a full queue: the kernel looks its path up again, once there is room."""
    old = claim(path, backlog=1)
    old.open()
    early = [connect(path) for _ in range(2)]
    assert queue(old) == QueueReading(2, 1)
    with living(CONNECT, path) as (waiting, pid):
        wait_until(lambda: "unix_wait_for_peer" in Path(f"/proc/{pid}/wchan").read_text(), what="it waits for room")
        os.unlink(path)
        new = old.renew()
        old.give_way()
        assert end_of_queue(old) == 2
        accept(new)
        assert waiting.wait(10) == 0
    for client in early:
        client.close()
    new.shut()
    new.close()


CONNECT = """
ready(str(os.getpid()))
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(None)
    client.connect(sys.argv[1])
"""


def test_a_path_that_cannot_be_bound_anew_changes_nothing(claim: Claim, folder: Path, path: str) -> None:
    """Taken, no directory, no lock to be had: an error in words, and the listener and its claim are what they were."""
    listener = claim(path)
    listener.open()
    client = connect(path)
    os.unlink(path)
    Path(path).touch()
    with pytest.raises(AddressInUse, match="something stands there"):
        listener.renew()
    assert listener.is_claimed
    os.unlink(path)
    aside = folder.with_name(folder.name + ".aside")
    folder.rename(aside)
    with pytest.raises(ConfigurationError, match=rf"directory {folder} does not exist: create it"):
        listener.renew()
    aside.rename(folder)
    os.unlink(path + ".lock")
    with living(TAKE, path) as (_, pid):
        with pytest.raises(AddressInUse, match=rf"claimed by a running server, pid {pid},"):
            listener.renew()
        assert not os.path.lexists(path)
    accept(listener)
    client.close()
    new = listener.renew()
    listener.give_way()
    assert serves(path)
    assert new.is_claimed
    new.shut()
    new.close()


TAKE = """
from prefork.system.ownership import PathLock
lock = PathLock(sys.argv[1])
ready(str(os.getpid()))
hold()
"""


def test_a_failed_listen_of_a_renewed_socket_leaves_the_claim(
    claim: Claim, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no file at the path."""
    listener = claim(path)
    listener.open()
    os.unlink(path)
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "listen", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOBUFS, "no room")))
        with pytest.raises(PermissionProblem, match="cannot be made: no room"):
            listener.renew()
    assert not os.path.lexists(path)
    assert run_apart(CLAIM, path).startswith("AddressInUse")


def test_a_deleted_lock_file_is_claimed_again(claim: Claim, path: str) -> None:
    """What is written there, too: where the server takes orders."""
    listener = claim(path)
    listener.open()
    listener.note_control("/run/control")
    os.unlink(path + ".lock")
    claimed = [listener.is_claimed]
    listener.claim_again()
    assert [*claimed, listener.is_claimed] == [False, True]
    assert Path(path + ".lock").stat().st_size > 0
    script = "from prefork.system.ownership import read_notes\nprint(read_notes(sys.argv[1])['control'])"
    assert run_apart(script, path) == "/run/control"
    assert run_apart(CLAIM, path).startswith(f"AddressInUse {path} is claimed by a running server, pid {os.getpid()},")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_and_backlog_of_a_living_listener(claim: Claim, path: str, umask: int) -> None:
    """The same socket, the same queue; what is bound anew later has them, too."""
    listener = claim(path, mode=0o600, backlog=5)
    listener.open()
    client = connect(path)
    inode = listener.inode
    before = os.umask(umask)
    try:
        listener.apply(listener.check_change(mode=0o666, backlog=7))
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o666
        assert (queue(listener), listener.inode, listener.backlog) == (QueueReading(1, 7), inode, 7)
        os.unlink(path)
        new = listener.renew()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o666
    assert queue(new) == QueueReading(0, 7)
    client.close()
    new.shut()
    new.close()


def test_a_longer_queue_lets_in_who_waits_for_room(claim: Claim, path: str) -> None:
    """At once, though nobody accepts."""
    listener = claim(path, backlog=1)
    listener.open()
    clients = [connect(path) for _ in range(2)]
    with living(CONNECT, path) as (waiting, pid):
        wait_until(lambda: "unix_wait_for_peer" in Path(f"/proc/{pid}/wchan").read_text(), what="it waits for room")
        listener.apply(listener.check_change(backlog=8))
        assert waiting.wait(10) == 0
    for client in clients:
        client.close()


def test_a_change_that_is_refused_changes_nothing(claim: Claim, path: str, name: str) -> None:
    """Unknown names, backlogs of nobody, modes out of range, modes of what has no file: told when it is checked."""
    listener, abstract = claim(path), claim(name)
    listener.open()
    for options, told in (
        ({"mode": 0o1777}, "expected an octal mode"),
        ({"owner": "no-such-user"}, "there is no user"),
        ({"group": "no-such-group"}, "there is no group"),
        ({"backlog": 0}, "backlog 0: expected"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            listener.check_change(**options)
    with pytest.raises(ConfigurationError, match="socket_mode means nothing for it"):
        abstract.check_change(mode=0o600)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o660
    (warning,) = listener.check_change(backlog=2**30).warnings
    assert str(2**30) in warning


def test_a_change_does_not_open_what_is_only_claimed(claim: Claim, name: str) -> None:
    """The path, or the name, serves when the application is there, and not before."""
    listener = claim(name, backlog=1)
    listener.apply(listener.check_change(backlog=3))
    assert not serves(name)
    listener.open()
    assert queue(listener) == QueueReading(0, 3)


def test_an_inherited_socket_keeps_the_queue_its_owner_gave_it(claim: Claim, path: str) -> None:
    """A mode is refused, a backlog is not for us to say."""
    with socket.socket(socket.AF_UNIX) as giver:
        giver.bind(path)
        giver.listen(3)
        listener = claim(f"fd://{giver.fileno()}")
        change = listener.check_change(backlog=2**30)
        assert change.warnings == ()
        listener.apply(change)
        assert queue(listener) == QueueReading(0, 3)
        with pytest.raises(ConfigurationError, match="belongs to its giver"):
            listener.check_change(mode=0o600)
        listener.give_way()
        assert serves(path)


def test_a_port_has_its_queue_changed(claim: Claim) -> None:
    """Which is all that can be."""
    listener = claim("127.0.0.1:0", backlog=5)
    listener.open()
    listener.apply(listener.check_change(backlog=9))
    reading = queue(listener)
    assert reading is not None
    assert reading.limit == 9


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("app.sock", "./app.sock", True),
        ("app.sock", "other.sock", False),
        ("app.sock", "@app.sock", False),
        ("@app", "@app", True),
        ("@app", "@ap", False),
        ("127.0.0.1:8000", "127.0.0.1:8000", True),
        ("127.0.0.1:8000", "127.0.0.1:8001", False),
        ("fd://9", "fd://9", True),
        ("fd://9", "fd://10", False),
    ],
)
def test_whether_an_address_asks_for_another_listener(
    folder: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str, same: bool
) -> None:
    """However it is spelled."""
    monkeypatch.chdir(folder)
    assert Listener.prepare(parse_address(one)).is_at(parse_address(other)) is same


def test_another_path_takes_over(claim: Claim, path: str) -> None:
    """The old one refuses and is gone, its claim free; who waited there is served."""
    old, new = claim(path), claim(path + ".new")
    old.open()
    client = connect(path)
    new.open()
    old.give_way()
    assert serves(path + ".new")
    assert not os.path.lexists(path)
    assert end_of_queue(old) == 1
    assert run_apart(CLAIM, path) == "claimed"
    client.close()

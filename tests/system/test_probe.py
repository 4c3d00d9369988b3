"""What stands at an address, told from real sockets in every condition."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from apart import NOBODY, living, run_apart
from prefork.errors import AddressInUse, ConfigurationError
from prefork.system import probe as module
from prefork.system.probe import Finding, Found, clear_path, describe_pid, find_listener_pid, is_orphan, probe

# A server whose starter has gone, as after kill -9 of a master: the child holds the listener.
ORPHAN = """
import select
starter = os.pidfd_open(os.getpid())
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(int(sys.argv[2]))
if os.fork():
    os._exit(0)
select.select([starter], [], [])
ready(str(os.getpid()))
{}
"""

SERVE = """
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(int(sys.argv[2]))
ready(str(os.getpid()))
hold()
"""


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "app.sock")


def leave_dead(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen(1)


def test_nothing_and_dead_and_live_are_told_apart(path: str) -> None:
    """Absent, refusing, listening; and the pid of who called listen(2)."""
    assert probe(path) == Finding(Found.NOTHING)
    leave_dead(path)
    assert probe(path) == Finding(Found.DEAD)
    os.unlink(path)
    with living(SERVE, path, "5") as (_, pid):
        assert probe(path) == Finding(Found.LIVE, int(pid))


def test_a_full_queue_is_alive(path: str) -> None:
    """EAGAIN hides the pid from the probe, and /proc still has it."""
    with living(SERVE, path, "0") as (_, pid), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert probe(path) == Finding(Found.LIVE, None)
        assert find_listener_pid(path) == int(pid)
        with pytest.raises(AddressInUse, match=rf"{path} is in use by a live server, pid {pid} \(its queue is full\)"):
            clear_path(path)


def test_abstract_names_are_probed_alike() -> None:
    """A name that begins with NUL, absent and live."""
    name = f"\0prefork-test-{os.getpid()}"
    assert probe(name) == Finding(Found.DEAD)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        assert find_listener_pid(name) == os.getpid()
        server.listen(0)
        assert probe(name) == Finding(Found.LIVE, os.getpid())
        assert find_listener_pid(name) == os.getpid()


def test_a_socket_of_another_type_is_refused(path: str) -> None:
    """A living datagram socket is somebody's, and stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        datagram.bind(path)
        with pytest.raises(AddressInUse, match="another type"):
            clear_path(path)
    assert os.path.lexists(path)
    clear_path(path)
    assert not os.path.lexists(path)


def test_a_dead_socket_is_removed_and_an_empty_path_is_fine(path: str) -> None:
    """After kill -9 of everything the path is free again, and clearing twice changes nothing."""
    leave_dead(path)
    clear_path(path)
    clear_path(path)
    assert not os.path.lexists(path)


def test_only_the_socket_that_was_probed_is_removed(path: str) -> None:
    """What took its place between probe and unlink stays."""
    leave_dead(path)
    probed = os.lstat(path)
    os.rename(path, path + ".aside")  # keeps the inode number in use
    leave_dead(path)
    module._remove(path, probed)
    assert os.path.lexists(path)
    os.unlink(path)
    module._remove(path, probed)


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "link to a live socket", "dangling link"])
def test_what_is_no_socket_is_left_alone(folder: Path, path: str, kind: str) -> None:
    """Files, directories, pipes and links of every kind: an error with the path, and nothing is touched."""
    place = Path(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "real.sock"))
    server.listen(1)
    match kind:
        case "file":
            place.write_text("precious")
        case "directory":
            place.mkdir()
        case "fifo":
            os.mkfifo(place)
        case "link to a live socket":
            place.symlink_to(folder / "real.sock")
        case "dangling link":
            place.symlink_to(folder / "nowhere")
    before = place.lstat()
    with pytest.raises(ConfigurationError, match=f"{path} is a .*left alone"):
        clear_path(path)
    server.close()
    after = place.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)


def test_a_live_server_is_refused_by_pid_at_once(path: str) -> None:
    """Its socket stays, and it still answers."""
    with living(SERVE, path, "5") as (_, pid):
        with pytest.raises(AddressInUse, match=rf"{path} is in use by a live server, pid {pid}: stop that one"):
            clear_path(path)
        assert probe(path).found is Found.LIVE


def test_our_own_listener_is_said_to_be_ours(path: str) -> None:
    """Two pools on one socket, without a lock between them."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(5)
        with pytest.raises(AddressInUse, match="twice in one server"):
            clear_path(path)


def test_dying_children_of_a_killed_server_are_waited_for(path: str) -> None:
    """The child dies of the first probe; the second finds the socket dead."""
    with living(ORPHAN.format("listener.accept()"), path, "5"):
        clear_path(path)
    assert not os.path.lexists(path)


def test_a_connection_that_outlives_its_server_is_no_server(path: str) -> None:
    """An accepted connection bears the listener's name in /proc, and proves nothing."""
    outlive = "accepted, _ = listener.accept()\nlistener.close()\nhold()"
    with living(ORPHAN.format(outlive), path, "5"):
        clear_path(path)
    assert not os.path.lexists(path)


def test_a_full_queue_of_a_killed_server_is_waited_for(path: str) -> None:
    """Nobody can say whose a full queue is: it is given the time that dying children need."""
    with living(ORPHAN.format("sys.stdin.readline()"), path, "0") as (process, _):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        done = threading.Thread(target=clear_path, args=(path,))
        done.start()
        assert process.stdin is not None
        process.stdin.write("die\n")
        process.stdin.flush()
        done.join()
        client.close()
    assert not os.path.lexists(path)


def test_children_that_stay_are_a_live_server(path: str) -> None:
    """A server whose starter merely left is refused after two seconds, and not harmed."""
    with living(ORPHAN.format("hold()"), path, "50") as (_, pid):
        with pytest.raises(AddressInUse, match="in use by a live server"):
            clear_path(path)
        assert find_listener_pid(path) == int(pid)
        assert probe(path).found is Found.LIVE


def test_who_counts_as_an_orphan() -> None:
    """A process that runs, one of another pid namespace, none, and a zombie."""
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert not is_orphan(Finding(Found.LIVE, os.getpid()))
    assert not is_orphan(Finding(Found.LIVE, 0))
    assert is_orphan(Finding(Found.LIVE, None))
    assert is_orphan(Finding(Found.LIVE, zombie))
    os.waitpid(zombie, 0)
    assert is_orphan(Finding(Found.LIVE, zombie))


def test_hidden_processes_are_named_so() -> None:
    """No invented pid."""
    assert describe_pid(12) == "pid 12"
    assert describe_pid(0) == describe_pid(None) == "pid unknown (another user's or another container's)"


@pytest.mark.root
def test_a_socket_that_refuses_us_is_explained(folder: Path, path: str) -> None:
    """Without write permission nobody can tell whether it lives: an error with the mend, and it stays."""
    leave_dead(path)
    os.chmod(path, 0o600)
    folder.chmod(0o1777)
    script = "from prefork.system.probe import clear_path\nclear_path(sys.argv[1])"
    assert run_apart(script, path, user=NOBODY).startswith(f"PermissionProblem {path} exists, and nobody may not conn")
    os.chmod(path, 0o666)
    assert run_apart(script, path, user=NOBODY).startswith(
        f"PermissionProblem the dead socket {path} of root cannot be"
    )
    assert os.path.lexists(path)


def test_a_path_that_leads_nowhere_is_our_error(folder: Path) -> None:
    """What connect(2) says of a path that nobody checked before is not left bare."""
    (folder / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be probed: Not a directory"):
        probe(str(folder / "file" / "x"))


@pytest.mark.root
def test_another_users_server_may_be_hidden(path: str) -> None:
    """An ordinary user cannot look into root's processes: unknown, and said so."""
    with living(SERVE, path, "0"), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        os.chmod(path, 0o666)
        answer = run_apart("from prefork.system.probe import *\nclear_path(sys.argv[1])", path, user=NOBODY)
    assert answer.startswith(f"AddressInUse {path} is in use by a live server, pid unknown")


def test_a_socket_that_vanishes_under_the_probe_is_nothing(path: str) -> None:
    """Between lstat and connect: a path that leads to nothing any more is a free one."""
    leave_dead(path)
    os.rename(path, path + ".aside")
    os.symlink("gone", path)
    assert probe(path) == Finding(Found.NOTHING)


def test_without_descriptors_nothing_is_claimed_to_be_known() -> None:
    """What /proc cannot be asked counts as alive and as nobody's."""
    script = (
        "import resource\n"
        "from prefork.system import probe, backlog, sockdiag\n"
        "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))\n"
        "print(probe._runs(1), probe.find_listener_pid('@x'), backlog.clamp(2**31 - 1), end=' ')\n"
        "print(sockdiag.SocketDiagnosis().queue(1))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, before)\n"
    )
    assert run_apart(script) == "True None (2147483647, ()) None"

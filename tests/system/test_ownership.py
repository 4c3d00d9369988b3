"""The lock beside the path, between real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY, living, run_apart
from prefork.errors import AddressInUse, ConfigurationError
from prefork.system import ownership
from prefork.system.ownership import PathLock

NOTES = "from prefork.system.ownership import read_notes\n"
TAKE = """
from prefork.system.ownership import PathLock
lock = PathLock(sys.argv[1])
ready(str(os.getpid()))
hold()
"""


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "app.sock")


@pytest.fixture
def lock(path: str) -> Iterator[PathLock]:
    lock = PathLock(path)
    yield lock
    lock.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_file_is_for_people_and_for_its_owner_alone(path: str, umask: int) -> None:
    """Pid and path stand in it, it is 0600 under every umask, and it stays when the lock goes."""
    before = os.umask(umask)
    try:
        lock = PathLock(path)
    finally:
        os.umask(before)
    lock.close()
    lock.close()
    file = Path(lock.path)
    assert file.read_text() == f"pid={os.getpid()}\nsocket={path}\n"
    assert file.stat().st_mode & 0o7777 == 0o600


def test_a_longer_text_of_a_predecessor_is_gone(path: str) -> None:
    """The text is that of the present holder, whole."""
    Path(path + ".lock").write_text("x" * 1000)
    PathLock(path).close()
    assert Path(path + ".lock").read_text() == f"pid={os.getpid()}\nsocket={path}\n"


def test_another_process_is_refused_with_the_holders_pid(lock: PathLock, path: str) -> None:
    """The pid comes from the kernel, whatever the file says."""
    os.pwrite(lock.descriptor, b"pid=1\n", 0)  # not by opening the file: that would end the lock
    assert run_apart(TAKE, path).startswith(f"AddressInUse {path} is claimed by a running server, pid {os.getpid()},")


def test_a_second_claim_in_one_process_is_refused_and_harms_nothing(lock: PathLock, path: str) -> None:
    """Also under another spelling; afterwards the first still holds."""
    for spelling in (path, path.replace("/app.sock", "/./app.sock")):
        with pytest.raises(AddressInUse, match="twice in one server"):
            PathLock(spelling)
    assert run_apart(TAKE, path).startswith("AddressInUse")


def test_the_lock_goes_with_its_holder(path: str) -> None:
    """After kill -9 it is free at once; after close, too."""
    with living(TAKE, path) as (holder, pid):
        with pytest.raises(AddressInUse, match=rf"pid {pid},"):
            PathLock(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        PathLock(path).close()
    assert run_apart(TAKE, path).isdigit()


def test_a_refused_claim_keeps_no_descriptor(path: str) -> None:
    """What fails leaves the process as it was."""
    with living(TAKE, path):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(AddressInUse):
            PathLock(path)
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "directory", "fifo"])
def test_what_is_no_plain_file_is_refused_and_untouched(folder: Path, path: str, kind: str) -> None:
    """Nothing is ever written through a name that could lead to somebody's file."""
    victim = folder / "victim"
    victim.write_text("precious")
    lock = Path(path + ".lock")
    match kind:
        case "link":
            lock.symlink_to(victim)
        case "dangling":
            lock.symlink_to(folder / "nowhere")
        case "hard":
            lock.hardlink_to(victim)
        case "directory":
            lock.mkdir()
        case "fifo":
            os.mkfifo(lock)
    with pytest.raises(ConfigurationError, match=r"the lock file .* remove it"):
        PathLock(path)
    assert victim.read_text() == "precious"
    assert not (folder / "nowhere").exists()


def test_a_file_that_cannot_be_locked_is_explained(lock: PathLock) -> None:
    """Whatever lockf(3) says besides "taken": here, that the descriptor is not writable."""
    other = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(ConfigurationError, match=r"cannot be locked .*: put the socket on a local file system"):
            lock._lock(other, 0.0)
    finally:
        os.close(other)


@pytest.mark.root
def test_a_lock_file_of_another_user_is_explained(folder: Path, path: str) -> None:
    """A user who may not open it learns whose it is, and what to do."""
    folder.chmod(0o777)
    PathLock(path).close()
    answer = run_apart(TAKE, path, user=NOBODY)
    assert answer.startswith(f"PermissionProblem the lock file {path}.lock belongs to root and nobody may not open it")
    assert "remove the file" in answer


@pytest.mark.root
def test_a_live_server_of_another_user_is_said_to_be_alive(folder: Path, path: str) -> None:
    """Where the lock cannot be tried, the probe still can."""
    folder.chmod(0o777)
    serve = "l = Listener.claim(parse_address(sys.argv[1]), mode=0o666)\nl.open()\nready(str(os.getpid()))\nhold()"
    with living(serve, path) as (_, pid):
        answer = run_apart(TAKE, path, user=NOBODY)
    assert answer.startswith(f"AddressInUse {path} is in use by a live server, pid {pid}")


@pytest.mark.root
def test_root_takes_over_what_a_user_left(folder: Path, path: str) -> None:
    """A lock file that another user left in a sticky directory is opened, not created (fs.protected_regular)."""
    folder.chmod(0o1777)
    assert run_apart(TAKE, path, user=NOBODY).isdigit()
    lock = PathLock(path)
    lock.close()
    assert Path(lock.path).stat().st_uid == NOBODY


def stands(lock: PathLock) -> bool:
    """Looked at anew each time, for the type checker, too."""
    return lock.stands


def test_a_deleted_file_is_no_claim_until_it_is_made_anew(lock: PathLock, path: str) -> None:
    """Until then another may claim the path; afterwards it cannot, and what was noted stands there again."""
    lock.note(control="/run/control")
    assert stands(lock)
    os.unlink(lock.path)
    assert not stands(lock)
    lock.renew()
    assert stands(lock)
    assert Path(lock.path).stat().st_mode & 0o7777 == 0o600
    assert run_apart(f"{NOTES}print(read_notes(sys.argv[1]))", path) == str(
        {"pid": str(os.getpid()), "socket": path, "control": "/run/control"}
    )
    assert run_apart(TAKE, path).startswith(f"AddressInUse {path} is claimed by a running server, pid {os.getpid()},")


def test_a_lock_that_another_took_meanwhile_is_his(lock: PathLock, path: str) -> None:
    """Without waiting for him; when he is gone it is ours again, and no descriptor is lost on the way."""
    os.unlink(lock.path)
    before = os.listdir("/proc/self/fd")
    with living(TAKE, path) as (holder, pid):
        for _ in range(2):
            with pytest.raises(AddressInUse, match=rf"claimed by a running server, pid {pid},"):
                lock.renew()
            assert not lock.stands
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        lock.renew()
    assert lock.stands
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert run_apart(TAKE, path).startswith("AddressInUse")


def test_a_file_that_is_deleted_while_it_is_locked_is_not_taken_for_the_claim(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a file that no path leads to keeps nobody out."""
    deleted: list[int] = []

    def delete_first(file: str, descriptor: int) -> None:
        check(file, descriptor)
        if not deleted:
            deleted.append(os.fstat(descriptor).st_ino)
            os.unlink(file)

    check = ownership._check_lock_file
    monkeypatch.setattr(ownership, "_check_lock_file", delete_first)
    lock = PathLock(path)
    assert deleted
    assert lock.stands
    assert run_apart(TAKE, path).startswith("AddressInUse")
    lock.close()

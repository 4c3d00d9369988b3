"""Whether nginx can connect: the verdict, beside what the kernel and the real nginx say."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY, living, run_apart
from harness.nginx import Nginx
from harness.processes import children, wait_until
from prefork.system.birth import Access
from prefork.system.identity import user_name
from prefork.system.paths import Person
from prefork.system.reach import (
    NginxWorker,
    Reach,
    Verdict,
    _recognise,
    _Socket,
    _without_nginx,
    diagnose,
    find_workers,
)

STRANGER = 3_000_222
CONNECT = "client = socket.socket(socket.AF_UNIX)\nprint(client.connect_ex(sys.argv[1]))"


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "app.sock")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        yield listener


def worker(uid: int = STRANGER, gid: int = STRANGER, *groups: int, pid: int | None = None) -> NginxWorker:
    return NginxWorker(os.getpid() if pid is None else pid, gid, Person(uid, frozenset((gid, *groups))))


def ours(nginx: Nginx, number: int = 1) -> list[NginxWorker]:
    """The workers of this nginx, when they are all there; others may run on the machine."""
    assert nginx._process is not None
    master = nginx._process.pid

    def found() -> list[NginxWorker]:
        offspring = children(master)
        found = [one for one in find_workers() if one.pid in offspring]
        return found if len(found) == number else []

    workers: list[NginxWorker] = wait_until(found)
    return workers


@pytest.mark.parametrize(
    ("mode", "groups", "reach"),
    [
        (0o666, (), Reach.OK),
        (0o660, (), Reach.BLOCKED),
        (0o660, (77,), Reach.OK),
        (0o640, (77,), Reach.BLOCKED),
        (0o606, (77,), Reach.BLOCKED),
    ],
)
def test_the_socket_must_be_writable(path: str, mode: int, groups: tuple[int, ...], reach: Reach) -> None:
    """By others, or by a group that nginx runs with; the verdict names mode and owner."""
    verdict = diagnose(path, Access(mode, None, 77), [worker(STRANGER, STRANGER, *groups)])
    assert verdict.reach is reach
    assert f"(mode {mode:04o}, {user_name(os.geteuid())}:77)" in verdict.sentence
    assert (verdict.mend == "") is (reach is Reach.OK)
    assert str(verdict).startswith(verdict.sentence)
    assert verdict.mend in str(verdict)


def test_the_mends_fit_the_cause(path: str) -> None:
    """The wrong group, a mode that forbids the group, and the own mode of the owner."""
    wrong_group = diagnose(path, Access(0o660, None, 77), [worker()]).mend
    assert f"--socket-group {STRANGER}" in wrong_group
    assert "--socket-mode" not in wrong_group
    assert f"usermod -aG 77 {STRANGER} and restart nginx, whose workers take their groups when they st" in wrong_group
    private = diagnose(path, Access(0o600, None, 0), [worker()]).mend
    assert f"--socket-group {STRANGER} --socket-mode 660" in private
    assert "usermod -aG root" not in private
    assert diagnose(path, Access(0o600, None, 77), [worker(STRANGER, 77)]).mend.endswith("--socket-mode 620")
    assert diagnose(path, Access(0o460, STRANGER, 77), [worker()]).mend.endswith("--socket-mode 660")


def test_every_directory_on_the_way_must_be_enterable(folder: Path) -> None:
    """The first that is not is named with its mode and owner."""
    (folder / "home" / "app").mkdir(parents=True)
    (folder / "home").chmod(0o700)
    verdict = diagnose(f"{folder}/home/app/app.sock", Access(0o666), [worker()])
    assert verdict.reach is Reach.BLOCKED
    assert f"it may not enter {folder}/home (mode 0700, {user_name(os.geteuid())}:" in verdict.sentence
    assert verdict.mend == f"Put the socket where it may enter, as under /run, or chmod o+x {folder}/home"


def test_a_socket_that_exists_is_judged_as_it_is(listener: socket.socket, path: str) -> None:
    """Its own mode and owner, whatever was planned."""
    os.chmod(path, 0o666)
    assert diagnose(path, None, [worker()]).reach is Reach.OK
    os.chmod(path, 0o600)
    assert diagnose(path, None, [worker()]).reach is Reach.BLOCKED
    assert diagnose(path, None, [worker(0, 0)]).reach is Reach.OK


def test_a_socket_that_was_passed_is_its_givers_to_open(listener: socket.socket, path: str) -> None:
    """Options of ours would be refused for it."""
    os.chmod(path, 0o600)
    verdict = diagnose(path, workers=[worker()], passed=True)
    assert verdict.reach is Reach.BLOCKED
    assert verdict.mend == f"Whoever passed it sets mode and group (systemd: SocketMode=0660, SocketGroup={STRANGER})"
    assert "--socket-group" in diagnose(path, workers=[worker()]).mend


def test_a_directory_that_gives_its_group_is_foreseen(folder: Path, path: str) -> None:
    """In a set-group-id directory the socket will have the directory's group."""
    folder.chmod(0o2755)
    group = folder.stat().st_gid
    foreseen = diagnose(path, Access(), [worker(STRANGER, group)])
    assert foreseen.reach is Reach.OK
    assert stat.S_ISDIR(folder.stat().st_mode)


def test_one_nginx_that_gets_through_is_enough(path: str) -> None:
    """Several may run on a machine; the socket is meant for one."""
    verdict = diagnose(path, Access(0o660, None, 77), [worker(), worker(STRANGER + 1, 77), worker()])
    assert verdict.reach is Reach.OK
    assert f"nginx (running as {STRANGER + 1}) can connect" in verdict.sentence


def test_an_nginx_of_root_says_nothing_for_another(path: str) -> None:
    """root gets through everywhere: it hides no other nginx that does not, and counts only where it is alone."""
    verdict = diagnose(path, Access(0o660, None, 77), [worker(0, 0), worker(), worker(0, 0)])
    assert (verdict.reach, verdict.mend) == (Reach.BLOCKED, diagnose(path, Access(0o660, None, 77), [worker()]).mend)
    assert diagnose(path, Access(0o660, None, 77), [worker(0, 0)]).reach is Reach.OK


def test_without_nginx_the_usual_user_is_judged(path: str) -> None:
    """Unknown, with what would be true of www-data, or with the bare facts where there is no such user."""
    verdict = diagnose(path, Access(0o660, None, 77), [])
    assert verdict.reach is Reach.UNKNOWN
    assert verdict.sentence.startswith("no worker process of nginx is to be seen; the ")
    assert "(mode 0660, " in verdict.sentence


def test_without_any_usual_user_the_facts_are_told(path: str) -> None:
    """No name is guessed."""
    target = _Socket(path, 0o660, 5, 77, None)
    verdict = _without_nginx(target, [], ("no-such-user",))
    assert verdict.reach is Reach.UNKNOWN
    assert verdict.sentence.endswith(f"the socket {path} has mode 0660, {user_name(5)}:77")


def test_processes_that_are_gone_or_others_are_no_workers() -> None:
    """A pid that is free, and ourselves."""
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    assert _recognise(str(gone)) is None
    assert _recognise(str(os.getpid())) is None


@pytest.mark.root
def test_an_ordinary_user_is_told_to_join_the_group(folder: Path, path: str) -> None:
    """Only a member can give the socket to nginx's group; what /proc hides of nginx is taken for granted."""
    script = (
        "from prefork.system.reach import *\nfrom prefork.system.birth import Access\n"
        "from prefork.system.paths import Person\n"
        "nginx = NginxWorker(int(sys.argv[2]), 33, Person(33, frozenset({33})))\n"
        "print(diagnose(sys.argv[1], Access(), [nginx]))"
    )
    answer = run_apart(script, path, str(os.getpid()), user=NOBODY)
    assert "(mode 0660, nobody:nogroup). Give the socket to its group: --socket-group www-data (after us" in answer
    assert "usermod -aG www-data nobody, and a new login of nobody)" in answer


def test_what_cannot_be_looked_at_is_unknown(folder: Path, path: str) -> None:
    """A socket or a directory that is not there."""
    verdict = diagnose(path, None, [worker()])
    assert verdict == Verdict(Reach.UNKNOWN, f"whether nginx can connect is unknown: {path}: No such file or directory")
    assert diagnose(f"{folder}/no/app.sock", Access(), [worker()]).reach is Reach.UNKNOWN


def test_a_worker_that_has_gone_is_still_judged(path: str) -> None:
    """A pid that vanished between /proc and the verdict costs nothing but the look at its root."""
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    assert diagnose(path, Access(0o666), [worker(pid=gone)]).reach is Reach.OK


@pytest.mark.root
def test_what_is_hidden_from_us_is_unknown(folder: Path) -> None:
    """An ordinary user may not look below a directory that nginx could pass: no guess is made."""
    (folder / "shut" / "in").mkdir(parents=True)
    os.chown(folder / "shut", 33, 33)
    (folder / "shut").chmod(0o700)
    script = (
        "from prefork.system.reach import *\nfrom prefork.system.birth import Access\n"
        "from prefork.system.paths import Person\n"
        "nginx = NginxWorker(os.getpid(), 33, Person(33, frozenset({33})))\n"
        "print(diagnose(sys.argv[1], None, [nginx]))"
    )
    answer = run_apart(script, f"{folder}/shut/in/app.sock", user=NOBODY)
    assert answer == f"whether nginx can connect is unknown: {folder}/shut/in: Permission denied"


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o660, 0o606, 0o066, 0o626, 0o200])
@pytest.mark.parametrize(("owner", "group"), [(0, 0), (0, NOBODY), (NOBODY, 0), (33, NOBODY)])
def test_the_kernel_agrees(listener: socket.socket, path: str, mode: int, owner: int, group: int) -> None:
    """A real connect as nobody succeeds exactly where the verdict says so."""
    os.chown(path, owner, group)
    os.chmod(path, mode)
    connected = run_apart(CONNECT, path, user=NOBODY) == "0"
    assert (diagnose(path, None, [worker(NOBODY, NOBODY)]).reach is Reach.OK) is connected


@pytest.mark.root
def test_a_container_of_its_own_is_not_judged(folder: Path, path: str) -> None:
    """A worker with another root directory says nothing about paths here."""
    script = "os.chroot(sys.argv[1])\nready(str(os.getpid()))\nhold()"
    with living(script, str(folder)) as (_, pid):
        verdict = diagnose(path, Access(0o666), [worker(pid=int(pid))])
        assert verdict.reach is Reach.UNKNOWN
        assert f"has another root directory, a container's perhaps (pid {pid}); the user " in verdict.sentence
        assert diagnose(path, Access(0o666), [worker(pid=int(pid)), worker()]).reach is Reach.OK


@pytest.mark.root
@pytest.mark.tool("unshare")
def test_a_directory_that_is_private_to_us_is_found_out(folder: Path, path: str) -> None:
    """As with PrivateTmp: the path is open to nginx, and yet it is another directory there."""
    script = (
        "from prefork.system.reach import *\nfrom prefork.system.birth import Access\n"
        "from prefork.system.paths import Person\n"
        "nginx = NginxWorker(int(sys.argv[2]), 33, Person(33, frozenset({33})))\n"
        "verdict = diagnose(sys.argv[1], Access(0o666), [nginx])\n"
        "print(verdict.reach.name, verdict.sentence)"
    )
    mount = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o mode=755 none "$0" && exec "$@"', str(folder))
    private = run_apart(script, path, str(os.getpid()), command=mount)
    assert private.startswith("BLOCKED nginx (running as www-data) cannot reach")
    assert f"its {folder} is another directory (a mount namespace, PrivateTmp=)" in private
    parent = folder / "parent"
    parent.mkdir()
    mount = ("unshare", "-m", "sh", "-c", _MISSING, str(parent))
    missing = run_apart(script, str(parent / "run" / "app.sock"), str(os.getpid()), command=mount)
    assert missing.startswith("BLOCKED")


_MISSING = 'mount -t tmpfs -o mode=755 none "$0" && mkdir "$0/run" && exec "$@"'


@pytest.mark.nginx
def test_the_real_workers_are_found_with_their_groups(folder: Path, path: str) -> None:
    """Workers only, not the master; uid and groups as the kernel has them."""
    with Nginx(path, folder=folder, workers=2) as nginx:
        workers = ours(nginx, 2)
        assert {one.person.uid for one in workers} == {os.geteuid()}
        assert all(one.gid in one.person.groups for one in workers)
        assert nginx._process is not None
        assert nginx._process.pid not in {one.pid for one in find_workers()}


@pytest.mark.root
@pytest.mark.nginx
def test_the_real_nginx_agrees(folder: Path, listener: socket.socket, path: str) -> None:
    """Wrong group: BLOCKED, and nginx logs 13; its group: OK, and its connection arrives."""
    os.chmod(path, 0o660)
    with Nginx(path, folder=folder, user="www-data") as nginx:
        workers = ours(nginx)
        verdict = diagnose(path, None, workers)
        assert verdict.reach is Reach.BLOCKED
        assert "nginx (running as www-data) may not connect" in verdict.sentence
        assert "--socket-group www-data" in verdict.mend
        assert nginx.fetch().status == 502
        assert "connect() to" in nginx.error_log
        assert "(13: Permission denied)" in nginx.error_log
        os.chown(path, 0, 33)
        assert diagnose(path, None, workers).reach is Reach.OK
        request = threading.Thread(target=nginx.fetch)
        request.start()
        listener.accept()[0].close()
        request.join()


def test_everything_found_on_this_machine_is_bearable(listener: socket.socket, path: str) -> None:
    """Whatever else runs here, a verdict comes."""
    assert diagnose(path).reach in Reach

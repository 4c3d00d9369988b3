"""Processes: made, tied to each other, and counted. Everything that forks does so in an interpreter of its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.processes import PATIENCE, environment
from prefork.system.processes import FORCE_SIGNAL, LOOK_SIGNAL, describe_status, is_our_child

PRELUDE = """
import atexit, contextlib, os, resource, select, signal, socket, sys, threading, time
from prefork.errors import ConfigurationError, PermissionProblem, PreforkError
from prefork.system import processes
from prefork.system.processes import *
from prefork.system.wakeup import Wakeup

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]

def zombie(pid):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()

def descriptors():
    return sorted(os.listdir("/proc/self/fd"))

def become_nobody():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
"""


def script(body: str, *arguments: str, status: int = 0) -> list[str]:
    """The lines that a script prints, standard error after standard output; it must end with ``status``."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body, *arguments],
        env={name: value for name, value in environment({}).items() if name != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == status, done.stderr
    return (done.stdout + done.stderr).splitlines()


# exec

LIST = (
    "import os; "
    "print(*sorted((int(fd), os.readlink(f'/proc/self/fd/{fd}')) for fd in os.listdir('/proc/self/fd')"
    " if os.path.exists(f'/proc/self/fd/{fd}')))"
)


def test_a_program_finds_its_descriptors_and_nothing_else(tmp_path: Path) -> None:
    """Each in its place, though places and sources overlap and others are open; and an empty standard input."""
    body = f"""
folder = sys.argv[1]
def opened(name, at):
    fd = os.open(f"{{folder}}/{{name}}", os.O_RDWR | os.O_CREAT)
    os.dup2(fd, at)
    if fd != at:
        os.close(fd)
a, b, c, d = 5, 3, 4, 40
for name, at in zip("abcd", (a, b, c, d)):
    opened(name, at)
for at in (6, 7, 14, 15, 16, 17, 100, 900):
    opened("other", at)
pid = execute([sys.executable, "-c", {LIST!r}], os.environ, {{3: a, 4: b, 5: c, 8: d}}, lambda: None)
os.waitpid(pid, 0)
"""
    out, *errors = script(body, str(tmp_path))
    assert errors == []
    pairs = [item for item in out[1:-1].split(") (") if "/proc/" not in item and "pipe:" not in item]
    assert pairs == [
        "0, '/dev/null'",
        *(f"{number}, '{tmp_path}/{name}'" for number, name in ((3, "a"), (4, "b"), (5, "c"), (8, "d"))),
    ]


@pytest.mark.parametrize("closed", [[0], [1], [0, 1], [0, 2], [0, 1, 2]])
def test_a_program_has_a_standard_input_even_if_we_have_none(tmp_path: Path, closed: list[int]) -> None:
    """Started without some of the standard descriptors, the program's own are in their places all the same."""
    report = "import os; open({0!r}, 'w').write(str([os.readlink(f'/proc/self/fd/{{n}}') for n in (0, 3)]))"
    body = f"""
file = os.open(sys.argv[1] + "/gift", os.O_RDWR | os.O_CREAT)
os.dup2(file, 20)
os.close(file)
for number in {closed}:
    os.close(number)
pid = execute([sys.executable, "-c", {report.format(str(tmp_path / "report"))!r}], os.environ, {{3: 20}}, lambda: None)
os._exit(os.waitpid(pid, 0)[1] != 0)
"""
    script(body, str(tmp_path))
    assert (tmp_path / "report").read_text() == str(["/dev/null", f"{tmp_path}/gift"])


def test_a_program_gets_its_arguments_and_environment_alone() -> None:
    """Ours is not added."""
    body = """
show = "import os, sys; print(sys.argv[1:], os.environ.get('MINE'), 'HOME' in os.environ)"
os.waitpid(execute([sys.executable, "-c", show, "a b", "c"], {"MINE": "yes"}, {}, lambda: None), 0)
"""
    assert script(body) == ["['a b', 'c'] yes False"]


FAILING = """
before = descriptors()
def prepare():
    {prepare}
try:
    execute([{program!r}, "x"], {environment}, {{3: 0}}, prepare)
except Exception as error:
    say(type(error).__name__, error)
say(children(), descriptors() == before)
"""


@pytest.mark.parametrize(
    ("program", "environment_", "prepare", "said"),
    [
        ("/no/such", "{}", "pass", "PreforkError cannot start /no/such: No such file or directory"),
        ("/etc", "{}", "pass", "PreforkError cannot start /etc: Permission denied"),
        ("/bin/true", "{'A': 'b\\0c'}", "pass", "PreforkError cannot start /bin/true: embedded null byte"),
        (
            "/bin/true",
            "{}",
            "raise PermissionProblem('not allowed 77 times')",
            "PermissionProblem not allowed 77 times",
        ),
        ("/bin/true", "{}", "raise ConfigurationError('no such \\udcff')", "ConfigurationError no such \\udcff"),
        ("/bin/true", "{}", "raise PreforkError('a bug')", "PreforkError a bug"),
        (
            "/bin/true",
            "{}",
            "os.setgroups(3)",
            "PreforkError cannot start /bin/true: setgroups argument must be a sequence",
        ),
        ("/bin/true", "{}", "os.chdir('/no')", "PreforkError cannot start /bin/true: No such file or directory"),
    ],
)
def test_a_program_that_cannot_be_started(program: str, environment_: str, prepare: str, said: str) -> None:
    """An error with the reason; no process and no descriptor is left."""
    lines = script(FAILING.format(program=program, environment=environment_, prepare=prepare))
    assert lines[0].startswith(said)
    assert lines[1] == "[] True"


def test_no_process_to_be_had() -> None:
    """fork(2) fails: an error that says so, and nothing is left open."""
    body = """
become_nobody()
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
before = descriptors()
for make in (lambda: execute(["/bin/true"], {}, {}, lambda: None), lambda: spawn(lambda: None), fork_away):
    try:
        make()
    except Exception as error:
        say(type(error).__name__, error)
say(descriptors() == before, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    assert script(body) == [
        "PreforkError cannot fork: Resource temporarily unavailable",
        "BlockingIOError [Errno 11] Resource temporarily unavailable",
        "BlockingIOError [Errno 11] Resource temporarily unavailable",
        "True set()",
    ]


def test_a_program_starts_without_our_signals() -> None:
    """Handlers, mask and wakeup descriptor are ours alone, also while ``prepare`` runs; what is ignored stays so."""
    body = """
wakeup = Wakeup([signal.SIGTERM, signal.SIGCHLD])
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
def prepare():
    handlers = [signal.getsignal(n).name for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1)]
    say(*handlers, signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.set_wakeup_fd(-1))
os.waitpid(execute(["/bin/cat", "/proc/self/status"], {}, {}, prepare), 0)
say(signal.getsignal(signal.SIGTERM) == wakeup._note, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    first, *status, last = script(body)
    assert [first, *(line for line in status if line.startswith(("SigBlk", "SigCgt"))), last] == [
        "SIG_DFL SIG_DFL SIG_IGN set() -1",
        "SigBlk:\t0000000000000000",
        "SigCgt:\t0000000000000000",
        "True set()",
    ]


# fork


def test_a_spawned_child_does_not_return() -> None:
    """It runs what it is to run and ends: with 0, or with 70 and a traceback; our own code goes on once."""
    body = """
def fails():
    raise RuntimeError("of the child")
def leaves():
    sys.exit(3)
def ends():
    os._exit(4)
for child in (lambda: None, fails, leaves, ends):
    say(os.waitstatus_to_exitcode(os.waitpid(spawn(child), 0)[1]))
"""
    lines = script(body)
    assert lines[:4] == ["0", "70", "70", "4"]
    assert "RuntimeError: of the child" in lines
    assert len([line for line in lines if line.isdigit()]) == 4


def test_signals_wait_while_a_child_is_made() -> None:
    """One that is pending is ours, once, and not the child's; a mask of our own is kept on both sides."""
    body = """
heard = []
signal.signal(signal.SIGUSR1, lambda number, _frame: heard.append(os.getpid()))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
def child():
    say(signal.getsignal(signal.SIGUSR1).name, *(n.name for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
os.waitpid(spawn(child), 0)
signal.raise_signal(signal.SIGUSR1)
say(heard == [os.getpid()], *(n.name for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
"""
    assert script(body) == ["SIG_DFL SIGUSR2", "True SIGUSR2"]


def test_reaping_drains() -> None:
    """All that have ended, each told about while it is a zombie; those that live are left alone; none is no error."""
    body = """
say(reap(lambda pid: None))
waiting, go = os.pipe()
def lives():
    os.close(go)
    os.read(waiting, 1)
living = spawn(lives)
dead = [spawn(lambda status=status: os._exit(status)) for status in (1, 2, 3)]
for pid in dead:
    zombie(pid)
told = []
ended = reap(lambda pid: told.append((pid, state(pid))))
say(sorted(ended) == sorted(zip(dead, (256, 512, 768))))
say(sorted(told) == sorted((pid, "Z") for pid in dead))
say(reap(lambda pid: None), is_our_child(living), [is_our_child(pid) for pid in dead])
os.close(go)
zombie(living)
say(is_our_child(living), reap(lambda pid: None) == [(living, 0)], is_our_child(living))
"""
    assert script(body) == ["[]", "True", "True", "[] True [False, False, False]", "True True False"]


def test_a_stranger_is_no_child() -> None:
    """Nor is nobody: pid 0 is what the kernel calls a sender of a message that our pid namespace does not know."""
    assert [is_our_child(pid) for pid in (0, -1, 1, os.getpid(), 2**22 + 1)] == [False] * 5


AWAY = """
become_subreaper()
master = os.getpid()
reader, writer = os.pipe()
def zygote():
    {before}
    if fork_away() is not None:
        os.write(writer, f"{{os.getpid()}} {{os.getppid()}}".encode())
        os._exit(7)
    say("left behind:", children())
helper = spawn(zygote)
os.close(writer)
born, parent = map(int, os.read(reader, 100).split())
say(parent == master, is_our_child(born))
say(sorted([os.waitpid(helper, 0), os.waitpid(born, 0)]) == sorted([(helper, 0), (born, 7 << 8)]))
"""


@pytest.mark.parametrize("before", ["pass", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"])
def test_a_child_that_is_forked_away_is_the_reapers(before: str) -> None:
    """It belongs to the sub-reaper when it begins; its maker keeps no child, even where the kernel reaps for it."""
    assert sorted(script(AWAY.format(before=before))) == ["True", "True True", "left behind: []"]


def test_without_a_second_fork_no_child_appears() -> None:
    """The process in between ends, and is reaped."""
    body = """
forks, limit = os.fork, [1]
def fork():
    if not limit.pop() if limit else True:
        raise BlockingIOError(11, "no more")
    return forks()
os.fork = fork
say(fork_away(), children())
"""
    assert script(body) == ["None []"]


def test_several_are_forked_away_by_one_process() -> None:
    """Each knows its number and begins as the reaper's child; where a fork fails, those before it live."""
    body = """
become_subreaper()
master, reader, writer = os.getpid(), *os.pipe()
forks, left = os.fork, [1] * 4  # the process in between, and three
def fork():
    if not left:
        raise BlockingIOError(11, "no more")
    left.pop()
    return forks()
def zygote():
    os.fork = fork
    number = fork_away(5)
    if number is not None:
        os.write(writer, f"{number}{os.getppid() == master} ".encode())
        os._exit(0)
    say("left behind:", children())
helper = spawn(zygote)
os.close(writer)
os.waitpid(helper, 0)
with open(reader) as ends:
    say(sorted(ends.read().split()))
while children():
    os.wait()
"""
    assert sorted(script(body)) == ["['0True', '1True', '2True']", "left behind: []"]


def test_an_orphan_is_ours_only_while_we_are_the_reaper() -> None:
    """The duty can be taken and given back; what the kernel refuses is an error."""
    body = """
def orphan():
    reader, writer = os.pipe()
    def between():
        if os.fork() == 0:
            os.close(reader)
            while os.getppid() == between_pid:
                os.sched_yield()
            os.write(writer, str(os.getppid()).encode())
            os._exit(0)
    global between_pid
    def run():
        global between_pid
        between_pid = os.getpid()
        between()
    os.waitpid(spawn(run), 0)
    os.close(writer)
    parent = int(os.read(reader, 20))
    os.read(reader, 1)
    return parent == os.getpid()
become_subreaper()
say(orphan())
become_subreaper(False)
say(orphan())
try:
    processes._prctl(9999, 1)
except OSError as error:
    say(error)
"""
    assert script(body) == ["True", "False", "[Errno 22] prctl(9999, 1): Invalid argument"]


# life and death

DYING = """
parent = os.getpid()
def child():
    {child}
    say(os.getpid())
    signal.pause()
spawn(child)
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("child", ["die_with_parent(parent)", "os.setsid(); die_with_parent(parent)"])
def test_a_child_dies_with_its_parent(how: signal.Signals, child: str) -> None:
    """However that ends, and also in a session of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + DYING.format(child=child)],
        env=environment({}),
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        child_ends = os.pidfd_open(pid)
        parent.send_signal(how)
        assert select.select([child_ends], [], [], PATIENCE)[0] == [child_ends]
        os.close(child_ends)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    """Before it could ask for its death signal: the parent is checked after the request."""
    body = """
become_subreaper()
reader, writer = os.pipe()
def parent():
    gone = os.getpid()
    def child():
        while os.getppid() == gone:
            os.sched_yield()
        die_with_parent(gone)
        os.write(writer, b"alive")
    spawn(child)
os.waitpid(spawn(parent), 0)
os.close(writer)
say(os.read(reader, 10))
say(describe_status(os.waitpid(-1, 0)[1]))
"""
    assert script(body) == ["b''", "exit status 1"]


def test_a_change_of_user_before_it_does_no_harm() -> None:
    """Asked for after the change, the death signal is there (before it, the kernel would clear it)."""
    body = """
import ctypes
def child():
    become_nobody()
    die_with_parent(master)
    asked = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(asked))
    say(asked.value == signal.SIGKILL)
master = os.getpid()
os.waitpid(spawn(child), 0)
"""
    assert script(body) == ["True"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (3 << 8, "exit status 3"),
        (255 << 8, "exit status 255"),
        (signal.SIGSEGV, "killed by SIGSEGV"),
        (signal.SIGSEGV | 0x80, "killed by SIGSEGV (core dumped)"),
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGRTMIN, "killed by SIGRTMIN"),
        (signal.SIGRTMIN + 5, "killed by signal 39"),
    ],
)
def test_a_status_in_words(status: int, words: str) -> None:
    """As an operator would say it."""
    assert describe_status(status) == words


def test_our_signals_are_nobody_elses() -> None:
    """Real-time signals, none of the first that libraries take nor the last."""
    assert signal.SIGRTMIN + 10 < FORCE_SIGNAL < LOOK_SIGNAL < signal.SIGRTMAX


# the orderly end


def test_a_process_leaves_in_order() -> None:
    """Threads are joined, exit handlers run last in first out, what is buffered is written; nothing is torn down."""
    body = """
class Heap:
    def __del__(self):
        say("torn down")
kept = Heap()
atexit.register(print, "first in")
atexit.register(print, "last in")
go = threading.Event()
def work():
    go.wait()
    say("thread")
threading.Thread(target=work).start()
threading.Timer(0.01, go.set).start()
sys.stdout.write("buffered\\n")
leave_process(5)
"""
    assert script(body, status=5) == ["thread", "buffered", "last in", "first in"]


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(9)", "raise KeyboardInterrupt"])
def test_a_faulty_exit_handler_keeps_nobody(fault: str) -> None:
    """The others run, the fault is shown, the status is the one that was asked for."""
    body = f"""
def faulty():
    {fault}
atexit.register(say, "the other")
atexit.register(faulty)
leave_process(5)
"""
    assert script(body, status=5)[0] == "the other"


def test_a_fault_while_threads_are_joined_keeps_nobody() -> None:
    """Such as a signal handler's exception in that very moment."""
    body = """
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
main = threading.main_thread().ident
def joins():
    frame = sys._current_frames()[main]
    while frame is not None and frame.f_code.co_name != "_shutdown":
        frame = frame.f_back
    return frame is not None
def work():
    while not joins():
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGALRM)
    threading.Event().wait()
threading.Thread(target=work).start()
sys.stdout.write("written\\n")
leave_process(5)
"""
    assert script(body, status=5)[0] == "written"


@pytest.mark.parametrize("break_it", ["sys.stdout.close()", "sys.stdout = None", "os.close(1); print('x')"])
def test_a_broken_standard_output_keeps_nobody(break_it: str) -> None:
    """Closed, missing or gone: the other one is flushed all the same."""
    body = f"{break_it}\nsys.stderr = open(2, 'w')\nsys.stderr.write('flushed')\nleave_process(5)"
    assert script(body, status=5) == ["flushed"]


def test_stops_and_continuations_are_told_once() -> None:
    """Each with its process; a stop that was continued before anybody looked was none; the dead are not told."""
    body = """
say(stops())
pids = [spawn(lambda: signal.pause()) for _ in range(2)]
for pid in pids:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
say(sorted(stops()) == sorted((pid, True) for pid in pids), stops())
os.kill(pids[0], signal.SIGCONT)
os.waitid(os.P_PID, pids[0], os.WCONTINUED | os.WNOWAIT)
say(stops() == [(pids[0], False)], stops())
os.kill(pids[0], signal.SIGSTOP)
os.waitid(os.P_PID, pids[0], os.WSTOPPED | os.WNOWAIT)
os.kill(pids[0], signal.SIGCONT)
os.waitid(os.P_PID, pids[0], os.WCONTINUED | os.WNOWAIT)
say(stops() == [(pids[0], False)])
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    zombie(pid)
say(stops(), sorted(pid for pid, _ in reap(lambda pid: None)) == sorted(pids))
"""
    assert script(body) == ["[]", "True []", "True []", "True", "[] True"]

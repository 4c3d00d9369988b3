"""Making processes, tying their lives to ours, and learning how they ended.

Rules of this file: a child's branch ends in exec or `os._exit`, so no line of a caller ever runs in it; signals are
blocked from before fork(2) until the child has forgotten its parent's handlers, so that a Ctrl-C sent to the whole
process group in between cannot be counted twice; nothing here decides anything.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from prefork.errors import ConfigurationError, PermissionProblem, PreforkError

__all__ = [
    "FORCE_SIGNAL",
    "LOOK_SIGNAL",
    "become_subreaper",
    "describe_status",
    "die_with_parent",
    "execute",
    "forbid_new_privileges",
    "fork_away",
    "is_our_child",
    "leave_process",
    "reap",
    "spawn",
    "stops",
]

LOOK_SIGNAL: Final = signal.SIGRTMAX - 2
"""Tells a worker to look at the control page: must it leave, is its stack wanted, has its request taken too long?

A real-time signal, because every other one may belong to the application, whose handlers are left alone.
"""

FORCE_SIGNAL: Final = signal.SIGRTMAX - 3
"""Makes the interpreter of a worker that did not look write its stack, wherever it hangs."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

# Where the child keeps its error pipe while it prepares the exec: just above the descriptors it passes on.
_FIRST_FREE: Final = 16

# What `prepare` may raise in the child, and the parent raises again.
_BY_STATUS: Final = {kind.exit_status: kind for kind in (PermissionProblem, ConfigurationError)}

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {argument}): {os.strerror(error)}")


def become_subreaper(on: bool = True) -> None:
    """Become the parent of orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def forbid_new_privileges() -> None:
    """Let no program that this process will ever execute gain rights that it has not (prctl(2), no_new_privs)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when ``parent`` ends, by whatever cause; end at once if it already has.

    To be called after every change of user, which clears the death signal (prctl(2), PR_SET_PDEATHSIG). The parent is
    checked after the request: one that died before it would never send the signal.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def is_our_child(pid: int) -> bool:
    """Whether ``pid`` is a child of this process, alive or not yet reaped."""
    if pid <= 0:  # a sender whom our pid namespace does not know, by SCM_CREDENTIALS; waitid(2) refuses it
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def reap(before_each: Callable[[int], None]) -> list[tuple[int, int]]:
    """All children that have ended, as (pid, wait status); SIGCHLD coalesces, so this drains.

    ``before_each`` is called with a pid while that process is still a zombie: the last moment at which a message of
    its can be tied to it.
    """
    ended: list[tuple[int, int]] = []
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return ended
            before_each(found.si_pid)
            ended.append(os.waitpid(found.si_pid, 0))
        except ChildProcessError:
            return ended


def stops() -> list[tuple[int, bool]]:
    """Children that were stopped (SIGSTOP, a terminal's Ctrl-Z) or continued since the last call, in turn.

    As (pid, whether it is stopped). The kernel tells each change once, and only the last: a stop that was continued
    before anybody asked was none.
    """
    changes: list[tuple[int, bool]] = []
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            return changes
        if found is None:
            return changes
        changes.append((found.si_pid, found.si_code == os.CLD_STOPPED))


def describe_status(status: int) -> str:
    """A wait status in words: "exit status 3", "killed by SIGSEGV"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"killed by {name}" + (" (core dumped)" if os.WCOREDUMP(status) else "")
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def spawn(child: Callable[[], None]) -> int:
    """Fork; the child forgets this process's signal handlers, runs ``child`` and ends. Returns the child's pid.

    An exception in ``child`` is written to standard error and ends it with status 70.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _forget_signals()
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                child()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child must not run its parent's code, whatever happens
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(70)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def execute(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Mapping[int, int],
    prepare: Callable[[], None],
) -> int:
    """Start a program in a child: a fresh interpreter, for one. Returns its pid once exec(2) has succeeded.

    ``descriptors`` maps the numbers the program will find (below 15) to descriptors of ours; it gets these, an empty
    standard input, our standard output and error, and nothing else. ``prepare`` runs in the child just before exec,
    with all signals at their defaults: the place to change user.

    Raises PreforkError (or what ``prepare`` raised, if that was one) when the program could not be started.
    """
    report, report_below = os.pipe2(os.O_CLOEXEC)

    def child() -> None:
        errors = report_below
        try:
            errors = _place(descriptors, report_below)
            prepare()
            os.execve(arguments[0], list(arguments), dict(environment))
        except PreforkError as error:
            os.write(errors, f"{error.exit_status} {error}".encode("utf-8", "backslashreplace"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to learn of it
            reason = error.strerror if isinstance(error, OSError) else error
            os.write(errors, f"70 cannot start {arguments[0]}: {reason}".encode("utf-8", "backslashreplace"))
        os._exit(70)

    try:
        pid = spawn(child)
    except OSError as error:
        os.close(report)
        raise PreforkError(f"cannot fork: {error.strerror}") from error
    finally:
        os.close(report_below)
    with open(report, "rb") as stream:
        complaint = stream.read().decode()
    if complaint:
        os.waitpid(pid, 0)
        status, _, text = complaint.partition(" ")
        raise _BY_STATUS.get(int(status), PreforkError)(text)
    return pid


def _place(descriptors: Mapping[int, int], errors: int) -> int:
    """Put the descriptors where the program expects them; returns where the error pipe went."""
    # First all out of the way, then each into its place: a target may be the source of another.
    aside = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for target, source in descriptors.items()}
    errors = fcntl.fcntl(errors, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for target, source in aside.items():
        os.dup2(source, target)
    os.dup2(errors, _FIRST_FREE - 1, inheritable=False)
    for number in range(3, _FIRST_FREE - 1):
        if number not in descriptors:
            _close_if_open(number)
    # Whatever the parent of the master left open must not reach the application.
    os.closerange(_FIRST_FREE, os.sysconf("SC_OPEN_MAX"))
    return _FIRST_FREE - 1


def _close_if_open(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass


def fork_away(number: int = 1) -> int | None:
    """Fork children whose parent is not this process but the nearest sub-reaper above: their numbers from 0 in them.

    None in the caller. Forks one process, which forks them all, ends at once and is reaped here. In the children this
    returns only when the re-parenting has happened. Raises OSError if the first fork fails; if a later one does, that
    child and those after it do not appear.
    """
    between = os.fork()
    if between:
        # An application that ignores SIGCHLD has it reaped by the kernel: the wait is the same, its result is not.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(between, 0)
        return None
    between = os.getpid()
    try:
        ended, end = os.pipe()  # its end of file comes when the process in between has let go of it, almost at its end
        child = next((index for index in range(number) if os.fork() == 0), None)
    except OSError:
        os._exit(1)
    if child is None:
        os._exit(0)
    os.close(end)
    os.read(ended, 1)
    os.close(ended)
    while os.getppid() == between:
        os.sched_yield()
    return child


def leave_process(status: int) -> NoReturn:
    """End a forked process in order: join its threads, run its exit handlers, flush, and be gone.

    The interpreter is not finalized: taking a whole heap apart touches every page that is still shared with the other
    workers, and crashes in extension modules are most frequent there.
    """
    # The first three steps of Py_FinalizeEx, by the names multiprocessing uses for the same purpose.
    shutdown: Callable[[], Any] = threading._shutdown  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        shutdown()
        atexit._run_exitfuncs()  # noqa: SLF001
    except BaseException:  # noqa: BLE001 - an exit handler's fault must not keep the process alive
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        os._exit(status)

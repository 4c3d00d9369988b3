"""Finding the application, warming it, and seeing what its import left behind.

Runs in the zygote, or in each worker when the application must not be forked. Everything the application does wrong
while it is loaded ends as one `ApplicationError` with the application's own traceback and none of our frames in it.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, TextIO

from prefork import hooks
from prefork.errors import ApplicationError

__all__ = [
    "Application",
    "Leftovers",
    "describe",
    "enter",
    "import_module",
    "leftovers",
    "load",
    "own_traceback",
    "unwelcome",
    "warm_up",
]

_ABSENT: Final = object()
_USUAL: Final = ("application", "app")
_OURS: Final = os.path.dirname(__file__) + os.sep

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def enter(directory: str, pythonpath: Sequence[str]) -> None:
    """Enter the working directory by its text and make it importable, after ``pythonpath``.

    By its text: a symlink such as ``current`` is followed anew by every zygote. Raises ApplicationError.
    """
    try:
        os.chdir(directory)
    except OSError as error:
        raise ApplicationError(
            f"cannot enter {directory}: {error.strerror}; --chdir must name a directory that this user may enter"
        ) from error
    sys.path[0:0] = [*pythonpath, directory]


def load(name: str) -> Application:
    """Import ``module:callable``, ``module:factory()`` or ``module`` (then ``application``, else ``app``).

    Raises ApplicationError.
    """
    module_name, colon, attribute = name.partition(":")
    module = import_module(module_name, name)
    if not colon:
        return _first_of(module, _USUAL, name)
    if attribute.endswith("()"):
        factory = _attribute(module, attribute[:-2], name)
        try:
            made = factory()
        except BaseException as error:  # noqa: BLE001 - whatever the application raises, even SystemExit
            raise ApplicationError(f"{name}: the factory raised {describe(error)}", own_traceback(error)) from None
        return _callable(made, f"{name} returned")
    return _callable(_attribute(module, attribute, name), f"{name} is")


def import_module(module_name: str, name: str) -> Any:
    """A module of the application; ``name`` is what messages call it. Raises ApplicationError."""
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ApplicationError(
            f"{name}: {module_name!r} is not the name of a module; write it as in an import statement, "
            'for example "mysite.wsgi:application" (no slashes, no ".py")'
        )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only the name itself is a wrong name; a module that the application misses is its own traceback.
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ApplicationError(
                f"{name}: there is no module {error.name!r} in {os.getcwd()} or elsewhere on sys.path; "
                + (_spelled_with_dots(name) or "check the name, or name the directory with --chdir or --pythonpath")
            ) from None
        raise ApplicationError(f"{name}: importing it raised {describe(error)}", own_traceback(error)) from None
    except BaseException as error:  # noqa: BLE001 - whatever the application raises, even SystemExit
        raise ApplicationError(f"{name}: importing it raised {describe(error)}", own_traceback(error)) from None


def _spelled_with_dots(name: str) -> str:
    """What "mysite.wsgi.application", as Django writes WSGI_APPLICATION, was to mean; "" if it is no such name."""
    module_name, dot, attribute = name.rpartition(".")
    module = sys.modules.get(module_name)  # its import is what was tried first
    if not dot or ":" in name or not callable(getattr(module, attribute, None)):
        return ""
    return f"did you mean {module_name}:{attribute}?"


def _attribute(module: Any, path: str, name: str) -> Any:
    found = module
    for part in path.split("."):
        inner = _look_up(found, part, name)
        if inner is _ABSENT:
            near = difflib.get_close_matches(part, [key for key in dir(found) if not key.startswith("_")], n=1)
            if not near and found is module:
                near = [usual for usual in _USUAL if callable(getattr(module, "__dict__", {}).get(usual))]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ApplicationError(f"{name}: {module.__name__} has no {path!r}{hint}")
        found = inner
    return found


def _look_up(found: Any, part: str, name: str) -> Any:
    try:
        return getattr(found, part)
    except AttributeError:
        return _ABSENT
    except BaseException as error:  # noqa: BLE001 - a module's own __getattr__ (PEP 562) is the application's code
        raise ApplicationError(f"{name}: looking up {part!r} raised {describe(error)}", own_traceback(error)) from None


def _first_of(module: Any, names: Sequence[str], name: str) -> Application:
    for attribute in names:
        found = _look_up(module, attribute, name)
        if found is not _ABSENT:
            return _callable(found, f"{name}:{attribute} is")
    tried = " nor ".join(repr(attribute) for attribute in names)
    raise ApplicationError(f'{name}: the module has neither {tried}; name the callable: "{name}:CALLABLE"')


def _callable(found: Any, subject: str) -> Application:
    if not callable(found):
        raise ApplicationError(f"{subject} {_article(type(found).__name__)}, not a WSGI callable")
    application: Application = found
    return application


def _article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def describe(error: BaseException) -> str:
    """An exception in a few words: its class and its text."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception class of the application whose own text fails
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def own_traceback(error: BaseException) -> str:
    """The traceback from the application's first frame on: ours and the import system's say nothing to its author."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and _not_theirs(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _not_theirs(filename: str) -> bool:
    # A compiled module names its file as the compiler was given it.
    return filename == importlib.__file__ or filename.startswith((_OURS, "prefork/worker/", "<frozen importlib"))


class Leftovers:
    """What the import left in the process that a fork would copy wrongly."""

    def __init__(self, threads: list[str], connections: list[str], native_threads: int) -> None:
        self.threads = threads  # names of Python threads: a fork does not take them along
        self.connections = connections  # connected sockets: a fork makes all workers talk over the same one
        self.native_threads = native_threads  # of extension modules, which mostly know how to live with fork

    @property
    def unfit(self) -> list[str]:
        """Reasons not to fork from here."""
        reasons = []
        if self.threads:
            reasons.append(f"threads are running: {', '.join(self.threads)}")
        if self.connections:
            reasons.append(f"sockets are connected: {', '.join(self.connections)}")
        return reasons


def leftovers(own: Iterable[int] = ()) -> Leftovers:
    """Look at this process after the import; ``own`` are the descriptors that are ours."""
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    tasks = len(os.listdir("/proc/self/task"))
    return Leftovers(threads, _connections(frozenset(own)), max(0, tasks - 1 - len(threads)))


def _connections(own: frozenset[int]) -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        descriptor = int(entry)
        try:
            if descriptor in own or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as duplicate:
                peer = duplicate.getpeername()
                # A pair has no name: both its ends are here, and nobody outside can be confused.
                # A datagram is whole by itself, whoever sends it (syslog, statsd).
                if duplicate.type == socket.SOCK_STREAM and peer:
                    found.append(_peer_name(peer))
        except OSError:
            continue  # closed since, or not connected
    return found


def _peer_name(peer: Any) -> str:
    if isinstance(peer, bytes):  # an abstract Unix address
        return "@" + peer[1:].decode("utf-8", "backslashreplace")
    return peer if isinstance(peer, str) else f"{peer[0]}:{peer[1]}"


def warm_up(application: Application, path: str, *, agent: str = "prefork-warmup", errors: TextIO | None = None) -> str:
    """Request a path of the application in this process; returns the status line.

    ``errors`` is what it gets as wsgi.errors, standard error if none is given; ``agent`` tells it who asks. Raises
    whatever the application raises.
    """
    statuses: list[str] = []
    afterwards: list[Callable[[], Any]] = []

    def start_response(status: str, _headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info is not None and exc_info[1] is not None:
            raise exc_info[1]
        statuses.append(status)
        return lambda _data: None

    hooks.lend(afterwards.append, _extend)
    try:
        _request(application, path, agent, sys.stderr if errors is None else errors, start_response)
        for call in afterwards:
            call()
    finally:
        hooks.lend(None, None)
    return statuses[-1] if statuses else "no status"


def unwelcome(status: str) -> str:
    """Why an application may answer `warm_up` so and nobody else; "" if nothing is known."""
    if status[:3] != "400":
        return ""
    return "asked with Host: localhost; an application that checks the host, as Django by ALLOWED_HOSTS, must allow it"


def _slot() -> dict[str, int]:
    """The worker's, in a worker; the process that imports the application for all of them has none."""
    with contextlib.suppress(RuntimeError):
        return {"prefork.worker_slot": hooks.worker_slot()}
    return {}


def _extend(_seconds: float) -> None:
    """No limit ends a request of our own; the time to start is what it has."""


def _request(
    application: Application, path: str, agent: str, errors: TextIO, start_response: Callable[..., Any]
) -> None:
    path, _, query = path.partition("?")
    result = application(
        {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "HTTP_USER_AGENT": agent,
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": errors,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "prefork.after_response": hooks.after_response,
            "prefork.extend_deadline": hooks.extend_deadline,
            "prefork.request_id": f"{agent}-{os.getpid():x}-{time.time_ns():x}",
            "prefork.peer": None,
            **_slot(),
        },
        start_response,
    )
    try:
        for _ in result:
            pass
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()

"""Finding the application, warming it, and seeing what its import left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

import prefork.worker.application as module
from harness.processes import environment
from machine import HAS_IPV6
from prefork.errors import ApplicationError
from prefork.worker.application import Leftovers, enter, leftovers, load, warm_up

OURS = os.path.dirname(os.path.dirname(module.__file__))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is importable and the current one; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    places = {
        name: [str(vars(sys.modules[name]).get("__file__")), *vars(sys.modules[name]).get("__path__", ())]
        for name in set(sys.modules) - before
    }
    for name, found in places.items():
        if any(place.startswith(str(tmp_path)) for place in found):
            del sys.modules[name]


def failure(name: str) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        load(name)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert OURS not in caught.value.traceback
    assert "importlib" not in caught.value.traceback
    return caught.value


# loading

SITE = """
def application(environ, start_response): return [b"application"]
def app(environ, start_response): return [b"app"]
def other(environ, start_response): return [b"other"]
def factory(): return other
class Namespace:
    inner = staticmethod(other)
    @staticmethod
    def make(): return app
class Callable:
    def __call__(self, environ, start_response): return [b"instance"]
instance = Callable()
"""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("site_ok", "application"),
        ("site_ok:app", "app"),
        ("site_ok:other", "other"),
        ("site_ok:factory()", "other"),
        ("site_ok:Namespace.inner", "other"),
        ("site_ok:Namespace.make()", "app"),
        ("site_ok:instance", "instance"),
        ("package.deep.site", "app"),
        ("package.deep.site:app", "app"),
        ("package", "package"),
    ],
)
def test_every_form_of_a_name(here: Path, name: str, answer: str) -> None:
    """module (then application, else app), module:callable, module:factory(), with dots on both sides."""
    (here / "site_ok.py").write_text(SITE)
    (here / "package" / "deep").mkdir(parents=True)
    (here / "package" / "__init__.py").write_text("def app(environ, start_response): return [b'package']")
    (here / "package" / "deep" / "site.py").write_text("def app(environ, start_response): return [b'app']")
    assert list(load(name)({}, lambda *_: None)) == [answer.encode()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mysite/wsgi.py",
            ("mysite/wsgi.py: 'mysite/wsgi.py' is not the name of a module; write it as in an import statement, "
             'for example "mysite.wsgi:application" (no slashes, no ".py")'),
        ),
        ("mysite/wsgi:app", "mysite/wsgi:app: 'mysite/wsgi' is not the name of a module"),
        ("", ": '' is not the name of a module"),
        (":app", ":app: '' is not the name of a module"),
        ("a..b:app", "a..b:app: 'a..b' is not the name of a module"),
        (".a:app", ".a:app: '.a' is not the name of a module"),
        ("my-site:app", "my-site:app: 'my-site' is not the name of a module"),
        ("nosuch", "nosuch: there is no module 'nosuch' in {here} or elsewhere on sys.path; check the name, or"),
        ("nosuch.wsgi:app", "nosuch.wsgi:app: there is no module 'nosuch' in {here}"),
        ("site_ok.wsgi:app", "site_ok.wsgi:app: there is no module 'site_ok.wsgi' in {here}"),
        ("site_ok.py", "site_ok.py: there is no module 'site_ok.py' in {here}"),
        (
            "site_ok.application",
            ("site_ok.application: there is no module 'site_ok.application' in {here} or elsewhere on sys.path; "
             "did you mean site_ok:application?"),
        ),
        (
            "site_ok.number",
            "site_ok.number: there is no module 'site_ok.number' in {here} or elsewhere on sys.path; check the name",
        ),
        ("site_ok:aplication", "site_ok:aplication: site_ok has no 'aplication'; did you mean 'application'?"),
        ("site_ok:zzz", "site_ok:zzz: site_ok has no 'zzz'; did you mean 'application'?"),
        ("site_odd:zzz", "site_odd:zzz: site_odd has no 'zzz'; did you mean 'app'?"),
        ("site_ok:", "site_ok:: site_ok has no ''"),
        ("site_ok:()", "site_ok:(): site_ok has no ''"),
        ("site_ok:factoy()", "site_ok:factoy(): site_ok has no 'factoy'; did you mean 'factory'?"),
        ("site_ok:Namespace.iner", "site_ok:Namespace.iner: site_ok has no 'Namespace.iner'; did you mean 'inner'?"),
        ("site_ok:nothing.app", "site_ok:nothing.app: site_ok has no 'nothing.app'"),
        ("site_ok:number", "site_ok:number is an int, not a WSGI callable"),
        ("site_ok:text", "site_ok:text is a str, not a WSGI callable"),
        ("site_ok:gives_text()", "site_ok:gives_text() returned a str, not a WSGI callable"),
        (
            "site_empty",
            "site_empty: the module has neither 'application' nor 'app'; name the callable: \"site_empty:CALLABLE\"",
        ),
        ("site_odd", "site_odd:application is a NoneType, not a WSGI callable"),
    ],
)  # fmt: skip
def test_a_wrong_name(here: Path, name: str, message: str) -> None:
    """What is wrong with it, and what mends it; there is no traceback, since nothing was raised by the application."""
    (here / "site_ok.py").write_text(SITE + "number = 3\ntext = 'x'\ndef gives_text(): return 'x'\n")
    (here / "site_empty.py").write_text("def handler(environ, start_response): return []")
    (here / "site_odd.py").write_text("application = None\ndef app(environ, start_response): return []")
    error = failure(name)
    assert (str(error).startswith(message.format(here=here)), error.traceback) == (True, ""), str(error)


@pytest.mark.parametrize(
    ("source", "what", "shown"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero", ['broken.py", line 1, in <module>', "1 / 0"]),
        ("raise SystemExit(3)", "SystemExit: 3", ['broken.py", line 1, in <module>']),
        ("import sys; sys.exit()", "SystemExit", ['broken.py", line 1, in <module>']),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ['broken.py", line 1, in <module>']),
        ("def f(:", "SyntaxError: invalid syntax (broken.py, line 1)", ['broken.py", line 1', "def f(:"]),
        ("import broken_inner", "ModuleNotFoundError: No module named 'gone'", ["import broken_inner", "import gone"]),
        ("import gone", "ModuleNotFoundError: No module named 'gone'", ['broken.py", line 1, in <module>']),
        ("import broken_package.gone", "ModuleNotFoundError: No module named 'broken_package.gone'", ["line 1"]),
        ("raise ModuleNotFoundError", "ModuleNotFoundError", ['broken.py", line 1, in <module>']),
        ("from os import nosuch", "ImportError: cannot import name 'nosuch' from 'os'", ["from os import nosuch"]),
        (
            "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('second') from error",
            "RuntimeError: second",
            ["ZeroDivisionError: division by zero", "direct cause", "RuntimeError: second"],
        ),
        (
            "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd",
            "Odd",
            ['broken.py", line 4, in <module>'],
        ),
        ("raise ExceptionGroup('many', [ValueError('one')])", "ExceptionGroup: many (1 sub-exception)", ["one"]),
    ],
)
def test_an_import_that_fails(here: Path, source: str, what: str, shown: list[str]) -> None:
    """The application's own traceback, from its first frame to its last, and no frame of ours or of the importer."""
    (here / "broken.py").write_text(source + "\n")
    (here / "broken_inner.py").write_text("import gone\n")
    (here / "broken_package").mkdir()
    (here / "broken_package" / "__init__.py").write_text("")
    error = failure("broken:app")
    assert str(error).startswith(f"broken:app: importing it raised {what}")
    assert [part for part in shown if part not in error.traceback] == []


def test_a_parent_package_that_fails(here: Path) -> None:
    """The fault is in the package, not in the name; a missing part of the name itself is."""
    (here / "parent").mkdir()
    (here / "parent" / "__init__.py").write_text("import parent.helpers\n")
    (here / "parent" / "wsgi.py").write_text("")
    error = failure("parent.wsgi:app")
    missing = "ModuleNotFoundError: No module named 'parent.helpers'"
    assert str(error) == f"parent.wsgi:app: importing it raised {missing}"
    assert "import parent.helpers" in error.traceback


@pytest.mark.parametrize(
    ("factory", "what", "shown"),
    [
        ("def make(): raise RuntimeError('no database')", "RuntimeError: no database", "in make"),
        ("def make(): raise SystemExit(1)", "SystemExit: 1", "in make"),
        ("def make(needed): pass", "TypeError: make() missing 1 required positional argument: 'needed'", "TypeError"),
        ("make = 3", "TypeError: 'int' object is not callable", "TypeError"),
    ],
)
def test_a_factory_that_fails(here: Path, factory: str, what: str, shown: str) -> None:
    """As an import that fails."""
    (here / "factories.py").write_text(factory + "\n")
    error = failure("factories:make()")
    assert str(error) == f"factories:make(): the factory raised {what}"
    assert shown in error.traceback


@pytest.mark.parametrize("name", ["lazy", "lazy:app", "lazy:app()", "lazy:x.y"])
def test_a_module_that_raises_when_it_is_looked_into(here: Path, name: str) -> None:
    """Its __getattr__ (PEP 562) is the application's code like any other."""
    (here / "lazy.py").write_text("def __getattr__(name):\n    raise RuntimeError('not configured')\n")
    error = failure(name)
    assert "raised RuntimeError: not configured" in str(error)
    assert 'lazy.py", line 2, in __getattr__' in error.traceback


# entering


def test_entering_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the current one, and first on the path after what the operator put before it; a link is kept as a name."""
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", ["/rest"])
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    enter(str(tmp_path / "current"), ("lib", "/other"))
    assert Path.cwd() == tmp_path / "release"
    assert sys.path == ["lib", "/other", str(tmp_path / "current"), "/rest"]


@pytest.mark.parametrize(("kind", "reason"), [("nosuch", "No such file or directory"), ("file", "Not a directory")])
def test_a_directory_that_cannot_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    """The reason and the option; the path is as it was."""
    before = list(sys.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ApplicationError) as caught:
        enter(str(tmp_path / kind), ())
    assert str(caught.value) == (
        f"cannot enter {tmp_path / kind}: {reason}; --chdir must name a directory that this user may enter"
    )
    assert sys.path == before


# leftovers


def test_nothing_is_left() -> None:
    """A process that has only just begun is fit to be forked."""
    script = "from prefork.worker.application import leftovers as l; n = l(); print(n.unfit, n.native_threads)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment({}), stdout=subprocess.PIPE, check=True, text=True
    )
    assert done.stdout == "[] 0\n"


def test_a_thread_is_left() -> None:
    """Daemon or not: a fork would not take it along."""
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, name=f"left-{daemon}", daemon=daemon) for daemon in (True, False)]
    for thread in threads:
        thread.start()
    found = [name for name in leftovers().threads if name.startswith("left-")]
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["left-False", "left-True"]
    assert [name for name in leftovers().threads if name.startswith("left-")] == []


def test_a_native_thread_is_counted_apart() -> None:
    """One that Python does not know is no reason."""
    script = (
        "import faulthandler; from prefork.worker.application import leftovers\n"
        "faulthandler.dump_traceback_later(1000); left = leftovers(); print(left.unfit, left.native_threads)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment({}), stdout=subprocess.PIPE, check=True, text=True
    )
    assert done.stdout == "[] 1\n"


def connected(family: int, kind: int, address: Any) -> tuple[Callable[[], None], str | int, int]:
    """A client, connected to a listener of that kind: (close all, where it is connected to, its descriptor)."""
    server = socket.socket(family, kind)
    server.bind(address)
    if kind != socket.SOCK_DGRAM:
        server.listen()
    client = socket.socket(family, kind)
    client.connect(server.getsockname())
    name = server.getsockname()

    def close() -> None:
        client.close()
        server.close()

    if isinstance(name, bytes):
        name = "@" + name[1:].decode()
    return close, name if isinstance(name, str) else f"{name[0]}:{name[1]}", client.fileno()


@pytest.mark.parametrize(
    ("family", "kind", "address", "counted"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), True),
        *([(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0), True)] if HAS_IPV6 else []),
        (socket.AF_UNIX, socket.SOCK_STREAM, "{folder}/server", True),
        (socket.AF_UNIX, socket.SOCK_STREAM, "\0prefork-test-{pid}-x", True),
        (socket.AF_UNIX, socket.SOCK_STREAM, "", True),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0), False),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "{folder}/log", False),
    ],
)
def test_connected_streams_are_left(folder: Path, family: int, kind: int, address: Any, counted: bool) -> None:
    """A database's connection would be one for all workers; a datagram socket (syslog, statsd) is each one's own."""
    if isinstance(address, str):
        address = address.format(folder=folder, pid=os.getpid())
    close, name, descriptor = connected(family, kind, address)
    try:
        assert leftovers().connections == ([name] if counted else [])
        assert leftovers(own=[descriptor]).connections == []
    finally:
        close()


def test_sockets_that_are_no_connections() -> None:
    """A pair, a listener, an unconnected one; and the look leaves no descriptor behind."""
    before = os.listdir("/proc/self/fd")
    pair = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    unconnected = socket.socket()
    assert leftovers().connections == []
    for held in (*pair, listener, unconnected):
        held.close()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("threads", "connections", "reasons"),
    [
        ([], [], []),
        (["a", "b"], [], ["threads are running: a, b"]),
        ([], ["/run/db"], ["sockets are connected: /run/db"]),
        (["a"], ["x:1", "y:2"], ["threads are running: a", "sockets are connected: x:1, y:2"]),
    ],
)
def test_reasons_not_to_fork(threads: list[str], connections: list[str], reasons: list[str]) -> None:
    """Threads of Python and connections; native threads are none."""
    assert Leftovers(threads, connections, 7).unfit == reasons


# warming up


class Body:
    def __init__(self, parts: list[bytes], fault: Exception | None = None) -> None:
        self._parts = iter(parts)
        self._fault = fault
        self.closed = 0
        self.taken = 0

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        if self._fault is not None:
            raise self._fault
        part = next(self._parts)
        self.taken += 1
        return part

    def close(self) -> None:
        self.closed += 1


def test_a_warm_up_is_a_request_of_its_own() -> None:
    """A GET from here, that says what it is, whole by the rules of WSGI; path and query as they were written."""
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        assert environ["wsgi.input"].read(1) == b""
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    assert warm_up(validator(application), "/a/b?c=d?e") == "200 OK"
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "c=d?e",
        "HTTP_USER_AGENT": "prefork-warmup",
        "REMOTE_ADDR": "127.0.0.1",
    }
    assert {key: seen[key] for key in expected} == expected


def test_a_warm_up_has_what_every_request_has() -> None:
    """An application that looks for it is warmed, too; but for the slot of a worker, which there is not yet."""
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        environ["prefork.extend_deadline"](1)
        start_response("200 OK", [])
        return []

    warm_up(application, "/")
    warm_up(application, "/")
    first, second = seen
    assert first["prefork.request_id"] != second["prefork.request_id"]
    assert (first["wsgi.input_terminated"], first["prefork.peer"]) == (True, None)
    assert "prefork.worker_slot" not in first


def test_the_response_is_taken_whole_and_closed_once() -> None:
    """As a client's would be."""
    body = Body([b"one", b"two"])

    def application(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("204 No Content", [])(b"written")
        return body

    assert warm_up(application, "/") == "204 No Content"
    assert (body.taken, body.closed) == (2, 1)


def test_a_fault_in_the_middle_is_the_applications_and_the_body_is_closed() -> None:
    """What it raises is raised."""
    body = Body([], ValueError("middle"))

    def application(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [])
        return body

    with pytest.raises(ValueError, match="middle"):
        warm_up(application, "/")
    assert body.closed == 1


def test_an_error_page_is_the_fault_behind_it() -> None:
    """An application that reports a fault by exc_info has it raised: nobody else would see it. Nothing is nothing."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            raise ValueError("behind")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        return []

    with pytest.raises(ValueError, match="behind"):
        warm_up(application, "/")

    def nothing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("503 Later", [], (None, None, None))
        return []

    assert warm_up(nothing, "/") == "503 Later"


def test_the_last_status_counts_and_none_is_said() -> None:
    """An application that never says one has none."""

    def twice(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        start_response("302 Found", [], None)
        return []

    assert (warm_up(twice, "/"), warm_up(lambda environ, start_response: [], "/")) == ("302 Found", "no status")

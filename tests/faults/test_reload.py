"""Reloads of a real server: new code, new configuration, and everything that can go wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness import (
    PATIENCE,
    Crowd,
    Server,
    alive,
    boot_timeout,
    connect,
    control,
    encode_request,
    fastcgi,
    fetch,
    ordering,
    read_response,
    wait_until,
)

APP = """\
{before}
import os, sys, time
from urllib.parse import parse_qs

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/health" and not {healthy}:
        environ["wsgi.errors"].write("the database has no table orders\\n")
        start_response("500 Internal Server Error", [])
        return [b""]
    if path == "/slow":
        query = parse_qs(environ["QUERY_STRING"])
        open(query["began"][0], "w").close()
        while not os.path.exists(query["end"][0]):
            time.sleep(0.01)
    start_response("200 OK", [("X-Pid", str(os.getpid()))])
    return [{answer!r}.encode()]
"""


def write_app(folder: Path, answer: str, *, before: str = "", healthy: bool = True) -> None:
    """A release of the application: ``before`` are lines of its module."""
    # Python takes byte code of the same second and size for that of this source.
    (folder / "app.py").write_text(APP.format(answer=answer, before=before, healthy=healthy))


def serving(folder: Path, *options: str, **more: Any) -> Server:
    """A server with the application in the folder."""
    env = {"PYTHONDONTWRITEBYTECODE": "1", **more.pop("env", {})}
    return Server("app", "--control-socket", str(folder / "c.sock"), *options, folder=folder, env=env, **more)


def reload(folder: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """`preforkctl reload`, to its end."""
    return control(folder, "--control", str(folder / "c.sock"), "reload", *words, status=status)


def reloading(folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """`preforkctl reload`, begun."""
    return ordering(folder, "--control", str(folder / "c.sock"), "reload")


def status(folder: Path) -> dict[str, Any]:
    done = control(folder, "--control", str(folder / "c.sock"), "status", "--json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def answer_of(server: Server, path: str = "/") -> str:
    return server.ask("GET", path).text


# --- new code ---------------------------------------------------------------------------------------------------------


def test_new_code_answers_when_the_order_returns(folder: Path) -> None:
    """By order and by signal; the generation counts, the workers are others, the server is the same."""
    write_app(folder, "one")
    with serving(folder, "--workers", "3") as server:
        before = server.wait_workers(3)
        write_app(folder, "two")
        done = reload(folder)
        assert [answer_of(server) for _ in range(9)] == ["two"] * 9
        assert done.stdout.startswith("reloaded in ")
        assert done.stdout.endswith(": www is generation 2\n")
        assert not set(server.wait_workers(3)) & set(before)
        write_app(folder, "three")
        server.send(signal.SIGHUP)
        event = server.wait_event("reloaded", count=2)
        assert [answer_of(server) for _ in range(9)] == ["three"] * 9
        assert event["generations"] == {"www": 3}
        assert server.find("reload_ordered")[1]["cause"] == "SIGHUP"
        answer = json.loads(reload(folder, "--json").stdout)
        assert (answer["generations"], answer["seconds"] > 0.0) == ({"www": 4}, True)


def test_a_long_request_is_finished_by_the_code_that_began_it(folder: Path) -> None:
    """The reload does not wait for it, and nobody else does."""
    write_app(folder, "one")
    with serving(folder, "--workers", "1") as server:
        answers: list[str] = []
        path = f"/slow?began={folder}/began&end={folder}/end"
        asked = threading.Thread(target=lambda: answers.append(answer_of(server, path)))
        asked.start()
        wait_until((folder / "began").exists)
        write_app(folder, "two")
        reload(folder)
        assert answer_of(server) == "two"
        assert (answers, len(status(folder)["pools"][0]["processes"])) == ([], 2)
        (folder / "end").touch()
        asked.join()
        assert answers == ["one"]
        server.wait_workers(1)


def test_at_most_two_codes_drain(folder: Path) -> None:
    """With long requests in two earlier ones, a third reload waits until the oldest is gone; then it is done."""
    write_app(folder, "0")
    with serving(folder, "--workers", "1", "--reload-surge", "3") as server:
        threads = []
        for number in range(2):
            path = f"/slow?began={folder}/began{number}&end={folder}/end{number}"
            threads.append(threading.Thread(target=answer_of, args=(server, path)))
            threads[-1].start()
            wait_until((folder / f"began{number}").exists)
            write_app(folder, str(number + 1))
            reload(folder)
        write_app(folder, "3")
        with reloading(folder) as third:
            server.wait_event("reload_ordered", count=3)
            assert answer_of(server) == "2"
            assert len(server.find("reloading")) == 2
            (folder / "end0").touch()
            assert third.communicate(timeout=PATIENCE)[1] == ""
            assert (third.returncode, answer_of(server)) == (0, "3")
        (folder / "end1").touch()
        for thread in threads:
            thread.join()


def test_a_peer_that_keeps_its_connection_does_not_reach_old_code(folder: Path) -> None:
    """It asks again and again over one connection, which is as good as none to a worker that has to leave."""
    write_app(folder, "one")
    with serving(folder, "--workers", "1") as server:
        over = threading.Event()
        seen: list[tuple[float, str]] = []

        def keep_asking() -> None:
            while not over.is_set():
                began = time.monotonic()
                with connect(server.address) as connection:
                    connection.sendall(encode_request(keep=True))
                    response = read_response(connection)
                seen.append((began, response.text))

        thread = threading.Thread(target=keep_asking)
        thread.start()
        wait_until(lambda: len(seen) > 5)
        write_app(folder, "two")
        reload(folder)
        since = time.monotonic()
        wait_until(lambda: seen[-1][0] > since + 0.3)
        over.set()
        thread.join()
        assert {text for began, text in seen if began > since} == {"two"}
        assert {text for _, text in seen} == {"one", "two"}


def test_a_symbolic_link_is_followed_anew(folder: Path) -> None:
    """As deployments are made: releases side by side, and `current` leads to one of them."""
    for name in ("one", "two"):
        (folder / name).mkdir()
        write_app(folder / name, name)
    link = folder / "current"
    link.symlink_to("one")
    with serving(folder, "--workers", "2", chdir=link, env={"PWD": str(link)}) as server:
        assert answer_of(server) == "one"
        (folder / "next").symlink_to("two")
        (folder / "next").rename(link)
        reload(folder)
        assert {answer_of(server) for _ in range(4)} == {"two"}


def test_a_directory_that_was_made_anew(folder: Path) -> None:
    """The one it was started in is kept as text: a deployment may delete it, and make another of that name."""
    site = folder / "site"
    site.mkdir()
    write_app(site, "one")
    with serving(folder, "--workers", "2", chdir=site, env={"PWD": str(site)}) as server:
        (site / "app.py").unlink()
        site.rmdir()
        assert f"the application's directory {site} cannot be used" in reload(folder, status=1).stderr
        assert answer_of(server) == "one"
        site.mkdir()
        write_app(site, "two")
        reload(folder)
        assert {answer_of(server) for _ in range(4)} == {"two"}


def test_an_upgraded_dependency(folder: Path) -> None:
    """What an application imports is as fresh as itself, also where the master has imported it for itself."""
    for version in ("1", "2"):
        package = folder / f"lib{version}" / "structlog_extra"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"VERSION = {version!r}\n")
    lib = folder / "lib"
    lib.symlink_to("lib1")
    write_app(folder, "app", before="import structlog_extra")
    source = (folder / "app.py").read_text().replace("['app'.encode()]", "[structlog_extra.VERSION.encode()]")
    (folder / "app.py").write_text(source.replace("'app'.encode()", "structlog_extra.VERSION.encode()"))
    with serving(folder, "--workers", "1", "--pythonpath", str(lib)) as server:
        assert answer_of(server) == "1"
        lib.unlink()
        lib.symlink_to("lib2")
        reload(folder)
        assert answer_of(server) == "2"


LISTENERS = ["tcp", "abstract", "inherited"]


@pytest.mark.parametrize("kind", LISTENERS)
def test_every_kind_of_listener(folder: Path, kind: str) -> None:
    """What has no path, or belongs to somebody else: the same socket serves on, and nobody is refused."""
    write_app(folder, "one")
    with ExitStack() as held:
        address: Any = f"@prefork-test-{os.getpid()}"
        options: dict[str, Any] = {"socket": address}
        if kind == "inherited":
            listener = held.enter_context(socket.socket(socket.AF_UNIX))
            address = str(folder / "given.sock")
            listener.bind(address)
            listener.listen(64)
            options = {"socket": f"fd://{listener.fileno()}", "pass_fds": [listener.fileno()]}
        elif kind == "tcp":
            options = {"socket": "127.0.0.1:0"}
        server = held.enter_context(serving(folder, "--workers", "2", **options))
        if kind == "tcp":
            address = ("127.0.0.1", int(status(folder)["pools"][0]["socket"].rpartition(":")[2]))
        crowd = held.enter_context(Crowd(lambda _number: fetch(address).text, clients=4))
        for answer in ("two", "three"):
            write_app(folder, answer)
            reload(folder)
            assert fetch(address).text == answer
            crowd.wait(20, answer)
        crowd.close()
        assert crowd.lost == []
        assert len(server.find("reloaded")) == 2


@pytest.mark.parametrize("pm", ["ondemand", "dynamic"])
def test_a_pool_that_sleeps(folder: Path, pm: str) -> None:
    """With no worker, or only spares: the new code is tried all the same, and answers whoever wakes the pool."""
    write_app(folder, "one")
    options = ("--pm", pm, "--max-children", "4", "--process-idle-timeout", "1s")
    with serving(folder, *options) as server:
        write_app(folder, "bad", before="import no_such_module")
        assert "no_such_module" in reload(folder, status=1).stderr
        write_app(folder, "two")
        reload(folder)
        assert {answer_of(server) for _ in range(8)} == {"two"}


def test_another_interpreter_at_the_same_place(folder: Path) -> None:
    """A virtual environment whose python was replaced: the new code runs in the new one."""
    venv = folder / "venv"
    (venv / "bin").mkdir(parents=True)
    here = Path(sys.prefix)
    (venv / "pyvenv.cfg").write_text((here / "pyvenv.cfg").read_text())
    (venv / "lib").symlink_to(here / "lib")
    for name in ("python", "other"):
        (venv / "bin" / name).symlink_to(Path(sys.executable).resolve())
    write_app(folder, "app")
    source = (folder / "app.py").read_text()
    (folder / "app.py").write_text(source.replace("'app'.encode()", "os.environ.get('INTERPRETER', 'first').encode()"))
    server = serving(folder, "--workers", "1")
    server._command[0] = str(venv / "bin" / "python")
    with server:
        assert answer_of(server) == "first"
        script = folder / "script"
        script.write_text(f'#!/bin/sh\nINTERPRETER=second exec {venv}/bin/other "$@"\n')
        script.chmod(0o755)
        script.rename(venv / "bin" / "python")
        reload(folder)
        assert answer_of(server) == "second"


def test_whoever_waits_no_longer(folder: Path) -> None:
    """With --timeout the command ends, and says that the reload does not."""
    write_app(folder, "one")
    with serving(folder, "--workers", "1") as server:
        hold = f"import os, time\nwhile os.path.exists({str(folder / 'hold')!r}): time.sleep(0.01)"
        (folder / "hold").touch()
        write_app(folder, "two", before=hold)
        words = ("--control", str(folder / "c.sock"), "reload", "--timeout", "500ms")
        assert "the reload goes on" in control(folder, *words, status=1).stderr
        (folder / "hold").unlink()
        server.wait_event("reloaded")
        assert answer_of(server) == "two"


# --- what goes wrong --------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "syntax error": ({"before": "def ("}, "SyntaxError", 'File "{folder}/app.py", line 1'),
    "missing module": ({"before": "import no_such_module"}, "No module named 'no_such_module'", "line 1"),
    "raises": ({"before": "raise RuntimeError('no database')"}, "RuntimeError: no database", "raise RuntimeError"),
    "exits": ({"before": "import os; os._exit(3)"}, "ended: exit status 3", ""),
    "canary": ({"healthy": False}, "canary /health: expected an answer of 2xx or 3xx, found 500", "no table orders"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("preload", ["auto", "never"])
def test_code_that_cannot_serve_changes_nothing(folder: Path, name: str, preload: str) -> None:
    """Who ordered it hears the reason and the traceback; mended, it reloads."""
    bad, reason, trace = FAILURES[name]
    write_app(folder, "one")
    with serving(folder, "--workers", "2", "--canary", "/health", "--preload", preload) as server:
        wait_until(lambda: status(folder)["pools"][0]["idle processes"] == 2)
        before = server.workers()
        write_app(folder, "two", **bad)
        done = reload(folder, status=1)
        assert reason in done.stderr.splitlines()[-1]
        assert trace.format(folder=folder) in done.stderr
        failed = server.wait_event("reload_failed")
        assert reason in failed["error"]
        assert [answer_of(server) for _ in range(4)] == ["one"] * 4
        assert server.workers() == before
        wait_until(lambda: len(server.titles()) == 3, what="one zygote and two workers")
        write_app(folder, "three")
        reload(folder)
        assert [answer_of(server) for _ in range(4)] == ["three"] * 4


def test_an_import_that_hangs(folder: Path) -> None:
    """It is ended by boot_timeout, and its stack is told."""
    write_app(folder, "one")
    limit = boot_timeout(folder)
    with serving(folder, "--workers", "1", "--boot-timeout", f"{limit}s") as server:
        write_app(folder, "two", before="import time\ntime.sleep(60)")
        done = reload(folder, status=1)
        assert f"importing it took longer than boot_timeout ({limit} s)" in done.stderr
        assert f'File "{folder}/app.py", line 2' in done.stderr
        assert answer_of(server) == "one"
        write_app(folder, "three")
        reload(folder)
        assert answer_of(server) == "three"


def test_a_canary_that_fails_at_the_first_start(folder: Path) -> None:
    """The server does not start: 78, with what the application wrote."""
    write_app(folder, "one", healthy=False)
    server = serving(folder, "--workers", "2", "--canary", "/health").start()
    assert server.wait_exit() == 78
    server.assert_nothing_left()
    assert "canary /health: expected an answer of 2xx or 3xx, found 500 Internal Server Error" in server.text
    assert "no table orders" in server.text


def test_a_canary_that_raises(folder: Path) -> None:
    """Its traceback is told; it is requested of one worker alone, and with a user agent of its own."""
    write_app(folder, "one")
    asked = folder / "asked"
    listening = f"""
import os
class Listening:
    def __init__(self, application): self._application = application
    def __call__(self, environ, start_response):
        with open({str(asked)!r}, "a") as file: file.write(environ.get("HTTP_USER_AGENT", "") + "\\n")
        if os.path.exists({str(folder / "broken")!r}): raise LookupError("no such key")
        return self._application(environ, start_response)
application = Listening(application)
"""
    with (folder / "app.py").open("a") as file:
        file.write(listening)
    with serving(folder, "--workers", "3", "--canary", "/health") as server:
        server.wait_workers(3)
        assert asked.read_text() == "prefork-canary\n"
        (folder / "broken").touch()
        done = reload(folder, status=1)
        assert "canary /health: the application raised LookupError: no such key" in done.stderr
        assert "in __call__" in done.stderr
        (folder / "broken").unlink()
        assert answer_of(server) == "one"


def test_the_coming_zygote_is_killed(folder: Path) -> None:
    """From outside, while it imports: the reload fails, and the server does not care."""
    write_app(folder, "one")
    with serving(folder, "--workers", "2") as server:
        workers = server.wait_workers(2)
        write_app(
            folder,
            "two",
            before=f"import os, time\nopen({str(folder / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
        )
        with reloading(folder) as order:
            wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
            os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
            _, said = order.communicate(timeout=PATIENCE)
            assert (order.returncode, "killed by SIGKILL" in said) == (1, True)
        assert (answer_of(server), server.workers()) == ("one", workers)


def test_the_serving_zygote_dies_during_a_reload(folder: Path) -> None:
    """It is replaced, and what is coming starts anew after it: the reload is done all the same, with the new code."""
    write_app(folder, "one")
    with serving(folder, "--workers", "2") as server:
        first = next(pid for pid, title in server.titles().items() if title.startswith("prefork: zygote"))
        hold = f"import os, time\nwhile os.path.exists({str(folder / 'hold')!r}): time.sleep(0.01)"
        (folder / "hold").touch()
        write_app(folder, "two", before=hold)
        with reloading(folder) as order:
            server.wait_event("reloading")
            wait_until(lambda: len(server.titles()) == 4)
            os.kill(first, signal.SIGKILL)
            server.wait_event("zygote_died")
            (folder / "hold").unlink()
            assert order.communicate(timeout=PATIENCE)[1] == ""
            assert (order.returncode, {answer_of(server) for _ in range(4)}) == (0, {"two"})
        wait_until(lambda: len(server.titles()) == 3, what="one zygote and two workers")


# --- when there is no room, and when it gets stuck --------------------------------------------------------------------


def test_workers_that_leave_do_not_keep_new_code_out(folder: Path) -> None:
    """Four requests hang, the pool shall have one worker: its three others leave, and may take as long as they do."""
    write_app(folder, "one")
    with (
        serving(folder, "--workers", "4", "--reload-surge", "1", "--graceful-timeout", "1") as server,
        ExitStack() as stack,
    ):
        for number in range(4):
            client = stack.enter_context(connect(server.address))
            path = f"/slow?began={folder}/began-{number}&end={folder}/end"
            client.sendall(encode_request("GET", path))
            wait_until((folder / f"began-{number}").exists)
        control(folder, "--control", str(folder / "c.sock"), "scale", "max_children=1")
        write_app(folder, "two")
        reload(folder)
        assert answer_of(server) == "two"


BINDS = """\
import prefork, socket
@prefork.on_worker_start
def start(*_):
    global taken
    taken = socket.socket(socket.AF_UNIX)
    taken.bind("\\0{name}")
"""


def test_new_code_that_starts_once_and_not_again(folder: Path) -> None:
    """It is said, both codes serve, and the mended code replaces both."""
    write_app(folder, "one")
    with serving(folder, "--workers", "3") as server:
        write_app(folder, "two", before=BINDS.format(name=f"prefork-{os.getpid()}-{folder.name}"))
        said = reload(folder, status=1).stderr
        assert "the new code serves, and does not get any further" in said
        assert "Address already in use" in said
        assert server.wait_event("reload_stalled")["workers"] == 2
        write_app(folder, "three")
        reload(folder)
        assert {answer_of(server) for _ in range(9)} == {"three"}
        server.wait_workers(3)


# --- its place in the server's life -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_goes_before_a_reload(folder: Path, number: int) -> None:
    """The server stops at once, whatever the coming code does, and who asked for the reload hears so."""
    write_app(folder, "one")
    with serving(folder, "--workers", "1", "--graceful-timeout", "300s") as server:
        write_app(folder, "two", before="import time\ntime.sleep(300)")
        with reloading(folder) as order:
            server.wait_event("reloading")
            assert server.stop(number) == 0  # far sooner than any of these are over
            _, said = order.communicate(timeout=PATIENCE)
            assert (order.returncode, "the server is being stopped" in said) == (1, True)


def test_a_reload_during_the_boot_waits(folder: Path) -> None:
    """It is remembered, and done when the server serves."""
    hold = f"import os, time\nwhile os.path.exists({str(folder / 'hold')!r}): time.sleep(0.01)"
    (folder / "hold").touch()
    write_app(folder, "one", before=hold)
    server = serving(folder, "--workers", "1").start()
    try:
        server.wait_event("starting")
        wait_until((folder / "c.sock").exists)
        with reloading(folder) as order:
            server.wait_event("reload_ordered")
            assert order.poll() is None
            (folder / "hold").unlink()
            assert order.communicate(timeout=PATIENCE)[1] == ""
            assert order.returncode == 0
        assert [
            event["event"] for event in server.events if event["event"] in ("serving", "reloading", "reloaded")
        ] == [
            "serving",
            "reloading",
            "reloaded",
        ]
        assert server.stop() == 0
    finally:
        if server.running:
            server.kill()
        server.assert_nothing_left()


def test_orders_that_come_during_a_reload_share_the_next(folder: Path) -> None:
    """The first is under way; the others are all answered by one more, which sees what was changed meanwhile."""
    hold = f"import os, time\nwhile os.path.exists({str(folder / 'hold')!r}): time.sleep(0.01)"
    write_app(folder, "one")
    with serving(folder, "--workers", "1") as server:
        (folder / "hold").touch()
        write_app(folder, "two", before=hold)
        with ExitStack() as stack:
            orders = [stack.enter_context(reloading(folder))]
            server.wait_event("reloading")
            orders += [stack.enter_context(reloading(folder)) for _ in range(3)]
            server.wait_event("reload_ordered", count=4)
            write_app(folder, "three")
            (folder / "hold").unlink()
            assert [order.communicate(timeout=PATIENCE)[1] for order in orders] == [""] * 4
            assert [order.returncode for order in orders] == [0] * 4
        assert (len(server.find("reloaded")), answer_of(server)) == (2, "three")


def test_an_application_that_was_given_as_a_callable(folder: Path) -> None:
    """It is forked as it stands, which a reload cannot change: refused, with that reason."""
    program = (
        "import prefork\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'here']\n"
        "prefork.serve(application, socket='app.sock', workers=1, control_socket='c.sock', log_format='json')\n"
    )
    (folder / "program.py").write_text(program)
    server = serving(folder)
    server._command = [sys.executable, "program.py"]
    with server:
        done = reload(folder, status=1)
        assert "was given as a callable" in done.stderr
        server.send(signal.SIGHUP)
        server.wait_event("reload_refused", cause="SIGHUP")
        assert fastcgi(server.address).text == "here"


def test_in_the_background(folder: Path) -> None:
    """A daemon reloads by its pid file's signal, with the arguments it was started with."""
    write_app(folder, "one")
    log = folder / "log"
    options = ["--daemonize", "--error-log", str(log), "--pid-file", "pid", "--workers", "1"]
    server = serving(folder, *options).start()
    assert server.process.wait(PATIENCE) == 0
    pid = int((folder / "pid").read_text())
    try:
        write_app(folder, "two")
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: '"reloaded"' in log.read_text())
        assert fastcgi(server.address).text == "two"
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))
        server.log.wait_end(PATIENCE)
        server.log.close()

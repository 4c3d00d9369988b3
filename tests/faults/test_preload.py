"""Where the application is imported, and what else a start can be told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import Server, environment, fastcgi, wait_until


def whoami(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.ask(path="/whoami").body)
    return found


def test_by_default_the_zygote_imports_and_workers_are_forked_warm(folder: Path) -> None:
    """All workers report the same importing process, which is none of them."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        seen = [whoami(server) for _ in range(10)]
        assert len({answer["imported_by"]["pid"] for answer in seen}) == 1
        assert seen[0]["imported_by"]["pid"] not in {answer["me"]["pid"] for answer in seen}
        assert {answer["me"]["ppid"] for answer in seen} == {server.pid}


def test_with_never_each_worker_imports_for_itself(folder: Path) -> None:
    """Every worker is its own importer."""
    with Server("faulty", "--workers", "2", "--preload", "never", folder=folder) as server:
        for answer in (whoami(server) for _ in range(10)):
            assert answer["imported_by"]["pid"] == answer["me"]["pid"]


def test_an_import_that_leaves_a_thread_behind_is_not_forked_from(folder: Path) -> None:
    """auto: said in the log with the reason and the cost, and each worker imports for itself."""
    with Server("faulty", "--workers", "2", folder=folder, env={"FAULTY_THREAD": "1"}) as server:
        refused = server.wait_event("preload_refused")
        assert refused["reasons"] == ["threads are running: left-behind"]
        assert refused["import_seconds"] > 0
        answer = whoami(server)
        assert answer["imported_by"]["pid"] == answer["me"]["pid"]


def test_with_always_it_is_forked_from_all_the_same(folder: Path) -> None:
    """always: a warning, and workers without that thread."""
    with Server("faulty", "--workers", "2", "--preload", "always", folder=folder, env={"FAULTY_THREAD": "1"}) as server:
        server.wait_event("forked_anyway")
        answer = whoami(server)
        assert answer["imported_by"]["pid"] != answer["me"]["pid"]


def test_warmup_requests_run_in_the_zygote_before_any_worker_exists(folder: Path) -> None:
    """Each path once, in one process; a path that fails is a warning, not a failed start."""
    (folder / "warm.py").write_text(
        "import os\n"
        "seen = []\n"
        "def application(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/fails': raise RuntimeError('not yet')\n"
        "    if environ['PATH_INFO'] == '/host': start_response('400 Bad Request', []); return []\n"
        "    if environ['HTTP_USER_AGENT'] == 'prefork-warmup': seen.append((environ['PATH_INFO'], os.getpid()))\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [repr((seen, os.getpid())).encode()]\n"
    )
    options = ("--warmup", "/a?x=1", "--warmup", "/fails", "--warmup", "/host", "--warmup", "/b", "--workers", "1")
    with Server("warm", *options, folder=folder) as server:
        params = {"HTTP_USER_AGENT": "test"}
        seen, worker = eval(server.ask(path="/", params=params).text)
        assert [path for path, _ in seen] == ["/a", "/b"]
        assert len({pid for _, pid in seen}) == 1
        assert worker not in {pid for _, pid in seen}
        assert "not yet" in server.wait_event("warmup_failed", path="/fails")["traceback"]
        assert "ALLOWED_HOSTS" in server.wait_event("warmup_failed", path="/host")["message"]


def test_two_sockets_make_two_pools_of_one_master(folder: Path) -> None:
    """Each has its listener, its zygote and its workers."""
    other = str(folder / "other.sock")
    with Server("faulty", "--workers", "1", "--socket", other, folder=folder) as server:
        server.wait_event("serving", count=2)
        first, second = whoami(server), json.loads(fastcgi(other, path="/whoami").body)
        assert first["me"]["pid"] != second["me"]["pid"]
        assert first["imported_by"]["pid"] != second["imported_by"]["pid"]
        assert first["me"]["ppid"] == second["me"]["ppid"] == server.pid


_CALLABLE = """
import os, sys, prefork
origin = os.getpid()
warmed = []
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    warmed.append(environ["PATH_INFO"])
    return [f"{origin} {os.getpid()} {warmed[0]}".encode()]
sys.exit(prefork.serve(application, socket=sys.argv[1], max_children=2, log_format="json", warmup=["/warm"]))
"""


def test_a_callable_is_served_as_it_stands(folder: Path) -> None:
    """prefork.serve(application, …): forked, not imported again; stops in order and gives the terminal back."""
    path = str(folder / "app.sock")
    command = [sys.executable, "-c", _CALLABLE, path]
    with subprocess.Popen(command, cwd=folder, env=environment({}), stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            assert any('"serving"' in line for line in program.stderr)
            answers = {fastcgi(path, path="/").text for _ in range(20)}
            assert {answer.split()[0] for answer in answers} == {str(program.pid)}
            assert str(program.pid) not in {answer.split()[1] for answer in answers}
            assert {answer.split()[2] for answer in answers} == {"/warm"}
            program.send_signal(signal.SIGTERM)
            assert program.wait(30) == 0
            assert not Path(path).exists()
        finally:
            program.kill()


@pytest.mark.parametrize("where", ["env", "pythonpath", "chdir"])
def test_what_the_application_finds_around_it(folder: Path, where: str) -> None:
    """--env, --pythonpath and --chdir reach the application; both paths count from where the server is started."""
    (folder / "release").mkdir()
    (folder / "library").mkdir()
    (folder / "library" / "helper.py").write_text("NAME = 'pythonpath'\n")
    (folder / "release" / "around.py").write_text(
        "import os, helper\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    found = {'env': os.environ['WHERE'], 'pythonpath': helper.NAME, 'chdir': os.path.basename(os.getcwd())}\n"
        "    return [found[environ['QUERY_STRING']].encode()]\n"
    )
    (folder / "current").symlink_to("release")
    options = ("--chdir", "current", "--pythonpath", "library", "--env", "WHERE=env")
    with Server("around", *options, folder=folder) as server:
        expected = {"env": "env", "pythonpath": "pythonpath", "chdir": "release"}[where]
        assert server.ask(path=f"/?{where}").text == expected


def test_titles_say_who_is_who(folder: Path) -> None:
    """ps(1) shows master with its socket, zygote, and workers with their slots."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        wait_until(lambda: len(server.workers()) == 2)
        assert sorted(server.titles().values()) == [
            "prefork: worker faulty #0",
            "prefork: worker faulty #1",
            "prefork: zygote faulty",
        ]
        master = Path(f"/proc/{server.pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
        assert master == f"prefork: master {server.address}"

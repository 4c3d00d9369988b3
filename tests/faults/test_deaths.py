"""Deaths while serving: what is replaced, how fast, and what the log says of the cause."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness import Server, wait_until
from harness.cgroups import limited_memory


def zygote(server: Server) -> int:
    """The pid of the zygote."""
    return next(pid for pid, title in server.titles().items() if title.startswith("prefork: zygote"))


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/die", "killed by SIGKILL"),
        (f"/die?signal={signal.SIGABRT.value}", "killed by SIGABRT"),
        (f"/die?signal={signal.SIGSEGV.value}", "killed by SIGSEGV"),
    ],
)
def test_a_worker_that_dies_is_replaced_and_the_cause_is_told(folder: Path, path: str, cause: str) -> None:
    """One event with the cause in words and the request it ran; the next request finds a worker."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        assert not server.ask(path=path).complete
        assert server.ask(path="/hello").body == b"hello"
        died = server.wait_event("worker_died")
        assert died["cause"].startswith(cause)
        assert (died["slot"], died["request"]) == (0, f"GET {path}")


def test_a_worker_that_the_kernel_kills_for_memory_is_told_as_one(folder: Path) -> None:
    """The kernel's own count says so; a kill by hand afterwards is told as nothing but that."""
    (folder / "hoarder.py").write_text(
        "def application(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/hoard': hoard = [b'x' * 2**20 for _ in range(4096)]\n"
        "    start_response('200 OK', [])\n"
        "    return [b'hello']\n"
    )
    with limited_memory(300 * 1024**2) as cgroup:
        server = Server("hoarder", "--workers", "1", folder=folder)
        join = f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0')"
        program, *arguments = server._command
        server._command = [program, "-c", f"import os; {join}; os.execv({program!r}, {[program, *arguments]!r})"]
        with server:
            assert not server.ask(path="/hoard").complete
            died = server.wait_event("worker_died")
            assert died["cause"].startswith("killed by SIGKILL: out of memory, killed by the kernel (oom_kill in ")
            assert died["request"] == "GET /hoard"
            assert server.ask().body == b"hello"
            (worker,) = server.workers()
            os.kill(worker, signal.SIGKILL)
            assert server.wait_event("worker_died", count=2)["cause"] == "killed by SIGKILL"


def test_an_application_that_exits_gets_its_answer_out_and_is_replaced(folder: Path) -> None:
    """SystemExit in a request is a 500 for the client, and the worker leaves afterwards."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        assert server.ask(path="/leave").status == 500
        assert server.ask(path="/hello").body == b"hello"
        server.send(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert server.find("worker_died") == []  # it left in order


def test_a_worker_that_is_out_of_descriptors_is_replaced(folder: Path) -> None:
    """It cannot accept any more, says so, and makes room for one that can."""
    with Server("faulty", "--workers", "1", "--rlimit-files", "64", folder=folder) as server:
        assert server.ask(path="/leak").body == b"leaking"
        assert server.ask(path="/hello").body == b"hello"
        assert "Too many open files" in server.find("accept_failed")[0]["error"]


def test_a_zygote_that_dies_is_replaced_by_the_next_generation(folder: Path) -> None:
    """The workers serve on; the next fork comes from generation 2."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        workers = wait_until(lambda: len(server.workers()) == 2 and server.workers())
        os.kill(zygote(server), signal.SIGKILL)
        assert server.wait_event("zygote_died")["cause"] == "killed by SIGKILL"
        server.wait_event("zygote_ready", generation=2)
        assert server.workers() == workers
        server.ask(path="/die")
        assert server.ask(path="/hello").body == b"hello"


def test_a_zygote_that_cannot_come_back_is_tried_again_and_the_workers_serve_on(folder: Path) -> None:
    """The application breaks on disk: its traceback is logged, nothing that runs is touched; mended, it returns."""
    module = folder / "site_module.py"
    whole = "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hello']\n"
    module.write_text(whole)
    with Server("site_module", "--workers", "2", folder=folder) as server:
        wait_until(lambda: len(server.workers()) == 2)
        module.write_text("raise RuntimeError('half a deployment')\n")
        os.kill(zygote(server), signal.SIGKILL)
        failed = server.wait_event("application_failed", count=2)
        assert "half a deployment" in failed["traceback"]
        assert server.ask(path="/").body == b"hello"
        module.write_text(whole)
        server.wait_event("zygote_ready", loaded=True, count=2)


def test_workers_that_die_at_once_are_forked_ever_more_slowly(folder: Path) -> None:
    """A crash loop backs off: after a few deaths the next fork waits, and the master does not spin."""
    (folder / "dies.py").write_text(
        "import os, pathlib\n"
        "if pathlib.Path('broken').exists(): os.abort()\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'hello']\n"
    )
    with Server("dies", "--workers", "1", "--preload", "never", folder=folder) as server:
        (worker,) = wait_until(server.workers)
        (folder / "broken").touch()
        os.kill(worker, signal.SIGKILL)
        sixth = server.wait_event("worker_died", count=6)
        first = server.find("worker_died")[0]
        # 0, 0.1, 0.2, 0.4, 0.8 s between the six: a second and a half at the least.
        assert _seconds(sixth["timestamp"]) - _seconds(first["timestamp"]) > 0.7
        (folder / "broken").unlink()
        assert server.ask(path="/").body == b"hello"


def _seconds(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp()

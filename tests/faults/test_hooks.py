"""Hooks at the start and at the end of workers: when they run, in which, and what happens when they fail or hang."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness import Server, boot_timeout, run, wait_until

APPLICATION = """
import prefork
from diary import write

@prefork.on_worker_start
def connect(worker):
    write('connect', worker)

@prefork.on_worker_stop
def disconnect(worker):
    write('disconnect', worker)

def application(environ, start_response):
    if environ['PATH_INFO'] == '/leave':
        raise SystemExit
    assert prefork.worker_slot() == environ['prefork.worker_slot']
    start_response('200 OK', [])
    return [str(prefork.worker_slot()).encode()]
"""

HOOKS = """
import atexit
from diary import write

def on_worker_start(worker):
    write('start', worker)
    atexit.register(write, 'exit', worker)

def on_worker_stop(worker):
    write('stop', worker)
"""

DIARY = """
import os

def write(what, worker):
    assert worker.pid == os.getpid()
    with open('diary', 'a') as file:
        file.write(f'{what} {worker.pid} {worker.slot} {worker.generation} {worker.pool}\\n')
"""


@pytest.fixture
def shop(folder: Path) -> Path:
    """A folder with an application and a hooks module, which write what they are called with into a diary."""
    (folder / "shop.py").write_text(APPLICATION)
    (folder / "shop_hooks.py").write_text(HOOKS)
    (folder / "diary.py").write_text(DIARY)
    return folder


def diary(folder: Path, pid: int) -> list[str]:
    """What a worker wrote, without its pid."""
    lines = (line.split() for line in (folder / "diary").read_text().splitlines())
    return [" ".join((what, *rest)) for what, of, *rest in lines if int(of) == pid]


@pytest.mark.parametrize("preload", ["always", "never"])
def test_hooks_run_at_the_start_and_at_the_end(shop: Path, preload: str) -> None:
    """In the worker, registered and named ones, with what it is; at the end in reverse order and before atexit."""
    with Server(
        "shop", "--hooks", "shop_hooks", "--workers", "2", "--preload", preload, "--name", "front", folder=shop
    ) as server:
        workers = server.wait_workers(2)
        seen: set[bytes] = set()

        def both_serve() -> bool:
            seen.add(server.ask().body)
            return seen == {b"0", b"1"}

        wait_until(both_serve)
        server.stop()
    told = sorted(diary(shop, pid) for pid in workers)
    assert told == [
        [f"{what} {slot} 1 front" for what in ("connect", "start", "stop", "disconnect", "exit")] for slot in (0, 1)
    ]


def test_a_replaced_worker_calls_its_hooks(shop: Path) -> None:
    """A worker that leaves while the server goes on (here: its application exits) stops in order, too."""
    with Server("shop", "--hooks", "shop_hooks", "--workers", "1", folder=shop) as server:
        (first,) = server.wait_workers(1)
        assert server.ask(path="/leave").status == 500
        wait_until(lambda: diary(shop, first)[-1].startswith("exit"))
        assert [line.split()[0] for line in diary(shop, first)] == ["connect", "start", "stop", "disconnect", "exit"]
        assert server.ask().status == 200


def test_a_killed_worker_calls_none(shop: Path) -> None:
    """Whoever replaces it starts, with the same slot."""
    with Server("shop", "--hooks", "shop_hooks", "--workers", "1", folder=shop) as server:
        (first,) = server.wait_workers(1)
        os.kill(first, signal.SIGKILL)
        (second,) = wait_until(lambda: (found := server.wait_workers(1)) != [first] and found)
        assert server.ask().body == b"0"
    assert diary(shop, first) == ["connect 0 1 www", "start 0 1 www"]
    assert diary(shop, second)[:2] == diary(shop, first)


def test_a_forked_copy_of_a_worker_calls_none(folder: Path) -> None:
    """A process that the application forks is no worker: it has no slot, and nothing to close."""
    (folder / "forks.py").write_text(
        "import os, prefork\n"
        "prefork.on_worker_stop(lambda worker: open(f'stopped-{os.getpid()}', 'w'))\n"
        "def application(environ, start_response):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            prefork.worker_slot()\n"
        "        except RuntimeError as error:\n"
        "            open('copy', 'w').write(str(error))\n"
        "        raise SystemExit\n"
        "    os.waitpid(child, 0)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'parent']\n"
    )
    with Server("forks", "--workers", "1", folder=folder) as server:
        (worker,) = server.wait_workers(1)
        assert server.ask().body == b"parent"
        server.stop()
    assert "this process is none" in (folder / "copy").read_text()
    assert [path.name for path in folder.glob("stopped-*")] == [f"stopped-{worker}"]


def test_a_first_start_whose_hook_fails_is_refused(shop: Path) -> None:
    """78 with the hook's own traceback, as for an application that cannot be imported; no socket appears."""
    (shop / "shop_hooks.py").write_text("def on_worker_start(worker):\n    connect()\n")
    server = Server("shop", "--hooks", "shop_hooks", "--workers", "2", folder=shop).start()
    assert server.wait_exit() == 78
    server.assert_nothing_left()
    assert "the hook shop_hooks.on_worker_start (on_worker_start) raised NameError" in server.text
    assert f'File "{shop}/shop_hooks.py", line 2, in on_worker_start' in server.text
    assert "/prefork/worker/" not in server.text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        (
            "on_worker_start = 3",
            "hooks shop_hooks: expected on_worker_start to be a function that takes the worker, found int",
        ),
        ("import prefork\nprefork.on_worker_stop(None)", "expected a function that takes the worker, found None"),
    ],
)
@pytest.mark.parametrize("preload", ["auto", "never"])
def test_a_hooks_module_that_cannot_be_used_is_refused(shop: Path, preload: str, source: str, message: str) -> None:
    """With its name, by the start and by --check."""
    (shop / "shop_hooks.py").write_text(source + "\n")
    options = ("--hooks", "shop_hooks", "--preload", preload)
    server = Server("shop", *options, folder=shop).start()
    assert server.wait_exit() == 78
    assert message in server.text
    server.assert_nothing_left()
    checked = run(*server._command, "--check", folder=shop)
    assert (checked.returncode, message in checked.stderr) == (78, True)


def test_check_runs_no_hook(shop: Path) -> None:
    """The hooks module is imported, and nothing is connected."""
    server = Server("shop", "--hooks", "shop_hooks", folder=shop)
    assert run(*server._command, "--check", folder=shop).returncode == 0
    assert not (shop / "diary").exists()


def test_a_hook_that_begins_to_fail_backs_off_and_the_others_serve_on(folder: Path) -> None:
    """Its traceback is logged, the next try waits, nothing crashes in a circle; mended, the worker returns."""
    (folder / "fragile.py").write_text(
        "import pathlib, prefork\n"
        "@prefork.on_worker_start\n"
        "def connect(worker):\n"
        "    if pathlib.Path('down').exists(): raise ConnectionRefusedError('no database')\n"
        "    open(f'started-{worker.pid}', 'w').close()\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'hello']\n"
    )
    with Server("fragile", "--workers", "2", folder=folder) as server:
        workers = server.wait_workers(2)
        wait_until(lambda: len(list(folder.glob("started-*"))) == 2)
        (folder / "down").touch()
        os.kill(workers[0], signal.SIGKILL)
        failed = server.wait_event("application_failed", count=4)
        assert "raised ConnectionRefusedError: no database" in failed["error"]
        assert failed["traceback"].splitlines()[1].endswith('fragile.py", line 4, in connect')
        assert server.ask().body == b"hello"
        assert len(server.find("worker_died")) == 1
        (folder / "down").unlink()
        server.wait_workers(2)


def test_a_hook_that_hangs_at_the_start_is_stopped_with_its_stack(folder: Path) -> None:
    """boot_timeout counts for it as for the import."""
    (folder / "hangs.py").write_text(
        "import threading, prefork\n"
        "@prefork.on_worker_start\n"
        "def wait_for_ever(worker):\n"
        "    threading.Event().wait()\n"
        "def application(environ, start_response): ...\n"
    )
    limit = boot_timeout(folder)
    server = Server("hangs", "--workers", "3", "--boot-timeout", f"{limit}s", folder=folder).start()
    assert server.wait_exit() == 78
    server.assert_nothing_left()
    said = f"a new worker was not ready within boot_timeout ({limit} s): on_worker_start or the canary"
    assert said in server.text
    assert server.text.count("in wait_for_ever") == 1


def test_a_hook_that_fails_at_the_end_stops_no_other(folder: Path) -> None:
    """It is logged with its traceback, and the worker ends in order."""
    (folder / "fails.py").write_text(
        "import prefork\n"
        "prefork.on_worker_stop(lambda worker: open('closed', 'w'))\n"
        "@prefork.on_worker_stop\n"
        "def broken(worker):\n"
        "    raise SystemExit(3)\n"
        "def application(environ, start_response): ...\n"
    )
    with Server("fails", "--workers", "1", folder=folder) as server:
        server.wait_workers(1)
        assert server.stop() == 0
        (failed,) = server.find("hook_failed")
        assert failed["hook"] == "fails.broken (on_worker_stop)"
        assert "SystemExit: 3" in failed["traceback"]
        assert server.find("worker_died") == []
    assert (folder / "closed").exists()


def test_a_hook_that_hangs_at_the_end_is_killed(folder: Path) -> None:
    """graceful_timeout counts for it."""
    (folder / "lingers.py").write_text(
        "import threading, prefork\n"
        "@prefork.on_worker_stop\n"
        "def wait_for_ever(worker):\n"
        "    threading.Event().wait()\n"
        "def application(environ, start_response): ...\n"
    )
    with Server("lingers", "--workers", "1", "--graceful-timeout", "300ms", folder=folder) as server:
        server.wait_workers(1)
        assert server.stop() == 0
        assert server.find("worker_died")[0]["cause"] == "killed by SIGKILL: graceful_timeout (0.3 s)"


def test_a_callable_has_hooks(folder: Path) -> None:
    """A program that serves its own application registers its own functions."""
    (folder / "program.py").write_text(
        "import os, sys, prefork\n"
        "def start(worker): open(f'started-{worker.slot}', 'w').write(str(os.getpid()))\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [open(f'started-{prefork.worker_slot()}').read().encode()]\n"
        "prefork.on_worker_start(start)\n"
        "sys.exit(prefork.serve(application, socket=sys.argv[sys.argv.index('--socket') + 1], workers=1,\n"
        "                       log_format='json'))\n"
    )
    server = Server("unused", folder=folder)
    server._command = [server._command[0], "program.py", "--socket", server.address]
    with server:
        (worker,) = server.wait_workers(1)
        assert server.ask().body == str(worker).encode()

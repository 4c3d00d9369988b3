"""Finding an application's hooks, and calling them in their order."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import REPOSITORY
from prefork import hooks
from prefork.errors import ApplicationError
from prefork.worker.hooking import WorkerHooks, load_hooks

pytestmark = pytest.mark.once


class Log:
    """What was logged as an error."""

    def __init__(self) -> None:
        self.errors: list[dict[str, str]] = []

    def error(self, event: str, **fields: str) -> None:
        self.errors.append({"event": event, **fields})


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Every test begins and ends with nothing registered, and may write modules."""
    before = [*hooks.AT_START], [*hooks.AT_STOP]
    hooks.AT_START.clear()
    hooks.AT_STOP.clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_hooks", raising=False)
    yield
    hooks.AT_START[:], hooks.AT_STOP[:] = before
    hooks.enter_worker(None)
    sys.modules.pop("my_hooks", None)


def write(tmp_path: Path, source: str) -> None:
    (tmp_path / "my_hooks.py").write_text(source)


def names(registered: list[hooks.WorkerHook]) -> list[str]:
    return [hook.__qualname__ for hook in registered]


@pytest.mark.parametrize(
    ("source", "start", "stop"),
    [
        ("", [], []),
        ("def on_worker_start(worker): ...", ["on_worker_start"], []),
        ("def on_worker_stop(worker): ...", [], ["on_worker_stop"]),
        # only asked for, or registered by both ways
        ("from prefork import on_worker_start, on_worker_stop", [], []),
        ("from prefork.hooks import on_worker_start\n@on_worker_start\ndef connect(worker): ...", ["connect"], []),
        (
            (
                "import prefork\n@prefork.on_worker_start\ndef on_worker_start(worker): ...\n"
                "@prefork.on_worker_stop\ndef other(worker): ...\ndef on_worker_stop(worker): ...\n"
            ),
            ["on_worker_start"],
            ["other", "on_worker_stop"],
        ),
    ],
)
def test_functions_of_a_module(tmp_path: Path, source: str, start: list[str], stop: list[str]) -> None:
    """They are found by name, and once; what is only imported is none."""
    write(tmp_path, source)
    load_hooks("my_hooks")
    assert (names(hooks.AT_START), names(hooks.AT_STOP)) == (start, stop)


@pytest.mark.parametrize(
    ("source", "message", "traceback"),
    [
        ("on_worker_stop = 'x'", "hooks my_hooks: expected on_worker_stop to be a function that takes the worker", ""),
        ("1 / 0", "hooks my_hooks: importing it raised ZeroDivisionError: division by zero", 'my_hooks.py", line 1'),
        ("raise SystemExit(1)", "hooks my_hooks: importing it raised SystemExit: 1", "SystemExit"),
    ],
)
def test_a_module_that_cannot_be_used(tmp_path: Path, source: str, message: str, traceback: str) -> None:
    """It is an error of the application's, with its traceback and none of our frames."""
    write(tmp_path, source)
    with pytest.raises(ApplicationError) as caught:
        load_hooks("my_hooks")
    assert str(caught.value).startswith(message)
    assert traceback in caught.value.traceback
    assert str(REPOSITORY) not in caught.value.traceback


def test_no_module() -> None:
    """A name that leads nowhere is told with where it was looked for."""
    with pytest.raises(ApplicationError, match="hooks nowhere: there is no module 'nowhere' in "):
        load_hooks("nowhere")


def test_order_and_argument() -> None:
    """Start in the order of registration, stop the other way round, each with the worker, once."""
    called: list[object] = []
    hooks.on_worker_start(lambda worker: called.append(("a", worker)))
    hooks.on_worker_start(lambda _: called.append("b"))
    hooks.on_worker_stop(lambda _: called.append("c"))
    hooks.on_worker_stop(lambda _: called.append("d"))
    mine, log = WorkerHooks(4, 2, "www"), Log()
    assert hooks.worker_slot() == 4
    mine.stop(log)  # it never started
    mine.start()
    mine.stop(log)
    mine.stop(log)
    assert called == [("a", hooks.Worker(4, os.getpid(), 2, "www")), "b", "d", "c"]
    assert log.errors == []


def test_a_start_that_fails() -> None:
    """The rest is not called, at the end neither: the application's own error says which hook it was."""
    called: list[str] = []

    def fails(_worker: hooks.Worker) -> None:
        raise KeyError("DATABASE_URL")

    hooks.on_worker_start(fails)
    hooks.on_worker_start(lambda _: called.append("later"))
    hooks.on_worker_stop(lambda _: called.append("stop"))
    mine = WorkerHooks(0, 1, "www")
    with pytest.raises(ApplicationError) as caught:
        mine.start()
    name = f"{__name__}.test_a_start_that_fails.<locals>.fails"
    assert str(caught.value) == f"the hook {name} (on_worker_start) raised KeyError: 'DATABASE_URL'"
    assert caught.value.traceback.splitlines()[1].endswith("in fails")
    mine.stop(Log())
    assert called == []


def test_a_stop_that_fails() -> None:
    """It is logged, and the others are called."""
    called: list[str] = []

    class Closer:
        def __call__(self, worker: hooks.Worker) -> None:
            raise SystemExit(worker.slot)

    hooks.on_worker_stop(lambda _: called.append("first registered"))
    hooks.on_worker_stop(Closer())
    mine, log = WorkerHooks(7, 1, "www"), Log()
    mine.start()
    mine.stop(log)
    assert called == ["first registered"]
    (failed,) = log.errors
    assert (failed["event"], failed["hook"]) == ("hook_failed", f"{__name__}.Closer (on_worker_stop)")
    assert "SystemExit: 7" in failed["traceback"]

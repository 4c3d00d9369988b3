"""Registering what workers call, without a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefork import hooks
from prefork.hooks import Worker, on_worker_start, on_worker_stop, worker_slot


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    """Every test begins and ends with nothing registered."""
    before = [*hooks.AT_START], [*hooks.AT_STOP]
    hooks.AT_START.clear()
    hooks.AT_STOP.clear()
    yield
    hooks.AT_START[:], hooks.AT_STOP[:] = before
    hooks.enter_worker(None)


@pytest.mark.parametrize(("register", "where"), [(on_worker_start, hooks.AT_START), (on_worker_stop, hooks.AT_STOP)])
def test_registration(register: object, where: list[hooks.WorkerHook]) -> None:
    """A decorator gives back what it was given; a function is registered once, in its turn."""
    assert callable(register)

    def first(worker: Worker) -> None: ...

    def second(worker: Worker) -> None: ...

    assert [register(first), register(second), register(first)] == [first, second, first]
    assert where == [first, second]
    with pytest.raises(TypeError, match="expected a function that takes the worker, found 'connect'"):
        register("connect")


def test_slot() -> None:
    """Only a worker has one."""
    with pytest.raises(RuntimeError, match="needs a prefork worker"):
        worker_slot()
    hooks.enter_worker(Worker(slot=3, pid=1, generation=1, pool="www"))
    assert worker_slot() == 3
    hooks.enter_worker(None)
    with pytest.raises(RuntimeError, match="this process is none"):
        worker_slot()

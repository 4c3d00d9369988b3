"""The life of the server: every cell of the table, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.policy.lifecycle import Command, step
from prefork.policy.model import Phase

B, S, R, D, K, E = (
    Phase.BOOTING,
    Phase.SERVING,
    Phase.RELOADING,
    Phase.DRAINING,
    Phase.KILLING,
    Phase.ENDED,
)

# The columns are BOOTING, SERVING, RELOADING, DRAINING, KILLING, ENDED.
EXPECTED = {
    Command.TERM: (D, D, D, D, K, E),
    Command.QUIT: (D, D, D, D, K, E),
    Command.INT: (D, D, D, K, K, E),
    Command.STOP: (D, D, D, D, K, E),
    Command.STOP_NOW: (K, K, K, K, K, E),
    Command.ABANDONED: (D, D, D, D, K, E),
    Command.SERVES: (S, S, R, D, K, E),
    Command.FAILED: (K, S, R, D, K, E),
    Command.EMPTY: (B, S, R, E, E, E),
    Command.RELOAD: (B, R, R, D, K, E),
    Command.COMMITTED: (B, S, S, D, K, E),
    Command.GIVEN_UP: (B, S, S, D, K, E),
}
CELLS = [
    (phase, command, row[column])
    for command, row in EXPECTED.items()
    for column, phase in enumerate((B, S, R, D, K, E))
]


def test_the_expectations_cover_every_cell() -> None:
    """No phase and no command is left out of the table below."""
    assert {(phase, command) for phase, command, _ in CELLS} == set(itertools.product(Phase, Command))


@pytest.mark.parametrize(
    ("phase", "command", "after"), CELLS, ids=[f"{phase.name}-{command.name}" for phase, command, _ in CELLS]
)
def test_each_cell(phase: Phase, command: Command, after: Phase) -> None:
    """Each phase answers each command as the documentation of the signals says."""
    assert step(phase, command) is after


@given(commands=st.lists(st.sampled_from(list(Command))))
def test_there_is_no_way_back(commands: list[Command]) -> None:
    """Whatever comes in whatever order: a server that serves may reload and serve, but nothing else is undone."""
    order = {B: 0, S: 1, R: 1, D: 2, K: 3, E: 4}
    ranks = [order[phase] for phase in itertools.accumulate(commands, step, initial=B)]
    assert ranks == sorted(ranks)


def test_a_second_int_is_now() -> None:
    """Ctrl-C twice stops at once, and twice SIGTERM does not."""
    assert (step(step(S, Command.INT), Command.INT), step(step(S, Command.TERM), Command.TERM)) == (K, D)

"""The values of the policy."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from prefork.policy import model
from prefork.policy.model import Memory, PoolMemory, SlotState


def test_the_states_are_the_bytes() -> None:
    """The plain integers of the hot path and the enum that people read are the same numbers, each one once."""
    assert [(state.name, state.value) for state in SlotState] == [
        (name, getattr(model, name))
        for name in ("FREE", "STARTING", "IDLE", "READING", "RUNNING", "WRITING", "FINISHING", "RETIRING")
    ]
    assert [state.value for state in SlotState] == list(range(8))


def test_a_new_pool_has_no_memory() -> None:
    """What was never remembered is the empty memory; what was is found by name."""
    remembered = PoolMemory(failures=3)
    memory = Memory({"www": remembered})
    assert (memory.of("www"), memory.of("api"), Memory().of("www")) == (remembered, PoolMemory(), PoolMemory())


@pytest.mark.parametrize("kind", typing.get_args(model.Action), ids=lambda kind: kind.__name__)
def test_every_action_is_a_frozen_value(kind: type) -> None:
    """Made of plain fields, equal by them, hashable, not to be changed; all but the server's own name their pool."""
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    fields = [field.name for field in dataclasses.fields(kind)]
    values = ["x"] * len(fields)
    assert kind(*values) == kind(*values)
    assert hash(kind(*values)) == hash(kind(*values))
    assert (fields[:1] == ["pool"]) is (kind not in (model.End, model.Commit, model.Abandon))


def test_every_action_is_in_the_vocabulary() -> None:
    """No action is missing from the union, nor any public class from __all__."""
    actions = {kind.__name__ for kind in typing.get_args(model.Action)}
    assert actions <= set(model.__all__)
    classes = {
        name for name, value in vars(model).items() if isinstance(value, type) and value.__module__ == model.__name__
    }
    assert classes <= set(model.__all__)

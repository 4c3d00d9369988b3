"""The table of options against the model: nothing missing, nothing twice."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import groupby

from harness import PACKAGE_ROOT
from prefork.config.model import Config, PoolConfig
from prefork.config.options import BY_KEY, ELSEWHERE, GROUPS, NOT_HERE, OPTIONS


def test_every_field_has_its_option() -> None:
    """Whatever the model holds can be said, and whatever can be said is in the model; workers is short for two."""
    model = {field.name for field in (*fields(PoolConfig), *fields(Config))} - {"pools", "warnings", "internal"}
    assert model == set(BY_KEY) - {"workers"}


_LOOKED_AT_AS = {
    "min_spare_servers": "spares",
    "max_spare_servers": "spares",
    "start_servers": "spares",
    "reload_surge": "surge",
    "status_listen": "internal",
}


def test_every_field_is_acted_upon() -> None:
    """What can be said is looked at by the part that does it."""
    rooms = (path for path in (PACKAGE_ROOT / "prefork").rglob("*.py") if path.parent.name != "config")
    source = "\n".join(path.read_text() for path in rooms)
    model = {_LOOKED_AT_AS.get(field.name, field.name) for field in (*fields(PoolConfig), *fields(Config))}
    assert [name for name in model if not re.search(rf"\b(pool|config)\.{name}\b", source)] == []


def test_groups() -> None:
    """Options of a group stand together."""
    groups = [group for group, _ in groupby(option.group for option in OPTIONS)]
    assert groups == list(GROUPS)


def test_names_are_alike_everywhere() -> None:
    """The flag and the variable follow from the key."""
    option = BY_KEY["max_children"]
    assert option.flag == "--max-children"
    assert option.variable == "PREFORK_MAX_CHILDREN"


def test_names_differ() -> None:
    """No two options share a name."""
    assert len(BY_KEY) == len(OPTIONS) + 1


def test_what_is_not_here_is_not() -> None:
    """An option that has landed is no longer said to be missing."""
    assert not set(NOT_HERE) & set(BY_KEY)


def test_names_of_others_lead_somewhere() -> None:
    """What is called otherwise elsewhere is an option here, or an action of the command line, and under one name."""
    assert set(ELSEWHERE.values()) <= {*BY_KEY, "config", "check", "show_config"}
    assert not set(ELSEWHERE) & {*BY_KEY, *NOT_HERE}

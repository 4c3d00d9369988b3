"""What an option is: one thing that can be said, under one name, in every source.

`max_children` is ``--max-children`` on the command line, ``PREFORK_MAX_CHILDREN`` in the environment,
``max_children`` in a file and ``max_children=`` in Python. Which options there are stands in `prefork.config.options`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefork.config.model import PoolConfig
from prefork.config.values import Reader

__all__ = ["Option", "Splitter", "by_colons", "by_commas", "by_words", "whole"]

Splitter = Callable[[str], list[str]]


def whole(text: str) -> list[str]:
    """One item: the text as it is."""
    return [text]


def by_words(text: str) -> list[str]:
    """Words as a shell splits them, so that one with spaces can be quoted."""
    try:
        return shlex.split(text)
    except ValueError:
        raise ValueError("words, with every quote closed") from None


def by_colons(text: str) -> list[str]:
    """Directories, as in PATH."""
    return [part for part in text.split(":") if part]


def by_commas(text: str) -> list[str]:
    """Items between commas or spaces."""
    return text.replace(",", " ").split()


@dataclass(frozen=True, slots=True)
class Option:
    """One thing the operator may say.

    * ``read`` takes the text of one value; ``spell`` is its inverse, for the help and for ``--show-config``.
    * One with ``many`` may be said several times; ``from_flag`` and ``from_variable`` take apart what one use on the
      command line and one environment variable hold.
    * A ``switch`` is said by its flag alone, and unsaid by ``--no-`` before its name.
    * ``octal``: a number of Python or TOML holds permission bits.
    * ``unset`` says in words what holds where the model has no value (None), or nothing in the list; ``computed``,
      where the default comes from if it depends on the machine.
    * ``effective`` gives the value that a pool works with where the model has none but others that decide it.
    """

    key: str
    group: str
    metavar: str
    read: Reader
    help: str
    spell: Callable[[Any], str] = str
    many: bool = False
    switch: bool = False
    octal: bool = False
    unset: str = ""
    computed: str = ""
    effective: Callable[[PoolConfig], Any] | None = None
    from_flag: Splitter = whole
    from_variable: Splitter = whole

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def off_flag(self) -> str:
        """The name on the command line that unsays a switch."""
        return "--no-" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return "PREFORK_" + self.key.upper()

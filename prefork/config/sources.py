"""What each source says, brought into one form: under which key, under which name, in which words.

A `Source` maps keys of options to what was `Said`. A value keeps the name by which its author knows it (``--backlog``,
``PREFORK_BACKLOG``, ``prefork.toml: [pool.shop] backlog``), so that every message can call it that. Values of Python
and TOML become the words of the command line here, so that there is one set of rules. Nothing is judged but names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from prefork.config.option import Option, Splitter, whole
from prefork.config.options import APP, BY_KEY, ELSEWHERE, NOT_HERE, OPTIONS
from prefork.errors import ConfigurationError

__all__ = [
    "CONFIG_VARIABLE",
    "Said",
    "Source",
    "from_environment",
    "from_flags",
    "is_list",
    "near",
    "settled",
    "texts_of",
    "words_of",
]

CONFIG_VARIABLE: Final = "PREFORK_CONFIG"
"""The variable that names the configuration file where the command line does not."""

_PREFIX: Final = "PREFORK_"
# Ours, but read by others: setup.py when the package is built, and `prefork.config.load`.
_NO_OPTIONS: Final = frozenset({"PREFORK_COMPILE", CONFIG_VARIABLE})
# Kubernetes sets these in every container beside a service that is called "prefork", as Docker did for links.
_SERVICE_VARIABLES: Final = re.compile(r"PREFORK_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

# How alike a name must be: with less, --threads is taken for --chdir.
_NEAR: Final = 0.75


@dataclass(frozen=True, slots=True)
class Said:
    """What one source says about one option."""

    name: str  # as its author knows it, for messages
    origin: str  # where it comes from, for --show-config
    texts: tuple[str, ...]
    split: Splitter = whole  # how one of the texts comes apart
    quoted: bool = True  # whether messages show a text as one; not what its author wrote as a number

    def __str__(self) -> str:
        return " ".join((self.name, *self.texts))


Source = dict[str, Said]


def from_flags(uses: Mapping[str, Sequence[str]]) -> Source:
    """The command line's words, by option."""
    said: Source = {}
    for key, texts in uses.items():
        option = BY_KEY[key]
        name = option.metavar if option is APP else option.flag
        said[key] = Said(name, "command line", tuple(texts), option.from_flag)
    return settled(said)


def from_environment(environ: Mapping[str, str]) -> Source:
    """Every ``PREFORK_`` variable; an empty one counts as not set. Raises `ConfigurationError` for one that is none."""
    by_variable = {option.variable: option for option in BY_KEY.values()}
    said: Source = {}
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or not environ[variable] or variable in _NO_OPTIONS:
            continue
        option = by_variable.get(variable)
        if option is not None:
            said[option.key] = Said(variable, variable, (environ[variable],), option.from_variable)
        elif not _SERVICE_VARIABLES.fullmatch(variable):
            hint = near(variable.removeprefix(_PREFIX), (key.upper() for key in BY_KEY), _PREFIX)
            raise ConfigurationError(
                f"{variable} in the environment names no option{hint} (unset it, or see prefork-serve --help)"
            )
    return settled(said)


def words_of(keywords: Mapping[str, object]) -> Source:
    """What a program says in keywords; ``None`` counts as not said. Raises `ConfigurationError` for unknown ones."""
    said: Source = {}
    for key, value in keywords.items():
        if key not in BY_KEY or key == APP.key:
            raise ConfigurationError(f"unknown option {key}{near(key, (option.key for option in OPTIONS))}")
        if value is not None:
            option = BY_KEY[key]
            name = f"{key}="
            said[key] = Said(name, name, texts_of(option, value), whole if is_list(value) else option.from_flag)
    return settled(said)


def texts_of(option: Option, value: object) -> tuple[str, ...]:
    """A Python or TOML value in the words of the command line."""
    if isinstance(value, Mapping):
        return tuple(f"{key}={item}" for key, item in value.items())
    if option.many and is_list(value):
        return tuple(str(item) for item in value)  # type: ignore[attr-defined]
    if option.octal and isinstance(value, int):
        return (f"{value:o}",)
    return (str(value),)


def is_list(value: object) -> bool:
    """Whether a value is several, or by name."""
    return isinstance(value, (list, tuple, Mapping))


def settled(said: Source) -> Source:
    """One source with ``workers`` resolved into what it is short for."""
    workers = said.pop("workers", None)
    if workers is None:
        return said
    other = said.get("max_children")
    if other is not None:
        raise ConfigurationError(
            f"{workers} and {other} both set the number of workers: expected one of them, leave out {other.name}"
        )
    for key in ("pm", "min_spare_servers", "max_spare_servers", "start_servers"):
        if key in said and (key, said[key].texts) != ("pm", ("static",)):
            raise ConfigurationError(
                f"{workers} cannot go with {said[key]}: it means a number that never changes (pm static); leave out "
                f"{said[key].name}, or say max_children instead of workers"
            )
    return {"pm": Said(workers.name, workers.origin, ("static",)), **said, "max_children": workers}


def near(wrong: str, right: Iterable[str], prefix: str = "") -> str:
    """Why there is no such thing here, or the question whether something else was meant, or nothing."""
    wrong = wrong.removeprefix("pm.")  # php-fpm's own
    bare = wrong.lstrip("-").lower().replace("-", "_")
    if bare in NOT_HERE:
        return f": {NOT_HERE[bare]}"
    names = list(right)
    key = ELSEWHERE.get(bare, bare)
    match = next((name for name in (key, f"--{key.replace('_', '-')}", key.upper()) if name in names), None)
    match = match or next(iter(get_close_matches(wrong, names, 1, _NEAR)), None)
    return f"; did you mean {prefix}{match}?" if match else ""

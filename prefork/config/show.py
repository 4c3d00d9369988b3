"""The effective configuration as TOML, each value with where it comes from.

What is printed can be loaded again and means the same, but for the application's environment: that is where passwords
live, so variables are named and their values are not shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from prefork.config.load import Loaded
from prefork.config.option import Option
from prefork.config.options import APP, GROUPS, OPTIONS, SERVER_KEYS
from prefork.config.sources import Source

__all__ = ["render"]

_COLUMN: Final = 40  # where the origins stand, if what is said leaves room


def render(loaded: Loaded) -> str:
    """A TOML document: the server's options, then a table for each pool that was described."""
    lines = [*_section(loaded.config, loaded.server, server=True)]
    described = [pool for pool in loaded.config.pools if not pool.internal]
    for pool, source in zip(described, loaded.pools, strict=True):
        lines += ["", f"[pool.{_key(pool.name)}]", *_section(pool, source, server=False)]
    return "\n".join(lines) + "\n"


def _section(values: Any, said: Source, *, server: bool) -> Iterator[str]:
    for option in (APP, *(option for group in GROUPS for option in OPTIONS if option.group == group)):
        if option.key in ("workers", "name") or (option.key in SERVER_KEYS) is not server:
            continue
        value = values.app_name if option is APP else getattr(values, option.key)
        origin = said[option.key].origin if option.key in said else "default"
        if value is None and option.effective is not None:
            lines = [f"# {option.key}: {option.spell(option.effective(values))}"]
        else:
            lines = list(_lines(option, value))
        for line in lines:
            yield f"{line:<{_COLUMN}}  # {origin}"


def _lines(option: Option, value: Any) -> Iterator[str]:
    if option.key == "env":
        yield from (f"# env: {name} is set" for name in value)
    elif value is None and option.unset != "off":
        yield f"# {option.key}: {option.unset}"
    else:
        yield f"{option.key} = {_toml(option, value)}"


def _toml(option: Option, value: Any) -> str:
    if option.key == "socket":
        return _text(value)
    if option.many:
        return f"[{', '.join(_text(option.spell(item)) for item in value)}]"
    if option.switch:
        return "true" if value else "false"
    if value is None:
        return _text(option.unset)
    if isinstance(value, int) and option.spell is str:
        return str(value)
    return _text(option.spell(value))


def _text(text: str) -> str:
    # JSON escapes what TOML's basic strings want escaped, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else _text(name)

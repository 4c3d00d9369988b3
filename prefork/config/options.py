"""The options all together: by name, by group, with the defaults that the model has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from prefork.config import table
from prefork.config.model import Config, PoolConfig
from prefork.config.option import Option

__all__ = ["APP", "BY_KEY", "ELSEWHERE", "GROUPS", "OPTIONS", "SERVER_KEYS", "default_text", "defaults"]

OPTIONS: Final = (
    *table.LISTENER,
    *table.PROCESSES,
    *table.DEADLINES,
    *table.LIMITS,
    *table.IDENTITIES,
    *table.RUN,
    *table.LOGS,
    *table.CONTROL,
)
APP: Final = table.APP
GROUPS: Final = tuple(dict.fromkeys(option.group for option in OPTIONS))
BY_KEY: Final = {option.key: option for option in (APP, *OPTIONS)}

SERVER_KEYS: Final = frozenset(BY_KEY) & {field.name for field in fields(Config)}
"""Options of the server as a whole; all others belong to a pool."""

ELSEWHERE: Final = {
    "-b": "--socket",
    "--bind": "--socket",
    "-w": "--workers",
    "--processes": "--workers",
    "-D": "--daemonize",
    "--daemon": "--daemonize",
    "-c": "--config",
    "-t": "--check",
    "--uid": "--user",
    "--gid": "--group",
    "listen": "socket",
    "bind": "socket",
    "module": "app",
    "wsgi": "app",
    "processes": "workers",
    "uid": "user",
    "gid": "group",
    "daemon": "daemonize",
    "pidfile": "pid_file",
}
"""What people write who come from php-fpm, gunicorn, uWSGI or nginx, and its name here."""


def defaults() -> dict[str, Any]:
    """The model's defaults, on this machine."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in (*fields(PoolConfig), *fields(Config))
        if field.default is not MISSING or field.default_factory is not MISSING
    }


def default_text(option: Option, known: Mapping[str, Any]) -> str:
    """An option's default, of those that `defaults` gives, in the words in which it would be said, or in those that
    say what holds; empty if there is none.
    """
    default = known.get(option.key)
    if option.computed:
        return option.computed
    if default is None or default in ((), {}):
        return option.unset
    if option.many:
        return " ".join(option.spell(item) for item in default)
    return option.spell(default)

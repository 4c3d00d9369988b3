"""The options all together: by name, by group, with the defaults that the model has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from prefork.config import table, table_workers
from prefork.config.model import Config, PoolConfig
from prefork.config.option import Option

__all__ = ["APP", "BY_KEY", "ELSEWHERE", "GROUPS", "NOT_HERE", "OPTIONS", "SERVER_KEYS", "default_text", "defaults"]

OPTIONS: Final = (
    *table.LISTENER,
    *table_workers.PROCESSES,
    *table_workers.DEADLINES,
    *table.LIMITS,
    *table.IDENTITIES,
    *table.RUN,
    *table.LOGS,
    *table.CONTROL,
    *table.INSIDE,
)
APP: Final = table.APP
GROUPS: Final = tuple(dict.fromkeys(option.group for option in OPTIONS))
BY_KEY: Final = {option.key: option for option in (APP, *OPTIONS)}

SERVER_KEYS: Final = frozenset(BY_KEY) & {field.name for field in fields(Config)}
"""Options of the server as a whole; all others belong to a pool."""

ELSEWHERE: Final = {
    "access.format": "access_log_format",
    "access.log": "access_log",
    "access.suppress_path": "access_log_suppress",
    "b": "socket",
    "bind": "socket",
    "c": "config",
    "catch_workers_output": "catch_output",
    "cheaper": "min_spare_servers",
    "chmod_socket": "socket_mode",
    "chown_socket": "socket_owner",
    "cheaper_initial": "start_servers",
    "d": "daemonize",
    "daemon": "daemonize",
    "gid": "group",
    "harakiri": "request_terminate_timeout",
    "header_buffer_size": "max_header_size",
    "idle": "process_idle_timeout",
    "limit_request_fields": "max_header_count",
    "listen": "socket",
    "listen.allowed_clients": "allowed_addresses",
    "listen.backlog": "backlog",
    "listen.group": "socket_group",
    "listen.mode": "socket_mode",
    "listen.owner": "socket_owner",
    "module": "app",
    "p": "pid_file",
    "pid": "pid_file",
    "pidfile": "pid_file",
    "preload_app": "preload",
    "process_control_timeout": "graceful_timeout",
    "processes": "workers",
    "reload_on_rss": "max_memory",
    "ping.path": "ping_path",
    "ping.response": "ping_response",
    "pm.status_listen": "status_listen",
    "pm.status_path": "status_path",
    "stats": "status_listen",
    "t": "check",
    "timeout": "request_terminate_timeout",
    "uid": "user",
    "w": "workers",
    "worker_reload_mercy": "graceful_timeout",
    "wsgi": "app",
}
"""What people write who come from php-fpm, gunicorn, uWSGI or nginx, and its name here; without dashes in front."""

_RELOAD: Final = "this version does not watch files: `preforkctl reload` serves what was changed"
_THREADS: Final = "a worker serves one request at a time, on purpose: more of them, by max_children, serve more"
_TLS: Final = "encryption is the web server's"

NOT_HERE: Final = {
    "reload": _RELOAD,
    "reload_on_change": _RELOAD,
    "py_autoreload": _RELOAD,
    "touch_reload": _RELOAD,
    "threads": _THREADS,
    "enable_threads": _THREADS,
    "worker_class": _THREADS,
    "worker_connections": _THREADS,
    "certfile": _TLS,
    "keyfile": _TLS,
    "static_map": "static files are the web server's",
    "uwsgi_socket": "this version speaks FastCGI and HTTP",
    "scgi_socket": "this version speaks FastCGI and HTTP",
}
"""What other servers have and this one has not, by the name without dashes in front, and what to do about it."""


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

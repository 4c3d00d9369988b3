"""The options all together: by name, by group, with the defaults that the model has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from prefork.config import table
from prefork.config.model import Config, PoolConfig
from prefork.config.option import Option

__all__ = ["APP", "BY_KEY", "ELSEWHERE", "GROUPS", "NOT_HERE", "OPTIONS", "SERVER_KEYS", "default_text", "defaults"]

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

_SPARE: Final = "this version keeps a fixed number of workers, max_children"
_DEADLINE: Final = "this version sets no limit to the time of a request; the web server's does (fastcgi_read_timeout)"
_RELOAD: Final = "this version does not reload the application: restart the server"
_REQUESTS: Final = "this version replaces no worker for the number of requests it has served"
_THREADS: Final = "a worker serves one request at a time, on purpose: more of them, by max_children, serve more"
_SLOW: Final = "this version keeps no log of slow requests"
_STATUS: Final = "this version serves no page of its own: `preforkctl status` and `preforkctl ping` tell"
_TLS: Final = "encryption is the web server's"

NOT_HERE: Final = {
    "max_requests": _REQUESTS,
    "max_requests_jitter": _REQUESTS,
    "start_servers": _SPARE,
    "min_spare_servers": _SPARE,
    "max_spare_servers": _SPARE,
    "process_idle_timeout": _SPARE,
    "cheaper": _SPARE,
    "request_terminate_timeout": _DEADLINE,
    "request_timeout": _DEADLINE,
    "harakiri": _DEADLINE,
    "timeout": _DEADLINE,
    "slowlog": _SLOW,
    "request_slowlog_timeout": _SLOW,
    "reload": _RELOAD,
    "reload_on_change": _RELOAD,
    "py_autoreload": _RELOAD,
    "touch_reload": _RELOAD,
    "threads": _THREADS,
    "enable_threads": _THREADS,
    "worker_class": _THREADS,
    "worker_connections": _THREADS,
    "status_path": _STATUS,
    "ping_path": _STATUS,
    "stats": _STATUS,
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

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
    "buffer_size": "max_header_size",
    "c": "config",
    "callable": "app",
    "catch_workers_output": "catch_output",
    "cheaper": "min_spare_servers",
    "cheaper_initial": "start_servers",
    "check_config": "check",
    "chmod_socket": "socket_mode",
    "chown_socket": "socket_owner",
    "client_max_body_size": "max_body_size",
    "d": "daemonize",
    "daemon": "daemonize",
    "gid": "group",
    "harakiri": "request_terminate_timeout",
    "header_buffer_size": "max_header_size",
    "http": "socket",
    "http_socket": "socket",
    "idle": "process_idle_timeout",
    "ini": "config",
    "limit_post": "max_body_size",
    "limit_request_field_size": "max_header_size",
    "limit_request_fields": "max_header_count",
    "limit_request_line": "max_header_size",
    "listen": "socket",
    "listen.allowed_clients": "allowed_addresses",
    "listen.backlog": "backlog",
    "listen.group": "socket_group",
    "listen.mode": "socket_mode",
    "listen.owner": "socket_owner",
    "log_file": "error_log",
    "logto": "error_log",
    "max_fd": "rlimit_files",
    "module": "app",
    "p": "pid_file",
    "pid": "pid_file",
    "pidfile": "pid_file",
    "ping.path": "ping_path",
    "ping.response": "ping_response",
    "pm.status_listen": "status_listen",
    "pm.status_path": "status_path",
    "preload_app": "preload",
    "print_config": "show_config",
    "proc_name": "name",
    "process_control_timeout": "graceful_timeout",
    "processes": "workers",
    "reload_on_rss": "max_memory",
    "s": "socket",
    "stats": "status_listen",
    "t": "check",
    "timeout": "request_terminate_timeout",
    "uid": "user",
    "w": "workers",
    "worker_reload_mercy": "graceful_timeout",
    "wsgi": "app",
    "wsgi_file": "app",
}
"""What people write who come from php-fpm, gunicorn, uWSGI or nginx, and its name here; without dashes in front."""

_RELOAD: Final = "this version does not watch files: `preforkctl reload` serves what was changed"
_UPGRADE: Final = (
    "this version does not replace its own master: a restart does, without a loss where systemd or Server::Starter "
    "holds the socket"
)
_THREADS: Final = "a worker serves one request at a time, on purpose: more of them, by max_children, serve more"
_TLS: Final = "encryption is the web server's"
_TWO_PROTOCOLS: Final = "this version speaks FastCGI and HTTP"
_VENV: Final = "a virtual environment is chosen by starting the prefork-serve in its bin directory"
_PREFIX: Final = "this version serves one application a pool; nginx can split a prefix off (docs/nginx.md)"
_ALWAYS: Final = "leave it out: it is always so"
_ONE_REQUEST: Final = "leave it out: a connection carries one request"
_NO_PLUGINS: Final = "leave it out: there are none"
_PEERS: Final = "on a Unix socket its mode and group say who may connect (socket_mode, socket_group)"

NOT_HERE: Final = {
    "allowed_peers": _PEERS,
    "chroot": "this version has none: a container, or systemd's RootDirectory=, does it",
    "proxy_protocol": "this version does not read it: the web server hands on the client's address",
    "reload": _RELOAD,
    "reload_on_change": _RELOAD,
    "py_autoreload": _RELOAD,
    "touch_reload": _RELOAD,
    "threads": _THREADS,
    "enable_threads": _THREADS,
    "gevent": _THREADS,
    "worker_class": _THREADS,
    "worker_connections": _THREADS,
    "certfile": _TLS,
    "keyfile": _TLS,
    "static_map": "static files are the web server's",
    "upgrade": _UPGRADE,
    "uwsgi_socket": _TWO_PROTOCOLS,
    "scgi_socket": _TWO_PROTOCOLS,
    "home": _VENV,
    "venv": _VENV,
    "virtualenv": _VENV,
    "manage_script_name": _PREFIX,
    "mount": _PREFIX,
    "auto_procname": _ALWAYS,
    "die_on_term": _ALWAYS,
    "disable_logging": "leave it out: requests are logged only where access_log says so",
    "keep_alive": _ONE_REQUEST,
    "keepalive": _ONE_REQUEST,
    "lazy_apps": 'say preload = "never"',
    "master": _ALWAYS,
    "need_app": _ALWAYS,
    "plugin": _NO_PLUGINS,
    "plugins": _NO_PLUGINS,
    "single_interpreter": _ALWAYS,
    "statsd_host": "numbers are fetched, not sent: status_listen has /metrics",
    "strict": _ALWAYS,
    "thunder_lock": "leave it out: the kernel wakes one worker for each connection",
    "vacuum": _ALWAYS,
    "worker_tmp_dir": "leave it out: workers write no temporary files",
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

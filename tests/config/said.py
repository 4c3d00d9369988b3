"""Every option said once: what the tests of several modules say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["SAID"]

# option → text of one use, its value in the model
SAID: Mapping[str, tuple[str, Any]] = {
    "socket_mode": ("0600", 0o600),
    "socket_owner": ("www-data", "www-data"),
    "socket_group": ("33", "33"),
    "backlog": ("2", 2),
    "protocol": ("http", "http"),
    "forwarded_allow": ("unix,10.0.0.0/8", ("unix", "10.0.0.0/8")),
    "pm": ("static", "static"),
    "max_children": ("50", 50),
    "preload": ("never", "never"),
    "warmup": ("/", ("/",)),
    "graceful_timeout": ("1.5s", 1.5),
    "boot_timeout": ("5m", 300.0),
    "max_header_size": ("16K", 16_384),
    "max_header_count": ("50", 50),
    "max_body_size": ("256M", 2**28),
    "user": ("nobody", "nobody"),
    "group": ("65534", "65534"),
    "chdir": ("/srv/current", "/srv/current"),
    "umask": ("027", 0o027),
    "rlimit_files": ("1024", 1024),
    "rlimit_core": ("unlimited", -1),
    "no_new_privs": ("on", True),
    "clear_env": ("on", True),
    "env": ("A=b=c", {"A": "b=c"}),
    "pythonpath": ("/a:/b", ("/a", "/b")),
    "name": ("shop", "shop"),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "pid_file": ("/run/p.pid", "/run/p.pid"),
    "error_log": ("/var/log/p.log", "/var/log/p.log"),
    "access_log": ("-", "-"),
    "access_log_format": ("%h %>s", "%h %>s"),
    "access_log_suppress": ("/ping", ("/ping",)),
    "catch_output": ("on", True),
    "control_socket": ("off", "off"),
}

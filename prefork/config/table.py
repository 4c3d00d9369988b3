"""Every option there is, group by group: its name, what it takes, and what it is for. The defaults are the model's."""

from __future__ import annotations

from typing import Final

from prefork.config.option import Option, by_colons, by_commas, by_words
from prefork.config.values import (
    checked,
    choice,
    matching,
    network,
    number,
    octal,
    optional,
    size,
    spell_octal,
    spell_size,
    spell_switch,
    spell_unlimited,
    switch,
    unlimited,
)
from prefork.policy.access_format import parse as parse_access_format

__all__ = ["APP", "CONTROL", "IDENTITIES", "INSIDE", "LIMITS", "LISTENER", "LOGS", "RUN"]

_PRINTABLE: Final = r"[^\x00-\x1f\x7f]+"
_IDENTITY: Final = matching(_PRINTABLE, "a name or a number")
_NAME: Final = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_PATH: Final = matching(r"/[^\x00-\x20\x7f]*", "a path that begins with / and has no spaces")


APP: Final = Option(
    "app",
    "application",
    "APP",
    # "wsgi.py" is a well-formed module name and never what is meant.
    matching(
        rf"(?!.*\.py(:|$)){_NAME}(:{_NAME}(\(\))?)?",
        "module:callable, module:factory() or module, dotted as in an import and without .py",
    ),
    "module:callable, module:factory(), or module alone for its application or app",
)

LISTENER: Final = (
    Option(
        "socket",
        "listener",
        "ADDRESS",
        matching(_PRINTABLE, "a path, @name, host:port, fd://N, systemd or starter"),
        "a path, @name for the abstract namespace, host:port or [::1]:port for TCP; or a listening socket that was "
        "passed: by number (fd://N), by systemd (systemd, systemd:NAME) or by Server::Starter (starter, "
        "starter:ADDRESS); said twice, two pools with the same options",
        many=True,
    ),
    Option(
        "socket_mode",
        "listener",
        "MODE",
        octal(0o777),
        "permissions of the socket",
        spell_octal,
        octal=True,
        unset="0660",
    ),
    Option(
        "socket_owner", "listener", "USER", _IDENTITY, "owner of the socket, name or number", unset="whoever starts it"
    ),
    Option(
        "socket_group", "listener", "GROUP", _IDENTITY, "group of the socket, name or number", unset="the starter's"
    ),
    Option(
        "backlog",
        "listener",
        "N",
        number(1, 2**31 - 1),
        "connections that may wait for a worker; the kernel allows at most net.core.somaxconn",
    ),
    Option(
        "protocol",
        "listener",
        "PROTOCOL",
        choice("auto", "fastcgi", "http"),
        "what is spoken: fastcgi, http, or auto: on a Unix socket whichever a connection begins with, on TCP http",
    ),
    Option(
        "allowed_addresses",
        "listener",
        "NETWORK",
        network(),
        "who may connect by TCP",
        many=True,
        unset="everybody",
        from_flag=by_commas,
        from_variable=by_commas,
    ),
    Option(
        "forwarded_allow",
        "listener",
        "NETWORK",
        network("unix", "none"),
        "proxies whose X-Forwarded-Proto and last X-Forwarded-For are believed, in HTTP; unix: whoever may connect to "
        "the Unix socket; none: nobody",
        many=True,
        from_flag=by_commas,
        from_variable=by_commas,
    ),
)

LIMITS: Final = (
    Option(
        "max_header_size",
        "limits",
        "SIZE",
        size(least=1024, most=64 * 1024**2),
        "all headers and parameters of a request together; more is answered 431",
        spell_size,
    ),
    Option(
        "max_header_count",
        "limits",
        "N",
        number(1, 100_000),
        "headers of a request; more is answered 431",
    ),
    Option(
        "max_body_size",
        "limits",
        "SIZE",
        optional(size(least=1)),
        "body of a request; a larger one is answered 413",
        spell_size,
        unset="off",
    ),
)

IDENTITIES: Final = (
    Option(
        "user", "identity", "USER", _IDENTITY, "run the application as this user, name or number", unset="unchanged"
    ),
    Option(
        "group",
        "identity",
        "GROUP",
        _IDENTITY,
        "run the application as this group, name or number",
        unset="the user's own; nogroup for a number without one",
    ),
    Option(
        "chdir",
        "identity",
        "DIR",
        matching(r"[^\x00]+", "a directory"),
        "where the application works and is imported from, relative to where the server is started; entered anew at "
        "every load",
    ),
    Option(
        "umask",
        "identity",
        "MASK",
        octal(0o777),
        "umask of the application",
        spell_octal,
        octal=True,
        unset="unchanged",
    ),
    Option(
        "rlimit_files",
        "identity",
        "N",
        number(64, 2**30),
        "files a worker may have open (RLIMIT_NOFILE)",
        unset="unchanged",
    ),
    Option(
        "rlimit_core",
        "identity",
        "SIZE",
        unlimited(size(least=0)),
        "largest core dump of a worker (RLIMIT_CORE); 0 for none",
        spell_unlimited,
        unset="unchanged",
    ),
    Option(
        "no_new_privs",
        "identity",
        "",
        switch,
        "let no program that the application starts gain rights (it breaks sendmail and sudo)",
        spell_switch,
        switch=True,
    ),
    Option(
        "clear_env",
        "identity",
        "",
        switch,
        "give the application no environment but env, PATH, HOME, USER, LOGNAME, TZ and the language",
        spell_switch,
        switch=True,
    ),
    Option(
        "env",
        "identity",
        "NAME=VALUE",
        matching(r"[^=\x00]+=[^\x00]*", "NAME=VALUE"),
        "set a variable for the application",
        many=True,
        from_variable=by_words,
    ),
    Option(
        "pythonpath",
        "identity",
        "DIR[:DIR]",
        matching(r"[^\x00]+", "a directory"),
        "directories to import from before all others",
        many=True,
        from_flag=by_colons,
        from_variable=by_colons,
    ),
    Option(
        "hooks",
        "identity",
        "MODULE",
        matching(rf"(?!.*\.py$){_NAME}", "a module, dotted as in an import and without .py"),
        "a module to import after the application, for what a worker does when it starts and when it leaves: its "
        "on_worker_start(worker) and on_worker_stop(worker)",
        unset="none",
    ),
    Option(
        "name",
        "identity",
        "NAME",
        matching(r"[A-Za-z0-9._-]{1,64}", "letters, digits, dots, dashes or underscores, at most 64"),
        "the pool's name in the log; in a file it is that of the table [pool.NAME]",
    ),
)

RUN: Final = (
    Option(
        "daemonize",
        "run",
        "",
        switch,
        "go into the background; the command ends when every pool serves, or says why not",
        spell_switch,
        switch=True,
    ),
    Option(
        "pid_file",
        "run",
        "PATH",
        matching(_PRINTABLE, "a path"),
        "file that holds the master's pid while every pool serves",
        unset="none",
    ),
)

LOGS: Final = (
    Option(
        "error_log",
        "logs",
        "PLACE",
        matching(_PRINTABLE, "stderr, syslog or a path"),
        "where events are logged: stderr, syslog or a path",
    ),
    Option("log_level", "logs", "LEVEL", choice("debug", "info", "warning", "error"), "the least that is logged"),
    Option(
        "log_format",
        "logs",
        "FORMAT",
        choice("auto", "console", "json"),
        "console, json, or auto: console on a terminal, else json",
    ),
    Option(
        "access_log",
        "logs",
        "PLACE",
        optional(matching(_PRINTABLE, "a path, - for standard output, or syslog")),
        "where each request is logged: a path, - for standard output, or syslog",
        unset="off",
    ),
    Option(
        "access_log_format",
        "logs",
        "FORMAT",
        checked(parse_access_format),
        "combined, common, json, or a template with tokens of php-fpm or Apache",
    ),
    Option(
        "access_log_suppress",
        "logs",
        "PATH",
        _PATH,
        "do not log a plain GET of this path that succeeds, as that of a health check",
        many=True,
        from_variable=by_words,
    ),
    Option(
        "slowlog",
        "logs",
        "PATH",
        matching(r"(?!(?:-|off|stderr|syslog)$)[^\x00-\x1f\x7f]+", "a path"),
        "file for the stacks of slow requests",
        unset="the error log",
    ),
    Option(
        "catch_output",
        "logs",
        "",
        switch,
        "log what the application prints, line by line",
        spell_switch,
        switch=True,
    ),
)

CONTROL: Final = (
    Option(
        "control_socket",
        "control",
        "PATH",
        matching(_PRINTABLE, "a path, or off"),
        "where preforkctl gives orders: a path, or off",
        unset="in $RUNTIME_DIRECTORY, /run/prefork or $XDG_RUNTIME_DIR",
    ),
    Option(
        "status_listen",
        "control",
        "ADDRESS",
        optional(matching(_PRINTABLE, "a path or host:port")),
        "where the status pages of the server are shown, by HTTP and to be read only: a path or host:port",
        unset="off",
    ),
)

INSIDE: Final = (
    Option(
        "status_path",
        "control",
        "PATH",
        optional(_PATH),
        "path at which the pool itself shows its status, before the application; status_listen answers also when every "
        "worker is busy",
        unset="off",
    ),
    Option("ping_path", "control", "PATH", optional(_PATH), "path that the pool answers by itself", unset="off"),
    Option("ping_response", "control", "TEXT", matching(_PRINTABLE, "a text"), "what it answers there"),
)

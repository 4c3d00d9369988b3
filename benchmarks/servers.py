"""The contenders, as a table: who speaks what to nginx, by which command, and what it keeps of a request.

Every server has one worker process and the settings that are best for it among those that one would run in production.
Where HTTP connections can be kept for more than one request, nginx keeps them. In commands and files, ``{words}`` are
filled in for each start: ``socket``, ``module``, ``log``, ``size`` (of the expected answer), ``folder`` (the working
directory, with the applications), ``user``, ``environment`` (which holds the Python servers), ``bin`` (of that), and
the programs that `benchmarks.kit` provides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

__all__ = ["REFERENCES", "SERVERS", "Front", "Server", "Speaks", "fill"]


class Front(Enum):
    """How nginx talks to it."""

    FASTCGI = "FastCGI"
    UWSGI = "uwsgi"
    HTTP = "HTTP/1.0, one request a connection"
    KEPT = "HTTP/1.1, connections kept"


class Speaks(Enum):
    """What kind of application it runs."""

    WSGI = "WSGI"
    PHP = "PHP"
    CONSTANT = "a constant answer"


@dataclass(frozen=True, slots=True)
class Server:
    """One contender.

    ``needs`` is what `benchmarks.kit` has to provide. ``quiet`` ends the command where no access log is wanted,
    ``logged`` where one is, as JSON; None: it cannot.
    """

    name: str
    needs: str
    front: Front
    command: tuple[str, ...]
    quiet: tuple[str, ...] = ()
    logged: tuple[str, ...] | None = None
    speaks: Speaks = Speaks.WSGI
    what: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: {"PYTHONPATH": "{applications}"})
    files: Mapping[str, str] = field(default_factory=dict)  # written to the working directory


# The same fields for all that can choose them. prefork's own JSON line has these and ten more.
_GUNICORN_LINE: Final = (
    '{"remote_addr": "%(h)s", "method": "%(m)s", "uri": "%(U)s", "protocol": "%(H)s", "status": %(s)s, '
    '"bytes": %(B)s, "duration": %(L)s, "user_agent": "%(a)s"}'
)
_UWSGI_LINE: Final = (
    '{"remote_addr": "%(addr)", "method": "%(method)", "uri": "%(uri)", "protocol": "%(proto)", "status": %(status), '
    '"bytes": %(rsize), "duration": %(micros), "user_agent": "%(uagent)"}'
)
_GRANIAN_LINE: Final = (
    '{"remote_addr": "%(addr)s", "method": "%(method)s", "uri": "%(path)s", "protocol": "%(protocol)s", '
    '"status": %(status)d, "duration": %(dt_ms).3f}'
)
_PHP_LINE: Final = (
    '{"remote_addr": "%R", "method": "%m", "uri": "%r", "protocol": "%{SERVER_PROTOCOL}e", "status": %s, '
    '"bytes": %l, "duration": %d, "user_agent": "%{HTTP_USER_AGENT}e"}'
)

# Two files, since a pool's access log can be named nowhere else.
_PHP_CONFIGURATION: Final = """\
[global]
error_log = {folder}/php-fpm.log
[www]
user = {user}
listen = {socket}
listen.backlog = 511
pm = static
pm.max_children = 1
clear_env = no
"""
_PHP_FPM: Final[Mapping[str, str]] = {
    "php-fpm.conf": _PHP_CONFIGURATION,
    "php-fpm-logged.conf": f"{_PHP_CONFIGURATION}access.log = {{log}}\naccess.format = '{_PHP_LINE}'\n",
}


def _prefork(name: str, build: str, front: Front, what: str) -> Server:
    options = ("--workers", "1", "--log-level", "error", "--control-socket", "off")
    return Server(
        name,
        build,
        front,
        ("{bin}/python", "-m", "prefork", "{module}:application", "--socket", "{socket}", *options),
        logged=("--access-log", "{log}", "--access-log-format", "json"),
        environment={"PYTHONPATH": f"{{{build}}}:{{applications}}"},
        what=what,
    )


def _uwsgi(name: str, front: Front, socket_option: str) -> Server:
    options = ("--home", "{environment}", "--module", "{module}:application", "--processes", "1", "--listen", "100")
    return Server(
        name,
        "uwsgi",
        front,
        ("{bin}/uwsgi", socket_option, "{socket}", *options, "--single-interpreter", "--need-app", "--die-on-term"),
        quiet=("--disable-logging",),
        logged=("--log-format", _UWSGI_LINE, "--logto", "{log}"),
        what="no master",
    )


def _gunicorn(name: str, front: Front, *kind: str, what: str = "") -> Server:
    command = ("{bin}/gunicorn", "{module}:application", "--bind", "unix:{socket}", "--workers", "1", *kind)
    return Server(
        name,
        "gunicorn",
        front,
        (*command, "--no-control-socket", "--log-level", "error"),
        logged=("--access-logfile", "{log}", "--access-logformat", _GUNICORN_LINE),
        what=what,
    )


_GRANIAN: Final = (
    *("{bin}/granian", "{module}:application", "--interface", "wsgi", "--uds", "{socket}", "--workers", "1"),
    *("--http", "1", "--no-ws", "--log-level", "warning"),
)

SERVERS: Final = (
    Server(
        "C loop",
        "floor",
        Front.FASTCGI,
        ("{floor}", "{socket}", "{size}"),
        speaks=Speaks.CONSTANT,
        what="accept, read once, write a constant, close: the floor for one request a connection",
    ),
    _prefork("prefork, FastCGI", "compiled", Front.FASTCGI, "hot modules compiled with mypyc"),
    _prefork("prefork, FastCGI, plain", "plain", Front.FASTCGI, "the same files, interpreted"),
    _prefork("prefork, HTTP", "compiled", Front.HTTP, "hot modules compiled with mypyc"),
    _uwsgi("uWSGI, FastCGI", Front.FASTCGI, "--fastcgi-socket"),
    _uwsgi("uWSGI, uwsgi", Front.UWSGI, "--uwsgi-socket"),
    _uwsgi("uWSGI, HTTP", Front.HTTP, "--http-socket"),
    Server(
        "bjoern",
        "bjoern",
        Front.KEPT,
        ("{bin}/python", "{folder}/serve_bjoern.py", "{module}", "{socket}"),
        what="an event loop in C; no master",
    ),
    Server(
        "php-fpm",
        "php-fpm",
        Front.FASTCGI,
        ("{php-fpm}", "--nodaemonize", "--allow-to-run-as-root", "-d", "opcache.enable=1"),
        quiet=("--fpm-config", "{folder}/php-fpm.conf"),
        logged=("--fpm-config", "{folder}/php-fpm-logged.conf"),
        speaks=Speaks.PHP,
        files=_PHP_FPM,
        what="static, opcache on; the same pages in PHP",
    ),
    Server(
        "granian",
        "granian",
        Front.KEPT,
        _GRANIAN,
        logged=("--log-level", "info", "--access-log", "--access-log-fmt", _GRANIAN_LINE),
        what="its access log goes to standard output, here a file",
    ),
    _gunicorn("gunicorn, sync", Front.HTTP),
    _gunicorn("gunicorn, gthread", Front.KEPT, "--worker-class", "gthread", "--threads", "4", what="4 threads"),
    Server(
        "waitress",
        "waitress",
        Front.KEPT,
        ("{bin}/waitress-serve", "--unix-socket={socket}", "--threads=4", "{module}:application"),
        what="4 threads; a single process",
    ),
)

# What figures are compared with: the first of these that took part in a workload.
REFERENCES: Final = ("C loop", "uWSGI, FastCGI", "prefork, FastCGI")

_WORD: Final = re.compile(r"\{([a-z][a-z-]*)\}")


def fill(text: str, words: Mapping[str, str]) -> str:
    """Put the words in; braces around anything else stay as they are."""
    return _WORD.sub(lambda found: words.get(found[1], found[0]), text)

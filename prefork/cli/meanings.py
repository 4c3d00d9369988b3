"""What nginx's complaints about an upstream mean where the upstream is prefork, and what to do about each.

A table, read from above: the first row that fits a complaint explains it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from prefork.cli.nginx_log import Complaint

__all__ = ["Meaning", "meaning_of"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """One kind of complaint. ``events`` are those of prefork's log that belong to it."""

    key: str
    title: str
    cause: str
    mend: tuple[str, ...]
    events: tuple[str, ...] = ()
    about_us: bool = True  # false: the server behind the socket has no part in it
    of_saturation: bool = False  # it is what happens while every worker is busy


@dataclass(frozen=True, slots=True)
class _Row:
    words: re.Pattern[str]
    meaning: Meaning
    errno: int | None = None


def _row(words: str, meaning: Meaning, errno: int | None = None) -> _Row:
    return _Row(re.compile(words), meaning, errno)


_QUEUE_FULL: Final = Meaning(
    "queue_full",
    "the listen queue was full: nginx was refused at once",
    "every worker was busy, and as many connections waited as the backlog allows. Something holds the workers: a slow "
    "query, a lock, a service that does not answer",
    (
        "preforkctl saturation names the line of the application that held them, as saturated in prefork's log does",
        "while it lasts: preforkctl stacks shows where each worker stands, preforkctl status what it runs",
        "end what takes too long: --request-timeout; see where it hangs: --request-slowlog-timeout",
        "more workers help only if what they wait for can take more; a larger backlog only makes visitors wait longer",
    ),
    ("saturated", "saturation_ended", "queue_full", "queue_full_ended"),
    of_saturation=True,
)
_NO_FILE: Final = Meaning(
    "no_socket",
    "there was no socket at that path",
    "the server was not running, was still importing the application, or serves another path. The socket exists only "
    "while it serves; one that was deleted is made again within two seconds (socket_vanished)",
    (
        "is it running, and with this path? preforkctl --socket PATH ping",
        "the same path in nginx? under systemd's PrivateTmp= nginx and the server see different /tmp",
        "did it fail to start? not_started in its log says why",
    ),
    ("socket_vanished", "socket_not_renewed", "not_started", "stopping"),
)
_FORBIDDEN: Final = Meaning(
    "forbidden",
    "nginx may not connect to the socket",
    "connecting takes write permission on the socket and leave to enter every directory above it",
    (
        "the start says whether nginx can reach the socket and which directory or group is in the way",
        "give the socket to nginx's group: --socket-group www-data (mode 0660)",
        "SELinux or AppArmor can refuse as well: their log is the audit log",
    ),
    ("serving", "socket_warning"),
)
_REFUSED: Final = Meaning(
    "refused",
    "the socket was there, and nobody listened",
    "the server was killed and left its socket behind, or was just stopping (who waits is answered, newcomers are "
    "not), or another server took the path and is gone",
    (
        "start it again: a dead socket is replaced by itself",
        "to replace the code, reload (preforkctl reload) instead of stopping and starting: nobody is refused",
        "socket_taken in its log says that another's socket stands there: remove it, and the server makes its own anew",
    ),
    ("stopping", "socket_taken"),
)
_RESET: Final = Meaning(
    "reset",
    "the connection was reset in the middle",
    "the process behind it ended at that moment: a worker was killed (request_terminate_timeout, out of memory, a "
    "crash), or the whole server by SIGKILL, with connections in its queue",
    ("look for worker_died in prefork's log at that time: it names the cause and the request",),
    ("worker_died",),
)
_CLOSED: Final = Meaning(
    "closed_early",
    "the connection ended before the response did",
    "a worker died in the request, or the application failed after its response had begun, and the response was "
    "broken off on purpose so that nobody takes it for whole",
    (
        "worker_died names the cause and the request of a worker that died",
        "request_failed has the traceback of an application that failed; response_length tells of one that was short",
    ),
    ("worker_died", "request_failed", "response_length", "request_timeout"),
)
_BROKEN_OFF: Final = Meaning(
    "broken_off",
    "the response was broken off on purpose",
    "the application failed after its response had begun: an invalid record makes nginx give the client an error "
    "instead of half an answer that looks whole",
    ("request_failed in prefork's log has the traceback; response_length a response that was shorter than it said",),
    ("request_failed", "response_length", "request_timeout"),
)
_TOO_BIG: Final = Meaning(
    "header_too_big",
    "the response's head did not fit nginx's buffer",
    "all headers of a response have to fit fastcgi_buffer_size or proxy_buffer_size (4 or 8 KB); many cookies, or "
    "long ones, do not",
    (
        "in nginx: fastcgi_buffer_size 32k; fastcgi_buffers 8 32k; (or proxy_buffer_size, proxy_buffers)",
        "in the application: fewer and smaller cookies and headers",
    ),
)
_SLOW_ANSWER: Final = Meaning(
    "answer_timed_out",
    "nginx waited longer than it wants to for the answer",
    "the request ran, or waited in the queue, longer than fastcgi_read_timeout or proxy_read_timeout (60s). The worker "
    "goes on with it unless it is told to stop",
    (
        "set --request-timeout below nginx's timeout: the visitor gets an answer, and the worker is free",
        "request_slow in prefork's log, and preforkctl slow, show where such a request stood",
        "waited it in the queue? preforkctl saturation says why; have nginx stamp requests and set --queue-timeout",
    ),
    ("request_slow", "request_timeout", "saturated"),
    of_saturation=True,
)
_SLOW_CONNECT: Final = Meaning(
    "connect_timed_out",
    "nginx could not connect in time",
    "over TCP a full listen queue does not refuse: connects are not answered. Every worker was busy",
    ("preforkctl saturation names the line of the application that held them, as saturated in prefork's log does",),
    ("saturated", "saturation_ended", "queue_full", "queue_full_ended"),
    of_saturation=True,
)
_CLIENT_LEFT: Final = Meaning(
    "visitor_left",
    "a visitor did not wait for the answer",
    "nginx then closes its connection to the application; a request that still waits in the queue is not run any more",
    ("nothing, if it is rare; if not, the answers are slow",),
)
_STDERR: Final = Meaning(
    "stderr",
    "what the application wrote to wsgi.errors",
    "FastCGI passes it on to nginx; it stands in prefork's log as well",
    ("look at wsgi_errors in prefork's log, which has the request's id",),
    ("wsgi_errors",),
)
_OTHER_PROTOCOL: Final = Meaning(
    "other_protocol",
    "nginx and the server did not speak the same protocol",
    "fastcgi_pass and proxy_pass both work on the same socket, unless --protocol restricts it; or another program "
    "listens at this path",
    ("preforkctl ping --through tells whether the path leads to the server", "compare --protocol with nginx's …_pass"),
    ("protocol_refused", "bad_request"),
)
_NO_LIVE: Final = Meaning(
    "no_live_upstreams",
    "nginx had given the upstream up for a while",
    "after max_fails failures nginx asks an upstream no more for fail_timeout (10s); with a single one that turns one "
    "refused connect into ten seconds of errors",
    ("in nginx: server unix:/run/app.sock max_fails=0;", "the first complaints before these say what began it"),
)
_BIG_BODY: Final = Meaning(
    "body_too_large",
    "a request's body was larger than nginx allows",
    "client_max_body_size (1m) is nginx's own limit; the application was not asked",
    ("in nginx: client_max_body_size 50m; and --max-body-size here, if it is set",),
    about_us=False,
)
_TO_FILE: Final = Meaning(
    "buffered_to_file",
    "a response or body was larger than nginx's buffers, and went through a file",
    "no error: it keeps a slow visitor from holding a worker",
    ("nothing; or larger fastcgi_buffers/proxy_buffers, client_body_buffer_size",),
    about_us=False,
)
_NGINX_FILES: Final = Meaning(
    "too_many_files",
    "nginx itself ran out of descriptors",
    "every proxied request takes two of them",
    ("in nginx: worker_rlimit_nofile 65536; and worker_connections to match",),
    about_us=False,
)
_WRITE_FAILED: Final = Meaning(
    "write_failed",
    "the server closed while nginx was still sending the request",
    "the request was answered before it was read (too large, refused), or its worker died",
    ("body_refused, body_too_large and worker_died in prefork's log say which",),
    ("body_refused", "body_too_large", "worker_died"),
)

_CONNECT: Final = r"^connect\(\) "
_TABLE: Final = (
    _row(_CONNECT, _QUEUE_FULL, 11),
    _row(_CONNECT, _NO_FILE, 2),
    _row(_CONNECT, _FORBIDDEN, 13),
    _row(_CONNECT, _REFUSED, 111),
    _row(_CONNECT, _RESET, 104),
    _row(r"", _NGINX_FILES, 24),
    _row(r"upstream timed out .* while connecting to upstream", _SLOW_CONNECT),
    _row(r"upstream timed out", _SLOW_ANSWER),
    _row(r"client (prematurely closed connection|timed out)", _CLIENT_LEFT),
    _row(r"", _RESET, 104),
    _row(r"(writev|sendfile|send|writev_chain)\(\) failed", _WRITE_FAILED, 32),
    _row(r"unsupported FastCGI protocol version: 255", _BROKEN_OFF),
    _row(r"upstream prematurely closed", _CLOSED),
    _row(r"upstream sent too big header", _TOO_BIG),
    _row(r"FastCGI sent in stderr", _STDERR),
    _row(r"upstream sent (no valid|invalid|unsupported|unexpected)", _OTHER_PROTOCOL),
    _row(r"no live upstreams", _NO_LIVE),
    _row(r"client intended to send too large", _BIG_BODY),
    _row(r"is buffered to a temporary file", _TO_FILE),
)


def meaning_of(complaint: Complaint) -> Meaning | None:
    """What a complaint means; None for one that is not about an upstream, or not known."""
    for row in _TABLE:
        if (row.errno is None or row.errno == complaint.errno) and row.words.search(complaint.message):
            return row.meaning
    return None

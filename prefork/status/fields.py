"""The fields of a pool's status: what they are called, and what they mean to a program that collects them.

The first fourteen are php-fpm's, under php-fpm's names and with its meanings, so that exporters and dashboards written
for it work. The others are ours. A number that cannot be known is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AT_WORK", "COUNTER", "FIELDS", "GAUGE", "HISTOGRAM", "LABELLED", "TEXT", "TIME", "Field"]

TEXT: Final = "text"
TIME: Final = "time"  # Unix seconds
GAUGE: Final = "gauge"
COUNTER: Final = "counter"
LABELLED: Final = "labelled"  # a counter for each of several causes: {cause: number}
HISTOGRAM: Final = "histogram"  # {"bounds": seconds, "counts": one more, "sum": seconds}

AT_WORK: Final = frozenset(("Running", "Writing", "Finishing"))
"""States of a process in which its request runs. Idle or leaving it shows the one before, and else none."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field. ``metric`` is empty where a collector has no use for it; ``label`` is that of a `LABELLED` one."""

    key: str
    kind: str
    metric: str = ""
    help: str = ""
    label: str = ""


FIELDS: Final = (
    Field("pool", TEXT),
    Field("process manager", TEXT),
    Field("start time", TIME, "start_time_seconds", "When the server was started, in Unix time."),
    Field("start since", GAUGE, "uptime_seconds", "Seconds since the server was started."),
    Field("accepted conn", COUNTER, "accepted_connections", "Requests begun, by all workers there ever were."),
    Field("listen queue", GAUGE, "listen_queue", "Connections that wait for a worker, as the kernel counts them."),
    Field("max listen queue", GAUGE, "max_listen_queue", "The most that were seen waiting."),
    Field("listen queue len", GAUGE, "listen_queue_limit", "How many may wait: the backlog, as the kernel applies it."),
    Field("idle processes", GAUGE, "idle_processes", "Workers that wait for a connection."),
    Field("active processes", GAUGE, "active_processes", "Workers that do anything else."),
    Field("total processes", GAUGE, "total_processes", "All workers."),
    Field("max active processes", GAUGE, "max_active_processes", "The most that were seen active, once they listened."),
    Field("max children reached", COUNTER, "max_children_reached", "Times that more workers were needed than allowed."),
    Field("slow requests", COUNTER, "slow_requests", "Requests longer than request_slowlog_timeout."),
    # From here on ours.
    Field("phase", TEXT),
    Field("application", TEXT),
    Field("socket", TEXT),
    Field("generation", GAUGE, "generation", "Grows with every load of the application's code."),
    Field("max children", GAUGE, "max_children", "How many workers may take connections."),
    Field("saturated since", TIME, "saturated_since_seconds", "Since when nobody is idle and clients wait; else none."),
    Field("saturation episodes", COUNTER, "saturation_episodes", "Times that no worker was idle and clients waited."),
    Field("queue full episodes", COUNTER, "queue_full_episodes", "Times that the listen queue was seen at its limit."),
    Field("queue full seconds", COUNTER, "queue_full_seconds", "How long it was seen at its limit, at least."),
    Field("abandoned requests", COUNTER, "abandoned_requests", "Requests not run because their clients had left."),
    Field("bad requests", COUNTER, "bad_requests", "Requests that were refused as malformed."),
    Field("refused peers", COUNTER, "refused_peers", "Connections from who may not connect."),
    Field("timeouts", LABELLED, "timeouts", "Requests that were ended by a deadline.", "kind"),
    Field("deaths", LABELLED, "worker_deaths", "Workers that ended without being asked to.", "cause"),
    Field("reloads", COUNTER, "reloads", "Reloads that took effect."),
    Field("failed reloads", COUNTER, "failed_reloads", "Reloads that changed nothing."),
    Field("bytes received", COUNTER, "received_bytes", "Bytes of requests' bodies that the application read."),
    Field("bytes sent", COUNTER, "sent_bytes", "Bytes of responses' bodies."),
    Field("request seconds", HISTOGRAM, "request_seconds", "How long requests ran, until their responses were sent."),
    Field("queue seconds", HISTOGRAM, "queue_seconds", "How long requests had waited, where the proxy stamps them."),
)

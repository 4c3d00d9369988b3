"""A status for Prometheus and its like: OpenMetrics 1.0 text.

php-fpm's own metrics (``phpfpm_…``) come first, as its page has them, as gauges: its names break OpenMetrics' rule that
a counter's sample ends in ``_total``. Then the same and more as ``prefork_…``, each with the pool as its label. What is
unknown is left out: a missing sample says so, a 0 would lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prefork.status.fields import COUNTER, FIELDS, HISTOGRAM, LABELLED, TEXT, Field

__all__ = ["as_openmetrics"]

_Status = Mapping[str, Any]

_PHP_FPM: Final = (
    ("phpfpm_start_since", "start since", "The number of seconds since the server has started."),
    ("phpfpm_accepted_connections", "accepted conn", "The number of requests accepted by the pool."),
    ("phpfpm_listen_queue", "listen queue", "The number of requests in the queue of pending connections."),
    ("phpfpm_max_listen_queue", "max listen queue", "The maximum number of requests in that queue so far."),
    ("phpfpm_listen_queue_length", "listen queue len", "The size of the socket queue of pending connections."),
    ("phpfpm_idle_processes", "idle processes", "The number of idle processes."),
    ("phpfpm_active_processes", "active processes", "The number of active processes."),
    ("phpfpm_total_processes", "total processes", "The number of idle and active processes."),
    ("phpfpm_max_active_processes", "max active processes", "The maximum number of active processes so far."),
    ("phpfpm_max_children_reached", "max children reached", "How often the process limit has been reached."),
    ("phpfpm_slow_requests", "slow requests", "The number of requests that exceeded request_slowlog_timeout."),
)


def as_openmetrics(statuses: Sequence[_Status]) -> str:
    """The exposition of all pools, with its end mark."""
    lines = [*_php_fpm(statuses)]
    for field in FIELDS:
        if field.kind != TEXT:
            lines += _family(field, statuses)
    lines += _info(statuses)
    return "\n".join([*lines, "# EOF"]) + "\n"


def _php_fpm(statuses: Sequence[_Status]) -> Iterator[str]:
    yield "# HELP phpfpm_up Whether the server could be asked."
    yield "# TYPE phpfpm_up gauge"
    yield from (f"phpfpm_up{_labels(status)} 1" for status in statuses)
    for name, key, meaning in _PHP_FPM:
        yield f"# HELP {name} {meaning}"
        yield f"# TYPE {name} gauge"
        yield from (f"{name}{_labels(status)} {_number(status[key])}" for status in statuses if _known(status, key))


def _family(field: Field, statuses: Sequence[_Status]) -> Iterator[str]:
    known = [status for status in statuses if _known(status, field.key)]
    if not known:
        return
    name = f"prefork_{field.metric}"
    kind = {COUNTER: "counter", LABELLED: "counter", HISTOGRAM: "histogram"}.get(field.kind, "gauge")
    yield f"# HELP {name} {field.help}"
    yield f"# TYPE {name} {kind}"
    for status in known:
        value = status[field.key]
        if field.kind == HISTOGRAM:
            yield from _histogram(name, status, value)
        elif field.kind == LABELLED:
            for cause, number in value.items():
                yield f"{name}_total{_labels(status, **{field.label: cause})} {_number(number)}"
        else:
            suffix = "_total" if field.kind == COUNTER else ""
            yield f"{name}{suffix}{_labels(status)} {_number(value)}"


def _histogram(name: str, status: _Status, value: Mapping[str, Any]) -> Iterator[str]:
    total = 0
    edges = [*(repr(float(bound)) for bound in value["bounds"]), "+Inf"]
    for edge, count in zip(edges, value["counts"], strict=True):
        total += count
        yield f"{name}_bucket{_labels(status, le=edge)} {total}"
    yield f"{name}_sum{_labels(status)} {_number(value['sum'])}"
    yield f"{name}_count{_labels(status)} {total}"


def _info(statuses: Sequence[_Status]) -> Iterator[str]:
    yield "# HELP prefork_pool What a pool serves, and where."
    yield "# TYPE prefork_pool info"
    for status in statuses:
        labels = _labels(
            status,
            application=status.get("application", ""),
            socket=status.get("socket", ""),
            pm=status["process manager"],
        )
        yield f"prefork_pool_info{labels} 1"


def _known(status: _Status, key: str) -> bool:
    return status.get(key) is not None


def _labels(status: _Status, **others: str) -> str:
    labels = {"pool": status["pool"], **others}
    return "{" + ",".join(f'{name}="{_escape(str(text))}"' for name, text in labels.items()) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return repr(value)

"""``preforkctl status``: a server's own account of itself, for a person or as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prefork.cli.console import printable

__all__ = ["as_json", "as_text"]

_LONGEST_URI: Final = 100


def as_json(answer: Mapping[str, Any]) -> str:
    """The answer itself, every character of it printable."""
    return json.dumps(answer, indent=2)


def as_text(answer: Mapping[str, Any]) -> str:
    """A few lines for the server and its pools, and one for each worker. No stranger's text breaks out of its line."""
    lines = [
        f"prefork {answer['version']}, pid {answer['pid']}, {answer['phase']}, up {_duration(answer['start since'])}"
    ]
    for pool in answer["pools"]:
        lines += ["", *_pool(pool)]
    return "\n".join(map(printable, lines))


def _pool(pool: Mapping[str, Any]) -> Iterator[str]:
    waiting = "unknown" if pool["listen queue"] is None else pool["listen queue"]
    yield f"{pool['pool']}: {pool['application']} on {pool['socket']}"
    yield (
        f"  workers   {pool['total processes']} of {pool['max children']} ({pool['process manager']}): "
        f"{pool['idle processes']} idle, {pool['active processes']} active; generation {pool['generation']}"
    )
    yield f"  queue     {waiting} of {pool['listen queue len']} waiting, at most {pool['max listen queue']} so far"
    yield f"  requests  {pool['accepted conn']} accepted"
    if pool["processes"]:
        yield f"  {'slot':>4} {'pid':>8} {'state':<9} {'requests':>9} {'age':>8}  now"
    for process in pool["processes"]:
        yield (
            f"  {process['slot']:>4} {process['pid'] or '-':>8} {process['state']:<9} {process['requests']:>9} "
            f"{_duration(process['start since']):>8}  {_request(process)}"
        ).rstrip()


def _request(process: Mapping[str, Any]) -> str:
    if process["request method"] is None:
        return ""
    uri = str(process["request uri"])
    shown = uri if len(uri) <= _LONGEST_URI else f"{uri[:_LONGEST_URI]}…"
    return f"{process['request method']} {shown}, {process['request duration'] / 1_000_000:.1f} s"


def _duration(seconds: float) -> str:
    """The two largest units: 3d 4h, 2h 5m, 1m 20s, 7s."""
    rest = int(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])

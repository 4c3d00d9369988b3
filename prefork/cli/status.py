"""``preforkctl status``: a server's own account of itself, for a person or as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from prefork.cli.console import printable
from prefork.cli.latency import spell_latency
from prefork.status.fields import AT_WORK

__all__ = ["as_json", "as_text", "spell_duration", "spell_saturation"]

_LONGEST_URI: Final = 100


def as_json(answer: Mapping[str, Any]) -> str:
    """The answer itself, every character of it printable."""
    return json.dumps(answer, indent=2)


def as_text(answer: Mapping[str, Any]) -> str:
    """A few lines for the server and its pools, and one for each worker. No stranger's text breaks out of its line."""
    up = spell_duration(answer["start since"])
    lines = [f"prefork {answer['version']}, pid {answer['pid']}, {answer['phase']}, up {up}"]
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
    most = "" if pool["max listen queue"] is None else f", at most {pool['max listen queue']} so far"
    limit = "" if pool["listen queue len"] is None else f" of {pool['listen queue len']}"
    yield f"  queue     {waiting}{limit} waiting{most}"
    if pool.get("saturated since"):
        yield f"  saturated {spell_saturation(pool)}"
    took, waited = (spell_latency(pool.get(key)) for key in ("request seconds", "queue seconds"))
    yield f"  requests  {pool['accepted conn']} accepted" + (f"; {took}" if took else "")
    if waited:
        yield f"  waited    {waited}"
    if pool["processes"]:
        yield f"  {'slot':>4} {'pid':>8} {'state':<9} {'requests':>9} {'age':>8}  now"
    for process in pool["processes"]:
        yield (
            f"  {process['slot']:>4} {process['pid'] or '-':>8} {process['state']:<9} {process['requests']:>9} "
            f"{spell_duration(process['start since']):>8}  {_request(process)}"
        ).rstrip()


def spell_saturation(pool: Mapping[str, Any]) -> str:
    """Since when every worker of a pool is busy while connections wait, by the clock on the wall."""
    since = datetime.fromtimestamp(pool["saturated since"])  # noqa: DTZ006
    if pool["idle processes"]:  # an episode is over when nobody has waited for a second
        return f"since {since:%H:%M:%S}, until a moment ago; preforkctl saturation shows where they stood"
    return f"since {since:%H:%M:%S}: nobody is idle; preforkctl stacks shows where they stand"


def _request(process: Mapping[str, Any]) -> str:
    if process["request method"] is None or process["state"] not in AT_WORK:
        return ""
    uri = str(process["request uri"])
    shown = uri if len(uri) <= _LONGEST_URI else f"{uri[:_LONGEST_URI]}…"
    return f"{process['request method']} {shown}, {process['request duration'] / 1_000_000:.1f} s"


def spell_duration(seconds: float) -> str:
    """The two largest units: 3d 4h, 2h 5m, 1m 20s, 7s."""
    rest = int(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])

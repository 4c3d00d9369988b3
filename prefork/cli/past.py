"""``preforkctl slow`` and ``preforkctl saturation``: what the server remembers, for a person; the newest last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from prefork.cli.console import printable

__all__ = ["culprit_of", "episodes_as_text", "slow_as_text", "span_of"]

_LONGEST_URI: Final = 200
_HEADS: Final = 5  # of requests that stood at the same place


def slow_as_text(answer: Mapping[str, Any]) -> str:
    """Slow requests, and the stack of those that stood at the same place, innermost call first."""
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in answer["slow"]:
        key = (str(each["pool"]), str(each["stack"]))
        alike[key] = [*alike.pop(key, ()), each]  # at the end: the newest last
    blocks = ["\n".join(map(printable, _together(group))) for group in alike.values()]
    return "\n".join(blocks) or "no request was slower than request_slowlog_timeout since the server was started"


def _together(requests: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Requests of one pool that have the same stack."""
    if len(requests) > _HEADS:
        yield f"{requests[0]['pool']}: {len(requests)} alike, of which the last {_HEADS}:"
    yield from map(_slow, requests[-_HEADS:])
    yield from (f"    {line}" for line in str(requests[0]["stack"]).splitlines() or ["no stack was to be had"])


def _slow(each: Mapping[str, Any]) -> str:
    named = f", {each['id']}" if each["id"] else ""
    uri = str(each["uri"])
    shown = uri if len(uri) <= _LONGEST_URI else f"{uri[:_LONGEST_URI]}…"
    return (
        f"{_moment(each['time']):%Y-%m-%d %H:%M:%S}  {each['pool']}: {each['method']} {shown} "
        f"ran for {each['seconds']:.1f} s (pid {each['pid']}, slot {each['slot']}{named})"
    )


def episodes_as_text(answer: Mapping[str, Any]) -> str:
    """Each episode with where its workers stood, and how many there were that nobody looked at."""
    blocks = ["\n".join(map(printable, _episode(each))) for each in answer["episodes"]]
    for pool in answer["pools"]:
        untold = pool["episodes"] - sum(each["pool"] == pool["pool"] for each in answer["episodes"])
        if untold > 0:
            blocks.append(printable(f"{pool['pool']}: {untold} more, too many or too long ago to be remembered"))
    return "\n".join(blocks) or "no pool was saturated since the server was started"


def _episode(each: Mapping[str, Any]) -> Iterator[str]:
    lasted = "it lasts" if each["seconds"] is None else f"{each['seconds']:.1f} s"
    limit = "" if each["limit"] is None else f" of {each['limit']}"
    full = f", full for at least {each['full_seconds']:.1f} s" if each["full_seconds"] else ""
    yield (
        f"{_moment(each['start']):%Y-%m-%d} {span_of(each)}  {each['pool']}: every worker busy ({lasted}), at most "
        f"{each['peak']}{limit} waiting{full}"
    )
    if each.get("waited"):
        yield f"    requests had waited {each['waited']}"
    for group in each["groups"]:
        span, example = group["span"], group["example"]
        yield (
            f"    {group['count']} of {each['workers']} in {group['where']}"
            + (f", {span}" if span else "")
            + (f", e.g. {example}" if example else "")
        )


def span_of(episode: Mapping[str, Any]) -> str:
    """From when to when, in local time: "12:00:01–12:00:12"."""
    begun = f"{_moment(episode['start']):%H:%M:%S}"
    if episode["seconds"] is None:
        return f"{begun}–now"
    return f"{begun}–{_moment(episode['start'] + episode['seconds']):%H:%M:%S}"


def culprit_of(episode: Mapping[str, Any]) -> str:
    """Where most of the workers stood: "47 of 50 in shop/db.py:88 fetch_user"; "" if nobody knows."""
    if not episode["groups"]:
        return ""
    first = episode["groups"][0]
    return f"{first['count']} of {episode['workers']} in {first['where']}"


def _moment(unix: float) -> datetime:
    """Local time, as nginx's log has it and the wall clock."""
    return datetime.fromtimestamp(unix)  # noqa: DTZ006

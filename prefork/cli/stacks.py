"""``preforkctl stacks``: where workers stand, for a person. Groups first, and one stack for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prefork.cli.console import printable

__all__ = ["as_text"]

_LONGEST_URI: Final = 100
_FRAMES: Final = 60
_MARK: Final = "→ "


def as_text(answer: Mapping[str, Any]) -> str:
    """The answer to the order, in lines of which no stranger's text breaks out."""
    blocks = []
    for pool in answer["pools"]:
        lines = _groups(pool) if "groups" in pool else _workers(pool["stacks"])
        blocks.append("\n".join(map(printable, lines)))
    return "\n\n".join(blocks)


def _groups(pool: Mapping[str, Any]) -> Iterator[str]:
    waiting, stacks = pool["listen queue"], {stack["pid"]: stack for stack in pool["stacks"]}
    queue = "" if waiting is None else f", {waiting} waiting in the queue"
    yield f"{pool['pool']}: {pool['busy']} of {pool['workers']} workers busy{queue}"
    if len(stacks) < pool["busy"]:
        yield f"  {len(stacks)} of them, from all slots, were looked at"
    for group in pool["groups"]:
        span, example = group["span"], group["example"]
        yield (
            f"  {group['count']} of {len(stacks)} in {group['where']}"
            + (f", {span}" if span else "")
            + (f", e.g. {example}" if example else "")
        )
    for group in pool["groups"]:
        yield ""
        shown, *more = group["pids"]
        yield from _worker(stacks[shown])
        if more:
            pids = ", ".join(map(str, more[:10])) + (f" and {len(more) - 10} more" if len(more) > 10 else "")
            yield f"  in the same place: pid {pids}"


def _workers(stacks: list[Mapping[str, Any]]) -> Iterator[str]:
    for stack in stacks:
        yield from _worker(stack)


def _worker(stack: Mapping[str, Any]) -> Iterator[str]:
    """One worker: what it runs, and its calls, the innermost first; the application's own innermost one is marked."""
    yield f"pid {stack['pid']}, slot {stack['slot']}, {stack['state']}{_request(stack)}"
    if not stack["answered"]:
        yield "    no stack: it gets no processor, is stopped, or has ended"
    elif not stack["frames"]:
        yield "    no call of the application"
    elif stack["forced"]:
        yield "    (in C: it did not look at its signals, and was made to show its stack)"
    for index, frame in enumerate(stack["frames"][:_FRAMES]):
        mark = _MARK if index == stack["culprit"] else " " * len(_MARK)
        yield f"  {mark}{frame['shown']}:{frame['line']} {frame['function']}"
    if len(stack["frames"]) > _FRAMES:
        yield f"    and {len(stack['frames']) - _FRAMES} more calls"


def _request(stack: Mapping[str, Any]) -> str:
    if stack["method"] is None:
        return ""
    uri = str(stack["uri"])
    shown = uri if len(uri) <= _LONGEST_URI else f"{uri[:_LONGEST_URI]}…"
    named = f" ({stack['id']})" if stack["id"] else ""
    return f", {stack['method']} {shown} for {stack['seconds']:.1f} s{named}"

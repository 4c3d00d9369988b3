"""How long requests took, from the counts of a histogram: {"bounds", "counts" (one more), "sum"}, in seconds.

Its buckets are coarse: what is said is between which bounds a time lies, and nothing in between is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["difference", "limits", "spell_latency", "spell_seconds"]

_Histogram = Mapping[str, Any]


def difference(later: _Histogram | None, earlier: _Histogram | None) -> _Histogram | None:
    """What came between two looks; everything, if there is no earlier one."""
    if later is None or earlier is None:
        return later
    pairs = zip(later["counts"], earlier["counts"], strict=True)
    return {
        **later,
        "counts": [max(0, now - then) for now, then in pairs],
        "sum": max(0.0, later["sum"] - earlier["sum"]),
    }


def limits(histogram: _Histogram | None, share: float) -> tuple[float, float | None] | None:
    """Between which times this share of the requests was done: the bounds of a bucket; None: it has no upper one.

    None for no request at all. ``share`` is more than 0.
    """
    if histogram is None:
        return None
    bounds, counts = histogram["bounds"], histogram["counts"]
    left = share * sum(counts)
    if left <= 0:
        return None
    low = 0.0
    for high, count in zip(bounds, counts, strict=False):
        if count >= left:
            return low, float(high)
        left -= count
        low = float(high)
    return low, None


def spell_latency(histogram: _Histogram | None) -> str:
    """Median and 99th percentile, as "median 5 to 10 ms, 99 % within 500 ms"; one request's time; empty without any.

    "more than 1 % over 60 s": it lies beyond the last bound, and no more is known.
    """
    median, most = limits(histogram, 0.5), limits(histogram, 0.99)
    if histogram is None or median is None or most is None:
        return ""
    if sum(histogram["counts"]) == 1:
        return f"{spell_seconds(histogram['sum'])} (one request)"
    low, high = most
    tail = f"more than 1 % over {_bound(low)}" if high is None else f"99 % within {_bound(high)}"
    return f"median {_between(*median)}, {tail}"


def _between(low: float, high: float | None) -> str:
    if high is None:
        return f"over {_bound(low)}"
    if not low:
        return f"below {_bound(high)}"
    first, last = _bound(low), _bound(high)
    return f"{first.removesuffix(' ms' if last.endswith(' ms') else ' s')} to {last}"


def _bound(seconds: float) -> str:
    """As it is: 2.5 ms, 250 ms, 1 s."""
    return f"{seconds * 1_000:g} ms" if seconds < 1 else f"{seconds:g} s"


def spell_seconds(seconds: float) -> str:
    """Two digits, at least: 0.4 ms, 12 ms, 0.31 s, 4.2 s, 31 s."""
    if seconds < 0.1:
        return f"{seconds * 1_000:.1f} ms" if seconds < 0.01 else f"{seconds * 1_000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"

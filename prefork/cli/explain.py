"""``preforkctl explain``: nginx's error log in, what its lines mean where the upstream is prefork out.

Lines are read as they come, in bounded memory: what is kept of a thousand complaints of one kind about one socket is
their number, the first and last moment, the requests most of them were about, and the saturations they fall into, where
a server remembers those.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from prefork.cli.console import printable
from prefork.cli.meanings import Meaning, meaning_of
from prefork.cli.nginx_log import Complaint, read_line
from prefork.cli.recalling import Episode

__all__ = ["Finding", "Findings", "as_text", "as_values", "explain"]

_MOST_REQUESTS: Final = 1_000  # different ones that are counted, of each kind
_SHOWN_REQUESTS: Final = 3
_SHOWN_EPISODES: Final = 3
_MOST_UNKNOWN: Final = 5
_LONGEST: Final = 160
_WIDTH: Final = 100


@dataclass(slots=True)
class Finding:
    """All complaints of one kind about one upstream."""

    meaning: Meaning
    upstream: str
    first: datetime
    last: datetime
    count: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    episodes: Counter[Episode] = field(default_factory=Counter)  # how many of them fall into each
    example: str = ""

    def add(self, complaint: Complaint) -> None:
        """One more."""
        self.count += 1
        self.first, self.last = min(self.first, complaint.time), max(self.last, complaint.time)
        request = complaint.method_and_path
        if request and (request in self.requests or len(self.requests) < _MOST_REQUESTS):
            self.requests[request] += 1
        self.example = self.example or complaint.message


@dataclass(slots=True)
class Findings:
    """What a log came to. ``unknown`` are complaints that the table does not have, ``foreign`` all other lines."""

    found: list[Finding]
    unknown: list[str]
    unknown_count: int
    foreign: int


def explain(lines: Iterable[str], episodes: Sequence[Episode] = ()) -> Findings:
    """Read a log to its end. ``episodes`` are the saturations that a server remembers."""
    found: dict[tuple[str, str], Finding] = {}
    findings = Findings([], [], 0, 0)
    for line in lines:
        complaint = read_line(line)
        if complaint is None:
            findings.foreign += 1
            continue
        meaning = meaning_of(complaint)
        if meaning is not None:
            key = (meaning.key, complaint.upstream)
            if key not in found:
                found[key] = Finding(meaning, complaint.upstream, complaint.time, complaint.time)
            found[key].add(complaint)
            if meaning.of_saturation:
                found[key].episodes.update(episode for episode in episodes if episode.covers(complaint))
        elif complaint.request or complaint.upstream:
            findings.unknown_count += 1
            if len(findings.unknown) < _MOST_UNKNOWN:
                findings.unknown.append(complaint.message)
        else:
            findings.foreign += 1
    findings.found = sorted(found.values(), key=lambda finding: (-finding.count, finding.first))
    return findings


def as_values(findings: Findings) -> dict[str, Any]:
    """For JSON."""
    return {
        "findings": [
            {
                "kind": finding.meaning.key,
                "title": finding.meaning.title,
                "count": finding.count,
                "upstream": finding.upstream,
                "first": finding.first.isoformat(),
                "last": finding.last.isoformat(),
                "requests": dict(finding.requests.most_common(_SHOWN_REQUESTS)),
                "example": finding.example,
                "saturations": {
                    episode.text: count for episode, count in finding.episodes.most_common(_SHOWN_EPISODES)
                },
                "cause": finding.meaning.cause,
                "mend": list(finding.meaning.mend),
                "events": list(finding.meaning.events),
            }
            for finding in findings.found
        ],
        "unknown": findings.unknown_count,
        "other lines": findings.foreign,
    }


def as_text(findings: Findings) -> str:
    """For a person: the most frequent first."""
    blocks = ["\n".join(map(printable, _block(finding))) for finding in findings.found]
    if findings.unknown_count:
        shown = [f"  {printable(message[:_LONGEST])}" for message in findings.unknown]
        blocks.append("\n".join([f"{findings.unknown_count} × not known here, such as:", *shown]))
    if not blocks:
        return "no line of this is nginx complaining about an upstream"
    return "\n\n".join(blocks)


def _block(finding: Finding) -> Iterator[str]:
    meaning = finding.meaning
    yield f"{finding.count} × {meaning.title}"
    span = f"{finding.first:%Y-%m-%d %H:%M:%S}"
    if finding.last != finding.first:
        same_day = finding.last.date() == finding.first.date()
        span += f" to {finding.last:%H:%M:%S}" if same_day else f" to {finding.last:%Y-%m-%d %H:%M:%S}"
    yield "    " + ", ".join(part for part in (finding.upstream, span) if part)
    if finding.requests:
        common = [f"{count} × {request[:_LONGEST]}" for request, count in finding.requests.most_common(_SHOWN_REQUESTS)]
        yield "    " + ", ".join(common)
    yield f"    nginx says: {finding.example[:_LONGEST]}"
    for episode, count in finding.episodes.most_common(_SHOWN_EPISODES):
        yield from _paragraph("matches", f"the saturation of {episode.text} ({count} of these lines)")
    yield from _paragraph("  means", meaning.cause)
    for index, mend in enumerate(meaning.mend):
        yield from _paragraph("     do" if index == 0 else "       ", mend)


def _paragraph(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{label}  ", subsequent_indent=" " * (len(label) + 2), break_on_hyphens=False
    )

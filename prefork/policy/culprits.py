"""What holds the workers of a pool: their stacks, looked at twice, and grouped by where in the application they stand.

The interesting call of a stack is the innermost one of the application: further in is what it waits with (a driver, a
socket, a lock), and further out what it was on its way to. One look would misjudge a worker that was seen in passing,
so there are two, a moment apart. Whoever runs the same request in the same function at both *stands* there, and counts
twice: twenty workers that hang in one place hold a pool up, and thirty that hurry through another do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

__all__ = [
    "GROUPS",
    "Call",
    "Group",
    "Places",
    "Sighting",
    "culprit",
    "group",
    "others",
    "printable",
    "request_text",
    "span",
    "stack_text",
]

GROUPS: Final = 5
"""That are told; the others are few, or many of one worker each."""

_LONGEST_PLACE: Final = 200  # characters
_LONGEST_REQUEST: Final = 100

_MODULE: Final = "<module>"
_LOCAL: Final = ".<locals>."
_PACKAGES: Final = ("/site-packages/", "/dist-packages/")


class Call(Protocol):
    """One call of a stack, as `prefork.system.stacks.Frame`."""

    @property
    def file(self) -> str:
        """Where its code stands."""

    @property
    def line(self) -> int:
        """Which line of it runs."""

    @property
    def function(self) -> str:
        """Its name, qualified where that is known."""


@dataclass(frozen=True, slots=True)
class Places:
    """What stands where.

    ``roots``    the application's directories, absolute: files are named relative to them
    ``package``  its name: an application that is installed like a library is none
    ``foreign``  directories of code that is nobody's application: the standard library, the server itself
    """

    roots: tuple[str, ...] = ()
    package: str = ""
    foreign: tuple[str, ...] = ()

    def is_application(self, file: str) -> bool:
        """Whether a file is the application's own."""
        for packages in _PACKAGES:
            _, found, inside = file.rpartition(packages)
            if found:
                return bool(self.package) and inside.startswith((f"{self.package}/", f"{self.package}.py"))
        return not file.startswith(("<", *(f"{folder}/" for folder in self.foreign)))

    def shorten(self, file: str) -> str:
        """A file's name for people: below the application's directory, or the library's, without what is above."""
        for root in sorted(self.roots, key=len, reverse=True):
            if root != "/" and file.startswith(f"{root}/"):
                inside = file[len(root) + 1 :]
                return _within_packages(inside)
        for folder in self.foreign:
            if file.startswith(f"{folder}/") and _within_packages(file) == file:
                return file[len(folder) + 1 :]
        return _within_packages(file)


def _within_packages(file: str) -> str:
    for packages in _PACKAGES:
        _, found, inside = file.rpartition(packages)
        if found:
            return inside
    return file


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where one worker was seen.

    ``number``   of the request it ran; 0: not known, or none
    ``call``     the call that counts; None: there was none, and ``doing`` says what it did
    ``known``    false: that it cannot be said what it did is all that ``doing`` says
    ``request``  that it ran, for people; "": not known
    ``seconds``  for how long it had run; None: not known
    """

    number: int
    call: Call | None
    doing: str = ""
    known: bool = True
    request: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Workers that were seen at the same place. ``standing`` of them ran the same request at both looks."""

    count: int
    standing: int
    where: str
    span: str  # for how long their requests had run: "2.1–9.8 s"; "" where that is not known
    example: str  # a request of one that has run for the longest: "GET /orders"
    members: tuple[int, ...] = ()  # who they are, the one whose request has run for the longest first
    known: bool = True  # false: that it cannot be said where they stand is all that ``where`` says

    def text(self, workers: int) -> str:
        """For people: "47 of 50 in shop/db.py:88 fetch_user, 2.1–9.8 s, e.g. GET /orders"."""
        said = f"{self.count} of {workers} in {self.where}"
        said += f", {self.span}" if self.span else ""
        return said + (f", e.g. {self.example}" if self.example else "")


def culprit(stack: Sequence[Call], places: Places) -> Call | None:
    """The call of a stack (innermost first) that counts: the innermost of the application, else the innermost.

    While a module is imported, all that it does is part of that: what counts is the line that imports.
    """
    imports = [index for index, call in enumerate(stack) if call.function == _MODULE]
    outside = stack[imports[-1] + 1 :] if imports else stack
    for calls in (outside, stack):
        for call in calls:
            if places.is_application(call.file):
                return call
    return stack[0] if stack else None


def stack_text(stack: Sequence[Call], places: Places) -> str:
    """A stack for people, a call a line, innermost first, with short paths; an arrow marks the call that counts."""
    found = culprit(stack, places)
    return "\n".join(
        f"{'→' if call is found else ' '} {places.shorten(call.file)}:{call.line} {call.function}" for call in stack
    )


def group(first: Mapping[int, Sighting], second: Mapping[int, Sighting], places: Places) -> list[Group]:
    """All workers that were seen, by where; what holds most of them comes first. The keys tell the workers apart.

    Those of whom nothing is known come last, however many they are.
    """
    seen = [_compare(key, first.get(key), second.get(key)) for key in sorted(first.keys() | second.keys())]
    functions: dict[tuple[str, str], list[_Seen]] = {}
    for each in seen:
        functions.setdefault(_function(each.last), []).append(each)
    gathered: list[list[_Seen]] = []
    for together in functions.values():
        moving = sum(each.moves for each in together)
        if moving and moving * 2 >= len(together):
            gathered.append(together)  # a loop of several lines: each was seen at another
            continue
        lines: dict[int, list[_Seen]] = {}
        for each in together:
            lines.setdefault(_line(each.last), []).append(each)
        gathered += lines.values()
    gathered.sort(key=lambda each: (not each[0].last.known, -_weight(each), -len(each), -_longest(each)))
    return [_describe(each, places) for each in gathered]


def others(groups: Sequence[Group]) -> tuple[Sequence[Group], int]:
    """The groups that are told, and how many workers are in all the others."""
    return groups[:GROUPS], sum(each.count for each in groups[GROUPS:])


def request_text(method: str, uri: str) -> str:
    """A request for people: without its query, which tells requests apart that are alike; a stranger's text."""
    return printable(f"{method} {uri.partition('?')[0]}", _LONGEST_REQUEST)


def printable(text: str, longest: int) -> str:
    """Somebody's text on one line, of bounded length: what could command a terminal is spelled out."""
    shown = text[:longest] + ("…" if len(text) > longest else "")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in shown)


def span(seconds: Sequence[float]) -> str:
    """From the shortest to the longest: "2.1–9.8 s"; "" for none."""
    if not seconds:
        return ""
    shortest, longest = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{shortest} s" if shortest == longest else f"{shortest}–{longest} s"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What both looks at one worker came to."""

    key: int
    last: Sighting
    stands: bool
    moves: bool  # it stands, at another line of the same function


def _function(sighting: Sighting) -> tuple[str, str]:
    call = sighting.call
    return ("", sighting.doing) if call is None else (call.file, _plain(call.function))


def _line(sighting: Sighting) -> int:
    return 0 if sighting.call is None else sighting.call.line


def _compare(key: int, first: Sighting | None, second: Sighting | None) -> _Seen:
    """The later look counts, unless it found nothing: whoever had just begun then stands somewhere by now."""
    if first is None or second is None:
        only = second if first is None else first
        assert only is not None
        return _Seen(key, only, stands=False, moves=False)
    last = first if second.call is None and first.call is not None else second
    stands = first.number == second.number != 0 and _function(first) == _function(second)
    return _Seen(key, last, stands, moves=stands and _line(first) != _line(second))


def _weight(group: Iterable[_Seen]) -> int:
    return sum(2 if each.stands else 1 for each in group)


def _longest(group: Iterable[_Seen]) -> float:
    return max(each.last.seconds or 0.0 for each in group)


def _describe(together: Sequence[_Seen], places: Places) -> Group:
    ordered = sorted(together, key=lambda each: -(each.last.seconds or 0.0))
    known = [each.last for each in ordered if each.last.seconds is not None]
    return Group(
        count=len(together),
        standing=sum(each.stands for each in together),
        where=_place([each.last for each in ordered], places),
        span=span([each.seconds or 0.0 for each in known]),
        example=next((each.request for each in known if each.request), ""),
        members=tuple(each.key for each in ordered),
        known=ordered[0].last.known,
    )


def _place(sightings: Sequence[Sighting], places: Places) -> str:
    calls = [each.call for each in sightings if each.call is not None]
    if not calls:
        return sightings[0].doing
    (line, _), *_ = Counter(call.line for call in calls).most_common(1)
    # A stack that was forced has the plain name only.
    name = max((_readable(call.function) for call in calls), key=len)
    return printable(f"{places.shorten(calls[0].file)}:{line} {name}", _LONGEST_PLACE)


def _readable(function: str) -> str:
    """A qualified name without the functions around it: ``make.<locals>.Shop.orders`` is ``Shop.orders``.

    An expression that has no name of its own (a lambda, a comprehension) has that of the function around it.
    """
    names = function.split(_LOCAL)
    while len(names) > 1 and names[-1].startswith("<"):
        names.pop()
    return names[-1]


def _plain(function: str) -> str:
    return _readable(function).rpartition(".")[2]

"""What holds the workers: which call of a stack counts, and how workers are grouped by it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.policy.culprits import (
    GROUPS,
    Group,
    Places,
    Sighting,
    culprit,
    group,
    others,
    printable,
    request_text,
    stack_text,
)

STDLIB = "/usr/lib/python3.11"
PACKAGES = "/srv/shop/.venv/lib/python3.11/site-packages"
PLACES = Places(roots=("/srv/shop", "/srv/common"), package="shop", foreign=(STDLIB, "/opt/prefork"))


@dataclass(frozen=True)
class Frame:
    file: str
    line: int = 1
    function: str = "f"


VIEW = Frame("/srv/shop/shop/views.py", 31, "orders")
FETCH = Frame("/srv/shop/shop/db.py", 88, "fetch_user")
RECV = Frame(f"{STDLIB}/socket.py", 706, "SocketIO.readinto")
ORM = Frame(f"{PACKAGES}/orm/query.py", 12, "Query.get")
WRAPPER = Frame("/srv/shop/shop/tools.py", 7, "timed.<locals>.wrapper")
MODULE = "<module>"


# which call counts


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([FETCH, VIEW], FETCH),
        ([RECV, ORM, FETCH, WRAPPER, VIEW], FETCH),  # a driver under an ORM, under decorators
        ([Frame("<string>", 1), Frame("<frozen posixpath>"), FETCH], FETCH),
        ([Frame("/opt/prefork/demo.py"), FETCH], FETCH),
        ([RECV, ORM], RECV),  # none of the application: the innermost there is
        ([], None),
        # an import in a request: the line that imports, whatever the module does
        ([Frame("/srv/shop/shop/heavy.py", 3, MODULE), VIEW], VIEW),
        ([RECV, FETCH, Frame("/srv/shop/shop/heavy.py", 9, MODULE), Frame(ORM.file, 1, MODULE), VIEW], VIEW),
        ([Frame(ORM.file, 3, MODULE), Frame(ORM.file, 8, "load"), VIEW], VIEW),
        # a script that is run, with nobody outside
        ([FETCH, Frame("/srv/shop/run.py", 3, MODULE)], FETCH),
        ([FETCH, Frame("/srv/shop/run.py", 3, MODULE), Frame(f"{STDLIB}/runpy.py")], FETCH),
    ],
)
def test_the_call_that_counts(stack: list[Frame], expected: Frame | None) -> None:
    assert culprit(stack, PLACES) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/srv/shop/shop/db.py", True),
        ("/elsewhere/plugin.py", True),
        ("relative.py", True),
        ("templates/page.html", True),
        (f"{STDLIB}/json/decoder.py", False),
        ("/usr/lib/python3.11x/a.py", True),
        ("/usr/lib/python3/dist-packages/yaml/reader.py", False),
        (f"{PACKAGES}/requests/api.py", False),
        (f"{PACKAGES}/shop/db.py", True),  # an application that is installed like a library
        (f"{PACKAGES}/shop.py", True),
        (f"{PACKAGES}/shopping/db.py", False),
        ("<frozen importlib._bootstrap>", False),
    ],
)
def test_what_is_the_applications_own(file: str, expected: bool) -> None:
    assert PLACES.is_application(file) is expected


def test_an_application_without_a_name_is_no_library() -> None:
    assert not Places().is_application(f"{PACKAGES}/x.py")
    assert Places().is_application("/srv/x.py")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/srv/shop/shop/db.py", "shop/db.py"),
        ("/srv/common/tools.py", "tools.py"),
        ("/srv/shopping/a.py", "/srv/shopping/a.py"),
        (f"{PACKAGES}/orm/query.py", "orm/query.py"),
        (f"{STDLIB}/socket.py", "socket.py"),
        ("/usr/lib/python3/dist-packages/yaml/reader.py", "yaml/reader.py"),
        (f"{STDLIB}/site-packages/a/b.py", "a/b.py"),
        ("/elsewhere/a.py", "/elsewhere/a.py"),
    ],
)
def test_files_are_named_for_people(file: str, expected: str) -> None:
    assert PLACES.shorten(file) == expected
    assert Places(("/",)).shorten("/srv/a.py") == "/srv/a.py"


# groups


def seen(
    call: Frame | None = FETCH, number: int = 1, seconds: float | None = 2.0, request: str = "GET /orders"
) -> Sighting:
    return Sighting(number, call, doing="nothing known", request=request, seconds=seconds)


def twice(*sightings: Sighting, after: int = 0) -> tuple[dict[int, Sighting], dict[int, Sighting]]:
    """Workers that were seen at the same place both times."""
    both = dict(enumerate(sightings, after))
    return both, both


def test_a_group_in_words() -> None:
    """How many, where, for how long, and an example: that of the one which has run for the longest."""
    first, second = twice(seen(seconds=2.14), seen(seconds=9.81, request="GET /cart"), seen(seconds=None), seen(VIEW))
    groups = group(first, second, PLACES)
    assert [each.text(4) for each in groups] == [
        "3 of 4 in shop/db.py:88 fetch_user, 2.1–9.8 s, e.g. GET /cart",
        "1 of 4 in shop/views.py:31 orders, 2.0 s, e.g. GET /orders",
    ]
    assert groups[0].members == (1, 0, 2)
    (unknown,) = group({}, {5: Sighting(0, None, "nothing known")}, PLACES)
    assert unknown == Group(1, 0, "nothing known", "", "", (5,))
    assert unknown.text(1) == "1 of 1 in nothing known"
    assert group({}, {}, PLACES) == []


def test_two_culprits() -> None:
    """60 of 100 and 40 of 100, in this order."""
    first, second = twice(*[seen(VIEW)] * 40, *[seen()] * 60)
    assert [(each.count, each.standing, each.where) for each in group(first, second, PLACES)] == [
        (60, 60, "shop/db.py:88 fetch_user"),
        (40, 40, "shop/views.py:31 orders"),
    ]


def test_who_stands_weighs_more_than_who_passes() -> None:
    """Twenty that hang hold a pool up, thirty in short requests do not; two that always hang are no match for them."""
    for hanging, expected in ((20, FETCH), (2, VIEW)):
        still, again = twice(*[seen(number=7, seconds=9.0)] * hanging)
        first = {100 + key: seen(VIEW, number=1, seconds=0.1) for key in range(30)}
        second = {100 + key: seen(VIEW, number=9, seconds=0.1) for key in range(30)}
        groups = group({**still, **first}, {**again, **second}, PLACES)
        assert [(each.count, each.standing) for each in groups if each.where.startswith("shop/db")] == [
            (hanging, hanging)
        ]
        assert groups[0].where.startswith(PLACES.shorten(expected.file))


def test_the_later_look_counts() -> None:
    """Whoever had just begun at the first stands somewhere by now; unless the later one found nothing."""
    assert group({1: seen(VIEW)}, {1: seen()}, PLACES)[0].where == "shop/db.py:88 fetch_user"
    assert group({1: seen()}, {1: seen(None, number=0)}, PLACES)[0].where == "shop/db.py:88 fetch_user"
    assert group({1: seen()}, {}, PLACES)[0].where == "shop/db.py:88 fetch_user"
    assert group({1: seen(None)}, {1: seen(None)}, PLACES)[0].where == "nothing known"


def test_a_loop_of_several_lines_is_one_place() -> None:
    """Where half of them were seen at another line of the same function; else lines are told apart."""

    def at(line: int) -> Sighting:
        return seen(Frame(FETCH.file, line, "crunch"))

    first = {1: at(10), 2: at(11), 3: at(12), 4: at(12)}
    second = {1: at(11), 2: at(12), 3: at(12), 4: at(12)}
    assert [(each.count, each.where) for each in group(first, second, PLACES)] == [(4, "shop/db.py:12 crunch")]
    first[5] = second[5] = at(12)
    second[2] = at(11)
    assert [(each.count, each.where) for each in group(first, second, PLACES)] == [
        (3, "shop/db.py:12 crunch"),
        (2, "shop/db.py:11 crunch"),
    ]


def test_asked_and_forced_are_the_same_place() -> None:
    """A stack that was forced has the plain name only; the better name is told."""
    first, second = twice(
        seen(Frame(FETCH.file, 88, "fetch_user")), seen(Frame(FETCH.file, 88, "make.<locals>.Users.fetch_user"))
    )
    assert [(each.count, each.where) for each in group(first, second, PLACES)] == [
        (2, "shop/db.py:88 Users.fetch_user")
    ]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("fetch", "fetch"),
        ("Shop.orders", "Shop.orders"),
        ("make.<locals>.inner", "inner"),
        ("orders.<locals>.<listcomp>", "orders"),
        ("Shop.orders.<locals>.<genexpr>.<locals>.<lambda>", "Shop.orders"),
        ("<module>", "<module>"),
        ("<lambda>", "<lambda>"),
    ],
)
def test_functions_are_named_for_people(function: str, expected: str) -> None:
    (only,) = group({}, {1: seen(Frame(FETCH.file, 88, function))}, PLACES)
    assert only.where == f"shop/db.py:88 {expected}"


def test_of_whom_nothing_is_known_comes_last() -> None:
    """However many they are; what a worker does without a call of the application is something known."""
    silent = {key: Sighting(3, None, "no answer", known=False) for key in range(40)}
    reading = {50 + key: Sighting(3, None, "reading") for key in range(2)}
    groups = group({}, {**silent, **reading, 99: seen()}, PLACES)
    assert [(each.count, each.where) for each in groups] == [
        (2, "reading"),
        (1, "shop/db.py:88 fetch_user"),
        (40, "no answer"),
    ]


def test_few_groups_are_told() -> None:
    groups = group({}, {line: seen(Frame(FETCH.file, line)) for line in range(1, GROUPS + 4)}, PLACES)
    told, rest = others(groups)
    assert (list(told), rest) == (groups[:GROUPS], 3)
    assert others(groups[:2]) == (groups[:2], 0)


# strangers' text


def test_requests_for_people() -> None:
    """Without the query, on one line, and bounded."""
    assert request_text("GET", "/orders?id=1") == "GET /orders"
    assert request_text("GET", "/\x1b[2J\n\u202e") == "GET /\\x1b[2J\\n\\u202e"
    assert len(request_text("GET", "/" + "x" * 9_999)) <= 101
    assert request_text("", "") == " "


@given(st.text(), st.integers(0, 50))
def test_printable(text: str, longest: int) -> None:
    """Nothing of it commands a terminal, or is longer than it may be."""
    shown = printable(text, longest)
    assert shown.isprintable()
    assert len(shown) <= 10 * (longest + 1)


CALLS = st.builds(
    Frame,
    st.sampled_from([FETCH.file, VIEW.file, RECV.file, ORM.file, "<string>", ""]),
    st.integers(0, 3),
    st.sampled_from(["f", "g", "A.f", MODULE, "<lambda>", "f.<locals>.<listcomp>", ""]),
)
SIGHTINGS = st.builds(
    Sighting,
    st.integers(0, 3),
    st.none() | CALLS,
    st.sampled_from(["reading", "no answer"]),
    st.booleans(),
    st.sampled_from(["", "GET /a", "GET /b"]),
    st.none() | st.floats(0, 1e6),
)
LOOKS = st.dictionaries(st.integers(0, 12), SIGHTINGS, max_size=12)


@given(LOOKS, LOOKS)
def test_every_worker_is_in_one_group(first: dict[int, Sighting], second: dict[int, Sighting]) -> None:
    """Once each; the numbers are possible; every text is one line."""
    groups = group(first, second, PLACES)
    members = [member for each in groups for member in each.members]
    assert sorted(members) == sorted(first.keys() | second.keys())
    for each in groups:
        assert len(each.members) == each.count >= each.standing >= 0
        assert each.text(len(members)).isprintable()
    assert group(first, second, PLACES) == groups


@given(st.lists(CALLS, max_size=8))
def test_the_culprit_is_one_of_the_stack(stack: list[Frame]) -> None:
    found = culprit(stack, PLACES)
    assert (found is None) is (not stack)
    assert found is None or found in stack
    if found is not None and not PLACES.is_application(found.file):
        assert found == stack[0]
        assert not any(PLACES.is_application(call.file) for call in stack)


def test_a_stack_for_people() -> None:
    """Short paths, and an arrow at the call that counts; nothing for no stack."""
    assert stack_text([RECV, ORM, FETCH, VIEW], PLACES).splitlines() == [
        "  socket.py:706 SocketIO.readinto",
        "  orm/query.py:12 Query.get",
        "→ shop/db.py:88 fetch_user",
        "  shop/views.py:31 orders",
    ]
    assert stack_text([], PLACES) == ""

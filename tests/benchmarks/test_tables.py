"""benchmarks/servers.py and workloads.py: the two tables fit each other, and the files that they name exist."""

from __future__ import annotations

import re

import pytest

from benchmarks.servers import REFERENCES, SERVERS, Speaks, fill
from benchmarks.workloads import WORKLOADS, Workload, takes_part, text
from harness import REPOSITORY

pytestmark = pytest.mark.once

APPS = REPOSITORY / "benchmarks" / "apps"
WORDS = {"applications", "bin", "environment", "compiled", "plain", "floor", "php-fpm"} | {
    "socket", "module", "log", "size", "folder", "user"
}  # fmt: skip


def test_names() -> None:
    """Every server and every workload has its own name, and ratios are to servers that exist."""
    for table in (SERVERS, WORKLOADS):
        names = [each.name for each in table]
        assert len(names) == len(set(names))
    assert set(REFERENCES) <= {server.name for server in SERVERS}


def test_words() -> None:
    """Commands, environments and files use no word that nobody fills in."""
    for server in SERVERS:
        options = (*server.command, *server.quiet, *(server.logged or ()))
        texts = (*options, *server.environment.values(), *server.files.values())
        used = {word for each in texts for word in re.findall(r"\{([a-z][a-z-]*)\}", each)}
        assert used <= WORDS, server.name


def test_fill() -> None:
    """Words are filled in; braces around anything else are left as they are."""
    assert fill('{a} {b-c} {d} {"e": %{F}e}', {"a": "1", "b-c": "2"}) == '1 2 {d} {"e": %{F}e}'


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_applications_exist(workload: Workload) -> None:
    """Every workload's application is there, for each kind of server that takes part."""
    if Speaks.PHP in workload.servers:
        assert (APPS / f"{workload.path.lstrip('/')}.php").is_file()
    if workload.name != "django":
        assert (APPS / f"{workload.module}.py").is_file()
    assert any(takes_part(server, workload) for server in SERVERS)


def test_who_takes_part() -> None:
    """The floor does what a constant can do, PHP no Python, and only those log that can."""
    names = {
        workload.name: {server.name for server in SERVERS if takes_part(server, workload)} for workload in WORKLOADS
    }
    assert {name for name, servers in names.items() if "C loop" in servers} == {"hello", "browser"}
    assert "php-fpm" not in names["django"]
    assert {"bjoern", "waitress", "C loop"} & names["logged"] == set()
    assert all({"prefork, FastCGI", "prefork, HTTP"} <= servers for servers in names.values())


def test_right_answers() -> None:
    """An answer is right with the content and the size that were asked for."""
    page = next(workload for workload in WORKLOADS if workload.name == "browser")
    assert page.is_right(text(20_480))
    assert not page.is_right(text(20_481))
    assert not page.is_right(b"x" * 20_480)
    django = next(workload for workload in WORKLOADS if workload.name == "django")
    assert django.is_right(b"<html>")
    assert not django.is_right(b"Server Error")


def test_a_browser_sends_27_parameters() -> None:
    """Debian's fastcgi_params are 20 with Host among them; the browser's other headers make 27."""
    page = next(workload for workload in WORKLOADS if workload.name == "browser")
    assert 20 + len(page.headers) == 27


def test_text() -> None:
    """The content is cut at the size that is asked for."""
    assert (text(0), text(5), text(15)) == (b"", b"Hello", b"Hello, world!\nH")

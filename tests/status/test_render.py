"""The formats of a status: what php-fpm's readers expect, and nothing that a stranger's text could break."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.status.fields import FIELDS
from prefork.status.render import as_html, as_json, as_text, as_xml, without_processes
from status.documents import process_of, status_of

# https://www.php.net/manual/en/fpm.status.php, in the order of its page
PHP_FPM = (
    "pool",
    "process manager",
    "start time",
    "start since",
    "accepted conn",
    "listen queue",
    "max listen queue",
    "listen queue len",
    "idle processes",
    "active processes",
    "total processes",
    "max active processes",
    "max children reached",
    "slow requests",
)


def test_php_fpms_fields_come_first_under_its_names() -> None:
    assert tuple(field.key for field in FIELDS)[: len(PHP_FPM)] == PHP_FPM
    assert tuple(as_json([status_of()]).split('"')[1:2]) == ("pool",)


def test_text_is_php_fpms() -> None:
    lines = as_text([status_of()]).splitlines()
    assert lines[:5] == [
        "pool:                 www",
        "process manager:      dynamic",
        "start time:           09/Oct/2025:08:53:20 +0000",
        "start since:          3600",
        "accepted conn:        123456",
    ]
    assert "pid:" not in "\n".join(lines)
    full = as_text([status_of()], full=True)
    assert "************************\npid:                  4711\nstate:                Running\n" in full
    assert "request URI:          /orders?page=2\n" in full
    assert "user:                 -\nscript:               mysite.wsgi:application\nlast request cpu:     -\n" in full
    assert "request start:        09/Oct/2025:09:53:18 +0000\n" in full
    assert "peer:                 pid 640 uid 33 gid 33\n" in full
    other = [process_of(peer="[::1]:4711"), process_of(peer=None)]
    full = as_text([status_of(processes=other)], full=True)
    assert "peer:                 [::1]:4711\n" in full
    assert "peer:                 -\n" in full


def test_unknown_is_not_nought() -> None:
    assert "listen queue:         unknown" in as_text([status_of(**{"listen queue": None})])
    assert json.loads(as_json([status_of(**{"listen queue": None})]))["listen queue"] is None


def test_what_never_was_is_neither_unknown() -> None:
    """A time that something has happened at."""
    never = [status_of(**{"saturated since": None})]
    assert "saturated since:      -\n" in as_text(never)
    assert "<saturated-since>-</saturated-since>" in as_xml(never)
    assert "<tr><th>saturated since</th><td>-</td></tr>" in as_html(never)
    assert json.loads(as_json(never))["saturated since"] is None
    assert "<saturated-since>1760000000</saturated-since>" in as_xml([status_of(**{"saturated since": 1_760_000_000})])


def test_json_is_php_fpms_object_and_a_list_for_several_pools() -> None:
    one = json.loads(as_json([status_of()]))
    assert one == without_processes(status_of())
    assert json.loads(as_json([status_of()], full=True))["processes"][0]["request uri"] == "/orders?page=2"
    both = json.loads(as_json([status_of(), status_of(pool="api")]))
    assert [pool["pool"] for pool in both["pools"]] == ["www", "api"]


def test_xml_has_dashes_for_spaces() -> None:
    root = ET.fromstring(as_xml([status_of()], full=True))
    assert root.tag == "status"
    assert root.findtext("process-manager") == "dynamic"
    assert root.findtext("start-time") == "1760000000"
    assert root.findtext("processes/process/request-uri") == "/orders?page=2"
    assert [(count.get("name"), count.text) for count in root.iter("count")] == [
        ("soft", "1"),
        ("queue", "2"),
        ("killed by SIGKILL", "1"),
    ]
    assert [pool.findtext("pool") for pool in ET.fromstring(as_xml([status_of(), status_of(pool="api")]))] == [
        "www",
        "api",
    ]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


OWN_TAGS = {"html", "head", "meta", "title", "style", "body", "table", "tr", "th", "td", "div"}


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b\x00\x1b[2J\n\u202e"]
)
def test_a_strangers_path_stays_text(text: str) -> None:
    status = [status_of(processes=[process_of(**{"request uri": text})])]
    page = _Tags()
    page.feed(as_html(status, full=True))
    assert page.tags <= OWN_TAGS
    assert not {name for name in page.attributes if name.startswith("on")}
    assert ET.fromstring(as_xml(status, full=True)).findtext("processes/process/request-uri")
    for shown in (as_text(status, full=True), as_html(status, full=True), as_xml(status, full=True)):
        assert all(line.isprintable() for line in shown.split("\n"))  # preforkctl writes them to terminals
    assert json.loads(as_json(status, full=True))["processes"][0]["request uri"] == text


@given(st.text(), st.text())
def test_no_text_breaks_a_format(uri: str, method: str) -> None:
    status = [status_of(processes=[process_of(**{"request uri": uri, "request method": method})])]
    page = _Tags()
    page.feed(as_html(status, full=True))
    assert page.tags <= OWN_TAGS
    ET.fromstring(as_xml(status, full=True))
    assert len(as_text(status, full=True).split("\n")) == len(as_text([status_of()], full=True).split("\n"))

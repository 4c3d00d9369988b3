"""The status pages as a browser, an exporter and a load balancer meet them."""

from __future__ import annotations

import json
import re
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from prefork.status.app import Pages
from prefork.status.render import as_json
from status.documents import process_of, status_of


def ask(
    path: str = "/status",
    *,
    method: str = "GET",
    published: dict[str, Any] | None = None,
    silent: bool = False,
    now: float = 101.0,
) -> tuple[str, dict[str, str], str]:
    """Status, headers and body of one request; ``silent``: the master has published nothing."""
    document = published or {"pools": [status_of()], "recent": {"episodes": []}, "problems": [], "published": 100.0}
    pools = [{key: value for key, value in pool.items() if key != "processes"} for pool in document["pools"]]
    parts = [{**document, "pools": pools}, *(pool["processes"] for pool in document["pools"])]
    pages = Pages(lambda: None if silent else "\n".join(map(json.dumps, parts)).encode(), lambda: now)
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": ""}
    environ["PATH_INFO"], _, environ["QUERY_STRING"] = path.partition("?")
    setup_testing_defaults(environ)
    said: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        said[:] = [status, dict(headers)]
        return said.append

    result: Any = validator(pages)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    return said[0], said[1], body.decode()


@pytest.mark.parametrize(
    ("query", "kind", "begins"),
    [
        ("", "text/plain", "pool:                 www"),
        ("?json", "application/json", '{"pool": "www"'),
        ("?xml", "application/xml", "<?xml"),
        ("?html", "text/html", "<!DOCTYPE html>"),
        ("?openmetrics", "application/openmetrics-text", "# HELP phpfpm_up"),
        ("?json&full", "application/json", '{"pool": "www"'),
    ],
)
def test_the_formats_of_php_fpm(query: str, kind: str, begins: str) -> None:
    status, headers, body = ask("/status" + query)
    assert status == "200 OK"
    assert headers["Content-Type"].startswith(kind)
    assert body.startswith(begins)
    assert ("4711" in body) is ("full" in query)
    assert "no-store" in headers["Cache-Control"]


def test_one_of_several_pools() -> None:
    document = {"pools": [status_of(), status_of(pool="api")], "recent": {}, "problems": [], "published": 100.0}
    assert [pool["pool"] for pool in json.loads(ask("/status?json", published=document)[2])["pools"]] == ["www", "api"]
    assert json.loads(ask("/status?json&pool=api", published=document)[2])["pool"] == "api"
    assert ask("/status?json&pool=nobody", published=document)[0].startswith("404")


def test_metrics_are_openmetrics() -> None:
    _, headers, body = ask("/metrics")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert list(text_string_to_metric_families(body))  # type: ignore[no-untyped-call]


def test_head_has_no_other_headers_than_get() -> None:
    """wsgiref.validate refuses a body for HEAD from a server, not from an application: ours cuts it off."""
    assert ask(method="HEAD")[1] == ask()[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(method: str) -> None:
    status, headers, _ = ask(method=method)
    assert status.startswith("405")
    assert headers["Allow"] == "GET, HEAD"


def test_an_unknown_path_names_the_known_ones() -> None:
    status, _, body = ask("/nothing")
    assert status.startswith("404")
    assert "/healthz" in body


def test_ping_needs_no_master() -> None:
    assert ask("/ping", silent=True)[::2] == ("200 OK", "pong")


@pytest.mark.parametrize("path", ["/status", "/recent", "/metrics", "/healthz"])
def test_a_master_that_has_not_spoken_is_no_healthy_one(path: str) -> None:
    assert ask(path, silent=True)[0].startswith("503")


def test_health_has_reasons() -> None:
    assert ask("/healthz")[::2] == ("200 OK", "ok\n")
    sick = {"pools": [], "recent": {}, "problems": ["pool www: the socket was taken"], "published": 100.0}
    assert ask("/healthz", published=sick)[::2] == ("503 Service Unavailable", "pool www: the socket was taken\n")
    status, _, body = ask("/healthz", now=120.0)
    assert (status, body) == ("503 Service Unavailable", "the master has said nothing for 20 s\n")


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing_else() -> None:
    """One file; its policy allows its own script and style alone."""
    _, headers, body = ask("/")
    assert headers["Content-Type"].startswith("text/html")
    assert body.count("<script>") == body.count("<style>") == 1
    for elsewhere in ("http://", "https://", "//cdn", "@import", "innerHTML", "insertAdjacentHTML", "document.write"):
        assert elsewhere not in body.replace("http://www.w3.org/2000/svg", "")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2


@pytest.mark.parametrize("names", [["www"], ["www", "api"], []])
def test_json_in_full_is_what_was_published(names: list[str]) -> None:
    """However it is put together: every field of every pool and process, in its order."""
    pools = [status_of(pool=name, processes=[process_of(slot=slot) for slot in range(3)]) for name in names]
    published = {"pools": pools, "recent": {}, "problems": [], "published": 100.0}
    assert ask("/status?json&full", published=published)[2] == as_json(pools, full=True)
    for pool in pools:
        assert ask(f"/status?json&full&pool={pool['pool']}", published=published)[2] == as_json([pool], full=True)


def test_the_page_leads_to_all_others() -> None:
    """And every link of it leads somewhere."""
    links = [link.replace("&amp;", "&") for link in re.findall(r'<a href="([^"]+)"', ask("/")[2])]
    assert {"recent", "healthz", "metrics", "status?full"} <= set(links)
    assert [ask(f"/{link}")[0] for link in links] == ["200 OK"] * len(links)


def test_a_square_shows_how_long_and_nothing_else() -> None:
    """The number of a slot, at the same place, would be taken for seconds."""
    (words,) = re.findall(r"const words = (busy .*);", ask("/")[2])
    assert "seconds" in words
    assert "slot" not in words

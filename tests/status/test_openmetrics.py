"""OpenMetrics, as the parser of Prometheus' own client library reads it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from prefork.status.openmetrics import as_openmetrics
from status.documents import status_of


def samples(*statuses: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels; the parser is strict about everything that the format demands."""
    found = {}
    for family in text_string_to_metric_families(as_openmetrics(statuses)):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
    return found


WWW = (("pool", "www"),)


def test_php_fpms_metrics_are_there() -> None:
    found = samples(status_of())
    assert found["phpfpm_up", WWW] == 1
    assert found["phpfpm_accepted_connections", WWW] == 123_456
    assert found["phpfpm_listen_queue", WWW] == 3
    assert found["phpfpm_listen_queue_length", WWW] == 128
    assert found["phpfpm_max_children_reached", WWW] == 4


def test_ours_have_a_label_for_the_pool_and_totals() -> None:
    found = samples(status_of(), status_of(**{"pool": "api", "accepted conn": 5}))
    assert found["prefork_accepted_connections_total", WWW] == 123_456
    assert found["prefork_accepted_connections_total", (("pool", "api"),)] == 5
    assert found["prefork_max_children", WWW] == 8
    assert found["prefork_timeouts_total", (("kind", "queue"), ("pool", "www"))] == 2
    assert found["prefork_worker_deaths_total", (("cause", "killed by SIGKILL"), ("pool", "www"))] == 1
    assert found["prefork_pool_info", (
        ("application", "mysite.wsgi:application"),
        ("pm", "dynamic"),
        ("pool", "www"),
        ("socket", "/run/mysite/app.sock"),
    )] == 1  # fmt: skip


def test_a_histogram_counts_up() -> None:
    found = samples(status_of())
    buckets = {le: found["prefork_request_seconds_bucket", (("le", le), *WWW)] for le in ("0.01", "0.1", "1.0", "+Inf")}
    assert list(buckets.values()) == [10, 15, 16, 16]
    assert found["prefork_request_seconds_count", WWW] == 16
    assert found["prefork_request_seconds_sum", WWW] == 1.25


def test_what_is_unknown_is_missing() -> None:
    found = samples(status_of(**{"listen queue": None}))
    assert ("phpfpm_listen_queue", WWW) not in found
    assert ("prefork_listen_queue", WWW) not in found


def test_a_time_that_is_not_is_missing() -> None:
    """And no 0, which would be a moment in 1970; the help says so."""
    for since, samples_of_it in ((None, 0), (1_760_000_000, 1)):
        text = as_openmetrics([status_of(**{"saturated since": since})])
        assert text.count("\nprefork_saturated_since_seconds{") == samples_of_it
    assert "# HELP prefork_saturated_since_seconds Since when nobody is idle and clients wait; else none." in text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_no_name_breaks_a_line(text: str) -> None:
    status = status_of(pool=text, deaths={text: 3})
    assert len(as_openmetrics([status]).split("\n")) == len(as_openmetrics([status_of()]).split("\n"))

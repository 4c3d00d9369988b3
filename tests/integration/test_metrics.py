"""An application that counts with prometheus_client: right over all workers, in files that do not grow in number."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import Server

_APPLICATION = """
import os
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, multiprocess

REQUESTS = Counter("shop_requests", "Requests")
BUSY = Gauge("shop_alive", "Workers alive", multiprocess_mode="livesum")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/metrics":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        body = generate_latest(registry)
    else:
        REQUESTS.inc()
        BUSY.set(1)
        body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""


def metrics(server: Server) -> dict[str, float]:
    text = server.ask(path="/metrics").text
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.mark.parametrize("preload", ["auto", "never"])
def test_counters_outlive_workers_and_files_do_not_grow(folder: Path, preload: str) -> None:
    """Six requests, after each of which the worker that answered is killed: all are counted, in two workers' files."""
    (folder / "shop.py").write_text(_APPLICATION)
    directory = folder / "metrics"
    directory.mkdir()
    (directory / "counter_4711.db").write_bytes(b"of a server that is gone")
    options = ("--workers", "2", "--preload", preload, "--env", f"PROMETHEUS_MULTIPROC_DIR={directory}")
    with Server("shop", *options, folder=folder) as server:
        assert not (directory / "counter_4711.db").exists()
        for count in range(6):
            pid = int(server.ask(path="/").text)
            assert metrics(server)["shop_requests_total"] == count + 1
            os.kill(pid, signal.SIGKILL)
            server.wait_event("worker_died", count=count + 1)
            server.wait_workers(2)
        assert {path.stem for path in directory.glob("counter_*.db")} <= {"counter_0", "counter_1", "counter_zygote"}
        assert metrics(server)["shop_requests_total"] == 6
        # Six were set, each by a worker that was killed since: none of them lives.
        assert metrics(server).get("shop_alive", 0.0) <= 2


def test_a_directory_that_cannot_be_had_is_told(folder: Path) -> None:
    (folder / "shop.py").write_text(_APPLICATION)
    (folder / "file").write_text("")
    server = Server("shop", "--env", f"PROMETHEUS_MULTIPROC_DIR={folder}/file/metrics", folder=folder)
    server.start()
    assert server.wait_exit() == 78
    assert f"PROMETHEUS_MULTIPROC_DIR={folder}/file/metrics: Not a directory" in server.text
    server.assert_nothing_left()

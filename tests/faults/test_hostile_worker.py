"""A worker that turns against its master: the master is unmoved, and the others go on serving."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from harness import Server, alive, fetch, wait_until
from prefork.cli import control
from prefork.cli.showing import FORMATS

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def serves(server: Server) -> bool:
    """The master lives, every worker answers and none was lost."""
    wait_until(lambda: len(server.workers()) == 2)
    answers = [server.ask(path="/hello") for _ in range(20)]
    return server.running and all(answer.body == b"hello" for answer in answers)


def test_the_shared_pages_cannot_be_truncated_or_grown(folder: Path) -> None:
    """Sealed: otherwise the master's next look would end in SIGBUS."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        outcomes = json.loads(server.ask(path="/truncate").body)
        assert outcomes == ["Operation not permitted"] * 4
        assert serves(server)


def test_the_control_page_cannot_be_written(folder: Path) -> None:
    """Sealed against writes: a worker cannot retire its siblings."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        assert "written" not in json.loads(server.ask(path="/control").body)
        assert serves(server)


@pytest.mark.parametrize("fill", ["", *(f"?byte={byte}" for byte in (0, 1, 2, 3, 6, 7, 8, 255))])
def test_a_scoreboard_full_of_lies_changes_nothing(folder: Path, fill: str) -> None:
    """Whatever the bytes, the master goes on and the workers serve; at the worst one is replaced."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        for _ in range(3):
            assert server.ask(path=f"/scribble{fill}").body == b"scribbled"
        assert serves(server)


@pytest.mark.parametrize("fill", ["", *(f"?byte={byte}" for byte in (4, 7, 127, 255))])
def test_whoever_looks_meanwhile_sees_a_status(
    folder: Path, fill: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """In every format, on the pages and by the command, as many workers as there are, and numbers that are numbers."""
    pages, door = str(folder / "status.sock"), str(folder / "control.sock")
    options = ("--workers", "2", "--status-listen", pages, "--control-socket", door)
    with Server("faulty", *options, folder=folder) as server:
        server.wait_event("serving", count=2)
        for _ in range(3):
            assert server.ask(path=f"/scribble{fill}").body == b"scribbled"
            for form in FORMATS:
                answer = fetch(pages, path=f"/status?{form}&full")
                assert (answer.status, len(answer.body) < 65_536) == (200, True)
                assert control.main(["status", "--control", door, "--format", form, "--full"]) == 0
                assert 0 < len(capfdbinary.readouterr().out) < 65_536
            assert control.main(["status", "--control", door]) == 0
            assert b"workers   " in capfdbinary.readouterr().out
            shown = json.loads(fetch(pages, path="/status?json&full").body, parse_constant=pytest.fail)
            assert shown["total processes"] == len(shown["processes"]) > 0
            assert 0 <= shown["accepted conn"] < 2**60
            assert 0 <= sum(shown["request seconds"]["counts"]) < 2**60
            metrics = fetch(pages, path="/metrics").text
            assert list(text_string_to_metric_families(metrics))  # type: ignore[no-untyped-call]
        assert server.running
        assert server.ask(path="/hello").body == b"hello"


def test_a_worker_may_map_its_scoreboard_away(folder: Path) -> None:
    """It only blinds itself."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        assert int(server.ask(path="/unmap").body) > 0
        assert serves(server)


def test_garbage_and_descriptors_up_the_channel_are_refused(folder: Path) -> None:
    """Said once in the log; no descriptor arrives; the channel is not listened to any longer."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        wait_until(lambda: len(server.workers()) == 2)
        server.ask(path="/hello")
        before = len(os.listdir(f"/proc/{server.pid}/fd"))
        assert server.ask(path="/garbage?times=5").body == b"sent"
        refused = server.wait_event("message_refused")
        assert (refused["level"], refused["pool"]) == ("warning", "www")
        assert serves(server)
        assert len(server.find("message_refused")) == 1
        # It may just have something open to look at.
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= before, what="no descriptor is left")


def test_a_flood_up_the_channel_costs_the_master_nothing(folder: Path) -> None:
    """After the first refusal nobody reads any more: less than a tenth of a second of processor time."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        wait_until(lambda: len(server.workers()) == 2)
        before = cpu_seconds(server.pid)
        for _ in range(3):
            server.ask(path="/garbage?times=2000")
        assert cpu_seconds(server.pid) - before < 0.1
        assert serves(server)


def test_a_claim_to_be_another_process_is_refused(folder: Path) -> None:
    """Not even root's forged credentials make the master signal a stranger."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        wait_until(lambda: len(server.workers()) == 2)
        strangers = [os.getpid(), 1, server.pid, *server.titles()]
        for pid in strangers:
            server.ask(path=f"/claim?pid={pid}")
        assert serves(server)
        assert all(alive(pid) for pid in strangers)


def test_a_child_of_the_application_holds_nothing_of_the_worker(folder: Path) -> None:
    """Forked by the application and long-lived: neither the queue nor the connection nor the channel stays open.

    (The descriptors are compared by the child before it execs, so close-on-exec plays no part.)
    """
    report = folder / "report"
    with Server("faulty", "--workers", "1", folder=folder) as server:
        answer = server.ask(path=f"/fork?report={report}&s=0.2")
        assert answer.body == b"from the parent, or from its child"
        held = json.loads(wait_until(lambda: report.exists() and report.read_text()))
        assert sorted(held) == ["0", "1", "2"] or set(held) - {"0", "1", "2"} == set()


def test_a_child_that_comes_back_out_of_the_application_answers_nothing(folder: Path) -> None:
    """The answer comes once, from the parent; the copy is gone."""
    report = folder / "report"
    with Server("faulty", "--workers", "1", folder=folder) as server:
        (worker,) = wait_until(server.workers)
        answer = server.ask(path=f"/fork?report={report}&back=1")
        assert (answer.status, answer.headers["X-Worker"]) == (200, str(worker))
        assert [kind for kind, _ in answer.records].count(3) == 1  # END_REQUEST
        wait_until(lambda: list(server.titles().values()).count(server.titles()[worker]) == 1)
        assert server.ask(path="/hello").body == b"hello"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1])
def test_workers_and_zygote_ignore_signals_that_are_meant_for_the_master(folder: Path, number: int) -> None:
    """A terminal's Ctrl-C reaches the whole group: only the master may act on it."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        server.wait_workers(2)
        before = server.titles()
        for pid in before:
            os.kill(pid, number)
        assert serves(server)
        assert server.titles() == before

"""`preforkctl status` in its forms, once or again every second."""

from __future__ import annotations

import json
import os
import pty
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from harness import Server, fetch
from prefork.cli.control import main
from prefork.cli.showing import FORMATS, show, watch
from status.documents import process_of, status_of

ANSWER = {
    "version": "1.2",
    "pid": 10,
    "phase": "serving",
    "start time": 0,
    "start since": 7500.2,
    "pools": [status_of(processes=[process_of(**{"request uri": "/caf\xe9\x1b[2J"})])],
}


def shown(form: str | None = None, *, full: bool = False, as_it_is: bool = False) -> str:
    text = show(ANSWER, form=form, full=full, as_it_is=as_it_is)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    return text


def test_for_a_person() -> None:
    """The first form; latency and waiting in a word."""
    text = shown()
    assert text.startswith("prefork 1.2, pid 10, serving, up 2h 5m\n")
    assert "  requests  123456 accepted; median below 10 ms, 99 % within 1 s\n" in text
    assert "  waited " not in text
    pool = status_of(**{"queue seconds": {"bounds": [0.01, 0.1, 1.0], "counts": [0, 9, 1, 0], "sum": 1.0}})
    text = show({**ANSWER, "pools": [pool]}, form=None, full=False, as_it_is=False)
    assert "  waited    median 10 to 100 ms, 99 % within 1 s\n" in text


def test_as_it_came() -> None:
    assert json.loads(shown(as_it_is=True)) == ANSWER


def test_the_formats_of_the_pages() -> None:
    """With the workers where that is asked for."""
    assert json.loads(shown("json"))["pool"] == "www"
    assert "processes" not in json.loads(shown("json"))
    assert json.loads(shown("json", full=True))["processes"][0]["slot"] == 0
    assert shown("text").startswith("pool:                 www\n")
    assert "/caf\xe9\\x1b[2J" in shown("text", full=True)
    assert ET.fromstring(shown("xml", full=True).encode()).findtext("processes/process/pid") == "4711"
    assert "<title>www: prefork status</title>" in shown("html")
    assert list(text_string_to_metric_families(shown("openmetrics")))  # type: ignore[no-untyped-call]


def test_again_every_second_until_interrupted(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Each time asked anew, in UTF-8; nothing is cleared that is no terminal."""
    texts = iter(["one\n", "caf\xe9\n", "three\n"])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert watch(lambda: next(texts)) == 0
    assert capfdbinary.readouterr().out == "one\ncaf\xe9\nthree\n".encode()
    assert slept == [1.0] * 3


def test_a_terminal_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each form, not after: what was shown last stays."""
    ours, theirs = pty.openpty()
    monkeypatch.setattr(time, "sleep", lambda _seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert watch(lambda: "once\n") == 0
    seen = b""
    while not seen.endswith(b"\n"):  # it may come in pieces
        seen += os.read(ours, 100)
    assert seen == b"\x1b[H\x1b[2J\x1b[3Jonce\r\n"
    os.close(ours)


@pytest.mark.parametrize(("words", "complaint"), [(["--format", "yaml"], "invalid choice"), (["--watch=1"], "--watch")])
def test_what_is_not_understood(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--control", "/nowhere", *words]) == 64
    assert complaint in capsys.readouterr().err


def test_the_same_as_on_the_pages(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Of a real server, in every format: the same fields in the same order."""
    pages, door = str(folder / "status.sock"), str(folder / "control.sock")
    with Server(
        "faulty", "--workers", "2", "--status-listen", pages, "--control-socket", door, folder=folder
    ) as server:
        assert server.ask(path="/hello").body == b"hello"

        def asked(form: str) -> bytes:
            assert main(["status", "--control", door, "--format", form, "--full"]) == 0
            return capfdbinary.readouterr().out

        ours: dict[str, Any] = json.loads(asked("json"))
        theirs: dict[str, Any] = json.loads(fetch(pages, path="/status?json&full").body)
        assert list(ours) == list(theirs)
        assert list(ours["processes"][0]) == list(theirs["processes"][0])
        assert sum(ours["request seconds"]["counts"]) == ours["accepted conn"] == 1
        assert (ours["bytes sent"], ours["timeouts"]) == (5, theirs["timeouts"])
        for form in FORMATS:
            assert len(asked(form).splitlines()) == len(fetch(pages, path=f"/status?{form}&full").body.splitlines())

"""What a server says of itself: the same facts for a person and for a machine."""

from __future__ import annotations

import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, environment
from master.hands import Hands, hands_of
from prefork.config.model import default_max_children
from prefork.master import banner
from prefork.policy.model import Rules
from prefork.system.listener import Listener, parse_address
from prefork.system.reach import Reach, Verdict


@contextmanager
def hands_at(folder: Path, verdict: Verdict, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Hands]:
    """Hands whose listener is open at a path, and the verdict on it."""
    monkeypatch.setattr(banner, "diagnose", lambda _path, passed: verdict)
    with hands_of(**options) as hands:
        hands.holdings.listener.close()
        hands.holdings.listener = Listener.claim(parse_address(str(folder / "app.sock")), mode=0o640)
        hands.holdings.listener.open()
        yield hands
        hands.holdings.listener.shut()


GOOD = Verdict(Reach.OK, "nginx (running as www-data) can connect")
BAD = Verdict(Reach.BLOCKED, "nginx may not connect (mode 0640, a:b)", "Give it to its group")


def test_the_event(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Socket, mode, owner, nginx, workers and what is off, as fields; and the verdict as an event of its own."""
    with hands_at(folder, GOOD, monkeypatch) as hands:
        banner.announce(hands)
        (level, name, facts), reach = hands.log.events
        assert (level, name, facts["socket"], facts["mode"], facts["nginx"]) == (
            "info", "serving", f"{folder}/app.sock", "0640", "ok"
        )  # fmt: skip
        assert (facts["app"], facts["max_children"]) == ("app:application", 4)
        assert facts["off"][1:] == ["max_body_size", "access_log"]
        assert {"owner", "group", "workers", "backlog"} <= facts.keys()
        assert reach == (
            "info", "reach", {"socket": f"{folder}/app.sock", "nginx": "ok", "message": str(GOOD)}
        )  # fmt: skip


def test_a_warning_where_nginx_cannot_connect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mend."""
    with hands_at(folder, BAD, monkeypatch) as hands:
        banner.announce(hands)
        assert hands.log.events[-1] == (
            "warning",
            "reach",
            {"socket": f"{folder}/app.sock", "nginx": "blocked", "message": str(BAD)},
        )


def test_three_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where and for whom; how many and why; what is off. Mode and owner once."""
    with hands_at(folder, GOOD, monkeypatch, max_body_size=1, access_log="-") as hands:
        first, second, third = banner.banner(hands)
        status = (folder / "app.sock").stat()
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert re.fullmatch(
            rf"www: app:application on {folder}/app\.sock \(mode 0640, \S+:\S+\); "
            r"nginx \(running as www-data\) can connect",
            first,
        )
        assert second.startswith("  up to 4 workers (2 idle), ")
        hangs = "a request that hangs holds its worker until that is killed"
        assert third == f"  off: request_terminate_timeout: {hangs}"
    with hands_at(folder, GOOD, monkeypatch, max_body_size=1, access_log="-", request_terminate_timeout=9.0) as hands:
        assert banner.banner(hands)[2] == "  off: nothing"
    with hands_at(folder, BAD, monkeypatch) as hands:
        first = banner.banner(hands)[0]
        assert first == f"www: app:application on {folder}/app.sock; {BAD}"


def test_without_a_file() -> None:
    """An abstract name has no mode, and nobody asks nginx."""
    with hands_of() as hands:
        assert banner.banner(hands)[0] == f"www: app:application on {hands.holdings.listener}"
        banner.announce(hands)
        assert hands.log.names() == ["serving"]
        assert not {"mode", "owner", "nginx"} & hands.log.events[0][2].keys()


def test_where_the_number_of_workers_comes_from() -> None:
    """The default and its reason, or what it would be."""
    usual = default_max_children()
    cpus = r"the default for \d+ usable CPUs?.*"
    assert re.fullmatch(rf"{usual} workers, {cpus}", banner._workers(Rules(max_children=usual)))
    assert re.fullmatch(rf"1 worker, as asked for; {cpus} is {usual}", banner._workers(Rules(max_children=1)))


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (Rules("static", 50), "50 workers, "),
        (Rules("dynamic", 50, min_spare=2, max_spare=9), "up to 50 workers (2 to 9 idle), "),
        (Rules("dynamic", 1, min_spare=1, max_spare=1), "up to 1 worker (1 idle), "),
        (Rules("ondemand", 50), "up to 50 workers (none before somebody connects), "),
    ],
)
def test_managers(rules: Rules, text: str) -> None:
    """How many there will be is the manager's."""
    assert banner._workers(rules).startswith(text)


@pytest.mark.parametrize(("level", "lines"), [("info", True), ("warning", False)])
def test_on_a_console(folder: Path, level: str, lines: bool) -> None:
    """The three lines, plain, in place of the two events; none for whoever wants warnings only."""
    above, below = pty.openpty()
    command = [sys.executable, "-m", "prefork", "prefork.demo", "--socket", str(folder / "app.sock"), "--workers", "1"]
    with subprocess.Popen(
        [*command, "--log-level", level], cwd=folder, env=environment({"NO_COLOR": "1"}), stderr=below
    ) as server:
        os.close(below)
        try:
            program = "import sys; from prefork.cli.control import main; sys.exit(main())"
            waiting = [sys.executable, "-c", program, "--socket", str(folder / "app.sock"), "wait"]
            subprocess.run(waiting, env=environment({}), check=True, timeout=PATIENCE)
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()
    text = read_all(above)
    found = re.search(r"\r\nwww: prefork\.demo on .*\r\n  1 worker, .*\r\n  off: .*\r\n", text)
    assert (found is not None, "serving" in text) == (lines, False), text


def read_all(terminal: int) -> str:
    data = b""
    try:
        while piece := os.read(terminal, 10_000):
            data += piece
    except OSError:  # EIO: nobody holds the other side any more
        pass
    os.close(terminal)
    return data.decode()

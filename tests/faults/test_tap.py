"""`preforkctl tap` before real servers: what it shows, and that nothing it does or suffers is felt by anybody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from apart import NOBODY
from harness import PATIENCE, Nginx, Server, alive, environment, fastcgi, fetch, wait_until

SECRET = "hunter2"  # the application's

_PROGRAM = "import sys; from prefork.cli.control import main; sys.exit(main())"


class Tap:
    """preforkctl tap as a process; as a context manager it has begun when the block does, and is killed after it."""

    def __init__(self, *words: str, folder: Path, user: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "tap", *words],
            cwd=folder,
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=user,
        )
        self.lines: list[str] = []
        self.complaints: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=pipe, daemon=True)
            for pipe in ((self.process.stdout, self.lines), (self.process.stderr, self.complaints))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))  # noqa: PERF401 - each as it comes

    def __enter__(self) -> Self:
        try:
            wait_until(lambda: self.complaints, what="a tap that has begun")
            assert "Ctrl-C ends it" in self.complaints[0], self.complaints
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGINT) -> int:
        """Send it a signal; its exit status, when all that it said was read."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit status, when it has ended by itself and all that it said was read."""
        with self.process:
            try:
                return self.process.wait(PATIENCE)
            finally:
                self.process.kill()
                for reader in self._readers:
                    reader.join(PATIENCE)

    def told(self) -> list[dict[str, Any]]:
        """The messages so far, with --json."""
        return [json.loads(line) for line in self.lines]

    def await_messages(self, count: int, **facts: object) -> list[dict[str, Any]]:
        """Wait for so many with these facts; all of them."""

        def matching() -> list[dict[str, Any]]:
            found = self.told()
            return [said for said in found if all(said.get(name) == value for name, value in facts.items())]

        wait_until(lambda: len(matching()) >= count, what=f"{count} messages {facts}")
        return matching()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server("secretive", "--workers", "2", "--control-socket", str(folder / "c.sock"), folder=folder) as found:
        yield found


@pytest.mark.nginx
@pytest.mark.parametrize(("protocol", "keepalive"), [("fastcgi", 0), ("fastcgi", 4), ("http", 0), ("http", 4)])
def test_through_nginx(folder: Path, server: Server, protocol: str, keepalive: int) -> None:
    """Every request and its answer, from the path alone; who connected is nginx's worker; secrets are masked.

    A request is told in its order, and not before what the client waited for. That it was answered is told when that is
    so, and another worker may have the client's next request by then.
    """
    with (
        Tap(server.address, "--bodies", "--json", folder=folder) as tap,
        Nginx(server.address, folder=folder, protocol=protocol, keepalive=keepalive) as nginx,
    ):
        headers = {"Cookie": f"sid={SECRET}", "Authorization": f"Bearer {SECRET}", "X-Plain": "seen"}
        body = f"a=1&password={SECRET}"
        for number in range(3):
            answer = nginx.fetch("POST", f"/orders?n={number}&token={SECRET}", body=body, headers=headers)
            assert answer.text == f"here {body}"
        answers = tap.await_messages(3, what="answer")
        told = tap.told()
        nginx_worker = nginx.wait_worker()
    assert [said["what"] for said in told if said["what"] != "answer"] == ["request", "body"] * 3
    for request in tap.await_messages(3, what="request"):
        assert [said["what"] for said in told if said["id"] == request["id"]] == ["request", "body", "answer"]
    assert len(told) == 9
    assert SECRET not in json.dumps(told)
    for number, said in enumerate(tap.await_messages(3, what="request")):
        assert (said["method"], said["uri"]) == ("POST", f"/orders?n={number}&token=***")
        assert (said["protocol"], said["pool"], said["length"]) == (protocol, "www", len(body))
        assert said["peer"][0] == nginx_worker
        assert said["pid"] in server.workers()
        fields = dict(said["fields"])
        assert (fields["HTTP_X_PLAIN"], fields["HTTP_COOKIE"], fields["HTTP_AUTHORIZATION"]) == (
            "seen",
            "sid=***",
            "Bearer ***",
        )
    assert [said["text"] for said in tap.await_messages(3, what="body")] == ["a=1&password=***"] * 3
    for said in answers:
        assert (said["status"], said["end"], said["bytes"]) == ("200 OK", "complete", len(f"here {body}"))
        assert ["Set-Cookie", "sid=***; Path=/"] in said["fields"]


def test_as_text(folder: Path, server: Server) -> None:
    """One look, Ctrl-C, done; begin and end stand in the log, with who it was."""
    with Tap("--socket", server.address, "--uri", "/b", folder=folder) as tap:
        server.ask("GET", "/a")
        server.ask("GET", "/b?x=1", params={"HTTP_X_ODD": "\x1b[2J"})
        wait_until(lambda: any("←" in line for line in tap.lines))
        assert tap.end() == 0
        assert not any("/a" in line for line in tap.lines)
        assert "→ GET /b?x=1  (fastcgi, pid " in tap.lines[0]
        assert any(r"X-Odd: \x1b[2J" in line for line in tap.lines)
        assert any("Set-Cookie: sid=***; Path=/" in line for line in tap.lines)
        assert all(line.isprintable() for line in tap.lines)
        facts: dict[str, Any] = {"peer_pid": tap.process.pid, "peer_uid": os.geteuid(), "pool": "www"}
        server.wait_event("tap_begun", level="info", unmasked=False, bodies=False, **facts)
        server.wait_event("tap_ended", **facts)


def test_unmasked_is_an_order_that_is_logged(folder: Path, server: Server) -> None:
    """Secrets are shown to who asks for that, and the log says so, louder."""
    with Tap(server.address, "--unmasked", "--json", folder=folder) as tap:
        server.ask("GET", f"/?token={SECRET}")
        (said,) = tap.await_messages(1, what="request")
        assert said["uri"] == f"/?token={SECRET}"
        begun = server.wait_event("tap_begun", unmasked=True)
        assert (begun["level"], begun["peer_pid"]) == ("warning", tap.process.pid)


def test_over_tcp(folder: Path) -> None:
    """By host and port; the peer is an address."""
    control = str(folder / "c.sock")
    with (
        Server("secretive", "--control-socket", control, folder=folder, socket="127.0.0.1:0") as server,
        Tap("--control", control, "{}:{}".format(*server.port), "--json", folder=folder) as tap,
    ):
        assert fetch(server.port, path="/x").text == "here "
        (said,) = tap.await_messages(1, what="request")
        assert (said["protocol"], said["uri"], said["peer"].startswith("127.0.0.1:")) == ("http", "/x", True)


def test_workers_that_die(folder: Path, server: Server) -> None:
    """In the midst of a request: that its end was not seen, at once; and the next worker is tapped from its birth."""
    with Tap(server.address, "--json", folder=folder) as tap:
        server.ask("GET", "/die")
        (died,) = tap.await_messages(1, what="died")
        (request,) = tap.await_messages(1, what="request", uri="/die")
        assert (died["pid"], died["number"], died["uri"]) == (request["pid"], request["number"], "/die")
        server.wait_workers(2)
        for _ in range(20):
            server.ask("GET", "/hello")
        answers = tap.await_messages(20, what="answer")
        assert {said["pid"] for said in answers} <= set(server.workers())


def test_a_worker_that_died_before_anybody_looked(folder: Path, server: Server) -> None:
    """Its last request is read when no such process is there any more."""
    with Tap(server.address, "--json", folder=folder) as tap:
        tap.process.send_signal(signal.SIGSTOP)
        server.ask("GET", "/die")
        pid = server.wait_event("worker_died")["pid"]
        tap.process.send_signal(signal.SIGCONT)
        (died,) = tap.await_messages(1, what="died")
        assert (died["pid"], died["uri"]) == (pid, "/die")


def test_a_reload_goes_on_beneath(folder: Path, server: Server) -> None:
    """The new generation is seen by the same tap."""
    before = set(server.workers())
    with Tap(server.address, "--json", folder=folder) as tap:
        server.ask("GET", "/before")
        server.send(signal.SIGHUP)
        server.wait_event("reloaded")
        server.ask("GET", "/after")
        (said,) = tap.await_messages(1, what="answer", uri="/after")
        assert said["pid"] not in before
        assert tap.end() == 0


def test_a_reader_that_stops_is_felt_by_nobody(folder: Path, server: Server) -> None:
    """Stopped under load: every request is answered, none waits, and what is missing is counted to the last message."""
    body = b"x" * 4000
    seconds = []
    with Tap(server.address, "--json", "--bodies", folder=folder) as tap:
        tap.process.send_signal(signal.SIGSTOP)
        for _ in range(600):  # three messages each, two of them of 4 KiB: more than any buffer holds
            began = time.monotonic()
            assert server.ask("POST", "/", body=body).body == b"here " + body
            seconds.append(time.monotonic() - began)
        assert sorted(seconds)[300] < 0.1
        assert max(seconds) < 5.0
        tap.process.send_signal(signal.SIGCONT)
        more = 0

        def goes_on() -> bool:
            nonlocal more
            server.ask("GET", "/more")
            more += 1
            return any(said["uri"] == "/more" for said in tap.told())

        wait_until(goes_on)
        for _ in range(20):  # each worker says with its next message what is missing
            server.ask("GET", "/more")

        def lost() -> int:
            return sum(said.get("lost", 0) for said in tap.told())

        total = 3 * 600 + 2 * (more + 20)
        wait_until(lambda: len(tap.told()) + lost() >= total, what="all messages, seen or missing")
        assert len(tap.told()) + lost() == total
        assert lost() > 0
        tap.end()
        assert f"and {lost()} are missing" in tap.complaints[-1]


def test_a_client_that_is_killed(folder: Path, server: Server) -> None:
    """The tap is off when its client is gone, however; the next one can begin, and only one at a time."""
    with Tap(server.address, folder=folder) as first:
        second = Tap(server.address, folder=folder)
        assert second.wait() == 1
        assert f"pool www is tapped by pid {first.process.pid} (uid {os.geteuid()}) already" in second.complaints[0]
        first.end(signal.SIGKILL)
        server.wait_event("tap_ended", peer_pid=first.process.pid)
    server.ask("GET", "/between")
    with Tap(server.address, "--json", folder=folder) as third:
        server.ask("GET", "/then")
        third.await_messages(1, what="answer")
        assert {said["uri"] for said in third.told()} == {"/then"}


def test_a_tap_ends_with_the_server(folder: Path, server: Server) -> None:
    """And says so; the end of a request that is answered meanwhile is still seen."""
    began, until = folder / "began", folder / "until"
    with Tap(server.address, "--json", folder=folder) as tap:
        asked = threading.Thread(target=server.ask, args=("GET", f"/wait?began={began}&until={until}"))
        asked.start()
        wait_until(began.exists)
        server.send(signal.SIGTERM)
        server.wait_event("stopping")
        until.touch()
        asked.join()
        assert tap.wait() == 1
        assert "the server has ended the tap" in tap.complaints[-1]
        assert [said["what"] for said in tap.told()] == ["request", "answer"]
    assert server.wait_exit() == 0


@pytest.mark.root
def test_only_the_servers_own_user(folder: Path, server: Server) -> None:
    """Neither by its path nor by its control socket is it given to anybody else."""
    for words in ((server.address,), ("--control", str(folder / "c.sock"))):
        tap = Tap(*words, folder=folder, user=NOBODY)
        assert tap.wait() == 1
        assert "denied" in tap.complaints[0]
    os.chmod(folder / "c.sock", 0o666)
    tap = Tap("--control", str(folder / "c.sock"), folder=folder, user=NOBODY)
    assert tap.wait() == 1
    server.wait_event("order_refused", peer_uid=NOBODY)
    assert server.find("tap_begun") == []


def test_two_pools(folder: Path) -> None:
    """Each has its own, named by its socket; none is guessed."""
    file = folder / "two.toml"
    file.write_text(
        f'control_socket = "{folder}/c.sock"\n'
        + "".join(
            f'[pool.{name}]\napp = "secretive"\nsocket = "{folder}/{name}.sock"\nmax_children = 1\npm = "static"\n'
            for name in ("shop", "api")
        )
    )
    with Server("", "--config", str(file), folder=folder) as server:
        server.wait_event("serving", count=2)
        lost = Tap("--control", str(folder / "c.sock"), folder=folder)
        assert lost.wait() == 1
        assert f"--socket {folder}/api.sock" in "\n".join(lost.complaints)
        with (
            Tap(str(folder / "shop.sock"), "--json", folder=folder) as shop,
            Tap(str(folder / "api.sock"), "--json", folder=folder) as api,
        ):
            for name in ("shop", "api", "shop"):
                fastcgi(str(folder / f"{name}.sock"), "GET", f"/{name}")
            shop.await_messages(2, what="answer", pool="shop")
            api.await_messages(1, what="answer", pool="api")
            assert {said["uri"] for said in shop.told()} == {"/shop"}
            assert {said["uri"] for said in api.told()} == {"/api"}


@pytest.mark.parametrize("times", [1, 5000])
def test_a_worker_that_writes_garbage(folder: Path, server: Server, times: int) -> None:
    """Its scrawl is left out and named; the terminal gets nothing but text; the server and the tap go on."""
    with Tap(server.address, folder=folder) as tap:
        answer = server.ask("GET", f"/scrawl?times={times}")
        assert answer.body == b"here "
        wait_until(lambda: any("what no worker would" in line for line in tap.complaints))
        assert any(str(pid) in line for pid in server.workers() for line in tap.complaints[1:])

        def seen() -> bool:
            server.ask("GET", "/afterwards")
            return any("→ GET /afterwards" in line for line in tap.lines)

        wait_until(seen)
        assert all(line.isprintable() for line in (*tap.lines, *tap.complaints))
        if times == 1:
            assert any(r"\x1b]0;gone\x07\x1b[2J" in line for line in tap.lines)  # what passed for a message
        assert tap.end() == 0
    assert alive(server.pid)
    assert server.find("message_refused") == []

"""A listen queue that overflows, from the symptom to the culprit: python3 examples/listen-queue-overflow/story.py

Starts a "database", the shop behind prefork and nginx, and visitors: a hundred a second. One of them asks for a report
that makes the database stall for five seconds. Everything runs in a temporary directory and on loopback, for about a
minute, and is gone afterwards. Needs prefork in this interpreter, and nginx.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKERS, VISITORS_A_SECOND = 50, 100

NGINX = """\
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    fastcgi_temp_path {folder}/f; proxy_temp_path {folder}/p; client_body_temp_path {folder}/b;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            include /etc/nginx/fastcgi_params;
            fastcgi_param REQUEST_START "t=$msec";
            fastcgi_pass unix:{folder}/shop.sock;
        }}
    }}
}}
"""


def say(text: str) -> None:
    print(f"\n== {text}\n", flush=True)


def show(text: str) -> None:
    print("\n".join(f"   {line}" for line in text.splitlines()), flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(fact: Any, what: str, log: Path | None = None) -> None:
    end = time.monotonic() + 30
    while not fact():
        if time.monotonic() > end:
            said = "" if log is None else f":\n{log.read_text()}"
            raise SystemExit(f"{what}: not within 30 s{said}")
        time.sleep(0.02)


def connects(address: Any) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


class Stage:
    """The database, the server and nginx, in a directory of their own."""

    def __init__(self, folder: Path, backlog: int, patience: str) -> None:
        self.folder = folder
        self._patience = patience
        self.database_port, self.web_port, self.status_port = free_port(), free_port(), free_port()
        self.log = folder / "prefork.log"
        self.control = folder / "control.sock"
        self._options = ["--backlog", str(backlog), "--status-listen", f"127.0.0.1:{self.status_port}"]
        self._options += ["--control-socket", str(self.control)]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Stage]:
        nginx = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
        if nginx is None:
            raise SystemExit("this story needs nginx: apt install nginx")
        configuration = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(NGINX.format(folder=self.folder, port=self.web_port, user=user))
        prefork = [sys.executable, "-m", "prefork", "shop.wsgi", "--chdir", str(HERE), "--workers", str(WORKERS)]
        commands = [
            [sys.executable, str(HERE / "database.py"), str(self.database_port)],
            [*prefork, "--socket", f"{self.folder}/shop.sock", "--log-format", "json", *self._options],
            [nginx, "-p", str(self.folder), "-e", f"{self.folder}/nginx.log", "-c", str(configuration)],
        ]
        ready = [("127.0.0.1", self.database_port), f"{self.folder}/shop.sock", ("127.0.0.1", self.web_port)]
        processes = []
        environment = {**os.environ, "DATABASE_PORT": str(self.database_port), "DATABASE_TIMEOUT": self._patience}
        try:
            for name, command, address in zip(("database", "prefork", "nginx"), commands, ready, strict=True):
                with self.log.open("a") as log:
                    processes.append(
                        subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
                    )
                wait_for(lambda address=address: connects(address), name, self.log)
            wait_for(lambda: self.status()["idle processes"] == WORKERS, "workers")
            yield self
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(30)

    def status(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/status?json") as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {"idle processes": None}

    def events(self, name: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == name:
                    found.append(event)
        return found

    def listening(self) -> str:
        """What ss says of the socket."""
        done = subprocess.run(["ss", "-xl"], capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if f"{self.folder}/shop.sock" in line]
        return "\n".join([*done.stdout.splitlines()[:1], *lines]) if lines else "(ss is not installed)"


async def visit(port: int, path: str, outcome: list[tuple[int, float]]) -> None:
    began, status = time.monotonic(), 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: shop\r\n\r\n".encode())
        status = int((await reader.read()).split(b" ")[1])
        writer.close()
    outcome.append((status, time.monotonic() - began))


async def visitors(stage: Stage, seconds: float, report_at: float | None, during: Any) -> list[tuple[int, float]]:
    """So many visitors a second, however long each of them waits; one of them asks for the report."""
    outcome: list[tuple[int, float]] = []
    tasks, began, asked, looked = [], time.monotonic(), False, False
    pages = ("/", "/orders", "/basket")
    for number in range(int(seconds * VISITORS_A_SECOND)):
        tasks.append(asyncio.create_task(visit(stage.web_port, pages[number % 3], outcome)))
        now = time.monotonic() - began
        if report_at is not None and not asked and now >= report_at:
            asked = True
            tasks.append(asyncio.create_task(visit(stage.web_port, "/report", outcome)))
        if asked and not looked and report_at is not None and now >= report_at + 3:
            looked = True
            await asyncio.to_thread(during)
        await asyncio.sleep(max(0.0, began + (number + 1) / VISITORS_A_SECOND - time.monotonic()))
    await asyncio.gather(*tasks)
    return outcome


def tell(outcome: list[tuple[int, float]]) -> None:
    answers = Counter(status for status, _ in outcome)
    waits = sorted(seconds for status, seconds in outcome if status == 200)
    parts = [f"{count} × {status or 'nothing'}" for status, count in sorted(answers.items())]
    show(f"{len(outcome)} visitors: {', '.join(parts)}")
    if waits:
        show(f"of those answered 200, half waited {waits[len(waits) // 2]:.3f} s, the slowest {waits[-1]:.1f} s")


def look(stage: Stage) -> None:
    show("$ ss -xl")
    show(stage.listening())
    status = stage.status()
    show(f"$ curl -s http://127.0.0.1:{stage.status_port}/status")
    for key in ("listen queue", "listen queue len", "active processes", "total processes"):
        show(f"{key + ':':<21} {status.get(key)}")


def act(title: str, *, backlog: int = 20, patience: str = "0") -> None:
    say(title)
    with tempfile.TemporaryDirectory(prefix="overflow-") as name, Stage(Path(name), backlog, patience)() as stage:
        outcome = asyncio.run(visitors(stage, 9, 2, lambda: look(stage)))
        tell(outcome)
        complaints = (stage.folder / "nginx.log").read_text().splitlines()
        if complaints:
            show(f"\nnginx complains {len(complaints)} times, first:")
            show(complaints[0].partition(", client")[0])
        tell_episode(stage)
        if complaints:
            show("\n$ preforkctl explain nginx.log")
            control = "import sys; from prefork.cli.control import main; sys.exit(main())"
            command = [sys.executable, "-c", control, "--control", str(stage.control), "explain"]
            done = subprocess.run([*command, f"{stage.folder}/nginx.log"], capture_output=True, text=True, check=False)
            show(done.stdout or done.stderr)


def tell_episode(stage: Stage) -> None:
    """What prefork's log says, in its own words."""
    for event in stage.events("saturated")[:1]:
        show("\nprefork's log, while it happened:")
        for group in event["groups"]:
            show(group)
        show(f"queue {event['waiting']} of {event['limit']}")
        wait_for(lambda: stage.events("saturation_ended"), "the end of the episode")
    for event in stage.events("saturation_ended")[:1]:
        show(f"and when it was over: {event['message']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the overflow alone, without what helps and what does not")
    words = parser.parse_args()
    act("A hundred visitors a second, fifty workers, a backlog of twenty. One asks for the report.")
    if words.short:
        return
    act("What does not help: a backlog of a thousand. Nobody is refused, everybody waits.", backlog=1000)
    act("What helps: the line that was named waits a fifth of a second, and does without.", patience="0.2")


if __name__ == "__main__":
    main()

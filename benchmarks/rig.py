"""The rig that all servers share: one nginx in front, wrk before that, and single requests to look at answers."""

from __future__ import annotations

import http.client
import os
import pwd
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.machine import PATIENCE, Problem, Tree, find, stopping, wait_for
from benchmarks.servers import Front
from benchmarks.workloads import Workload

__all__ = ["Load", "Site", "last_line", "load", "nginx", "probe", "user"]

_STOCK: Final = "/etc/nginx"  # fastcgi_params and uwsgi_params, as the package ships them
_LARGEST_LOG: Final = 65_536

_CONFIGURATION: Final = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 256; }}
http {{
    access_log off;
    default_type application/octet-stream;
    client_max_body_size 16m;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
{sites}
}}
"""
_HEADERS: Final = (
    "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
    "proxy_set_header X-Forwarded-Proto $scheme;"
)
_SCRIPT: Final = "fastcgi_param SCRIPT_FILENAME {applications}$uri.php;"  # as everybody adds it; PHP alone needs it
_TARGETS: Final = {
    Front.FASTCGI: f"include {_STOCK}/fastcgi_params; {_SCRIPT} fastcgi_pass site{{number}};",
    Front.UWSGI: f"include {_STOCK}/uwsgi_params; uwsgi_pass site{{number}};",
    Front.HTTP: f"{_HEADERS} proxy_pass http://site{{number}};",
    Front.KEPT: f'{_HEADERS} proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://site{{number}};',
}
_KEEP: Final = "keepalive 4; keepalive_requests 100000000;"
_SITE: Final = """\
    upstream site{number} {{ server unix:{socket}; {keep} }}
    server {{ listen 127.0.0.1:{port}; location / {{ {target} }} }}"""


@dataclass(frozen=True, slots=True)
class Site:
    """A port of nginx's, and the server behind it."""

    port: int
    socket: Path
    front: Front


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    cpu: float  # what wrk itself used, in seconds
    complaint: str  # empty if every answer was good


def user() -> str:
    """Who nginx and the servers run as: whoever runs this."""
    return pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def nginx(folder: Path, applications: Path, sites: Sequence[Site]) -> Iterator[Tree]:
    """One nginx with one worker and stock parameters."""
    folder.mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(_configured(folder, applications, sites))
    command = [find("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    with stopping(subprocess.Popen(command, stdin=subprocess.DEVNULL)) as process:
        for site in sites:
            wait_for(partial(_listens, process, site.port), "nginx listens")
        if process.poll() is not None:
            raise Problem(f"nginx ended with status {process.returncode}: {last_line(folder / 'error.log')}")
        yield Tree(process.pid)


def _configured(folder: Path, applications: Path, sites: Sequence[Site]) -> str:
    blocks = []
    for number, site in enumerate(sites):
        target = _TARGETS[site.front].format(number=number, applications=applications)
        keep = _KEEP if site.front is Front.KEPT else ""
        blocks.append(_SITE.format(number=number, socket=site.socket, port=site.port, keep=keep, target=target))
    who = f"user {user()};" if os.geteuid() == 0 else ""
    return _CONFIGURATION.format(user=who, folder=folder, sites="\n".join(blocks))


def last_line(log: Path) -> str:
    """What a process said last."""
    if not log.exists():
        return ""
    lines = log.read_bytes()[-_LARGEST_LOG:].decode("utf-8", "replace").strip().splitlines()
    return "".join(lines[-1:])


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether nginx takes connections, or has ended."""
    if process.poll() is not None:
        return True
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def probe(port: int, workload: Workload) -> str:
    """One request; what is wrong with the answer, or nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        headers = dict(line.split(": ", 1) for line in workload.headers)
        body = b"x" * workload.upload if workload.upload else None
        connection.request("POST" if body else "GET", workload.path, body=body, headers=headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    if response.status != 200:
        return f"expected 200, found {response.status}"
    return "" if workload.is_right(answer) else f"a wrong answer of {len(answer)} bytes"


def load(port: int, workload: Workload, seconds: int, folder: Path) -> Load:
    """Four connections, one thread, for that long."""
    command = [find("wrk"), "-t1", "-c4", f"-d{seconds}s"]
    for header in workload.headers:
        command += ["-H", header]
    if workload.upload:
        script = folder / "upload.lua"
        script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {workload.upload})\n')
        command += ["-s", str(script)]
    begin, before = time.monotonic(), os.times()
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{workload.path}"],
        capture_output=True,
        text=True,
        timeout=seconds + PATIENCE,
        check=False,
    )
    counted = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout)
    if done.returncode or counted is None:
        raise Problem(f"wrk failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    bad = re.search(r"(Non-2xx.*|Socket errors.*)", done.stdout)
    taken = float(counted[2]) * {"ms": 0.001, "s": 1, "m": 60}[counted[3]]
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(int(counted[1]), min(taken, time.monotonic() - begin), used, bad[1].strip() if bad else "")

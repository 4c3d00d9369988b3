"""Debian's nginx in a folder of its own, in front of a server that speaks FastCGI or HTTP.

The listening socket is bound by the test and inherited by nginx (its own ``NGINX`` variable, made for upgrades of the
binary), so the port is free without guessing, and a connect succeeds from the first moment: nothing to wait for.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from contextlib import AbstractContextManager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final, Self

from harness.clients import Response, fetch, open_response
from harness.processes import PATIENCE, children, wait_until

__all__ = ["Nginx"]

_PARAMS: Final = Path("/etc/nginx/fastcgi_params")  # as the package ships it

# As the README tells it.
_PROXY_HEADERS: Final = (
    "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
    "proxy_set_header X-Forwarded-Proto $scheme;"
)

_CONFIGURATION: Final = """\
{user}
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log {level};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 1g;
    {upstream}
    server {{
        listen {listen};
        server_name localhost;
        {server}
        location / {{
            {target}
            {location}
        }}
    }}
}}
"""


class Nginx:
    """nginx with one location that passes everything to one address.

    ``socket``     the path (or ``@abstract`` name, or host:port) behind it
    ``protocol``   "fastcgi"; "http" or "http/1.0" for proxy_pass in that version
    ``location``   further directives of the location, with the prefix fastcgi_ also for HTTP; ``server`` of the server
                   block
    ``keepalive``  connections to keep in an upstream pool, with what that needs; 0 passes directly
    ``user``       whom its workers run as; needs root. Without it, they run as whoever runs the test
    """

    def __init__(
        self,
        socket: str,
        *,
        folder: Path,
        protocol: str = "fastcgi",
        location: str = "",
        server: str = "",
        keepalive: int = 0,
        user: str = "",
        workers: int = 1,
        level: str = "info",
    ) -> None:
        self.folder = folder / f"nginx-{protocol.replace('/', '-')}"
        self._protocol = protocol
        self._backend = f"unix:{socket}" if socket[0] in "/@" else socket
        self._location = location
        self._server = server
        self._keepalive = keepalive
        self._user = user or (pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else "")
        self._workers = workers
        self._level = level
        self._process: subprocess.Popen[bytes] | None = None
        self.address: tuple[str, int] = ("", 0)

    def _configuration(self) -> str:
        upstream, backend = "", self._backend
        if self._keepalive:
            upstream, backend = f"upstream pool {{ server {backend}; keepalive {self._keepalive}; }}", "pool"
        if self._protocol == "fastcgi":
            location = self._location
            target = f"include {_PARAMS}; fastcgi_pass {backend};" + " fastcgi_keep_conn on;" * bool(self._keepalive)
        else:
            location = self._location.replace("fastcgi_", "proxy_")
            version = "1.0" if self._protocol == "http/1.0" else "1.1"
            target = f"proxy_pass http://{backend}; proxy_http_version {version}; {_PROXY_HEADERS}"
            target += ' proxy_set_header Connection "";' * bool(self._keepalive)
        return _CONFIGURATION.format(
            user=f"user {self._user};" if self._user else "",
            workers=self._workers,
            folder=self.folder,
            level=self._level,
            upstream=upstream,
            listen=f"{self.address[0]}:{self.address[1]}",
            server=self._server,
            target=target,
            location=location,
        )

    def start(self) -> Self:
        """Start it; it can be connected to when this returns."""
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        assert nginx, "nginx is not installed: tests/run installs it where it may"
        self.folder.mkdir()
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self.address = listener.getsockname()
            configuration = self.folder / "nginx.conf"
            configuration.write_text(self._configuration())
            command = [nginx, "-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", str(configuration)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                env={**os.environ, "NGINX": f"{listener.fileno()};"},
                start_new_session=True,
            )
        return self

    def wait_worker(self) -> int:
        """Wait until a worker of it runs as its user and is to be seen in /proc; its pid."""
        assert self._process is not None
        master = self._process.pid

        def found() -> int:
            for pid in children(master):
                if b"worker process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            return 0

        return int(wait_until(found, what="a worker process of nginx"))

    def stop(self) -> None:
        """End it at once and wait for that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is not None:
            print(self.error_log)  # noqa: T201 – pytest shows it with the failure

    @property
    def error_log(self) -> str:
        """What nginx has written to its error log."""
        path = self.folder / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def errors(self) -> list[str]:
        """The lines of its error log at level error or above."""
        grave = ("[error]", "[crit]", "[alert]", "[emerg]")
        return [line for line in self.error_log.splitlines() if any(level in line for level in grave)]

    def fetch(self, method: str = "GET", path: str = "/", **options: Any) -> Response:
        """One HTTP request through it, read whole."""
        return fetch(self.address, method, path, **options)

    def open(self, method: str = "GET", path: str = "/", **options: Any) -> AbstractContextManager[HTTPResponse]:
        """One HTTP request through it, to be read as the test likes."""
        return open_response(self.address, method, path, **options)

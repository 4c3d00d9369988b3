"""prefork itself as a subprocess of the test, its log as events.

Leaving a ``Server`` asserts that no process and no socket of it is left, and that its master has hidden no mistake of
its own. The fact behind it is the end of its standard
error: every process the server ever forked holds that pipe, so it ends when the last of them has.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from harness.clients import FastCGIResponse, fastcgi
from harness.processes import PATIENCE, children, environment, listens, wait_until

__all__ = ["Event", "Server"]

Event = dict[str, Any]


class _Log:
    """What a process writes to a pipe, line by line, with waiting for lines and for the end.

    Who looks sees all that was written before: a test may have learned by another way what a line says, too.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._readable = select.poll()
        self._readable.register(stream, select.POLLIN)
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._unfinished = b""
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="log reader", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        readable = select.poll()  # one for each thread
        readable.register(self._stream, select.POLLIN)
        while not self._ended:
            readable.poll()
            with self._changed:
                self._take()

    def _take(self) -> None:
        """Take what is there, without waiting; for who has the lock."""
        while not self._ended and self._readable.poll(0):
            data = os.read(self._stream.fileno(), 65_536)
            if not data:
                self._ended = True
                data = b"\n" if self._unfinished else b""
            *lines, self._unfinished = (self._unfinished + data).split(b"\n")
            self._lines += [line.decode("utf-8", "replace") for line in lines]
            self._changed.notify_all()

    def lines(self) -> list[str]:
        with self._changed:
            self._take()
            return list(self._lines)

    def wait(self, fact: Callable[[list[str]], object], timeout: float) -> bool:
        """Wait until the fact holds of the lines so far; false when the log ended or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: fact(self._lines) or self._ended, timeout)
            return bool(fact(self._lines))

    def wait_end(self, timeout: float) -> bool:
        """Wait until the last process that could write to the pipe is gone."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout)

    def close(self) -> None:
        if self._ended:
            self._thread.join()
            self._stream.close()


def _event(line: str) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


class Server:
    """``python -m prefork APP --socket … --log-format json`` in a folder of its own.

    ``user`` and ``group`` are those that *start* the server; ``umask`` is what it inherits. As a context manager it
    waits until the server serves and stops it at the end, asserting that nothing of it is left.
    ``parent`` is a command that is given the server's own: it becomes the server, or its parent, and is stopped as one.
    """

    READY = "serving"

    def __init__(
        self,
        app: str,
        *options: str,
        folder: Path,
        socket: str | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
        extra_groups: Sequence[str | int] | None = None,
        umask: int = -1,
        env: Mapping[str, str] | None = None,
        chdir: Path | None = None,
        pass_fds: Sequence[int] = (),
        stdout: int | None = None,
        parent: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.address = str(folder / "app.sock") if socket is None else socket
        self.path = Path(self.address) if self.address.startswith("/") else None
        what = [app, "--socket", self.address] if app else []  # else a file that the options name says all that
        self._command = [*parent, sys.executable, "-m", "prefork", *what, "--log-format", "json", *options]
        self._start: dict[str, Any] = {
            "cwd": chdir or folder,
            "env": environment(env or {}),
            "umask": umask,
            "user": user,
            "group": group,
            "extra_groups": extra_groups,
            "pass_fds": tuple(pass_fds),
            "stdout": stdout,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log: _Log | None = None

    def start(self) -> Self:
        """Start it and return at once; ``wait_ready`` or ``wait_exit`` come next."""
        # A session of its own: what a terminal does to a process group must not reach the test run.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **self._start
        )
        assert self._process.stderr is not None
        self._log = _Log(self._process.stderr)
        return self

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # the test's own failure is the news; what the server said helps to read it
            self.kill()
            print(self.text, file=sys.stderr)  # noqa: T201 – pytest shows it with the failure
        elif self.running:
            status = self.stop()
            assert status == 0, f"stopped with {status}:\n{self.text}"
        self.assert_nothing_left()

    # what it says

    @property
    def log(self) -> _Log:
        assert self._log is not None, "not started"
        return self._log

    @property
    def text(self) -> str:
        """All it has written to its standard error so far."""
        return "\n".join(self.log.lines())

    @property
    def events(self) -> list[Event]:
        """The log events so far; lines that are not events are left out."""
        return [event for line in self.log.lines() if (event := _event(line))]

    def find(self, name: str, **fields: object) -> list[Event]:
        """The events so far with that name and those fields."""
        return [event for event in self.events if self._matches(event, name, fields)]

    @staticmethod
    def _matches(event: Event, name: str, fields: Mapping[str, object]) -> bool:
        return event["event"] == name and all(event.get(key) == value for key, value in fields.items())

    def wait_event(self, name: str, *, count: int = 1, timeout: float = PATIENCE, **fields: object) -> Event:
        """Wait until the log has ``count`` events of that name and those fields; return the last of these."""
        found: list[Event] = []

        def there(lines: list[str]) -> bool:
            events = (event for line in lines if (event := _event(line)))
            found[:] = [event for event in events if self._matches(event, name, fields)]
            return len(found) >= count

        assert self.log.wait(there, timeout), f"no event {name!r} {dict(fields)} within {timeout} s:\n{self.text}"
        return found[count - 1]

    def wait_line(self, part: str, timeout: float = PATIENCE) -> str:
        """Wait until a line of its standard error contains that text, event or not; return the line."""
        assert self.log.wait(lambda lines: any(part in line for line in lines), timeout), (
            f"nothing about {part!r} within {timeout} s:\n{self.text}"
        )
        return next(line for line in self.log.lines() if part in line)

    def wait_ready(self, timeout: float = PATIENCE) -> Event:
        """Wait until it says that it serves."""
        return self.wait_event(self.READY, timeout=timeout)

    # what it is

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    @property
    def port(self) -> tuple[str, int]:
        """Where the first of its pools on TCP listens, whatever it chose."""
        served = (str(event["socket"]).rpartition(":") for event in self.find("serving"))
        return next((host, int(port)) for host, _, port in served if port.isdigit() and "/" not in host)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def titles(self) -> dict[int, str]:
        """The master's living children and what they call themselves."""
        found = {}
        for pid in children(self.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def workers(self) -> list[int]:
        """The pids of its workers, as their titles say."""
        return [pid for pid, title in self.titles().items() if title.startswith("prefork: worker")]

    def wait_workers(self, count: int, timeout: float = PATIENCE) -> list[int]:
        """Wait until there are so many workers and all of them take connections; their pids.

        A worker has its title some time before it has its listener.
        """

        def found() -> list[int]:
            pids = self.workers()
            return pids if len(pids) == count and all(map(listens, pids)) else []

        return list(wait_until(found, timeout, f"{count} workers"))

    # how it ends

    def send(self, number: int) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """Wait for the master's end and that of everything it forked; the exit status, negative for a signal."""
        status = self.process.wait(timeout)
        assert self.log.wait_end(timeout), f"exited with {status}, but processes of it live on:\n{self.text}"
        return status

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Stop it in order; its exit status."""
        self.send(number)
        return self.wait_exit(timeout)

    def kill(self, timeout: float = PATIENCE) -> int:
        """End it the hard way, as an outside hand would; its workers are expected to notice."""
        if self.running:
            self.process.kill()
        return self.wait_exit(timeout)

    def assert_nothing_left(self) -> None:
        """No process that holds its standard error, and no socket unless the master was killed."""
        assert self.process.poll() is not None, "the master still runs"
        assert self.log.wait_end(PATIENCE), f"processes of it live on:\n{self.text}"
        self.log.close()
        assert not self.find("master_fault"), self.text
        if self.path is not None and self.process.returncode >= 0:
            assert not self.path.exists(), f"{self.path} is still there"

    def ask(self, method: str = "GET", path: str = "/", **options: Any) -> FastCGIResponse:
        """One FastCGI request to it, without nginx."""
        return fastcgi(self.address, method, path, **options)

"""``preforkctl tap``: everything that passes over a server's socket, decoded, live.

The workers write, this reads; the master only introduced the two and watches whether we are still there. Whatever we
are too slow for is lost to us and to nobody else.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from prefork.cli.console import Failure, printable, say
from prefork.cli.orders import Door, give, tapped
from prefork.cli.traffic import Transcript, read_message
from prefork.system.control import Wish
from prefork.system.paths import absolute
from prefork.system.tap import ENDED, receive

__all__ = ["Sight", "pool_at", "tap"]

_AT_ONCE: Final = 256  # messages between two looks at everything else


@dataclass(frozen=True, slots=True)
class Sight:
    """What of the traffic is wanted, and how it is shown."""

    bodies: bool = False
    unmasked: bool = False
    prefix: str = ""  # of URIs; empty: everything
    brief: bool = False
    as_json: bool = False


def tap(door: Door, served: str | None, sight: Sight) -> int:
    """Show the traffic until Ctrl-C. Raises `Failure` when there is none to be had, or the server ends it."""
    pool = pool_at(give(door, "ping"), served, door.socket)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without UTF-8
    with tapped(door, Wish(pool, sight.bodies, sight.unmasked)) as (answer, connection, reading):
        show = _Show(sight, pool)
        masked = "secrets are shown" if sight.unmasked else "secrets are masked"
        say(printable(f"pool {pool} of pid {answer.get('pid')} on {answer.get('socket')}: {masked}; Ctrl-C ends it"))
        try:
            _follow(connection, reading, show)
        except KeyboardInterrupt:
            return 0
        finally:
            lost = f", and {show.lost} are missing" if show.lost else ""
            say(f"{show.count} messages{lost}")
    raise Failure(
        "the server has ended the tap: it stops, or its configuration has this pool no more, or one of its workers "
        "has shut down the socket that the traffic comes by, which a reload mends"
    )


def pool_at(answer: dict[str, Any], served: str | None, noted: str | None = None) -> str:
    """The pool behind a socket, by its server's answer; the only one, if no socket is named. Raises `Failure`.

    ``noted`` is how the server itself calls the socket.
    """
    pools = answer["pools"]
    if served is not None:
        names = {served, absolute(served), os.path.abspath(served), noted} - {None}
        pools = [pool for pool in pools if {pool["socket"], pool["path"], pool["address"]} & names]
        if not pools:
            raise Failure(f"{printable(served)}: no application is served there by pid {answer['pid']}")
    if len(pools) == 1:
        return str(pools[0]["pool"])
    lines = "\n".join(f"  --socket {printable(str(pool['address'] or pool['socket']))}" for pool in pools)
    raise Failure(f"several sockets are served; name one:\n{lines}")


def _follow(connection: socket.socket, reading: socket.socket, show: _Show) -> None:
    """Until the server hangs up."""
    poll = show.poll
    poll.register(reading, select.POLLIN)
    poll.register(connection, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        ended = connection.fileno() in ready
        # What was written before an end comes first.
        for _ in range(_AT_ONCE):
            found = receive(reading)
            if found is None:
                show.bury(ready - {connection.fileno(), reading.fileno()})
                break
            if found == ENDED:
                ended = True
                break
            show.take(*found)
        sys.stdout.flush()
        if ended:
            return


@dataclass(slots=True)
class _Show:
    """What was said so far, as far as it matters for what comes."""

    sight: Sight
    pool: str
    poll: select.poll = field(default_factory=select.poll)
    count: int = 0
    lost: int = 0
    transcript: Transcript = field(default_factory=Transcript)
    running: dict[int, dict[str, Any]] = field(default_factory=dict)  # by pid: the request whose end was not seen yet
    handles: dict[int, int] = field(default_factory=dict)  # pidfd → pid
    gone: set[int] = field(default_factory=set)  # pids of processes that have ended
    garbage: dict[int, int] = field(default_factory=dict)  # by pid: how often

    def __post_init__(self) -> None:
        self.transcript = Transcript(brief=self.sight.brief)

    def take(self, data: bytes, pid: int) -> None:
        """One message."""
        said = read_message(data, pid)
        if said is None:
            self._garbage(pid)
            return
        self.count += 1
        lost = said.get("lost", 0)
        self.lost += lost
        if lost:
            self.running.pop(pid, None)  # its end may be among them
            if not self.sight.as_json:
                print(self.transcript.loss(said))
        if not said.get("uri", "").startswith(self.sight.prefix):
            return
        if said["what"] == "request":
            self.running[pid] = said
            self._watch(pid)
        elif said["what"] in ("answer", "refused"):
            self.running.pop(pid, None)
        if self.sight.as_json:
            print(json.dumps({"pool": self.pool, **said}))
        else:
            print("\n".join(self.transcript.lines(said)))

    def bury(self, handles: Iterable[int]) -> None:
        """The processes behind these pidfds have ended, and all they had to say was read."""
        for handle in handles:
            self.poll.unregister(handle)
            os.close(handle)
            self.gone.add(self.handles.pop(handle))
        while self.gone:
            said = self.running.pop(self.gone.pop(), None)
            if said is not None:
                self._died(said)

    def _died(self, said: dict[str, Any]) -> None:
        now = time.time()
        if self.sight.as_json:
            keys = ("slot", "pid", "number", "id", "method", "uri")
            print(json.dumps({"pool": self.pool, "what": "died", "time": now, **{key: said[key] for key in keys}}))
        else:
            print(self.transcript.death(said, now))

    def _watch(self, pid: int) -> None:
        if pid > 0 and pid not in self.handles.values():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                self.gone.add(pid)
            except OSError:  # there are too many: their deaths are not seen
                pass
            else:
                self.handles[handle] = pid
                self.poll.register(handle, select.POLLIN)

    def _garbage(self, pid: int) -> None:
        count = self.garbage[pid] = self.garbage.get(pid, 0) + 1
        if count.bit_count() == 1:  # the first, and every time that their number has doubled
            say(self.transcript.garbage(pid, count))

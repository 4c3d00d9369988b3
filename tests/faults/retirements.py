"""Retire workers one after another, each signalled close to a connect, and count what was lost. Prints JSON.

The master's own parts (Performer, Holdings, Pool) without its loop, so that the moment of each signal can be chosen
to the microsecond; the policy that would choose it is tested elsewhere. A program of its own, because it reaps every
child it has. Arguments: how many retirements, and the socket's path.
"""

from __future__ import annotations

import json
import os
import random
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from harness.clients import encode_request, fastcgi, read_response
from prefork.config.model import Config, PoolConfig
from prefork.log import make_logger
from prefork.master.deaths import bury
from prefork.master.hear import hear
from prefork.master.holdings import Channel, Holdings
from prefork.master.launch import Launch
from prefork.master.perform import Performer
from prefork.master.pool import Pool
from prefork.policy.model import IDLE, Fork, Listen, Retire, Rules, SignalRetired, StartZygote, Worker
from prefork.system import processes
from prefork.system.listener import Listener, parse_address
from prefork.system.logplaces import open_log
from prefork.system.scoreboard import slots_for

_WORKERS = 3
_SPREAD = 300e-6  # seconds around the connect
_REMINDER = 0.02
_REQUEST = encode_request(path="/hello")


class Bench:
    """One pool, moved by hand."""

    def __init__(self, path: str) -> None:
        pool = PoolConfig(app="faulty", socket=path, max_children=_WORKERS)
        listener = Listener.claim(parse_address(path))
        slots = slots_for(_WORKERS)
        book = Pool("www", "faulty", rules=Rules(max_children=_WORKERS), slots=slots, inherited=False)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        launch = Launch(Config(pools=(pool,)), pool, None, os.getcwd(), os.getcwd(), files, lambda _gifts, _app: None)
        self.selector = selectors.DefaultSelector()
        logger = make_logger(open_log("stderr", "error_log"), level="warning")
        self.hands = Performer(book, Holdings(listener, slots), launch, logger, self._watch, self._unwatch)
        listener.open()

    def _watch(self, _hands: Performer, channel: Channel) -> None:
        self.selector.register(channel.end, selectors.EVENT_READ, channel)

    def _unwatch(self, _hands: Performer, channel: Channel) -> None:
        self.selector.unregister(channel.end)

    def pump(self, timeout: float = 0.005) -> None:
        """One turn of what the master's loop does, without its decisions."""
        for key, _ in self.selector.select(timeout):
            hear(self.hands, key.data, time.monotonic())
        for pid, status in processes.reap(lambda _pid: None):
            bury(self.hands, pid, status, time.monotonic())
        for worker in list(self.hands.pool.workers.values()):
            if worker.ready is not None and not worker.listening and worker.retired is None:
                self.do(Listen("www", worker.slot))

    def do(self, action: Any) -> None:
        self.hands.perform(action, time.monotonic())

    def active(self) -> list[Worker]:
        return [worker for worker in self.hands.pool.workers.values() if worker.retired is None]

    def fill_up(self) -> None:
        """Fork until all are there; the youngest need not accept yet."""
        while len(self.active()) < _WORKERS:
            used = self.hands.pool.workers
            self.do(Fork("www", next(slot for slot in range(64) if slot not in used), generation=1))
        while not all(worker.listening for worker in self.active()):
            self.pump()

    def state(self, slot: int) -> int:
        return self.hands.holdings.scoreboard.state(slot)


def retire_around_a_connect(bench: Bench, path: str, offset: float) -> bool:
    """Retire the worker that has waited longest, signalled ``offset`` seconds after a connect (before it, if negative);
    whether the connection got its whole answer.
    """
    # The head of the queue in accept(2): the one the next connection goes to.
    victim = min(bench.active(), key=lambda worker: (bench.state(worker.slot) != IDLE, worker.forked))
    bench.do(Retire("www", victim.slot))

    def signal_it() -> None:
        if bench.state(victim.slot) == IDLE:
            bench.do(SignalRetired("www", victim.slot))

    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        steps = [lambda: client.connect(path), signal_it]
        first, second = steps if offset >= 0 else steps[::-1]
        begun = time.perf_counter()
        first()
        while time.perf_counter() - begun < abs(offset):
            pass
        second()
        client.sendall(_REQUEST)
        answer = read_response(client)
    reminded = time.monotonic()
    while victim.pid in {worker.pid for worker in bench.hands.pool.workers.values()}:
        bench.pump()
        if time.monotonic() - reminded > _REMINDER:
            signal_it()
            reminded = time.monotonic()
    return answer.status == 200 and answer.complete and answer.body == b"hello"


def load(path: str) -> None:
    """Requests one after another until standard input ends; prints how many, and how many were lost."""
    done = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        done.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    asked = lost = 0
    while not done.is_set():
        asked += 1
        try:
            answer = fastcgi(path, path="/hello")
            lost += not (answer.complete and answer.body == b"hello")
        except OSError:
            lost += 1
        done.wait(0.001)
    print(json.dumps([asked, lost]))  # noqa: T201


def main() -> None:
    count, path = int(sys.argv[1]), sys.argv[2]
    if count == 0:
        load(path)
        return
    processes.become_subreaper()
    bench = Bench(path)
    bench.do(StartZygote("www", load=True))
    while bench.hands.pool.zygote is None or not bench.hands.pool.verified:
        bench.pump()
    bench.fill_up()
    background = subprocess.Popen(
        [sys.executable, __file__, "0", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    chance = random.Random(count)
    lost = 0
    for _ in range(count):
        lost += not retire_around_a_connect(bench, path, chance.uniform(-_SPREAD, _SPREAD))
        bench.fill_up()
    report, _ = background.communicate("")
    asked_beside, lost_beside = json.loads(report)
    bench.hands.kill_everyone()
    bench.hands.holdings.listener.shut()
    result = {"retired": count, "lost": lost, "asked_beside": asked_beside, "lost_beside": lost_beside}
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()

"""An application for the tests of taps: quick and slow answers, secrets everywhere, and a worker that turns hostile."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from faulty import channels

__all__ = ["SECRET", "application"]

SECRET = "hunter2"


def _scrawl(times: int) -> None:
    """Write into the tap what no worker would, as far as it fits; the channel to the master is left alone."""
    nasty = "\x1b]0;gone\x07\x1b[2J"
    wrong = [b"", b"\xff\x00" * 100, nasty.encode(), b"[" * 50_000, b'{"what":"request"}', b'{"what":NaN}', b"x" * 9000]
    likely = {"what": "refused", "time": 1, "slot": 0, "status": nasty, "reason": nasty, "peer": nasty}
    for pair in channels():
        # The tap's has been shut for reading by the master; the channel has not.
        try:
            if pair.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                continue
        except BlockingIOError:
            continue
        for message in [*wrong, json.dumps(likely).encode()] * times:
            try:
                socket.send_fds(pair, [message], [0, 1, 2], socket.MSG_DONTWAIT)
            except OSError:
                break


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """By path."""
    query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    body = environ["wsgi.input"].read()
    path = environ["PATH_INFO"]
    if path == "/die":
        os._exit(3)
    if path == "/wait":
        Path(query["began"]).touch()
        while not Path(query["until"]).exists():
            time.sleep(0.01)
    if path == "/scrawl":
        _scrawl(int(query["times"]))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", f"sid={SECRET}; Path=/")])
    return [b"here " + body]

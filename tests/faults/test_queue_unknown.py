"""A sandbox without netlink, as units and containers have it: the queue is unknown, and all else works."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from harness import Server, fetch
from prefork.cli import control

SYS_SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())

# Becomes the command it is given, without netlink: what systemd makes of RestrictAddressFamilies=, by seccomp(2).
SANDBOX = f"""
import ctypes, os, struct, sys
load, jump_if, result = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
steps = [
    (load, 0, 0, 0),  # the number of the system call
    (jump_if, 0, 3, {SYS_SOCKET}),
    (load, 0, 0, 16),  # its first argument
    (jump_if, 0, 1, 16),  # AF_NETLINK
    (result, 0, 0, 0x00050000 | 97),  # SECCOMP_RET_ERRNO, EAFNOSUPPORT
    (result, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
filter = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(SYS_SOCKET is None, reason="the number of socket(2) is not known for this machine")
def test_a_server_without_netlink(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It serves; the log has one warning; no page and no command shows a 0 that nobody counted."""
    pages, door = str(folder / "status.sock"), str(folder / "control.sock")
    parent = (sys.executable, "-c", SANDBOX)
    options = ("--workers", "1", "--status-listen", pages, "--control-socket", door)
    with Server("faulty", *options, folder=folder, parent=parent) as server:
        unknown = server.wait_event("queue_unknown", pool="www")
        assert (unknown["level"], unknown["socket"]) == ("warning", server.address)
        assert unknown["reason"] == "socket(AF_NETLINK): Address family not supported by protocol"
        for _ in range(10):
            assert server.ask(path="/hello").body == b"hello"
        status = json.loads(fetch(pages, path="/status?json").body)
        assert (status["listen queue"], status["max listen queue"]) == (None, None)
        assert "listen queue:         unknown\n" in fetch(pages, path="/status").text
        metrics = fetch(pages, path="/metrics").text
        assert "prefork_listen_queue{" not in metrics
        assert "phpfpm_listen_queue{" not in metrics
        assert control.main(["status", "--control", door]) == 0
        assert "queue     unknown of " in capsys.readouterr().out
        assert len(server.find("queue_unknown", pool="www")) == 1

"""An application for the fault tests: it does on request what an application should never do.

``FAULTY_THREAD`` leaves a thread behind at import, ``FAULTY_IMPORT`` fails there, ``FAULTY_EXIT`` names a file to
which its exit handler appends a line.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from wsgiref.validate import validator

import prefork

IMPORTED_BY = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "pid": os.getpid()}

if os.environ.get("FAULTY_THREAD"):
    threading.Thread(target=threading.Event().wait, name="left-behind", daemon=True).start()
if os.environ.get("FAULTY_IMPORT"):
    raise RuntimeError("told to fail")


def _say_goodbye(path: str) -> None:
    with open(path, "a") as file:
        file.write("bye\n")


if os.environ.get("FAULTY_EXIT"):
    atexit.register(_say_goodbye, os.environ["FAULTY_EXIT"])


def whoami(_query: dict[str, str]) -> bytes:
    """Who this worker is, and who imported its application."""
    found = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    me = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "pid": os.getpid(), "ppid": os.getppid()}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return json.dumps({"me": me, "imported_by": IMPORTED_BY, "fds": found, "uids": status["Uid"].split()}).encode()


def _is_open(name: str) -> bool:
    return Path(f"/proc/self/fd/{name}").is_symlink()


def slow(query: dict[str, str]) -> bytes:
    if "began" in query:
        Path(query["began"]).touch()
    time.sleep(float(query["s"]))
    return b"slept"


def hold(query: dict[str, str]) -> bytes:
    """Until somebody opens that FIFO for writing."""
    Path(query["fifo"]).read_bytes()
    return b"held"


def die(query: dict[str, str]) -> bytes:
    os.kill(os.getpid(), int(query.get("signal", signal.SIGKILL)))
    return b"still here"


def memfds(name: str) -> list[int]:
    """Our descriptors of a memory file."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if f"memfd:{name}" in os.readlink(f"/proc/self/fd/{entry}"):
                found.append(int(entry))
        except OSError:
            continue
    return found


def truncate(_query: dict[str, str]) -> bytes:
    """Try to pull the shared pages from under the master's feet."""
    outcomes = []
    for descriptor in memfds("prefork-scoreboard") + memfds("prefork-control"):
        for size in (0, 1 << 20):
            try:
                os.ftruncate(descriptor, size)
                outcomes.append(f"{os.readlink(f'/proc/self/fd/{descriptor}')} became {size}")
            except OSError as error:
                outcomes.append(error.strerror or "")
    return json.dumps(outcomes).encode()


def scribble(query: dict[str, str]) -> bytes:
    """Overwrite the whole scoreboard."""
    for descriptor in memfds("prefork-scoreboard"):
        with mmap.mmap(descriptor, 0) as page:
            fill = query.get("byte")
            page[:] = os.urandom(len(page)) if fill is None else bytes([int(fill)]) * len(page)
    return b"scribbled"


def control(_query: dict[str, str]) -> bytes:
    """Try to write to the control page, by this descriptor and by a fresh one."""
    outcomes = []
    for descriptor in memfds("prefork-control"):
        for again in (descriptor, f"/proc/self/fd/{descriptor}"):
            try:
                opened = os.open(again, os.O_RDWR) if isinstance(again, str) else again
                with mmap.mmap(opened, 0) as page:
                    page[:] = b"\xff" * len(page)
                outcomes.append("written")
            except OSError as error:
                outcomes.append(error.strerror or "")
    return json.dumps(outcomes).encode()


def unmap(_query: dict[str, str]) -> bytes:
    """Map something else over the scoreboard, behind the interpreter's back."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    replaced = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:prefork-scoreboard" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
            libc.mmap(start, end - start, mmap.PROT_READ | mmap.PROT_WRITE, 0x32, -1, 0)
            replaced += 1
    return str(replaced).encode()


def channels() -> list[socket.socket]:
    """Copies of our ends of SOCK_SEQPACKET pairs: of the channel to the master, and of the tap."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            candidate = socket.socket(fileno=os.dup(int(entry)))
        except OSError:
            continue
        if candidate.type == socket.SOCK_SEQPACKET:
            found.append(candidate)
        else:
            candidate.close()
    return found


def garbage(query: dict[str, str]) -> bytes:
    """Send what no worker says, with descriptors, up the channel."""
    messages = [
        b"",
        b"\0",
        b"\xff" * 1000,
        b"\x13",
        b"\x13[]",
        b"\x10{}",
        b"\x11{}",
        b"\x13{}",
        b"\x12{}",
        b"x" * 70_000,
    ]
    for channel in channels():
        channel.setblocking(False)
        for message in messages * int(query.get("times", "1")):
            descriptors = array("i", [0, 1, 2])
            try:
                channel.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            except OSError:
                break
        channel.close()
    return b"sent"


def claim(query: dict[str, str]) -> bytes:
    """Say hello in the name of another process."""
    outcomes = []
    for channel in channels():
        credentials = struct.pack("iII", int(query["pid"]), os.getuid(), os.getgid())
        try:
            channel.sendmsg([b"\x13{}"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
            outcomes.append("sent")
        except OSError as error:
            outcomes.append(error.strerror or "")
        channel.close()
    return json.dumps(outcomes).encode()


def fork(query: dict[str, str]) -> bytes:
    """Fork as an application might; the child writes what it still holds, and comes back or stays."""
    if os.fork() == 0:
        held = {
            entry: os.readlink(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd") if _is_open(entry)
        }
        Path(query["report"]).write_text(json.dumps(held))
        if "back" not in query:
            os.execvp("sleep", ["sleep", query["s"]])
    return b"from the parent, or from its child"


def leave(_query: dict[str, str]) -> bytes:
    raise SystemExit(3)


_LEAKED: list[int] = []


def leak(_query: dict[str, str]) -> bytes:
    """Use up all descriptors, for good, the connection's own when it is free again."""
    prefork.after_response(_use_up)
    return b"leaking"


def _use_up() -> None:
    with contextlib.suppress(OSError):
        while True:
            _LEAKED.append(os.open(os.devnull, os.O_RDONLY))


def hello(_query: dict[str, str]) -> bytes:
    return b"hello"


_WHAT: dict[str, Callable[[dict[str, str]], bytes]] = {
    f"/{function.__name__}": function
    for function in (
        whoami,
        slow,
        hold,
        die,
        truncate,
        scribble,
        control,
        unmap,
        garbage,
        claim,
        fork,
        leave,
        leak,
        hello,
    )
}


def _answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    body = _WHAT[environ["PATH_INFO"]](query)
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    return [body]


application = validator(_answer)

"""Queue readings, against real queues and against ss(8)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.system.sockdiag import QueueReading, SocketDiagnosis, _parse, _question


@pytest.fixture
def diagnosis() -> Iterator[SocketDiagnosis]:
    diagnosis = SocketDiagnosis()
    yield diagnosis
    diagnosis.close()


@pytest.fixture
def listener(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "queue.sock"))
        listener.listen(2)
        yield listener


def fill(listener: socket.socket, number: int) -> list[socket.socket]:
    clients = []
    for _ in range(number):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        clients.append(client)
        client.connect(listener.getsockname())
    return clients


def inode(listener: socket.socket) -> int:
    return os.fstat(listener.fileno()).st_ino


def test_the_queue_is_counted_up_to_its_limit_and_one_more(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """listen(2) with 2 holds three; each reading is exact, and only the third means full."""
    clients: list[socket.socket] = []
    readings = [diagnosis.queue(inode(listener))]
    for _ in range(3):
        clients += fill(listener, 1)
        readings.append(diagnosis.queue(inode(listener)))
    refused = socket.socket(socket.AF_UNIX)
    refused.setblocking(False)
    with pytest.raises(BlockingIOError):
        refused.connect(listener.getsockname())
    refused.close()
    for client in clients:
        client.close()
    assert readings == [QueueReading(waiting, 2) for waiting in range(4)]
    assert [reading.full for reading in readings if reading] == [False, False, False, True]


def test_an_accepted_connection_leaves_the_queue(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """The reading falls with accept(2), and knows a limit that was raised since."""
    clients = fill(listener, 2)
    accepted, _ = listener.accept()
    listener.listen(7)
    assert diagnosis.queue(inode(listener)) == QueueReading(1, 7)
    for one in (*clients, accepted):
        one.close()


def test_what_is_no_listener_here_is_unknown(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """A closed socket, a connected one, a bound one, a file's inode and nonsense are None, never 0."""
    connected, other = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as closed:
        gone = inode(closed)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{listener.getsockname()}.bound")
        answers = [diagnosis.queue(number) for number in (gone, inode(connected), inode(bound), 0, -1, 2**32, 2**70)]
    connected.close()
    other.close()
    assert answers == [None] * 7


def test_a_closed_diagnosis_knows_nothing(listener: socket.socket) -> None:
    """After close, twice even, every question is answered with None."""
    diagnosis = SocketDiagnosis()
    diagnosis.close()
    diagnosis.close()
    assert diagnosis.queue(inode(listener)) is None


def test_answers_to_given_up_questions_are_skipped(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """A stale reply that still lies in the netlink socket is not taken for the answer."""
    clients = fill(listener, 1)
    assert diagnosis._netlink is not None
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{listener.getsockname()}.other")
        other.listen(9)
        diagnosis._netlink.sendto(_question(inode(other), 2**32 - 1), (0, 0))
    assert diagnosis.queue(inode(listener)) == QueueReading(1, 2)
    clients[0].close()


def test_too_many_stale_answers_are_unknown_once(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """The search for the right one is bounded, and the next question is answered again."""
    assert diagnosis._netlink is not None
    for _ in range(8):
        diagnosis._netlink.sendto(_question(inode(listener), 2**32 - 1), (0, 0))
    assert diagnosis.queue(inode(listener)) is None
    assert diagnosis.queue(inode(listener)) == QueueReading(0, 2)


def test_a_broken_netlink_is_unknown(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """Whatever the system call says."""
    assert diagnosis._netlink is not None
    diagnosis._netlink.close()
    assert diagnosis.queue(inode(listener)) is None


def test_no_answer_at_all_is_unknown_within_bounds(diagnosis: SocketDiagnosis) -> None:
    """Where the kernel stays silent the wait ends by itself."""
    assert diagnosis._netlink is not None
    with pytest.raises(TimeoutError):
        diagnosis._wait_answer(diagnosis._netlink)


# nlmsghdr, unix_diag_msg (a listening stream socket with inode 5), unix_diag_rqlen: 1 of 2.
REPLY = bytes.fromhex(
    "2c000000 1400 0000 01000000 00000000 01010a00 05000000 0000000000000000 0c000400 01000000 02000000"
)


def test_a_reply_is_read_through_its_attributes() -> None:
    """The lengths are found behind attributes that are not ours."""
    stranger = bytes.fromhex("05000900 ff000000")
    longer = (len(REPLY) + len(stranger)).to_bytes(4, "little") + REPLY[4:32] + stranger + REPLY[32:]
    assert _parse(REPLY, 5) == QueueReading(1, 2)
    assert _parse(longer, 5) == QueueReading(1, 2)


@pytest.mark.parametrize("length", range(16, len(REPLY)))
def test_a_cut_reply_is_unknown(length: int) -> None:
    """At every length short of the whole there is no reading, and no error."""
    assert _parse(REPLY[:length], 5) is None


@pytest.mark.parametrize(("offset", "byte"), [(4, 2), (16, 2), (18, 1), (20, 6), (32, 0), (32, 255), (34, 3)])
def test_a_reply_about_something_else_is_unknown(offset: int, byte: int) -> None:
    """An error, another family, state, inode or attribute, and a length out of bounds give no reading."""
    changed = REPLY[:offset] + bytes((byte,)) + REPLY[offset + 1 :]
    assert _parse(changed, 5) is None


@pytest.mark.tool("ss")
def test_ss_says_the_same(diagnosis: SocketDiagnosis, listener: socket.socket) -> None:
    """Recv-Q and Send-Q of ss -xl are our reading."""
    clients = fill(listener, 3)
    table = subprocess.run(["ss", "-xlH"], stdout=subprocess.PIPE, text=True, check=True).stdout
    (row,) = re.findall(rf"LISTEN\s+(\d+)\s+(\d+)\s+{re.escape(listener.getsockname())}\s", table)
    reading = diagnosis.queue(inode(listener))
    for client in clients:
        client.close()
    assert reading is not None
    assert (reading.waiting, reading.limit) == tuple(map(int, row))


@pytest.mark.root
def test_no_privilege_is_needed(listener: socket.socket) -> None:
    """The user nobody reads the same numbers of a socket that it could not open."""
    clients = fill(listener, 3)
    script = "from prefork.system.sockdiag import SocketDiagnosis\nprint(SocketDiagnosis().queue(int(sys.argv[1])))"
    answer = run_apart(script, str(inode(listener)), user=NOBODY)
    for client in clients:
        client.close()
    assert answer == "QueueReading(waiting=3, limit=2)"

"""The page on which a master publishes: whole or not at all, for its readers to see and not to change."""

from __future__ import annotations

import errno
import mmap
import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from prefork.system.bulletin import Bulletin, BulletinReader


@pytest.fixture
def bulletin() -> Iterator[Bulletin]:
    made = Bulletin(room=65_536)
    yield made
    made.close()


def reader_of(bulletin: Bulletin) -> BulletinReader:
    return BulletinReader(bulletin.descriptor, bulletin.bell)


def publish(bulletin: Bulletin, text: bytes) -> None:
    bulletin.publish(text, time.monotonic_ns())


def test_what_was_published_last_is_read(bulletin: Bulletin) -> None:
    reader = reader_of(bulletin)
    assert reader.read() is None
    publish(bulletin, b"first")
    assert reader.read() == b"first"
    publish(bulletin, b"")
    assert reader.read() == b""
    with pytest.raises(ValueError, match="there is room for 65512"):
        publish(bulletin, bytes(65_536))
    assert reader.read() == b""


def test_no_reader_can_write_or_resize(bulletin: Bulletin) -> None:
    """A worker holds the descriptor: it must neither change what others read nor pull the page away."""
    with pytest.raises(OSError, match="not permitted") as refused:
        os.ftruncate(bulletin.descriptor, 0)
    assert refused.value.errno == errno.EPERM
    with pytest.raises(PermissionError):
        mmap.mmap(bulletin.descriptor, 0)
    with pytest.raises(PermissionError):
        os.pwrite(bulletin.descriptor, b"x", 0)


def test_a_text_is_never_read_half(bulletin: Bulletin) -> None:
    """A writer at full speed, texts of one letter each: every text that is read has one letter, and its own length."""
    publish(bulletin, b"a" * 100)
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            for letter, size in ((b"b", 40_000), (b"c", 3), (b"d", 20_000)):
                publish(bulletin, letter * size)

    writer = threading.Thread(target=write)
    writer.start()
    reader, lengths = reader_of(bulletin), {"a": 100, "b": 40_000, "c": 3, "d": 20_000}
    try:
        for _ in range(2_000):
            text = reader.read()
            if text is not None:
                (letter,) = set(text.decode())
                assert len(text) == lengths[letter]
    finally:
        over.set()
        writer.join()


def test_a_reader_gets_news_for_a_ring(bulletin: Bulletin) -> None:
    """Those that were begun after it: what the master had in hand when it rang may miss what the reader asks about."""
    publish(bulletin, b"old")
    begun = time.monotonic_ns()

    def answer() -> None:
        select.select([bulletin.bell], [], [])
        bulletin.publish(b"in hand", begun)
        bulletin.answer()
        publish(bulletin, b"new")

    master = threading.Thread(target=answer)
    master.start()
    assert reader_of(bulletin).read(patience=10.0) == b"new"
    master.join()
    assert select.select([bulletin.bell], [], [], 0) == ([], [], [])


def test_a_master_that_does_not_answer_is_not_waited_for_long(bulletin: Bulletin) -> None:
    publish(bulletin, b"old")
    began = time.monotonic()
    assert reader_of(bulletin).read(patience=0.02) == b"old"
    assert time.monotonic() - began < 5.0
    bulletin.answer()
    bulletin.answer()  # no ring left: must not block

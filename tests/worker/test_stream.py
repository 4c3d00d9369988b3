from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.worker.stream import Errors, FileWrapper, Input
from wire import Log, patient


class Pieces:
    """A body that arrives in given pieces, counted."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = [piece for piece in pieces if piece]
        self.asked = 0

    def read_body(self) -> bytes:
        self.asked += 1
        return self.left.pop(0) if self.left else b""


_PIECES = st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\nd", b"e\n\n", b"x" * 50]), max_size=8)
_SIZES = st.none() | st.integers(-2, 60)
_CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), _SIZES),
        st.tuples(st.just("readline"), _SIZES),
        st.tuples(st.just("readlines"), _SIZES),
        st.tuples(st.just("next"), st.none()),
    ),
    max_size=10,
)


@given(_PIECES, _CALLS)
def test_reads_like_a_file(pieces: list[bytes], calls: list[tuple[str, Any]]) -> None:
    """However the body arrives, every call returns what a file with the same bytes returns."""
    ours = Input(Pieces(*pieces), patient())
    file = io.BytesIO(b"".join(pieces))
    for name, size in calls:
        if name == "next":
            assert next(ours, None) == next(file, None)
        elif name == "readlines" and (size or 0) < 0:
            assert ours.readlines(size) == file.readlines()
        else:
            assert getattr(ours, name)(size) == getattr(file, name)(size)
    assert ours.read() == file.read()
    assert (ours.read(), ours.read(5), ours.readline(), ours.readlines()) == (b"", b"", b"", [])


def test_iteration() -> None:
    """A for loop gets the lines."""
    assert list(Input(Pieces(b"a\nb", b"c\n", b"d"), patient())) == [b"a\n", b"bc\n", b"d"]


def test_reads_no_more_than_it_needs() -> None:
    """What has arrived is used before more is waited for."""
    source = Pieces(b"abc", b"def")
    stream = Input(source, patient())
    assert stream.read(0) == b""
    assert source.asked == 0
    assert [stream.read(2), stream.read(1)] == [b"ab", b"c"]
    assert source.asked == 1
    assert stream.readline(1) == b"d"
    assert source.asked == 2


def test_after_the_request() -> None:
    """A stream that was kept says so instead of reading from somebody else's connection."""
    stream = Input(Pieces(b"abc"), patient())
    stream.read(1)
    stream.finish()
    with pytest.raises(ValueError, match="request is over"):
        stream.read()


def test_errors_go_to_log_and_proxy() -> None:
    """Lines are log events with the request's id; the proxy gets the text once, as it was written."""
    log = Log()
    errors = Errors(log, patient())
    errors.begin("r1")
    assert errors.write("one\ntw") == 6
    errors.writelines(["o\n", "\n", "thrée"])
    assert [fields["message"] for fields in log.named("wsgi_errors")] == ["one", "two"]
    errors.flush()
    errors.flush()
    assert log.named("wsgi_errors")[2] == {"message": "thrée", "request_id": "r1"}
    seen = [errors.pending, errors.take(), errors.pending, errors.take()]
    assert seen == [True, "one\ntwo\n\nthrée".encode(), False, b""]


def test_errors_of_one_request_do_not_reach_the_next() -> None:
    """What no response took with it is forgotten."""
    errors = Errors(Log(), patient())
    errors.write("late\n")
    errors.begin("r2")
    assert not errors.pending


def test_errors_are_bounded() -> None:
    """Whatever is written, the proxy gets 32 KiB and no line grows beyond."""
    log = Log()
    errors = Errors(log, patient())
    for _ in range(100):
        errors.write("x" * 1_000)
    assert len(errors.take()) == 32_768
    assert log.named("wsgi_errors")
    assert all(len(fields["message"]) < 34_000 for fields in log.named("wsgi_errors"))
    with pytest.raises(TypeError):
        errors.write(b"bytes")
    assert errors.write("\udcff\n") == 2
    assert errors.take() == b"\\udcff\n"


def test_file_wrapper() -> None:
    """Blocks of the size asked for, and close() only where there is one."""
    file = io.BytesIO(b"abcde")
    wrapper = FileWrapper(file, 2)
    assert list(wrapper) == [b"ab", b"cd", b"e"]
    wrapper.close()
    assert file.closed

    class Reader:
        def read(self, size: int) -> bytes:
            return b""

    FileWrapper(Reader()).close()

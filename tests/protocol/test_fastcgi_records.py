from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol import fastcgi_records as records


def test_header_layout() -> None:
    """Version, type, id, length, padding, reserved: section 3.3, big endian."""
    assert records.encode_header(records.STDOUT, 0x0102, 0x0304, 5) == b"\x01\x06\x01\x02\x03\x04\x05\x00"


def test_record_with_padding() -> None:
    """Content, then as many zeros as the header says."""
    assert records.encode_record(records.STDIN, 1, b"ab", 3) == b"\x01\x05\x00\x01\x00\x02\x03\x00ab\x00\x00\x00"


def test_stream_is_cut_into_the_fewest_records() -> None:
    """65,535 bytes a record; nothing for nothing."""
    assert records.encode_stream(records.STDERR, 1, b"") == b""
    stream = records.encode_stream(records.STDERR, 1, bytes(65_536))
    assert len(stream) == 65_536 + 2 * 8
    assert stream[:8] == b"\x01\x07\x00\x01\xff\xff\x00\x00"
    assert stream[8 + 65_535 : 16 + 65_535] == b"\x01\x07\x00\x01\x00\x01\x00\x00"


def test_answers() -> None:
    """BEGIN_REQUEST, END_REQUEST and UNKNOWN_TYPE, byte by byte."""
    assert records.encode_begin_request(7, records.FILTER, records.KEEP_CONN) == (
        b"\x01\x01\x00\x07\x00\x08\x00\x00" + b"\x00\x03\x01" + bytes(5)
    )
    assert (
        records.encode_end_request(7, records.CANT_MPX_CONN, 0x01020304)
        == b"\x01\x03\x00\x07\x00\x08\x00\x00" + b"\x01\x02\x03\x04\x01\x00\x00\x00"
    )
    assert records.encode_unknown_type(99) == b"\x01\x0b\x00\x00\x00\x08\x00\x00" + b"\x63" + bytes(7)


@pytest.mark.parametrize("identifier", [1, 2, 65_535])
def test_ending(identifier: int) -> None:
    """An empty STDOUT and END_REQUEST; for a peer that keeps connections an empty STDERR behind it."""
    end = records.encode_header(records.STDOUT, identifier, 0) + records.encode_end_request(identifier, 0)
    assert records.ending(identifier, False) == end
    assert records.ending(identifier, True) == end + records.encode_header(records.STDERR, identifier, 0)


@given(st.lists(st.sampled_from([b"", b"a", b"bc" * 40_000, b"d" * 65_528, b"e" * 70_000]), max_size=4))
def test_frame_keeps_every_byte_in_full_records(pieces: list[bytes]) -> None:
    """All bytes in order, and every record but the last is full."""
    data = b"".join(pieces)
    framed = b"".join(records.frame(records.STDOUT, 1, pieces, len(data)))
    found = b""
    sizes = []
    while framed:
        assert framed[:4] == b"\x01\x06\x00\x01"
        size = int.from_bytes(framed[4:6], "big")
        found += framed[8 : 8 + size]
        framed = framed[8 + size :]
        sizes.append(size)
    assert found == data
    assert all(size == records.FULL_RECORD for size in sizes[:-1])
    assert 0 not in sizes


def test_frame_does_not_copy_large_pieces() -> None:
    """A large piece is sent from where it lies."""
    piece = bytes(1_000_000)
    views = [part for part in records.frame(records.STDOUT, 1, [piece], len(piece)) if isinstance(part, memoryview)]
    assert all(view.obj is piece for view in views)
    assert sum(map(len, views)) == len(piece)


_PAIRS = st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200)), max_size=6)


@given(_PAIRS)
def test_pairs_come_back(pairs: list[tuple[bytes, bytes]]) -> None:
    """What is encoded is decoded."""
    assert records.decode_pairs(records.encode_pairs(pairs)) == pairs


def test_pair_lengths() -> None:
    """127 takes one byte and 128 four; a needlessly long form is legal."""
    assert records.encode_pairs([(b"n" * 127, b"v" * 128)])[:5] == b"\x7f\x80\x00\x00\x80"
    assert records.decode_pairs(b"\x80\x00\x00\x01\x80\x00\x00\x00n") == [(b"n", b"")]


@pytest.mark.parametrize("data", [b"\x01", b"\x01\x01n", b"\x80\x00\x00", b"\x01\x80\x00\x00", b"\xff\xff\xff\xff\x00"])
def test_pairs_that_go_on_after_the_end(data: bytes) -> None:
    """Refused, and nothing is allocated for what was declared."""
    with pytest.raises(ProtocolError):
        records.decode_pairs(data)


def test_values_result() -> None:
    """What is known of what was asked for, in our order; asking twice changes nothing."""
    asked = records.encode_pairs([(b"B", b""), (b"C", b"x"), (b"A", b""), (b"A", b"")])
    values = records.encode_pairs([(b"A", b"1"), (b"B", b"2")])
    result = records.encode_record(records.GET_VALUES_RESULT, 0, values)
    assert records.encode_values_result(asked, {b"A": b"1", b"B": b"2", b"D": b"3"}) == result

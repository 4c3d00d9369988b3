from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol.fastcgi_params import MAX_NAME, decode_parameters
from prefork.protocol.fastcgi_records import decode_pairs, encode_pairs


def long_length(length: int) -> bytes:
    return (length | 1 << 31).to_bytes(4, "big")


def test_short_and_long_lengths() -> None:
    """Every mixture of one-byte and four-byte lengths, over-long forms included."""
    value = "v" * 300
    data = b"\x01\x01ab" + b"\x01" + long_length(300) + b"c" + value.encode() + long_length(1) + b"\x00d"
    data += long_length(2) + long_length(2) + b"eefg" + long_length(0) + long_length(0)
    assert decode_parameters(data, 10) == {"a": "b", "c": value, "d": "", "ee": "fg", "": ""}


def test_bytes_become_latin_1() -> None:
    """Every byte is one character; nothing is decoded as UTF-8 or percent-encoding."""
    every = bytes(range(1, 256))
    assert decode_parameters(encode_pairs([(b"N", every)]), 1) == {"N": every.decode("latin-1")}


@pytest.mark.parametrize("pair", [(b"a\0", b"b"), (b"a", b"b\0"), (b"a", b"\0" * 200), (b"\0", b""), (b"", b"\0")])
def test_nul_is_refused(pair: tuple[bytes, bytes]) -> None:
    """A NUL in a name or a value: 400, wherever it hides."""
    with pytest.raises(ProtocolError, match="NUL") as caught:
        decode_parameters(encode_pairs([(b"x", b""), pair, (b"y" * 256, b"z" * 256)]), 10)
    assert caught.value.status == 400


def test_empty_names_values_and_streams_are_no_nul() -> None:
    """Zero bytes that are lengths, or parts of lengths, are no NUL."""
    pairs = [(b"a", b""), (b"", b"b"), (b"c" * 256, b"d" * 512)]
    assert len(decode_parameters(encode_pairs(pairs), 3)) == 3
    assert decode_parameters(b"", 0) == {}


@pytest.mark.parametrize(
    "data",
    [b"\x05", b"\x05\x05abc", b"\x01\x80\x00\x00", b"\x80\x00\x00", b"\x80", b"\x01\x05a", b"\x00\xff\xff\xff\xff"],
)
def test_parameters_that_go_on_after_the_end(data: bytes) -> None:
    """A length that promises more than the stream has: 400."""
    with pytest.raises(ProtocolError, match="after the end") as caught:
        decode_parameters(data, 10)
    assert caught.value.status == 400


def test_bounds() -> None:
    """One more parameter, or a name one byte longer, than is allowed: 431."""
    assert len(decode_parameters(encode_pairs([(b"a", b""), (b"b", b"")]), 2)) == 2
    with pytest.raises(ProtocolError, match="2 parameters, 1 are allowed") as caught:
        decode_parameters(encode_pairs([(b"a", b""), (b"b", b"")]), 1)
    assert caught.value.status == 431
    assert len(decode_parameters(encode_pairs([(b"n" * MAX_NAME, b"")]), 1)) == 1
    with pytest.raises(ProtocolError, match="name has") as caught:
        decode_parameters(encode_pairs([(b"n" * (MAX_NAME + 1), b"")]), 1)
    assert caught.value.status == 431


def test_duplicates() -> None:
    """Repeated names are merged by the common rules, in their order."""
    pairs = [(b"HTTP_COOKIE", b"a"), (b"HTTP_X", b"1"), (b"HTTP_COOKIE", b"b"), (b"HTTP_X", b"2"), (b"Y", b"3")]
    assert decode_parameters(encode_pairs(pairs), 9) == {"HTTP_COOKIE": "a; b", "HTTP_X": "1, 2", "Y": "3"}
    with pytest.raises(ProtocolError, match="sent twice"):
        decode_parameters(encode_pairs([(b"SCRIPT_NAME", b"/a"), (b"SCRIPT_NAME", b"/b")]), 9)


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"\x00", b"\x01", b"a", b"\x80\x00\x00\x01"])).map(b"".join))
def test_both_decoders_agree(data: bytes) -> None:
    """The fast decoder takes exactly what the plain one takes, and finds the same; it only refuses NUL as well."""
    try:
        expected = dict(decode_pairs(data))
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decode_parameters(data, 1_000)
        return
    if any(b"\0" in name + value for name, value in decode_pairs(data)):
        with pytest.raises(ProtocolError, match="NUL"):
            decode_parameters(data, 1_000)
    else:
        text = {name.decode("latin-1"): value.decode("latin-1") for name, value in expected.items()}
        assert decode_parameters(data, 1_000) == text

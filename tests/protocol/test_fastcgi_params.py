from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol.fastcgi_params import MAX_NAME, Decoder, decode_parameters
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


# --- what a decoder remembers

STOCK = (
    *(b"QUERY_STRING", b"REQUEST_METHOD", b"CONTENT_LENGTH", b"SCRIPT_NAME", b"DOCUMENT_ROOT", b"SERVER_PROTOCOL"),
    *(b"GATEWAY_INTERFACE", b"REMOTE_ADDR", b"REMOTE_PORT", b"SERVER_ADDR", b"SERVER_PORT", b"HTTP_HOST"),
)
BASE = {"wsgi.version": (1, 0), "wsgi.input": None}


def head(**values: str) -> bytes:
    """The parameters of a request, as a proxy sends them; those that are named have another value, or come last."""
    given = {name.encode(): value.encode("latin-1") for name, value in values.items()}
    return encode_pairs([(name, given.pop(name, b"as ever")) for name in STOCK] + list(given.items()))


def outcome(data: bytes, max_count: int, decoder: Decoder | None) -> dict[str, Any] | tuple[str, int]:
    """What becomes of a stream: its parameters, or what is said against it."""
    try:
        return {**decode_parameters(data, max_count), **BASE} if decoder is None else decoder.decode(data)
    except ProtocolError as error:
        return str(error), error.status


values = st.sampled_from([b"", b"a", b"b", b"v" * 127, b"v" * 128, b"w" * 300, b"\0", b"\xff"])
names = st.sampled_from([*STOCK, b"wsgi.input", b"HTTP_COOKIE", b"X", b"n" * 4096, b"n" * 4097, b"\0"])
changes = st.dictionaries(st.sampled_from(STOCK), values, max_size=2)
pairs = st.lists(st.tuples(names, values), max_size=3)
heads = st.builds(
    lambda given, more, cut: encode_pairs([(name, given.get(name, b"as ever")) for name in STOCK] + more)[:cut],
    changes,
    pairs,
    st.sampled_from([None, None, None, None, -1, -5, 40]),
)
streams = heads | heads | heads | pairs.map(encode_pairs) | st.binary(max_size=40)


@given(
    st.lists(st.sampled_from([head(), head(REMOTE_PORT="1")]), max_size=5), st.lists(streams, min_size=1, max_size=9)
)
def test_a_memory_changes_no_result(usual: list[bytes], requests: list[bytes]) -> None:
    """Whatever came before, a decoder finds what the straightforward one finds, and refuses what that refuses."""
    decoder = Decoder(len(STOCK) + 2, BASE)
    for data in [*usual, *requests]:
        found = outcome(data, len(STOCK) + 2, decoder)
        assert found == outcome(data, len(STOCK) + 2, None)
        if isinstance(found, dict):  # what an application does with its environ is nobody else's business
            found["HTTP_HOST"] = "spoilt"
            found.pop("SERVER_PORT", None)
            found["spoilt"] = "spoilt"


def test_what_stays_the_same_is_learned() -> None:
    """All but what differs, at its place in the stream; long lengths and further headers do not disturb it."""
    decoder = Decoder(20, BASE)
    for number in range(20):
        data = head(REMOTE_PORT=str(number), SCRIPT_NAME="/" * 60 * (number % 4), HTTP_COOKIE=f"id={number}")
        assert outcome(data, 20, decoder) == outcome(data, 20, None)
    # Three before SCRIPT_NAME, four after it and three behind REMOTE_PORT.
    assert decoder.known == len(STOCK) - 2


@pytest.mark.parametrize("name", ["HTTP_COOKIE", "HTTP_AUTHORIZATION"])
def test_no_secret_is_learned(name: str) -> None:
    """What a client has to prove to know is decoded each time, however often it was the same."""
    decoder = Decoder(20)
    for _ in range(4):
        assert decoder.decode(head(**{name: "sesame"}))[name] == "sesame"
    assert decoder.known == len(STOCK)


def test_another_kind_of_request_takes_over_when_it_is_the_usual_one() -> None:
    """One that a probe sent first does not stand in the way of all that follow."""
    decoder = Decoder(20)
    for number in range(8):
        decoder.decode(encode_pairs([(b"REQUEST_METHOD", b"GET"), (b"A", b"1"), (b"B", b"2"), (b"C", b"%d" % number)]))
    assert decoder.known == 3
    for number in range(40):
        decoder.decode(head(REMOTE_PORT=str(number)))
    assert decoder.known == len(STOCK) - 1


def test_what_was_learned_is_forgotten() -> None:
    """An exception of long ago costs nothing any more: after 16,384 requests everything is learned anew."""
    decoder = Decoder(20)
    decoder.decode(head())
    decoder.decode(head(SCRIPT_NAME="/another", SERVER_PORT="1"))
    assert decoder.known < len(STOCK) - 1
    usual = head()
    for _ in range(16_384):
        decoder.decode(usual)
    assert decoder.known == len(STOCK)


def test_a_large_head_is_not_learned() -> None:
    """What is remembered has a bound; a head beyond it is decoded as well as any."""
    decoder = Decoder(20)
    large = head(HTTP_X="x" * 20_000)
    for _ in range(3):
        assert decoder.decode(large)["HTTP_X"] == "x" * 20_000
    assert decoder.known == 0


def test_limits_hold_for_what_is_known_and_what_is_not_together() -> None:
    """The number of parameters, the size of a name, NUL, and names that come twice: as without a memory."""
    decoder = Decoder(len(STOCK) + 1)
    for number in range(4):
        decoder.decode(head(REMOTE_PORT=str(number)))
    known = decoder.known
    assert known == len(STOCK) - 1
    assert decoder.decode(head(HTTP_X="x"))["HTTP_X"] == "x"
    bad = {
        "14 parameters, 13 are allowed": head(HTTP_X="x", HTTP_Y="y"),
        "name has 4097 bytes": head(**{"n" * 4097: "x"}),
        "NUL": head(REMOTE_PORT="1\0"),
        "after the end": head(REMOTE_PORT="2")[:-1],
        "sent twice": head() + encode_pairs([(b"SCRIPT_NAME", b"/else")]),
    }
    for words, data in bad.items():
        with pytest.raises(ProtocolError, match=words):
            decoder.decode(data)
    twice = head() + encode_pairs([(b"HTTP_HOST", b"more")])
    assert decoder.decode(twice)["HTTP_HOST"] == "as ever, more"
    assert decoder.known == known


def test_headers_have_a_limit_of_their_own() -> None:
    """One header more than is allowed is 431, known or not; other parameters do not count as headers."""
    decoder = Decoder(100, BASE, 5)
    five = {f"HTTP_{number}": "x" for number in range(4)}  # and HTTP_HOST
    for number in range(4):
        assert len(decoder.decode(head(REMOTE_PORT=str(number), **five))) == len(STOCK) + 4 + len(BASE)
        with pytest.raises(ProtocolError, match=r"6 headers, 5 are allowed \(max_header_count\)") as caught:
            decoder.decode(head(REMOTE_PORT=str(number), **five, HTTP_MORE="x"))
        assert caught.value.status == 431
    assert decoder.known


def test_what_is_no_header_takes_none_of_their_room() -> None:
    """A limit below the number of parameters that every request has costs no time: the plan fits all the same."""
    decoder = Decoder(100, BASE, 4)
    for number in range(20):
        assert len(decoder.decode(head(REMOTE_PORT=str(number)))) == len(STOCK) + len(BASE)
    assert decoder._unknown == 2


def test_nobody_sets_what_is_ours() -> None:
    """A parameter with a name of ours is overruled, be it known or new."""
    decoder = Decoder(20, BASE)
    for _ in range(4):
        assert decoder.decode(head(**{"wsgi.input": "theirs"}))["wsgi.input"] is None
    decoder = Decoder(20, BASE)
    for number in range(4):
        decoder.decode(head(REMOTE_PORT=str(number)))
    assert decoder.known
    assert decoder.decode(head(**{"wsgi.input": "theirs"}))["wsgi.input"] is None

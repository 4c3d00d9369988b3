from __future__ import annotations

import pytest

from prefork.errors import ProtocolError
from prefork.protocol import fastcgi_records as records
from prefork.protocol.fastcgi_client import ResponseReader, encode_request, encode_stdin
from prefork.protocol.fastcgi_records import encode_pairs, encode_record

ANSWER = (
    encode_record(records.STDERR, 3, b"oh", 7)
    + encode_record(records.STDOUT, 9, b"not ours")
    + encode_record(records.STDOUT, 3, b"Status: 200 OK\r\n\r\n", 1)
    + encode_record(records.GET_VALUES_RESULT, 0, encode_pairs([(b"FCGI_MAX_CONNS", b"4")]))
    + records.encode_unknown_type(77)
    + encode_record(records.STDOUT, 3, b"body")
    + records.ending(3, True)
)


@pytest.mark.parametrize("step", [1, 5, len(ANSWER)])
def test_an_answer_is_understood_in_any_pieces(step: int) -> None:
    """Output, errors, values and the end; records of other requests are skipped."""
    reader = ResponseReader(3)
    for start in range(0, len(ANSWER), step):
        reader.receive(ANSWER[start : start + step])
    assert reader.stdout == b"Status: 200 OK\r\n\r\nbody"
    assert reader.stderr == b"oh"
    assert (reader.stdout_ended, reader.ended) == (True, True)
    assert (reader.application_status, reader.protocol_status) == (0, 0)
    assert (reader.values, reader.unknown_types) == ({"FCGI_MAX_CONNS": "4"}, [77])


def test_statuses() -> None:
    """END_REQUEST's two numbers."""
    reader = ResponseReader()
    reader.receive(records.encode_end_request(1, records.OVERLOADED, 11))
    assert (reader.ended, reader.protocol_status, reader.application_status) == (True, 2, 11)


@pytest.mark.parametrize(
    "answer",
    [
        records.BROKEN,
        encode_record(records.STDIN, 1, b""),
        encode_record(records.END_REQUEST, 1, b"short"),
        records.ending(1, False) + encode_record(records.STDOUT, 1, b"x"),
        encode_record(records.STDOUT, 1, b"") + encode_record(records.STDOUT, 1, b"x"),
        encode_record(records.GET_VALUES, 0, b""),
        encode_record(records.UNKNOWN_TYPE, 0, b"short"),
        encode_record(records.GET_VALUES_RESULT, 0, b"\x09"),
    ],
)
def test_a_broken_answer_is_refused(answer: bytes) -> None:
    """What an application may not send raises ProtocolError; our own mark of a broken response does, too."""
    with pytest.raises(ProtocolError):
        ResponseReader().receive(answer)


def test_request_bytes() -> None:
    """BEGIN_REQUEST, PARAMS, empty PARAMS; then STDIN, whose end is an empty record."""
    assert encode_request({"A": "é"}, keep_conn=True, request_id=2) == (
        b"\x01\x01\x00\x02\x00\x08\x00\x00" + b"\x00\x01\x01" + bytes(5)
        + b"\x01\x04\x00\x02\x00\x04\x00\x00" + b"\x01\x01A\xe9"
        + b"\x01\x04\x00\x02\x00\x00\x00\x00"
    )  # fmt: skip
    assert encode_stdin(b"x", 2) == b"\x01\x05\x00\x02\x00\x01\x00\x00x"
    assert encode_stdin(b"") == b"\x01\x05\x00\x01\x00\x00\x00\x00"

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol import codec, fastcgi
from prefork.protocol import fastcgi_records as records
from prefork.protocol.codec import HeadLimits
from prefork.protocol.fastcgi import Reader
from prefork.protocol.fastcgi_client import encode_request, encode_stdin
from prefork.protocol.fastcgi_records import encode_begin_request, encode_header, encode_pairs, encode_record

LIMITS = HeadLimits(65_536, 200, 8)
GET = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/hello", "HTTP_COOKIE": "c" * 300}

Trace = list[tuple[str, Any]]


def drive(chunks: list[bytes], limits: HeadLimits = LIMITS, reader: Reader | None = None) -> tuple[Trace, bytes]:
    """What a reader makes of the chunks: its events, pieces of the body joined, and its replies."""
    reader = reader or Reader(limits)
    trace: Trace = []
    replies = b""
    try:
        for chunk in chunks:
            reader.receive(chunk)
            while (event := reader.next_event()) != codec.NEED_DATA:
                if event == codec.REQUEST:
                    assert reader.request is not None
                    trace.append(("request", (reader.identifier, reader.keep_connection, reader.request.environ)))
                elif event == codec.BODY:
                    assert reader.piece
                    if trace[-1][0] == "body":
                        trace[-1] = ("body", trace[-1][1] + reader.piece)
                    else:
                        trace.append(("body", reader.piece))
                elif event == codec.END_OF_BODY:
                    assert reader.body_ended
                    trace.append(("end", None))
                elif event == codec.ABORTED:
                    trace.append(("aborted", None))
                else:
                    assert event == codec.REFUSED
                    trace.append(("refused", None))
            replies += reader.take_replies()
    except ProtocolError as error:
        trace.append(("error", error.status))
        replies += reader.take_replies()
    return trace, replies


def params(identifier: int = 1, pairs: bytes = b"", padding: int = 0) -> bytes:
    return encode_record(records.PARAMS, identifier, pairs, padding)


PAIRS = encode_pairs([(name.encode(), value.encode()) for name, value in GET.items()])
ENVIRON = {
    **GET,
    "SCRIPT_NAME": "",
    "PATH_INFO": "/hello",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.0",
}
REQUEST = ("request", (1, False, ENVIRON))
KEPT = ("request", (1, True, ENVIRON))
END = ("end", None)
BEGIN = encode_begin_request(1)
HEAD = BEGIN + params(1, PAIRS) + params(1)
EOF = encode_header(records.STDIN, 1, 0)
ABORT = encode_header(records.ABORT_REQUEST, 1, 0)
BIG = bytes(range(256)) * 255 + bytes(255)  # 65,535 bytes


def get_values(*names: bytes) -> bytes:
    return encode_record(records.GET_VALUES, 0, encode_pairs([(name, b"") for name in names]))


def values_result(**values: str) -> bytes:
    pairs = encode_pairs([(name.encode(), value.encode()) for name, value in values.items()])
    return encode_record(records.GET_VALUES_RESULT, 0, pairs)


CASES: dict[str, tuple[bytes, Trace, bytes]] = {
    "nothing": (b"", [], b""),
    "the usual request": (HEAD + EOF, [REQUEST, END], b""),
    "padding everywhere": (
        encode_record(records.BEGIN_REQUEST, 1, BEGIN[8:], 255)
        + params(1, PAIRS, 255)
        + params(1, b"", 255)
        + encode_record(records.STDIN, 1, b"abc", 255)
        + encode_record(records.STDIN, 1, b"", 255),
        [REQUEST, ("body", b"abc"), END],
        b"",
    ),
    "nginx's padding": (BEGIN + params(1, PAIRS, 7) + params(1) + EOF, [REQUEST, END], b""),
    "reserved bytes are ignored": (
        encode_record(records.BEGIN_REQUEST, 1, b"\x00\x01\x00\xff\xff\xff\xff\xff") + HEAD[16:] + EOF,
        [REQUEST, END],
        b"",
    ),
    "unknown flags are ignored": (
        encode_record(records.BEGIN_REQUEST, 1, b"\x00\x01\xfe\x00\x00\x00\x00\x00") + HEAD[16:] + EOF,
        [REQUEST, END],
        b"",
    ),
    "a connection to keep": (encode_begin_request(1, flags=records.KEEP_CONN) + HEAD[16:] + EOF, [KEPT, END], b""),
    "another id": (
        encode_begin_request(0xFFFE) + params(0xFFFE, PAIRS) + params(0xFFFE) + encode_header(records.STDIN, 0xFFFE, 0),
        [("request", (0xFFFE, False, ENVIRON)), END],
        b"",
    ),
    "parameters split in the middle of pairs": (
        BEGIN + b"".join(params(1, PAIRS[i : i + 3]) for i in range(0, len(PAIRS), 3)) + params(1) + EOF,
        [REQUEST, END],
        b"",
    ),
    "parameters in two records": (BEGIN + params(1, PAIRS[:5]) + params(1, PAIRS[5:]) + params(1), [REQUEST], b""),
    "no parameters, ended twice": (BEGIN + params(1) + params(1) + EOF, [("error", 400)], b""),
    "parameters ended twice": (HEAD + params(1) + EOF, [REQUEST, END], b""),
    "the largest record": (
        HEAD + encode_record(records.STDIN, 1, BIG, 255) + EOF,
        [REQUEST, ("body", BIG), END],
        b"",
    ),
    "a body in records of one byte": (
        HEAD + b"".join(encode_record(records.STDIN, 1, bytes((i,))) for i in b"hello") + EOF,
        [REQUEST, ("body", b"hello"), END],
        b"",
    ),
    "the body's end twice": (HEAD + EOF + EOF, [REQUEST, END], b""),
    "bytes after the body's end": (HEAD + EOF + encode_stdin(b"x"), [REQUEST, END, ("error", 400)], b""),
    "DATA is skipped": (HEAD + encode_record(records.DATA, 1, b"xyz") + EOF, [REQUEST, END], b""),
    "records of unknown ids are skipped": (
        params(3, b"junk") + HEAD + encode_record(records.STDIN, 9, b"junk", 9) + EOF,
        [REQUEST, END],
        b"",
    ),
    "a second id is told that nothing is multiplexed": (
        HEAD + encode_begin_request(2) + params(2, PAIRS) + params(2) + encode_header(records.STDIN, 2, 0) + EOF,
        [REQUEST, END],
        records.encode_end_request(2, records.CANT_MPX_CONN),
    ),
    "a second id within the head": (
        BEGIN + encode_begin_request(2) + HEAD[16:] + EOF,
        [REQUEST, END],
        records.encode_end_request(2, records.CANT_MPX_CONN),
    ),
    "the same id twice": (HEAD + BEGIN, [REQUEST, ("error", 400)], b""),
    "the same id twice within the head": (BEGIN + BEGIN, [("error", 400)], b""),
    "another role": (
        encode_begin_request(1, records.AUTHORIZER) + params(1, PAIRS),
        [("refused", None)],
        records.encode_end_request(1, records.UNKNOWN_ROLE),
    ),
    "another role, and then ours": (
        encode_begin_request(1, records.FILTER, records.KEEP_CONN) + params(1, PAIRS) + HEAD + EOF,
        [REQUEST, END],
        records.encode_end_request(1, records.UNKNOWN_ROLE),
    ),
    "a role of 16 bits": (
        encode_begin_request(1, 0x0101),
        [("refused", None)],
        records.encode_end_request(1, records.UNKNOWN_ROLE),
    ),
    "aborted in the body": (HEAD + encode_stdin(b"ab") + ABORT, [REQUEST, ("body", b"ab"), ("aborted", None)], b""),
    "aborted after the body": (HEAD + EOF + ABORT, [REQUEST, END, ("aborted", None)], b""),
    "aborted in the head": (
        BEGIN + params(1, PAIRS[:9]) + ABORT,
        [("refused", None)],
        records.encode_end_request(1, records.REQUEST_COMPLETE),
    ),
    "aborted in the head, and then another": (
        encode_begin_request(1, flags=records.KEEP_CONN) + params(1, PAIRS[:9]) + ABORT + HEAD + EOF,
        [REQUEST, END],
        records.encode_end_request(1, records.REQUEST_COMPLETE),
    ),
    "an abort of nothing": (ABORT + HEAD + EOF, [REQUEST, END], b""),
    "all values": (
        get_values(b"FCGI_MPXS_CONNS", b"FCGI_MAX_CONNS", b"FCGI_MAX_REQS"),
        [],
        values_result(FCGI_MAX_CONNS="8", FCGI_MAX_REQS="8", FCGI_MPXS_CONNS="0"),
    ),
    "only known values, within a request": (
        BEGIN + get_values(b"FCGI_MAX_REQS", b"FCGI_WHATEVER") + HEAD[16:] + get_values() + EOF,
        [REQUEST, END],
        values_result(FCGI_MAX_REQS="8") + values_result(),
    ),
    "values that go on after the end": (encode_record(records.GET_VALUES, 0, b"\x05"), [("error", 400)], b""),
    "unknown management types": (
        encode_record(99, 0, b"x" * 30) + encode_header(98, 0, 0),
        [],
        records.encode_unknown_type(99) + records.encode_unknown_type(98),
    ),
    "a management record that is too large": (encode_record(99, 0, bytes(1_025)), [("error", 400)], b""),
    "another version": (b"\x02" + HEAD[1:], [("error", 400)], b""),
    "another version later": (HEAD + b"\x00" + EOF[1:], [REQUEST, ("error", 400)], b""),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", [("error", 400)], b""),
    "BEGIN_REQUEST of another size": (encode_record(records.BEGIN_REQUEST, 1, bytes(7)), [("error", 400)], b""),
    "BEGIN_REQUEST with id 0": (encode_begin_request(0), [("error", 400)], b""),
    "STDIN within the head": (BEGIN + EOF, [("error", 400)], b""),
    "PARAMS after the head": (HEAD + params(1, PAIRS), [REQUEST, ("error", 400)], b""),
    "a type that only applications send": (HEAD + encode_header(records.STDOUT, 1, 0), [REQUEST, ("error", 400)], b""),
    "a bad method": (
        BEGIN + params(1, encode_pairs([(b"REQUEST_METHOD", b"G T")])) + params(1),
        [("error", 400)],
        b"",
    ),
    "a pair without an end": (BEGIN + params(1, PAIRS[:-1]) + params(1), [("error", 400)], b""),
    "a NUL": (BEGIN + params(1, PAIRS + encode_pairs([(b"X", b"\0")])) + params(1), [("error", 400)], b""),
}


@pytest.mark.parametrize("case", CASES)
def test_whole(case: str) -> None:
    """Each case, received at once."""
    stream, trace, replies = CASES[case]
    assert drive([stream]) == (trace, replies)


@pytest.mark.parametrize("case", CASES)
def test_byte_by_byte(case: str) -> None:
    """Each case, received in single bytes."""
    stream, trace, replies = CASES[case]
    assert drive([stream[i : i + 1] for i in range(len(stream))]) == (trace, replies)


@pytest.mark.parametrize("size", [0, 1, len(HEAD), 10**6])
@pytest.mark.parametrize("before", CASES)
def test_after_another_connection(before: str, size: int) -> None:
    """A reader that can be renewed after a connection, wherever that broke off, is as good as a new one."""
    for case, (stream, trace, replies) in CASES.items():
        reader = Reader(LIMITS)
        drive([CASES[before][0][:size]], reader=reader)
        if not reader.renew():
            return
        assert (reader.answerable, reader.body_ended, reader.is_over()) == (False, True, True)
        assert drive([stream], reader=reader) == (trace, replies), case


@pytest.mark.parametrize("flags", [0, records.KEEP_CONN])
def test_usual_connections_have_one_reader(flags: int) -> None:
    """Nothing is left of a request that was answered, be its body unread; what is more makes a new one necessary."""
    reader = Reader(LIMITS)
    head = encode_begin_request(1, flags=flags) + HEAD[16:]
    for rest in (EOF, b"", encode_stdin(b"unread") + EOF):
        assert drive([head], reader=reader)[0][0][0] == "request"
        reader.receive(rest)
        assert reader.renew()
        assert (reader.request, reader.keep_connection, reader.pending) == (None, False, False)
    drive([head + EOF + encode_stdin(b"more")], reader=reader)
    assert not reader.renew()


@given(st.sampled_from(sorted(CASES)), st.data())
def test_at_random_splits(case: str, data: st.DataObject) -> None:
    """Each case, received in any pieces."""
    stream, trace, replies = CASES[case]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert drive(chunks) == (trace, replies)


@pytest.mark.parametrize(
    ("size", "status"), [(len(PAIRS), None), (len(PAIRS) - 1, 431)], ids=["exactly", "one byte more"]
)
@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_head_size(size: int, status: int | None, step: int) -> None:
    """The head may have as many bytes as the limit says, in however many records, and not one more."""
    stream = BEGIN + b"".join(params(1, PAIRS[i : i + step]) for i in range(0, len(PAIRS), step)) + params(1)
    trace, _ = drive([stream], HeadLimits(size, 200))
    assert trace == [REQUEST if status is None else ("error", status)]


def test_a_declared_size_is_refused_before_its_bytes_arrive() -> None:
    """The record's header alone is enough to refuse a head that is too large."""
    assert drive([BEGIN + encode_header(records.PARAMS, 1, 1_025)], HeadLimits(1_024, 200))[0] == [("error", 431)]


@pytest.mark.parametrize(("count", "status"), [(100 + 5, None), (100 + 6, 431)])
def test_header_count(count: int, status: int | None) -> None:
    """As many headers as the limit says fit besides the hundred variables of CGI."""
    pairs = [(b"REQUEST_METHOD", b"GET")] + [(b"HTTP_%d" % i, b"") for i in range(count - 1)]
    trace, _ = drive([BEGIN + params(1, encode_pairs(pairs)) + params(1)], HeadLimits(65_536, 5))
    assert trace[0][0] == "request" if status is None else trace == [("error", status)]


def test_records_of_no_request_are_bounded() -> None:
    """A peer that sends nothing but empty records for unknown ids is cut off."""
    idle = encode_header(records.STDIN, 5, 0)
    assert drive([idle * fastcgi.MAX_IGNORED_RECORDS])[0] == []
    assert drive([idle * (fastcgi.MAX_IGNORED_RECORDS + 1)])[0] == [("error", 400)]


def test_bytes_of_no_request_are_bounded() -> None:
    """So is one that sends large ones."""
    large = encode_record(records.STDIN, 5, bytes(65_535))
    assert drive([large] * 16)[0] == []
    assert drive([large] * 17)[0] == [("error", 400)]


def test_replies_are_bounded() -> None:
    """A peer cannot make us answer management records for ever."""
    ask = get_values(b"FCGI_MAX_CONNS")
    assert drive([ask * fastcgi.MAX_REPLIES])[0] == []
    assert drive([ask * (fastcgi.MAX_REPLIES + 1)])[0] == [("error", 400)]


def test_memory_of_a_streamed_body_is_flat() -> None:
    """The reader holds no more than what it was given last."""
    reader = Reader(LIMITS)
    reader.receive(HEAD)
    assert reader.next_event() == codec.REQUEST
    record = encode_record(records.STDIN, 1, bytes(32_768))
    for _ in range(200):
        reader.receive(record)
        assert reader.next_event() == codec.BODY
        assert len(reader.piece) == 32_768
        assert reader.next_event() == codec.NEED_DATA
        assert len(reader._data) <= len(record)


@pytest.mark.parametrize("head", [HEAD, encode_begin_request(1, flags=records.KEEP_CONN) + HEAD[16:]])
@pytest.mark.parametrize("rest", [EOF, encode_stdin(b"unread") + EOF, b""])
def test_requests_follow_each_other(head: bytes, rest: bytes) -> None:
    """After `release` what is left of the old request is skipped, and the next one is read."""
    reader = Reader(LIMITS)
    reader.receive(head + rest)
    assert reader.next_event() == codec.REQUEST
    reader.release()
    assert (reader.identifier, reader.request, reader.body_ended) == (0, None, True)
    reader.receive(head + EOF)
    assert reader.next_event() == codec.REQUEST
    assert reader.next_event() == codec.END_OF_BODY
    assert reader.next_event() == codec.NEED_DATA


def test_release_within_a_record_of_the_body() -> None:
    """A record of the old body that has arrived in part is skipped to its end."""
    reader = Reader(LIMITS)
    body = encode_record(records.STDIN, 1, bytes(100), 5)
    reader.receive(HEAD + body[:50])
    assert [reader.next_event(), reader.next_event()] == [codec.REQUEST, codec.BODY]
    reader.release()
    reader.receive(body[50:] + HEAD)
    assert reader.next_event() == codec.REQUEST


def test_response_is_framed_for_the_request_at_hand() -> None:
    """Records carry the request's id, and the ending follows its KEEP_CONN."""
    reader = Reader(LIMITS)
    reader.receive(encode_request(GET, keep_conn=True, request_id=7))
    assert reader.next_event() == codec.REQUEST
    assert b"".join(reader.encode(b"h", [b"ab", b"c"], 3, False)) == encode_record(records.STDOUT, 7, b"habc")
    assert b"".join(reader.encode(b"", [], 0, True)) == records.ending(7, True)
    assert reader.encode_errors(b"oh") == encode_record(records.STDERR, 7, b"oh")
    assert reader.encode_file_header(5) == encode_header(records.STDOUT, 7, 5)
    assert reader.encode_filler(3) == b"\0\0\0"
    assert reader.encode_break() == records.BROKEN
    assert b"".join(reader.encode_plain(400, has_body=False)) == records.encode_record(
        records.STDOUT, 7, b"Status: 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\r\n"
    ) + records.ending(7, True)


def test_a_responses_head_is_cgi() -> None:
    """A ``Status`` field, since nginx ignores a status line; latin-1 as PEP 3333 has it."""
    head = Reader(LIMITS).encode_head("404 Nöt Found", "A: b\r\n", -1, True)
    assert head == b"Status: 404 N\xf6t Found\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("identifier", [1, 2, 65_535])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "size", [0, 1, 255, 256, records.FULL_RECORD - 1, records.FULL_RECORD, records.FULL_RECORD + 1]
)
def test_every_request_is_answered_alike(identifier: int, keep: bool, size: int) -> None:
    """The short way to write the records of request 1 writes what the long one does for all others."""
    reader = Reader(LIMITS)
    reader.receive(encode_begin_request(identifier, flags=keep))
    reader.next_event()
    body = b"x" * size
    for head in (b"", b"head"):
        for last in (False, True):
            out = b"".join(reader.encode(head, [body[:1], body[1:]] if size else [], size, last))
            content = head + body
            expected = b"".join(
                encode_record(records.STDOUT, identifier, content[start : start + records.FULL_RECORD])
                for start in range(0, len(content), records.FULL_RECORD)
            )
            assert out == expected + (records.ending(identifier, keep) if last else b"")

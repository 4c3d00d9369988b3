"""HTTP/1 from raw bytes: every message is fed whole, byte by byte and in random pieces, with one outcome."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol import codec, http1_fields
from prefork.protocol.codec import HeadLimits
from prefork.protocol.http1 import CONTINUE, Origin, Reader

LIMITS = HeadLimits(4_096, 20)
UNIX = Origin("", "", True, "localhost", "")
STRANGER = Origin("192.0.2.7", "4711", False, "10.0.0.1", "8000")
DATE = "Fri, 01 Jan 2100 00:00:00 GMT"

Trace = list[tuple[str, Any]]


def make(origin: Origin = UNIX, limits: HeadLimits = LIMITS) -> Reader:
    return Reader(limits, origin, lambda: DATE)


def drive(chunks: list[bytes], reader: Reader | None = None) -> Trace:
    """What a reader makes of the chunks: its events, the pieces of the body joined, errors as their status."""
    reader = reader or make()
    trace: Trace = []
    try:
        for chunk in chunks:
            reader.receive(chunk)
            while (event := reader.next_event()) != codec.NEED_DATA:
                if event == codec.REQUEST:
                    assert reader.request is not None
                    trace.append(("request", reader.request))
                elif event == codec.BODY:
                    assert reader.piece
                    if trace[-1][0] == "body":
                        trace[-1] = ("body", trace[-1][1] + reader.piece)
                    else:
                        trace.append(("body", reader.piece))
                else:
                    assert event == codec.END_OF_BODY
                    assert reader.body_ended
                    trace.append(("end", None))
    except ProtocolError as error:
        trace.append(("error", error.status))
    return trace


def pieces_of(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and cut in two everywhere that a short message allows."""
    single = [data[index : index + 1] for index in range(len(data))]
    halves = [[data[:cut], data[cut:]] for cut in range(1, len(data), max(1, len(data) // 40))]
    return [[data], single, *halves]


def refusal(data: bytes) -> int:
    """The status that a message is refused with, however it is cut; no request may come of it."""
    outcomes = []
    for chunks in pieces_of(data):
        trace = drive(chunks)
        assert [kind for kind, _ in trace] == ["error"], trace
        outcomes.append(trace[0][1])
    assert len(set(outcomes)) == 1, outcomes
    return int(outcomes[0])


def environ_of(data: bytes, origin: Origin = UNIX) -> dict[str, Any]:
    """The environ of a request without a body, however it is cut."""
    found = []
    for chunks in pieces_of(data):
        trace = drive(chunks, make(origin))
        assert [kind for kind, _ in trace] == ["request", "end"], trace
        found.append(trace[0][1].environ)
    assert all(environ == found[0] for environ in found)
    environ: dict[str, Any] = found[0]
    return environ


def body_of(data: bytes) -> bytes:
    """The body of a request, however it is cut."""
    found = []
    for chunks in pieces_of(data):
        trace = drive(chunks)
        assert trace[0][0] == "request"
        assert trace[-1][0] == "end", trace
        found.append(b"".join(part for kind, part in trace if kind == "body"))
    assert len(set(found)) == 1
    return found[0]


def head(*fields: str, line: str = "GET / HTTP/1.1", host: str | None = "Host: x") -> bytes:
    lines = [line, *([host] if host is not None else []), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(*fields: str, line: str = "POST / HTTP/1.1") -> bytes:
    return head(*fields, line=line)


CHUNKED = post("Transfer-Encoding: chunked")

# -- what a request becomes


def test_a_request_becomes_an_environ() -> None:
    """Every key that PEP 3333 promises, and the ones that tell the target as it was sent."""
    fields = ("Accept: a", "X-Request-ID: r", "Content-Type: t")
    data = head(*fields, line="GET /a%20b/%C3%A9?q=%20 HTTP/1.1", host="Host: h:81")
    assert environ_of(data) == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\xc3\xa9",
        "QUERY_STRING": "q=%20",
        "REQUEST_URI": "/a%20b/%C3%A9?q=%20",
        "RAW_URI": "/a%20b/%C3%A9?q=%20",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "h",
        "SERVER_PORT": "81",
        "REMOTE_ADDR": "",
        "HTTP_HOST": "h:81",
        "HTTP_ACCEPT": "a",
        "HTTP_X_REQUEST_ID": "r",
        "CONTENT_TYPE": "t",
    }


def test_a_path_is_decoded_exactly_once() -> None:
    """%252e stays %2e, an escape that is none stays as it is, and a plus is no space."""
    assert environ_of(head(line="GET /%252e%zz+%2 HTTP/1.1"))["PATH_INFO"] == "/%2e%zz+%2"


@pytest.mark.parametrize(
    ("line", "path", "host"),
    [
        ("GET http://y:90/p?q HTTP/1.1", "/p", "y:90"),
        ("GET HTTPS://y HTTP/1.1", "/", "y"),
        ("GET http://y?q HTTP/1.1", "/", "y"),
        ("OPTIONS * HTTP/1.1", "/", "x"),
        ("GET //y/p HTTP/1.1", "//y/p", "x"),
        ("GET /http://y/p HTTP/1.1", "/http://y/p", "x"),
    ],
)
def test_forms_of_a_target(line: str, path: str, host: str) -> None:
    """A path, an http URL, whose host then counts, or * for OPTIONS; REQUEST_URI keeps what was sent."""
    environ = environ_of(head(line=line))
    assert (environ["PATH_INFO"], environ["HTTP_HOST"]) == (path, host)
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == line.split(" ")[1]


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("a.b", "a.b", "80"),
        ("a:8", "a", "8"),
        ("[::1]:8", "[::1]", "8"),
        ("[::1]", "[::1]", "80"),
        ("", "localhost", "80"),
    ],
)
def test_the_server_is_what_the_client_asked_for(host: str, name: str, port: str) -> None:
    """SERVER_NAME and SERVER_PORT come from Host; what it leaves out has a default."""
    environ = environ_of(head(host=f"Host: {host}"))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)


def test_hosts_are_remembered_within_bounds() -> None:
    """Whoever asks for ever new names does not fill the memory."""
    for number in range(1_000):
        assert drive([head(host=f"Host: h{number}:8")])[0][1].environ["SERVER_NAME"] == f"h{number}"
    assert len(http1_fields._HOSTS) <= http1_fields._MAX_HOSTS


def test_without_a_host_it_is_where_the_client_arrived() -> None:
    """HTTP/1.0 may leave Host out: then it is the listener's own name and port."""
    environ = environ_of(head(line="GET / HTTP/1.0", host=None), STRANGER)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("10.0.0.1", "8000")
    assert "HTTP_HOST" not in environ


def test_names_that_deceive_are_dropped() -> None:
    """Proxy never becomes HTTP_PROXY; a name with an underscore does not stand in for one with a hyphen."""
    fields = ("Proxy: p", "pRoXy: p", "X_Forwarded_For: 6.6.6.6", "X-Real_IP: 6.6.6.6", "Content_Length: 5")
    environ = environ_of(head(*fields))
    assert [key for key in environ if "PROXY" in key or "FORWARDED" in key or "REAL" in key or "LENGTH" in key] == []


def test_repeated_fields_are_joined() -> None:
    """Cookies with a semicolon (RFC 6265), others with a comma (RFC 9110); blanks around values go."""
    environ = environ_of(head("Cookie: a=1", "cookie:b=2 \t", "Accept: \t x", "ACCEPT: y", "X-Empty:", "X-Empty: "))
    assert (environ["HTTP_COOKIE"], environ["HTTP_ACCEPT"]) == ("a=1; b=2", "x, y")
    assert environ["HTTP_X_EMPTY"] == ", "


def test_values_are_latin_1() -> None:
    """Bytes beyond ASCII in a value arrive as PEP 3333 wants them."""
    assert environ_of(head("X: \xe9\xff"))["HTTP_X"] == "\xe9\xff"


# -- proxies

FORWARDED = ("X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Forwarded-Proto: HTTPS")


def test_a_proxy_is_believed() -> None:
    """The last X-Forwarded-For is the client, X-Forwarded-Proto the scheme, and the port follows it."""
    trace = drive([head(*FORWARDED)])
    environ = trace[0][1].environ
    assert trace[0][1].scheme == "https"
    assert (environ["REMOTE_ADDR"], environ["HTTPS"], environ["SERVER_PORT"]) == ("203.0.113.9", "on", "443")
    assert "REMOTE_PORT" not in environ


def test_the_nearest_proxy_has_the_last_word() -> None:
    """Of several fields and entries the last one counts; what is no address is not taken."""
    fields = ("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2001:db8::1", "X-Forwarded-Proto: https,http")
    environ = environ_of(head(*fields))
    assert (environ["REMOTE_ADDR"], environ.get("HTTPS")) == ("2001:db8::1", None)
    assert environ_of(head("X-Forwarded-For: 1.1.1.1, <script>"))["REMOTE_ADDR"] == ""


def test_a_stranger_is_not_believed() -> None:
    """Of somebody who is no proxy the address counts from which he came."""
    trace = drive([head(*FORWARDED)], make(STRANGER))
    environ = trace[0][1].environ
    assert trace[0][1].scheme == "http"
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"], environ.get("HTTPS")) == ("192.0.2.7", "4711", None)


# -- bodies


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (post("Content-Length: 5") + b"hello", b"hello"),
        (post("Content-Length: 0005 ") + b"hello", b"hello"),
        (post("Content-Length: 0"), b""),
        (post(), b""),
        (post("content-length: 3", line="POST / HTTP/1.0") + b"abc", b"abc"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (CHUNKED + b"000000000000000a\r\n0123456789\r\n1\r\n\n\r\n00\r\n\r\n", b"0123456789\n"),
        (CHUNKED + b'A;x;y=z;q="a;\\" b"\r\n0123456789\r\n0;last\r\n\r\n', b"0123456789"),
        (CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nHost: z\r\nY:\r\n\r\n", b"hi"),
        (post("transfer-encoding: \tChunked ") + b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
    ],
)
def test_bodies(data: bytes, body: bytes) -> None:
    """Counted and chunked bodies arrive as they were sent; extensions and trailers are read over."""
    assert body_of(data) == body


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.data())
def test_chunked_bodies_however_they_arrive(chunks: list[bytes], data: st.DataObject) -> None:
    """Any body in any chunks in any pieces; what follows it is left unread and known to be there."""
    stream = CHUNKED + b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    stream += b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reader = make()
    trace = drive([part for part in parts if part], reader)
    assert [kind for kind, _ in trace] == ["request", *(["body"] if chunks else []), "end"]
    assert b"".join(part for kind, part in trace if kind == "body") == b"".join(chunks)
    assert reader.overrun


def test_content_length_is_told_and_never_invented() -> None:
    """The request knows its length where the client said it; chunked it is unknown, also to the environ."""
    assert drive([post("Content-Length: 5")])[0][1].content_length == 5
    request = drive([CHUNKED])[0][1]
    assert request.content_length == -1
    assert "CONTENT_LENGTH" not in request.environ


# -- what is refused: framing

FRAMING = {
    "both lengths": (post("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "both lengths, turned": (post("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "chunked in 1.0": (post("Transfer-Encoding: chunked", line="POST / HTTP/1.0"), 400),
    "another coding": (post("Transfer-Encoding: gzip"), 400),
    "another coding first": (post("Transfer-Encoding: gzip, chunked"), 501),
    "another coding first, in two fields": (post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), 501),
    "chunked twice": (post("Transfer-Encoding: chunked, chunked"), 400),
    "chunked twice, in two fields": (post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "chunked, then another": (post("Transfer-Encoding: chunked, identity"), 400),
    "nearly chunked": (post("Transfer-Encoding: xchunked"), 400),
    "chunked with a tab inside": (post("Transfer-Encoding: chun\tked"), 400),
    "chunked behind a control": (post("Transfer-Encoding: \x0bchunked"), 400),
    "chunked with a parameter": (post("Transfer-Encoding: chunked;q=1"), 400),
    "an empty coding": (post("Transfer-Encoding:"), 400),
    "an empty coding before": (post("Transfer-Encoding: , chunked"), 400),
    "a signed length": (post("Content-Length: +10"), 400),
    "a negative length": (post("Content-Length: -1"), 400),
    "a hexadecimal length": (post("Content-Length: 0x1"), 400),
    "a length with an underscore": (post("Content-Length: 1_0"), 400),
    "a length in Arabic": (post("Content-Length: \xd9\xa1"), 400),
    "two lengths in one": (post("Content-Length: 5, 5"), 400),
    "two lengths": (post("Content-Length: 5", "Content-Length: 5"), 400),
    "two different lengths": (post("Content-Length: 5", "Content-Length: 6"), 400),
    "an empty length": (post("Content-Length:"), 400),
    "an endless length": (post("Content-Length: " + "9" * 30), 400),
    "a length beyond what is counted": (post("Content-Length: 9999999999999999999"), 400),
    "a space before the colon": (post("Content-Length : 5"), 400),
    "a tab before the colon": (post("Transfer-Encoding\t: chunked"), 400),
    "a folded line": (post("Transfer-Encoding:", " chunked"), 400),
    "a folded line later": (head("A: b", "\tc"), 400),
    "a space before the first field": (head(host=" Host: x"), 400),
}


@pytest.mark.parametrize(("data", "status"), FRAMING.values(), ids=FRAMING)
@pytest.mark.parametrize("follower", [b"", b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_ambiguous_framing_is_refused(data: bytes, status: int, follower: bytes) -> None:
    """Whatever leaves open where a message ends is refused, and nothing behind it is ever taken for a request."""
    assert refusal(data + follower) == status


SYNTAX = {
    "LF alone": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "LF alone after a field": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "LF alone at the end": (b"GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    "CR alone": (b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", 400),
    "CR alone after the request line": (b"GET / HTTP/1.1\rHost: x\r\n\r\n", 400),
    "NUL in a value": (head("A: b\0c"), 400),
    "NUL in a name": (head("A\0: b"), 400),
    "a control in a value": (head("A: b\x01c"), 400),
    "DEL in a value": (head("A: b\x7fc"), 400),
    "a field without a name": (head(": b"), 400),
    "a field without a colon": (head("A"), 400),
    "a name beyond ASCII": (head("\xc4: b"), 400),
    "no Host": (head(host=None), 400),
    "no Host beside a URL": (head(line="GET http://y/ HTTP/1.1", host=None), 400),
    "no host in Host beside a URL": (head(line="GET http://y/ HTTP/1.1", host="Host: a b"), 400),
    "no host in a URL": (head(line="GET http://a,b:c/ HTTP/1.1"), 400),
    "two Hosts": (head("Host: x"), 400),
    "two Hosts in 1.0": (head("Host: y", line="GET / HTTP/1.0"), 400),
    "no host in Host": (head(host="Host: a b"), 400),
    "a user in Host": (head(host="Host: u@h"), 400),
    "a path in Host": (head(host="Host: h/p"), 400),
    "two ports": (head(host="Host: h:1:2"), 400),
    "two Content-Types": (head("Content-Type: a", "Content-Type: b"), 400),
    "two empty lines": (b"\r\n\r\n" + head(), 400),
    "LF alone before": (b"\n" + head(), 400),
    "CR alone before": (b"\r" + head(), 400),
    "two spaces": (head(line="GET  / HTTP/1.1"), 400),
    "two spaces later": (head(line="GET /  HTTP/1.1"), 400),
    "a space at the end": (head(line="GET / HTTP/1.1 "), 400),
    "a tab": (head(line="GET\t/ HTTP/1.1"), 501),
    "no version": (head(line="GET /"), 400),
    "a space in the target": (head(line="GET /a b HTTP/1.1"), 400),
    "NUL in the target": (head(line="GET /\0 HTTP/1.1"), 400),
    "a tab in the target": (head(line="GET /\t HTTP/1.1"), 400),
    "beyond ASCII in the target": (head(line="GET /\xe9 HTTP/1.1"), 400),
    "NUL encoded": (head(line="GET /%00 HTTP/1.1"), 400),
    "a fragment": (head(line="GET /a#b HTTP/1.1"), 400),
    "a relative target": (head(line="GET a HTTP/1.1"), 400),
    "another scheme": (head(line="GET ftp://x/ HTTP/1.1"), 400),
    "a URL without a host": (head(line="GET http:///p HTTP/1.1"), 400),
    "a URL with a user": (head(line="GET http://u@h/ HTTP/1.1"), 400),
    "a star without OPTIONS": (head(line="GET * HTTP/1.1"), 400),
    "CONNECT": (head(line="CONNECT x:443 HTTP/1.1"), 400),
    "CONNECT with a path": (head(line="CONNECT / HTTP/1.1"), 400),
    "an unknown method": (head(line="FROB / HTTP/1.1"), 501),
    "a method in lower case": (head(line="get / HTTP/1.1"), 501),
    "HTTP/0.9": (head(line="GET / HTTP/0.9"), 505),
    "HTTP/1.2": (head(line="GET / HTTP/1.2"), 505),
    "HTTP/2.0": (head(line="GET / HTTP/2.0"), 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.10": (head(line="GET / HTTP/1.10"), 400),
    "http/1.1": (head(line="GET / http/1.1"), 400),
    "another protocol": (head(line="SOURCE / ICE/1.0"), 505),
    "a long request line": (head(line="GET /" + "a" * 5_000 + " HTTP/1.1"), 414),
    "a long field": (head("A: " + "b" * 5_000), 431),
    "many fields": (head(*[f"A{number}: b" for number in range(20)]), 431),
}


@pytest.mark.parametrize(("data", "status"), SYNTAX.values(), ids=SYNTAX)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    """Heads that RFC 9112 does not allow, or that this server does not serve, get their status."""
    assert refusal(data) == status


def test_limits_are_what_they_say() -> None:
    """A head of exactly max_header_size bytes with exactly max_header_count fields is served."""
    exact = head(*[f"A{number:02}: b" for number in range(18)])
    exact = head(*[f"A{number:02}: b" for number in range(18)], "B: " + "c" * (4_096 - len(exact) - 5))
    assert len(exact) == 4_096
    assert drive([exact])[0][0] == "request"
    assert drive([exact.replace(b"cc\r\n", b"ccc\r\n")]) == [("error", 431)]


def test_one_empty_line_before_a_request_is_read_over() -> None:
    """RFC 9112, section 2.2; one, and no more."""
    assert environ_of(b"\r\n" + head())["PATH_INFO"] == "/"


def test_an_offer_to_upgrade_is_not_taken() -> None:
    """The request is served as it is, its body where its length says."""
    fields = ("Connection: upgrade", "Upgrade: h2c, websocket", "Content-Length: 3")
    assert body_of(post(*fields) + b"abc") == b"abc"


CHUNKS = {
    "no digits": b"\r\n",
    "seventeen digits": b"00000000000000001\r\n",
    "a sign": b"+1\r\n",
    "0x": b"0x1\r\n",
    "an underscore": b"1_0\r\n",
    "a space before": b" 1\r\n",
    "a space after": b"1 \r\n",
    "more than 63 bits": b"ffffffffffffffff\r\n",
    "LF alone": b"1\nx\r\n",
    "LF alone first": b"\n",
    "CR alone in an extension": b"1;a\rb\r\n",
    "LF in an extension": b"1;a\nb\r\n",
    "NUL in an extension": b"1;a=\0\r\n",
    "an extension without a name": b"1;\r\n",
    "a long extension": b"1;" + b"a" * 300,
    "many extensions": (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100,
    "no CR LF after the data": b"1\r\nxy",
    "LF alone after the data": b"1\r\nx\n",
    "CR alone after the data": b"1\r\nx\r0",
    "a trailer without a colon": b"0\r\nA\r\n\r\n",
    "a length in a trailer": b"0\r\ncontent-length: 1\r\n\r\n",
    "a coding in a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a control in a trailer": b"0\r\nA: \x01\r\n\r\n",
    "LF alone in the trailers": b"0\r\nA: b\n\r\n",
    "LF alone at the end": b"0\r\n\n",
    "a long trailer": b"0\r\nA: " + b"b" * 9_000,
    "many trailers": b"0\r\n" + b"A: b\r\n" * 2_000,
}


@pytest.mark.parametrize("data", CHUNKS.values(), ids=CHUNKS)
def test_malformed_chunks_are_refused(data: bytes) -> None:
    """What is no chunk, or has no end, is 400 as soon as that is known; the request before it stays answerable."""
    for chunks in pieces_of(data):
        reader = make()
        trace = drive([CHUNKED, *chunks], reader)
        assert trace[0][0] == "request"
        assert trace[-1] == ("error", 400), trace[-1]
        assert reader.answerable


@pytest.mark.parametrize("name", ["a long trailer", "many trailers"])
def test_trailers_are_refused_by_what_is_allowed_of_all(name: str) -> None:
    """The limit that the message names is the limit, and not what earlier trailers have left of it."""
    reader = make()
    reader.receive(CHUNKED + CHUNKS[name])
    assert reader.next_event() == codec.REQUEST
    with pytest.raises(ProtocolError, match="the trailers have 8192 bytes or more"):
        reader.next_event()


# -- 100-continue

EXPECTING = post("Content-Length: 5", "Expect: 100-Continue")


def expects(data: bytes) -> Reader:
    reader = make()
    assert drive([data], reader)[0][0] == "request"
    return reader


def test_continue_is_said_once_and_only_to_who_waits() -> None:
    """To HTTP/1.1 with Expect and a body to come; not when the body is there already, and never after the answer."""
    reader = expects(EXPECTING)
    assert (reader.take_replies(), reader.take_replies()) == (CONTINUE, b"")
    assert expects(EXPECTING + b"he").take_replies() == b""
    assert expects(post("Content-Length: 0", "Expect: 100-continue")).take_replies() == b""
    assert expects(post("Content-Length: 5")).take_replies() == b""
    assert expects(post("Content-Length: 5", "Expect: 100-continue", line="POST / HTTP/1.0")).take_replies() == b""
    reader = expects(EXPECTING)
    reader.encode_head("200 OK", "", -1, True)
    assert reader.take_replies() == b""


# -- responses


def answer(request: bytes, fields: str, length: int, *pieces: bytes, has_body: bool = True) -> tuple[bytes, Reader]:
    """A response sent in pieces: the first with the head, the end by itself."""
    reader = expects(request)
    out = reader.encode(reader.encode_head("200 OK", fields, length, has_body), [], 0, False)
    for piece in pieces:
        out += reader.encode(b"", [piece], len(piece), False)
    return b"".join([*out, *reader.encode(b"", [], 0, True)]), reader


OK = f"HTTP/1.1 200 OK\r\n%sDate: {DATE}\r\nConnection: close\r\n\r\n"
GET_11, GET_10 = head(), head(line="GET / HTTP/1.0")


def test_a_response_of_known_length() -> None:
    """Head, bytes, nothing else; the connection is announced to close."""
    fields = "Content-Length: 3\r\n"
    for request in (GET_11, GET_10):
        data, reader = answer(request, fields, 3, b"ab", b"c")
        assert data == (OK % fields).encode() + b"abc"
        assert not reader.closes_to_end
        assert not reader.keep_connection


def test_a_response_of_unknown_length() -> None:
    """Chunked for HTTP/1.1; for HTTP/1.0 the end of the connection is its end."""
    data, reader = answer(GET_11, "A: b\r\n", -1, b"0123456789", b"c")
    assert data == (OK % "A: b\r\nTransfer-Encoding: chunked\r\n").encode() + b"a\r\n0123456789\r\n1\r\nc\r\n0\r\n\r\n"
    assert not reader.closes_to_end
    data, reader = answer(GET_10, "A: b\r\n", -1, b"0123456789", b"c")
    assert data == (OK % "A: b\r\n").encode() + b"0123456789c"
    assert reader.closes_to_end


def test_a_last_piece_and_its_end_in_one() -> None:
    """A piece may bring the end with it."""
    reader = expects(GET_11)
    out = reader.encode(reader.encode_head("200 OK", "", -1, True), [b"a", b"b"], 2, True)
    assert b"".join(out).endswith(b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")


@pytest.mark.parametrize("request_head", [GET_11, GET_10])
def test_a_response_without_a_body(request_head: bytes) -> None:
    """HEAD, 204 and 304 have a head and not a byte more, no last chunk either."""
    data, reader = answer(request_head, "", -1, has_body=False)
    assert data == (OK % "").encode()
    assert not reader.closes_to_end


@pytest.mark.parametrize("name", ["Date", "date", "DATE"])
def test_the_applications_own_date_counts(name: str) -> None:
    """Date is added where there is none, and only there; fields that end in the same letters are others."""
    data, _ = answer(GET_11, f"A: b\r\n{name}: now\r\n", 0)
    assert data.lower().count(b"\r\ndate:") == 1
    data, _ = answer(GET_11, "X-Update: now\r\n", 0)
    assert data.count(b"\r\nDate:") == 1


def test_a_break_is_silence() -> None:
    """A broken response just stops: without its last chunk, or short of its length."""
    reader = expects(GET_11)
    assert reader.encode_break() + reader.encode_errors(b"oh") == b""
    assert reader.encode_file_header(5) + reader.encode_filler(5) == b""


def test_what_the_server_answers_itself() -> None:
    """A short text with its length; to HEAD only the head."""
    data = b"".join(make().encode_plain(431, has_body=True))
    assert data.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain\r\n")
    assert data.endswith(b"\r\n\r\n431 Request Header Fields Too Large\n")
    assert b"".join(make().encode_plain(431, has_body=False)).endswith(b"Connection: close\r\n\r\n")


def test_there_is_no_second_request() -> None:
    """What follows a request is seen to be there, and never looked at."""
    reader = make()
    assert [kind for kind, _ in drive([head() + head(line="GET /second HTTP/1.1")], reader)] == ["request", "end"]
    assert reader.overrun
    reader.release()
    reader.receive(head())
    assert reader.next_event() == codec.NEED_DATA

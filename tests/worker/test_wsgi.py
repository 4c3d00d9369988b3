from __future__ import annotations

import gzip
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import ProtocolError
from wire import PLAIN, Answer, Desk, get, hello, post

App = Callable[..., Any]


def answering(result: Any, status: str = "200 OK", *fields: tuple[str, str]) -> App:
    """An application that returns this."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, [*PLAIN, *fields] if status[:3] not in ("204", "304") else list(fields))
        return result

    return application


def generating(*chunks: Any, fields: tuple[tuple[str, str], ...] = ()) -> App:
    """An application that is a generator."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[Any]:
        start_response("200 OK", [*PLAIN, *fields])
        yield from chunks

    return application


def traceback_of(desk: Desk) -> str:
    (event,) = desk.log.named("request_failed")
    text: str = event["traceback"]
    return text


def test_environ(desk: Desk) -> None:
    """A fresh plain dict with everything that PEP 3333 and we promise."""
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        return hello(environ, start_response)

    exchange = desk.exchange(application)
    for _ in range(2):
        with desk.client(exchange) as client:
            client.send(get(HTTPS="on"))
            client.answer()
    first, second = seen
    assert type(first) is dict
    assert first is not second
    assert first["wsgi.version"] == (1, 0)
    assert first["wsgi.url_scheme"] == "https"
    assert (first["wsgi.multithread"], first["wsgi.multiprocess"], first["wsgi.run_once"]) == (False, True, False)
    assert first["wsgi.input_terminated"] is True
    assert first["prefork.worker_slot"] == 3
    assert isinstance(first["prefork.request_id"], str)
    assert first["prefork.request_id"] != second["prefork.request_id"]
    assert callable(first["prefork.after_response"])


def test_parameters_cannot_replace_what_is_the_servers(desk: Desk) -> None:
    """A parameter called wsgi.input is overwritten, not believed."""
    environs: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environs.append(environ)
        return hello(environ, start_response)

    desk.ask(application, get(**{"wsgi.input": "x", "prefork.peer": "x"}))
    assert hasattr(environs[0]["wsgi.input"], "read")
    assert environs[0]["prefork.peer"] != "x"


@pytest.mark.parametrize("result", [[b"he", b"", b"llo"], (b"hello",), b"hello"])
def test_a_whole_body_is_sent_with_its_length(desk: Desk, result: Any) -> None:
    """Lists, tuples and bare bytes leave at once and get a Content-Length."""
    answer = desk.ask(answering(result), get())
    assert (answer.status, answer.body) == ("200 OK", b"hello")
    assert answer.fields == [("Content-Type", "text/plain"), ("Content-Length", "5")]


def test_an_empty_body_has_length_0(desk: Desk) -> None:
    """Nothing is something that is known."""
    assert desk.get(answering([])).field("Content-Length") is None  # the validator's result is no list
    assert desk.ask(answering([]), get()).field("Content-Length") == "0"


def test_a_length_given_is_kept(desk: Desk) -> None:
    """No second one is added."""
    answer = desk.get(answering([b"hello"], "200 OK", ("Content-Length", "5")))
    assert answer.field("Content-Length") == "5"
    assert answer.body == b"hello"


def test_a_generator_has_no_length(desk: Desk) -> None:
    """What is not known is not claimed."""
    answer = desk.get(generating(b"", b"a", b"", b"b", b""))
    assert (answer.body, answer.field("Content-Length")) == (b"ab", None)


def test_start_response_as_late_as_allowed(desk: Desk) -> None:
    """An iterable may call it while its first piece is asked for."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield b""
        start_response("201 Created", list(PLAIN))
        yield b"made"

    answer = desk.ask(application, get())
    assert (answer.status, answer.body) == ("201 Created", b"made")


def test_headers_are_taken_as_they_were(desk: Desk) -> None:
    """A list that is changed later changes nothing."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        fields = list(PLAIN)
        start_response("200 OK", fields)
        fields.append(("X-Late", "a\r\nb"))
        return [b"x"]

    answer = desk.ask(application, get())
    assert (answer.status, answer.field("X-Late")) == ("200 OK", None)


def test_write(desk: Desk) -> None:
    """The imperative way works, in order, with what is returned behind it."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(PLAIN))
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three"]

    assert desk.get(application).body == b"one two three"


def test_exc_info_replaces_headers_before_they_are_sent(desk: Desk) -> None:
    """An error page instead of the page."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        try:
            raise KeyError("x")
        except KeyError:
            start_response("500 Oops", [("Content-Type", "text/html")], sys.exc_info())
        return [b"sorry"]

    answer = desk.get(application)
    assert (answer.status, answer.field("Content-Type"), answer.body) == ("500 Oops", "text/html", b"sorry")
    assert desk.log.loud == []


def test_exc_info_after_headers_is_raised_again(desk: Desk) -> None:
    """Too late for an error page: the exception comes back, and the response is broken off."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        try:
            raise KeyError("the original")
        except KeyError:
            start_response("500 Oops", list(PLAIN), sys.exc_info())
        yield b"never"

    with pytest.raises(ProtocolError):
        desk.ask(application, get())
    assert "KeyError: 'the original'" in traceback_of(desk)


FAULTS: dict[str, tuple[App, str]] = {
    "None": (answering(None), "returned None"),
    "a str": (answering("text"), "returned a str"),
    "a list of str": (answering([b"a", "b"]), "item 1 of the application's result is str"),
    "a generator of str": (generating("b"), "item 0 of the application's result is str"),
    "bytearray": (answering([bytearray(b"x")]), "is bytearray"),
    "a number": (answering(5), "'int' object is not iterable"),
    "no start_response": (lambda environ, start_response: [b"x"], "without having called start_response"),
    "no start_response, nothing": (lambda environ, start_response: [], "without having called start_response"),
    "no start_response, iterated": (lambda environ, start_response: iter([b"x"]), "without having called"),
    "no start_response, nothing iterated": (lambda environ, start_response: iter([]), "without having called"),
    "start_response twice": (
        lambda environ, start_response: (hello(environ, start_response), hello(environ, start_response)),
        "second time without exc_info",
    ),
    "a bad status": (answering([], "OK"), "the status must be"),
    "a bad header": (answering([], "200 OK", ("X", "a\nb")), "X contains CR, LF or NUL"),
    "a str to write": (lambda environ, start_response: start_response("200 OK", [])("x"), "write() takes bytes"),
    "not enough arguments": (lambda environ: [], "positional argument"),
    "a recursion": (lambda environ, start_response: recurse(), "RecursionError"),
}


def recurse() -> Any:
    return recurse()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_the_headers_is_a_500_that_names_the_culprit_in_the_log(desk: Desk, fault: str) -> None:
    """The client learns nothing, the log everything, the worker lives."""
    application, message = FAULTS[fault]
    answer = desk.ask(application, get(REQUEST_URI="/x?y"))
    assert (answer.status, answer.body) == ("500 Internal Server Error", b"500 Internal Server Error\n")
    assert answer.field("Content-Length") == str(len(answer.body))
    assert message in traceback_of(desk)
    event = desk.log.named("request_failed")[0]
    assert (event["method"], event["uri"]) == ("GET", "/x?y")
    assert event["request_id"]
    assert not desk.exchanges[0].leave


def test_a_fault_of_head(desk: Desk) -> None:
    """Not even our own 500 has a body then; its length is that of GET."""
    answer = desk.ask(answering(None), get(REQUEST_METHOD="HEAD"))
    assert (answer.status[:3], answer.body, answer.field("Content-Length")) == ("500", b"", "26")


def test_a_fault_after_the_headers_is_visible(desk: Desk) -> None:
    """The response ends in a record that no proxy takes for an end."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        raise ValueError("late")

    exchange = desk.exchange(application)
    with desk.client(exchange) as client:
        client.send(get())
        with pytest.raises(ProtocolError):
            client.answer()
        assert client.reader.stdout.endswith(b"\r\n\r\nx")
        assert not client.reader.ended
    assert "ValueError: late" in traceback_of(desk)


@pytest.mark.parametrize("chunks", [[b"hello", b" world"], [b"hello world"], [b"he", b"llo", b"more"]])
@pytest.mark.parametrize("shape", [list, iter])
def test_a_body_beyond_its_length_is_cut(desk: Desk, chunks: list[bytes], shape: Any) -> None:
    """The client gets what was declared, the log what was not."""
    answer = desk.ask(answering(shape(chunks), "200 OK", ("Content-Length", "5")), get(REQUEST_URI="/x"))
    assert answer.body == b"hello"
    (event,) = desk.log.named("response_length")
    assert "more than 5 bytes" in event["reason"]
    assert event["uri"] == "/x"


@pytest.mark.parametrize("result", [[b"hell"], [b"he", b"ll"], []])
@pytest.mark.parametrize("shape", [list, iter])
def test_a_body_below_its_length_is_broken_off(desk: Desk, result: list[bytes], shape: Any) -> None:
    """A response that lacks bytes never looks complete."""
    with pytest.raises(ProtocolError):
        desk.ask(answering(shape(result), "200 OK", ("Content-Length", "5")), get())
    (event,) = desk.log.named("response_length")
    assert f"after {len(b''.join(result))} of 5 bytes" in event["reason"]


def test_the_declared_end_is_sent_before_the_application_ends(desk: Desk) -> None:
    """With the last declared byte goes the end of the response; the code after the last yield still runs."""
    ended: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN, ("Content-Length", "2")])
        yield b"a"
        yield b"b"
        client.until(lambda reader: reader.ended)
        ended.append(True)

    exchange = desk.exchange(application)
    with desk.client(exchange) as client:
        client.send(get())
        client.wait_for_end()
    assert ended == [True]


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        ("HEAD", "200 OK", (), "5"),
        ("HEAD", "200 OK", (("Content-Length", "77"),), "77"),
        ("GET", "304 Not Modified", (), None),
        ("GET", "304 Not Modified", (("Content-Length", "77"),), "77"),
        ("GET", "204 No Content", (), None),
        ("GET", "204 No Content", (("Content-Length", "5"),), None),
    ],
)
def test_responses_without_a_body(
    desk: Desk, method: str, status: str, fields: tuple[tuple[str, str], ...], length: str | None
) -> None:
    """HEAD, 204 and 304 never send a body, and keep only a length that may stand there."""
    for shape in (list, iter):
        answer = desk.ask(answering(shape([b"hello"]), status, *fields), get(REQUEST_METHOD=method))
        assert (answer.status, answer.body, answer.ended) == (status, b"", True)
        if shape is list or length != "5":
            assert answer.field("Content-Length") == length
    assert desk.log.loud == []


def test_head_of_nothing_claims_nothing(desk: Desk) -> None:
    """An application that leaves the body out for HEAD does not mean a length of 0."""
    assert desk.ask(answering([]), get(REQUEST_METHOD="HEAD")).field("Content-Length") is None


def test_head_stops_an_endless_body(desk: Desk) -> None:
    """Iteration ends when the head has gone, and close() is called."""
    closed: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    answer = desk.ask(application, get(REQUEST_METHOD="HEAD"))
    assert (answer.body, answer.ended, closed) == (b"", True, [True])


class Closing:
    """An iterable that counts its close()."""

    def __init__(self, *chunks: Any, error: BaseException | None = None) -> None:
        self.chunks = iter(chunks)
        self.error = error
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    "chunks", [(), (b"a",), (b"a", b"b"), ("str",), (ValueError(),), (b"a", ValueError()), (b"a", KeyboardInterrupt())]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_exactly_once(desk: Desk, chunks: tuple[Any, ...], method: str) -> None:
    """Whatever happens before."""
    result = Closing(*chunks)
    try:
        desk.ask(answering(result), get(REQUEST_METHOD=method))
    except ProtocolError:
        pass
    assert result.closed == 1


def test_close_is_called_when_the_headers_are_bad(desk: Desk) -> None:
    """Also for a result that is never iterated."""
    result = Closing(b"x")
    answer = desk.ask(lambda environ, start_response: result, get())
    assert (answer.status[:3], result.closed) == ("500", 1)


def test_a_close_that_raises_after_the_response(desk: Desk) -> None:
    """Logged; the response is whole."""
    answer = desk.ask(answering(Closing(b"a", error=ValueError("in close"))), get())
    assert (answer.body, answer.ended) == (b"a", True)
    assert "in close" in traceback_of(desk)


def test_a_close_that_raises_after_another_error(desk: Desk) -> None:
    """Both are in the one traceback; the answer is 500."""
    answer = desk.ask(answering(Closing(KeyError("first"), error=ValueError("in close"))), get())
    assert answer.status[:3] == "500"
    assert "first" in traceback_of(desk)
    assert "in close" in traceback_of(desk)


def test_large_lists_arrive_whole(desk: Desk) -> None:
    """Many and large pieces, over many records."""
    chunks = [os.urandom(size) for size in (1, 70_000, 3, 200_000)] + [b"x"] * 3_000
    answer = desk.ask(answering(chunks), get())
    assert answer.body == b"".join(chunks)
    assert answer.field("Content-Length") == str(len(answer.body))


def records_of(answer: Answer) -> list[int]:
    """The sizes of the STDOUT records in an answer."""
    raw, sizes = answer.raw, []
    while raw:
        size = int.from_bytes(raw[4:6], "big")
        if raw[1] == 6:
            sizes.append(size)
        raw = raw[8 + size + raw[6] :]
    return sizes


def test_large_bodies_leave_in_full_records(desk: Desk) -> None:
    """No record but the last two (the rest, the end) is less than full."""
    answer = desk.ask(answering([bytes(1_000_000)]), get())
    assert set(records_of(answer)[:-2]) == {65_528}


# -- wsgi.file_wrapper


def sending(opened: Callable[[], Any], *fields: tuple[str, str], block: int | None = None) -> App:
    """An application that returns a file."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [*PLAIN, *fields])
        wrapper = environ["wsgi.file_wrapper"]
        return wrapper(opened()) if block is None else wrapper(opened(), block)

    return application


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_bytes(os.urandom(300_000))
    return found


def at(file: Any, offset: int) -> Any:
    file.seek(offset)
    return file


def test_a_file_is_sent_whole_and_closed(desk: Desk, path: Path) -> None:
    """With its length, by sendfile: records are full although no block was ever read."""
    opened: list[Any] = []

    def open_file() -> Any:
        opened.append(path.open("rb"))
        return opened[0]

    answer = desk.ask(sending(open_file, block=10), get())
    assert answer.body == path.read_bytes()
    assert answer.field("Content-Length") == "300000"
    assert opened[0].closed
    assert max(records_of(answer)) == 65_528


@pytest.mark.parametrize("offset", [1, 100_000, 299_999])
def test_a_file_is_sent_from_where_it_stands(desk: Desk, path: Path, offset: int) -> None:
    """The position that the application sees, not that of the descriptor, which buffering has moved."""
    answer = desk.ask(sending(lambda: at(path.open("rb"), offset)), get())
    assert answer.body == path.read_bytes()[offset:]
    half_read = sending(lambda: [file := path.open("rb"), file.read(offset)][0])
    assert desk.ask(half_read, get()).body == path.read_bytes()[offset:]


def test_a_part_of_a_file(desk: Desk, path: Path) -> None:
    """Content-Length bounds what is sent; that is how ranges are done, and no fault."""
    answer = desk.ask(sending(lambda: at(path.open("rb"), 10), ("Content-Length", "70000")), get())
    assert answer.body == path.read_bytes()[10:70_010]
    assert desk.log.loud == []


def test_a_file_shorter_than_its_length(desk: Desk, path: Path) -> None:
    """Broken off, visibly."""
    with pytest.raises(ProtocolError):
        desk.ask(sending(lambda: path.open("rb"), ("Content-Length", "300001")), get())
    assert desk.log.named("response_length")


def copied(file: Any, path: Path) -> Any:
    file.write(path.read_bytes())
    file.seek(0)
    return file


def decompressed(path: Path) -> Any:
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    return gzip.open(packed)


FILES: dict[str, Callable[[Path], Any]] = {
    "unbuffered": lambda path: path.open("rb", buffering=0),
    "read and write": lambda path: path.open("r+b"),
    "in memory": lambda path: io.BytesIO(path.read_bytes()),
    "temporary": lambda path: copied(tempfile.NamedTemporaryFile(), path),  # noqa: SIM115 - the server closes it
    "spooled": lambda path: copied(tempfile.SpooledTemporaryFile(), path),  # noqa: SIM115 - the server closes it
    "compressed": decompressed,
}


@pytest.mark.parametrize("kind", FILES)
def test_whatever_reads_like_a_file_is_sent_as_it_reads(desk: Desk, path: Path, kind: str) -> None:
    """A descriptor alone does not make an object a file: what counts is what read() gives."""
    assert desk.ask(sending(lambda: FILES[kind](path)), get()).body == path.read_bytes()


def test_a_file_of_text_is_an_error(desk: Desk, path: Path) -> None:
    """Not mojibake: 500."""
    path.write_text("text")
    assert desk.ask(sending(path.open), get()).status[:3] == "500"
    assert "result is str" in traceback_of(desk)


@pytest.mark.parametrize("name", ["/dev/null", "/proc/self/stat", "/proc/version"])
def test_files_without_a_size(desk: Desk, name: str) -> None:
    """Devices and /proc are read, because their size says nothing."""
    answer = desk.ask(sending(lambda: Path(name).open("rb")), get())  # noqa: SIM115 - the server closes it
    assert answer.ended
    assert bool(answer.body) == (name != "/dev/null")


def test_a_closed_file(desk: Desk, path: Path) -> None:
    """The application's error: 500."""
    file = path.open("rb")
    file.close()
    assert desk.ask(sending(lambda: file), get()).status[:3] == "500"


def test_head_of_a_file(desk: Desk, path: Path) -> None:
    """No body."""
    assert desk.ask(sending(lambda: path.open("rb")), get(REQUEST_METHOD="HEAD")).body == b""


def test_a_file_without_headers(desk: Desk, path: Path) -> None:
    """start_response is needed for files too."""
    answer = desk.ask(lambda environ, start_response: environ["wsgi.file_wrapper"](path.open("rb")), get())
    assert answer.status[:3] == "500"


def test_a_file_that_shrinks_while_it_is_sent(desk: Desk, path: Path) -> None:
    """The record that was begun is filled, and the response broken off."""
    path.write_bytes(bytes(8_000_000))
    exchange = desk.exchange(sending(lambda: path.open("rb")))
    with desk.client(exchange) as client:
        client.send(get())
        client.receive(1_000)
        os.truncate(path, 100_000)
        with pytest.raises(ProtocolError):
            client.answer()
    assert "of 8000000 bytes" in desk.log.named("response_length")[0]["reason"]


def test_a_file_in_a_process_with_the_default_sigpipe(desk: Desk, path: Path) -> None:
    """sendfile(2) would kill such a process when the client leaves, so the file is read instead."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        assert desk.ask(sending(lambda: path.open("rb")), get()).body == path.read_bytes()
        exchange = desk.exchange(sending(lambda: path.open("rb")))
        with desk.client(exchange) as client:
            client.send(get())
            client.receive(1_000)
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_a_file_for_a_client_that_leaves(desk: Desk, path: Path) -> None:
    """No application error, and the file is closed."""
    path.write_bytes(bytes(8_000_000))
    file = path.open("rb")
    exchange = desk.exchange(sending(lambda: file))
    with desk.client(exchange) as client:
        client.send(get())
        client.receive(1_000)
    assert desk.log.loud == []
    assert file.closed


# -- wsgi.errors


def test_errors_leave_with_the_response(desk: Desk) -> None:
    """In STDERR records before the next output."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("careful\n")
        return hello(environ, start_response)

    answer = desk.get(application)
    assert (answer.stderr, answer.body) == (b"careful\n", b"hello")
    assert desk.log.named("wsgi_errors")[0]["message"] == "careful"


def test_errors_after_the_response_are_logged_only(desk: Desk) -> None:
    """The proxy has its answer; nothing of it turns up in the next one."""

    class Late(Closing):
        def close(self) -> None:
            environs[-1]["wsgi.errors"].write("late")

    environs: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environs.append(environ)
        start_response("200 OK", list(PLAIN))
        return Late(b"x")

    exchange = desk.exchange(application)
    for _ in range(2):
        with desk.client(exchange) as client:
            client.send(get())
            assert client.answer().stderr == b""
    assert [event["message"] for event in desk.log.named("wsgi_errors")] == ["late", "late"]


def test_input_under_the_validator(desk: Desk) -> None:
    """Every way to read that the reference allows."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        seen = [stream.read(2), stream.readline(), *stream.readlines(1), *stream]
        start_response("200 OK", list(PLAIN))
        return [repr(seen).encode()]

    from wsgiref.validate import validator

    assert (
        desk.ask(validator(application), post(b"abc\nd\ne\nf")).body
        == repr([b"ab", b"c\n", b"d\n", b"e\n", b"f"]).encode()
    )

from __future__ import annotations

import io
import warnings
from typing import Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol.request import finish, merge_duplicate


def finished(**parameters: str) -> dict[str, Any]:
    return finish({"REQUEST_METHOD": "GET", **parameters}).environ


@pytest.mark.parametrize(
    ("given_parameters", "script", "path"),
    [
        ({"SCRIPT_NAME": "/a/b"}, "", "/a/b"),  # nginx's stock fastcgi_params
        ({"SCRIPT_NAME": ""}, "", "/"),
        ({"DOCUMENT_URI": "/a"}, "", "/a"),
        ({"SCRIPT_NAME": "", "DOCUMENT_URI": "/a"}, "", "/a"),
        ({}, "", "/"),
        ({"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}, "/app", "/x"),
        ({"SCRIPT_NAME": "/app", "PATH_INFO": ""}, "/app", ""),
        ({"SCRIPT_NAME": "", "PATH_INFO": ""}, "", "/"),
        ({"SCRIPT_NAME": "/", "PATH_INFO": "/x"}, "", "/x"),
        ({"SCRIPT_NAME": "/", "PATH_INFO": ""}, "", "/"),
        ({"SCRIPT_NAME": "app", "PATH_INFO": "x"}, "/app", "/x"),
        ({"PATH_INFO": "*"}, "", "/*"),
        ({"PATH_INFO": "/a\r\nb\xff"}, "", "/a\r\nb\xff"),
        ({"SCRIPT_NAME": "/real", "REQUEST_URI": "/un/../normalised"}, "", "/real"),
    ],
)
def test_paths(given_parameters: dict[str, str], script: str, path: str) -> None:
    """SCRIPT_NAME and PATH_INFO are derived as the table says; REQUEST_URI never decides."""
    environ = finished(**given_parameters)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script, path)


def test_defaults() -> None:
    """What the proxy left out or sent empty gets the value that PEP 3333 demands; a length is not invented."""
    environ = finished(SERVER_NAME="", SERVER_PORT="")
    assert environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.0",
    }


def test_what_the_proxy_said_stays() -> None:
    """Nothing is replaced that was there."""
    parameters = {
        "QUERY_STRING": "a=b",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/2.0",
        "CONTENT_LENGTH": "",
    }
    environ = finished(**parameters)
    assert {name: environ[name] for name in parameters} == parameters


@pytest.mark.parametrize(
    ("parameters", "scheme", "port"),
    [
        ({}, "http", "80"),
        ({"HTTPS": "on"}, "https", "443"),
        ({"HTTPS": "ON"}, "https", "443"),
        ({"HTTPS": "1"}, "https", "443"),
        ({"HTTPS": "off"}, "http", "80"),
        ({"HTTPS": ""}, "http", "80"),
        ({"REQUEST_SCHEME": "https"}, "https", "443"),
        ({"REQUEST_SCHEME": "http"}, "http", "80"),
    ],
)
def test_scheme(parameters: dict[str, str], scheme: str, port: str) -> None:
    """The scheme, and the port that goes with it, come from HTTPS or REQUEST_SCHEME."""
    request = finish({"REQUEST_METHOD": "GET", **parameters})
    assert (request.scheme, request.environ["SERVER_PORT"]) == (scheme, port)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"])
def test_dangerous_names_are_dropped(name: str) -> None:
    """A client's header never becomes HTTP_PROXY, nor a second length or type."""
    assert name not in finished(**{name: "x"})


@pytest.mark.parametrize("method", ["", "GE T", "GET\n", "G\xcbT", "GET,"])
def test_a_method_is_a_token(method: str) -> None:
    """Anything else is 400."""
    with pytest.raises(ProtocolError, match="REQUEST_METHOD") as caught:
        finish({"REQUEST_METHOD": method})
    assert caught.value.status == 400


def test_a_method_must_be_there() -> None:
    """No method: 400."""
    with pytest.raises(ProtocolError, match="REQUEST_METHOD"):
        finish({})


def test_an_unknown_method_is_passed_on() -> None:
    """PROPFIND is the application's business."""
    assert finish({"REQUEST_METHOD": "PROPFIND"}).method == "PROPFIND"


@pytest.mark.parametrize(("text", "length"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1), ("", -1)])
def test_lengths(text: str, length: int) -> None:
    """A length is a plain decimal number; an empty one is none."""
    assert finish({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": text}).content_length == length


@pytest.mark.parametrize("text", ["+1", "-1", " 1", "1 ", "1_0", "0x1", "²", "1,1", "9" * 19, "1\n"])
def test_bad_lengths(text: str) -> None:
    """What int() would take and RFC 9110 does not is 400."""
    with pytest.raises(ProtocolError, match="CONTENT_LENGTH"):
        finish({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": text})


@pytest.mark.parametrize(
    ("parameters", "uri"),
    [
        ({"REQUEST_URI": "/%41?x", "SCRIPT_NAME": "/A"}, "/%41?x"),
        ({"SCRIPT_NAME": "/a", "PATH_INFO": "/b", "QUERY_STRING": "c"}, "/a/b?c"),
        ({"SCRIPT_NAME": "/a"}, "/a"),
    ],
)
def test_uri(parameters: dict[str, str], uri: str) -> None:
    """The URI for logs is the client's own, or put together from what there is."""
    assert finish({"REQUEST_METHOD": "GET", **parameters}).uri == uri


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_COOKIE", "a; b"), ("HTTP_X_FORWARDED_FOR", "a, b"), ("REMOTE_USER", "b"), ("QUERY_STRING", "b")],
)
def test_duplicates_are_merged(name: str, value: str) -> None:
    """Cookies by semicolon, other headers by comma, everything else: the last."""
    assert merge_duplicate(name, "a", "b") == value


@pytest.mark.parametrize("name", ["CONTENT_LENGTH", "REQUEST_METHOD", "SCRIPT_NAME"])
def test_ambiguous_duplicates_are_refused(name: str) -> None:
    """Twice the same is harmless; twice with different values is 400."""
    assert merge_duplicate(name, "1", "1") == "1"
    with pytest.raises(ProtocolError, match=name):
        merge_duplicate(name, "1", "2")


_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\0"), max_size=12)
_NAMES = st.sampled_from(
    [
        "SCRIPT_NAME",
        "PATH_INFO",
        "DOCUMENT_URI",
        "REQUEST_URI",
        "QUERY_STRING",
        "CONTENT_TYPE",
        "CONTENT_LENGTH",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "HTTPS",
        "REQUEST_SCHEME",
        "HTTP_HOST",
        "HTTP_PROXY",
        "HTTP_CONTENT_LENGTH",
        "HTTP_CONTENT_TYPE",
        "REMOTE_USER",
    ]
)
_VALUES = _TEXT | st.sampled_from(["/", "//", "", "a", "/a", "on", "https", "12"])


@given(st.dictionaries(_NAMES | _TEXT, _VALUES))
def test_wsgiref_accepts_every_environ(parameters: dict[str, str]) -> None:
    """Whatever a proxy sends is refused with ProtocolError, or makes an environ that the reference accepts."""
    try:
        request = finish({**parameters, "REQUEST_METHOD": "GET"})
    except ProtocolError:
        return
    environ = {
        **request.environ,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = validator(application)(environ, lambda *_: lambda _: None)
    list(result)
    result.close()  # type: ignore[attr-defined]

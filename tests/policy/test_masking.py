"""What is masked and what is not: by names, in headers, queries and bodies; in little time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.policy.masking import MASK, mask_body, mask_field, mask_query

SECRET = "hunter2"

NAMES = (
    "password",
    "passwd",
    "new_password",
    "user[password]",
    "pwd",
    "token",
    "access_token",
    "csrfmiddlewaretoken",
    "client_secret",
    "api_key",
    "api-key",
    "apiKey",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "session_id",
    "jsessionid",
    "sig",
    "key",
    "otp",
)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HTTP_COOKIE", "a=1; b=2; c", "a=***; b=***; ***"),
        ("Cookie", "a=b=c", "a=***"),
        ("Set-Cookie", "session=abc; Path=/; HttpOnly", "session=***; Path=/; HttpOnly"),
        ("HTTP_AUTHORIZATION", "Bearer abc", "Bearer ***"),
        ("Authorization", "Basic dXNlcjpwYXNz", "Basic ***"),
        ("HTTP_AUTHORIZATION", "abc", "***"),
        ("HTTP_AUTHORIZATION", "my own secret", "***"),
        ("HTTP_PROXY_AUTHORIZATION", "Basic abc", "Basic ***"),
        ("HTTP_X_API_KEY", "abc", "***"),
        ("HTTP_X_AUTH_TOKEN", "abc", "***"),
        ("HTTP_X_CSRFTOKEN", "abc", "***"),
        ("PHP_AUTH_PW", "abc", "***"),
        ("DB_PASSWORD", "", ""),
        ("QUERY_STRING", "page=2&token=abc", "page=2&token=***"),
        ("HTTP_REFERER", "https://a/?password=abc#x", "https://a/?password=***#x"),
        ("Location", "/next?code=1&access_token=abc", "/next?code=1&access_token=***"),
        ("HTTP_HOST", "shop.example", "shop.example"),
        ("HTTP_ACCEPT", "text/html;q=0.9,*/*;q=0.8", "text/html;q=0.9,*/*;q=0.8"),
        ("SCRIPT_FILENAME", "/srv/secrets/index.py", "/srv/secrets/index.py"),
        ("HTTP_KEEP_ALIVE", "timeout=5", "timeout=5"),
    ],
)
def test_fields(name: str, value: str, shown: str) -> None:
    """Headers and parameters, by either spelling of their names."""
    assert mask_field(name, value) == shown


@pytest.mark.parametrize("name", NAMES)
def test_every_place(name: str) -> None:
    """The same names in a query, a form, JSON and multipart form data; what stands around them is left."""
    assert mask_query(f"/x?a=1&{name}={SECRET}&b=2") == f"/x?a=1&{name}={MASK}&b=2"
    assert mask_body(f"{name}={SECRET}&b=2") == f"{name}={MASK}&b=2"
    assert mask_body(f'{{"a": "b", "{name}" : "{SECRET}", "c": 1}}') == f'{{"a": "b", "{name}" : "{MASK}", "c": 1}}'
    part = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    other = '\r\n--b\r\nContent-Disposition: form-data; name="q"\r\n\r\nseen\r\n--b--\r\n'
    assert mask_body(part + SECRET + other) == part + MASK + other


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pass%77ord=abc", "pass%77ord=***"),
        ("PASSWORD=abc", "PASSWORD=***"),
        ("/a;jsessionid=abc?b=1", "/a;jsessionid=***"),
        ("https://user:abc@host/", "https://user:***@host/"),
        ("token=", "token="),
        ("password", "password"),
        ("a=b=c", "a=b=c"),
    ],
)
def test_queries(text: str, shown: str) -> None:
    """Encoded names, matrix parameters, passwords before a host; nothing that is none."""
    assert mask_query(text) == shown


@pytest.mark.parametrize(
    "body",
    [
        f'{{"password": "{SECRET}',  # cut off
        f'{{"password": "quoted \\" {SECRET}", "a": 1}}',
        '{"pin_token": 123456789}',
        f"<input name='a' password=\"{SECRET}\">",
        f'--b\r\nContent-Disposition: form-data; name="password"\r\nContent-Type: a/b\r\n\r\n{SECRET}\n{SECRET}',
    ],
)
def test_bodies(body: str) -> None:
    """Also where the body was cut in the midst of the secret."""
    shown = mask_body(body)
    assert MASK in shown
    assert SECRET not in shown
    assert "123456789" not in shown


@given(
    st.sampled_from(NAMES),
    st.text(st.characters(min_codepoint=48, max_codepoint=122, categories=["L", "N"]), min_size=8),
    st.lists(st.tuples(st.sampled_from("abcxyz"), st.text("0123456789%+ä", max_size=5))),
)
def test_no_query_shows_its_secret(name: str, secret: str, others: list[tuple[str, str]]) -> None:
    """Wherever in the query it stands."""
    pairs = [*others, (name, secret)]
    for turn in range(len(pairs)):
        query = "&".join(f"{key}={value}" for key, value in pairs[turn:] + pairs[:turn])
        assert f"={secret}" not in mask_query(query)


@given(st.text())
def test_nothing_raises(text: str) -> None:
    """Whatever it is given."""
    for masked in (mask_query(text), mask_body(text), mask_field(text, text)):
        assert isinstance(masked, str)


@pytest.mark.parametrize(
    "piece",
    ["a", "=a", '"', '"a":', 'name="a"', 'name="token"', "\r\na", '"\\', "://a", 'name="token"\r\n', "a=", "&", "%61="],
)
def test_long_texts_take_no_longer(piece: str) -> None:
    """No text makes a worker think: what is fifty times as long as what is ever masked at once takes a moment only."""
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    mask_body(text)
    mask_body(f'{text}"token":"{text}')
    assert time.process_time() - began < 2.0
